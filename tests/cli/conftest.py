"""Two homes with services of their own."""

from pathlib import Path

import homes
import pytest


@pytest.fixture
def sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[homes.Side, homes.Side]:
    """A retailer and a publisher with people in common, see `homes.make`; nothing is served yet."""
    return homes.make(tmp_path, capsys)
