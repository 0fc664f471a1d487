"""Who realised a trait on which day, and how often: a row per trait and day, a Roaring bitmap with counts beside.

A trait that counts once has each visitor on the newest day alone. Of others each day is kept until it expires, and those
who realised it more than once on a day are listed with their counts.
"""

from collections.abc import Iterator, Mapping
from sqlite3 import Connection

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

U32 = npt.NDArray[np.uint32]
Counts = tuple[U32, U32]  # visitors, ascending, and a number of each
Place = tuple[int, int]  # a trait and a day
_NONE = np.zeros(0, np.uint32)
MOST = (1 << 32) - 1  # realisations of a trait by a visitor on one day that are counted


def members(tx: Connection, trait: int, first_day: int) -> BitMap:
    """Return who realised a trait on a day or later."""
    query = "SELECT visitors FROM realisations WHERE trait = ? AND day >= ?"
    return BitMap.union(BitMap(), *(BitMap.deserialize(each) for (each,) in tx.execute(query, [trait, first_day])))


def renew(tx: Connection, place: Place, visitors: BitMap) -> None:
    """Let a day be the newest on which visitors realised a trait, but for those who did on a newer one."""
    trait, day = place
    visitors = visitors - members(tx, trait, day + 1)
    _take_out(tx, visitors, "trait = ? AND day < ?", place)
    before, _ = _stored(tx, place)
    if not visitors <= before:
        _put(tx, place, before | visitors, None)


def add(tx: Connection, place: Place, visitors: BitMap, several: Counts | None) -> None:
    """Add realisations of a trait on a day: one by each visitor, or as many as `several` lists."""
    before, listed = _stored(tx, place)
    if listed is not None or several is not None or before.intersect(visitors):
        both = before & visitors
        places = both.union(
            BitMap(_NONE if listed is None else listed[0]), BitMap(_NONE if several is None else several[0])
        )
        numbers = np.asarray(places.to_array(), np.uint32)
        total = np.minimum(_counted(numbers, before, listed) + _counted(numbers, visitors, several), MOST)
        listed = numbers[total > 1], total[total > 1].astype(np.uint32)
    if visitors:
        _put(tx, place, before | visitors, listed)


def remove(tx: Connection, trait: int, visitors: BitMap | None) -> None:
    """Take visitors out of a trait, or everybody."""
    if visitors is None:
        tx.execute("DELETE FROM realisations WHERE trait = ?", [trait])
    elif visitors:
        _take_out(tx, visitors, "trait = ?", (trait,))


def erase(tx: Connection, visitors: BitMap) -> None:
    """Take visitors out of all traits."""
    _take_out(tx, visitors, "true", ())


def frequency(tx: Connection, first_days: Mapping[int, int]) -> tuple[U32, npt.NDArray[np.int64]]:
    """Return who realised any of some traits, ascending, and how often, each from a day on."""
    found = np.zeros(1, np.int64)
    for trait, first_day in first_days.items():
        query = "SELECT visitors, counts FROM realisations WHERE trait = ? AND day >= ?"
        for stored, more in tx.execute(query, [trait, first_day]):
            visitors = np.asarray(BitMap.deserialize(stored).to_array(), np.uint32)
            if len(visitors) and visitors[-1] >= len(found):
                found = np.pad(found, (0, int(visitors[-1]) + 1 - len(found)))
            found[visitors] += 1
            if (listed := _unpacked(more)) is not None:
                found[listed[0]] += listed[1].astype(np.int64) - 1
    some = np.flatnonzero(found)
    return some.astype(np.uint32), found[some]


def of_visitor(tx: Connection, visitor: int) -> Iterator[tuple[int, int]]:
    """Yield the traits that a visitor has realised, with the newest day of each."""
    newest: dict[int, int] = {}
    for trait, day, stored in tx.execute("SELECT trait, day, visitors FROM realisations ORDER BY trait, day"):
        if visitor in BitMap.deserialize(stored):
            newest[trait] = day
    yield from newest.items()


def drop(tx: Connection, first_days: Mapping[int, int]) -> None:
    """Drop the days of each trait before its first one, and all of traits that are not listed."""
    found = tx.execute("SELECT trait, min(day) FROM realisations GROUP BY trait").fetchall()
    for trait, day in found:
        first_day = first_days.get(trait)
        if first_day is None:
            remove(tx, trait, None)
        elif day < first_day:
            tx.execute("DELETE FROM realisations WHERE trait = ? AND day < ?", [trait, first_day])


def _stored(tx: Connection, place: Place) -> tuple[BitMap, Counts | None]:
    """Return who realised a trait on a day, and who more than once."""
    row = tx.execute("SELECT visitors, counts FROM realisations WHERE trait = ? AND day = ?", place).fetchone()
    return (BitMap(), None) if row is None else (BitMap.deserialize(row[0]), _unpacked(row[1]))


def _put(tx: Connection, place: Place, visitors: BitMap, listed: Counts | None) -> None:
    """Store who realised a trait on a day; a day without anybody has no row."""
    if visitors:
        row = (*place, visitors.serialize(), _packed(listed))
        tx.execute("INSERT OR REPLACE INTO realisations VALUES (?, ?, ?, ?)", row)
    else:
        tx.execute("DELETE FROM realisations WHERE trait = ? AND day = ?", place)


def _take_out(tx: Connection, visitors: BitMap, where: str, values: tuple[int, ...]) -> None:
    """Take visitors out of some rows."""
    query = f"SELECT trait, day FROM realisations WHERE {where}"  # noqa: S608 - a constant of this module
    for place in tx.execute(query, values).fetchall():
        before, listed = _stored(tx, place)
        if before.intersect(visitors):
            left = before - visitors
            if listed is not None:
                stay = np.fromiter((each in left for each in listed[0].tolist()), bool, len(listed[0]))
                listed = listed[0][stay], listed[1][stay]
            _put(tx, place, left, listed)


def _counted(numbers: U32, visitors: BitMap, listed: Counts | None) -> npt.NDArray[np.int64]:
    """Return how often each of some numbers is counted: as listed, else once if it is one of the visitors."""
    found = np.zeros(len(numbers), np.int64)
    found[np.searchsorted(numbers, np.asarray((visitors & BitMap(numbers)).to_array(), np.uint32))] = 1
    if listed is not None:
        found[np.searchsorted(numbers, listed[0])] = listed[1]
    return found


def _packed(listed: Counts | None) -> bytes | None:
    if listed is None or not len(listed[0]):
        return None
    return b"".join(each.astype("<u4").tobytes() for each in listed)


def _unpacked(stored: bytes | None) -> Counts | None:
    if stored is None:
        return None
    numbers, counts = np.frombuffer(stored, "<u4").astype(np.uint32).reshape(2, -1)
    return numbers, counts
