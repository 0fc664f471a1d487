"""What a rule names beside fields."""

import re

import pytest
from pyroaring import BitMap

from node.access.scope import Scope
from node.errors import NotAllowed, NotFound
from node.governance.lineage import REFERENCES, Place, PlaceKind, place_of, written
from node.node import Node
from node.people.snapshots import Snapshot
from node.segments import references
from node.segments.references import KINDS, NAMES, PATTERN, USED_BY
from node.storage.database import Tx


@pytest.mark.parametrize(
    ("use", "place"),
    [
        ("own.vip", Place(kind=PlaceKind.SEGMENT, target="vip")),
        ("own.vip.2026", Place(kind=PlaceKind.SEGMENT, target="vip.2026")),
        ("received.acme.vip", Place(kind=PlaceKind.RECEIVED, target="acme.vip")),
        ("received.acme.vip.2026", Place(kind=PlaceKind.RECEIVED, target="acme.vip.2026")),
    ],
)
def test_a_reference_is_read_and_written(use: str, place: Place) -> None:
    assert place_of(use) == place
    assert written(place) == use
    assert re.fullmatch(PATTERN, use)


@pytest.mark.parametrize("use", ["crm.orders", "orders", "own", "received", "owner.vip", ""])
def test_a_field_is_no_reference(use: str) -> None:
    assert place_of(use) is None
    assert re.fullmatch(PATTERN, use) is None


def test_every_kind_has_its_words_and_its_source() -> None:
    assert set(NAMES) == set(REFERENCES.values()) == set(KINDS)


def test_our_segments_among_what_a_rule_reads() -> None:
    uses = ["crm.orders", "own.a", "received.acme.b", "own.c.d"]
    assert references.own(uses) == ["a", "c.d"]
    assert references.own(map(references.reference, ["a", "c.d"])) == ["a", "c.d"]


class Traits:
    """A kind of reference as another room brings it."""

    def __init__(self, _scope: Scope) -> None: ...

    def members(self, _tx: Tx, _snapshot: Snapshot, name: str) -> BitMap:
        if name != "acme.sports":
            raise self.missing(name)
        return BitMap([1, 2])

    def missing(self, name: str) -> NotFound:
        return NotFound(f"there is no trait {name}")


@pytest.fixture
def scope(node: Node, monkeypatch: pytest.MonkeyPatch) -> Scope:
    monkeypatch.setitem(KINDS, PlaceKind.RECEIVED, Traits)
    return node.project().scope


def test_the_room_of_a_kind_answers_for_it(scope: Scope) -> None:
    uses = ["received.acme.sports", "crm.orders"]
    with scope.home.database.read() as tx:
        snapshot = Snapshot.open(scope, tx)
        assert references.members(scope, tx, snapshot, uses) == {"received.acme.sports": BitMap([1, 2])}
        references.check_visible(scope, tx, uses)
        with pytest.raises(NotFound, match=r"no trait acme\.games"):
            references.members(scope, tx, snapshot, ["received.acme.games"])
        with pytest.raises(NotFound, match="no segment 'nothing'"):
            references.members(scope, tx, snapshot, ["own.nothing"])


def test_a_room_that_needs_a_segment_keeps_it(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_scope: Scope, _tx: Tx, segment: str) -> None:
        raise NotAllowed(f"a journey needs {segment}")

    monkeypatch.setitem(USED_BY, "journeys", refuse)
    with scope.home.database.read() as tx, pytest.raises(NotAllowed, match="a journey needs vip"):
        references.check_unused(scope, tx, "vip")
