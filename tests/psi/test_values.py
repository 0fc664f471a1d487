import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from psi.values import Values

bounded = settings(max_examples=100, deadline=None)
batches = st.lists(st.lists(st.binary(max_size=5), max_size=4), max_size=4)


@bounded
@given(batches)
def test_what_is_joined_is_every_value_in_order(batches):
    joined = Values.join(Values.of(batch) for batch in batches)
    assert [joined[i] for i in range(len(joined))] == [value for batch in batches for value in batch]


def test_values_of_one_width_need_no_lengths_when_joined():
    empty = Values(np.zeros((0, 0), np.uint8))
    joined = Values.join([empty, Values.of([b"ab"]), Values.of([b"cd", b"ef"])])
    assert joined.lengths is None
    assert joined.rows.shape == (3, 2)


@bounded
@given(st.lists(st.binary(max_size=5)))
def test_arrays_hold_the_values(given_values):
    values = Values.of(given_values)
    kept = Values.of_arrays(values.arrays())
    assert [kept[i] for i in range(len(kept))] == given_values
    assert kept.digest() == values.digest()


def test_digests_tell_lists_apart():
    lists = [[b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [b"ab", b"c\0"], [b"ab"], []]
    assert len({Values.of(each).digest() for each in lists}) == len(lists)
