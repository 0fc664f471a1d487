"""One file of rows in the order of their keys, sealed in pieces so small that a few rows are found by opening a few.

A file is a salt, the pieces, and what says how to read them: how many rows there are, how wide, and the first key of
each piece. The keys of a piece and each of its columns are sealed apart.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from psi.join import match
from psi.values import U8, Bools, Indices

from .cache import SALT, TAG, Cache

PIECE = 1 << 14  # bytes of the keys of one piece, and rows of it at least
LEAST_ROWS = 64
OPENED = 1 << 22  # bytes of pieces that a search has open at once
ROWS = 1 << 14  # that are read at once
BUCKETS = 1 << 12  # of rows, by the first bits of their keys
_END = 8  # bytes that say how long the end is
_KEYS = ""  # the name of the keys among the columns


@dataclass(frozen=True, slots=True)
class Shape:
    """The width of the keys, 16 bytes or more, and of each column by name."""

    key: int
    columns: Mapping[str, int]

    @property
    def widths(self) -> dict[str, int]:
        return {_KEYS: self.key, **self.columns}

    def nothing(self, names: Collection[str]) -> "Block":
        """Return a block without rows, with those columns."""
        return Block(
            np.empty((0, self.key), np.uint8), {name: np.empty((0, self.columns[name]), np.uint8) for name in names}
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Rows whose keys ascend: `keys` is uint8 (n, width), `columns` are uint8 (n, width of each)."""

    keys: U8
    columns: Mapping[str, U8]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: "slice | npt.NDArray[Any]") -> "Block":
        """Return some rows: those of a slice, or at ascending places."""
        if isinstance(rows, slice):
            return Block(self.keys[rows], {name: column[rows] for name, column in self.columns.items()})
        taken = {name: np.take(column, rows, axis=0) for name, column in self.columns.items()}
        return Block(np.take(self.keys, rows, axis=0), taken)

    @classmethod
    def join(cls, blocks: "Sequence[Block]") -> "Block":
        """Return the rows of all blocks, of which there is at least one, in that order."""
        if len(blocks) == 1:
            return blocks[0]
        columns = {name: np.concatenate([each.columns[name] for each in blocks]) for name in blocks[0].columns}
        return cls(np.concatenate([each.keys for each in blocks]), columns)


class Sealing:
    """The bytes of a file that is being written; afterwards `count` is the number of its rows."""

    def __init__(self, cache: Cache, about: str, shape: Shape) -> None:
        self.salt, self.count = cache.random(SALT), 0
        self._cipher, self._about, self._shape = cache.cipher(self.salt), about.encode(), shape
        self._rows = max(LEAST_ROWS, PIECE // shape.key)  # of a piece

    def pieces(self, blocks: Iterable[Block]) -> Iterator[bytes]:
        """Yield the file of rows that come in order, some at a time."""
        firsts, number = [], 0
        yield self.salt
        for rows in _cut(blocks, self._rows):
            firsts.append(rows.keys[0].tobytes())
            self.count += len(rows)
            for name, width in self._shape.widths.items():
                column, number = rows.columns[name] if name else rows.keys, number + 1
                assert column.shape == (len(rows), width)
                yield self._cipher.encrypt(_nonce(number), np.ascontiguousarray(column).reshape(-1).data, self._about)
        said = [self.count, self._shape.key, list(self._shape.columns.items()), self._rows, b"".join(firsts)]
        end = self._cipher.encrypt(_nonce(0), msgpack.packb(said), self._about)
        yield end + len(end).to_bytes(_END, "big")


class SortedFile:
    """A file that is open for reading. Its methods raise InvalidTag where it is damaged."""

    def __init__(self, file: BinaryIO, cipher: ChaCha20Poly1305, about: str, salt: bytes) -> None:
        self._file, self._cipher, self._about, self.salt = file, cipher, about.encode(), salt
        length = file.seek(0, os.SEEK_END) - _END
        file.seek(max(length, 0))
        size = int.from_bytes(file.read(_END), "big")
        if not 0 < size <= length - SALT:
            raise InvalidTag
        file.seek(length - size)
        end = msgpack.unpackb(cipher.decrypt(_nonce(0), file.read(size), self._about))
        self._count, key, columns, self._rows, firsts = end
        self.shape = Shape(key, dict(columns))
        self._firsts = np.frombuffer(firsts, np.uint8).reshape(-1, key)

    @classmethod
    def open(cls, cache: Cache, path: Path, about: str) -> "SortedFile":
        """Open a file; raises FileNotFoundError, InvalidTag."""
        file = path.open("rb")
        try:
            salt = file.read(SALT)
            return cls(file, cache.cipher(salt), about, salt)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return int(self._count)

    def blocks(self, *, keys_only: bool = False, rows: int = ROWS, within: Bools | None = None) -> Iterator[Block]:
        """Yield all rows, some at a time; `within` some buckets, bool (BUCKETS,), those and others near them."""
        names, step = [] if keys_only else list(self.shape.columns), max(1, rows // self._rows)
        pieces = range(len(self._firsts)) if within is None else self._reaching(within)
        for start in range(0, len(pieces), step):
            keys, *columns = self._load(pieces[start : start + step], [_KEYS, *names])
            yield Block(keys, dict(zip(names, columns, strict=True)))

    def find(self, keys: U8, names: Collection[str]) -> tuple[Indices, Block]:
        """Return where those keys stand among the given ones, which ascend, that the file has, and their rows."""
        edges, pieces = self._where(keys)
        size = self._rows * sum(self.shape.widths.values())
        step, places, found = max(1, OPENED // size), [np.empty(0, np.intp)], [self.shape.nothing(names)]
        for start in range(0, len(pieces), step):
            part = pieces[start : start + step]
            first, last = int(edges[start]), int(edges[start + len(part)])
            here, rows = self._find(part, keys[first:last], names)
            places.append(here + first)
            found.append(rows)
        return np.concatenate(places), Block.join([each for each in found if len(each)] or found[:1])

    def _reaching(self, buckets: Bools) -> list[int]:
        """Return the pieces that may have rows of some buckets."""
        until, firsts = np.append(0, np.cumsum(buckets)), buckets_of(self._firsts)
        return np.flatnonzero(until[np.append(firsts[1:], BUCKETS - 1) + 1] > until[firsts]).tolist()

    def _where(self, keys: U8) -> tuple[Indices, Indices]:
        """Return the pieces where keys may lie, and at which of the keys each begins: one edge more than pieces."""
        firsts, wanted = texts(self._firsts), texts(keys)
        if not len(firsts) or not len(wanted):
            return np.zeros(1, np.intp), np.empty(0, np.intp)
        low = max(0, int(np.searchsorted(firsts, wanted[0], side="right")) - 1)
        high = int(np.searchsorted(firsts, wanted[-1], side="right"))
        if high - low <= len(wanted):
            edges = np.append(np.searchsorted(wanted, firsts[low:high]), len(wanted))
            filled = np.flatnonzero(edges[1:] > edges[:-1])
            return np.append(edges[filled], len(wanted)), filled + low
        pieces, begins = np.unique(np.searchsorted(firsts[low:high], wanted, side="right") - 1, return_index=True)
        inside = pieces >= 0
        return np.append(begins[inside], len(wanted)), pieces[inside] + low

    def _find(self, pieces: Indices, keys: U8, names: Collection[str]) -> tuple[Indices, Block]:
        (have,) = self._load(pieces.tolist(), [_KEYS])
        places, found = match(have, keys)
        matched = keys if len(found) == len(keys) else np.take(keys, found, axis=0)
        if not names or not len(found):
            return found, Block(matched, self.shape.nothing(names).columns)
        needed, numbers = np.unique(places // self._rows, return_inverse=True)
        loaded = self._load(pieces[needed].tolist(), names)
        at = numbers * self._rows + places % self._rows
        if len(at) != len(loaded[0]):
            loaded = [np.take(each, at, axis=0) for each in loaded]
        return found, Block(matched, dict(zip(names, loaded, strict=True)))

    def _load(self, pieces: Sequence[int], names: Collection[str]) -> list[U8]:
        """Return columns of some pieces, which ascend: the last of all may have fewer rows than the others."""
        widths, size, last = list(self.shape.widths.values()), self._rows, len(self._firsts) - 1
        rest = len(self) - last * size
        count = len(pieces) * size - (size - rest if last in pieces[-1:] else 0)
        columns = [list(self.shape.widths).index(name) for name in names]
        loaded = [np.empty((count, widths[column]), np.uint8) for column in columns]
        into = [(column, each.reshape(-1).data) for column, each in zip(columns, loaded, strict=True)]
        whole, least = _begins(size, widths), _begins(rest, widths)
        room = memoryview(bytearray(whole[-1]))
        for at, piece in enumerate(pieces):
            rows, begins = (size, whole) if piece < last else (rest, least)
            first, end = begins[min(columns)], begins[max(columns) + 1]
            sealed = room[: end - first]
            if os.preadv(self._file.fileno(), [sealed], SALT + piece * whole[-1] + first) != len(sealed):
                raise InvalidTag
            for column, content in into:
                self._cipher.decrypt_into(
                    _nonce(piece * len(widths) + column + 1),
                    sealed[begins[column] - first : begins[column + 1] - first],
                    self._about,
                    content[at * size * widths[column] : (at * size + rows) * widths[column]],
                )
        return loaded


def _begins(rows: int, widths: Sequence[int]) -> list[int]:
    """Return where each column of a piece begins, and where the last one ends."""
    return list(accumulate((rows * width + TAG for width in widths), initial=0))


def texts(keys: U8) -> npt.NDArray[np.bytes_]:
    """Return keys as numpy compares them, in the order of their bytes: bytes (n,)."""
    return np.ascontiguousarray(keys).view(f"S{keys.shape[1]}").reshape(-1)


def buckets_of(keys: U8) -> Indices:
    """Return the bucket of each key, 0 to 4,095; those of keys in order ascend."""
    return (keys[:, 0].astype(np.intp) << 4) | (keys[:, 1] >> 4)


def _cut(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Yield the rows of blocks, `size` at a time."""
    left: list[Block] = []
    for block in blocks:
        left.append(block)
        if sum(map(len, left)) < size:
            continue
        rows = Block.join(left)
        whole = len(rows) // size * size
        for start in range(0, whole, size):
            yield rows.take(slice(start, start + size))
        left = [rows.take(slice(whole, None))] if whole < len(rows) else []
    if sum(map(len, left)):
        yield Block.join(left)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
