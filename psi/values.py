"""Identities as whole-batch arrays: what crosses from the store into the curve."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .hashing import number

U8 = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
SLICE = 65_536  # rows that are worked on at once, where a copy of all would cost memory


class Rows(Protocol):
    """Rows of bytes that need not be in memory: uint8 (n, width), of which some can be had."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> U8: ...


@dataclass(frozen=True, slots=True)
class Values:
    """Identities of one namespace: `rows` is uint8 (n, width), C-contiguous.

    `lengths` is None where every value fills its row; for custom namespaces it is uint8 (n,) and the bytes of a row past
    its length are zero. A value is `rows[i, :lengths[i]]`.
    """

    rows: U8
    lengths: U8 | None = None

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def __getitem__(self, index: int) -> bytes:
        row = self.rows[index]
        return bytes(row.tobytes() if self.lengths is None else row[: int(self.lengths[index])].tobytes())

    def take(self, indices: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> "Values":
        """Return the values at `indices` (integers or a mask), in that order."""
        if indices.dtype == np.bool_:
            indices = np.flatnonzero(indices)
        rows = np.take(np.ascontiguousarray(self.rows), indices, axis=0)  # a fifth of the time of rows[indices]
        return Values(rows, None if self.lengths is None else self.lengths[indices])

    def part(self, rows: slice) -> "Values":
        """Return consecutive values; they are not copied."""
        return Values(self.rows[rows], None if self.lengths is None else self.lengths[rows])

    def equals(self, other: "Values") -> bool:
        """Return whether both hold the same values in the same order, packed the same way."""
        if self.lengths is None or other.lengths is None:
            return self.lengths is other.lengths and _same(self.rows, other.rows)
        return _same(self.rows, other.rows) and _same(self.lengths, other.lengths)

    def digest(self) -> bytes:
        """Return SHA-256 over the values (32 bytes): two lists of one namespace that differ have different digests, and the
        same list has the same however wide its rows are."""
        found = hashlib.sha256()
        rows = self.rows if self.lengths is None else self.rows[:, : int(self.lengths.max(initial=0))]
        for part in (rows, np.empty(0, np.uint8) if self.lengths is None else self.lengths):
            found.update(number(part.nbytes))
            found.update(np.ascontiguousarray(part).reshape(-1).data)
        return found.digest()

    def arrays(self) -> dict[str, U8]:
        """Return the arrays by name, to be stored in a file; `of_arrays` reads them."""
        return {"rows": self.rows} if self.lengths is None else {"rows": self.rows, "lengths": self.lengths}

    @classmethod
    def of_arrays(cls, stored: Mapping[str, npt.NDArray[Any]]) -> "Values":
        lengths = stored.get("lengths")
        return cls(
            stored["rows"].astype(np.uint8, copy=False),
            None if lengths is None else lengths.astype(np.uint8, copy=False),
        )

    @classmethod
    def join(cls, parts: Iterable["Values"]) -> "Values":
        """Return the values of all parts, in that order; rows of custom namespaces are widened to the longest."""
        given = list(parts)
        filled = [part for part in given if len(part)] or given[:1]  # an empty part says nothing about the width
        if len(filled) <= 1:
            return filled[0] if filled else cls(np.zeros((0, 0), np.uint8))
        width = max(part.rows.shape[1] for part in filled)
        rows = np.concatenate([_widened(part.rows, width) for part in filled])
        if all(part.lengths is None and part.rows.shape[1] == width for part in filled):
            return cls(rows)
        return cls(rows, np.concatenate([part._every_length() for part in filled]))

    @classmethod
    def gather(cls, parts: "list[Values]") -> "Values":
        """Return what `join` does; the parts leave the list as they are copied, so that they are not all there twice."""
        if len({part.rows.shape[1] for part in parts}) != 1 or any(part.lengths is not None for part in parts):
            joined = cls.join(parts)
            parts.clear()
            return joined
        rows = np.empty((sum(map(len, parts)), parts[0].rows.shape[1]), np.uint8)
        end = len(rows)
        while parts:
            part = parts.pop()
            rows[end - len(part) : end] = part.rows
            end -= len(part)
        return cls(rows)

    def _every_length(self) -> U8:
        return np.full(len(self), self.rows.shape[1], np.uint8) if self.lengths is None else self.lengths

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "Values":
        """Pack byte strings of at most 255 bytes; of one length they need no `lengths`."""
        widths = {len(value) for value in values}
        width = max(widths, default=0)
        rows = np.zeros((len(values), width), np.uint8)
        for row, value in zip(rows, values, strict=True):
            row[: len(value)] = np.frombuffer(value, np.uint8)
        if len(widths) <= 1:
            return cls(rows)
        return cls(rows, np.array([len(value) for value in values], np.uint8))


def _same(left: U8, right: U8) -> bool:
    """Return whether two arrays are equal; what comparing them makes is as large as a part of them."""
    parts = (slice(start, start + SLICE) for start in range(0, len(left), SLICE))
    return left.shape == right.shape and all(np.array_equal(left[part], right[part]) for part in parts)


def _widened(rows: U8, width: int) -> U8:
    return rows if rows.shape[1] == width else np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def sort_keys(values: Values) -> U8:
    """Return rows that compare as the values do, of one width whatever the batch: uint8 (n, a multiple of 8)."""
    if values.lengths is None:
        width = max(16, -(-values.rows.shape[1] // 8) * 8)
        if values.rows.shape[1] == width:
            return values.rows
        return np.pad(values.rows, ((0, 0), (0, width - values.rows.shape[1])))
    rows = np.pad(values.rows, ((0, 0), (0, 255 - values.rows.shape[1])))
    return np.concatenate([rows, values.lengths[:, None]], axis=1)


def of_sort_keys(keys: U8, width: int) -> Values:
    """Return the values of which `sort_keys` made rows: all of a width in bytes, or with 0 each of its own length."""
    if width:
        return Values(np.ascontiguousarray(keys[:, :width]))
    lengths = np.ascontiguousarray(keys[:, -1])
    return Values(np.ascontiguousarray(keys[:, : int(lengths.max(initial=0))]), lengths)
