"""What an exchange sent and received, kept until it is over: chunk files under a key of their own, wrapped at rest."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ..errors import Failure
from .files import failure_of, write_atomically

Chunk = tuple[str, int]
_NAME = re.compile(r"([a-z-]+)\.([0-9]+)")
_PURPOSE = b"spool"
_NONCE, _TAG = 12, 16
_BLOCK = 4096
Growing = Callable[[int], None]


class Wrapping(Protocol):
    """What wraps a key at rest: the node's secrets."""

    def wrap(self, secret: bytes, purpose: bytes = b"") -> bytes: ...
    def unwrap(self, wrapped: bytes, purpose: bytes = b"") -> bytes: ...


class FileSpool(MutableMapping[Chunk, bytes]):
    """(step, chunk) -> body, in one directory: a body that was stored once survives a kill."""

    def __init__(
        self, directory: Path, secrets: Wrapping, random: Callable[[int], bytes], growing: Growing | None = None
    ) -> None:
        """Open the spool in `directory`, or begin one; raises DiskFull or Failure.

        `growing` is called with the bytes on disk that each message takes before it is written, and may raise.
        """
        self._directory, self._random, self._growing = directory, random, growing
        wrapped = directory / "key"
        try:
            key = secrets.unwrap(wrapped.read_bytes(), _PURPOSE)
        except FileNotFoundError:
            key = random(32)
            write_atomically(wrapped, secrets.wrap(key, _PURPOSE))
        self._cipher = ChaCha20Poly1305(key)

    def __getitem__(self, chunk: Chunk) -> bytes:
        try:
            sealed = memoryview(self._path(chunk).read_bytes())  # its slices are no copies
        except FileNotFoundError:
            raise KeyError(chunk) from None
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._path(chunk).name.encode())
        except (InvalidTag, ValueError):
            raise Failure(
                f"a stored message of an exchange is damaged: {self._path(chunk)}",
                hint=f"delete the directory {self._directory}: the exchange then starts again",
            ) from None

    def __setitem__(self, chunk: Chunk, body: bytes) -> None:
        if self._growing is not None:
            self._growing(_on_disk(_NONCE + len(body) + _TAG))
        nonce = self._random(_NONCE)
        path = self._path(chunk)
        if not self._directory.is_dir():  # the exchange was given up meanwhile: what came now would stay for nobody
            raise Failure(f"the messages of an exchange are gone: {self._directory}")
        write_atomically(path, nonce + self._cipher.encrypt(nonce, body, path.name.encode()))

    def __delitem__(self, chunk: Chunk) -> None:
        try:
            self._path(chunk).unlink()
        except FileNotFoundError:
            raise KeyError(chunk) from None

    def __contains__(self, chunk: object) -> bool:
        return isinstance(chunk, tuple) and self._path((chunk[0], chunk[1])).exists()

    def __iter__(self) -> Iterator[Chunk]:
        for path in self._directory.iterdir():
            if match := _NAME.fullmatch(path.name):
                yield match[1], int(match[2])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def destroy(self) -> None:
        destroy(self._directory)

    def _path(self, chunk: Chunk) -> Path:
        step, number = chunk
        name = f"{step}.{number}"
        if not _NAME.fullmatch(name):
            raise KeyError(chunk)
        return self._directory / name


def destroy(directory: Path) -> None:
    """Delete a spool; the key first, so that what is left after a kill cannot be read."""
    try:
        (directory / "key").unlink(missing_ok=True)
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:  # a chunk was being written: the next upkeep deletes it
            raise failure_of(error, directory) from error


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def directory_size(directory: Path) -> int:
    """Return the bytes that the files of a spool take on disk."""
    try:
        with os.scandir(directory) as files:
            return sum(_on_disk(each.stat().st_size) for each in files)
    except FileNotFoundError:  # it ended meanwhile
        return 0
