"""What partners have used up of what a project allows them, by the wall clock. Rows are added and never changed."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, func, insert, select

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.tables import ledger


class LedgerKind(StrEnum):
    """What is counted."""

    EPSILON = "epsilon_millis"  # of the noise of counts, in thousandths
    EVALUATIONS = "evaluations"  # distinct points that we evaluated, by namespace
    ALLOWED = "allowed"  # from then on the evaluations before count no more
    WRONG_TAGS = "tags"  # of a count: no more counts in this window


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that an organisation used up; the organisation is its key, so that no reconnection refills it."""

    peer_key: bytes
    kind: LedgerKind
    amount: int
    note: str = ""
    id: str | None = None


def add(scope: Scope, tx: Tx, entry: Entry) -> None:
    """Count something as used up now."""
    tx.execute(
        insert(ledger).values(
            id=entry.id or scope.home.new_id(),
            project_id=scope.id,
            peer_key=entry.peer_key,
            kind=entry.kind.value,
            amount=entry.amount,
            note=entry.note,
            at=scope.home.now(),
        )
    )


def total(tx: Tx, project_id: str, peer_key: bytes, kind: LedgerKind, *, since: int, note: str = "") -> int:
    """Return how much of a kind an organisation used up at a time or later."""
    query = select(func.sum(ledger.c.amount)).where(*_of(project_id, peer_key, kind), ledger.c.at >= since)
    return int(tx.scalar(query.where(ledger.c.note == note) if note else query) or 0)


def newest(tx: Tx, project_id: str, peer_key: bytes, kind: LedgerKind) -> int:
    """Return when the newest row of a kind was added, or 0."""
    return int(tx.scalar(select(func.max(ledger.c.at)).where(*_of(project_id, peer_key, kind))) or 0)


def known(tx: Tx, ids: Collection[str]) -> list[str]:
    """Return those of these ids that rows have."""
    return list(tx.scalars(select(ledger.c.id).where(ledger.c.id.in_(ids)))) if ids else []


def _of(project_id: str, peer_key: bytes, kind: LedgerKind) -> tuple[ColumnElement[bool], ...]:
    return ledger.c.project_id == project_id, ledger.c.peer_key == peer_key, ledger.c.kind == kind.value
