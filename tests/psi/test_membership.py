from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from psi import membership
from psi.errors import InvalidTags

FEED: dict[str, Any] = {"feed": b"f" * 16, "version": 2, "revision": 5}


def prf(*seeds: int) -> np.ndarray:
    """Stand for F(x) of persons: 64 random bytes each."""
    return np.array([np.random.default_rng(seed).integers(0, 256, 64, np.uint8) for seed in seeds]).reshape(-1, 64)


@settings(max_examples=examples(30), deadline=None)
@given(
    st.sets(st.integers(0, 60), max_size=30), st.sets(st.integers(0, 60), max_size=30), st.sampled_from([1, 2, 63, 64])
)
def test_the_receiver_opens_its_own_records_and_no_others(sent: set[int], own: set[int], width: int) -> None:
    bitmaps = {person: np.random.default_rng(1000 + person).integers(0, 256, width, np.uint8) for person in sent}
    rows = np.array([bitmaps[person] for person in sorted(sent)], np.uint8).reshape(-1, width)
    records = membership.seal(prf(*sorted(sent)), rows, **FEED)
    assert records.shape == (len(sent), 16 + width)
    mine = list(own)
    indices, opened = membership.open_records(records, prf(*mine), **FEED)
    assert {mine[index] for index in indices} == sent & own
    for index, bitmap in zip(indices, opened, strict=True):
        assert (bitmap == bitmaps[mine[index]]).all()


def test_an_empty_bitmap_looks_like_any_other() -> None:
    zeros, ones = np.zeros((40, 8), np.uint8), np.full((40, 8), 255, np.uint8)
    for bitmaps in (zeros, ones):
        payload = membership.seal(prf(*range(40)), bitmaps, **FEED)[:, 16:]
        assert 0.4 < np.unpackbits(payload).mean() < 0.6


@pytest.mark.parametrize("change", [{"feed": b"g" * 16}, {"version": 3}, {"revision": 6}], ids=str)
def test_a_pad_is_of_one_feed_version_and_revision(change: dict[str, Any]) -> None:
    first = membership.seal(prf(1), np.zeros((1, 64), np.uint8), **FEED)
    second = membership.seal(prf(1), np.zeros((1, 64), np.uint8), **(FEED | change))
    assert (first[:, :16] == second[:, :16]).all() == ("feed" not in change)
    assert (first[:, 16:] != second[:, 16:]).sum() > 48


@pytest.mark.parametrize("change", ["unsorted", "repeated", "same tag, other payload"])
def test_records_that_an_honest_sender_would_not_send(change: str) -> None:
    records = membership.seal(prf(*range(9)), np.ones((9, 2), np.uint8), **FEED)
    if change == "unsorted":
        records[[3, 4]] = records[[4, 3]]
    else:
        records[4] = records[3]
        records[4, -1] ^= change != "repeated"
    with pytest.raises(InvalidTags):
        membership.open_records(records, prf(1), **FEED)


@pytest.mark.parametrize("width", [0, 65])
def test_the_width_of_records(width: int) -> None:
    with pytest.raises(InvalidTags):
        membership.open_records(np.zeros((1, 16 + width), np.uint8), prf(1), **FEED)


def test_an_identity_has_one_record() -> None:
    with pytest.raises(InvalidTags):
        membership.seal(prf(1, 2, 1), np.ones((3, 2), np.uint8), **FEED)
