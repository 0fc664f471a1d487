"""Changes that have not left yet: what comes meanwhile joins them in the next revision, and each is counted once."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from psi.values import U8, Bools, Indices, Values

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import HOUR
from . import changes, counts, settling
from .aggregation import AGES
from .changes import NOBODY, Act, Entries
from .counts import Measure
from .records import Activation, BatchRow, BatchState, Destination, ahead, batches_of, spool_of
from .settling import ACTS, Sent

Times = npt.NDArray[np.int64]  # Unix seconds


@dataclass(frozen=True, slots=True)
class Carried:
    """Changes that have waited, among the identities of the file that was pending: an Act each, uint8 (n,), NOTHING for who
    is not among them, and when it was noticed, int64 (n,)."""

    entries: Entries
    acts: U8
    noticed: Times

    def places(self, values: Values) -> Indices:
        """Return the place of each of some sorted identities, -1 where nothing about it has waited."""
        places = np.full(len(values), -1)
        if not len(values) or not len(self.acts):
            return places
        width = max(changes.width_of(self.entries), values.rows.shape[1])
        asked = changes.keys(values, width)
        start = bisect_left(range(len(self.acts)), asked[0], key=self._key(width))
        stop = bisect_right(range(len(self.acts)), asked[-1], key=self._key(width))
        mine = changes.keys(self.entries.part(start, stop)[0], width)
        if len(mine):
            found = np.minimum(np.searchsorted(mine, asked), len(mine) - 1)
            there = (mine[found] == asked) & (self.acts[start + found] != Act.NOTHING)
            places[there] = start + found[there]
        return places

    def since(self, values: Values, acts: U8, now: int, still: Bools) -> Times:
        """Return when each of some acts was noticed, `now` where it has not waited; mark those that have as `still` said."""
        noticed, places = np.full(len(acts), now), self.places(values)
        waited = np.flatnonzero(places >= 0)
        waited = waited[self.acts[places[waited]] == acts[waited]]
        noticed[waited] = self.noticed[places[waited]]
        still[places[waited]] = True
        return noticed

    def count(self, scope: Scope, tx: Tx, destination: Destination, segment: str, kept: Bools) -> None:
        """Take all of them out of those that wait; those that are not `kept` were no longer true before they left."""
        waited = self.acts != Act.NOTHING
        for hour, count in hours(self.noticed[waited]):
            counts.add(scope, tx, counts.Noticed(destination.id, segment, hour), Measure.WAITING, -count)
        for hour, count in hours(self.noticed[waited & ~kept]):
            of = counts.Noticed(destination.id, segment, hour)
            counts.add(scope, tx, of, Measure.EXCLUDED, count, "superseded")

    def _key(self, width: int) -> Callable[[int], np.bytes_]:
        return lambda place: changes.keys(self.entries.part(place, place + 1)[0], width)[0]


NONE = Carried(NOBODY, np.zeros(0, np.uint8), np.zeros(0, np.int64))


def hours(noticed: Times) -> list[tuple[int, int]]:
    """Return how many changes were noticed in each hour."""
    found, counted = np.unique(noticed // HOUR * HOUR, return_counts=True)
    return list(zip(found.tolist(), counted.tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A revision whose last batches have not been tried, as the one that takes it over finds it."""

    before: Activation  # as if it had ended: with the file of who is at the target now
    values: Document  # the columns of its end
    carried: Carried
    done: list[BatchRow]
    number: int  # of the first batch that may be written beside those that are there

    def end(self, scope: Scope, tx: Tx, activation: Activation) -> None:
        """Delete what is left of the revision that is taken over."""
        settling.clear(scope, tx, activation, self.done, self.before.file)
        spool = spool_of(scope, activation)
        scope.home.database.afterwards(lambda: settling.forget(spool, end=self.number))


def may_join(activation: Activation, batch: BatchRow, basis: str) -> bool:
    """Return whether a batch that waits first may still change, and has to: it was not tried, and something else is true."""
    return not batch.attempts and basis != activation.basis


def waits_until(batch: BatchRow, now: int) -> int | None:
    """Return until when a batch waits for other changes, None where it does not."""
    return None if batch.attempts else ahead(batch.not_before, now, AGES[1])


def joined(scope: Scope, activation: Activation) -> Joined | None:
    """Return a revision whose batches were not all tried, for the next one to take over; None where another process has."""
    with scope.read() as tx:
        rows = batches_of(tx, activation)
    waiting = [each for each in rows if each.state is BatchState.WAITING and not each.attempts]
    if not waiting:
        return None
    ended = settling.ended(scope, activation, rows)
    spool, pending = spool_of(scope, activation), ended.pending
    carried = Carried(pending, np.zeros(len(pending), np.uint8), np.zeros(len(pending), np.int64))
    for batch in waiting:
        sent = Sent.decode(spool[ACTS, batch.number])
        carried.acts[sent.places], carried.noticed[sent.places] = sent.acts, sent.noticed
    return Joined(
        before=replace(activation, file=ended.name),
        values=ended.values | {"file": ended.name},
        carried=carried,
        done=rows,
        number=max(each.number for each in rows) + 1,
    )
