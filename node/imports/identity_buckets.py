"""A namespace's identities put in order a part after the other, so that they are never in memory all at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psi.values import U8, Indices, Values

from ..people.identity_rows import IdentityRows, ProfileNumbers
from .kept_values import Aside, KeptValues

BUCKETS = 64  # by the first bits of a value
WORTH_IT = 1 << 18  # identities; fewer are sorted in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRows:
    """A column's identities in the order of its rows: the profile of each, and how early in its profile it stands."""

    values: KeptValues
    profiles: ProfileNumbers
    ranks: npt.NDArray[np.uint16]

    def rows(self, values: Values, source: int, where: Indices | slice = slice(None)) -> IdentityRows:
        """Return identity rows of some values, those at `where`, which a dataset gave."""
        profiles = self.profiles[where]
        sources = np.full(len(profiles), source, np.uint16)
        return IdentityRows(values=values, profiles=profiles, sources=sources, ranks=self.ranks[where])


class IdentityBuckets:
    """The identities of columns of one namespace, all values of one width, as `IdentityRows.sort` and `sorted` arrange them.

    `repeated` are for each column the places of those that repeat one of their profile.
    """

    def __init__(self, columns: Sequence[ColumnRows], source: int, folder: Path) -> None:
        self._source, self._columns = source, columns
        self._aside, self._sorted = Aside(folder), Aside(folder)
        self._buckets: list[tuple[int, dict[str, tuple[int, np.dtype[Any]]]]] = []  # rows, and each array's number
        self.repeated: list[list[Indices]] = [[np.zeros(0, np.intp)] for _ in columns]
        given = [self._split(each.values) for each in columns]
        for bucket in range(BUCKETS):
            self._sort([each[bucket] for each in given])

    def __len__(self) -> int:
        return sum(count for count, _ in self._buckets)

    def _split(self, values: KeptValues) -> list[list[tuple[int, int, int]]]:
        """Put a column's values aside by bucket, with their places."""
        found: list[list[tuple[int, int, int]]] = [[] for _ in range(BUCKETS)]
        start = 0
        for part in values.parts():
            first = part.rows[:, 0] // (256 // BUCKETS)
            order = np.argsort(first, kind="stable")
            ends = np.cumsum(np.bincount(first, minlength=BUCKETS))
            for bucket, where in enumerate(np.split(order, ends[:-1])):
                if len(where):
                    places = (start + where).astype(np.uint32).view(np.uint8)
                    rows = np.take(part.rows, where, axis=0)
                    found[bucket].append((rows.shape[1], self._aside.put(rows), self._aside.put(places)))
            start += len(part)
        return found

    def _sort(self, given: Sequence[Sequence[tuple[int, int, int]]]) -> None:
        joined: IdentityRows | None = None
        for column, pieces in enumerate(given):
            if pieces:
                values = np.concatenate([self._aside.get(rows).reshape(-1, width) for width, rows, _ in pieces])
                places = np.concatenate([self._aside.get(each).view(np.uint32) for *_, each in pieces]).astype(np.intp)
                unique, left_out = self._columns[column].rows(Values(values), self._source, places).sort()
                self.repeated[column].append(places[left_out])
                joined = unique if joined is None else joined.join(unique).sorted()
        if joined is not None:
            arrays = {kind: (self._put(array), array.dtype) for kind, array in joined.columns().items()}
            self._buckets.append((len(joined), arrays))

    def _put(self, array: npt.NDArray[Any]) -> int:
        flat: U8 = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return self._sorted.put(flat)

    @property
    def kinds(self) -> Sequence[str]:
        """The names of the arrays, as `IdentityRows.columns` has them."""
        return list(self._buckets[0][1])

    def blocks(self, kind: str) -> Iterator[npt.NDArray[Any]]:
        """Yield an array of all identities, in order."""
        for count, arrays in self._buckets:
            number, dtype = arrays[kind]
            flat: npt.NDArray[Any] = self._sorted.get(number).view(dtype)
            yield flat.reshape(count, -1) if kind == "rows" else flat
