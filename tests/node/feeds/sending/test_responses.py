"""What partners answer to our feeds; what one that lies cannot do by it."""

from dataclasses import replace
from typing import Any

from edited import at_sender, edit
from sides import EMAIL, PHONE, Pair, Side
from sqlalchemy import func, select

from node.access.audit import Result
from node.feeds import versions
from node.feeds.receiving import received_feeds
from node.feeds.sending.edits import Removal
from node.storage.tables import feed_versions
from protocol.feed import SegmentRef
from protocol.letters import FeedAccept, FeedNotice, FeedVersion


def post(side: Side, partner: str, kind: str, message: Any) -> None:
    """Send a letter that an honest node would not."""
    row = side.project.partners.get(partner)
    with side.node.home.database.begin() as tx:
        side.project.letters.send(tx, row.id, kind, message)
    side.project.letters.deliver(row)


def test_a_receiver_cannot_go_back_to_what_was_taken_out(shared: Pair) -> None:
    with shared.globe.node.home.database.read() as tx:
        _, feed = received_feeds.get(shared.globe.project.scope, tx, "summer")
        first = versions.get(tx, feed.id, 1)
    edit(shared, Removal(segments=["vip"]))
    accept = FeedAccept(feed=first.feed, version=1, definition=first.digest(), universes={EMAIL: 6})
    post(shared.globe, "acme", "feed.accept", accept)
    assert at_sender(shared)["accepted_version"] == 2  # as if it had crossed
    shared.globe.project.received.disable("summer")
    shared.globe.project.received.enable("summer")
    post(shared.globe, "acme", "feed.accept", accept)
    assert at_sender(shared)["accepted_version"] == 2
    assert len(shared.acme.acts("letter.feed.accept", Result.DENY)) == 1


def test_a_version_that_was_never_offered_is_neither_accepted_nor_declined(shared: Pair) -> None:
    edit(shared, namespaces=["phone_sha256"])  # which waits for an estimate
    newest = shared.acme.project.feeds.definition(shared.acme.project.feeds.get("summer"))
    accept = FeedAccept(feed=newest.feed, version=2, definition=newest.digest(), universes={PHONE: 1})
    notice = FeedNotice(feed=newest.feed, version=2, reason="")
    post(shared.globe, "acme", "feed.accept", accept)
    post(shared.globe, "acme", "feed.decline-version", notice)
    for kind in ("feed.accept", "feed.decline-version"):
        assert len(shared.acme.acts(f"letter.{kind}", Result.DENY)) == 1
    assert (at_sender(shared)["accepted_version"], at_sender(shared)["declined_version"]) == (1, None)


def test_a_sender_that_swaps_what_a_feed_gives_takes_nothing_with_it(shared: Pair) -> None:
    """Under whatever name the letter goes: the version waits, and what it lacks is purged when it is accepted."""
    newest = shared.acme.project.feeds.definition(shared.acme.project.feeds.get("summer"))
    swapped = replace(newest, version=7, segments=(SegmentRef(id=b"s" * 16, name="swapped"),))
    post(shared.acme, "globe", "feed.unshare", FeedVersion(definition=swapped))
    received = shared.globe.project.received
    assert received.show("summer")["accepted_version"] == 1
    offered = received.show("summer")["offered"]
    assert [each["name"] for each in offered["takes_out"]["segments"]] == ["vip", "new"]
    post(shared.acme, "globe", "feed.publish", FeedVersion(definition=replace(swapped, description="again")))  # no news
    assert received.show("summer")["offered"] == offered
    received.enable("summer")
    assert received.show("summer")["members"] == {}
    with shared.globe.node.home.database.read() as tx:
        assert tx.scalar(select(func.count()).select_from(feed_versions)) == 2
