"""What partners have used up of what a project allows them, by the wall clock.

Rows are added, follow an organisation to its new key, and many small ones of a key epoch become one.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import ColumnElement, delete, func, insert, select, update

from ..access.scope import Scope
from ..partners.connections import Connection, present_key
from ..storage.database import Tx
from ..storage.tables import ledger


class LedgerKind(StrEnum):
    """What is counted."""

    EPSILON = "epsilon_millis"  # of the noise of counts, in thousandths
    EVALUATIONS = "evaluations"  # distinct points that we evaluated, by namespace
    ALLOWED = "allowed"  # from then on the evaluations before count no more
    WRONG_TAGS = "tags"  # of a count: no more counts in this window
    SAMPLE = "sample"  # of our people, by namespace: whom we ask this organisation about until the window is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that an organisation used up."""

    kind: LedgerKind
    amount: int
    note: str = ""
    id: str | None = None


def add(scope: Scope, tx: Tx, connection: Connection, entry: Entry) -> None:
    """Count something as used up now, by the organisation, so that no reconnection refills it."""
    tx.execute(
        insert(ledger).values(
            id=entry.id or scope.home.new_id(),
            project_id=scope.id,
            peer_key=present_key(connection),
            kind=entry.kind.value,
            amount=entry.amount,
            note=entry.note,
            at=scope.home.now(),
        )
    )


def unite(scope: Scope, tx: Tx, connection: Connection, ids: Collection[str], entry: Entry) -> None:
    """Put one row in the place of several of one kind and note; it counts as long as the newest of them.

    What a person let count no more stays so. The amount of `entry` is not used.
    """
    mine = ledger.c.id.in_(ids)
    latest = tx.scalar(select(func.max(ledger.c.at)).where(mine))
    since = newest(tx, connection, LedgerKind.ALLOWED)
    amount = tx.scalar(select(func.sum(ledger.c.amount)).where(mine, ledger.c.at >= since)) or 0
    tx.execute(delete(ledger).where(mine))
    add(scope, tx, connection, replace(entry, amount=int(amount)))
    tx.execute(update(ledger).where(ledger.c.id == entry.id).values(at=latest))


def count_under(tx: Tx, old: bytes, new: bytes) -> None:
    """Count what an organisation used up under its old key as used up under its new one."""
    tx.execute(update(ledger).where(ledger.c.peer_key == old).values(peer_key=new))


def total(tx: Tx, connection: Connection, kind: LedgerKind, *, since: int, note: str = "") -> int:
    """Return how much of a kind an organisation used up at a time or later; rows without a note are of every one."""
    query = select(func.sum(ledger.c.amount)).where(*_of(connection, kind), ledger.c.at >= since)
    return int(tx.scalar(query.where(ledger.c.note.in_((note, ""))) if note else query) or 0)


def last(tx: Tx, connection: Connection, kind: LedgerKind, *, since: int, note: str) -> str | None:
    """Return the id of the newest row of a kind and note that was added after a time; None if there is none."""
    query = select(ledger.c.id).where(*_of(connection, kind), ledger.c.at > since, ledger.c.note == note)
    found: str | None = tx.scalar(query.order_by(ledger.c.at.desc(), ledger.c.id))
    return found


def newest(tx: Tx, connection: Connection, kind: LedgerKind) -> int:
    """Return when the newest row of a kind was added, or 0."""
    return int(tx.scalar(select(func.max(ledger.c.at)).where(*_of(connection, kind))) or 0)


def known(tx: Tx, ids: Collection[str]) -> list[str]:
    """Return those of these ids that rows have."""
    return list(tx.scalars(select(ledger.c.id).where(ledger.c.id.in_(ids)))) if ids else []


def _of(connection: Connection, kind: LedgerKind) -> tuple[ColumnElement[bool], ...]:
    mine = ledger.c.project_id == connection.project_id, ledger.c.peer_key == present_key(connection)
    return *mine, ledger.c.kind == kind.value
