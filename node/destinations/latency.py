"""How long changes take: from when they qualified to when they were sent, confirmed, and ready at the target.

Counts by seconds are kept, in three digits, so that what is kept of an hour has an end.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from enum import StrEnum

from sqlalchemy import bindparam, delete, select

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import HOUR, batches, latencies
from .records import BatchRow, BatchState, Destination, batches_where


class Stage(StrEnum):
    QUALIFIED = "qualified"  # noticed: the decision to send it was made
    SENT = "sent"  # the first byte of the try that arrived
    CONFIRMED = "confirmed"  # the target said that it has it
    READY = "ready"  # by the target's own word, else as it was confirmed


_Key = tuple[str, int, Stage, int]  # segment, hour, stage, seconds


class _Counted:
    """Changes by segment, hour, stage and seconds, and when the last of each came so far."""

    def __init__(self) -> None:
        self.counts, self.last = Counter[_Key](), dict[_Key, int]()

    def add(self, batch: BatchRow, stage: Stage, at: int) -> None:
        for noticed, count in batch.noticed:
            seconds = max(0, at - max(noticed, batch.created))  # a clock that jumped back
            self.put((batch.segment, noticed // HOUR * HOUR, stage, _in_three_digits(seconds)), count, at)

    def put(self, key: _Key, count: int, last: int) -> None:
        self.counts[key] += count
        self.last[key] = max(last, self.last.get(key, last))

    def add_delivered(self, batch: BatchRow) -> None:
        self.add(batch, Stage.QUALIFIED, batch.created)
        self.add(batch, Stage.SENT, batch.created if batch.sent is None else batch.sent)
        self.add(batch, Stage.CONFIRMED, batch.changed)
        if batch.handle is None:
            self.add(batch, Stage.READY, batch.changed if batch.ready is None else batch.ready)


def book(scope: Scope, tx: Tx, destination_id: str, delivered: Iterable[BatchRow]) -> None:
    """Keep how long the changes of batches took whose rows go."""
    counted = _Counted()
    for batch in delivered:
        counted.add_delivered(batch)
    _keep(scope, tx, destination_id, counted)


def book_ready(scope: Scope, tx: Tx, destination_id: str, batch: BatchRow, at: int) -> None:
    """Keep when a target was ready with a batch of which the rest was kept before."""
    counted = _Counted()
    counted.add(batch, Stage.READY, at)
    _keep(scope, tx, destination_id, counted)


def by_hour(tx: Tx, destination: Destination, segments: Collection[str] | None = None) -> dict[int, Document]:
    """Return by hour how long its changes took, by stage: how many, the median and the 95th percentile in seconds, and when
    the last of them came so far."""
    counted = _Counted()
    columns = ("segment", "hour", "stage", "seconds", "count", "last")
    query = select(*(latencies.c[each] for each in columns)).where(latencies.c.destination_id == destination.id)
    for segment, hour, stage, seconds, count, last_of in tx.execute(query):
        counted.put((segment, hour, Stage(stage), seconds), count, last_of)
    for batch in batches_where(tx, batches.c.destination_id == destination.id, batches.c.state == BatchState.DELIVERED):
        counted.add_delivered(batch)
    found: dict[int, dict[Stage, Counter[int]]] = {}
    last: dict[tuple[int, Stage], int] = {}
    for key, count in counted.counts.items():
        segment, hour, stage, seconds = key
        if segments is None or segment in segments:
            found.setdefault(hour, {}).setdefault(stage, Counter())[seconds] += count
            last[hour, stage] = max(counted.last[key], last.get((hour, stage), 0))
    return {
        hour: {
            stage.value: {**_percentiles(by[stage]), "last": last[hour, stage]} if stage in by else None
            for stage in Stage
        }
        for hour, by in found.items()
    }


def forget(tx: Tx, destination_id: str, before: int | None = None) -> None:
    """Delete what is kept of a destination: all, or of hours before a time."""
    old = () if before is None else (latencies.c.hour < before,)
    tx.execute(delete(latencies).where(latencies.c.destination_id == destination_id, *old))


def _keep(scope: Scope, tx: Tx, destination_id: str, counted: _Counted) -> None:
    if not counted.counts:
        return
    names, of = ("segment", "hour", "stage", "seconds"), latencies.c.destination_id == destination_id
    some = [latencies.c[name].in_({key[place] for key in counted.counts}) for place, name in enumerate(names)]
    columns = [latencies.c[name] for name in (*names, "id", "count", "last")]
    there = {tuple(row[:4]): row[4:] for row in tx.execute(select(*columns).where(of, *some))}
    new, changed = list[Document](), list[Document]()
    for key, count in counted.counts.items():
        if key in there:
            row_id, known, last = there[key]
            changed.append({"row": row_id, "counted": known + count, "newest": max(last, counted.last[key])})
        else:
            mine = {"destination_id": destination_id, **dict(zip(names, key, strict=True))}
            new.append({"id": scope.home.new_id(), "count": count, "last": counted.last[key], **mine})
    if new:
        tx.execute(latencies.insert(), new)
    if changed:
        values: Document = {"count": bindparam("counted"), "last": bindparam("newest")}
        tx.execute(latencies.update().where(latencies.c.id == bindparam("row")).values(**values), changed)


def _percentiles(seconds: Counter[int]) -> Document:
    total, found = seconds.total(), dict[str, int]()
    for name, percent in (("p50", 50), ("p95", 95)):
        seen = 0
        for each in sorted(seconds):
            seen += seconds[each]
            if seen * 100 >= percent * total:
                found[name] = each
                break
    return {"count": total, **found}


def _in_three_digits(seconds: int) -> int:
    unit = 1
    while seconds // unit >= 1_000:
        unit *= 10
    return seconds // unit * unit
