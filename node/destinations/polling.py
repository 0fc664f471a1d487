"""Targets that take a message and work on it: asked later whether they are ready with it."""

import time

from sqlalchemy import func, select

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import DAY, HOUR, batches
from . import latency
from .abilities import Polled
from .kinds import Delivered, Later, Outcome, Pending, Target
from .records import BatchRow, BatchState, Destination, ahead, batches_where

FIRST_SECONDS, MOST_SECONDS = 15, HOUR  # between two questions: as long as it has worked, within these
GIVE_UP_SECONDS = DAY
MOST_AT_ONCE, TURN_SECONDS = 20, 10.0  # then other destinations have their turn
SILENT = ("timeout", "connection", "tls")  # codes of no answer
HANDLE = b"handle"  # the purpose under which handles are wrapped


def accepted(scope: Scope, outcome: Delivered, target: Target) -> Document:
    """Return the columns of a batch that was delivered: whether to ask when the target is ready with it."""
    if not isinstance(outcome, Pending) or not outcome.handle or not isinstance(target, Polled):
        return {}
    handle = scope.home.keys.wrap(outcome.handle.encode(), HANDLE)
    return {"handle": handle, "ready": scope.home.now() + FIRST_SECONDS}


def next_time(tx: Tx, destination: Destination, now: int) -> int | None:
    """Return when to ask next, `now` where it is time; None where nothing is asked."""
    mine = (batches.c.destination_id == destination.id, batches.c.handle.is_not(None))
    at = tx.scalar(select(func.min(batches.c.ready)).where(*mine))
    if at is None:
        return None
    return ahead(int(at), now, MOST_SECONDS) or now


def poll(scope: Scope, destination: Destination, target: Target) -> None:
    """Ask what is due."""
    if not isinstance(target, Polled):
        return
    now = scope.home.now()
    with scope.read() as tx:
        found = batches_where(tx, batches.c.destination_id == destination.id, batches.c.handle.is_not(None))
    due = [each for each in found if ahead(each.ready, now, MOST_SECONDS) is None]
    until = time.monotonic() + TURN_SECONDS
    for place, batch in enumerate(due[:MOST_AT_ONCE]):
        assert batch.handle is not None
        handle = scope.home.keys.unwrap(batch.handle, HANDLE).decode()
        outcome = target.poll(handle, now)
        silent = isinstance(outcome, Later) and outcome.code in SILENT
        with scope.begin() as tx:
            for each in due[place:] if silent else [batch]:  # a target that does not answer is asked once
                _book(scope, tx, destination, each, outcome)
        if silent or time.monotonic() > until:
            return


def _book(scope: Scope, tx: Tx, destination: Destination, batch: BatchRow, outcome: Outcome) -> None:
    now, mine = scope.home.now(), batches.c.id == batch.id
    ready = isinstance(outcome, Delivered)
    if isinstance(outcome, Later) and batch.changed <= now < batch.changed + GIVE_UP_SECONDS:
        worked = now - batch.changed if outcome.after is None else outcome.after
        until = now + min(max(worked, FIRST_SECONDS), MOST_SECONDS)
        tx.execute(batches.update().where(mine).values(ready=until))
    elif batch.state is BatchState.ACCEPTED:
        if ready:
            latency.book_ready(scope, tx, destination.id, batch, now)
        tx.execute(batches.delete().where(mine))
    else:
        tx.execute(batches.update().where(mine).values(handle=None, ready=now if ready else None))
