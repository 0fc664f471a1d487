"""Identities of a mapped file that are copied where some are asked for, so that memory never holds all of them."""

import numpy as np
import numpy.typing as npt

from psi.values import SLICE, U8, Bools, Indices, Values

from ..storage.files import let_go


def numbers_of(mask: Bools) -> npt.NDArray[np.uint32]:
    """Return where a mask, bool (n,), is true."""
    found, count = np.empty(np.count_nonzero(mask), np.uint32), 0
    for start in range(0, len(mask), SLICE):
        part = np.flatnonzero(mask[start : start + SLICE])
        found[count : count + len(part)] = part + start
        count += len(part)
    return found


class Taken(Values):
    """Those of some identities at ascending places, or all: `part` copies consecutive ones, `rows` and `lengths` copy all."""

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
        return self.part(slice(None)).lengths

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
        return self.part(slice(None)).digest()

    def copied(self) -> Values:
        """Return all of them as they are in the file, or copied where these are only some."""
        return self._of if self._places is None else self._of.take(self._places)

    def part(self, rows: slice) -> Values:
        if self._places is None:
            found = self._of.take(np.arange(*rows.indices(len(self._of))))
        else:
            found = self._of.take(self._places[rows])
        let_go(self._of.rows)
        return found
