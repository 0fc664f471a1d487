"""Sorting and joining fixed-width rows: points, tags, records.

Rows are compared as big-endian numbers, which is the order of their bytes. All that is compared here is either random
to begin with (hash outputs, group elements) or came from a partner, who may have chosen it to collide: so rows
are sorted by their first 64 bits, and those that agree there are compared whole, in linear memory and n log n time
whatever the input.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from . import kernel
from .values import SLICE, U8, Bools, Indices, Values

PARTS = 16  # of the keys of a large batch, which are sorted one after the other: sorting takes 32 bytes a key


def order_of(values: Values, *then: npt.NDArray[Any]) -> Indices:
    """Return the permutation that sorts identities, then by further columns, then by place."""
    return join_order(values.rows, *(then if values.lengths is None else (values.lengths, *then)))


def join_order(rows: U8, *then: npt.NDArray[Any]) -> Indices:
    """Return the permutation that sorts `rows`, uint8 (n, any width), by their bytes, then by further columns.

    It is stable.
    """
    beginnings = prefixes(rows)
    found = _sort_order(beginnings)
    same = _alike(beginnings, found)
    alike = np.zeros(len(found), np.bool_)  # rows that begin as another does: random ones only where they repeat
    alike[same] = alike[same + 1] = True
    places = found[alike]
    keys: list[npt.NDArray[Any]] = [*_words(np.take(rows, places, axis=0)).T, *(column[places] for column in then)]
    beside = keys[0][1:] == keys[0][:-1]
    keys[1:] = [key for key in keys[1:] if (key[1:] != key[:-1])[beside].any()]  # those that tell rows apart
    found[alike] = places[np.lexsort(keys[::-1])]
    return found


def _sort_order(keys: npt.NDArray[np.uint64]) -> Indices:
    """Return what `kernel.sort_order` does, for a part of the keys after the other, by the highest bits that differ."""
    if len(keys) <= SLICE:
        return kernel.sort_order(keys)
    lowest, highest = keys.min(), np.empty(len(keys), np.uint8)
    shift = np.uint64(max(0, int(keys.max() - lowest).bit_length() - (PARTS - 1).bit_length()))
    for start in range(0, len(keys), SLICE):
        highest[start : start + SLICE] = (keys[start : start + SLICE] - lowest) >> shift
    found, done = np.empty(len(keys), np.intp), 0
    for part in range(PARTS):
        places = np.flatnonzero(highest == part)
        found[done : done + len(places)] = places[kernel.sort_order(keys[places])]
        done += len(places)
    return found


def _alike(keys: npt.NDArray[np.uint64], order: Indices) -> Indices:
    """Return the places in `order`, which sorts the keys, after which the same key stands again."""
    same = [order[:0]]
    for start in range(0, len(order), SLICE):
        part = keys[order[start : start + SLICE + 1]]
        same.append(start + np.flatnonzero(part[1:] == part[:-1]))
    return np.concatenate(same)


def arrange(rows: U8, order: Indices) -> None:
    """Put rows, uint8 (n, any width), in the order of `rows[order]`, in place: eight bytes of each row are copied at once."""
    for start in range(0, rows.shape[1], 8):
        columns = rows[:, start : start + 8]
        copied = np.ascontiguousarray(columns)
        if copied.shape[1] == 8:
            columns[...] = copied.view(np.uint64)[:, 0][order].view(np.uint8).reshape(-1, 8)
        else:
            columns[...] = np.take(copied, order, axis=0)


def sort_points(points: U8) -> tuple[U8, Indices]:
    """Return the points sorted by encoding, and the permutation: `sorted == points[permutation]`.

    Sorting is the shuffle: blinded points are random, so their order says nothing about the order of the identities.
    The permutation is the sender's secret.
    """
    permutation = join_order(points)
    return points[permutation], permutation


def first_disorder(rows: U8) -> tuple[int, bool] | None:
    """Return the first index whose row is not above the one before, and whether it equals it; None if there is none."""
    for start in range(0, len(rows) - 1, SLICE):
        if (found := _first_disorder(rows[start : start + SLICE + 1])) is not None:
            return start + found[0], found[1]
    return None


def _first_disorder(rows: U8) -> tuple[int, bool] | None:
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


def distinct(rows: U8) -> U8:
    """Return the rows sorted, each once."""
    arranged = rows[join_order(rows)]
    first = _differ(arranged)
    return arranged if first.all() else arranged[first]


def union(parts: Iterable[Values]) -> Values:
    """Return the identities of all parts, sorted, each once."""
    joined = Values.join(parts)
    arranged = joined.take(order_of(joined))
    first = _differ(arranged.rows)
    if arranged.lengths is not None:
        first[1:] |= arranged.lengths[1:] != arranged.lengths[:-1]
    return arranged if first.all() else arranged.take(first)


def _differ(rows: U8) -> Bools:
    """Return which rows, sorted, are not the same as the one before."""
    first = np.ones(len(rows), np.bool_)
    for start in range(1, len(rows), SLICE):
        part = rows[start : start + SLICE]
        first[start : start + SLICE] = (part != rows[start - 1 : start - 1 + len(part)]).any(axis=1)
    return first


def match(left: U8, right: U8) -> tuple[Indices, Indices]:
    """Return where rows of `right` occur in `left`, as (left indices, right indices), ascending in the right ones.

    `left` is uint8 (n, 16 or more), sorted and without repetition; `right`, of the same width, is in any order. Where it is
    sorted, and the kernel's extension is there, both are read once, from end to end.
    """
    if not len(left) or not len(right):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    merged = kernel.merge(left, right)
    return search(left, right) if merged is None else merged


def search(left: U8, right: U8) -> tuple[Indices, Indices]:
    """Return the same as `match`, whatever the order of `right` and without the extension."""
    if not len(left):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    known, wanted = prefixes(left), prefixes(right)
    by_prefix = kernel.sort_order(wanted)  # a search goes up through the prefixes once
    places = np.empty(len(wanted), np.intp)
    places[by_prefix] = np.searchsorted(known, wanted[by_prefix])
    np.minimum(places, len(left) - 1, out=places)
    found = np.flatnonzero(known[places] == wanted)
    several = np.append(known[1:] == known[:-1], False)
    if several.any():
        for part in _slices(found[several[places[found]]]):
            ends = np.searchsorted(known, wanted[part], side="right")
            places[part] = np.minimum(_search(left, right[part], places[part], ends), len(left) - 1)
    parts = (part[(left[places[part]] == right[part]).all(axis=1)] for part in _slices(found))
    found = np.concatenate([found[:0], *parts])
    return places[found], found


def _search(left: U8, rows: U8, low: Indices, high: Indices) -> Indices:
    """Return for each row the first place in left[low:high] whose row is not below it, where prefixes collide."""
    wanted = _words(rows)
    while (searching := low < high).any():
        middle = np.where(searching, (low + high) // 2, 0)
        here = _words(left[middle])
        differs = here != wanted
        first = differs.argmax(axis=1)[:, None]
        below = searching & (np.take_along_axis(here, first, 1) < np.take_along_axis(wanted, first, 1)).ravel()
        low, high = np.where(below, middle + 1, low), np.where(searching & ~below, middle, high)
    return low


def _slices(indices: Indices) -> Iterator[Indices]:
    return (indices[start : start + SLICE] for start in range(0, len(indices), SLICE))


def prefixes(rows: U8) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each row as a number, uint64 (n,)."""
    return _words(rows[:, :8])[:, 0]


def _words(rows: U8) -> npt.NDArray[np.uint64]:
    """Return the rows as big-endian 64-bit numbers in machine order, at least one, uint64 (n, width / 8 rounded up)."""
    count, width = rows.shape
    words = max(1, -(-width // 8))
    numbers = np.zeros((count, words), np.uint64)
    numbers.view(np.uint8)[:, :width] = rows
    return numbers.byteswap(inplace=True) if sys.byteorder == "little" else numbers
