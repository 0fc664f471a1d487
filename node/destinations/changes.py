"""What has to be said to a target: who should be there, minus who is there. Pure decisions about sorted identities.

Backfill, reactivation, removal, hand-over and replay are all this difference: of an empty target, an empty wish, or
what one that failed left unknown.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from psi.join import prefixes
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
    MISSING_MAPPING = 20
    NAMESPACE = 21


_EXCLUDED = tuple(state for state in State if state >= State.CONSENT)


class Act(IntEnum):
    """What is said of an identity."""

    NOTHING = 0
    ADD = 1
    REMOVE = 2


T = TypeVar("T", bound=np.generic)
Digests = npt.NDArray[np.uint64]  # of the attributes that are mapped, one for each identity; 0 where none are


class Entries(Protocol):
    """Identities with a state each, sorted and without repetition, that need not be in memory."""

    def __len__(self) -> int: ...
    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        """Return consecutive identities and their states, uint8 (n,)."""
        ...

    def digests(self, start: int, stop: int) -> Digests:
        """Return the digests of their attributes, uint64 (n,)."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """Entries in memory."""

    values: Values
    states: U8
    marks: Digests | None = None

    def __len__(self) -> int:
        return len(self.states)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        return self.values.part(slice(start, stop)), self.states[start:stop]

    def digests(self, start: int, stop: int) -> Digests:
        return np.zeros(stop - start, np.uint64) if self.marks is None else self.marks[start:stop]


NOBODY = Listed(Values.of([]), np.zeros(0, np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Some consecutive identities of either side: the state at the target, and the one that is wanted, uint8 (n,) each.

    The digests, uint64 (n,), are of the attributes that the target has, and of those that it should have. `origins` are
    places among the wanted, int64 (n,), -1 where an identity is not among them.
    """

    values: Values
    before: U8
    wanted: U8
    digests_before: Digests
    digests: Digests
    origins: Indices

    def take(self, which: Bools) -> "Change":
        """Return some of the identities, bool (n,)."""
        return Change(
            values=self.values.take(which),
            before=self.before[which],
            wanted=self.wanted[which],
            digests_before=self.digests_before[which],
            digests=self.digests[which],
            origins=self.origins[which],
        )

    def acts(self, *, replay: bool = False, removals: bool = False) -> U8:
        """Return what is to be said of each identity, an Act each; `replay` says again what failed for good, `removals`
        those removals of it that are still right."""
        wants = self.wanted == State.PRESENT
        refused = np.where(wants, self.before == State.UNADDED, self.before == State.UNREMOVED)
        new = (self.before != State.PRESENT) | (self.digests_before != self.digests)
        say = np.where(wants, new, may_be_there(self.before))
        if not replay:
            say &= ~(refused & wants) if removals else ~refused
        return np.where(say, np.where(wants, Act.ADD, Act.REMOVE), Act.NOTHING).astype(np.uint8)

    def said(self, acts: U8) -> U8:
        """Return the state of each identity once all acts are done."""
        return np.where((acts == Act.NOTHING) & have_failed(self.before), self.before, self.wanted)

    def newly_excluded(self) -> dict[State, int]:
        """Return how many come into the segment and must stay away all the same, by reason."""
        new = self.wanted[self.before == State.ABSENT]
        return {state: found for state in _EXCLUDED if (found := int((new == state).sum()))}


def width_of(entries: Entries) -> int:
    return int(entries.part(0, 0)[0].rows.shape[1])


def may_be_there(states: U8) -> Bools:
    """Return which identities a target has, or may have."""
    return np.asarray((states >= State.PRESENT) & (states < State.CONSENT))


def have_failed(states: U8) -> Bools:
    """Return of which identities the last thing that was said failed for good."""
    return np.asarray((states == State.UNADDED) | (states == State.UNREMOVED))


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
        # What follows after a part is larger than all of it: nothing beyond the smaller end is complete.
        ends = [
            side[-1]
            for side, more in ((ours, left + size < len(wanted)), (theirs, right + size < len(at_target)))
            if more
        ]
        take, also = len(ours), len(theirs)
        if ends:
            take, also = (bisect_right(range(len(side)), min(ends), key=side.__getitem__) for side in (ours, theirs))
        values, ours_at, theirs_at = _merged(ours.part(slice(0, take)), theirs.part(slice(0, also)))
        yield Change(
            values=values,
            before=_placed(len(values), theirs_at, known[:also]),
            wanted=_placed(len(values), ours_at, states[:take]),
            digests_before=_placed(len(values), theirs_at, at_target.digests(right, right + also)),
            digests=_placed(len(values), ours_at, wanted.digests(left, left + take)),
            origins=_placed(len(values), ours_at, np.arange(left + 1, left + take + 1)) - 1,
        )
        left, right = left + take, right + also


def states_of(wanted: Entries, of: Entries, *, size: int = SLICE) -> U8:
    """Return the state that is wanted of each identity in `of`, uint8 (n,); ABSENT where it is not among the wanted."""
    return wanted_of(wanted, of, size=size)[0]


def wanted_of(wanted: Entries, of: Entries, *, size: int = SLICE) -> tuple[U8, Digests]:
    """Return the same, and the digests that are wanted, uint64 (n,)."""
    found, digests, place = np.zeros(len(of), np.uint8), np.zeros(len(of), np.uint64), 0
    mark = _Marked(of)
    for change in difference(wanted, mark, size=size):
        there = change.before == State.PRESENT
        part = slice(place, place + int(there.sum()))
        found[part], digests[part] = change.wanted[there], change.digests[there]
        place = part.stop
    return found, digests


@dataclass(frozen=True, slots=True)
class _Marked:
    """Entries that all count as present."""

    entries: Entries

    def __len__(self) -> int:
        return len(self.entries)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        values, states = self.entries.part(start, stop)
        return values, np.full(len(states), State.PRESENT, np.uint8)

    def digests(self, start: int, stop: int) -> Digests:
        return np.zeros(stop - start, np.uint64)


def _placed(count: int, places: Indices, given: npt.NDArray[T]) -> npt.NDArray[T]:
    found = np.zeros(count, given.dtype)
    found[places] = given
    return found


Merged = tuple[Values, Indices, Indices]  # both sides, and where each one's identities stand among them


def _merged(ours: Values, theirs: Values) -> Merged:
    """Return the identities of two sorted sides, each once and in order, and the places that those of each side have."""
    if not len(theirs):
        return ours, np.arange(len(ours)), np.arange(0)
    if not len(ours):
        return theirs, np.arange(0), np.arange(len(theirs))
    return _merged_by_beginnings(ours, theirs) or _merged_by_keys(ours, theirs)


def _merged_by_beginnings(ours: Values, theirs: Values) -> Merged | None:
    """Merge by the first eight bytes; None where these do not tell the identities apart: hashes they do."""
    width, mine, other = ours.rows.shape[1], prefixes(ours.rows), prefixes(theirs.rows)
    if width != theirs.rows.shape[1] or any((each[1:] <= each[:-1]).any() for each in (mine, other)):
        return None
    at: Indices = np.searchsorted(mine, other)
    same = mine[np.minimum(at, len(mine) - 1)] == other
    common = ours.take(at[same])
    if (common.rows != theirs.rows[same]).any() or (_lengths(common) != _lengths(theirs)[same]).any():
        return None
    new = ~same
    ours_at = np.arange(len(mine)) + np.cumsum(np.bincount(at[new], minlength=len(mine)))[: len(mine)]
    theirs_at = np.empty(len(other), np.intp)
    theirs_at[same], theirs_at[new] = ours_at[at[same]], at[new] + np.arange(np.count_nonzero(new))
    rows = np.empty((len(mine) + np.count_nonzero(new), width), np.uint8)
    rows[ours_at], rows[theirs_at[new]] = ours.rows, theirs.rows[new]
    lengths = np.empty(len(rows), np.uint8)
    lengths[ours_at], lengths[theirs_at] = _lengths(ours), _lengths(theirs)
    return Values(rows, None if (lengths == width).all() else lengths), ours_at, theirs_at


def _merged_by_keys(ours: Values, theirs: Values) -> Merged:
    """Merge by all bytes."""
    width = max(ours.rows.shape[1], theirs.rows.shape[1])
    both = np.concatenate([keys(ours, width), keys(theirs, width)])
    _, places, back = np.unique(both, return_index=True, return_inverse=True)
    return Values.join([ours, theirs]).take(places), back[: len(ours)], back[len(ours) :]


def _lengths(values: Values) -> U8:
    return np.full(len(values), values.rows.shape[1], np.uint8) if values.lengths is None else values.lengths


def keys(values: Values, width: int) -> npt.NDArray[np.bytes_]:
    """Return byte strings that compare as the values do, bytes (n,): the row, and the length, which is never 0."""
    rows = np.zeros((len(values), width + 1), np.uint8)
    rows[:, : values.rows.shape[1]] = values.rows
    rows[:, width] = _lengths(values)
    return rows.view(f"S{width + 1}")[:, 0]
