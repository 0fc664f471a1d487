"""tests/features.md says which tests prove which feature: it is generated, and up to date."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_of_features_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tests/scripts/features.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
