import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from psi import join
from psi.values import Values

bounded = settings(max_examples=examples(100), deadline=None)
# few different halves, so that 64-bit prefixes collide and rows repeat
halves = st.sampled_from([bytes(8), bytes(7) + b"\1", b"\xff" * 8, b"\x80" + bytes(7), b"middling"])
rows = st.lists(st.tuples(halves, halves).map(b"".join), max_size=12)


def array(rows: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)


@bounded
@given(rows)
def test_order_is_the_order_of_bytes_and_stable(rows: list[bytes]) -> None:
    assert join.join_order(array(rows)).tolist() == sorted(range(len(rows)), key=rows.__getitem__)
    points, permutation = join.sort_points(array(rows))
    assert (points == array(rows)[permutation]).all()


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
