"""What is enabled is what was shown: a partner may offer something else at any moment."""

import pytest
from sharing import publish, sync
from sides import EMAIL, Pair
from sqlalchemy import update

from node.errors import NotAllowed
from node.feeds.sending.edits import Addition
from node.storage.tables import feeds, received_feeds


@pytest.mark.feature("RC2")
def test_a_version_that_came_since_is_not_enabled(shared: Pair) -> None:
    received = shared.globe.project.received
    seen = received.show("summer")["hash"]
    shared.acme.segment("rare", ["a5"])
    shared.acme.project.feeds.edit("summer", addition=Addition(segments=["rare"]))
    shared.post()
    with pytest.raises(NotAllowed, match="not the version with this hash"):
        received.enable("summer", version=seen)
    assert received.show("summer")["status"] == "pending"
    assert shared.globe.acts("feed.enable") == []
    received.enable("summer", version=received.to_enable("summer")["enables"])
    assert shared.globe.acts("feed.enable")[0]["detail"]["hash"] == received.show("summer")["hash"]


@pytest.mark.feature("RC2")
def test_an_addition_that_was_replaced_since_is_not_enabled(shared: Pair) -> None:
    received, feeds = shared.globe.project.received, shared.acme.project.feeds
    received.enable("summer")
    for name in ("rare", "other"):
        shared.acme.segment(name, ["a5"])
    feeds.edit("summer", addition=Addition(segments=["rare"]))
    shared.post()
    seen = received.show("summer")["offered"]["hash"]
    feeds.edit("summer", addition=Addition(segments=["other"]))
    shared.post()
    with pytest.raises(NotAllowed):
        received.enable("summer", version=seen)
    assert received.show("summer")["accepted_version"] == 1


@pytest.mark.feature("RC2")
def test_a_paused_feed_that_was_replaced_since_is_not_enabled(shared: Pair) -> None:
    received, feeds = shared.globe.project.received, shared.acme.project.feeds
    received.enable("summer")
    received.disable("summer")
    seen = received.to_enable("summer")["enables"]
    feeds.revoke("summer")
    feeds.create("next", segments=["new"], namespaces=[EMAIL], partners=["globe"])
    feeds.publish("next")
    shared.post()
    with shared.globe.node.home.database.begin() as tx:
        tx.execute(update(received_feeds).where(received_feeds.c.name == "next").values(name="summer"))
    with pytest.raises(NotAllowed):
        received.enable("summer", version=seen)
    assert received.show("summer")["status"] == "pending"


@pytest.mark.feature("RC2")
def test_a_second_feed_of_one_name_gets_another_name(shared: Pair) -> None:
    """A sender's own names are unique, but it may lie, or have been restored."""
    received = shared.globe.project.received
    with shared.acme.node.home.database.begin() as tx:
        tx.execute(update(feeds).values(name="hidden"))  # so that its own software lets it take the name again
    publish(shared, "summer", ["new"])
    shared.post()
    assert [row["name"] for row in received.all()] == ["summer", "summer-2"]
    assert [each["name"] for each in received.show("summer")["segments"]] == ["vip", "new"]
    assert [each["name"] for each in received.show("summer-2")["segments"]] == ["new"]
    assert any("feed summer-2" in alert.text for alert in shared.globe.project.alerts.all())
    received.enable("summer-2")
    received.decline("summer")
    shared.post()
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "new") == {"g4", "g5"}


def test_two_rows_of_one_name_are_ambiguous(shared: Pair) -> None:
    """Those that an older release stored."""
    publish(shared, "other", ["new"])
    shared.post()
    with shared.globe.node.home.database.begin() as tx:
        tx.execute(update(received_feeds).values(name="summer"))
    for act in (shared.globe.project.received.enable, shared.globe.project.received.show):
        with pytest.raises(NotAllowed, match="offers 2 feeds"):
            act("summer")
