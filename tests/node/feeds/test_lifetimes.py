"""How long memberships last."""

from typing import Any

import pytest
from sides import EMAIL

from node.errors import InvalidInput
from node.feeds import lifetimes
from node.storage.tables import DAY
from protocol.feed import MAX_DAYS, Definition


@pytest.mark.feature("EX6")
def test_why_memberships_end() -> None:
    def definition(**rest: Any) -> Definition:
        fields: Any = {"feed": bytes(16), "version": 1, "name": "f", "description": "", "segments": ()}
        return Definition(**fields, namespaces=(EMAIL,), restricted_uses=(), created=0, **rest)

    assert lifetimes.ended(definition(), 0, 30 * DAY - 1) is None
    assert "30 days" in str(lifetimes.ended(definition(), 0, 30 * DAY))
    assert "7 days" in str(lifetimes.ended(definition(membership_days=7), 0, 7 * DAY))
    assert "valid until" in str(lifetimes.ended(definition(valid_until=5), 4, 5))
    assert lifetimes.ends(definition(valid_until=5), 4) == 5
    assert lifetimes.ends(definition(valid_until=50 * DAY), 4) == 4 + 30 * DAY


def test_a_feed_has_members_for_a_day_at_least_and_ends_in_the_future() -> None:
    for days, valid_until in ((1, None), (MAX_DAYS, None), (30, 101)):
        lifetimes.check(days, valid_until, 100)
    for days, valid_until in ((0, None), (MAX_DAYS + 1, None), (30, 100), (30, 99)):
        with pytest.raises(InvalidInput):
            lifetimes.check(days, valid_until, 100)
