"""Identities of a mapped file that are copied where some are asked for, so that memory never holds all of them."""

import hashlib

import numpy as np
import numpy.typing as npt

from psi.hashing import number
from psi.values import SLICE, U8, Bools, Indices, Values

from ..storage.files import let_go

FAR_APART = 1 << 13  # places that are read at once: they may have 32 MB of pages


def numbers_of(mask: Bools) -> npt.NDArray[np.uint32]:
    """Return where a mask, bool (n,), is true."""
    found, count = np.empty(np.count_nonzero(mask), np.uint32), 0
    for start in range(0, len(mask), SLICE):
        part = np.flatnonzero(mask[start : start + SLICE])
        found[count : count + len(part)] = part + start
        count += len(part)
    return found


class Taken(Values):
    """Those of some identities at ascending places, or all: `part` copies consecutive ones, `rows` copies all."""

    __slots__ = ("_of", "_places")
    _of: Values
    _places: npt.NDArray[np.uint32] | None

    def __init__(self, of: Values, places: "Indices | npt.NDArray[np.uint32] | None" = None) -> None:
        object.__setattr__(self, "_of", of)
        object.__setattr__(self, "_places", None if places is None else places.astype(np.uint32, copy=False))

    @property
    def rows(self) -> U8:
        return self.part(slice(None)).rows

    @property
    def lengths(self) -> U8 | None:
        lengths = self._of.lengths
        return lengths if lengths is None or self._places is None else np.take(lengths, self._places)

    def __len__(self) -> int:
        return len(self._of if self._places is None else self._places)

    def __getitem__(self, index: int) -> bytes:
        return self._of[index if self._places is None else int(self._places[index])]

    def take(self, indices: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Values:
        places = (
            numbers_of(indices.astype(bool, copy=False)) if indices.dtype == np.bool_ else indices.astype(np.uint32)
        )
        return Taken(self._of, places if self._places is None else self._places[places])

    def digest(self) -> bytes:
        found, count, given = hashlib.sha256(), len(self), self.lengths
        lengths = np.empty(0, np.uint8) if given is None else given
        width = self._of.rows.shape[1] if given is None else int(lengths.max(initial=0))
        found.update(number(count * width))
        for start in range(0, count, SLICE):
            found.update(np.ascontiguousarray(self.part(slice(start, start + SLICE)).rows[:, :width]).data)
        found.update(number(lengths.nbytes))
        found.update(np.ascontiguousarray(lengths).data)
        return found.digest()

    def copied(self) -> Values:
        """Return all of them as they are in the file, or copied where these are only some."""
        return self._of if self._places is None else self._of.take(self._places)

    def part(self, rows: slice) -> Values:
        if self._places is None:
            found = self._of.take(np.arange(*rows.indices(len(self._of))))
        else:
            found = self._copied(self._places[rows])
        let_go(self._of.rows)
        return found

    def _copied(self, places: npt.NDArray[np.uint32]) -> Values:
        """Return a copy of some: of places that lie far apart whole pages of the file are read, and let go in between."""
        if len(places) <= FAR_APART:
            return self._of.take(places)
        parts = []
        for start in range(0, len(places), FAR_APART):
            parts.append(self._of.take(places[start : start + FAR_APART]))
            let_go(self._of.rows)
        return Values.gather(parts)
