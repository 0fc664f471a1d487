"""What the batches of a file give, put aside until all of it is read: values are most of what an import holds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from psi.values import U8, Values

from ..compute import scratch
from ..compute.scratch import ScratchFile


class Aside:
    """A scratch space: the first bytes in memory, many in a file (`psi.places.Scratch`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: ScratchFile | None = None
        self._room = scratch.IN_MEMORY_BYTES
        self._kept: list[U8 | int] = []  # an array, or its number in the file

    def put(self, content: U8) -> int:
        """Keep an array, and return the number that its bytes are had by; raises DiskFull or Failure."""
        self._room -= content.nbytes
        if self._room < 0 and content.nbytes:
            self._file = self._file or ScratchFile(self._folder)
            self._kept.append(self._file.put(np.ascontiguousarray(content)))
        else:
            self._kept.append(content.reshape(-1))
        return len(self._kept) - 1

    def get(self, number: int) -> U8:
        """Return the bytes of a number, uint8 (size,)."""
        kept = self._kept[number]
        if isinstance(kept, int):
            assert self._file is not None
            return self._file.get(kept)
        return kept


class KeptValues:
    """Values in the order in which they came, those of many batches."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside
        self._parts: list[tuple[int, int, int, int | None]] = []  # count, width, number of the rows, of the lengths

    def append(self, values: Values) -> None:
        if len(values):
            lengths = None if values.lengths is None else self._aside.put(values.lengths)
            self._parts.append((*values.rows.shape, self._aside.put(values.rows), lengths))

    def __len__(self) -> int:
        return sum(part[0] for part in self._parts)

    @property
    def alike(self) -> bool:
        """Whether all values are of one width."""
        return len({part[1] for part in self._parts}) <= 1 and all(part[3] is None for part in self._parts)

    def parts(self) -> Iterator[Values]:
        """Yield the values as they were appended."""
        return map(self._part, range(len(self._parts)))

    def all(self) -> Values:
        """Return all values; rows of custom namespaces are widened to the longest."""
        if not self._parts:
            return Values(np.zeros((0, 0), np.uint8))
        if not self.alike:
            return Values.join(self.parts())
        width = self._parts[0][1]
        rows, start = np.empty((len(self), width), np.uint8), 0
        for count, _, number, _ in self._parts:
            rows[start : start + count] = self._aside.get(number).reshape(count, width)
            start += count
        return Values(rows)

    def _part(self, place: int) -> Values:
        count, width, number, lengths = self._parts[place]
        rows = self._aside.get(number).reshape(count, width)
        return Values(rows, None if lengths is None else self._aside.get(lengths))
