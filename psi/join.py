"""Order and joins over fixed-width rows: points, tags, records.

Rows are compared as big-endian numbers, which is the order of their bytes. All that is compared here is either random
to begin with (hash outputs, group elements) or came from a partner, who may have chosen it to collide: so the first
64 bits decide as long as they differ, and what does not differ there is compared whole, in linear memory and
n log n time whatever the input.
"""

import numpy as np
import numpy.typing as npt

from .values import U8

Indices = npt.NDArray[np.intp]


def order(rows: U8) -> Indices:
    """Return the permutation that sorts `rows`, uint8 (n, a multiple of 8), by their bytes; it is stable."""
    words = _words(rows)
    by_first = np.argsort(words[:, 0], kind="stable")
    first = words[by_first, 0]
    if not (first[1:] == first[:-1]).any():
        return by_first
    return np.lexsort(words.T[::-1])


def first_disorder(rows: U8) -> tuple[int, bool] | None:
    """Return the first index whose row is not above the one before, and whether it equals it; None if there is none."""
    words = _words(rows)
    above = np.zeros(max(len(rows) - 1, 0), np.bool_)
    equal = ~above
    for column in words.T:
        above |= equal & (column[1:] > column[:-1])
        equal &= column[1:] == column[:-1]
    if above.all():
        return None
    index = int(np.argmin(above))
    return index + 1, bool(equal[index])


def first_repeat(rows: U8) -> int | None:
    """Return the smallest index whose row occurs before it, in any order of rows; None if all differ."""
    permutation = order(rows)
    arranged = rows[permutation]
    repeats = (arranged[1:] == arranged[:-1]).all(axis=1)
    return int(permutation[1:][repeats].min()) if repeats.any() else None


def distinct(rows: U8) -> U8:
    """Return the rows sorted, each once."""
    arranged = rows[order(rows)]
    first = np.ones(len(arranged), np.bool_)
    first[1:] = (arranged[1:] != arranged[:-1]).any(axis=1)
    return arranged[first]


def match(left: U8, right: U8) -> tuple[Indices, Indices]:
    """Return where rows of `right` occur in `left`, as (left indices, right indices), ascending in the right ones.

    `left` is uint8 (n, 16 or more), sorted and without repetition; `right`, of the same width, is in any order.
    """
    left_words, right_words = _words(left), _words(right)
    prefixes = np.ascontiguousarray(left_words[:, 0])
    if (prefixes[1:] == prefixes[:-1]).any():
        return _match_whole(left, right)
    places = np.searchsorted(prefixes, right_words[:, 0])
    candidates = np.flatnonzero(places < len(left))
    same = (left_words[places[candidates]] == right_words[candidates]).all(axis=1)
    found = candidates[same]
    return places[found], found


def _match_whole(left: U8, right: U8) -> tuple[Indices, Indices]:
    """Join through a dictionary: for lists in which somebody made 64-bit prefixes collide."""
    where = {row.tobytes(): index for index, row in enumerate(left)}
    pairs = [(where.get(row.tobytes(), -1), index) for index, row in enumerate(right)]
    found = np.array([pair for pair in pairs if pair[0] >= 0], np.intp).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _words(rows: U8) -> npt.NDArray[np.uint64]:
    """Return the rows as big-endian 64-bit numbers in machine order, uint64 (n, width / 8)."""
    return np.ascontiguousarray(rows).view(">u8").astype(np.uint64)
