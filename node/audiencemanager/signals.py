"""Signals: which pairs of keys and values came together in calls, how often, when first and last, and who reads them.

They are kept for DAYS after a combination was last seen, and at most MOST combinations. Keys that begin with d_ or h_ are
not kept, which say how a call came, nor those with p_, which are private: rules read them, and they are forgotten. So are
values with an e-mail address or a phone number.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from sqlite3 import Connection
from typing import NamedTuple

Pairs = tuple[tuple[str, str], ...]

DAYS = 30
MOST = 100_000
AT_ONCE = 10_000  # combinations of one chunk: the most frequent
MAX_BYTES = 4_096  # of one combination
NOT_KEPT = ("d_", "h_", "p_")
_IDENTITY = re.compile(r"[^\s@](?:[@\uff20\ufe6b]|%40)[^\s@]|[+\uff0b]\d(?:[ ().\-/]{0,2}\d){6,14}")


class Seen(NamedTuple):
    """Pairs that came together in calls on a day, in how many, and when first and last (Unix seconds)."""

    pairs: Pairs
    day: int
    calls: int
    first: int
    last: int


class Signal(NamedTuple):
    """Pairs of the keys that were asked for, as they came from a data source."""

    pairs: Pairs
    source: int
    calls: int
    first: int
    last: int


def note(tx: Connection, source: int, seen: Iterable[Seen]) -> None:
    """Note the signals of calls."""
    kept: dict[tuple[str, int], list[int]] = {}
    for pairs, day, calls, first, last in seen:
        text = json.dumps(sorted({pair for pair in pairs if _is_kept(*pair)}), separators=(",", ":"))
        if 2 < len(text) <= MAX_BYTES:
            there = kept.setdefault((text, day), [0, first, last])
            there[:] = there[0] + calls, min(there[1], first), max(there[2], last)
    for (text, day), (calls, first, last) in sorted(kept.items(), key=lambda each: -each[1][0])[:AT_ONCE]:
        _note(tx, source, text, (day, calls, first, last))
    (several,) = tx.execute("SELECT count(*) FROM signals").fetchone()
    if several > MOST:
        _delete(tx, "SELECT number FROM signals ORDER BY last LIMIT ?", several - MOST)


def _is_kept(key: str, value: str) -> bool:
    return not key.startswith(NOT_KEPT) and not any(map(_IDENTITY.search, (key, value)))


def _note(tx: Connection, source: int, text: str, seen: tuple[int, int, int, int]) -> None:
    day, calls, first, last = seen
    digest = hashlib.blake2b(f"{source} {text}".encode(), digest_size=16).digest()
    found = tx.execute("SELECT number, first, last FROM signals WHERE digest = ?", [digest]).fetchone()
    if found is None:
        row = (digest, source, text, first, last)
        number = tx.execute("INSERT INTO signals VALUES (NULL, ?, ?, ?, ?, ?)", row).lastrowid
        keys = [(key, value, number) for key, value in json.loads(text)]
        tx.executemany("INSERT OR IGNORE INTO signal_keys VALUES (?, ?, ?)", keys)
    else:
        number = found[0]
        times = (min(first, found[1]), max(last, found[2]), number)
        tx.execute("UPDATE signals SET first = ?, last = ? WHERE number = ?", times)
    more = "INSERT INTO signal_days VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"
    tx.execute(more, [number, day, calls])


def search(tx: Connection, wanted: Sequence[tuple[str, str | None]], since_day: int) -> list[Signal]:
    """Return the pairs of some keys that came together since a day, the most frequent first; None stands for any value.

    A call counts that had a pair of each key. Its other pairs are left out, and what is the same then is counted together.
    """
    numbers = None
    for key, value in wanted:
        rows = tx.execute("SELECT signal FROM signal_keys WHERE key = ?1 AND (?2 IS NULL OR value = ?2)", [key, value])
        found = {number for (number,) in rows}
        numbers = found if numbers is None else numbers & found
    keys = {key for key, _ in wanted}
    together: dict[tuple[Pairs, int], list[int]] = {}
    for number in numbers or ():
        source, text, first, last = tx.execute(
            "SELECT source, pairs, first, last FROM signals WHERE number = ?", [number]
        ).fetchone()
        (count,) = tx.execute(
            "SELECT sum(count) FROM signal_days WHERE signal = ? AND day >= ?", [number, since_day]
        ).fetchone()
        if count:
            pairs = tuple((key, value) for key, value in json.loads(text) if key in keys)
            there = together.setdefault((pairs, source), [0, first, last])
            there[:] = there[0] + count, min(there[1], first), max(there[2], last)
    signals = [Signal(pairs, source, *counted) for (pairs, source), counted in together.items()]
    return sorted(signals, key=lambda each: (-each.calls, each.pairs, each.source))


def forget(tx: Connection, today: int) -> None:
    """Forget the days that are over, and combinations that were not seen since."""
    tx.execute("DELETE FROM signal_days WHERE day < ?", [today - DAYS])
    _delete(tx, "SELECT number FROM signals WHERE number NOT IN (SELECT signal FROM signal_days) LIMIT ?", -1)


def erase(tx: Connection, texts: Collection[str]) -> None:
    """Delete the combinations with a value that is one of some texts."""
    for text in texts:
        numbers = tx.execute("SELECT DISTINCT signal FROM signal_keys WHERE value = ?", [text]).fetchall()
        for (number,) in numbers:
            _delete(tx, "SELECT ?", number)


def _delete(tx: Connection, numbers: str, value: int) -> None:
    """Delete signals whose numbers a query gives."""
    for place in tx.execute(numbers, [value]).fetchall():
        tx.execute("DELETE FROM signal_days WHERE signal = ?", place)
        tx.execute("DELETE FROM signal_keys WHERE signal = ?", place)
        tx.execute("DELETE FROM signals WHERE number = ?", place)
