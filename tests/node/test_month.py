"""The month of tests/scripts/month.py. VESICA_MONTHS says from which seeds (1; `make assure` takes five)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from months import Month
from story import STORY

SEEDS = [int(each) for each in os.environ.get("VESICA_MONTHS", "1").split()]


@pytest.mark.two_nodes
@pytest.mark.feature("EX1", "EX2", "EX3", "EX4", "EX8", "EX10", "EX12", "FD4", "RC3", "RC5", "CO3", "CO4", "CO5", "CN6")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_month_between_three_organisations(tmp_path: Path, seed: int) -> None:
    """After each of its days both sides' memberships are those of a plain join."""
    Month(tmp_path, seed=seed).play(STORY)


def test_the_script_starts_by_itself() -> None:
    script = Path(__file__).parents[1] / "scripts" / "month.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--people" in done.stdout
