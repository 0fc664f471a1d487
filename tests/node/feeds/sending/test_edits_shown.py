"""What the commands say of an edited feed, at both sides: what waits, for whom, and what settles it."""

import json
import re
from collections.abc import Callable

import pytest
from edited import agree, edit, sync
from sides import EMAIL, PHONE, Pair, Side

from cli.main import main
from node.errors import NotFound
from node.node import Node
from psi.errors import Remedy


@pytest.fixture
def said(shared: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Type a command at a side, and return what it prints, as one line, the home that commands name left out."""
    opened = Node.open
    monkeypatch.setattr(Node, "open", lambda home, **more: opened(home, **{"now": shared.clock, **more}))

    def typed(side: Side, *words: str, group: str = "feed") -> str:
        capsys.readouterr()
        home = ["--home", str(side.node.home.path)]
        assert main([group, *words, *home]) == 0
        return " ".join(capsys.readouterr().out.split()).replace(" ".join(["", *home]), "")

    return typed


def enabling(side: Side) -> tuple[str, ...]:
    """Return the words that enable what is offered now."""
    return "enable", "summer", "--version", side.project.received.show("summer")["offered"]["hash"]


def test_the_commands_say_what_waits_and_for_whom(shared: Pair, said: Callable[..., str]) -> None:
    acme, globe = shared.acme, shared.globe
    waits = f"vesica feed estimate summer --namespace {PHONE}"
    assert waits in said(acme, "edit", "summer", "--add-namespace", "phone_sha256", "--add-restriction", "analytics")
    assert waits in said(acme, "show", "summer")
    assert PHONE in said(acme, "estimate", "summer", "--namespace", "phone_sha256", "--yes")
    said(acme, "publish", "summer")
    assert "globe: enabled, version 2 pending" in said(acme, "list")
    shown = said(globe, "show", "summer")
    for words in (
        "Version 2 waits for an answer",
        acme.project.feeds.show("summer")["hash"],
        f"adds namespaces {PHONE}",
        "adds restricted uses analytics",
        f"in common, {PHONE} 1, 1 with consent, of 1 asked about",
    ):
        assert words in shown
    assert said(globe, "decline", "summer", "--addition", "--reason", "not now", "--yes") == (
        "version 2 of feed summer is declined, version 1 goes on"
    )
    assert "not now" in said(acme, "show", "summer")
    assert "globe: version 4 waits for the partner to enable it" in said(
        acme, "edit", "summer", "--remove-namespace", "phone_sha256", "--add-segment", "old", "--yes"
    )
    assert said(globe, *enabling(globe)) == "feed summer is enabled, version 4"
    assert agree(shared) == (4, None)


@pytest.mark.feature("FD6")
def test_the_sender_sees_what_a_partner_lacks_and_how_to_offer_it_again(shared: Pair, said: Callable[..., str]) -> None:
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
    said(globe, *enabling(globe))
    assert agree(shared) == (4, None)
    assert "lacks" not in said(acme, "show", "summer")


@pytest.mark.feature("FD6")
def test_both_sides_print_who_came_who_left_and_that_it_is_purged(shared: Pair, said: Callable[..., str]) -> None:
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
    shown = said(globe, "show", "summer")
    assert "members purged" in shown
    assert "members leave" not in shown
    assert "members until" not in shown


@pytest.mark.feature("RC4")
def test_received_segments_are_listed_with_ours(shared: Pair, said: Callable[..., str]) -> None:
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
        globe.project.files.export("received.acme.vip", globe.folder / "out.csv")
    assert refused.value.remedy == Remedy("segment.create", {"rule": "received.acme.vip"})
    shared.clock.advance(days=400)
    assert [each["size"] for each in globe.project.received.segments()] == [0, 0]


@pytest.mark.feature("OP4")
def test_an_alert_of_what_is_settled_is_closed(shared: Pair, said: Callable[..., str]) -> None:
    acme, alerts = shared.acme.project, shared.globe.project.alerts

    def waiting() -> list[str]:
        return [each.kind for each in alerts.all(open_only=True) if each.kind in ("feed_offered", "feed_changed")]

    assert waiting() == []
    assert [each.text for each in alerts.all() if each.kind == "feed_offered"] == [
        "acme offers feed summer: enable it, or decline it (settled)"
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
