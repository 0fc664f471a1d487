"""Edits that cross a partner's answer in the post, or come during a run: both sides end at the same version."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from edited import SEGMENTS, agree, edit, prepare, sync
from sides import EMAIL, Pair, Person
from sqlalchemy import select

from node.errors import NotAllowed, NotFound, RefusedByPartner, RefusedToPartner
from node.feeds import versions
from node.feeds.receiving import releases as received_releases
from node.feeds.sending import releases
from node.feeds.sending.edits import Removal
from node.partners.letters import Letters, receive
from node.partners.outbox import delivered, outbox
from node.storage import tables


@pytest.mark.feature("FD6")
@pytest.mark.feature("FD8")
@pytest.mark.parametrize("seed", range(3))
def test_whatever_crosses_in_the_post_both_end_at_the_same_version(
    idle_pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch, seed: int
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
        for letter in outbox(sender.node.home, row)[:at_most]:
            receive(receiver.node.home, sender.node.key, letter)
            delivered(sender.node.home, row.id, letter.number)

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
        with suppress(NotAllowed):
            chance.choice(acts)()
        shown = pair.acme.project.feeds.show("summer")
        newest = {each["name"] for each in shown["segments"]}
        with pair.acme.node.home.database.read() as tx:
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
    broken = [alert for side in (pair.acme, pair.globe) for alert in side.project.alerts.all() if "broke" in alert.text]
    assert broken == []


@pytest.mark.feature("FD6")
def test_an_acceptance_of_a_version_that_was_replaced_meanwhile(idle_pair: Pair, person: type[Person]) -> None:
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
def test_an_addition_that_is_accepted_during_a_run(shared: Pair, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    edit(shared, segments=["old"])
    shared.acme.project.consent.set("a4", "n")
    module, name = (received_releases, "received") if when == "after the records" else (releases, "send")
    original = getattr(module, name)
    done: list[bool] = []

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
        with pytest.raises((RefusedByPartner, RefusedToPartner)):
            sync(shared)
        assert shared.globe.members("acme", "new") == {"g3", "g4"}
    assert agree(shared) == (2, None)
    with pytest.raises(NotFound):
        shared.globe.members("acme", "old")
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"new": 1, "old": 1, "vip": 1}
    assert [alert for alert in shared.globe.project.alerts.all() if "broke" in alert.text] == []


@pytest.mark.feature("EX4")
def test_what_is_taken_out_before_the_records_leave_does_not_leave(
    shared: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the receiver has not heard of it yet."""
    shared.acme.project.consent.set("a4", "n")
    send = releases.send

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(releases, "send", send)
        with monkeypatch.context() as patched:
            patched.setattr(Letters, "deliver_soon", lambda *_: False)
            edit(shared, Removal(segments=["vip"]))
        return send(*arguments)

    monkeypatch.setattr(releases, "send", late)
    with pytest.raises(RefusedByPartner, match="another version of this feed is accepted here"):  # it has begun again
        sync(shared)
    with shared.globe.node.home.database.read() as tx:
        assert tx.scalar(select(tables.received_feeds.c.last_revision)) == 1
    shared.post()
    assert agree(shared) == (2, None)
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"new": 1}
