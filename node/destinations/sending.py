"""The job of a destination: it plans what changed, and sends one batch after the other until something has to wait.

Each batch is decided again before it leaves. What waits is taken up by the next job, which the schedule submits; so a
slow or dead target holds no worker.
"""

import time

from psi.errors import Remedy, VesicaError

from ..access.scope import Scope
from ..errors import StoreBusy
from ..operations.alerts import AlertKind, Alerts
from ..operations.jobs import Progress
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.spool import destroy
from ..storage.tables import activations, batches, destinations
from . import codes, counts, desired, kinds, planning
from .counts import Outcome
from .kinds import Delivered, Gone, Later, Message, Refused, Target
from .records import (
    SENDING,
    Activation,
    ActivationStatus,
    BatchRow,
    BatchState,
    Destination,
    DestinationStatus,
    activations_of,
    batches_where,
    by_id,
    file_of,
    first_waiting,
    spool_directory,
    spool_of,
)

JOB = "destination"
RETRY_SECONDS = (15, 30)  # after the first try, and after the second; then it has failed
MAX_RETRY_AFTER = 3_600  # of what a target asks for
BROKEN_SECONDS = 60  # until a job is tried again that failed here
SLICE_SECONDS = 10.0  # of sending, then other destinations have their turn
SECRET = b"destination"  # the purpose under which secrets are wrapped


def run(scope: Scope, parameters: Document, progress: Progress) -> Document:
    """Do what is due for a destination now; `more` in the result says that its turn ended before that was done."""
    scope.check_not_on_hold()
    found = _reread(scope, parameters["destination"])
    if found is None:
        return {"sent": 0, "more": False}
    try:
        return _Run(scope, found, progress).run()
    except Exception as error:
        with scope.begin() as tx:
            later = {"next_attempt": scope.home.now() + BROKEN_SECONDS}
            tx.execute(destinations.update().where(destinations.c.id == found.id).values(**later))
            if not isinstance(error, StoreBusy):
                what = (
                    error if isinstance(error, VesicaError) else type(error).__name__
                )  # another's text may have data in it
                _alert(scope, tx, found, f"cannot go on: {what}", Remedy("destination.sync", {"name": found.name}))
        raise


def wait_until(scope: Scope, destination: Destination) -> int | None:
    """Return until when nothing is sent, None for not at all: a clock that jumped holds up nothing for long."""
    until, now = destination.next_attempt, scope.home.now()
    return until if until is not None and now < until <= now + MAX_RETRY_AFTER else None


def _alert(scope: Scope, tx: Tx, destination: Destination, what: str, remedy: Remedy) -> None:
    text = f"destination {destination.name} {what}"
    Alerts(scope).add(tx, AlertKind.DESTINATION_FAILED, text, remedy=remedy)


def _reread(scope: Scope, destination_id: str) -> Destination | None:
    with scope.read() as tx:
        return by_id(scope, tx, destination_id)


class _Run:
    """One turn of a destination."""

    def __init__(self, scope: Scope, destination: Destination, progress: Progress) -> None:
        self._scope, self._destination, self._progress = scope, destination, progress
        self._until = time.monotonic() + SLICE_SECONDS
        self._sent = 0

    def run(self) -> Document:
        more, broken = False, list[Exception]()
        for activation in self._activations():
            if activation.status is ActivationStatus.LEFT:
                self._end(activation)
        if self._destination.status in SENDING:
            target = self._open()
            try:
                for each in self._activations():
                    try:
                        more = self._bring_up_to_date(each.id, target)
                    except Exception as error:  # the other segments go on
                        broken.append(error)
                    if more:
                        break
            finally:
                target.close()
        if broken:
            raise broken[0]
        self._delete_if_done()
        return {"sent": self._sent, "more": more}

    def _open(self) -> Target:
        wrapped, keys = self._destination.secret, self._scope.home.keys
        secret = None if wrapped is None else keys.unwrap(wrapped, SECRET)
        return kinds.kind(self._destination.kind).open(self._scope.home, self._destination.settings, secret)

    def _activations(self) -> list[Activation]:
        with self._scope.read() as tx:
            return activations_of(tx, self._destination)

    def _look(self, activation_id: str) -> tuple[Activation | None, BatchRow | None, str]:
        """Return an activation, None once it is left; the batch that waits first; and what would be decided from now."""
        with self._scope.read() as tx:
            found = {each.id: each for each in activations_of(tx, self._destination)}.get(activation_id)
            if found is None or found.status is ActivationStatus.LEFT:
                return None, None, ""
            first = first_waiting(tx, found)
            return found, first, desired.basis(self._scope, tx, self._destination, found)

    def _bring_up_to_date(self, activation_id: str, target: Target) -> bool:
        """Plan and send for one segment until the target has it, or something waits; return whether the turn ended first."""
        while True:
            activation, batch, basis = self._look(activation_id)
            if activation is None or not self._may_go_on():
                return False
            if activation.pending is None:
                if activation.replay or basis != activation.basis:
                    planning.plan(self._scope, self._current(), activation)
                    continue
                if activation.status is ActivationStatus.LEAVING and not activation.present + activation.failed:
                    self._end(activation)
                return False
            if batch is None:
                planning.finish(self._scope, activation)
            elif basis != activation.checked:
                planning.check_again(self._scope, self._destination, activation)
            elif time.monotonic() > self._until:
                return True
            elif not self._send(activation, batch, target):
                return False

    def _may_go_on(self) -> bool:
        """Return whether something may be sent now: a person may have paused the destination meanwhile."""
        found = _reread(self._scope, self._destination.id)
        return found is not None and found.status in SENDING and wait_until(self._scope, found) is None

    def _current(self) -> Destination:
        found = _reread(self._scope, self._destination.id)
        return self._destination if found is None else found

    def _send(self, activation: Activation, batch: BatchRow, target: Target) -> bool:
        """Try a batch once; return whether the next one may follow at once."""
        body = spool_of(self._scope, activation)[planning.BODY, batch.number]
        with self._scope.begin() as tx:  # before the first byte: it may arrive though nobody hears of it
            tries = batches.update().where(batches.c.id == batch.id, batches.c.state == BatchState.WAITING)
            if not tx.execute(tries.values(attempts=batches.c.attempts + 1)).rowcount:
                return True
            of = counts.Noticed(self._destination.id, batch.segment, batch.created)
            counts.add(self._scope, tx, of, Outcome.REQUESTS, 1)
        message = Message(
            id=f"msg_{batch.id}",
            segment=batch.segment,
            sequence=batch.sequence,
            body=body,
            now=self._scope.home.now(),
        )
        outcome = target.send(message)
        self._sent += isinstance(outcome, Delivered)
        self._progress(f"sending {batch.segment}", batch.number + 1, None)
        with self._scope.begin() as tx:
            return self._book(tx, batch, outcome)

    def _book(self, tx: Tx, batch: BatchRow, outcome: kinds.Outcome) -> bool:
        match outcome:
            case Delivered():
                planning.settle(self._scope, tx, self._destination, batch, BatchState.DELIVERED, None)
                self._change(tx, next_attempt=None)
                return True
            case Refused(code):
                self._fail(tx, batch, code)
                return True
            case Later(code, after) if batch.attempts < len(RETRY_SECONDS):
                seconds = RETRY_SECONDS[batch.attempts] if after is None else min(after, MAX_RETRY_AFTER)
                tx.execute(batches.update().where(batches.c.id == batch.id).values(code=code))
                self._change(tx, next_attempt=self._scope.home.now() + seconds)
                return False
            case Later(code, after):
                self._fail(tx, batch, code)
                if after is not None:
                    self._change(tx, next_attempt=self._scope.home.now() + min(after, MAX_RETRY_AFTER))
                return after is None
            case Gone(code):
                tx.execute(batches.update().where(batches.c.id == batch.id).values(code=code))
                self._change(tx, status=DestinationStatus.DISABLED, reason=code)
                self._alert(tx, f"is disabled: {codes.reason(code)}")
                return False

    def _fail(self, tx: Tx, batch: BatchRow, code: str) -> None:
        planning.settle(self._scope, tx, self._destination, batch, BatchState.FAILED, code)
        self._change(tx, next_attempt=None)
        self._alert(tx, f"did not take changes of segment {batch.segment}: {codes.reason(code) or code}")

    def _alert(self, tx: Tx, what: str) -> None:
        _alert(self._scope, tx, self._destination, what, Remedy("destination.errors", {"name": self._destination.name}))

    def _change(self, tx: Tx, **values: object) -> None:
        tx.execute(destinations.update().where(destinations.c.id == self._destination.id).values(**values))

    def _end(self, activation: Activation) -> None:
        """Delete an activation, and what was kept for it."""
        with self._scope.begin() as tx:
            mine = (batches.c.activation_id == activation.id, batches.c.state == BatchState.WAITING)
            for batch in batches_where(tx, *mine):
                planning.settle(self._scope, tx, self._destination, batch, BatchState.SUPERSEDED, "superseded")
            tx.execute(batches.delete().where(batches.c.activation_id == activation.id))
            tx.execute(activations.delete().where(activations.c.id == activation.id))
            for name in (activation.file, activation.pending):
                if name is not None:
                    self._scope.home.database.afterwards(file_of(self._scope, name).unlink)
            directory = spool_directory(self._scope, activation.id)
            self._scope.home.database.afterwards(lambda: destroy(directory))

    def _delete_if_done(self) -> None:
        with self._scope.begin() as tx:
            found = by_id(self._scope, tx, self._destination.id)
            if found is None or found.status is not DestinationStatus.DELETING or activations_of(tx, found):
                return
            counts.forget(tx, found.id)
            tx.execute(batches.delete().where(batches.c.destination_id == found.id))
            tx.execute(destinations.delete().where(destinations.c.id == found.id))
