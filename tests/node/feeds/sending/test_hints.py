"""What an act on a feed that is over, or that a partner has no more, is told to do instead: something that works."""

from collections.abc import Callable
from typing import Any

import pytest
from sides import EMAIL, Pair

from cli.remedies import spelled
from node.errors import NotAllowed
from node.feeds.sending.edits import Addition
from psi.errors import Remedy, VesicaError


def refusal(pair: Pair, act: str) -> VesicaError:
    """Return how acme's feed "summer" refuses an act."""
    feeds = pair.acme.project.feeds
    acts: dict[str, Callable[[], object]] = {
        "estimate": lambda: feeds.estimate("summer"),
        "estimate one": lambda: feeds.estimate("summer", "globe"),
        "publish": lambda: feeds.publish("summer"),
        "sync": lambda: feeds.sync("summer"),
        "edit": lambda: feeds.edit("summer", description="other"),
        "add": lambda: feeds.edit("summer", addition=Addition(partners=["globe"])),
        "unshare": lambda: feeds.unshare("summer", partner="globe"),
        "unshare a segment": lambda: feeds.unshare("summer", segment="vip"),
        "revoke": lambda: feeds.revoke("summer"),
    }
    with pytest.raises(NotAllowed) as refused:
        acts[act]()
    return refused.value


def test_of_a_revoked_feed_a_new_one_can_be_made(shared: Pair) -> None:
    shared.acme.project.feeds.revoke("summer")
    for act in ("estimate", "estimate one", "publish", "sync", "edit", "add", "unshare", "unshare a segment"):
        error = refusal(shared, act)
        assert str(error) == "feed summer was revoked"
        assert error.remedy is not None
        assert spelled(error.remedy) == f"vesica feed create NAME --segment vip --segment new --namespace {EMAIL}"
    assert refusal(shared, "revoke").remedy == Remedy("feed.show", {"name": "summer"})


@pytest.mark.parametrize("how", ["unshared", "declined"])
def test_what_a_partner_has_no_more_it_is_offered_as_a_new_feed(shared: Pair, how: str) -> None:
    acme, globe = shared.acme.project, shared.globe.project
    if how == "unshared":
        acme.feeds.unshare("summer", partner="globe")
    else:
        globe.received.decline("summer")
    shared.post()
    for act in ("estimate", "estimate one", "publish", "sync", "add", "unshare"):
        error = refusal(shared, act)
        state = {"unshared": "taken back", "declined": "declined"}[how]
        assert str(error) == f"feed summer does not go there any more (globe: {state})"
        assert error.remedy is not None
        arguments: dict[str, Any] = dict(error.remedy.arguments)
        assert arguments == {"segments": ["vip", "new"], "namespaces": [EMAIL], "partners": ["globe"]}
        acme.feeds.create(act.replace(" ", "-"), **arguments)  # it works
    acme.feeds.publish("add")
    shared.post()
    assert globe.received.show("add")["status"] == "pending"


def test_a_partner_whose_connection_ended_is_not_proposed(shared: Pair) -> None:
    shared.acme.project.partners.disconnect("globe")
    error = refusal(shared, "estimate")
    assert str(error) == "feed summer does not go there any more (globe: disconnected)"
    assert error.remedy is not None
    assert not error.remedy.arguments["partners"]


def test_a_receiver_is_told_what_a_feeds_state_allows(shared: Pair) -> None:
    globe = shared.globe.project.received

    def refused(act: str) -> VesicaError:
        with pytest.raises(NotAllowed) as error:
            getattr(globe, act)("summer")
        return error.value

    named = {"name": "summer", "partner": "acme"}
    assert refused("enable").remedy == Remedy("feed.show", named)
    globe.disable("summer")
    assert refused("disable").remedy == Remedy("feed.enable", named)
    shared.acme.project.feeds.revoke("summer")
    shared.post()
    for act in ("enable", "disable", "decline", "decline_version", "to_enable"):
        error = refused(act)
        assert "acme can offer it again as a new feed" in error.hint
        assert error.remedy == Remedy("feed.delete", named)
    globe.delete("summer")


def test_the_only_segment_of_a_feed_is_freed_by_the_end_of_the_feed(shared: Pair) -> None:
    acme = shared.acme.project
    with pytest.raises(NotAllowed) as refused:
        acme.segments.delete("vip")
    assert refused.value.remedy == Remedy("feed.edit", {"name": "summer", "remove_segment": "vip"})
    acme.feeds.unshare("summer", segment="vip")
    acme.segments.delete("vip")
    with pytest.raises(NotAllowed) as refused:
        acme.segments.delete("new")
    assert refused.value.remedy == Remedy("feed.revoke", {"name": "summer"})
    acme.feeds.revoke("summer")
    acme.segments.delete("new")
