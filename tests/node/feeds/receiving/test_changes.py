"""Who came to a received segment, and who left it, from revision to revision."""

import numpy as np
import pytest
from pyroaring import BitMap

from node.feeds.receiving.changes import NO_CHANGES, Changes, Exits
from node.storage.tables import DAY


def changes(realized: list[int], late: list[int], exited: dict[int, int]) -> Changes:
    exits = Exits(profiles=np.array([*exited], np.uint32), at=np.array([*exited.values()], np.int64))
    return Changes(realized=BitMap(realized), late=BitMap(late), exits=exits)


def parts(found: Changes) -> tuple[list[int], list[int], dict[int, int]]:
    exits = dict(zip(found.exits.profiles.tolist(), found.exits.at.tolist(), strict=True))
    return list(found.realized), list(found.late), exits


NOW = 100 * DAY


@pytest.mark.parametrize(
    ("noted", "before", "members", "revised", "expected"),
    [
        # who comes with a revision is realized until the next one
        (([], [], {}), [], [1, 2], True, ([1, 2], [], {})),
        (([1, 2], [], {}), [1, 2], [1, 2, 3], True, ([3], [], {})),
        # who comes between two revisions is realized, and still so in the next
        (([1], [], {}), [1], [1, 4], False, ([1, 4], [4], {})),
        (([1, 4], [4], {}), [1, 4], [1, 4, 5], True, ([4, 5], [], {})),
        # who leaves has left now, and is no longer realized
        (([1, 2], [2], {}), [1, 2], [1], False, ([1], [], {2: NOW})),
        # who comes back has not left
        (([], [], {7: NOW - DAY, 8: NOW - DAY}), [1], [1, 7], True, ([7], [], {8: NOW - DAY})),
        # who left 30 days ago is forgotten
        (([], [], {7: NOW - 30 * DAY, 8: NOW - 30 * DAY + 1}), [], [], True, ([], [], {8: NOW - 30 * DAY + 1})),
    ],
)
def test_who_came_and_who_left(
    noted: tuple[list[int], list[int], dict[int, int]],
    before: list[int],
    members: list[int],
    revised: bool,
    expected: tuple[list[int], list[int], dict[int, int]],
) -> None:
    found = changes(*noted).after_members(BitMap(before), BitMap(members), revised=revised, at=NOW, now=NOW)
    assert parts(found) == expected
    assert parts(Changes.unpack(bytes(found.packed()))) == expected


def test_who_left_by_the_clock_left_when_the_time_was_over() -> None:
    found = changes([1], [], {}).after_members(BitMap([1, 2]), BitMap(), revised=False, at=NOW - 5, now=NOW)
    assert parts(found) == ([], [], {1: NOW - 5, 2: NOW - 5})
    assert parts(NO_CHANGES) == ([], [], {})
