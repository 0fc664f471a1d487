"""Two nodes and a third one, with small terms; and one node whose partner is nothing but a row."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from partnering import TERMS, accepted, people, requested_by
from sides import Pair, Person, Side

from node.node import Node
from node.partners.connections import Connection


@pytest.fixture
def ready(pair: Pair, person: type[Person]) -> Pair:
    """Two nodes with people and small terms, not connected."""
    pair.terms(**TERMS)
    for side, first in ((pair.acme, 0), (pair.globe, 4)):
        side.project.consent.set_model("opt-out")
        side.people(people(person, side.name[0], first, first + 6))
    return pair


@pytest.fixture
def third(tmp_path: Path, pair: Pair) -> Iterator[Side]:
    """A third node, "hooli", with the terms of the others."""
    side = Side(tmp_path, "hooli", now=pair.clock)
    side.project.set_terms(**TERMS)
    with side.serving():
        yield side


@pytest.fixture
def requested(node: Node) -> Connection:
    """A connection that "globe" has asked for, with nobody behind it."""
    return requested_by(node, "Globe")


@pytest.fixture
def active(node: Node, requested: Connection) -> Connection:
    """The same connection, accepted."""
    return accepted(node, requested)
