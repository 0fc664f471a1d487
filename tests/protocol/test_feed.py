"""A version of a feed: how wide its records are."""

from dataclasses import replace

import pytest
from parties import DEFINITION

from protocol.feed import MAX_SEGMENTS, SegmentRef


@pytest.mark.parametrize(("segments", "width"), [(0, 1), (1, 1), (8, 1), (9, 2), (511, 64), (MAX_SEGMENTS, 64)])
def test_a_record_has_a_bit_for_each_segment_and_one_byte_at_least(segments: int, width: int) -> None:
    refs = tuple(SegmentRef(id=number.to_bytes(16, "big"), name=f"segment{number}") for number in range(segments))
    definition = replace(DEFINITION, segments=refs)
    assert definition.width == width
    assert type(definition).decode(definition.encode()) == definition
