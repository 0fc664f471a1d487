"""A node that answers programs."""

from collections.abc import Iterator

import pytest
from programs import Programs, programs_of

from node.node import Node


@pytest.fixture
def programs(node: Node) -> Iterator[Programs]:
    with programs_of(node) as programs:
        yield programs
