"""What works on a whole set needs little memory beside what it is given and what it returns."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from psi import join, membership
from psi.values import U8, Values

N = 1 << 19


@pytest.fixture(scope="module")
def rows() -> U8:
    return np.random.default_rng(1).integers(0, 256, (N, 32), np.uint8)


def peak(work: Callable[[], object]) -> float:
    """Return the most memory that numpy had for it at once, what it returns among it, in bytes a row."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / N
    finally:
        tracemalloc.stop()


def test_comparing_needs_no_room(rows: U8) -> None:
    same = Values(rows.copy())
    assert Values(rows).equals(same)
    assert peak(lambda: Values(rows).equals(same)) < 8
    same.rows[-1, -1] ^= 1
    assert not Values(rows).equals(same)


def test_looking_whether_rows_are_sorted_needs_no_room(rows: U8) -> None:
    arranged = rows[join.join_order(rows)]
    assert peak(lambda: join.first_disorder(arranged)) < 12


def test_distinct_rows_are_there_once_beside_the_order(rows: U8) -> None:
    assert peak(lambda: join.distinct(rows)) < 32 + 8 + 10


def test_rows_are_arranged_beside_two_words_of_each(rows: U8) -> None:
    order = join.join_order(rows)
    copied = rows.copy()
    assert peak(lambda: join.arrange(copied, order)) < 16 + 2


class Function:
    """F that is made where it is asked for; notes how many rows at most."""

    def __init__(self, rows: U8) -> None:
        self.rows, self.most = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> U8:
        given = self.rows[part]
        self.most = max(self.most, len(given))
        return np.concatenate([given, given], axis=1)


def test_a_release_is_sealed_without_all_of_f(rows: U8) -> None:
    function, bitmaps = Function(rows), np.ones((N, 1), np.uint8)
    whole = membership.seal(function[:], bitmaps, feed=b"f" * 16, version=1, revision=1)
    function.most = 0
    sealed: list[U8] = []

    def seal() -> None:
        sealed.append(membership.seal(function, bitmaps, feed=b"f" * 16, version=1, revision=1))

    assert peak(seal) < 17 + 8 + 35  # records, their order, and a slice of F
    assert function.most * 8 <= N
    assert (sealed[0] == whole).all()
