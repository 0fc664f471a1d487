"""The job of a destination: it plans what changed, and sends one batch after the other until something has to wait.

Each batch is decided again before it leaves. What waits is taken up by the next job, which the schedule submits; so a
slow or dead target holds no worker.
"""

import time
from collections.abc import Collection, Sequence

from psi.errors import Remedy, VesicaError

from ..access.scope import Scope
from ..errors import Failure, StoreBusy
from ..operations.jobs import Progress
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.spool import destroy
from ..storage.tables import activations, batches, destinations
from . import (
    answers,
    audiences,
    codes,
    counts,
    desired,
    joining,
    kinds,
    latency,
    older_sharing,
    others,
    planning,
    polling,
    rotation,
    settling,
    watching,
)
from .abilities import NamingOthers, Retrying
from .counts import Measure
from .desired import Basis
from .kinds import Delivered, Gone, Later, Message, Refused, Target, Unusable
from .records import (
    SENDING,
    Activation,
    ActivationStatus,
    BatchRow,
    BatchState,
    Destination,
    DestinationStatus,
    activations_of,
    ahead,
    batches_where,
    by_id,
    change,
    delivered_of,
    file_of,
    first_waiting,
    may_be_sent,
    parts_of,
    spool_directory,
    spool_of,
)

JOB = "destination"
ANSWER = b"answer"  # the purpose under which answers are wrapped
RETRY_SECONDS = (15, 30)  # after the first try, and after the second; then it has failed
MAX_RETRY_AFTER = 3_600  # of what a target asks for
BROKEN_SECONDS = 60  # until a job is tried again that failed here
KNOWN_SECONDS = 1.0  # how long what no act changed, such as a partner's run, may go unseen between two messages
SLICE_SECONDS = 10.0  # of sending, then other destinations have their turn


def run(scope: Scope, parameters: Document, progress: Progress) -> Document:
    """Do what is due for a destination now; `more` in the result says that its turn ended before that was done."""
    scope.check_not_on_hold()
    found = _reread(scope, parameters["destination"])
    if found is None:
        return {"sent": 0, "more": False}
    try:
        if found.of_all:
            older_sharing.follow(scope, found)
        return _Run(scope, found, progress).run()
    except Unusable as error:
        _disable(scope, found, error)
        return {"sent": 0, "more": False}
    except Exception as error:
        with scope.begin() as tx:
            change(tx, found.id, next_attempt=scope.home.now() + BROKEN_SECONDS)
            if not isinstance(error, StoreBusy):
                # Another's text may have data in it.
                what = error if isinstance(error, VesicaError) else type(error).__name__
                watching.failed(
                    scope, tx, found, f"cannot go on: {what}", Remedy("destination.sync", {"name": found.name})
                )
        raise


def _disable(scope: Scope, found: Destination, error: Unusable) -> None:
    """Send nothing until a person has repaired what a kind needs and resumes the destination: what it misses is kept."""
    with scope.begin() as tx:
        change(tx, found.id, status=DestinationStatus.DISABLED, reason=error.reason)
        watching.failed(scope, tx, found, f"is disabled: {error}", Remedy("destination.resume", {"name": found.name}))


def wait_until(scope: Scope, destination: Destination) -> int | None:
    """Return until when nothing is sent, None for not at all."""
    return ahead(destination.next_attempt, scope.home.now(), MAX_RETRY_AFTER)


def _reread(scope: Scope, destination_id: str) -> Destination | None:
    with scope.read() as tx:
        return by_id(scope, tx, destination_id)


class _Run:
    """One turn of a destination."""

    def __init__(self, scope: Scope, destination: Destination, progress: Progress) -> None:
        self._scope, self._destination, self._progress = scope, destination, progress
        self._seen = destination  # as it was when it was last looked at
        self._until = time.monotonic() + SLICE_SECONDS
        self._plan_from = 0.0  # before it nothing takes over messages that wait
        self._sent = 0
        self._bases: dict[str, str] = {}  # by activation
        self._read_for: object = None
        self._read = 0.0

    def run(self) -> Document:
        more, broken = False, list[Exception]()
        for activation in self._activations():
            if activation.status is ActivationStatus.LEFT:
                self._end(activation)
        gets = [each for each in self._activations() if may_be_sent(self._destination, each)]
        if gets or (self._destination.status in SENDING and self._is_asked()):
            target = rotation.opened(self._scope, self._destination)
            try:
                for each in gets:
                    try:
                        more = self._bring_up_to_date(each.id, target)
                    except Exception as error:  # the other segments go on
                        broken.append(error)
                    if more:
                        break
                polling.poll(self._scope, self._destination, target)
            finally:
                target.close()
        if broken:
            raise broken[0]
        self._delete_if_done()
        return {"sent": self._sent, "more": more}

    def _is_asked(self) -> bool:
        """Return whether the target is asked when it is ready with what it has."""
        with self._scope.read() as tx:
            return polling.next_time(tx, self._destination, self._scope.home.now()) is not None

    def _activations(self) -> list[Activation]:
        """Return what the destination gets; that of which most was sent comes last, so that no first export of one segment
        holds up who withdraws from another."""
        with self._scope.read() as tx:
            found, sent = activations_of(tx, self._destination), delivered_of(tx, self._destination)
        return sorted(found, key=lambda each: sent.get(each.id, 0))

    def _look(self, activation_id: str) -> tuple[Activation | None, BatchRow | None, str]:
        """Return an activation, None where nothing may be done for it now; the batch that waits first; and a digest of what
        would be decided from now."""
        with self._scope.read() as tx:
            destination = by_id(self._scope, tx, self._destination.id)
            if destination is None or wait_until(self._scope, destination) is not None:
                return None, None, ""
            all_ = {each.id: each for each in activations_of(tx, destination)}
            found = all_.get(activation_id)
            if found is None or found.status is ActivationStatus.LEFT or not may_be_sent(destination, found):
                return None, None, ""  # a person may have paused it meanwhile
            self._decide_from(tx, destination, all_.values())
            self._seen = destination
            batch = None if found.pending is None else first_waiting(tx, found)
            return found, batch, self._bases[activation_id]

    def _decide_from(self, tx: Tx, destination: Destination, all_: Collection[Activation]) -> None:
        """Read what is decided from, unless it was read a moment ago and nobody has acted since."""
        read_for, now = (desired.stamp(self._scope, tx), [(each.id, each.status) for each in all_]), time.monotonic()
        if read_for != self._read_for or now > self._read + KNOWN_SECONDS:
            basis = Basis(self._scope, tx)
            self._bases = {each.id: basis.of(destination, each) for each in all_}
            self._read_for, self._read = read_for, now

    def _bring_up_to_date(self, activation_id: str, target: Target) -> bool:
        """Plan and send for one segment until the target has it, or something waits; return whether the turn ended first.

        Where the target does not take another name of the segment, its members go on all the same: who withdrew has to.
        """
        refused: Failure | None = None
        while True:
            activation, batch, basis = self._look(activation_id)
            if activation is None:
                return False
            if activation.pending is None:
                try:
                    if refused is None and audiences.bring_up_to_date(self._scope, self._seen, activation, target):
                        continue
                except Failure as error:
                    if activation.external_id is None and not self._destination.is_audience_manager:
                        raise
                    refused = error
                if planning.is_asked_for(activation, self._scope.home.now()) or basis != activation.basis:
                    self._plan(activation)
                    continue
                if activation.status is ActivationStatus.LEAVING and not activation.present + activation.failed:
                    audiences.end(self._scope, self._destination, activation, target)
                    self._end(activation)
                if refused is not None:
                    raise refused
                return False
            if batch is None:
                settling.finish(self._scope, activation)
            elif joining.may_join(activation, batch, basis) and time.monotonic() >= self._plan_from:
                self._plan(activation)
            elif basis != activation.checked and (batch.attempts or batch.not_before is None):
                self._bases[activation.id] = settling.check_again(self._scope, self._destination, activation)
            elif joining.waits_until(batch, self._scope.home.now()) is not None:
                return False
            elif time.monotonic() > self._until:
                return True
            elif not self._send(activation, batch, target):
                return False

    def _plan(self, activation: Activation) -> None:
        """Plan the next revision. It is sent for as long as that took before another one takes it over, so that a segment
        whose members change all the time moves on; and the turn is the longer for it."""
        began = time.monotonic()
        planning.plan(self._scope, self._seen, activation, self._bases[activation.id])
        now = time.monotonic()
        self._plan_from, self._until = now + (now - began), self._until + (now - began)

    def _send(self, activation: Activation, batch: BatchRow, target: Target) -> bool:
        """Try a batch once; return whether the next one may follow at once."""
        body = spool_of(self._scope, activation)[settling.BODY, batch.number]
        with self._scope.begin() as tx:  # before the first byte: it may arrive though nobody hears of it
            tries = batches.update().where(batches.c.id == batch.id, batches.c.state == BatchState.WAITING)
            tried = {"attempts": batches.c.attempts + 1, "sent": self._scope.home.now()}
            if not tx.execute(tries.values(**tried)).rowcount:
                return True
            of = counts.Noticed(self._destination.id, batch.segment, batch.created)
            counts.add(self._scope, tx, of, Measure.REQUESTS, 1)
        beside = self._others(activation, batch) if isinstance(target, NamingOthers) and target.names_others else ()
        message = Message(
            id=f"msg_{batch.id}",
            segment=batch.segment,
            sequence=batch.sequence,
            body=body,
            now=self._scope.home.now(),
            others=beside,
        )
        retries = RETRY_SECONDS[: target.retries if isinstance(target, Retrying) else None]
        outcome = self._judged(batch, target.send(message), target, len(retries))
        self._sent += isinstance(outcome, Delivered)
        self._progress(f"sending {batch.segment}", batch.number + 1, None)
        with self._scope.begin() as tx:
            if not isinstance(outcome, Delivered) and outcome.answer:
                answer = answers.redacted(outcome.answer, body).encode()
                values = {"answer": self._scope.home.keys.wrap(answer, ANSWER)}
                tx.execute(batches.update().where(batches.c.id == batch.id).values(**values))
            if isinstance(outcome, Delivered) and (values := polling.accepted(self._scope, outcome, target)):
                tx.execute(batches.update().where(batches.c.id == batch.id).values(**values))
            return self._book(tx, batch, outcome, retries)

    def _judged(self, batch: BatchRow, outcome: kinds.Outcome, target: Target, retries: int) -> kinds.Outcome:
        """Return an outcome; Gone where it would fail this message, and the target's check says that all would fail so."""
        ends = isinstance(outcome, Refused) or (isinstance(outcome, Later) and batch.attempts >= retries)
        if isinstance(outcome, Later | Refused) and outcome.setup and ends:
            found = target.check(self._scope.home.now())
            if isinstance(found, Later | Refused) and found.setup:
                return Gone(found.code, outcome.answer)
        return outcome

    def _others(self, activation: Activation, batch: BatchRow) -> others.Others:
        """Return in which other segments the people of a batch are at the target: in those alone of which nothing waits."""
        with self._scope.read() as tx:
            known = [each for each in activations_of(tx, self._destination) if self._bases.get(each.id) == each.basis]
            return others.of(self._scope, tx, activation, batch, known)

    def _book(self, tx: Tx, batch: BatchRow, outcome: kinds.Outcome, retries: Sequence[int]) -> bool:
        match outcome:
            case Delivered():
                settling.settle(self._scope, tx, self._destination, batch, BatchState.DELIVERED, None)
                self._change(tx, next_attempt=None)
                return True
            case Refused(code):
                self._fail(tx, batch, code)
                return True
            case Later(code, after) if batch.attempts < len(retries):
                seconds = retries[batch.attempts] if after is None else min(after, MAX_RETRY_AFTER)
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
                found = by_id(self._scope, tx, self._destination.id)
                self._change(tx, status=DestinationStatus.DISABLED, reason=code)
                if found is not None and found.status is DestinationStatus.DELETING:
                    what = f"cannot be deleted: {codes.reason(code)}, so its members stay there"
                    remedy = Remedy("destination.delete", {"name": found.name, "leave": True})
                    watching.failed(self._scope, tx, found, what, remedy)
                else:
                    self._alert(tx, f"is disabled: {codes.reason(code)}")
                return False

    def _fail(self, tx: Tx, batch: BatchRow, code: str) -> None:
        settling.settle(self._scope, tx, self._destination, batch, BatchState.FAILED, code)
        self._change(tx, next_attempt=None)
        self._alert(tx, f"did not take changes of segment {batch.segment}: {codes.reason(code) or code}")

    def _alert(self, tx: Tx, what: str) -> None:
        watching.failed(
            self._scope, tx, self._destination, what, Remedy("destination.errors", {"name": self._destination.name})
        )

    def _change(self, tx: Tx, **values: object) -> None:
        change(tx, self._destination.id, **values)

    def _end(self, activation: Activation) -> None:
        """Delete an activation, and what was kept for it."""
        with self._scope.begin() as tx:
            mine = (batches.c.activation_id == activation.id, batches.c.state == BatchState.WAITING)
            for batch in batches_where(tx, *mine):
                settling.settle(self._scope, tx, self._destination, batch, BatchState.SUPERSEDED, "superseded")
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
            latency.forget(tx, found.id)
            watching.forget(tx, found.id)
            tx.execute(batches.delete().where(batches.c.destination_id == found.id))
            tx.execute(destinations.delete().where(destinations.c.id == found.id))
            whole = None if found.part_of is None else by_id(self._scope, tx, found.part_of)
            if (
                whole is not None
                and whole.status is DestinationStatus.DELETING
                and not parts_of(self._scope, tx, whole)
            ):
                watching.forget(tx, whole.id)
                tx.execute(destinations.delete().where(destinations.c.id == whole.id))
