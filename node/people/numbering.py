"""The numbers of profiles by their ids: new ids get the next ones, in the order in which they first appear.

Ids are put in order a part after the other, between ids that a sample gave, so that they are never in memory all at once.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from psi.join import order_of
from psi.values import SLICE, U8

from ..compute.aside import Aside, Buckets
from .identity_rows import ProfileNumbers, as_values, begins
from .snapshots import Snapshot, reopened

BUCKETS = 64
WORTH_IT = 1 << 18  # ids; fewer are put in order at once
SAMPLED = 1 << 12  # ids that tell where buckets begin

Ids = npt.NDArray[np.bytes_]

_NEW, _FIRST = 1, 2  # a row of an id that no profile had; and the first of these


class IdParts(Protocol):
    """The ids of some rows, those of many batches."""

    def __len__(self) -> int: ...
    def parts(self) -> Iterator[Ids]: ...


class Numbering:
    """`numbers` is uint32 (n,): the profile of each row; `new` is how many of the profiles are new.

    `type` is that of the ids of all profiles.
    """

    def __init__(self, base: Snapshot, ids: IdParts) -> None:
        self._base, self._ids = reopened(base), ids
        self.numbers: ProfileNumbers = np.zeros(len(ids), np.uint32)
        self._state: U8 = np.zeros(len(ids), np.uint8)
        self.type: np.dtype[Any] = base.profile_ids.dtype
        aside = Aside(base.directory)
        self._edges = _edges(ids)
        self._sorted = Buckets(aside, len(self._edges) + 1)  # new ids in order, and the first row of each
        self._split(Buckets(aside, len(self._edges) + 1))
        self._resolve()
        self.new = int(np.count_nonzero(self._state == _FIRST))

    def _split(self, given: Buckets) -> None:
        start = 0
        for ids in self._ids.parts():
            places = np.arange(start, start + len(ids), dtype=np.uint32)
            given.split(_bucket(self._edges, ids), {"ids": ids, "places": places})
            start += len(ids)
        for bucket in range(len(given)):
            if len(given[bucket]):
                self._sort(bucket, given[bucket].joined("ids"), given[bucket].joined("places"))

    def _sort(self, bucket: int, ids: Ids, places: npt.NDArray[np.uint32]) -> None:
        """Find the profiles of the rows of one bucket, or for those of new ids the first row that has it."""
        values = as_values(ids)
        arranged = order_of(values)
        first = begins(values, by=arranged)
        appears = arranged[first]  # of each distinct id, in order, where it stands first
        distinct, rows = ids[appears], places[appears]
        numbers = self._base.numbers(distinct)
        new = numbers < 0
        each = np.cumsum(first) - 1
        self.numbers[places[arranged]] = np.where(new, rows, numbers).astype(np.uint32)[each]
        self._state[places[arranged]] = np.where(new, _NEW, 0).astype(np.uint8)[each]
        self._state[rows[new]] = _FIRST
        if new.any():
            self._sorted[bucket].append({"ids": distinct[new], "rows": rows[new]})
            self.type = np.result_type(self.type, distinct.dtype)

    def _resolve(self) -> None:
        """Put numbers in place of the first rows of new ids."""
        following = self._base.profile_count
        for start in range(0, len(self.numbers), SLICE):
            numbers, state = self.numbers[start : start + SLICE], self._state[start : start + SLICE]
            first = np.flatnonzero(state == _FIRST)
            numbers[first] = np.arange(following, following + len(first), dtype=np.uint32)
            following += len(first)
            again = np.flatnonzero(state == _NEW)
            numbers[again] = self.numbers[numbers[again]]  # of rows that stand before

    def ids(self) -> Iterator[Ids]:
        """Yield the ids of all profiles, by their numbers."""
        known, kind = self._base.profile_ids, self.type
        for start in range(0, len(known), SLICE):
            yield known[start : start + SLICE].astype(kind, copy=False)
        start = 0
        for ids in self._ids.parts():
            yield ids[self._state[start : start + len(ids)] == _FIRST].astype(kind, copy=False)
            start += len(ids)

    def order(self) -> Iterator[npt.NDArray[np.uint32]]:
        """Yield the numbers of all profiles, in order of their ids."""
        known, order = self._base.profile_ids, self._base.profile_order
        edges = _places(known, order, self._edges).tolist()
        for bucket, (low, high) in enumerate(zip([0, *edges], [*edges, len(known)], strict=True)):
            there = np.asarray(order[low:high])
            if not len(self._sorted[bucket]):
                yield there
                continue
            new = self.numbers[self._sorted[bucket].get(0, "rows")]
            if not len(there):
                yield new
                continue
            yield np.insert(there, np.searchsorted(known[there], self._sorted[bucket].get(0, "ids")), new)


def _places(known: Ids, order: ProfileNumbers, edges: Ids) -> npt.NDArray[np.intp]:
    """Return before which of the ids in order each edge stands; `known` may be mapped, and is not copied."""
    cut = edges.astype(known.dtype)  # an id that is the beginning of a longer edge stands before it
    first, last = (np.searchsorted(known, cut, side=side, sorter=order) for side in ("left", "right"))
    return np.where(cut == edges, first, last)


def _edges(ids: IdParts) -> Ids:
    """Return the ids at which buckets begin, all but the first, ascending."""
    if len(ids) <= WORTH_IT:
        return np.zeros(0, np.bytes_)
    step = max(1, len(ids) // SAMPLED)
    sample = np.sort(np.concatenate([each[::step] for each in ids.parts()]))
    return np.unique(sample[np.arange(1, BUCKETS) * len(sample) // BUCKETS])


def _bucket(edges: Ids, ids: Ids) -> U8:
    if not len(edges):
        return np.zeros(len(ids), np.uint8)
    return np.searchsorted(edges, ids, side="right").astype(np.uint8)


class GivenIds:
    """Ids that are in memory."""

    def __init__(self, ids: Ids) -> None:
        self._given = ids

    def __len__(self) -> int:
        return len(self._given)

    def parts(self) -> Iterator[Ids]:
        return (self._given[start : start + SLICE] for start in range(0, len(self._given), SLICE))
