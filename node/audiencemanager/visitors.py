"""Visitors: whom the Audience Manager side knows, apart from the project's profiles, by which ids, with which traits.

A visitor is a number from 1 on (uint32), which is given once and never to another one. Days are UTC days (Unix time //
86,400). A trait that was realised on a day expires at 00:00 UTC of that day + its days + 1.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import repeat
from sqlite3 import Connection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.values import SLICE, Values

from ..access.scope import Scope
from ..errors import NotAllowed
from . import holders, realisations
from .audience_file import PLACE, AudienceFile

DAY = 86_400  # seconds
NOBODY = 0
LAST = (1 << 32) - 1
MANY = 16_384  # values in a statement

U32 = npt.NDArray[np.uint32]


class Held(NamedTuple):
    """A trait that a visitor has, and the newest day on which it was realised."""

    trait: int
    day: int


def opened(scope: Scope) -> "Visitors":
    """Return the visitors of a project; nothing is opened or made before it is needed."""
    path = scope.data_directory.joinpath(*PLACE)
    return scope.home.kept(("visitors", scope.id), lambda: Visitors(AudienceFile(path), scope.home.now))


class Visitors:
    """The ids and traits of visitors. Each method is one transaction, or part of that which the thread began."""

    def __init__(self, file: AudienceFile, now: Callable[[], int]) -> None:
        self.file = file
        self._now = now

    def begin(self) -> AbstractContextManager[Connection]:
        """Open the one writing transaction; see AudienceFile."""
        return self.file.begin()

    def close(self) -> None:
        self.file.close()

    @property
    def today(self) -> int:
        return self._now() // DAY

    @property
    def revision(self) -> int:
        """How often ids or traits of visitors have changed."""
        with self.file.read() as tx:
            row = tx.execute("SELECT value FROM counters WHERE name = 'changes'").fetchone()
            return int(row[0]) if row else 0

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """Open the writing transaction; what really changes there counts in `revision`."""
        with self.begin() as tx:
            before = tx.total_changes
            yield tx
            if tx.total_changes != before:
                tx.execute(
                    "INSERT INTO counters VALUES ('changes', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
                )

    # Ids

    def numbers(self, source: int, values: Values, *, make: bool) -> U32:
        """Return the visitor of each id of a data source, uint32 (n,): NOBODY where there is none, or with `make` a new one."""
        raw = split(values)
        found = self.known(source, raw)
        if make and (missing := [each for each in dict.fromkeys(raw) if each not in found]):
            with self.begin():
                first = self.reserve(len(missing))
                new = dict(zip(missing, range(first, first + len(missing)), strict=True))
                self.add(source, new)
            found |= new
        return np.fromiter((found.get(each, NOBODY) for each in raw), np.uint32, len(raw))

    def known(self, source: int, values: Sequence[bytes]) -> dict[bytes, int]:
        """Return the visitors of those ids of a data source that are known, by id."""
        found: dict[bytes, int] = {}
        with self.file.read() as tx:
            if len(values) > 1:
                values = sorted(set(values))  # neighbours are on one page
            for start in range(0, len(values), MANY):
                some = values[start : start + MANY]
                marks = ",".join("?" * len(some))
                query = f"SELECT value, visitor FROM ids WHERE source = ? AND value IN ({marks})"  # noqa: S608 - marks
                found.update(tx.execute(query, [source, *some]))
        return found

    def reserve(self, count: int) -> int:
        """Return the first of `count` numbers that no visitor has had."""
        with self.begin() as tx:
            return _reserve(tx, "visitors", count)

    def add(self, source: int, ids: Mapping[bytes, int]) -> None:
        """Add ids of a data source that nobody has yet, each with its visitor."""
        with self._changing() as tx:
            first = _reserve(tx, "ids", len(ids)) if ids else 0
            rows = ((source, value, ids[value], number) for number, value in enumerate(sorted(ids), first))
            tx.executemany("INSERT INTO ids VALUES (?, ?, ?, ?)", rows)

    def ids(self, visitors: BitMap, source: int) -> tuple[U32, Values]:
        """Return the ids that visitors have of a data source: their numbers (ascending, several may repeat), and the values."""
        numbers: list[int] = []
        values: list[bytes] = []
        with self.file.read() as tx:
            for part in _parts(visitors):
                query = (
                    "SELECT visitor, value FROM ids WHERE visitor IN (SELECT value FROM json_each(?)) AND source = ?"
                )
                for visitor, value in sorted(tx.execute(query, [json.dumps(part.tolist()), source])):
                    numbers.append(visitor)
                    values.append(value)
        return np.array(numbers, np.uint32), Values.of(values)

    def every_id(self, source: int) -> Iterator[tuple[U32, Values]]:
        """Yield all ids of a data source in parts, with their visitors."""
        with self.file.read() as tx:
            rows = tx.execute("SELECT visitor, value FROM ids WHERE source = ?", [source])
            while some := rows.fetchmany(SLICE):
                yield np.array([visitor for visitor, _ in some], np.uint32), Values.of([value for _, value in some])

    def sources(self, visitors: BitMap) -> dict[int, int]:
        """Return how many ids visitors have of each data source."""
        found: dict[int, int] = {}
        with self.file.read() as tx:
            for part in _parts(visitors):
                query = (
                    "SELECT source, count(*) FROM ids WHERE visitor IN (SELECT value FROM json_each(?)) GROUP BY source"
                )
                for source, count in tx.execute(query, [json.dumps(part.tolist())]):
                    found[source] = found.get(source, 0) + count
        return found

    def everybody(self) -> BitMap:
        """Return all visitors."""
        with self.file.read() as tx:
            return BitMap(each for (each,) in tx.execute("SELECT visitor FROM ids"))

    def erase(self, visitors: BitMap) -> None:
        """Take visitors out, with all ids and traits; `AudienceFile.overwrite_deleted` takes them out of the log."""
        with self._changing() as tx:
            holders.erase(tx, visitors)
            tx.executemany("DELETE FROM ids WHERE visitor = ?", zip(visitors))
            realisations.erase(tx, visitors)

    # Traits

    def members(self, trait: int, days: int) -> BitMap:
        """Return who has a trait now that expires after so many days, 0: never."""
        with self.file.read() as tx:
            return realisations.members(tx, trait, self.first_day(days))

    def realise(
        self, trait: int, visitors: BitMap, day: int, *, once: bool, several: realisations.Counts | None = None
    ) -> None:
        """Note that visitors realised a trait on a day; `several` lists those who did it more than once, and how often.

        With `once` the trait counts once, however often it is realised, and the newest day alone is kept.
        """
        with self._changing() as tx:
            if once:
                realisations.renew(tx, (trait, day), visitors)
            else:
                realisations.add(tx, (trait, day), visitors, several)

    def remove(self, trait: int, visitors: BitMap | None = None) -> None:
        """Note that visitors do not have a trait any more, or nobody does."""
        with self._changing() as tx:
            realisations.remove(tx, trait, visitors)
            if visitors is None:
                holders.remove(tx, trait)

    def hold(self, trait: int, source: int, values: Values) -> None:
        """Note by which ids of a data source visitors have a trait, who are told to have it."""
        with self.begin() as tx:
            holders.hold(tx, trait, source, split(values))

    def let_go(self, trait: int, source: int, values: Values) -> BitMap:
        """Note that they do not have it by these ids any more; return who has it by no other one."""
        with self.begin() as tx:
            return holders.let_go(tx, trait, source, split(values))

    def frequency(self, first_days: Mapping[int, int]) -> tuple[U32, npt.NDArray[np.int64]]:
        """Return who realised any of some traits, ascending, and how often, int64: each trait counts from a day on."""
        with self.file.read() as tx:
            return realisations.frequency(tx, first_days)

    def held(self, visitor: int) -> list[Held]:
        """Return what a visitor has realised, by trait, also what has expired and is not dropped yet."""
        with self.file.read() as tx:
            return [Held(trait, day) for trait, day in realisations.of_visitor(tx, visitor)]

    def drop_expired(self, days: Mapping[int, int]) -> None:
        """Drop what has expired, by the days of each trait that there is; of other traits all is dropped."""
        with self._changing() as tx:
            realisations.drop(tx, {trait: self.first_day(each) for trait, each in days.items()})
            holders.drop(tx, days)

    def first_day(self, days: int) -> int:
        """Return the first day on which a trait may have been realised that has not expired; 0 where it never does."""
        return self.today - days if days else 0


def _reserve(tx: Connection, what: str, count: int) -> int:
    """Return the first of `count` numbers that no visitor, or no id, has had."""
    row = tx.execute("SELECT value FROM counters WHERE name = ?", [what]).fetchone()
    given = int(row[0]) if row else 0
    if given + count > LAST:
        raise NotAllowed(f"a project knows at most 4,294,967,295 {what}", hint="use another project")
    if count:
        tx.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", [what, given + count])
    return given + 1


def split(values: Values) -> list[bytes]:
    """Return values one by one."""
    width = values.rows.shape[1]
    raw = np.ascontiguousarray(values.rows).tobytes()
    rows: Iterable[bytes] = (
        map(raw.__getitem__, map(slice, range(0, len(raw), width), range(width, len(raw) + 1, width)))
        if width
        else repeat(b"", len(values))
    )
    if values.lengths is None:
        return list(rows)
    return [row[:length] for row, length in zip(rows, values.lengths.tolist(), strict=True)]


def _parts(visitors: BitMap) -> Iterator[U32]:
    numbers = np.asarray(visitors.to_array(), np.uint32)
    return (numbers[start : start + SLICE] for start in range(0, len(numbers), SLICE))
