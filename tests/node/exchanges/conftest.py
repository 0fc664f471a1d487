"""Two nodes that run exchanges with roles of the test's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clock import Clock
from exchanging import Pair, two_nodes


@pytest.fixture
def pair(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    with two_nodes(tmp_path, clock, monkeypatch) as made:
        yield made
