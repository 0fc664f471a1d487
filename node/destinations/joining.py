"""Changes that wait for others: what comes meanwhile joins them in the next revision, and each is counted once."""

from collections import Counter
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
from .counts import Outcome
from .records import Activation, BatchRow, BatchState, Destination, ahead, batches_of, spool_of
from .settling import ACTS, Sent

Times = npt.NDArray[np.int64]  # Unix seconds


@dataclass(frozen=True, slots=True)
class Carried:
    """Changes that have waited: identities, sorted, with an Act each, uint8 (n,), and when each was noticed, int64 (n,)."""

    values: Values
    acts: U8
    noticed: Times

    def places(self, values: Values) -> Indices:
        """Return the place among these of each of some identities, -1 where there is none."""
        if not len(self.acts):
            return np.full(len(values), -1)
        width = max(self.values.rows.shape[1], values.rows.shape[1])
        mine, asked = changes.keys(self.values, width), changes.keys(values, width)
        found = np.minimum(np.searchsorted(mine, asked), len(mine) - 1)
        return np.where(mine[found] == asked, found, -1)

    def count(self, scope: Scope, tx: Tx, destination: Destination, segment: str, kept: Bools) -> None:
        """Take all of them out of those that wait; those that are not `kept` were no longer true before they left."""
        for hour, count in hours(self.noticed):
            counts.add(scope, tx, counts.Noticed(destination.id, segment, hour), Outcome.WAITING, -count)
        for hour, count in hours(self.noticed[~kept]):
            of = counts.Noticed(destination.id, segment, hour)
            counts.add(scope, tx, of, Outcome.EXCLUDED, count, "superseded")


NONE = Carried(Values.of([]), np.zeros(0, np.uint8), np.zeros(0, np.int64))


def hours(noticed: Times) -> list[tuple[int, int]]:
    """Return how many changes were noticed in each hour."""
    return sorted(Counter((noticed // HOUR * HOUR).tolist()).items())


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
    """Return whether a batch that waits first, for others, may still change, and has to."""
    return batch.not_before is not None and not batch.attempts and basis != activation.basis


def waits_until(batch: BatchRow, now: int) -> int | None:
    """Return until when a batch waits for other changes, None where it does not."""
    return None if batch.attempts else ahead(batch.not_before, now, AGES[1])


def joined(scope: Scope, activation: Activation) -> Joined | None:
    """Return a revision whose batches wait for others, for the next one to take over; None where another process has."""
    with scope.read() as tx:
        rows = batches_of(tx, activation)
    waiting = [each for each in rows if each.state is BatchState.WAITING and not each.attempts]
    if not waiting:
        return None
    ended = settling.ended(scope, activation, rows)
    spool, pending = spool_of(scope, activation), ended.pending
    sent = [Sent.decode(spool[ACTS, each.number]) for each in waiting]
    places = np.concatenate([each.places for each in sent])
    order = np.argsort(places)
    carried = Carried(
        values=pending.take(places[order]),
        acts=np.concatenate([each.acts for each in sent])[order],
        noticed=np.concatenate([each.noticed for each in sent])[order],
    )
    return Joined(
        before=replace(activation, file=ended.name),
        values=ended.values | {"file": ended.name},
        carried=carried,
        done=rows,
        number=max(each.number for each in rows) + 1,
    )
