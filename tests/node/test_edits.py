"""Edits of a feed: what is added waits for the receiver's word, what is taken out is gone at once, on both sides."""

import json
import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from cli.main import main
from node.errors import AlreadyExists, DiskFull, InvalidInput, NotFound, PeerRefused, Refusal, Refused
from node.feeds import purges, versions
from node.feeds.evaluations import check_expected
from node.feeds.receiving import taking
from node.feeds.sending import releases
from node.feeds.sending.edits import Addition, Removal
from node.governance.governance import PolicyViolation
from node.node import Node
from node.partners.letters import Letters, delivered, outbox, receive
from node.storage import tables
from node.storage.tables import feed_versions, received_feeds, runs
from protocol.errors import RemoteProtocolError
from protocol.feed import Definition, SegmentRef
from protocol.letters import FeedAccept, FeedNotice, FeedVersion, Purged
from protocol.receipt import PurgeStatement
from protocol.states import Part

EMAIL, PHONE = "email_sha256/lc-v1", "phone_sha256/e164-v1"
SEGMENTS = {"vip": ["a2", "a3"], "new": ["a3", "a4"], "old": ["a5"], "rare": ["a3", "a5"]}


def prepare(pair: Any, person: Any) -> None:
    """Connect acme, with a0-a5, and globe, with g3-g8: three people by e-mail, and a2 by phone only."""
    ours = [person(f"a{n}", f"person{n}@example.com", "+447400000002" if n == 2 else "") for n in range(6)]
    theirs = [person("g2", "", "+447400000002"), *(person(f"g{n}", f"person{n}@example.com") for n in range(3, 9))]
    pair.prepare(ours, theirs, SEGMENTS)


@pytest.fixture
def shared(pair: Any, person: Any) -> Any:
    """Two nodes between which version 1 of "summer", with vip and new by e-mail, runs."""
    prepare(pair, person)
    pair.share("summer", ["vip", "new"], [EMAIL])
    assert sync(pair) == ["done"]
    return pair


def edit(pair: Any, removal: Removal = Removal(), description: str | None = None, **added: Any) -> int:  # noqa: B008
    version = pair.acme.project.feeds.edit("summer", removal, addition=Addition(**added), description=description)
    return int(version)


def sync(pair: Any) -> list[str]:
    return [run["status"] for run in pair.acme.project.feeds.sync("summer")]


def at_sender(pair: Any, partner: str = "globe") -> dict[str, Any]:
    (found,) = [each for each in pair.acme.project.feeds.show("summer")["partners"] if each["alias"] == partner]
    return dict(found)


def agree(pair: Any) -> tuple[int | None, int | None]:
    """Check that both sides show the same, and return which version runs and which waits for the receiver's word."""
    ours, theirs = at_sender(pair), pair.globe.project.received.show("summer")
    assert ours["accepted_version"] == theirs["accepted_version"]
    assert ours["offered_version"] == theirs["offered_version"]
    if ours["accepted_version"] is not None:
        assert ours["accepted_hash"] == theirs["hash"]
    return ours["accepted_version"], ours["offered_version"]


# Additions


@pytest.mark.feature("FD6")
@pytest.mark.feature("FD8")
def test_an_added_segment_waits_for_the_receiver_while_the_old_version_goes_on(shared: Any) -> None:
    first = at_sender(shared)["accepted_hash"]
    assert edit(shared, segments=["old"]) == 2
    assert agree(shared) == (1, 2)
    assert at_sender(shared)["accepted_hash"] == first
    shared.acme.project.consent.set("a4", "n")
    assert sync(shared) == ["done"]  # the accepted version is refreshed
    assert shared.globe.members("acme", "new") == {"g3"}
    with pytest.raises(NotFound):
        shared.globe.members("acme", "old")
    offered = shared.globe.project.received.show("summer")["offered"]
    assert offered["adds"] == {
        "segments": [{"name": "old", "labels": []}],
        "namespaces": [],
        "restricted_uses": [],
    }
    assert offered["takes_out"] == {"segments": [], "namespaces": [], "restricted_uses": []}
    assert offered["hash"] == shared.acme.project.feeds.show("summer")["hash"]
    assert "feed_changed" in [alert.kind for alert in shared.globe.project.alerts.list()]
    shared.globe.project.received.enable("summer")
    assert agree(shared) == (2, None)
    assert shared.globe.members("acme", "new") == {"g3"}  # until the next run, and after it
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "new") == {"g3"}
    assert shared.globe.members("acme", "old") == {"g5"}
    assert {each["act"] for each in shared.acme.acts("feed.edit")} == {"feed.edit"}


@pytest.mark.feature("FD6")
def test_an_addition_is_declined_with_a_reason_and_the_old_version_goes_on(shared: Any) -> None:
    edit(shared, segments=["old"])
    shared.globe.project.received.decline_version("summer", reason="no use for it")
    assert agree(shared) == (1, None)
    assert (at_sender(shared)["status"], at_sender(shared)["declined_version"]) == ("enabled", 2)
    assert at_sender(shared)["reason"] == "no use for it"
    assert "feed_version_declined" in [alert.kind for alert in shared.acme.project.alerts.list()]
    shared.acme.project.consent.set("a4", "n")
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "new") == {"g3"}
    for act in (shared.globe.project.received.enable, shared.globe.project.received.decline_version):
        with pytest.raises(Refused):
            act("summer")
    edit(shared, Removal(segments=["vip"]))  # is not a reason to ask again
    assert agree(shared) == (3, None)
    assert at_sender(shared)["declined_version"] == 2
    edit(shared, segments=["rare"])  # is one
    assert agree(shared) == (3, 5)
    added = shared.globe.project.received.show("summer")["offered"]["adds"]["segments"]
    assert [each["name"] for each in added] == ["old", "rare"]
    shared.globe.project.received.enable("summer")
    assert agree(shared) == (5, None)
    assert (at_sender(shared)["declined_version"], at_sender(shared)["reason"]) == (None, None)


@pytest.mark.feature("FD6")
def test_an_added_restriction_waits_and_a_removed_one_holds_at_once(shared: Any) -> None:
    edit(shared, restricted_uses=["analytics", "email-targeting"])
    assert agree(shared) == (1, 2)
    received = shared.globe.project.received
    assert received.show("summer")["restricted_uses"] == []
    assert received.show("summer")["offered"]["adds"]["restricted_uses"] == ["analytics", "email-targeting"]
    received.enable("summer")
    assert received.show("summer")["restricted_uses"] == ["analytics", "email-targeting"]
    edit(shared, Removal(restricted_uses=["analytics"]))
    assert agree(shared) == (3, None)
    assert received.show("summer")["restricted_uses"] == ["email-targeting"]
    assert sync(shared) == ["done"]
    assert received.show("summer")["members"] == {"new": 2, "vip": 1}


@pytest.mark.feature("FD6")
def test_several_additions_in_a_row_are_accepted_as_one(shared: Any) -> None:
    edit(shared, segments=["old"])
    edit(shared, segments=["rare"])
    edit(shared, description="two more")
    assert agree(shared) == (4, 5)  # the words hold at once, the segments wait
    shown = shared.globe.project.received.show("summer")
    assert (shown["description"], shown["offered"]["description"]) == ("two more", "two more")
    assert [each["name"] for each in shown["offered"]["adds"]["segments"]] == ["old", "rare"]
    with shared.globe.node.store.read() as tx:  # offers that were replaced do not pile up
        assert set(tx.scalars(select(feed_versions.c.version))) == {1, 4, 5}
    shared.globe.project.received.enable("summer")
    assert agree(shared) == (5, None)
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"new": 2, "old": 1, "rare": 2, "vip": 1}


@pytest.mark.feature("FD6")
def test_a_feed_that_was_paused_goes_on_as_it_was_and_the_addition_is_enabled_after(shared: Any) -> None:
    received = shared.globe.project.received
    received.disable("summer")
    edit(shared, segments=["old"])
    received.enable("summer")
    assert agree(shared) == (1, 2)
    received.enable("summer")
    assert agree(shared) == (2, None)
    with pytest.raises(Refused, match="enabled"):
        received.enable("summer")


@pytest.mark.feature("FD1")
def test_a_draft_is_edited_without_a_word_to_anybody(pair: Any, person: Any) -> None:
    prepare(pair, person)
    pair.acme.project.feeds.create("summer", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
    assert edit(pair, Removal(segments=["vip"]), segments=["new"], namespaces=["phone_sha256"]) == 2
    pair.post()
    assert pair.globe.project.received.list() == []
    pair.acme.project.feeds.publish("summer")
    shown = pair.globe.project.received.show("summer")
    assert (shown["version"], shown["namespaces"]) == (2, [EMAIL, PHONE])
    edit(pair, segments=["old"])  # before anybody has accepted anything
    assert pair.globe.project.received.show("summer")["version"] == 3
    pair.globe.project.received.enable("summer")
    assert agree(pair) == (3, None)


@pytest.mark.feature("FD1")
def test_a_draft_is_published_when_its_steps_are_complete(pair: Any, person: Any) -> None:
    prepare(pair, person)
    feeds = pair.acme.project.feeds

    def left(*names: str) -> None:
        assert [each["name"] for each in feeds.show("summer")["steps"] if not each["complete"]] == list(names)

    with pytest.raises(InvalidInput):
        feeds.create("summer", namespaces=[])
    feeds.create("summer", namespaces=[EMAIL])
    for step, added in (("segments", {"segments": ["vip"]}), ("share", {"partners": ["globe"]})):
        with pytest.raises(Refused, match=f"not complete: {step}") as caught:
            feeds.publish("summer")
        assert caught.value.hint.startswith("vesica feed edit summer --add-")
        edit(pair, **added)
    left("review")
    feeds.publish("summer")
    left()
    assert pair.globe.project.received.show("summer")["version"] == 2


def test_what_cannot_be_added(shared: Any) -> None:
    for error, added in (
        (NotFound, {"segments": ["nobody"]}),
        (AlreadyExists, {"segments": ["vip"]}),
        (AlreadyExists, {"namespaces": ["email_sha256"]}),
        (NotFound, {"namespaces": ["idfa"]}),
        (InvalidInput, {"restricted_uses": ["world-domination"]}),
        (AlreadyExists, {"partners": ["globe"]}),
        (InvalidInput, {}),
    ):
        with pytest.raises(error):
            edit(shared, **added)
    shared.acme.project.labels.apply("C11", "segment", "old")
    with pytest.raises(PolicyViolation):
        edit(shared, segments=["old"])
    assert agree(shared) == (1, None)
    assert len(shared.acme.acts("feed.edit", "deny")) == 8
    shared.acme.project.feeds.revoke("summer")
    with pytest.raises(Refused, match="revoked"):
        edit(shared, segments=["rare"])


@pytest.fixture
def said(shared: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., str]:
    """Type a command at a side, and return what it prints, as one line."""
    opened = Node.open
    monkeypatch.setattr(Node, "open", lambda home, **more: opened(home, **{"now": shared.clock, **more}))

    def typed(side: Any, *words: str, group: str = "feed") -> str:
        capsys.readouterr()
        assert main([group, *words, "--home", str(side.node.home)]) == 0
        return " ".join(capsys.readouterr().out.split())

    return typed


def test_the_commands_say_what_waits_and_for_whom(shared: Any, said: Callable[..., str]) -> None:
    acme, globe = shared.acme, shared.globe
    waits = f"vesica feed estimate summer --namespace {PHONE}"
    assert waits in said(acme, "edit", "summer", "--add-namespace", "phone_sha256", "--add-restriction", "analytics")
    assert waits in said(acme, "show", "summer")
    assert PHONE in said(acme, "estimate", "summer", "--namespace", "phone_sha256")
    said(acme, "publish", "summer")
    assert "globe: enabled, version 2 pending" in said(acme, "list")
    shown = said(globe, "show", "summer")
    for words in (
        "Version 2 waits for an answer",
        acme.project.feeds.show("summer")["hash"],
        f"adds namespaces {PHONE}",
        "adds restricted uses analytics",
        f"in common, {PHONE} 1 ± 0 (1 with consent)",
    ):
        assert words in shown
    assert said(globe, "decline", "summer", "--addition", "--reason", "not now", "--yes") == (
        "version 2 of feed summer is declined, version 1 goes on"
    )
    assert "not now" in said(acme, "show", "summer")
    assert "globe: version 4 waits for the partner to enable it" in said(
        acme, "edit", "summer", "--remove-namespace", "phone_sha256", "--add-segment", "old", "--yes"
    )
    assert said(globe, "enable", "summer") == "feed summer is enabled, version 4"
    assert agree(shared) == (4, None)


@pytest.mark.feature("FD6")
def test_the_sender_sees_what_a_partner_lacks_and_how_to_offer_it_again(shared: Any, said: Callable[..., str]) -> None:
    acme, globe = shared.acme, shared.globe
    assert "lacks" not in said(acme, "show", "summer")
    edit(shared, segments=["old"], restricted_uses=["analytics"])
    said(globe, "decline", "summer", "--addition", "--yes")
    shown = said(acme, "show", "summer")
    assert "lacks segment old, restricted use analytics" in shown
    assert "version 2 declined, version 1 goes on" in shown
    assert "to offer it vesica feed edit summer --description TEXT, then vesica feed publish summer" in shown
    assert "reason" not in shown  # none was given
    edit(shared, description="please")
    assert agree(shared) == (3, None)
    assert "to offer it vesica feed publish summer" in said(acme, "show", "summer")
    said(acme, "publish", "summer")
    assert agree(shared) == (3, 4)
    shown = said(acme, "show", "summer")
    assert "offered version 4" in shown
    assert "to offer it" not in shown
    said(globe, "enable", "summer")
    assert agree(shared) == (4, None)
    assert "lacks" not in said(acme, "show", "summer")


@pytest.mark.feature("FD6")
def test_both_sides_print_who_came_who_left_and_that_it_is_purged(shared: Any, said: Callable[..., str]) -> None:
    acme, globe = shared.acme, shared.globe
    shared.acme.project.consent.set("a4", "n")
    assert sync(shared) == ["done"]
    assert "new: 1; new 0; left in 30 days 1" in said(globe, "show", "summer")
    said(acme, "unshare", "summer", "--segment", "vip", "--yes")
    globe.post()
    assert re.search(r"purged version 2, revision 2, signed \d{4}-\d\d-\d\dT\d\d:\d\dZ", said(acme, "show", "summer"))
    said(acme, "revoke", "summer", "--yes")
    globe.post()
    assert re.search(r"purged the whole feed, revision 2, signed \d{4}-", said(acme, "show", "summer"))


@pytest.mark.feature("RC4")
def test_received_segments_are_listed_with_ours(shared: Any, said: Callable[..., str]) -> None:
    globe = shared.globe
    globe.segment("loyal", ["g3", "g7"])
    assert [(each["name"], each["kind"], each["size"]) for each in globe.project.received.segments()] == [
        ("received.acme.new", "received", 2),
        ("received.acme.vip", "received", 1),
    ]
    listed = said(globe, "list", group="segment")
    assert "received.acme.new received 2 - -" in listed
    assert "loyal members 2" in listed
    (ours, received, _) = json.loads(said(globe, "list", "--json", group="segment"))
    assert set(received) <= set(ours)
    with pytest.raises(NotFound) as refused:
        globe.project.segments.export("received.acme.vip", globe.folder / "out.csv")
    assert "vesica segment create NAME --rule received.acme.vip" in refused.value.hint
    shared.clock.advance(days=400)
    assert [each["size"] for each in globe.project.received.segments()] == [0, 0]


@pytest.mark.feature("OP4")
def test_an_alert_of_what_is_settled_is_closed(shared: Any, said: Callable[..., str]) -> None:
    acme, alerts = shared.acme.project, shared.globe.project.alerts

    def waiting() -> list[str]:
        return [each.kind for each in alerts.list(open_only=True) if each.kind in ("feed_offered", "feed_changed")]

    assert waiting() == []
    assert [each.text for each in alerts.list() if each.kind == "feed_offered"] == [
        "acme offers feed summer: vesica feed enable summer (settled)"
    ]
    acme.feeds.create("winter", segments=["old"], namespaces=[EMAIL], partners=["globe"])
    acme.feeds.publish("winter")
    assert waiting() == ["feed_offered"]
    assert said(shared.globe, "show", "winter").endswith(
        "It waits for an answer: vesica feed enable winter, or vesica feed decline winter"
    )
    shared.globe.project.received.decline("winter")
    assert waiting() == []
    for answer in (shared.globe.project.received.decline_version, shared.globe.project.received.enable):
        edit(shared, segments=["old"] if answer.__name__ == "decline_version" else ["rare"])
        assert waiting() == ["feed_changed"]
        answer("summer")
        assert waiting() == []


# Removals


@pytest.mark.feature("FD6")
@pytest.mark.feature("EX4")
def test_a_removal_holds_at_once_also_while_an_addition_waits(shared: Any) -> None:
    edit(shared, segments=["old"])
    assert edit(shared, Removal(segments=["vip"])) == 4
    assert agree(shared) == (3, 4)
    with pytest.raises(NotFound):
        shared.globe.members("acme", "vip")
    assert [each["name"] for each in shared.globe.project.received.show("summer")["segments"]] == ["new"]
    shared.globe.post()
    vip = shared.acme.project.segments.show("vip").id
    assert [(each["version"], each["segments"]) for each in at_sender(shared)["purges"]] == [(3, [vip])]
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "new") == {"g3", "g4"}
    shared.globe.project.received.enable("summer")
    assert agree(shared) == (4, None)
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"new": 2, "old": 1}


@pytest.mark.feature("EX8")
def test_a_removal_that_is_broken_off_at_its_end_is_done_again_whole(
    pair: Any, person: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file goes before the rows that name it: else nobody could say who is still in, and who has left."""
    prepare(pair, person)
    pair.share("summer", ["vip"], [EMAIL, PHONE])
    assert sync(pair) == ["done"]
    assert len(list(pair.globe.node.home.glob("data/*/received/*/records-*"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(purges, "sign", full)
        edit(pair, Removal(namespaces=[PHONE]))
    assert pair.globe.members("acme", "vip") == {"g2", "g3"}
    pair.post()
    assert pair.globe.members("acme", "vip") == {"g3"}
    assert pair.globe.project.received.show("summer")["statuses"]["vip"]["exited"] == 1
    assert list(pair.globe.node.home.glob("data/*/received/*/records-*")) == []


def full(*_: Any, **__: Any) -> None:
    raise DiskFull("no space left", hint="make room")


@pytest.mark.feature("FD6")
def test_an_edit_that_takes_out_and_adds_does_both(shared: Any) -> None:
    edit(shared, Removal(segments=["vip", "new"]), segments=["old"])
    assert agree(shared) == (2, 3)
    assert shared.globe.project.received.show("summer")["segments"] == []  # until what was added is accepted
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {}
    shared.globe.project.received.enable("summer")
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"old": 1}


@pytest.mark.feature("FD6")
def test_an_addition_that_is_taken_back_leaves_what_was(shared: Any) -> None:
    edit(shared, segments=["old"])
    edit(shared, Removal(segments=["old"]))
    assert agree(shared) == (3, None)
    assert shared.globe.project.received.show("summer")["members"] == {"new": 2, "vip": 1}
    with pytest.raises(Refused):
        shared.globe.project.received.enable("summer")
    assert at_sender(shared)["purges"] == []  # nothing of it was ever there


# Namespaces


@pytest.mark.feature("FD7")
def test_a_new_namespace_is_estimated_then_offered_then_used(shared: Any) -> None:
    acme, globe = shared.acme.project, shared.globe.project
    row = acme.partners.get("globe")

    def refused() -> None:
        with pytest.raises(Refusal, match="no enabled feed"):
            check_expected(acme, row, PHONE, Part.SENDER)

    edit(shared, namespaces=["phone_sha256"])
    assert at_sender(shared)["waits_for_estimate"] == [PHONE]
    assert agree(shared) == (1, None)  # not offered
    with pytest.raises(Refused, match="phone_sha256") as caught:
        acme.feeds.publish("summer")
    assert caught.value.hint == f"vesica feed estimate summer --namespace {PHONE}"
    refused()
    rows = acme.feeds.estimate("summer", namespaces=["phone_sha256"])
    assert {(row["segment"], row["namespace"]): row["overlap"] for row in rows if row["namespace"] == PHONE} == {
        ("vip", PHONE): 1,
        ("new", PHONE): None,  # nobody in it has a phone
    }
    assert agree(shared) == (1, None)
    acme.feeds.publish("summer")
    assert agree(shared) == (1, 2)
    offered = globe.received.show("summer")["offered"]
    assert offered["adds"]["namespaces"] == [PHONE]
    (estimate,) = offered["estimates"]
    assert (estimate["namespace"], estimate["status"], estimate["computed_at"]) == (PHONE, "ok", shared.clock())
    assert [(each["overlap"], each["consented"]) for each in estimate["segments"]] == [(1, 1)]
    shared.acme.project.consent.set("a4", "n")
    assert sync(shared) == ["done"]
    refused()
    assert shared.globe.members("acme", "vip") == {"g3"}
    with shared.globe.node.store.read() as tx:
        newest = tx.scalar(select(runs.c.report).where(~runs.c.ours).order_by(runs.c.revision.desc()).limit(1))
    assert list(newest["records"]) == [EMAIL]
    globe.received.enable("summer")
    assert agree(shared) == (2, None)
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "vip") == {"g2", "g3"}
    edit(shared, Removal(namespaces=["phone_sha256"]))
    assert agree(shared) == (3, None)
    shared.globe.post()
    assert [(each["version"], each["namespaces"]) for each in at_sender(shared)["purges"]] == [(3, [PHONE])]


@pytest.mark.feature("FD7")
def test_an_estimate_of_another_week_is_not_enough(shared: Any) -> None:
    acme = shared.acme.project
    edit(shared, namespaces=["phone_sha256"])
    acme.feeds.estimate("summer")
    shared.clock.advance(days=8)
    with pytest.raises(Refused, match="phone"):
        acme.feeds.publish("summer")
    edit(shared, Removal(segments=["new"]))  # what is taken out does not wait
    assert agree(shared) == (3, None)
    acme.feeds.estimate("summer", namespaces=[PHONE])
    acme.feeds.publish("summer")
    assert agree(shared) == (3, 4)
    shared.clock.advance(days=8)
    (estimate,) = shared.globe.project.received.show("summer")["offered"]["estimates"]
    assert (estimate["status"], estimate["segments"]) == ("expired", [])


# Several partners


@pytest.mark.feature("FD4")
@pytest.mark.feature("FD6")
def test_each_partner_is_at_its_own_version(shared: Any, person: Any, tmp_path: Path) -> None:
    hooli, acme = type(shared.globe)(tmp_path, "hooli", now=shared.clock), shared.acme.project
    hooli.project.set_terms(minimum_universe=1, minimum_segment=1, minimum_overlap=1, epsilon="none")
    hooli.project.consent.set_model("opt-out")
    hooli.people([person(f"h{n}", f"person{n}@example.com") for n in (2, 5)])
    with hooli.serving():
        found = hooli.project.partners.look_up(acme.partners.connect_id().encode())
        hooli.project.partners.request(found, alias="acme")
        acme.partners.accept("hooli")
        assert edit(shared, partners=["hooli"]) == 1  # which no version speaks of
        assert at_sender(shared, "hooli")["status"] == "draft"
        acme.feeds.publish("summer")
        hooli.project.received.enable("summer")
        edit(shared, segments=["old"])
        hooli.project.received.enable("summer")
        assert [at_sender(shared, each)["accepted_version"] for each in ("globe", "hooli")] == [1, 2]
        assert [run["status"] for run in acme.feeds.sync("summer")] == ["unchanged", "done"]
        assert (hooli.members("acme", "old"), hooli.members("acme", "vip")) == ({"h5"}, {"h2"})
        edit(shared, Removal(segments=["vip"]))
        assert agree(shared) == (3, 4)
        shown = hooli.project.received.show("summer")
        assert (shown["accepted_version"], shown["offered_version"]) == (4, None)
        assert at_sender(shared, "hooli")["accepted_hash"] == shown["hash"] != at_sender(shared)["accepted_hash"]
        assert [run["status"] for run in acme.feeds.sync("summer")] == ["done", "done"]
        assert hooli.project.received.show("summer")["members"] == {"new": 0, "old": 1}
        assert shared.globe.project.received.show("summer")["members"] == {"new": 2}
        listed = {row["alias"]: row["segments_shared"] for row in acme.partners.list()}
        assert listed == {"globe": 2, "hooli": 2}  # to globe one of them is offered
    hooli.node.close()


# Letters that cross, and what comes during a run


def test_which_version_holds() -> None:
    def version(number: int, names: str, uses: tuple[str, ...] = ()) -> Definition:
        segments = tuple(SegmentRef(id=name.encode() * 16, name=name) for name in names)
        return Definition(
            feed=bytes(16),
            version=number,
            name="f",
            description="",
            segments=segments,
            namespaces=(EMAIL,),
            restricted_uses=uses,
            created=0,
        )

    def held(*offers: Definition) -> int:
        return versions.holding(offers).version

    one, two, three, four = version(1, "ab"), version(2, "abx"), version(3, "b"), version(4, "bx")
    assert held(one) == held(one, two) == 1
    assert held(one, two, three, four) == held(two, three, four) == held(three, four) == 3
    assert held(four) == held(four, version(5, "bx")) - 1 == 4
    assert held(one, version(2, "ab", ("analytics",))) == 1
    assert held(version(1, "ab", ("analytics",)), two) == 1
    assert held(version(1, "ab", ("analytics",)), version(2, "ab")) == 2


@pytest.mark.feature("FD6")
@pytest.mark.feature("FD8")
@pytest.mark.parametrize("seed", range(3))
def test_whatever_crosses_in_the_post_both_end_at_the_same_version(
    idle_pair: Any, person: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Edits, acceptances, refusals and pauses in any order, each letter under way for any time."""
    pair, chance = idle_pair, random.Random(seed)
    with pair.acme.serving(), pair.globe.serving():
        prepare(pair, person)
        pair.acme.project.feeds.create("summer", segments=["vip", "new"], namespaces=[EMAIL], partners=["globe"])
        pair.acme.project.feeds.publish("summer")
    monkeypatch.setattr(Letters, "deliver_soon", lambda *_: False)
    received = pair.globe.project.received

    def deliver(sender: Any, receiver: Any, at_most: int) -> None:
        row = sender.project.partners.get(receiver.name)
        for letter in outbox(sender.node, row.id)[:at_most]:
            receive(receiver.node, sender.node.key, letter)
            delivered(sender.node, row.id, letter.number)

    def change() -> None:
        held = {each["name"] for each in pair.acme.project.feeds.show("summer")["segments"]}
        some = set(chance.sample(sorted(SEGMENTS), chance.randint(1, 2)))
        uses = set(pair.acme.project.feeds.show("summer")["restricted_uses"])
        use = {"analytics"} if chance.random() < 0.3 else set()
        edit(
            pair,
            Removal(segments=sorted(some & held), restricted_uses=sorted(use & uses)),
            segments=sorted(some - held),
            restricted_uses=sorted(use - uses),
        )

    acts: list[Callable[[], Any]] = [
        change,
        change,
        lambda: received.enable("summer"),
        lambda: received.enable("summer"),
        lambda: received.decline_version("summer", reason="no"),
        lambda: received.disable("summer"),
        lambda: deliver(pair.acme, pair.globe, chance.randint(1, 3)),
        lambda: deliver(pair.globe, pair.acme, chance.randint(1, 3)),
    ]
    seen: set[tuple[int | None, int | None]] = set()
    for _ in range(40):
        with suppress(Refused):
            chance.choice(acts)()
        shown = pair.acme.project.feeds.show("summer")
        newest = {each["name"] for each in shown["segments"]}
        with pair.acme.node.store.read() as tx:
            feed = pair.acme.project.feeds.get("summer", tx)
            running = shown["partners"][0]["accepted_version"]
            if running is not None:  # nothing is released that is not in the feed now
                assert {each.name for each in versions.get(tx, feed.id, running).segments} <= newest
        if chance.random() < 0.2:
            for _ in range(2):
                deliver(pair.acme, pair.globe, 100)
                deliver(pair.globe, pair.acme, 100)
            seen.add(agree(pair))
    for _ in range(2):
        deliver(pair.acme, pair.globe, 100)
        deliver(pair.globe, pair.acme, 100)
    seen.add(agree(pair))
    assert len(seen) > 3
    broken = [
        alert for side in (pair.acme, pair.globe) for alert in side.project.alerts.list() if "broke" in alert.text
    ]
    assert broken == []


@pytest.mark.feature("FD6")
def test_an_acceptance_of_a_version_that_was_replaced_meanwhile(idle_pair: Any, person: Any) -> None:
    pair = idle_pair
    with pair.acme.serving(), pair.globe.serving():
        prepare(pair, person)
        pair.share("summer", ["vip"], [EMAIL])
        edit(pair, segments=["old"])
        pair.post()
    pair.globe.project.received.enable("summer")  # version 2, and nobody is there to hear it
    edit(pair, segments=["new"])
    edit(pair, Removal(segments=["vip"]))
    with pair.acme.serving(), pair.globe.serving():
        pair.post()
        assert agree(pair) == (4, 5)  # what is left of version 1, which acme thought to hold; the rest is asked again
        assert sync(pair) == ["done"]
        pair.globe.project.received.enable("summer")
        assert agree(pair) == (5, None)
        assert sync(pair) == ["done"]
        assert pair.globe.project.received.show("summer")["members"] == {"new": 2, "old": 1}


@pytest.mark.feature("FD6")
@pytest.mark.parametrize("when", ["before the records", "after the records"])
def test_an_addition_that_is_accepted_during_a_run(shared: Any, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    edit(shared, segments=["old"])
    shared.acme.project.consent.set("a4", "n")
    module, name = (taking, "received") if when == "after the records" else (releases, "_send")
    original, done = getattr(module, name), []

    def late(*arguments: Any) -> Any:
        if not done:
            done.append(True)
            shared.globe.project.received.enable("summer")
        return original(*arguments)

    monkeypatch.setattr(module, name, late)
    if when == "after the records":
        assert sync(shared) == ["done"]
        assert shared.globe.members("acme", "new") == {"g3"}  # what came is as good as it was
    else:
        with pytest.raises((PeerRefused, Refusal)):
            sync(shared)
        assert shared.globe.members("acme", "new") == {"g3", "g4"}
    assert agree(shared) == (2, None)
    with pytest.raises(NotFound):
        shared.globe.members("acme", "old")
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"new": 1, "old": 1, "vip": 1}
    assert [alert for alert in shared.globe.project.alerts.list() if "broke" in alert.text] == []


@pytest.mark.feature("EX4")
def test_what_is_taken_out_before_the_records_leave_does_not_leave(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the receiver has not heard of it yet."""
    shared.acme.project.consent.set("a4", "n")
    send = releases._send

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(releases, "_send", send)
        with monkeypatch.context() as patched:
            patched.setattr(Letters, "deliver_soon", lambda *_: False)
            edit(shared, Removal(segments=["vip"]))
        return send(*arguments)

    monkeypatch.setattr(releases, "_send", late)
    with pytest.raises(Refusal, match="another version holds"):
        sync(shared)
    with shared.globe.node.store.read() as tx:
        assert tx.scalar(select(received_feeds.c.last_revision)) == 1
    shared.post()
    assert agree(shared) == (2, None)
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"new": 1}


def test_the_first_statement_about_a_version_stands(either_node: Any) -> None:
    node = either_node
    project = node.project()
    with node.store.begin() as tx:
        tx.execute(
            insert(tables.connections).values(
                id=node.new_id(),
                project_id=project.id,
                alias="globe",
                status="active",
                peer_key=bytes(32),
                peer_project=bytes(16),
                peer_project_name="default",
                peer_organisation="Globe",
                peer_address="",
                proxy=False,
                agreement=b"",
                agreement_digest=bytes(32),
                their_offer=b"",
                letters_sent=0,
                letters_received=0,
                created=0,
                changed=0,
            )
        )
        row = tx.execute(select(tables.connections)).one()
        values = {"project_id": project.id, "name": "f", "status": "published", "version": 2, "revision": 0}
        tx.execute(insert(tables.feeds).values(id=node.new_id(), **values, created=0, changed=0))
        feed = tx.execute(select(tables.feeds)).one()
        definition = Definition(
            feed=bytes.fromhex(feed.id),
            version=2,
            name="f",
            description="",
            segments=(),
            namespaces=(EMAIL,),
            restricted_uses=(),
            created=0,
        )
        versions.keep(project, tx, feed.id, definition)

        def purged(version: int, made: int) -> Purged:
            statement = PurgeStatement(
                connection=bytes.fromhex(row.id),
                feed=bytes.fromhex(feed.id),
                version=version,
                revision=1,
                segments=(bytes(16),) if version else (),
                namespaces=(),
                made=made,
            )
            return Purged(statement=statement, signature=statement.sign(node.sign))

        for version, made in ((0, 3), (2, 1), (2, 2), (0, 4)):
            purges.keep(project, tx, feed, row, purged(version, made))
        with pytest.raises(RemoteProtocolError):
            purges.keep(project, tx, feed, row, purged(3, 5))
        found = purges.documents(tx, feed.id, row.id)
    assert [(each["version"], each["made"]) for each in found] == [(2, 1), (None, 3)]


# A partner that lies


def post(side: Any, partner: str, kind: str, message: Any) -> None:
    """Send a letter that an honest node would not."""
    row = side.project.partners.get(partner)
    with side.node.store.begin() as tx:
        side.project.letters.send(tx, row.id, kind, message)
    side.project.letters.deliver(row)


def test_a_receiver_cannot_go_back_to_what_was_taken_out(shared: Any) -> None:
    with shared.globe.node.store.read() as tx:
        _, feed = shared.globe.project.received.get("summer", None, tx)
        first = versions.get(tx, feed.id, 1)
    edit(shared, Removal(segments=["vip"]))
    accept = FeedAccept(feed=first.feed, version=1, definition=first.digest(), universes={EMAIL: 6})
    post(shared.globe, "acme", "feed.accept", accept)
    assert at_sender(shared)["accepted_version"] == 2  # as if it had crossed
    shared.globe.project.received.disable("summer")
    shared.globe.project.received.enable("summer")
    post(shared.globe, "acme", "feed.accept", accept)
    assert at_sender(shared)["accepted_version"] == 2
    assert len(shared.acme.acts("letter.feed.accept", "deny")) == 1


def test_a_version_that_was_never_offered_is_neither_accepted_nor_declined(shared: Any) -> None:
    edit(shared, namespaces=["phone_sha256"])  # which waits for an estimate
    newest = shared.acme.project.feeds.definition(shared.acme.project.feeds.get("summer"))
    accept = FeedAccept(feed=newest.feed, version=2, definition=newest.digest(), universes={PHONE: 1})
    notice = FeedNotice(feed=newest.feed, version=2, reason="")
    post(shared.globe, "acme", "feed.accept", accept)
    post(shared.globe, "acme", "feed.decline-version", notice)
    for kind in ("feed.accept", "feed.decline-version"):
        assert len(shared.acme.acts(f"letter.{kind}", "deny")) == 1
    assert (at_sender(shared)["accepted_version"], at_sender(shared)["declined_version"]) == (1, None)


def test_a_sender_that_swaps_what_a_feed_gives_takes_nothing_with_it(shared: Any) -> None:
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
    with shared.globe.node.store.read() as tx:
        assert tx.scalar(select(func.count()).select_from(feed_versions)) == 2
