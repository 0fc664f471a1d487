import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from psi.join import join_order
from psi.values import Values, sort_keys

bounded = settings(max_examples=examples(100), deadline=None)
batches = st.lists(st.lists(st.binary(max_size=5), max_size=4), max_size=4)


@bounded
@given(batches)
def test_what_is_joined_is_every_value_in_order(batches: list[list[bytes]]) -> None:
    joined = Values.join(Values.of(batch) for batch in batches)
    assert [joined[i] for i in range(len(joined))] == [value for batch in batches for value in batch]


def test_values_of_one_width_need_no_lengths_when_joined() -> None:
    empty = Values(np.zeros((0, 0), np.uint8))
    joined = Values.join([empty, Values.of([b"ab"]), Values.of([b"cd", b"ef"])])
    assert joined.lengths is None
    assert joined.rows.shape == (3, 2)


@bounded
@given(st.lists(st.binary(max_size=5)))
def test_arrays_hold_the_values(given_values: list[bytes]) -> None:
    values = Values.of(given_values)
    kept = Values.of_arrays(values.arrays())
    assert [kept[i] for i in range(len(kept))] == given_values
    assert kept.digest() == values.digest()


def test_a_digest_is_that_of_the_values_however_wide_their_rows_are() -> None:
    values = Values.of([b"one", b"three"])
    longer = Values.join([values, Values.of([b"a longer one", b"x"])]).part(slice(2))
    assert longer.rows.shape != values.rows.shape
    assert longer.digest() == values.digest()


def test_digests_tell_lists_apart() -> None:
    lists = [[b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [b"ab", b"c\0"], [b"ab"], []]
    assert len({Values.of(each).digest() for each in lists}) == len(lists)


@bounded
@given(st.lists(st.binary(max_size=5), min_size=1), st.data())
def test_taken_values_are_those_at_the_places(given_values: list[bytes], data: st.DataObject) -> None:
    values = Values.of(given_values)
    places = data.draw(st.lists(st.integers(0, len(given_values) - 1)))
    taken = values.take(np.array(places, np.intp))
    assert [taken[i] for i in range(len(taken))] == [given_values[place] for place in places]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))), np.bool_)
    masked = values.take(mask)
    assert [masked[i] for i in range(len(masked))] == [
        value for value, wanted in zip(given_values, mask, strict=True) if wanted
    ]


def test_equal_values_are_packed_the_same_way_and_in_the_same_order() -> None:
    values = Values.of([b"ab", b"c"])
    assert values.equals(Values.of([b"ab", b"c"]))
    assert not values.equals(Values.of([b"c", b"ab"]))
    assert not values.equals(Values.of([b"ab"]))
    one_width = Values.of([b"ab", b"cd"])
    assert one_width.equals(Values.of([b"ab", b"cd"]))
    assert not one_width.equals(Values(one_width.rows, np.full(2, 2, np.uint8)))


@bounded
@given(st.lists(st.binary(max_size=40)))
def test_sort_keys_compare_as_the_values_do(given_values: list[bytes]) -> None:
    keys = sort_keys(Values.of(given_values))
    assert keys.shape[1] % 8 == 0
    assert join_order(keys).tolist() == sorted(range(len(given_values)), key=given_values.__getitem__)


def test_sort_keys_of_two_batches_have_one_width() -> None:
    short, long = Values.of([b"a", b"bc"]), Values.of([b"a", b"b" * 255])
    assert sort_keys(short).shape[1] == sort_keys(long).shape[1]
    assert sort_keys(Values.of([b"a" * 32])).shape[1] == 32
    assert sort_keys(Values.of([b"abc"])).shape[1] == 16


@pytest.mark.parametrize(
    "parts", [[], [[b"ab"]], [[b"ab", b"cd"], [], [b"ef"]], [[b"ab"], [b"cde"]], [[b"a", b"bc"], [b"d"]]]
)
def test_parts_leave_a_list_as_they_are_gathered(parts: list[list[bytes]]) -> None:
    given = [Values.of(part) for part in parts]
    found = Values.gather(given)
    assert not given
    assert [found[row] for row in range(len(found))] == [value for part in parts for value in part]


def test_consecutive_values_are_no_copy() -> None:
    values = Values.of([b"a", b"bc", b"def"])
    part = values.part(slice(1, 3))
    assert [part[0], part[1]] == [b"bc", b"def"]
    assert np.shares_memory(part.rows, values.rows)
