"""Whom the last generations of a project's data changed, so that what follows from it is computed for them alone.

A profile is touched if what is asked of it may differ: its identities, what it said, attributes, or memberships in segments.
That the time of the same word is another touches nobody.
"""

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
from pyroaring import BitMap

from psi.join import match
from psi.values import Indices, Values, sort_keys

from ..errors import Failure
from ..storage.sorted_files import texts
from .identity_rows import IdentityRows, ProfileNumbers
from .snapshots import Snapshot, bitmap

T = TypeVar("T", bound=Sized)

MOST_GENERATIONS = 64  # each names a file of each before it
MOST = 16  # of more than one in so many it is not worth while to know which
FEW = 4_096  # so many are always worth it
SEARCHED = 128  # of one identity in so many rows each is searched for; of more all rows are read


@dataclass(slots=True)
class Touched:
    """The profiles that a draft touches, as far as it is written."""

    _profiles: BitMap = field(default_factory=BitMap)
    _everybody: bool = False

    def add(self, profiles: BitMap) -> None:
        self._profiles |= profiles

    def everybody(self) -> None:
        """Note a change that may concern anybody."""
        self._everybody = True

    def profiles(self, count: int) -> BitMap | None:
        """Return the profiles, of `count` that there are; None for everybody, or so many that it is no use to know whom."""
        return None if self._everybody else few(self._profiles, count)


def touched_since(snapshot: Snapshot, generation: int) -> BitMap | None:
    """Return the profiles that differ between an earlier generation and this one, and perhaps some that do not.

    None where that may be anybody: they are too many, the earlier generation is too old, or it cannot be read who they are.
    Numbers of erased profiles may be among them.
    """
    back = snapshot.generation - generation
    names = snapshot.content.touched
    if not 0 <= back <= len(names):
        return None
    found = BitMap()
    for name in names[len(names) - back :]:
        if not name:
            return None
        try:
            found |= bitmap(snapshot, name)
        except Failure:
            return None
    return few(found, snapshot.profile_count)


def few(profiles: T, count: int) -> T | None:
    """Return profiles if they are few enough, of `count`, for what is computed anew to be about them alone."""
    return profiles if len(profiles) <= max(FEW, count // MOST) else None


class SomeIdentities(Snapshot):
    """A generation with some of its identities: those of each namespace in the rows at `places`, with all who have them."""

    def __init__(self, of: Snapshot, places: Mapping[str, Indices]) -> None:
        super().__init__(of.directory, of.generation, of.content)
        self.places = places
        self._taken: dict[str, IdentityRows] = {}

    @classmethod
    def having(cls, snapshot: Snapshot, values: Mapping[str, Values]) -> "SomeIdentities":
        """Return the generation with some identities by namespace, sorted and without repetition."""
        return cls(
            snapshot,
            {namespace: _places(wanted, snapshot.rows(namespace).values) for namespace, wanted in values.items()},
        )

    def rows(self, namespace: str) -> IdentityRows:
        if namespace not in self._taken:
            self._taken[namespace] = super().rows(namespace).take(self.places[namespace])
        return self._taken[namespace]

    @cached_property
    def holders(self) -> BitMap:
        """The profiles that have one of the identities."""
        return BitMap.union(BitMap(), *(BitMap(self.rows(each).profiles) for each in self.places))


def _places(wanted: Values, rows: Values) -> Indices:
    """Return where sorted rows have one of some identities, which are sorted and each once."""
    same = wanted.lengths is None and rows.lengths is None and wanted.rows.shape[1] == rows.rows.shape[1]
    if not same or len(wanted) * SEARCHED > len(rows):
        return match(sort_keys(wanted), sort_keys(rows))[1]
    known, sought = texts(rows.rows), texts(wanted.rows)
    first, end = np.searchsorted(known, sought), np.searchsorted(known, sought, side="right")
    counts = end - first
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


def held(holders: ProfileNumbers, profiles: BitMap) -> Indices:
    """Return which rows of identities some profiles have, ascending."""
    mask = np.zeros(max(int(holders.max(initial=0)), profiles.max() if profiles else 0) + 1, bool)
    mask[profiles.to_array()] = True
    return np.flatnonzero(mask[holders])
