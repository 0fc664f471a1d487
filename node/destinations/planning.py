"""A revision of what a destination gets of a segment: the difference, as sealed batches on disk before a byte leaves."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import msgpack
import numpy as np
from sqlalchemy import ColumnElement

from psi.values import U8, Bools, Indices, Values

from ..access.scope import NothingDone, Scope
from ..errors import NotFound
from ..segments.segments import Segments
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.spool import FileSpool
from ..storage.tables import activations, batches, destinations
from . import at_target, changes, counts, desired, kinds
from .at_target import AtTarget
from .changes import Act, Change, Entries
from .codes import EXCLUDED
from .counts import Outcome
from .desired import Desired
from .members import evaluate_received
from .records import Activation, BatchRow, BatchState, Destination, batches_of, file_of, spool_of

BODY, ACTS = "body", "acts"  # what the spool has of a batch, by its number


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a batch says: `places` are those of its identities in the pending file, `before` their states until then."""

    places: Indices
    acts: U8
    before: U8
    labels: tuple[str, ...]

    def encode(self) -> bytes:
        arrays = [self.places.astype("<u8").tobytes(), self.acts.tobytes(), self.before.tobytes()]
        packed: bytes = msgpack.packb([*arrays, self.labels])
        return packed

    @classmethod
    def decode(cls, content: bytes) -> "Sent":
        places, acts, before, labels = msgpack.unpackb(content)
        return cls(
            places=np.frombuffer(places, "<u8").astype(np.intp),
            acts=np.frombuffer(acts, np.uint8),
            before=np.frombuffer(before, np.uint8),
            labels=tuple(labels),
        )

    def holds(self, now: U8, labels: tuple[str, ...]) -> bool:
        """Return whether it is still what should be said; `now` are the states that are wanted of the pending file."""
        return self.labels == labels and bool(changes.holds(self.acts, now[self.places]).all())


def is_due(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> bool:
    """Return whether a new revision has to be planned: none is under way, and what the last was decided from has changed."""
    if activation.pending is not None:
        return False
    return activation.replay or desired.basis(scope, tx, destination, activation) != activation.basis


def evaluate(scope: Scope, destination: Destination, activation: Activation) -> None:
    """Evaluate what a decision reads of received segments, whose times may be over."""
    try:
        evaluate_received(scope, activation.segment, destination.uses)
    except NotFound:  # a partner took it back: what reads it has no members then
        Segments(scope).evaluate_all()


def plan(scope: Scope, destination: Destination, activation: Activation) -> bool:
    """Begin the next revision of an activation; return whether anything has to be sent.

    Everything is on disk before the rows say so: a kill leaves files that nobody names.
    """
    evaluate(scope, destination, activation)
    with scope.read() as tx:
        wanted = desired.decide(scope, tx, destination, activation)
        basis = desired.basis(scope, tx, destination, activation)
    planner = _Planner(scope, destination, activation, wanted)
    before = at_target.opened(None if activation.file is None else file_of(scope, activation.file))
    name = scope.home.new_id()
    width = max(at_target.width_of(before), at_target.width_of(wanted.entries))
    at_target.write(file_of(scope, name), width, planner.parts(before))
    detail: Document = {"segment": activation.segment, "revision": planner.revision, **planner.size()}
    values = {"basis": basis, "checked": basis, "revision": planner.revision, "replay": False, "pending": name}
    values |= {"stopped": wanted.stopped}
    mine = _as_read(activation)
    if not planner.rows:
        with scope.begin() as tx:
            if tx.execute(activations.update().where(*mine).values(**values)).rowcount:
                planner.count(tx)
        return False
    with scope.act("destination.send", destination.name, detail=detail) as tx:
        if not tx.execute(activations.update().where(*mine).values(**values)).rowcount:
            raise NothingDone
        tx.execute(batches.insert(), planner.rows)
        messages = {"messages": destinations.c.messages + len(planner.rows)}
        tx.execute(destinations.update().where(destinations.c.id == destination.id).values(**messages))
        planner.count(tx)
    return True


def _as_read(activation: Activation) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a row that nobody has changed since: a process that slept may have lost its job."""
    rows = activations.c
    return rows.id == activation.id, rows.revision == activation.revision, rows.pending == activation.pending


class _Planner:
    """Writes the batches of one revision while its pending file is being written."""

    def __init__(self, scope: Scope, destination: Destination, activation: Activation, wanted: Desired) -> None:
        self._scope, self._destination, self._activation, self._wanted = scope, destination, activation, wanted
        self.revision = activation.revision + 1
        self.rows: list[Document] = []
        self._now = scope.home.now()
        self._kind = kinds.kind(destination.kind)
        self._target = self._kind.open(scope.home, destination.settings, None)
        self._spool = spool_of(scope, activation)
        self._excluded = dict.fromkeys(EXCLUDED, 0)
        self._said: list[tuple[Values, U8, U8, Indices]] = []  # what the next batch will say
        self._waiting = 0

    def parts(self, before: Entries) -> Iterator[tuple[Values, U8]]:
        """Yield the entries of the pending file: all that is known afterwards, and all of whom something is said."""
        written = 0
        for change in changes.difference(self._wanted.entries, before):
            acts = change.acts(replay=self._activation.replay)
            after = change.said(acts)
            for state, count in change.newly_excluded().items():
                self._excluded[state] += count
            kept = (after != changes.State.ABSENT) | (acts != Act.NOTHING)
            self._say(change, acts, kept, written)
            written += int(kept.sum())
            yield change.values.take(kept), after[kept]
        while self._waiting:
            self._write(self._waiting)
        self._target.close()

    def size(self) -> Document:
        return {name: sum(row[name] for row in self.rows) for name in ("adds", "removes")}

    def count(self, tx: Tx) -> None:
        """Count what was noticed: changes that wait, and people who must stay away."""
        of = counts.Noticed(self._destination.id, self._activation.segment, self._now)
        counts.add(self._scope, tx, of, Outcome.WAITING, sum(self.size().values()))
        for state, count in self._excluded.items():
            counts.add(self._scope, tx, of, Outcome.EXCLUDED, count, EXCLUDED[state])

    def _say(self, change: Change, acts: U8, kept: Bools, written: int) -> None:
        places = np.cumsum(kept) - 1 + written
        said = acts != Act.NOTHING
        if said.any():
            self._said.append((change.values.take(said), acts[said], change.before[said], places[said]))
            self._waiting += int(said.sum())
        while self._waiting >= self._kind.limit:
            self._write(self._kind.limit)

    def _write(self, size: int) -> None:
        """Seal the next batch: its body, and what it says of which places."""
        values = Values.join([each[0] for each in self._said])
        acts, before, places = (np.concatenate([each[part] for each in self._said]) for part in (1, 2, 3))
        size = min(size, len(values))
        rest = slice(size, len(values))
        self._said = [(values.part(rest), acts[rest], before[rest], places[rest])] if size < len(values) else []
        self._waiting = len(values) - size
        acts, before, places = acts[:size], before[:size], places[:size]
        number = len(self.rows)
        batch = kinds.Batch(
            id=self._scope.home.new_id(),  # a home that was restored plans other batches under the same numbers
            at=self._now,
            destination=self._destination.name,
            segment=self._activation.segment,
            segment_id=self._wanted.segment_id,
            labels=self._wanted.labels,
            identity=self._destination.identity,
            revision=self.revision,
            number=number,
            values=values.part(slice(0, size)),
            acts=acts,
        )
        self._spool[BODY, number] = self._target.encode(batch)
        self._spool[ACTS, number] = Sent(places=places, acts=acts, before=before, labels=self._wanted.labels).encode()
        adds = int((acts == Act.ADD).sum())
        self.rows.append(
            {
                "id": batch.id,
                "destination_id": self._destination.id,
                "activation_id": self._activation.id,
                "segment": self._activation.segment,
                "revision": self.revision,
                "number": number,
                "sequence": self._destination.messages + number + 1,
                "adds": adds,
                "removes": size - adds,
                "state": BatchState.WAITING,
                "attempts": 0,
                "created": self._now,
                "changed": self._now,
            }
        )


def check_again(scope: Scope, destination: Destination, activation: Activation) -> None:
    """Take back the batches that no longer say what is wanted: what they said is decided anew by the next revision."""
    assert activation.pending is not None
    evaluate(scope, destination, activation)
    with scope.read() as tx:
        wanted = desired.decide(scope, tx, destination, activation)
        basis = desired.basis(scope, tx, destination, activation)
        waiting = [each for each in batches_of(tx, activation) if each.state is BatchState.WAITING]
    now = changes.states_of(wanted.entries, AtTarget(file_of(scope, activation.pending)))
    spool = spool_of(scope, activation)
    untrue = [each for each in waiting if not Sent.decode(spool[ACTS, each.number]).holds(now, wanted.labels)]
    with scope.begin() as tx:
        for batch in untrue:
            settle(scope, tx, destination, batch, BatchState.SUPERSEDED, "superseded")
        tx.execute(activations.update().where(activations.c.id == activation.id).values(checked=basis))


def settle(
    scope: Scope, tx: Tx, destination: Destination, batch: BatchRow, state: BatchState, code: str | None
) -> None:
    """Note what became of a batch, and of the changes in it."""
    to = {
        BatchState.DELIVERED: Outcome.ACTIVATED,
        BatchState.FAILED: Outcome.FAILED,
        BatchState.SUPERSEDED: Outcome.EXCLUDED,
    }[state]
    mine = (batches.c.id == batch.id, batches.c.state == BatchState.WAITING)
    changed = {"state": state, "code": code, "changed": scope.home.now()}
    if tx.execute(batches.update().where(*mine).values(**changed)).rowcount:
        counts.move(
            scope, tx, counts.Noticed(destination.id, batch.segment, batch.created), batch.changes, to, code or ""
        )


def finish(scope: Scope, activation: Activation) -> None:
    """End a revision of which no batch waits: the file of who is at the target says what was delivered, and what not."""
    assert activation.pending is not None
    with scope.read() as tx:
        done = batches_of(tx, activation)
    pending = AtTarget(file_of(scope, activation.pending))
    states, spool = pending.states(), spool_of(scope, activation)
    for batch in done:
        if batch.state is not BatchState.DELIVERED:
            sent = Sent.decode(spool[ACTS, batch.number])
            states[sent.places] = _after(batch, sent)
    there = int(((states >= changes.State.PRESENT) & (states < changes.State.CONSENT)).sum())
    failed = int(((states == changes.State.UNADDED) | (states == changes.State.UNREMOVED)).sum())
    name = _kept(scope, activation.pending, pending, states)
    values: Document = {"file": name, "pending": None, "present": there - failed, "failed": failed}
    if done and all(batch.state is BatchState.DELIVERED for batch in done):
        values["confirmed"] = scope.home.now()
    if any(batch.state is BatchState.SUPERSEDED for batch in done):
        values["basis"] = ""  # the next revision decides anew what they said
    with scope.begin() as tx:
        if not tx.execute(activations.update().where(*_as_read(activation)).values(**values)).rowcount:
            return
        kept = batches.c.state == BatchState.FAILED
        tx.execute(batches.delete().where(batches.c.activation_id == activation.id, ~kept))
        for old in {activation.file, activation.pending} - {name, None}:
            scope.home.database.afterwards(file_of(scope, str(old)).unlink)
        scope.home.database.afterwards(partial(_forget, spool))


def _kept(scope: Scope, name: str, pending: AtTarget, states: U8) -> str | None:
    """Return the name of a file with these states; None where nobody is left."""
    if not (states != changes.State.ABSENT).any():
        return None
    if np.array_equal(states, pending.states()) and (states != changes.State.ABSENT).all():
        return name
    name = scope.home.new_id()
    at_target.rewrite(file_of(scope, name), pending, states)
    return name


def _after(batch: BatchRow, sent: Sent) -> U8:
    """Return the states that a batch leaves which was not delivered."""
    if batch.state is BatchState.FAILED:
        return changes.failed(sent.acts)
    if batch.attempts:
        return np.full(len(sent.acts), changes.State.UNKNOWN, np.uint8)
    return sent.before


def _forget(spool: FileSpool) -> None:
    for chunk in list(spool):
        del spool[chunk]
