from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from psi import join
from psi.values import SLICE, Values

bounded = settings(max_examples=examples(100), deadline=None)
# few different halves, so that 64-bit prefixes collide and rows repeat
halves = st.sampled_from([bytes(8), bytes(7) + b"\1", b"\xff" * 8, b"\x80" + bytes(7), b"middling"])
rows = st.lists(st.tuples(halves, halves).map(b"".join), max_size=12)


@pytest.fixture(autouse=True, scope="module", params=[SLICE, 3])
def slices(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let whatever is done by slices be done in one, and in many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "SLICE", request.param)
        yield


def array(rows: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)


@bounded
@given(rows)
def test_order_is_the_order_of_bytes_and_stable(rows: list[bytes]) -> None:
    assert join.join_order(array(rows)).tolist() == sorted(range(len(rows)), key=rows.__getitem__)
    points, permutation = join.sort_points(array(rows))
    assert (points == array(rows)[permutation]).all()


@bounded
@given(st.integers(1, 20), st.data())
def test_rows_of_any_width_are_arranged_in_place(width: int, data: st.DataObject) -> None:
    given_rows = data.draw(st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=12))
    order = np.array(data.draw(st.permutations(range(len(given_rows)))), np.intp)
    arranged = np.frombuffer(b"".join(given_rows), np.uint8).reshape(-1, width).copy()
    join.arrange(arranged, order)
    assert [row.tobytes() for row in arranged] == [given_rows[place] for place in order]


@bounded
@given(rows)
def test_disorder_is_named(rows: list[bytes]) -> None:
    expected = next(
        ((i, rows[i] == rows[i - 1]) for i in range(1, len(rows)) if rows[i] <= rows[i - 1]),
        None,
    )
    assert join.first_disorder(array(rows)) == expected


@bounded
@given(rows)
def test_distinct_rows_are_sorted_and_occur_once(rows: list[bytes]) -> None:
    assert [row.tobytes() for row in join.distinct(array(rows))] == sorted(set(rows))


@bounded
@given(rows, rows)
def test_match_with_colliding_prefixes(left: list[bytes], right: list[bytes]) -> None:
    left = sorted(set(left))
    expected = [(left.index(row), index) for index, row in enumerate(right) if row in left]
    assert list(zip(*(found.tolist() for found in join.match(array(left), array(right))), strict=True)) == expected


# few beginnings of ten bytes, of which the last one repeats, and rows of two widths; from many one may be far from the next
beginnings = st.sampled_from([bytes(10), b"\0" * 7 + b"\1..", b"\0" * 7 + b"\1.,", b"\x80" + bytes(9), b"\xff" * 10])
ends = st.binary(min_size=6, max_size=6)
alike = st.lists(st.tuples(beginnings, st.one_of(st.just(bytes(6)), ends)).map(b"".join), max_size=40)
many = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 256, (600, 16), np.uint8))


@bounded
@given(alike, alike, many, st.sampled_from([(0, 0), (0, 600), (600, 0), (300, 300), (600, 3), (3, 600)]))
def test_match_of_sorted_rows_is_what_search_finds(
    left: list[bytes], right: list[bytes], more: np.ndarray, sizes: tuple[int, int]
) -> None:
    """Sorted sides of any sizes, with equal beginnings, with rows that repeat on the right, and cut out of wider rows."""
    first, second = more[: sizes[0]], more[len(more) - sizes[1] :]
    known = join.distinct(np.concatenate([array(left), first]))
    wanted = np.concatenate([array(right), array(left)[::2], second])
    wanted = wanted[join.join_order(wanted)]
    wider = np.pad(known, ((0, 0), (0, 5)), constant_values=7)[:, :16]
    for table in (known, wider):
        expected, found = join.search(table, wanted), join.match(table, wanted)
        assert [each.tolist() for each in found] == [each.tolist() for each in expected]
        assert {each.dtype for each in found} == {np.dtype(np.intp)}


@bounded
@given(alike, alike, many)
def test_match_of_rows_in_any_order_is_what_search_finds(
    left: list[bytes], right: list[bytes], more: np.ndarray
) -> None:
    known = join.distinct(np.concatenate([array(left), more]))
    wanted = np.concatenate([array(sorted(right)), more[:9], array(left)])  # it is sorted for a while
    expected, found = join.search(known, wanted), join.match(known, wanted)
    assert [each.tolist() for each in found] == [each.tolist() for each in expected]


def test_match_of_random_rows() -> None:
    generator = np.random.default_rng(1)
    left = generator.integers(0, 256, (5000, 16), np.uint8)
    left = left[join.join_order(left)]
    right = np.concatenate([left[generator.permutation(5000)[:800]], generator.integers(0, 256, (900, 16), np.uint8)])
    in_left, in_right = join.match(left, right)
    assert in_right.tolist() == list(range(800))
    assert (left[in_left] == right[:800]).all()


def test_a_prefix_that_agrees_is_not_a_match() -> None:
    left, right = array([b"sameprefix" + b"abcdef"]), array([b"sameprefix" + b"abcdeg"])
    assert [len(found) for found in join.match(left, right)] == [0, 0]


@bounded
@given(st.lists(rows, max_size=3))
def test_a_union_has_everybody_once(parts: list[list[bytes]]) -> None:
    found = join.union(Values.of(part) for part in parts)
    assert [found[row] for row in range(len(found))] == sorted({row for part in parts for row in part})


def test_a_union_tells_a_value_from_a_longer_one() -> None:
    found = join.union([Values.of([b"b", b"a"]), Values.of([b"a\0", b"a"])])
    assert [found[row] for row in range(len(found))] == [b"a", b"a\0", b"b"]
