"""A service gives memory back that it does not use."""

import os
import subprocess
import sys

import pytest

HELD = """
import re, sys
from pathlib import Path
import numpy as np
from node.compute.heap import keep_little
if sys.argv[1] == "little":
    keep_little()
np.ones(24 << 20, np.uint8)
arrays = [np.ones(6 << 20, np.uint8) for _ in range(20)]
last = arrays[-1]
arrays.clear()
print(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library")
def test_arrays_that_were_let_go_are_not_kept() -> None:
    held = {
        kept: int(subprocess.run([sys.executable, "-c", HELD, kept], capture_output=True, check=True).stdout)
        for kept in ("little", "all")
    }
    assert held["all"] - held["little"] > 90_000
