"""The ledger: sums of one organisation, kind and namespace, by the wall clock."""

import pytest
from clock import Clock
from sqlalchemy import insert, update

from node.access.scope import Scope
from node.feeds import ledger
from node.feeds.ledger import Entry, LedgerKind
from node.node import Node
from node.partners.connections import Connection, by_id
from node.storage.tables import connections


@pytest.fixture
def scope(either_node: Node) -> Scope:
    return either_node.project().scope


@pytest.fixture
def partner(scope: Scope) -> Connection:
    return connected(scope, b"p" * 32)


def connected(scope: Scope, key: bytes) -> Connection:
    text = dict.fromkeys(("peer_project_name", "peer_organisation", "peer_address"), "")
    zeros = dict.fromkeys(("letters_sent", "letters_received", "created", "changed"), 0)
    bodies = {"peer_project": bytes(16), "agreement": b"", "agreement_digest": bytes(32), "their_offer": b""}
    mine = {"id": (identifier := scope.home.new_id()), "alias": identifier, "project_id": scope.id, "status": "active"}
    with scope.home.database.begin() as tx:
        tx.execute(insert(connections).values(peer_key=key, proxy=False, **mine, **text, **zeros, **bodies))
    return by_id(scope, identifier)


def add(scope: Scope, connection: Connection, entry: Entry) -> None:
    with scope.home.database.begin() as tx:
        ledger.add(scope, tx, connection, entry)


def total(scope: Scope, connection: Connection, kind: LedgerKind, since: int, note: str = "") -> int:
    with scope.home.database.read() as tx:
        return ledger.total(tx, connection, kind, since=since, note=note)


def test_a_total_is_of_one_organisation_kind_and_namespace(scope: Scope, partner: Connection, clock: Clock) -> None:
    since, other = clock.now, connected(scope, b"o" * 32)
    for connection, kind, amount, note in (
        (partner, LedgerKind.EVALUATIONS, 3, "email"),
        (partner, LedgerKind.EVALUATIONS, 4, "phone"),
        (other, LedgerKind.EVALUATIONS, 50, "email"),
        (partner, LedgerKind.EPSILON, 600, "email"),
    ):
        add(scope, connection, Entry(kind=kind, amount=amount, note=note))
    assert total(scope, partner, LedgerKind.EVALUATIONS, since, "email") == 3
    assert total(scope, partner, LedgerKind.EVALUATIONS, since) == 7
    assert total(scope, partner, LedgerKind.EPSILON, since) == 600
    assert total(scope, partner, LedgerKind.WRONG_TAGS, since) == 0


def test_what_was_charged_before_there_were_notes_is_charged_to_every_one(
    scope: Scope, partner: Connection, clock: Clock
) -> None:
    for amount, note in ((1, "first"), (10, "second"), (100, "")):
        add(scope, partner, Entry(kind=LedgerKind.EPSILON, amount=amount, note=note))
    of_notes = [total(scope, partner, LedgerKind.EPSILON, clock.now, note) for note in ("first", "second", "")]
    assert of_notes == [101, 110, 111]


def test_a_total_begins_with_the_second_that_is_named(scope: Scope, partner: Connection, clock: Clock) -> None:
    add(scope, partner, Entry(kind=LedgerKind.EPSILON, amount=1))
    clock.advance(seconds=1)
    add(scope, partner, Entry(kind=LedgerKind.EPSILON, amount=10))
    assert [total(scope, partner, LedgerKind.EPSILON, clock.now + late) for late in (-1, 0, 1)] == [11, 10, 0]


def test_a_row_in_memory_counts_under_the_key_of_now(scope: Scope, partner: Connection, clock: Clock) -> None:
    """A partner replaces its key while we work for it: what it used up before and after is one sum, over any connection."""
    again = connected(scope, partner.peer_key)
    add(scope, partner, Entry(kind=LedgerKind.EVALUATIONS, amount=3))
    with scope.home.database.begin() as tx:
        tx.execute(update(connections).values(peer_key=b"n" * 32))
        ledger.count_under(tx, partner.peer_key, b"n" * 32)
    add(scope, partner, Entry(kind=LedgerKind.EVALUATIONS, amount=4))
    for connection in (partner, again, by_id(scope, partner.id)):
        assert total(scope, connection, LedgerKind.EVALUATIONS, clock.now) == 7


def test_the_newest_row_and_the_ids_are_found(scope: Scope, partner: Connection, clock: Clock) -> None:
    with scope.home.database.read() as tx:
        assert ledger.newest(tx, partner, LedgerKind.ALLOWED) == 0
    add(scope, partner, Entry(kind=LedgerKind.ALLOWED, amount=0, id="a" * 32))
    first = clock.now
    clock.advance(days=1)
    add(scope, connected(scope, b"o" * 32), Entry(kind=LedgerKind.ALLOWED, amount=0))
    with scope.home.database.read() as tx:
        assert ledger.newest(tx, partner, LedgerKind.ALLOWED) == first
        assert ledger.known(tx, ["a" * 32, "b" * 32]) == ["a" * 32]
        assert ledger.known(tx, []) == []
