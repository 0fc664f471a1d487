"""Where `LocalEngine` puts rows: in memory, or in a scratch space that it is given."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from .engine import Part
from .values import U8


class Scratch(Protocol):
    """Room for bytes that need not be in memory; it goes with the object."""

    def put(self, content: U8) -> int:
        """Keep the bytes of an array, and return the number that they are had by."""
        ...

    def get(self, number: int) -> U8:
        """Return the bytes of a number, uint8 (size,)."""
        ...


class Memory:
    """A scratch space in memory."""

    def __init__(self) -> None:
        self._kept: list[U8] = []

    def put(self, content: U8) -> int:
        self._kept.append(content.reshape(-1))
        return len(self._kept) - 1

    def get(self, number: int) -> U8:
        return self._kept[number]


class LocalPlace:
    """Rows in a scratch space, uint8 (n, width), in the parts in which they were appended."""

    def __init__(self, width: int, scratch: Scratch) -> None:
        self._width, self._scratch = width, scratch
        self._numbers: list[int] = []
        self._ends: list[int] = []  # of each part, in rows
        self._parts: list[Part] = []
        self._last: tuple[int, U8] = (-1, np.empty((0, width), np.uint8))  # the part that was read last

    def append(self, rows: U8) -> None:
        if len(rows):
            content = np.ascontiguousarray(rows)
            first, last, digest = content[0].tobytes(), content[-1].tobytes(), hashlib.sha256(content.data).digest()
            self._parts.append(Part(rows=len(rows), first=first, last=last, sha256=digest))
            self._numbers.append(self._scratch.put(content))
            self._ends.append(len(self) + len(rows))

    @property
    def manifest(self) -> Sequence[Part]:
        return tuple(self._parts)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, rows: slice) -> U8:
        start, stop, _ = rows.indices(len(self))
        found = list(self._between(start, stop))
        return found[0] if len(found) == 1 else np.concatenate([np.empty((0, self._width), np.uint8), *found])

    def _between(self, start: int, stop: int) -> Iterator[U8]:
        place = bisect_right(self._ends, start)
        while start < stop:
            begin, end = self._ends[place] - self._parts[place].rows, self._ends[place]
            yield self._part(place)[start - begin : min(stop, end) - begin]
            start, place = end, place + 1

    def _part(self, place: int) -> U8:
        number, part = self._last
        if number != place:
            part = self._scratch.get(self._numbers[place]).reshape(-1, self._width)
            self._last = place, part
        return part
