"""A revision of what a destination gets of a segment: the difference, as sealed batches on disk before a byte leaves."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from psi.errors import Remedy
from psi.values import U8, Indices, Values

from ..access.scope import NothingDone, Scope
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import HOUR, activations, batches, destinations
from . import at_target, changes, counts, desired, joining, kinds, removals, watching
from .additions import Additions
from .aggregation import Aggregation
from .at_target import AtTarget
from .brake import Brake, Hold, alert
from .changes import Act, Change, Digests, Entries
from .codes import EXCLUDED, reason
from .counts import Measure
from .desired import Desired
from .joining import Joined, Times
from .mapping import Cells
from .records import Activation, ActivationStatus, BatchState, Destination, file_of, spool_of
from .settling import ACTS, BODY, Sent, as_read, evaluate, forget


def is_asked_for(activation: Activation, now: int) -> bool:
    """Return whether a revision is due though nothing has changed: a replay, a person's yes, or removals that failed."""
    return activation.replay or (activation.released and activation.held > 0) or removals.are_due(activation, now)


def plan(scope: Scope, destination: Destination, activation: Activation, basis: str) -> None:
    """Begin the next revision of an activation; `basis` is the digest of what it is decided from, or of what was a moment ago.

    Everything is on disk before the rows say so: a kill leaves files that nobody names. What the last one has not tried yet,
    this one takes over.
    """
    evaluate(scope, destination, activation)
    with scope.read() as tx:
        wanted = desired.decide(scope, tx, destination, activation)
    taken = None if activation.pending is None else joining.joined(scope, activation)
    if activation.pending is not None and taken is None:
        return
    before = activation if taken is None else taken.before
    planner = _planned(scope, destination, before, wanted, taken)
    held = planner.brake.removals if planner.brake.hold is Hold.ON else 0
    detail: Document = {"segment": activation.segment, "revision": planner.revision, **planner.size()}
    values: Document = {} if taken is None else {**taken.values}
    values |= {"basis": basis, "checked": basis, "revision": planner.revision, "replay": False, "pending": planner.name}
    values |= {"stopped": wanted.stopped, "held": held, "released": False}
    stays = destination.is_audience_manager and activation.status is ActivationStatus.ACTIVE
    if stays and wanted.labels != tuple(activation.told_labels or ()):
        values |= {"audience": None, "told_labels": list(wanted.labels)}  # it is told of the segment again
    if planner.again:
        values |= removals.said(scope.home.now())
    mine = as_read(activation)
    if not planner.rows:
        with scope.begin() as tx:
            if tx.execute(activations.update().where(*mine).values(**values)).rowcount:
                planner.count(tx)
                if taken is not None:
                    taken.end(scope, tx, activation)
                alert(scope, tx, destination, activation, held)
        return
    with scope.act("destination.send", destination.name, detail=detail) as tx:
        if not tx.execute(activations.update().where(*mine).values(**values)).rowcount:
            raise NothingDone
        tx.execute(batches.insert(), planner.rows)
        messages = {"messages": destinations.c.messages + len(planner.rows)}
        tx.execute(destinations.update().where(destinations.c.id == destination.id).values(**messages))
        planner.count(tx)
        if taken is not None:
            taken.end(scope, tx, activation)
        alert(scope, tx, destination, activation, held)


def _planned(
    scope: Scope, destination: Destination, activation: Activation, wanted: Desired, taken: Joined | None
) -> "_Planner":
    """Return a revision whose files are written: one that the brake lets go, or without what it holds, and with the
    removals that failed if others are due. A person's yes is to as many as were held then, and to no more."""
    now, hold = scope.home.now(), Hold.OFF
    again = removals.are_due(activation, now)
    allowed = activation.held if activation.released else 0
    if wanted.brakes and activation.file is not None:
        hold = Hold.ON if activation.held else Hold.COUNT
    while True:
        may_stay = _may_stay(scope, destination, activation) if hold is Hold.ON else np.zeros(0, np.uint8)
        brake = Brake(scope, destination, hold, may_stay)
        planner = _Planner(scope, destination, activation, wanted, _Run(brake, again, taken))
        planner.write()
        over = planner.brake.is_over and planner.brake.removals > allowed
        if hold is not Hold.OFF and over != (hold is Hold.ON):
            hold = Hold.ON if hold is Hold.COUNT else Hold.OFF
        elif not again and planner.size()["removes"] and removals.may_join(activation, now):
            again = True
        else:
            return planner
        planner.discard()


def _may_stay(scope: Scope, destination: Destination, activation: Activation) -> U8:
    """Return the state that each who is at the target would have as a member, uint8 (n,)."""
    assert activation.file is not None
    with scope.read() as tx:
        everyone = desired.everyone(scope, tx, destination, activation)
    return changes.states_of(everyone, AtTarget(file_of(scope, activation.file)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What is said of some identities; the attributes by field, for who is added."""

    values: Values
    acts: U8
    before: U8
    places: Indices
    digests: Digests
    digests_before: Digests
    noticed: Times
    attributes: dict[str, Cells] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.acts)

    def part(self, rows: slice) -> "_Said":
        return _Said(
            values=self.values.part(rows),
            attributes={name: cells[rows] for name, cells in self.attributes.items()},
            **{name: getattr(self, name)[rows] for name in _ARRAYS},
        )

    def of(self, act: Act) -> "_Said":
        """Return the additions, or the removals, alone."""
        kept = self.acts == act
        return _Said(
            values=self.values.take(kept),
            attributes={name: cells[kept] for name, cells in self.attributes.items()},
            **{name: getattr(self, name)[kept] for name in _ARRAYS},
        )

    @classmethod
    def join(cls, parts: "Sequence[_Said]") -> "_Said":
        if len(parts) == 1:
            return parts[0]
        return cls(
            values=Values.join([each.values for each in parts]),
            attributes={
                name: np.concatenate([each.attributes[name] for each in parts]) for name in parts[0].attributes
            },
            **{name: np.concatenate([getattr(each, name) for each in parts]) for name in _ARRAYS},
        )


_ARRAYS = ("acts", "before", "places", "digests", "digests_before", "noticed")


@dataclass(frozen=True, slots=True)
class _Run:
    """What a revision is written under: the brake, whether removals that failed are said again, and what it takes over."""

    brake: Brake
    again: bool
    taken: Joined | None


class _Planner:
    """Writes the batches of one revision while its pending file is being written."""

    def __init__(
        self,
        scope: Scope,
        destination: Destination,
        activation: Activation,
        wanted: Desired,
        run: _Run,
    ) -> None:
        self._scope, self._destination, self._activation, self._wanted = scope, destination, activation, wanted
        self.brake, self.again = run.brake, run.again
        self._first = 0 if run.taken is None else run.taken.number
        self._carried = joining.NONE if run.taken is None else run.taken.carried
        self._still = np.zeros(len(self._carried.acts), bool)  # which of them are said by this revision
        self.name = scope.home.new_id()
        self.revision = activation.revision + 1
        self.rows: list[Document] = []
        self._now = scope.home.now()
        kind = kinds.kind(destination.kind, destination.settings)
        self._aggregation = Aggregation.of(destination.settings, kind.limit)
        if activation.status is ActivationStatus.LEAVING:
            self._aggregation = replace(self._aggregation, age=0)
        self._target = kinds.opened(scope, destination, None)
        self._spool = spool_of(scope, activation)
        self._excluded = dict.fromkeys(EXCLUDED, 0)
        self._said: dict[int, list[_Said]] = {}  # what the next batch of each group will say

    def write(self) -> None:
        """Write the pending file, and the batches."""
        file = self._activation.file
        before = at_target.opened(None if file is None else file_of(self._scope, file))
        width = max(changes.width_of(before), changes.width_of(self._wanted.entries))
        mapped = self._wanted.mapped is not None
        try:
            at_target.write(file_of(self._scope, self.name), width, self._parts(before), mapped=mapped)
        finally:
            self._target.close()

    def discard(self) -> None:
        """Delete what was written."""
        file_of(self._scope, self.name).unlink()
        forget(self._spool, self._first)

    def _parts(self, before: Entries) -> Iterator[tuple[Values, U8, Digests]]:
        """Yield the entries of the pending file: all that is known afterwards, and all of whom something is said.

        Removals are put into messages first: who withdrew does not wait for all who come.
        """
        written, removals_first, additions = 0, len(before) > 0, Additions()
        for change in changes.difference(self._wanted.entries, before):
            acts = change.acts(replay=self._activation.replay, removals=self.again)
            carried = self._carried.places(change.values)
            acts = np.where(carried < 0, acts, change.acts(replay=True))
            held = self.brake.held(change, acts) & (carried < 0)
            acts[held] = Act.NOTHING
            after = np.where(held, change.before, change.said(acts))
            for state, count in change.newly_excluded().items():
                self._excluded[state] += count
            kept = (after != changes.State.ABSENT) | (acts != Act.NOTHING)
            places = written + np.cumsum(kept) - 1
            if removals_first:
                self._say(change, acts, places, (Act.REMOVE,))
                additions.put(change, acts, kept, places)
            else:
                self._say(change, acts, places)
            written += int(kept.sum())
            digests = np.where(held, change.digests_before, change.digests)
            yield change.values.take(kept), after[kept], digests[kept]
        for change, acts, places in additions.taken(lambda: changes.difference(self._wanted.entries, before)):
            self._say(change, acts, places, (Act.ADD,))
        for group in sorted(self._said, key=self._turn):
            self._write(group)

    def _turn(self, group: int) -> tuple[int, int]:
        """Return what a group's last message is sorted by: that of which a change has waited longest comes first."""
        oldest = min(int(part.noticed.min()) for part in self._said[group])
        return oldest if self._aggregation.age else 0, -group

    def size(self) -> Document:
        return {name: sum(row[name] for row in self.rows) for name in ("adds", "removes")}

    def count(self, tx: Tx) -> None:
        """Count what was noticed: changes that wait, or could not be put into bytes, and people who must stay away."""
        segment, codes = self._activation.segment, {row["code"] for row in self.rows} - {None}
        found = Counter[tuple[str, int]]()
        for row in self.rows:
            for hour, count in row["hours"] or [(row["created"], row["adds"] + row["removes"])]:
                found[row["code"] or "", hour // HOUR * HOUR] += count
        for (code, hour), count in found.items():
            of = counts.Noticed(self._destination.id, segment, hour)
            counts.add(self._scope, tx, of, Measure.FAILED if code else Measure.WAITING, count, code)
        self._carried.count(self._scope, tx, self._destination, segment, self._still)
        if codes:
            what = f"gets no message of some changes of {segment}: {', '.join(map(reason, sorted(codes)))}"
            remedy = Remedy("destination.errors", {"name": self._destination.name})
            watching.failed(self._scope, tx, self._destination, what, remedy)
        of = counts.Noticed(self._destination.id, segment, self._now)
        for state, count in self._excluded.items():
            counts.add(self._scope, tx, of, Measure.EXCLUDED, count, EXCLUDED[state])
        watching.planned(self._scope, tx, self._destination, self._now, started=bool(self.rows))

    def _say(self, change: Change, acts: U8, places: Indices, only: Sequence[Act] = (Act.REMOVE, Act.ADD)) -> None:
        """Take in what is said of some identities; `places` are those in the pending file."""
        acts = acts * np.isin(acts, only)  # the others are NOTHING
        for group in only if self._aggregation.by_status else [0]:
            said = acts == group if group else acts != Act.NOTHING
            if not said.any():
                continue
            waiting, values = self._said.setdefault(group, []), change.values.take(said)
            waiting.append(
                _Said(
                    values=values,
                    acts=acts[said],
                    before=change.before[said],
                    places=places[said],
                    digests=change.digests[said],
                    digests_before=change.digests_before[said],
                    noticed=self._carried.since(values, acts[said], self._now, self._still),
                    attributes=self._attributes(acts[said], change.origins[said]),
                )
            )
            while sum(map(len, self._said.get(group, ()))) >= self._aggregation.limit:
                self._write(group)

    def _attributes(self, acts: U8, origins: Indices) -> dict[str, Cells]:
        """Return by field what is said of whom is added; of all others nothing leaves."""
        if self._wanted.mapped is None:
            return {}
        adds = acts == Act.ADD
        found = self._wanted.mapped.cells(self._wanted.profiles[origins[adds]])
        whole = {name: np.full(len(acts), None, object) for name in found}
        for name, cells in found.items():
            whole[name][adds] = cells
        return whole

    def _write(self, group: int) -> None:
        """Seal the next batch of a group; where nothing can be made of it, its removals go without the additions."""
        waiting, size = _Said.join(self._said.pop(group)), self._aggregation.limit
        said, rest = waiting.part(slice(0, size)), waiting.part(slice(size, len(waiting)))
        if len(rest):
            self._said[group] = [rest]
        if not self._seal(said, failing=not np.ptp(said.acts)):
            for act in (Act.REMOVE, Act.ADD):
                self._seal(said.of(act))

    def _seal(self, said: _Said, *, failing: bool = True) -> bool:
        """Seal a batch: its body, and what it says of which places. One that cannot be put into bytes has failed; if that is
        not `failing`, nothing is kept of it and False is returned."""
        number, noticed = self._first + len(self.rows), int(said.noticed.min())
        hours = joining.hours(said.noticed)
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
            sequence=self._destination.messages + len(self.rows) + 1,
            values=said.values,
            acts=said.acts,
            attributes={name: cells.tolist() for name, cells in said.attributes.items()},
            external_id=self._activation.external_id,
            first=self._activation.file is None and not self.rows,
        )
        code = None
        try:
            self._spool[BODY, number] = self._target.encode(batch)
        except kinds.NotEncoded as error:
            if not failing:
                return False
            code = error.code
        sent = {name: getattr(said, name) for name in _ARRAYS}
        self._spool[ACTS, number] = Sent(labels=self._wanted.labels, **sent).encode()
        adds, failed = int((said.acts == Act.ADD).sum()), int(changes.have_failed(said.before).sum())
        self.rows.append(
            {
                "id": batch.id,
                "destination_id": self._destination.id,
                "activation_id": self._activation.id,
                "segment": self._activation.segment,
                "revision": self.revision,
                "number": number,
                "sequence": batch.sequence,
                "adds": adds,
                "removes": len(said) - adds,
                "known": int(changes.may_be_there(said.before).sum()) - failed,
                "unsettled": failed,
                "state": BatchState.WAITING if code is None else BatchState.FAILED,
                "attempts": 0,
                "code": code,
                "not_before": self._aggregation.until(noticed, len(said)),
                "hours": hours if len(hours) > 1 else None,
                "created": noticed,
                "changed": self._now,
            }
        )
        return True
