"""A namespace's identities put in order a part after the other, so that they are never in memory all at once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.values import SLICE, U8, Indices, Values

from ..compute.aside import Aside, Buckets
from ..people.identity_rows import IdentityRows, ProfileNumbers

BUCKETS = 64  # by the first bits of a value
WORTH_IT = 1 << 18  # identities; fewer are sorted in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRows:
    """A column's identities in some rows, those at `places` of all: the profile of each, and how early in it each stands."""

    values: Values
    profiles: ProfileNumbers
    ranks: npt.NDArray[np.uint16]
    places: npt.NDArray[np.uint32]

    def rows(self, source: int) -> IdentityRows:
        """Return them as identity rows, which a dataset gave."""
        sources = np.full(len(self.profiles), source, np.uint16)
        return IdentityRows(values=self.values, profiles=self.profiles, sources=sources, ranks=self.ranks)

    @classmethod
    def join(cls, parts: Sequence["ColumnRows"]) -> "ColumnRows":
        return cls(
            values=Values.join(each.values for each in parts),
            profiles=np.concatenate([np.zeros(0, np.uint32), *(each.profiles for each in parts)]),
            ranks=np.concatenate([np.zeros(0, np.uint16), *(each.ranks for each in parts)]),
            places=np.concatenate([np.zeros(0, np.uint32), *(each.places for each in parts)]),
        )


class IdentityBuckets:
    """The identities of columns of one namespace, all values of one width, as `IdentityRows.sort` and `sorted` arrange them.

    `repeated` are for each column the rows whose identity repeats one of their profile: there once `parts` were.
    """

    def __init__(self, columns: Sequence[Iterable[ColumnRows]], source: int, folder: Path) -> None:
        self._source = source
        self.repeated = [BitMap() for _ in columns]
        aside = Aside(folder)
        self._given = [Buckets(aside, BUCKETS) for _ in columns]
        for column, buckets in zip(columns, self._given, strict=True):
            for part in column:
                if len(part.profiles):
                    numbers = part.values.rows[:, 0] // np.uint8(256 // BUCKETS)
                    arrays: dict[str, npt.NDArray[Any]] = {"rows": part.values.rows, "profiles": part.profiles}
                    buckets.split(numbers, arrays | {"ranks": part.ranks, "places": part.places})

    @property
    def edges(self) -> npt.NDArray[np.bytes_]:
        """The first bytes of the values at which parts begin, all but the first."""
        return np.array([bytes([first]) for first in range(256 // BUCKETS, 256, 256 // BUCKETS)], np.bytes_)

    def parts(self) -> Iterator[IdentityRows]:
        return map(self._sorted, range(BUCKETS))

    def _sorted(self, bucket: int) -> IdentityRows:
        found = IdentityRows.none()
        for column, buckets in enumerate(self._given):
            given = buckets[bucket]
            if len(given):
                part = ColumnRows(
                    values=Values(given.joined("rows")),
                    profiles=given.joined("profiles"),
                    ranks=given.joined("ranks"),
                    places=given.joined("places"),
                )
                unique, left_out = part.rows(self._source).sort()
                self.repeated[column] |= BitMap(part.places[left_out])
                found = found.join(unique).sorted() if len(found) else unique
        return found


class Occurrences:
    """How many rows of each profile came before, 255 at most."""

    def __init__(self, profiles: int) -> None:
        self._counts = np.zeros(profiles, np.uint8)
        self._last = np.zeros(profiles, np.uint16)

    def take(self, profiles: ProfileNumbers) -> U8:
        """Return for each of the rows that follow how many of its profile came before."""
        found = np.zeros(len(profiles), np.uint8)
        for start in range(0, len(profiles), SLICE):
            part = profiles[start : start + SLICE]
            before = self._counts[part].astype(np.uint32)
            places = np.arange(len(part), dtype=np.uint16)
            self._last[part] = places
            other = self._last[part] != places
            if other.any():
                several = np.flatnonzero(np.isin(part, part[other]))
                before[several] += _earlier(part[several])
            found[start : start + SLICE] = np.minimum(before, 255)
            self._counts[part] = np.minimum(before + 1, 255)
        return found


def _earlier(profiles: ProfileNumbers) -> npt.NDArray[np.uint32]:
    """Return how many of the same profile stand before each."""
    order = np.argsort(profiles, kind="stable")
    first = np.ones(len(order), bool)
    first[1:] = profiles[order][1:] != profiles[order][:-1]
    starts: Indices = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    found = np.empty(len(order), np.uint32)
    found[order] = np.arange(len(order)) - starts
    return found
