"""New rows put into a sorted table, out of which others go: in blocks, so that the table is never in memory whole."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from psi.join import prefixes
from psi.values import SLICE, U8, Bools, Indices

Array = npt.NDArray[Any]
Table = Mapping[str, Array]


class Column(Protocol):
    """Some rows of an array at a time."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Array: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Splice:
    """Which rows of a table stay, bool (n,), and before which of its rows each new one stands, ascending, (m,)."""

    kept: Bools
    before: Indices

    @property
    def count(self) -> int:
        """The rows of the new table."""
        return int(np.count_nonzero(self.kept)) + len(self.before)

    def blocks(self, old: Column, new: Array) -> Iterator[Array]:
        """Yield a column of the new table, of the old one's column and that of the new rows."""
        for start in range(0, max(len(self.kept), 1), SLICE):
            stop = min(start + SLICE, len(self.kept))
            kept = self.kept[start:stop]
            last = stop == len(self.kept)
            first, end = np.searchsorted(self.before, (start, stop if not last else stop + 1)).tolist()
            part = old[start:stop] if kept.all() else np.compress(kept, old[start:stop], axis=0)
            if end > first:
                places = np.append(0, np.cumsum(kept))[self.before[first:end] - start]
                part = np.insert(part, places, new[first:end], axis=0)
            yield part


@dataclass(slots=True)
class Survey:
    """A sorted table seen beside rows that are to come: those of its rows that go, and those that begin, in their first eight
    bytes, as one to come does. Of these `alike` are the ones that stay: they are put in order with the rows to come.
    """

    kept: Bools  # neither of both
    gone: dict[str, Array]
    alike: dict[str, Array]
    _wanted: npt.NDArray[np.uint64]
    _before: Indices

    @classmethod
    def of(cls, table: Mapping[str, Column], key: str, coming: U8, stays: Callable[[Table], Bools]) -> "Survey":
        """Look at a table that is in the order of its column `key`; `coming` are the keys to come, sorted."""
        count, wanted = len(table[key]), np.unique(prefixes(coming))
        kept, before, done = np.empty(count, bool), np.full(len(wanted), count), 0
        gone, alike = [_none(table)], [_none(table)]
        for start in range(0, count, SLICE):
            block = {name: column[start : start + SLICE] for name, column in table.items()}
            stay = kept[start : start + SLICE]
            stay[:] = stays(block)
            if not stay.all():
                gone.append(_take(block, np.flatnonzero(~stay)))
            beginnings = prefixes(block[key])
            low, end = np.searchsorted(wanted, (beginnings[0], beginnings[-1])).tolist()
            end += int(end < len(wanted) and wanted[end] == beginnings[-1])
            before[done:end] = start + np.searchsorted(beginnings, wanted[done:end])
            done = max(done, end)
            first, last = (np.searchsorted(beginnings, wanted[low:end], side=side) for side in ("left", "right"))
            places = np.repeat(first - np.append(0, np.cumsum(last - first)[:-1]), last - first)
            places += np.arange(len(places))
            if len(places):
                alike.append(_take(block, places[stay[places]]))
                stay[places] = False
        return cls(kept, _joined(gone), _joined(alike), wanted, before)

    def splice(self, keys: U8) -> Splice:
        """Return how rows that were to come, and those that are alike, with these keys, sorted, are put in."""
        return Splice(kept=self.kept, before=self._before[np.searchsorted(self._wanted, prefixes(keys))])


def _none(table: Mapping[str, Column]) -> dict[str, Array]:
    return {name: np.empty((0, *column.shape[1:]), column.dtype) for name, column in table.items()}


def _take(block: Table, where: Indices) -> dict[str, Array]:
    return {name: np.take(column, where, axis=0) for name, column in block.items()}


def _joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}
