"""The month of tests/scripts/month.py. VESICA_MONTHS says from which seeds (1; `make assure` takes five)."""

import os
from pathlib import Path

import pytest
from month import Month

SEEDS = [int(each) for each in os.environ.get("VESICA_MONTHS", "1").split()]


@pytest.mark.feature("EX1", "EX2", "EX3", "EX4", "EX8", "EX10", "EX12", "FD4", "RC3", "RC5", "CO3", "CO4", "CO5", "CN6")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_month_between_three_organisations(tmp_path: Path, seed: int) -> None:
    """After each of its days both sides' memberships are those of a plain join."""
    Month(tmp_path, seed=seed).tell()
