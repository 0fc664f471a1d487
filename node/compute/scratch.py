"""Scratch files: what an engine puts aside while it works on a large set.

A file has no name from the moment it is made, so that nothing is left of a process that is killed; and what is in it is
encrypted under a key that is in memory alone, so that the disk never has anything to tell.
"""

import os
import weakref
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from threading import Lock

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from psi.values import U8

from ..storage import temporary
from ..storage.files import failure_of, make_directory

NONCE, TAG = 12, 16
IN_MEMORY_BYTES = 1 << 24  # of the messages of one exchange


class ScratchFile:
    """Room for bytes in a file without a name: see `psi.places.Scratch`. Raises DiskFull or Failure."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            make_directory(folder)
            file, path = temporary.new_file(folder, "scratch")
            path.unlink()
        except OSError as error:
            raise failure_of(error, folder) from error
        self._descriptor = file.fileno()
        weakref.finalize(self, file.close)
        self._cipher = AESGCM(os.urandom(32))
        self._lock = Lock()  # a number is a nonce: it is given once
        self._extents: list[tuple[int, int]] = []  # where the bytes of each number are, and how many
        self._end = 0

    def put(self, content: U8) -> int:
        with self._lock:
            return self._put(content.reshape(-1).data)

    def get(self, number: int) -> U8:
        start, size = self._extents[number]
        content = np.empty(size, np.uint8)
        sealed = os.pread(self._descriptor, size + TAG, start)
        self._cipher.decrypt_into(_nonce(number), sealed, None, content.data)
        return content

    def _put(self, data: memoryview) -> int:
        number = len(self._extents)
        sealed = memoryview(self._cipher.encrypt(_nonce(number), data, None))
        self._extents.append((self._end, len(data)))
        try:
            while sealed:
                written = os.pwrite(self._descriptor, sealed, self._end)
                self._end, sealed = self._end + written, sealed[written:]
        except OSError as error:
            raise failure_of(error, self._folder) from error
        return number


class ScratchSpool(MutableMapping[tuple[str, int], bytes]):
    """The messages of an exchange, for who does not go on after a restart: the first in memory, many in a scratch file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scratch: ScratchFile | None = None
        self._room = IN_MEMORY_BYTES
        self._kept: dict[tuple[str, int], bytes | int] = {}  # a message, or its number in the file

    def __getitem__(self, chunk: tuple[str, int]) -> bytes:
        kept = self._kept[chunk]
        if isinstance(kept, bytes):
            return kept
        assert self._scratch is not None
        return self._scratch.get(kept).tobytes()

    def __setitem__(self, chunk: tuple[str, int], body: bytes) -> None:
        self._room -= len(body)
        if self._room >= 0:
            self._kept[chunk] = body
            return
        self._scratch = self._scratch or ScratchFile(self._folder)
        self._kept[chunk] = self._scratch.put(np.frombuffer(body, np.uint8))

    def __delitem__(self, chunk: tuple[str, int]) -> None:
        del self._kept[chunk]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def _nonce(number: int) -> bytes:
    return number.to_bytes(NONCE, "big")
