"""Who is at a target, on disk: an immutable file of identities with their states, sorted, read where it is needed."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psi.values import SLICE, U8, Indices, Values

from ..errors import Failure
from ..storage.files import write_atomically
from .changes import NOBODY, Entries, State

MAGIC = b"vesica/1 at-target\n"
_HEAD = len(MAGIC) + 1  # and the width of a value in one byte


class AtTarget:
    """The entries of a file."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
            if len(head) != _HEAD or not head.startswith(MAGIC):
                raise ValueError
            self.width = head[-1]
            size = path.stat().st_size - _HEAD
            self._rows = (
                np.memmap(path, _record(self.width), "r", offset=_HEAD) if size else np.zeros(0, _record(self.width))
            )
        except (OSError, ValueError) as error:
            raise Failure(
                f"a file that says who is at a target is missing or damaged: {path.name}",
                hint="restore the home from a backup",
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        rows = self._rows[start:stop]
        return Values(np.ascontiguousarray(rows["value"]), np.array(rows["length"])), np.array(rows["state"])

    def states(self) -> U8:
        """Return a copy of all states, uint8 (n,)."""
        found = np.empty(len(self), np.uint8)
        for start in range(0, len(self), SLICE):
            found[start : start + SLICE] = self._rows["state"][start : start + SLICE]
        return found

    def take(self, places: Indices) -> Values:
        """Return the identities at some places."""
        rows = self._rows[places]
        return Values(np.ascontiguousarray(rows["value"]), np.array(rows["length"]))


def opened(path: Path | None) -> Entries:
    """Return the entries of a file, nobody where there is none."""
    return NOBODY if path is None else AtTarget(path)


def width_of(entries: Entries) -> int:
    return int(entries.part(0, 0)[0].rows.shape[1])


def write(path: Path, width: int, parts: Iterable[tuple[Values, U8]]) -> None:
    """Write entries of at most `width` bytes, in the order in which they come."""

    def pieces() -> Iterator[bytes]:
        yield MAGIC + bytes([width])
        for values, states in parts:
            rows = np.zeros(len(values), _record(width))
            rows["state"] = states
            rows["length"] = values.rows.shape[1] if values.lengths is None else values.lengths
            rows["value"][:, : values.rows.shape[1]] = values.rows
            yield rows.tobytes()

    write_atomically(path, pieces())


def rewrite(path: Path, source: AtTarget, states: U8) -> None:
    """Write the entries of a file with other states, uint8 (n,), but for those that are ABSENT."""

    def parts() -> Iterator[tuple[Values, U8]]:
        for start in range(0, len(source), SLICE):
            values, _ = source.part(start, start + SLICE)
            now = states[start : start + SLICE]
            kept = now != State.ABSENT
            yield values.take(kept), now[kept]

    write(path, source.width, parts())


def _record(width: int) -> npt.DTypeLike:
    fields: list[Any] = [("state", "u1"), ("length", "u1"), ("value", "u1", (width,))]
    return np.dtype(fields)
