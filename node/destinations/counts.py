"""What became of changes: counted by the hour in which they were noticed, so that received is always the sum of the rest."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import delete, func, select

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.records import Document, Documents
from ..storage.tables import HOUR, deliveries
from .codes import reason
from .records import Destination


class Measure(StrEnum):
    ACTIVATED = "activated"
    EXCLUDED = "excluded"
    FAILED = "failed"
    WAITING = "waiting"
    REQUESTS = "requests"  # messages, each as often as it was tried: no change, and not among those received


CHANGES = (Measure.ACTIVATED, Measure.EXCLUDED, Measure.FAILED, Measure.WAITING)


@dataclass(frozen=True, slots=True)
class Noticed:
    """To which destination changes of a segment go, and when they were noticed."""

    destination_id: str
    segment: str
    at: int


def add(scope: Scope, tx: Tx, of: Noticed, outcome: Measure, count: int, code: str = "") -> None:
    """Count changes; a negative count takes them back."""
    if not count:
        return
    key = {
        "destination_id": of.destination_id,
        "segment": of.segment,
        "hour": of.at // HOUR * HOUR,
        "outcome": outcome.value,
        "code": code,
    }
    mine = [deliveries.c[name] == value for name, value in key.items()]
    if tx.execute(deliveries.update().where(*mine).values(count=deliveries.c.count + count)).rowcount == 0:
        tx.execute(deliveries.insert().values(id=scope.home.new_id(), count=count, **key))


def move(scope: Scope, tx: Tx, of: Noticed, count: int, to: Measure, code: str = "") -> None:
    """Say what became of changes that waited."""
    add(scope, tx, of, Measure.WAITING, -count)
    add(scope, tx, of, to, count, code)


def by_hour(tx: Tx, destination: Destination, segments: Collection[str] | None = None) -> Documents:
    """Return a row per hour, newest first, of some segments or of all; each with its codes, counts and reasons."""
    of = [deliveries.c.destination_id == destination.id]
    if segments is not None:
        of.append(deliveries.c.segment.in_(segments))
    columns = (deliveries.c.hour, deliveries.c.outcome, deliveries.c.code)
    query = select(*columns, func.sum(deliveries.c.count)).where(*of).group_by(*columns)
    hours: dict[int, Document] = {}
    for hour, outcome, code, count in tx.execute(query.order_by(deliveries.c.hour.desc(), *columns[1:])):
        row = hours.setdefault(hour, {"hour": hour, "received": 0, **dict.fromkeys(Measure, 0), "codes": []})
        row[outcome] += int(count)
        row["received"] += int(count) if outcome in CHANGES else 0
        if code and count:
            row["codes"].append({"outcome": outcome, "code": code, "count": int(count), "reason": reason(code)})
    for row in hours.values():
        row["status"] = "processing" if row[Measure.WAITING] else "done"
    return [{str(name): value for name, value in row.items()} for row in hours.values()]


def forget(tx: Tx, destination_id: str, before: int | None = None) -> None:
    """Delete counts of a destination: all, or those of hours before a time."""
    of = [deliveries.c.destination_id == destination_id]
    if before is not None:
        over = (deliveries.c.outcome != Measure.WAITING) | (deliveries.c.count == 0)
        of += [deliveries.c.hour < before, over]
    tx.execute(delete(deliveries).where(*of))
