"""Arrays that can be computed again: per connection and epoch, encrypted at rest, gone with the epoch's secret."""

import fcntl
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import msgpack
import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import Failure
from .files import below, failure_of, make_directory, write_atomically

Arrays = dict[str, npt.NDArray[np.generic]]
SALT = 32
PIECE = 1 << 20  # bytes that are sealed at once: all that is in memory beside the arrays
TAG = 16


@dataclass(frozen=True, slots=True)
class Epoch:
    """A key epoch of a connection that is open."""

    number: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """An array that is saved some rows at a time, of which the bytes have to fill whole pieces."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Iterable[npt.NDArray[np.generic]]


class Cache:
    """Named groups of arrays under home/cache/CONNECTION/EPOCH.

    A file is a salt, the length of its head, the head (names, types and shapes), and the arrays' bytes in pieces. Each
    file has a key of its own, so that pieces are sealed under their numbers.
    """

    def __init__(self, home: Path, connection_id: str, epoch: Epoch, random: Callable[[int], bytes]) -> None:
        self._folder = below(home / "cache", connection_id, str(epoch.number))
        self.random, self._secret = random, epoch.secret

    def save(self, name: str, **arrays: npt.NDArray[np.generic] | Blocks) -> None:
        contents = {
            key: each if isinstance(each, Blocks) else Blocks(dtype=each.dtype, shape=each.shape, blocks=[each])
            for key, each in arrays.items()
        }
        write_atomically(self.path(name), self._sealed(name, contents))

    def load(self, name: str, only: Collection[str] | None = None) -> Arrays | None:
        """Return what was saved, or `only` those arrays; None where there is nothing, or nothing that opens."""
        try:
            with self.open(name) as stored:
                return stored.load(only)
        except (FileNotFoundError, InvalidTag):
            return None

    @contextmanager
    def open(self, name: str) -> "Iterator[Stored]":
        """Open what was saved; it stays readable if something else is saved under that name. Raises FileNotFoundError."""
        with self.path(name).open("rb") as file:
            salt = file.read(SALT)
            yield Stored(file, salt, self.cipher(salt), name.encode(), self.path(name))

    def rows(self, name: str) -> "dict[str, StoredRows] | None":
        """Return the arrays of what was saved, each to be read where it is needed; None as `load` does."""
        try:
            with self.open(name) as stored:
                return {key: StoredRows(self, name, key, count) for key, count in stored.lengths().items()}
        except (FileNotFoundError, InvalidTag):
            return None

    def names(self, beginning: str) -> list[str]:
        """Return the names that begin so, as they were saved."""
        files = self._folder.glob("*") if self._folder.is_dir() else ()
        names = (unquote(path.name) for path in files if not path.name.startswith("."))
        return sorted(name for name in names if name.startswith(beginning))

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Be the only one, of all threads and processes, that changes what several files of this cache are together.

        Without `wait`, yields False where another one is at it. Nothing is written in the database meanwhile: who writes
        there may be waiting for this.
        """
        make_directory(self._folder)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise failure_of(error, self._folder) from error
            yield True
        finally:
            os.close(descriptor)

    def has(self, name: str) -> bool:
        return self.path(name).exists()

    def drop(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Return where the file of a name is, or would be."""
        return self._folder / quote(name, safe=" ")

    def cipher(self, salt: bytes) -> ChaCha20Poly1305:
        """Return what seals the pieces of the file with a salt."""
        return ChaCha20Poly1305(HKDF(SHA256(), 32, salt, b"vesica/1 cache").derive(self._secret))

    def _sealed(self, name: str, arrays: dict[str, Blocks]) -> Iterator[bytes]:
        salt = self.random(SALT)
        cipher, about = self.cipher(salt), name.encode()
        head = msgpack.packb([[key, each.dtype.str, each.shape] for key, each in arrays.items()])
        yield salt + (len(head) + TAG).to_bytes(4, "big") + cipher.encrypt(_nonce(0), head, about)
        number = 0
        for each in arrays.values():
            size = 0
            for block in each.blocks:
                assert size % PIECE == 0
                size += block.nbytes
                for piece in _pieces(np.ascontiguousarray(block)):
                    number += 1
                    yield cipher.encrypt(_nonce(number), piece, about)
            assert size == each.dtype.itemsize * math.prod(each.shape)


class Stored:
    """One file of a cache. Its methods raise InvalidTag where it is damaged or was sealed under another secret."""

    def __init__(self, file: BinaryIO, salt: bytes, cipher: ChaCha20Poly1305, about: bytes, path: Path) -> None:
        self.salt = salt
        self._file, self._cipher, self._about, self._path = file, cipher, about, path

    def load(self, only: Collection[str] | None = None) -> Arrays:
        """Return all arrays, or `only` some, by name."""
        arrays = {}
        for key, kind, shape in self._head():
            if only is None or key in only:
                arrays[key] = self._fill(np.empty(shape, np.dtype(kind)))
            else:
                self._skip(kind, shape)
        return arrays

    def rows(self, name: str, count: int) -> Iterator[npt.NDArray[np.generic]]:
        """Yield one array `count` rows at a time, of which the bytes have to fill whole pieces."""
        for key, kind, (length, *shape) in self._head():
            if key != name:
                self._skip(kind, (length, *shape))
                continue
            for start in range(0, length, count):
                part = np.empty((min(count, length - start), *shape), np.dtype(kind))
                assert start + count >= length or part.nbytes % PIECE == 0
                yield self._fill(part)

    def lengths(self) -> dict[str, int]:
        """Return how many rows each array has."""
        return {key: shape[0] if shape else 1 for key, _, shape in self._head()}

    def part(self, name: str, rows: slice) -> npt.NDArray[np.generic]:
        """Return some rows of one array; nothing is read but the pieces in which they lie."""
        for key, kind, shape in self._head():
            if key != name:
                self._skip(kind, shape)
                continue
            width = np.dtype(kind).itemsize * math.prod(shape[1:])
            start, stop, _ = (each * width for each in rows.indices(shape[0]))
            first, last = start // PIECE * PIECE, min(-(-stop // PIECE) * PIECE, width * shape[0])
            self._number += first // PIECE
            self._file.seek(first + first // PIECE * TAG, 1)
            content = self._fill(np.empty(max(last - first, 0), np.uint8))[start - first : stop - first]
            return content.view(np.dtype(kind)).reshape(-1, *shape[1:])
        raise KeyError(name)

    def drop(self) -> None:
        """Delete the file, unless another took its place meanwhile."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                self._path.unlink()

    def _head(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        self._file.seek(SALT)
        size, self._number = int.from_bytes(self._file.read(4), "big"), 0
        yield from msgpack.unpackb(self._cipher.decrypt(_nonce(0), _read(self._file, size), self._about))

    def _fill(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        for piece in _pieces(array):
            self._number += 1
            self._cipher.decrypt_into(_nonce(self._number), _read(self._file, len(piece) + TAG), self._about, piece)
        return array

    def _skip(self, kind: str, shape: tuple[int, ...]) -> None:
        size = np.dtype(kind).itemsize * math.prod(shape)
        pieces = -(-size // PIECE)
        self._number += pieces
        self._file.seek(size + pieces * TAG, 1)


class OpenRows:
    """The rows of one array of an open file, uint8 (n, width): read where they are needed. Raises InvalidTag."""

    def __init__(self, stored: Stored, name: str, count: int) -> None:
        self._stored, self._name, self._count = stored, name, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> npt.NDArray[np.uint8]:
        return self._stored.part(self._name, rows).astype(np.uint8, copy=False)


class StoredRows:
    """The same of a file that is opened for each read, and never saved again under its name."""

    def __init__(self, cache: Cache, file: str, name: str, count: int) -> None:
        self._cache, self._file, self._name, self._count = cache, file, name, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> npt.NDArray[np.uint8]:
        """Return some rows; raises Failure where the file is gone, or damaged: then it goes, and is made again."""
        try:
            with self._cache.open(self._file) as stored:
                try:
                    return OpenRows(stored, self._name, self._count)[rows]
                except InvalidTag:
                    stored.drop()
                    raise
        except (FileNotFoundError, InvalidTag):
            raise Failure("a file of the cache cannot be read any more", hint="run it again") from None


@dataclass(frozen=True, slots=True)
class Folder:
    """The cache of one key epoch of a connection, on disk."""

    connection_id: str
    epoch: int
    path: Path


def folders(home: Path, connection_id: str | None = None) -> list[Folder]:
    """Return the caches of a connection, or of all."""
    caches = home / "cache"
    found = caches.glob("*/*") if connection_id is None else below(caches, connection_id).glob("*")
    return [
        Folder(each.parent.name, int(each.name) if each.name.isdigit() else 0, each) for each in found if each.is_dir()
    ]


def destroy(gone: Iterable[Folder]) -> None:
    """Delete caches; what cannot be deleted now is left for the next upkeep."""
    for each in gone:
        shutil.rmtree(each.path, ignore_errors=True)
        with suppress(OSError):
            each.path.parent.rmdir()  # if that was the last one


def _pieces(array: npt.NDArray[np.generic]) -> Iterator[memoryview]:
    """Yield the bytes of a contiguous array, as they lie in memory."""
    content = array.reshape(-1).view(np.uint8).data
    return (content[start : start + PIECE] for start in range(0, len(content), PIECE))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _read(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise InvalidTag  # a part is missing
    return content
