"""The ledger: sums of one organisation, kind and namespace, by the wall clock."""

import pytest
from clock import Clock

from node.access.scope import Scope
from node.feeds import ledger
from node.feeds.ledger import Entry, LedgerKind
from node.node import Node

PARTNER, OTHER = bytes(32), b"o" * 32


@pytest.fixture
def scope(node: Node) -> Scope:
    return node.project().scope


def add(scope: Scope, entry: Entry) -> None:
    with scope.home.database.begin() as tx:
        ledger.add(scope, tx, entry)


def total(scope: Scope, kind: LedgerKind, since: int, note: str = "") -> int:
    with scope.home.database.read() as tx:
        return ledger.total(tx, scope.id, PARTNER, kind, since=since, note=note)


def test_a_total_is_of_one_organisation_kind_and_namespace(scope: Scope, clock: Clock) -> None:
    since = clock.now
    for key, kind, amount, note in (
        (PARTNER, LedgerKind.EVALUATIONS, 3, "email"),
        (PARTNER, LedgerKind.EVALUATIONS, 4, "phone"),
        (OTHER, LedgerKind.EVALUATIONS, 50, "email"),
        (PARTNER, LedgerKind.EPSILON, 600, "email"),
    ):
        add(scope, Entry(peer_key=key, kind=kind, amount=amount, note=note))
    assert total(scope, LedgerKind.EVALUATIONS, since, "email") == 3
    assert total(scope, LedgerKind.EVALUATIONS, since) == 7
    assert total(scope, LedgerKind.EPSILON, since) == 600
    assert total(scope, LedgerKind.WRONG_TAGS, since) == 0


def test_a_total_begins_with_the_second_that_is_named(scope: Scope, clock: Clock) -> None:
    add(scope, Entry(peer_key=PARTNER, kind=LedgerKind.EPSILON, amount=1))
    clock.advance(seconds=1)
    add(scope, Entry(peer_key=PARTNER, kind=LedgerKind.EPSILON, amount=10))
    assert [total(scope, LedgerKind.EPSILON, clock.now + late) for late in (-1, 0, 1)] == [11, 10, 0]


def test_the_newest_row_and_the_ids_are_found(scope: Scope, clock: Clock) -> None:
    with scope.home.database.read() as tx:
        assert ledger.newest(tx, scope.id, PARTNER, LedgerKind.ALLOWED) == 0
    add(scope, Entry(peer_key=PARTNER, kind=LedgerKind.ALLOWED, amount=0, id="a" * 32))
    first = clock.now
    clock.advance(days=1)
    add(scope, Entry(peer_key=OTHER, kind=LedgerKind.ALLOWED, amount=0))
    with scope.home.database.read() as tx:
        assert ledger.newest(tx, scope.id, PARTNER, LedgerKind.ALLOWED) == first
        assert ledger.known(tx, ["a" * 32, "b" * 32]) == ["a" * 32]
        assert ledger.known(tx, []) == []
