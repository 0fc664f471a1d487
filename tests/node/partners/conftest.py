"""Two nodes and a third one, with small terms; and one node whose partner is nothing but a row."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from partnering import TERMS, people
from sides import Pair, Person, Side

from node.node import Node
from node.partners import connecting
from node.partners.connections import Connection, ConnectionStatus, change, named
from protocol.agreement import Agreement


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
    scope = node.project().scope
    ours = connecting.offer(scope, bytes(32))
    theirs = replace(ours, organisation="Globe", key=b"g" * 32, project=b"p" * 16, address="")
    agreement = Agreement.merge(theirs, ours, connection=b"c" * 16, made=node.home.now())
    with node.home.database.begin() as tx:
        connecting.store(scope, tx, theirs, agreement, bytes(64))
    return named(scope, "globe")


@pytest.fixture
def active(node: Node, requested: Connection) -> Connection:
    """The same connection, accepted."""
    with node.home.database.begin() as tx:
        change(node.home, tx, requested, status=ConnectionStatus.ACTIVE, our_signature=bytes(64))
    return named(node.project().scope, "globe")
