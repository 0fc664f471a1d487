"""Who comes in a run that also removes people: said after all who leave."""

from collections.abc import Callable, Iterator

import numpy as np

from psi.values import SLICE, U8, Bools, Indices

from .changes import Act, Change

MOST_KEPT = SLICE  # additions that are kept while removals come first


class Additions:
    """Who comes, to be said after all removals: a few are kept as they are, many are looked up once more."""

    def __init__(self) -> None:
        self._few: list[tuple[Change, U8, Indices]] | None = []
        self._parts: list[tuple[U8, U8]] = []  # the acts, and whether each identity has a place, in bits
        self._count = 0

    def put(self, change: Change, acts: U8, kept: Bools, places: Indices) -> None:
        """Take in what is done with consecutive identities: which of them are `kept`, at which places of the file."""
        adds = acts == Act.ADD
        self._count += int(adds.sum())
        self._parts.append((acts, np.packbits(kept)))
        if self._few is not None:
            self._few.append((change.take(adds), acts[adds], places[adds]))
        if self._count > MOST_KEPT:
            self._few = None

    def taken(self, again: Callable[[], Iterator[Change]]) -> Iterator[tuple[Change, U8, Indices]]:
        """Yield them with their acts and places; `again` yields all changes once more."""
        if self._few is not None:
            yield from self._few
            return
        written = 0
        for change, (acts, bits) in zip(again(), self._parts, strict=True):
            kept = np.unpackbits(bits, count=len(acts))
            yield change, acts, written + np.cumsum(kept, dtype=np.intp) - 1
            written += int(kept.sum())
