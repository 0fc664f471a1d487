"""What became of a revision's batches: those that no longer hold are taken back, the others settled, then it ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgpack
import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement

from psi.values import U8, Indices

from ..access.scope import Scope
from ..errors import NotFound
from ..segments.segments import Segments
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.spool import FileSpool
from ..storage.tables import activations, batches
from . import at_target, changes, counts, desired, latency, removals, watching
from .at_target import AtTarget
from .changes import Act, Digests
from .counts import Measure
from .desired import Basis
from .members import evaluate_received
from .records import Activation, BatchRow, BatchState, Destination, batches_of, file_of, spool_of

BODY, ACTS = "body", "acts"  # what the spool has of a batch, by its number


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a batch says: `places` are those of its identities in the pending file, `before` their states until then.

    The digests are of the attributes that it carries, and of those that the target had until then; `noticed` is when each
    change was, int64 (n,).
    """

    places: Indices
    acts: U8
    before: U8
    digests: Digests
    digests_before: Digests
    noticed: npt.NDArray[np.int64]
    labels: tuple[str, ...]

    def encode(self) -> bytes:
        arrays = [self.places.astype("<u8"), self.acts, self.before]
        arrays += [each.astype("<u8") for each in (self.digests, self.digests_before, self.noticed)]
        packed: bytes = msgpack.packb([*(each.tobytes() for each in arrays), self.labels])
        return packed

    @classmethod
    def decode(cls, content: bytes) -> "Sent":
        places, acts, before, *rest = msgpack.unpackb(content)
        none = bytes(len(places))
        digests, digests_before, noticed, labels = rest if len(rest) == 4 else (none, none, none, *rest)
        return cls(
            places=np.frombuffer(places, "<u8").astype(np.intp),
            acts=np.frombuffer(acts, np.uint8),
            before=np.frombuffer(before, np.uint8),
            digests=np.frombuffer(digests, "<u8"),
            digests_before=np.frombuffer(digests_before, "<u8"),
            noticed=np.frombuffer(noticed, "<i8"),
            labels=tuple(labels),
        )

    def holds(self, now: U8, digests: Digests, labels: tuple[str, ...]) -> bool:
        """Return whether it is still what should be said; `now` and `digests` are what is wanted of the pending file."""
        if self.labels != labels or not changes.holds(self.acts, now[self.places]).all():
            return False
        adds = self.acts == Act.ADD
        return bool((self.digests[adds] == digests[self.places[adds]]).all())


def evaluate(scope: Scope, destination: Destination, activation: Activation) -> None:
    """Evaluate what a decision reads of received segments, whose times may be over."""
    try:
        evaluate_received(scope, activation.segment, destination.uses)
    except NotFound:  # a partner took it back: what reads it has no members then
        Segments(scope).evaluate_all()


def as_read(activation: Activation) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a row that nobody has changed since: a process that slept may have lost its job."""
    rows = activations.c
    return rows.id == activation.id, rows.revision == activation.revision, rows.pending == activation.pending


def check_again(scope: Scope, destination: Destination, activation: Activation) -> str:
    """Take back the batches that no longer say what is wanted: what they said is decided anew by the next revision.

    Returns the digest of what that was decided from.
    """
    assert activation.pending is not None
    evaluate(scope, destination, activation)
    with scope.read() as tx:
        wanted = desired.decide(scope, tx, destination, activation)
        basis = Basis(scope, tx).of(destination, activation)
        rows = batches_of(tx, activation)
    waiting = [each for each in rows if each.state is BatchState.WAITING]
    waiting = [each for each in waiting if each.attempts or each.not_before is None]  # what is new joins the others
    now = changes.wanted_of(wanted.entries, AtTarget(file_of(scope, activation.pending)))
    spool = spool_of(scope, activation)
    untrue = [each for each in waiting if not Sent.decode(spool[ACTS, each.number]).holds(*now, wanted.labels)]
    with scope.begin() as tx:
        for batch in untrue:
            settle(scope, tx, destination, batch, BatchState.SUPERSEDED, "superseded")
        tx.execute(activations.update().where(activations.c.id == activation.id).values(checked=basis))
    return basis


def settle(
    scope: Scope, tx: Tx, destination: Destination, batch: BatchRow, state: BatchState, code: str | None
) -> None:
    """Note what became of a batch, and of the changes in it."""
    to = {
        BatchState.DELIVERED: Measure.ACTIVATED,
        BatchState.FAILED: Measure.FAILED,
        BatchState.SUPERSEDED: Measure.EXCLUDED,
    }[state]
    mine = (batches.c.id == batch.id, batches.c.state == BatchState.WAITING)
    changed = {"state": state, "code": code, "changed": scope.home.now()}
    if tx.execute(batches.update().where(*mine).values(**changed)).rowcount:
        for at, count in batch.noticed:
            counts.move(scope, tx, counts.Noticed(destination.id, batch.segment, at), count, to, code or "")


def finish(scope: Scope, activation: Activation) -> None:
    """End a revision of which no batch waits: the file of who is at the target says what was delivered, and what not."""
    assert activation.pending is not None
    with scope.read() as tx:
        done = batches_of(tx, activation)
    found = ended(scope, activation, done)
    values = found.values | {"file": found.name, "pending": None}
    if any(batch.state is BatchState.SUPERSEDED for batch in done):
        values["basis"] = ""  # the next revision decides anew what they said
    with scope.begin() as tx:
        if tx.execute(activations.update().where(*as_read(activation)).values(**values)).rowcount:
            clear(scope, tx, activation, done, found.name)
            scope.home.database.afterwards(partial(forget, spool_of(scope, activation)))


def clear(scope: Scope, tx: Tx, activation: Activation, done: Sequence[BatchRow], file: str | None) -> None:
    """Delete what is left of a revision that ended with a `file`: its batches, but for those that failed or that a target
    is not ready with, and older files."""
    delivered = [each for each in done if each.state is BatchState.DELIVERED]
    latency.book(scope, tx, activation.destination_id, delivered)
    watching.finished(scope, tx, activation.destination_id, [at for each in delivered for at, _ in each.noticed])
    mine = (batches.c.activation_id == activation.id, batches.c.revision <= activation.revision)
    waits = (*mine, batches.c.state == BatchState.DELIVERED, batches.c.handle.is_not(None))
    tx.execute(batches.update().where(*waits).values(state=BatchState.ACCEPTED))
    kept = batches.c.state.in_((BatchState.FAILED, BatchState.ACCEPTED))
    tx.execute(batches.delete().where(*mine, ~kept))
    for old in {activation.file, activation.pending} - {file, None}:
        scope.home.database.afterwards(file_of(scope, str(old)).unlink)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A revision at its end: the name of the file of who is at the target, none for nobody, and further columns."""

    pending: AtTarget
    name: str | None
    values: Document


def ended(scope: Scope, activation: Activation, done: Sequence[BatchRow]) -> Ended:
    """Return what a revision ends with; a batch that was not tried says nothing."""
    assert activation.pending is not None
    pending = AtTarget(file_of(scope, activation.pending))
    states, digests, spool = pending.states(), pending.digests(0, len(pending)), spool_of(scope, activation)
    for batch in done:
        if batch.state is not BatchState.DELIVERED:
            sent = Sent.decode(spool[ACTS, batch.number])
            states[sent.places] = _after(batch, sent)
            digests[sent.places] = sent.digests_before
    there, unremoved = int(changes.may_be_there(states).sum()), int((states == changes.State.UNREMOVED).sum())
    failed = int((states == changes.State.UNADDED).sum()) + unremoved
    name = _kept(scope, activation.pending, pending, states, digests)
    values: Document = {"present": there - failed, "failed": failed}
    values |= removals.left(activation, unremoved, scope.home.now())
    if done and all(batch.state is BatchState.DELIVERED for batch in done):
        values["confirmed"] = scope.home.now()
    return Ended(pending=pending, name=name, values=values)


def _kept(scope: Scope, name: str, pending: AtTarget, states: U8, digests: Digests) -> str | None:
    """Return the name of a file with these states and digests; None where nobody is left."""
    if not (states != changes.State.ABSENT).any():
        return None
    same = np.array_equal(states, pending.states()) and np.array_equal(digests, pending.digests(0, len(pending)))
    if same and (states != changes.State.ABSENT).all():
        return name
    name = scope.home.new_id()
    at_target.rewrite(file_of(scope, name), pending, states, digests)
    return name


def _after(batch: BatchRow, sent: Sent) -> U8:
    """Return the states that a batch leaves which was not delivered."""
    if batch.state is BatchState.FAILED:
        return changes.failed(sent.acts)
    if batch.attempts:
        return np.full(len(sent.acts), changes.State.UNKNOWN, np.uint8)
    return sent.before


def forget(spool: FileSpool, first: int = 0, end: int | None = None) -> None:
    """Delete what a spool has of batches, from one number on and before another."""
    for chunk in list(spool):
        if first <= chunk[1] and (end is None or chunk[1] < end):
            del spool[chunk]
