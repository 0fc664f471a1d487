"""Files of rows by name (NumPy's npz, not compressed), written some rows at a time."""

import io
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np

from psi.engine import blocks
from psi.values import SLICE, U8, Rows

from .files import let_go


def packed(arrays: Mapping[str, Rows]) -> Iterator[bytes]:
    """Yield the content of a file with arrays of uint8 (n, width)."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, rows in arrays.items():
            head = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), rows[:0].shape[1])}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, head)
                for block in blocks(rows, SLICE):
                    member.write(np.ascontiguousarray(block).data)
                    yield from sink.taken()
    yield from sink.taken()


class Passing:
    """Rows of a mapped file, uint8 (n, width), copied some at a time: what was read does not stay in memory."""

    def __init__(self, mapped: Rows) -> None:
        self._mapped = mapped

    def __len__(self) -> int:
        return len(self._mapped)

    def __getitem__(self, rows: slice) -> U8:
        found = self._mapped[rows].copy()
        let_go(self._mapped[:])
        return found


class _Sink(io.RawIOBase):
    """What an archive was written to, to be taken a bit at a time."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: "bytes | memoryview") -> int:  # type: ignore[override]
        self._written.append(bytes(content))
        return len(self._written[-1])

    def taken(self) -> list[bytes]:
        written, self._written = self._written, []
        return written
