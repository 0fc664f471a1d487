"""Memberships are computed again when our people change; nobody leaves where that cannot be done."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from sharing import sync, update_segment
from sides import Pair

from node.errors import Failure
from node.feeds.receiving import joining
from node.feeds.receiving.received_feeds import ReceivedFeed, ReceivedStatus


@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: content[:-20] + bytes(20)], ids=["all", "the end"]
)
def test_nobody_leaves_where_what_was_evaluated_is_lost(shared: Pair, damage: Callable[[bytes], bytes]) -> None:
    globe = shared.globe.project
    globe.received.enable("summer")
    sync(shared)
    members = shared.globe.members("acme", "new")
    assert members
    (path,) = (each for each in (shared.globe.node.home.path / "cache").rglob("prf*part*"))
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        with suppress(Failure):
            joining.join_all(globe.scope)
        assert shared.globe.members("acme", "new") == members
    update_segment(shared, "new", ["a3", "a4"])
    assert sync(shared) == ["done"]  # which asks for it again
    assert shared.globe.members("acme", "new") == {"g3", "g4"} != members


def test_what_changes_can_be_added_to() -> None:
    def feed(records: list[str] | None, epoch: int | None = 3) -> ReceivedFeed:
        return ReceivedFeed(
            id="0" * 32,
            connection_id="1" * 32,
            name="summer",
            status=ReceivedStatus.ENABLED,
            accepted_version=2,
            offered_version=None,
            reported=None,
            last_revision=7,
            last_receipt=None,
            records=records,
            epoch=epoch,
            refreshed=0,
            reason=None,
            changed=0,
        )

    assert joining.base_of(feed(None)) is joining.base_of(feed([])) is None
    assert joining.base_of(feed(["records-1-6.npz", "records-2-7.npz"])) == (2, 3)
    many = [f"records-2-{n}.npz" for n in range(joining.CHANGES_AT_MOST + 1)]
    assert joining.base_of(feed(many[1:])) == (2, 3)
    assert joining.base_of(feed(many)) is None


@pytest.mark.feature("OP4")
@pytest.mark.parametrize(
    ("before", "after", "jumps"),
    [(1_000, 1_400, False), (1_000, 2_000, True), (10, 30, False), (400, 100, True), (0, 100, True), (0, 99, False)],
)
def test_a_jump_is_half_of_a_segment_and_many_people(before: int, after: int, jumps: bool) -> None:
    assert joining.jumped(before, after) is jumps
