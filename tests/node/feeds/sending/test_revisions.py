"""What a revision of changes holds: a pure comparison with what the partner took last."""

import numpy as np
import pytest

from node.feeds.sending import revisions
from node.feeds.sending.revisions import Content
from psi.values import Values


def content(rows: dict[int, int]) -> Content:
    """Return identities, each 32 times its number, with their bitmaps of one byte."""
    values = Values(np.array([[number] * 32 for number in sorted(rows)], np.uint8).reshape(-1, 32))
    bitmaps = np.array([[rows[number]] for number in sorted(rows)], np.uint8).reshape(-1, 1)
    return Content(values=values, bitmaps=bitmaps)


def shown(found: Content) -> dict[int, int]:
    return dict(zip(found.values.rows[:, 0].tolist(), found.bitmaps[:, 0].tolist(), strict=True))


def test_what_changed() -> None:
    changes = content({1: 0x80, 3: 0x40, 4: 0x80}).since(content({1: 0x80, 2: 0x80, 3: 0x80}))
    assert shown(changes) == {2: 0, 3: 0x40, 4: 0x80}
    assert len(content({}).since(content({})).values) == 0


@pytest.mark.parametrize("gone", [range(0), range(3), range(30)])
def test_changes_give_the_new_content_again(gone: range) -> None:
    before = dict.fromkeys(range(40), 128)
    now = {number: 0x80 if number % 7 else 0x40 for number in range(45) if number not in gone}
    changes = shown(content(now).since(content(before)))
    assert {number: bitmap for number, bitmap in {**before, **changes}.items() if bitmap} == now


def test_changes_are_sent_only_where_they_are_less_than_half() -> None:
    before = {"email": content(dict.fromkeys(range(10), 128))}
    few = {"email": content(dict.fromkeys(range(12), 128))}
    many = {"email": content(dict.fromkeys(range(5, 20), 128))}
    found = revisions.since(before, few)
    assert found is not None
    assert shown(found["email"]) == {10: 0x80, 11: 0x80}
    assert revisions.since(before, many) is None
    assert revisions.since(before, {**few, "phone": content({})}) is None  # another namespace
    assert revisions.since({}, few) is None  # nothing is left of what was sent
