"""How large the content of a compressed file may become: a small file must not keep a machine busy for days.

CSV packs to a twentieth at the best; a column of one value packs to nothing, so a small file may always become FLOOR.
"""

import gzip
import io
from pathlib import Path

from ..errors import InvalidInput

FLOOR = 1 << 29  # bytes
RATIO = 200
MOST = 1 << 36  # 64 GiB
CELL = 8  # bytes that each cell of a table counts as, beside its text: an empty one costs too
_STEP = 1 << 20


class Allowance:
    """The bytes that the content of a file of `packed` bytes may have; raises InvalidInput where it has more."""

    def __init__(self, packed: int, *, noun: str, hint: str) -> None:
        self.most = min(max(FLOOR, RATIO * packed), MOST)
        self._used, self._noun, self._hint = 0, noun, hint

    @classmethod
    def of_file(cls, path: Path) -> "Allowance":
        return cls(
            path.stat().st_size,
            noun=f"the content of {path.name}",
            hint="export it in several files, or unpacked if you trust it",
        )

    def add(self, size: int) -> None:
        """Count `size` bytes more; raises InvalidInput where that is more than is allowed."""
        self._used += size
        self.check(self._used)

    def check(self, size: int) -> None:
        """Raise InvalidInput where the content has more than what is allowed."""
        if size > self.most:
            raise InvalidInput(
                f"{self._noun} is over {self.most >> 20:,} MiB, too much for a file of its size", hint=self._hint
            )


class Unpacked(gzip.GzipFile):
    """A gzipped file of which no more is unpacked than is allowed; raises InvalidInput."""

    def __init__(self, path: Path) -> None:
        self._allowance = Allowance.of_file(path)
        super().__init__(path)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = self._allowance.most + 1
        return self._checked(super().read(min(size, self._allowance.most + 1)))

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(min(size, _STEP) if size >= 0 else _STEP))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:  # the end is found by unpacking all
            while self.read(_STEP):
                pass
            offset += self.tell()
        return super().seek(offset, io.SEEK_CUR if whence == io.SEEK_CUR else io.SEEK_SET)

    def _checked(self, data: bytes) -> bytes:
        self._allowance.check(self.tell())
        return data
