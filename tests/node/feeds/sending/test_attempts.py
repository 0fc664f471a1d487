"""When another attempt may be made: pure decisions on a partner's state of a feed."""

from dataclasses import replace

import pytest

from node.feeds.sending.attempts import FIRST_SECONDS, FULL_SECONDS, LONGEST_SECONDS, full_revision_from, wait
from node.feeds.sending.recipients import Recipient
from node.feeds.states import RecipientStatus

RECIPIENT = Recipient(
    id="r",
    feed_id="f",
    connection_id="c",
    status=RecipientStatus.ENABLED,
    accepted_version=1,
    offers=[1],
    declined_version=None,
    reason=None,
    last_revision=1,
    last_receipt=None,
    full=True,
    full_since=1_000,
    full_before=0,
    tried=None,
    tries=0,
    failure=None,
    next_attempt=None,
    ran=None,
    requested=None,
    requests=0,
    universes=None,
    changed=0,
)


def test_the_time_before_another_attempt_grows() -> None:
    waits = [wait(tries) for tries in range(1, 40)]
    assert waits[:3] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_SECONDS


@pytest.mark.parametrize(
    ("recipient", "at"),
    [
        (RECIPIENT, 0),  # the first time it is heard at once
        (replace(RECIPIENT, full_before=1), 1_000 + FULL_SECONDS),
        (replace(RECIPIENT, full_before=2), 1_000 + 2 * FULL_SECONDS),
        (replace(RECIPIENT, full_before=50), 1_000 + LONGEST_SECONDS),
        (replace(RECIPIENT, full=False, full_before=50), 0),
        (replace(RECIPIENT, full_since=None, full_before=50), 0),
    ],
)
def test_when_a_partner_gets_a_full_revision(recipient: Recipient, at: int) -> None:
    assert full_revision_from(recipient) == at


def test_who_has_a_feed_or_may_take_it() -> None:
    live = {each for each in RecipientStatus if replace(RECIPIENT, status=each).live}
    assert live == {RecipientStatus.PENDING, RecipientStatus.ENABLED, RecipientStatus.DISABLED}
