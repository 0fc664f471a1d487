"""Feeds at the receiver: pending, enabled, paused, declined."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sharing import at_sender, force, publish, stored, sync
from sides import Pair
from sqlalchemy import event, select

from node.access.scope import Scope
from node.errors import NotAllowed, NotFound, RefusedByPartner
from node.exchanges.handlers import KINDS
from node.feeds.receiving import releases
from node.partners.connections import Connection
from node.storage.tables import received_feeds
from protocol.errors import RemoteProtocolError
from protocol.exchange import Opening
from protocol.states import Kind, Part


@pytest.mark.feature("RC1")
def test_the_same_feed_is_in_the_list_of_each_side(shared: Pair) -> None:
    (ours,) = shared.acme.project.feeds.all()
    (theirs,) = shared.globe.project.received.all()
    assert (ours["name"], ours["partners"]) == ("summer", {"globe": "pending"})
    assert (theirs["name"], theirs["partner"], theirs["status"]) == ("summer", "acme", "pending")
    assert shared.globe.project.feeds.all() == shared.acme.project.received.all() == []
    shared.globe.project.received.enable("summer")
    assert shared.acme.project.feeds.all()[0]["partners"] == {"globe": "enabled"}
    assert shared.globe.project.received.all()[0]["status"] == "enabled"
    assert shared.acme.project.feeds.show("summer")["feed"] == shared.globe.project.received.show("summer")["feed"]


@pytest.mark.feature("RC2")
def test_nothing_is_stored_before_the_feed_is_enabled(shared: Pair) -> None:
    assert sync(shared) == []
    assert at_sender(shared)["status"] == "pending"
    force(shared)
    with pytest.raises(RefusedByPartner) as refused:  # nor from a sender that does not wait
        shared.acme.project.feeds.sync()
    assert refused.value.code in ("no_feed", "not_enabled")
    publish(shared, "other", ["new"])
    shared.globe.project.received.enable("other")  # points are evaluated for this one
    force(shared)
    with pytest.raises(RefusedByPartner) as refused:
        shared.acme.project.feeds.sync("summer")
    assert refused.value.code == "not_enabled"
    assert stored(shared) == 0
    with pytest.raises(NotFound):
        shared.globe.members("acme", "vip")
    shared.globe.project.received.enable("summer")
    assert sync(shared) == ["done", "done"]
    assert shared.globe.members("acme", "vip") == {"g3", "g4"}
    assert stored(shared) > 0


@pytest.mark.feature("RC3")
def test_a_pause_keeps_the_data_and_stops_the_next_run(shared: Pair) -> None:
    received = shared.globe.project.received
    received.enable("summer")
    assert sync(shared) == ["done"]
    received.disable("summer", reason="holidays")
    assert (at_sender(shared)["status"], at_sender(shared)["reason"]) == ("disabled", "holidays")
    shared.acme.project.consent.set("a4", "n")
    assert sync(shared) == []
    force(shared)
    with pytest.raises(RefusedByPartner) as refused:
        shared.acme.project.feeds.sync()
    assert refused.value.code in ("no_feed", "not_enabled")
    assert shared.globe.members("acme", "vip") == {"g3", "g4"}
    assert received.show("summer")["revision"] == 1
    received.enable("summer")
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "vip") == {"g3"}
    assert received.all()[0]["status"] == "enabled"


@pytest.mark.feature("RC6")
def test_a_decline_reaches_the_sender_with_its_reason(shared: Pair) -> None:
    shared.globe.project.received.decline("summer", reason="no legal basis")
    assert (at_sender(shared)["status"], at_sender(shared)["reason"]) == ("declined", "no legal basis")
    assert shared.globe.project.received.all()[0]["status"] == "declined"
    assert "feed_declined" in [alert.kind for alert in shared.acme.project.alerts.all()]
    assert sync(shared) == []
    with pytest.raises(NotAllowed):
        shared.globe.project.received.enable("summer")
    with pytest.raises(NotAllowed):
        shared.acme.project.feeds.publish("summer")


@pytest.mark.feature("RC6")
def test_declining_what_was_enabled_purges_it(shared: Pair) -> None:
    shared.globe.project.received.enable("summer")
    sync(shared)
    shared.globe.project.segments.create("derived", rule="received.acme.vip")
    shared.globe.project.received.decline("summer")
    assert stored(shared) == 0
    assert shared.globe.project.segments.show("derived").size == 0
    assert sync(shared) == []


@pytest.mark.feature("RC6")
@pytest.mark.parametrize("what", ["decline", "revoke", "disable"])
def test_what_happens_to_a_feed_during_a_run(shared: Pair, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    shared.globe.project.received.enable("summer")
    acts: dict[str, Callable[[], None]] = {
        "decline": lambda: shared.globe.project.received.decline("summer", reason="enough"),
        "revoke": lambda: shared.acme.project.feeds.revoke("summer"),
        "disable": lambda: shared.globe.project.received.disable("summer"),
    }
    done = list[bool]()

    def late(scope: Scope, connection: Connection, opening: Opening, released: Any) -> None:
        if not done:
            done.append(True)
            acts[what]()
        releases.HANDLER.finished(scope, connection, opening, released)

    monkeypatch.setitem(KINDS, (Kind.RELEASE, Part.RECEIVER), lambda: replace(releases.HANDLER, finished=late))
    try:
        shared.acme.project.feeds.sync()
    except (RefusedByPartner, RemoteProtocolError):
        assert what != "disable"
    shared.post()
    assert done
    kept = {"decline": "declined", "revoke": "revoked", "disable": "disabled"}[what]
    assert shared.globe.project.received.all()[0]["status"] == at_sender(shared)["status"] == kept
    if what == "disable":  # what is under way comes to its end, the next run does not begin
        assert shared.globe.members("acme", "vip") == {"g3", "g4"}
    else:
        assert stored(shared) == 0
        with shared.globe.node.home.database.read() as tx:
            assert tx.scalar(select(received_feeds.c.records)) is None
    assert sync(shared) == []


@pytest.mark.feature("RC2")
def test_a_feed_is_enabled_by_what_one_connection_sees(shared: Pair) -> None:
    """Nobody can come between what is checked and what is written: no other connection is asked meanwhile."""
    engine, in_use, most = shared.globe.node.home.database.engine, set[int](), list[int]()

    here = threading.get_ident()  # the endpoint answers in other threads

    def taken(connection: object, record: object, proxy: object) -> None:
        if threading.get_ident() == here:
            in_use.add(id(record))
            most.append(len(in_use))

    def back(connection: object, record: object) -> None:
        in_use.discard(id(record))

    event.listen(engine, "checkout", taken)
    event.listen(engine, "checkin", back)
    try:
        shared.globe.project.received.enable("summer")
    finally:
        event.remove(engine, "checkout", taken)
        event.remove(engine, "checkin", back)
    assert max(most) == 1
