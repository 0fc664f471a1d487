"""New rows put into a sorted table, out of which others go: in blocks, so that the table is never in memory whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from psi.join import prefixes
from psi.values import SLICE, U8, Bools, Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Splice:
    """Which rows of a table stay, bool (n,), and before which of its rows each new one stands, ascending, (m,)."""

    kept: Bools
    before: Indices

    @property
    def count(self) -> int:
        """The rows of the new table."""
        return int(np.count_nonzero(self.kept)) + len(self.before)

    def blocks(self, old: npt.NDArray[Any], new: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Yield a column of the new table, of the old one's column and that of the new rows."""
        for start in range(0, max(len(self.kept), 1), SLICE):
            stop = min(start + SLICE, len(self.kept))
            kept = self.kept[start:stop]
            last = stop == len(self.kept)
            first, end = np.searchsorted(self.before, (start, stop if not last else stop + 1)).tolist()
            part = np.ascontiguousarray(old[start:stop]) if kept.all() else np.compress(kept, old[start:stop], axis=0)
            if end > first:
                places = np.append(0, np.cumsum(kept))[self.before[first:end] - start]
                part = np.insert(part, places, new[first:end], axis=0)
            yield part


def places_of(rows: U8, alike: U8) -> Indices:
    """Return which of some sorted rows begin, in their first eight bytes, as one of others does."""
    beginnings, wanted = prefixes(rows), np.unique(prefixes(alike))
    first, last = (np.searchsorted(beginnings, wanted, side=side) for side in ("left", "right"))
    lengths = last - first
    return np.repeat(first - np.append(0, np.cumsum(lengths)[:-1]), lengths) + np.arange(lengths.sum())


def before(rows: U8, others: U8) -> Indices:
    """Return before which of some sorted rows each other one stands, by their first eight bytes."""
    return np.searchsorted(prefixes(rows), prefixes(others))
