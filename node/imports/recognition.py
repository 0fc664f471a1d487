"""Which lines of a file came before and still say all that their profiles' lines say: these need not be read again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from psi.values import SLICE, U8, Bools

from ..inputs.cells import MAX_CELL
from ..inputs.physical_lines import Unwieldy, longest
from ..inputs.sources import ReadProgress, Source
from ..people.known_lines import WIDTH, KnownLines, digests

Numbers = npt.NDArray[np.int64]

_BLANK, _UNKNOWN = -2, -1
_WAITING = 1 << 14  # lines that are looked for at once, if they are not where they were
_SEARCHES = 16  # at most so many go through all known lines, for each time that there are as many lines
_FEW = 1 << 14  # lines that may be unknown before it is looked whether most are


@dataclass(slots=True, kw_only=True)
class _Lookup:
    """Where the lines of a file are among those that are known: by their number first, and the others by their digest.

    `by_line` has the first row with the digest of each line that is known, by its number. `ahead` is by how much lines have
    other numbers than before, as far as is known; `pending` are arrays of rows that are not filled yet, where in them, the
    digests, and the numbers of the lines.
    """

    known: KnownLines
    by_line: npt.NDArray[np.int32]
    ahead: int = 0
    unknown: int = 0
    pending: list[tuple[npt.NDArray[np.int32], Numbers, U8, int]] = field(default_factory=list)

    @classmethod
    def of(cls, known: KnownLines) -> "_Lookup":
        return cls(known=known, by_line=known.by_line())

    def find(self, digests: U8, blank: Bools, number: int) -> npt.NDArray[np.int32]:
        """Return the first row of each line, from `number` on; those of some are filled in later, by `search` at last."""
        start = number - self.ahead
        rows = np.full(len(digests), _UNKNOWN, np.int32)
        begin, end = max(start, 0), min(start + len(digests), len(self.by_line))
        if begin < end:
            rows[begin - start : end - start] = self.by_line[begin:end]
        there = np.flatnonzero(rows >= 0)
        same = (np.take(self.known.digests, rows[there], axis=0) == digests[there]).all(axis=1)
        found = np.full(len(digests), _UNKNOWN, np.int32)
        found[there[same]] = rows[there[same]]
        found[blank] = _BLANK
        left = np.flatnonzero(found == _UNKNOWN)
        self.pending.append((found, left, digests[left], number))
        if sum(len(places) for _, places, _, _ in self.pending) > max(_WAITING, len(self.known) // _SEARCHES):
            self.search()
        return found

    def search(self) -> None:
        """Look for the digests of the lines that are left."""
        rows = self.known.find(np.concatenate([np.zeros((0, WIDTH), np.uint8), *(each[2] for each in self.pending)]))
        self.unknown += int(np.count_nonzero(rows < 0))
        for found, places, _, number in self.pending:
            mine, rows = rows[: len(places)], rows[len(places) :]
            found[places] = mine
            if len(known := np.flatnonzero(mine >= 0)):
                self.ahead = number + int(places[known[-1]]) - int(self.known.lines[mine[known[-1]]])
        self.pending.clear()


@dataclass(slots=True, kw_only=True)
class Recognition:
    """The lines of a file beside those that are known.

    `found` is int32 (n,): of each line, from number `first` on, the row in `known`, or _UNKNOWN, or _BLANK. `changed` is
    bool (count,): the profiles whose lines have to be read, all of them.
    """

    known: KnownLines
    first: int
    found: npt.NDArray[np.int32]
    changed: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        source: Source,
        opened: Callable[[], KnownLines],
        *,
        key: bytes,
        count: int,
        progress: ReadProgress | None,
    ) -> "Recognition":
        """Look through a file for the lines that are known, of `count` profiles.

        They are opened again where other parts of them are wanted: what was read of a file stays in memory until it is closed.
        Raises Unwieldy where most are not, or where lines alone do not say what the records are.
        """
        first, blank, lookup, parts = 0, 0, _Lookup.of(opened()), [np.empty(0, np.int32)]
        for lines, number in source.blocks(progress):
            if longest(lines) > MAX_CELL:
                raise Unwieldy
            first = first or number
            blanks = lines.lengths == 0
            blank += int(np.count_nonzero(blanks))
            if blank > _FEW and 2 * blank > number + len(lines):
                raise Unwieldy
            parts.append(lookup.find(digests(key, lines), blanks, number))
            if lookup.unknown > _FEW and 2 * lookup.unknown > number + len(lines):
                raise Unwieldy
        lookup.search()
        del lookup
        whole = cls(known=opened(), first=first, found=np.concatenate(parts), changed=np.zeros(count, bool))
        whole._compare(opened)
        return whole

    def _compare(self, opened: Callable[[], KnownLines]) -> None:
        """Find the profiles whose lines are not those that are known of them, in their order."""
        now, then = np.zeros(len(self.changed), np.uint32), np.zeros(len(self.changed), np.uint32)
        for rows in self._known():
            np.add.at(now, self.known.profiles[rows], np.uint32(1))
        for part in _parts(len(self.known)):
            np.add.at(then, self.known.profiles[part], np.uint32(1))
        self.changed |= (now > 0) & (now != then)
        several = (now > 1) & (now == then)
        del now, then
        if several.any():
            self._compare_several(several, opened())

    def _compare_several(self, several: Bools, known: KnownLines) -> None:
        """Compare the lines of profiles that have as many as are known of them."""
        profiles = known.profiles
        rows = np.concatenate([rows[several[profiles[rows]]] for rows in self._known()])
        mine = rows[np.argsort(profiles[rows], kind="stable")]
        parts = [part.start + np.flatnonzero(several[profiles[part]]) for part in _parts(len(known))]
        theirs = np.concatenate(parts)
        theirs = theirs[np.lexsort((known.lines[theirs], profiles[theirs]))]
        other = mine != known.find(np.take(known.digests, theirs, axis=0))
        self.changed[profiles[mine[other]]] = True

    def _known(self) -> Iterator[npt.NDArray[np.int32]]:
        """Yield the rows of the lines that are known, some at a time."""
        for part in _parts(len(self.found)):
            yield self.found[part][self.found[part] >= 0]

    def unread(self) -> Numbers:
        """Return the numbers of the lines that have to be read."""
        return self._numbers(lambda found: (found == _UNKNOWN) | self._of(found, self.changed))

    def unread_of(self, profiles: Numbers) -> Numbers:
        """Return the numbers of further lines that have to be read: those of profiles that lines which were read have."""
        more = np.zeros(len(self.changed), bool)
        more[profiles] = True
        more &= ~self.changed
        self.changed |= more
        return self._numbers(lambda found: self._of(found, more))

    def read_before(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
        """Return the numbers of the lines that need not be read, and their rows among those that are known."""
        known, changed = self.known, self.changed
        where = self._numbers(lambda found: (found >= 0) & ~self._of(found, changed), np.uint32)
        parts = (each[~changed[known.profiles[each]]] for each in self._known())
        rows = np.concatenate([np.zeros(0, np.int32), *parts])
        once = np.zeros(len(known), bool)
        once[rows] = True
        if np.count_nonzero(once) < len(rows):  # the same line once more: each has a row, in their order
            times = np.zeros(len(known), np.uint32)
            np.add.at(times, rows, np.uint32(1))
            again = np.concatenate([part.start + np.flatnonzero(times[rows[part]] > 1) for part in _parts(len(rows))])
            again = again[np.argsort(rows[again], kind="stable")]
            starts = np.searchsorted(rows[again], rows[again])
            rows[again] += (np.arange(len(again)) - starts).astype(np.int32)
        return where, rows

    def _numbers(
        self, which: Callable[[npt.NDArray[np.int32]], Bools], kind: type[np.integer[Any]] = np.int64
    ) -> npt.NDArray[Any]:
        """Return the numbers of some lines, by what was found of them."""
        found = (
            (self.first + part.start + np.flatnonzero(which(self.found[part]))).astype(kind)
            for part in _parts(len(self.found))
        )
        return np.concatenate([np.zeros(0, kind), *found])

    def _of(self, found: npt.NDArray[np.int32], profiles: Bools) -> Bools:
        """Return which lines are known, and of some profiles."""
        there = np.flatnonzero(found >= 0)
        mask = np.zeros(len(found), bool)
        mask[there] = profiles[self.known.profiles[found[there]]]
        return mask


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + SLICE) for start in range(0, count, SLICE))
