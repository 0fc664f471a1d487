"""By which ids visitors are in the segments of the platform: one who is by several stays until the last of them leaves.

A row per trait, a Roaring bitmap of the numbers of ids.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from sqlite3 import Connection

from pyroaring import BitMap

MANY = 16_384  # values in a statement


def hold(tx: Connection, trait: int, source: int, values: Sequence[bytes]) -> None:
    """Note that a trait is held by ids of a data source."""
    before = _stored(tx, trait)
    _put(tx, trait, before, before | BitMap(number for _, number in _ids(tx, source, values)))


def let_go(tx: Connection, trait: int, source: int, values: Sequence[bytes]) -> BitMap:
    """Note that a trait is held by ids of a data source no more; return the visitors who hold it by none from now on."""
    gone = list(_ids(tx, source, values))
    before = _stored(tx, trait)
    left = before - BitMap(number for _, number in gone)
    _put(tx, trait, before, left)
    visitors = BitMap(visitor for visitor, _ in gone)
    return visitors - BitMap(visitor for visitor, number in _of_visitors(tx, visitors) if number in left)


def erase(tx: Connection, visitors: BitMap) -> None:
    """Take the ids of visitors out of all traits, before the ids go."""
    ids = BitMap(number for _, number in _of_visitors(tx, visitors))
    for (trait,) in tx.execute("SELECT trait FROM holders").fetchall():
        before = _stored(tx, trait)
        _put(tx, trait, before, before - ids)


def drop(tx: Connection, traits: Collection[int]) -> None:
    """Drop what is noted of traits that are not among some."""
    for (trait,) in tx.execute("SELECT trait FROM holders").fetchall():
        if trait not in traits:
            remove(tx, trait)


def remove(tx: Connection, trait: int) -> None:
    """Drop what is noted of a trait."""
    tx.execute("DELETE FROM holders WHERE trait = ?", [trait])


def _stored(tx: Connection, trait: int) -> BitMap:
    row = tx.execute("SELECT ids FROM holders WHERE trait = ?", [trait]).fetchone()
    return BitMap() if row is None else BitMap.deserialize(row[0])


def _put(tx: Connection, trait: int, before: BitMap, ids: BitMap) -> None:
    if ids and ids != before:
        tx.execute("INSERT OR REPLACE INTO holders VALUES (?, ?)", [trait, ids.serialize()])
    elif before and not ids:
        remove(tx, trait)


def _ids(tx: Connection, source: int, values: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the visitor and the number of each id that is known."""
    values = sorted(set(values))  # neighbours are on one page
    for start in range(0, len(values), MANY):
        some = values[start : start + MANY]
        marks = ",".join("?" * len(some))
        query = f"SELECT visitor, number FROM ids WHERE source = ? AND value IN ({marks})"  # noqa: S608 - marks
        yield from tx.execute(query, [source, *some])


def _of_visitors(tx: Connection, visitors: BitMap) -> Iterator[tuple[int, int]]:
    """Yield each id of visitors: the visitor, and its number."""
    numbers = visitors.to_array().tolist()
    for start in range(0, len(numbers), MANY):
        query = "SELECT visitor, number FROM ids WHERE visitor IN (SELECT value FROM json_each(?))"
        yield from tx.execute(query, [json.dumps(numbers[start : start + MANY])])
