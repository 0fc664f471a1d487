"""The week of tests/scripts/week.py. VESICA_WEEKS says from which seeds (1; `make assure` takes more), VESICA_STEPS how long."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from week_events import EVENTS
from weeks import Week

SEEDS = [int(each) for each in os.environ.get("VESICA_WEEKS", "1").split()]
STEPS = int(os.environ.get("VESICA_STEPS", "5"))


@pytest.mark.two_nodes
@pytest.mark.usefixtures("small_universes")
@pytest.mark.feature("EC3", "EC4", "EC5", "EC6", "EC8", "EC9")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_week_with_five_destinations(tmp_path: Path, seed: int) -> None:
    """After each step each target that works has exactly whom it should have, and the row of every hour is a sum."""
    said: list[str] = []
    Week(tmp_path, seed=seed, say=said.append).play(STEPS, EVENTS)
    assert len(said) == 2 * STEPS


def test_the_script_starts_by_itself() -> None:
    script = Path(__file__).parents[1] / "scripts" / "week.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--seed" in done.stdout
