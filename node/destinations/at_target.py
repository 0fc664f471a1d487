"""Who is at a target, on disk: an immutable file of identities with their states, sorted, read where it is needed."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psi.values import SLICE, U8, Indices, Values

from ..errors import Failure
from ..storage.files import write_atomically
from .changes import NOBODY, Digests, Entries, State

MAGIC = b"vesica/1 at-target\n"
WITH_DIGESTS = b"vesica/1 at-mapped\n"  # of attributes too
_HEAD = len(MAGIC) + 1  # and the width of a value in one byte


class AtTarget:
    """The entries of a file."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
            if len(head) != _HEAD or not head.startswith((MAGIC, WITH_DIGESTS)):
                raise ValueError
            self.width, self.mapped = head[-1], head.startswith(WITH_DIGESTS)
            size, row = path.stat().st_size - _HEAD, _record(self.width, mapped=self.mapped)
            self._rows = np.memmap(path, row, "r", offset=_HEAD) if size else np.zeros(0, row)
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

    def digests(self, start: int, stop: int) -> Digests:
        rows = self._rows[start:stop]
        return np.array(rows["digest"]) if self.mapped else np.zeros(len(rows), np.uint64)

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


def write(path: Path, width: int, parts: Iterable[tuple[Values, U8, Digests]], *, mapped: bool) -> None:
    """Write entries of at most `width` bytes, in the order in which they come; the digests only if they are `mapped`."""

    def pieces() -> Iterator[bytes]:
        yield (WITH_DIGESTS if mapped else MAGIC) + bytes([width])
        for values, states, digests in parts:
            rows = np.zeros(len(values), _record(width, mapped=mapped))
            if mapped:
                rows["digest"] = digests
            rows["state"] = states
            rows["length"] = values.rows.shape[1] if values.lengths is None else values.lengths
            rows["value"][:, : values.rows.shape[1]] = values.rows
            yield rows.tobytes()

    write_atomically(path, pieces())


def rewrite(path: Path, source: AtTarget, states: U8, digests: Digests) -> None:
    """Write the entries of a file with other states, uint8 (n,), and digests, but for those that are ABSENT."""

    def parts() -> Iterator[tuple[Values, U8, Digests]]:
        for start in range(0, len(source), SLICE):
            values, _ = source.part(start, start + SLICE)
            now = states[start : start + SLICE]
            kept = now != State.ABSENT
            yield values.take(kept), now[kept], digests[start : start + SLICE][kept]

    write(path, source.width, parts(), mapped=source.mapped)


def _record(width: int, *, mapped: bool) -> npt.DTypeLike:
    fields: list[Any] = [("state", "u1"), ("length", "u1"), ("value", "u1", (width,))]
    return np.dtype([("digest", "<u8"), *fields] if mapped else fields)
