"""Arrays that are put aside while a large set is worked on: the first bytes in memory, many in a scratch file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psi.values import U8

from . import scratch
from .scratch import ScratchFile

Array = npt.NDArray[Any]


class Aside:
    """A scratch space (`psi.places.Scratch`)."""

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
            self._kept.append(content.reshape(-1).copy())
        return len(self._kept) - 1

    def get(self, number: int) -> U8:
        """Return the bytes of a number, uint8 (size,)."""
        kept = self._kept[number]
        if isinstance(kept, int):
            assert self._file is not None
            return self._file.get(kept)
        return kept


class KeptArrays:
    """Arrays by name, those of many batches. Who is given one does not write into it."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside
        self._batches: list[dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]]] = []

    def append(self, arrays: Mapping[str, Array]) -> None:
        self._batches.append(
            {
                name: (self._aside.put(np.ascontiguousarray(each).reshape(-1).view(np.uint8)), each.dtype, each.shape)
                for name, each in arrays.items()
            }
        )

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def rows(self, name: str) -> int:
        """Return how many rows an array has in all batches."""
        return sum(batch[name][2][0] for batch in self._batches)

    @property
    def names(self) -> list[str]:
        """The names of the arrays of the first batch, none where there is no batch."""
        return list(self._batches[0]) if self._batches else []

    def all(self) -> dict[str, Array]:
        """Return a copy of each array of all batches, in that order."""
        return {name: self.joined(name) for name in self.names}

    def has(self, batch: int, name: str) -> bool:
        return name in self._batches[batch]

    def get(self, batch: int, name: str) -> Array:
        """Return an array of a batch."""
        number, dtype, shape = self._batches[batch][name]
        found: Array = self._aside.get(number).view(dtype).reshape(shape)
        return found

    def parts(self, name: str) -> Iterator[Array]:
        """Yield an array of each batch."""
        return (self.get(batch, name) for batch in range(len(self)))

    def joined(self, name: str) -> Array:
        """Return a copy of an array of all batches, of which there is at least one, in that order."""
        return np.concatenate(list(self.parts(name)))


class Buckets:
    """Rows of several arrays by the number of a bucket, put aside in the order in which they come."""

    def __init__(self, aside: Aside, count: int) -> None:
        self._buckets = [KeptArrays(aside) for _ in range(count)]

    def __len__(self) -> int:
        return len(self._buckets)

    def __getitem__(self, bucket: int) -> KeptArrays:
        return self._buckets[bucket]

    def __iter__(self) -> Iterator[KeptArrays]:
        return iter(self._buckets)

    def split(self, numbers: U8, arrays: Mapping[str, Array]) -> None:
        """Put rows aside, each in the bucket of its number, uint8 (n,)."""
        counts = np.bincount(numbers, minlength=len(self))
        filled = np.flatnonzero(counts)
        if len(filled) != 1:
            order = np.argsort(numbers, kind="stable")
            arrays = {name: np.take(each, order, axis=0) for name, each in arrays.items()}
        ends = np.cumsum(counts)
        for bucket in filled.tolist():
            rows = slice(int(ends[bucket] - counts[bucket]), int(ends[bucket]))
            self._buckets[bucket].append({name: each[rows] for name, each in arrays.items()})
