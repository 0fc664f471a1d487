"""What has to be said to a target: who should be there, minus who is there. Pure decisions about sorted identities.

Backfill, reactivation, removal, hand-over and replay are all this difference: of an empty target, an empty wish, or
what one that failed left unknown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from psi.values import SLICE, U8, Bools, Indices, Values


class State(IntEnum):
    """What is known of an identity in a segment at a target; from CONSENT on, why it must not be there."""

    ABSENT = 0
    PRESENT = 1
    UNKNOWN = 2  # it was tried, and nobody knows how that ended: the next revision says it again
    UNADDED = 3  # adding failed for good: nothing is said before a replay, or until it should go
    UNREMOVED = 4  # removing failed for good
    CONSENT = 16
    POLICY_CONSENT = 17
    LABEL = 18
    RESTRICTED_USE = 19


EXCLUDED = tuple(state for state in State if state >= State.CONSENT)


class Act(IntEnum):
    """What is said of an identity."""

    NOTHING = 0
    ADD = 1
    REMOVE = 2


class Entries(Protocol):
    """Identities with a state each, sorted and without repetition, that need not be in memory."""

    def __len__(self) -> int: ...
    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        """Return consecutive identities and their states, uint8 (n,)."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """Entries in memory."""

    values: Values
    states: U8

    def __len__(self) -> int:
        return len(self.states)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        return self.values.part(slice(start, stop)), self.states[start:stop]


NOBODY = Listed(Values.of([]), np.zeros(0, np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Some consecutive identities of either side: the state at the target, and the one that is wanted. uint8 (n,) each."""

    values: Values
    before: U8
    wanted: U8

    def acts(self, *, replay: bool = False) -> U8:
        """Return what is to be said of each identity, an Act each; `replay` says again what failed for good."""
        wants = self.wanted == State.PRESENT
        refused = np.where(wants, self.before == State.UNADDED, self.before == State.UNREMOVED)
        may_be_there = (self.before >= State.PRESENT) & (self.before < State.CONSENT)
        say = np.where(wants, self.before != State.PRESENT, may_be_there)
        if not replay:
            say &= ~refused
        return np.where(say, np.where(wants, Act.ADD, Act.REMOVE), Act.NOTHING).astype(np.uint8)

    def said(self, acts: U8) -> U8:
        """Return the state of each identity once all acts are done."""
        failed = (self.before == State.UNADDED) | (self.before == State.UNREMOVED)
        return np.where((acts == Act.NOTHING) & failed, self.before, self.wanted)

    def newly_excluded(self) -> dict[State, int]:
        """Return how many come into the segment and must stay away all the same, by reason."""
        new = self.wanted[self.before == State.ABSENT]
        return {state: found for state in EXCLUDED if (found := int((new == state).sum()))}


def failed(acts: U8) -> U8:
    """Return the states that acts leave which failed for good."""
    return np.where(acts == Act.ADD, State.UNADDED, State.UNREMOVED).astype(np.uint8)


def holds(acts: U8, wanted: U8) -> Bools:
    """Return which acts still say what is wanted: those of a batch that has waited."""
    return np.asarray((acts == Act.ADD) == (wanted == State.PRESENT))


def difference(wanted: Entries, at_target: Entries, *, size: int = SLICE) -> Iterator[Change]:
    """Yield all identities of both sides in order, each once, about `size` at a time."""
    left, right = 0, 0
    while left < len(wanted) or right < len(at_target):
        ours, states = wanted.part(left, min(left + size, len(wanted)))
        theirs, known = at_target.part(right, min(right + size, len(at_target)))
        width = max(ours.rows.shape[1], theirs.rows.shape[1])
        keys, other = _keys(ours, width), _keys(theirs, width)
        # What follows after a part is larger than all of it: nothing beyond the smaller end is complete.
        ends = [
            key[-1] for key, more in ((keys, left + size < len(wanted)), (other, right + size < len(at_target))) if more
        ]
        take, also = len(keys), len(other)
        if ends:
            end = min(ends)
            take, also = (int(np.searchsorted(each, end, side="right")) for each in (keys, other))
        union, places = np.unique(np.concatenate([keys[:take], other[:also]]), return_index=True)
        values = Values.join([ours.part(slice(0, take)), theirs.part(slice(0, also))]).take(places)
        yield Change(
            values=values,
            before=_placed(union, other[:also], known[:also]),
            wanted=_placed(union, keys[:take], states[:take]),
        )
        left, right = left + take, right + also


def states_of(wanted: Entries, of: Entries, *, size: int = SLICE) -> U8:
    """Return the state that is wanted of each identity in `of`, uint8 (n,); ABSENT where it is not among the wanted."""
    found, place = np.zeros(len(of), np.uint8), 0
    mark = _Marked(of)
    for change in difference(wanted, mark, size=size):
        there = change.wanted[change.before == State.PRESENT]
        found[place : place + len(there)] = there
        place += len(there)
    return found


@dataclass(frozen=True, slots=True)
class _Marked:
    """Entries that all count as present."""

    entries: Entries

    def __len__(self) -> int:
        return len(self.entries)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        values, states = self.entries.part(start, stop)
        return values, np.full(len(states), State.PRESENT, np.uint8)


def _placed(union: npt.NDArray[np.bytes_], keys: npt.NDArray[np.bytes_], states: U8) -> U8:
    found = np.zeros(len(union), np.uint8)
    places: Indices = np.searchsorted(union, keys)
    found[places] = states
    return found


def _keys(values: Values, width: int) -> npt.NDArray[np.bytes_]:
    """Return byte strings that compare as the values do, bytes (n,): the row, and the length, which is never 0."""
    rows = np.zeros((len(values), width + 1), np.uint8)
    rows[:, : values.rows.shape[1]] = values.rows
    rows[:, width] = values.rows.shape[1] if values.lengths is None else values.lengths
    return rows.view(f"S{width + 1}")[:, 0]
