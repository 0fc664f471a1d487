"""Edits of a feed: what is added waits for the receiver's word, what is taken out is gone at once, on both sides."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edited import agree, at_sender, edit, prepare, sync
from sides import EMAIL, PHONE, Pair, Person
from sqlalchemy import select

from cli.remedies import spelled
from node.access.audit import Result
from node.errors import AlreadyExists, DiskFull, InvalidInput, NotAllowed, NotFound, RefusedToPartner
from node.feeds import purges
from node.feeds.sending.edits import Removal
from node.feeds.sending.evaluations import check_expected
from node.governance.violations import PolicyViolation
from node.storage.tables import feed_versions, runs
from protocol.feed import Definition, SegmentRef
from psi.errors import Remedy

# Additions


@pytest.mark.feature("FD6")
@pytest.mark.feature("FD8")
def test_an_added_segment_waits_for_the_receiver_while_the_old_version_goes_on(shared: Pair) -> None:
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
    assert "feed_changed" in [alert.kind for alert in shared.globe.project.alerts.all()]
    shared.globe.project.received.enable("summer")
    assert agree(shared) == (2, None)
    assert shared.globe.members("acme", "new") == {"g3"}  # until the next run, and after it
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "new") == {"g3"}
    assert shared.globe.members("acme", "old") == {"g5"}
    assert {each["act"] for each in shared.acme.acts("feed.edit")} == {"feed.edit"}


@pytest.mark.feature("FD6")
def test_an_addition_is_declined_with_a_reason_and_the_old_version_goes_on(shared: Pair) -> None:
    edit(shared, segments=["old"])
    shared.globe.project.received.decline_version("summer", reason="no use for it")
    assert agree(shared) == (1, None)
    assert (at_sender(shared)["status"], at_sender(shared)["declined_version"]) == ("enabled", 2)
    assert at_sender(shared)["reason"] == "no use for it"
    assert "feed_version_declined" in [alert.kind for alert in shared.acme.project.alerts.all()]
    shared.acme.project.consent.set("a4", "n")
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "new") == {"g3"}
    for act in (shared.globe.project.received.enable, shared.globe.project.received.decline_version):
        with pytest.raises(NotAllowed):
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
def test_an_added_restriction_waits_and_a_removed_one_holds_at_once(shared: Pair) -> None:
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
def test_several_additions_in_a_row_are_accepted_as_one(shared: Pair) -> None:
    edit(shared, segments=["old"])
    edit(shared, segments=["rare"])
    edit(shared, description="two more")
    assert agree(shared) == (4, 5)  # the words hold at once, the segments wait
    shown = shared.globe.project.received.show("summer")
    assert (shown["description"], shown["offered"]["description"]) == ("two more", "two more")
    assert [each["name"] for each in shown["offered"]["adds"]["segments"]] == ["old", "rare"]
    with shared.globe.node.home.database.read() as tx:  # offers that were replaced do not pile up
        assert set(tx.scalars(select(feed_versions.c.version))) == {1, 4, 5}
    shared.globe.project.received.enable("summer")
    assert agree(shared) == (5, None)
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"new": 2, "old": 1, "rare": 2, "vip": 1}


@pytest.mark.feature("FD6")
def test_a_feed_that_was_paused_goes_on_as_it_was_and_the_addition_is_enabled_after(shared: Pair) -> None:
    received = shared.globe.project.received
    received.disable("summer")
    edit(shared, segments=["old"])
    received.enable("summer")
    assert agree(shared) == (1, 2)
    received.enable("summer")
    assert agree(shared) == (2, None)
    with pytest.raises(NotAllowed, match="enabled"):
        received.enable("summer")


@pytest.mark.feature("FD1")
def test_a_draft_is_edited_without_a_word_to_anybody(pair: Pair, person: type[Person]) -> None:
    prepare(pair, person)
    pair.acme.project.feeds.create("summer", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
    assert edit(pair, Removal(segments=["vip"]), segments=["new"], namespaces=["phone_sha256"]) == 2
    pair.post()
    assert pair.globe.project.received.all() == []
    pair.acme.project.feeds.publish("summer")
    shown = pair.globe.project.received.show("summer")
    assert (shown["version"], shown["namespaces"]) == (2, [EMAIL, PHONE])
    edit(pair, segments=["old"])  # before anybody has accepted anything
    assert pair.globe.project.received.show("summer")["version"] == 3
    pair.globe.project.received.enable("summer")
    assert agree(pair) == (3, None)


@pytest.mark.feature("FD1")
def test_a_draft_is_published_when_its_steps_are_complete(pair: Pair, person: type[Person]) -> None:
    prepare(pair, person)
    feeds = pair.acme.project.feeds

    def left(*names: str) -> None:
        assert [each["name"] for each in feeds.show("summer")["steps"] if not each["complete"]] == list(names)

    with pytest.raises(InvalidInput):
        feeds.create("summer", namespaces=[])
    feeds.create("summer", namespaces=[EMAIL])
    steps: tuple[tuple[str, dict[str, Any]], ...] = (
        ("segments", {"segments": ["vip"]}),
        ("share", {"partners": ["globe"]}),
    )
    for step, added in steps:
        with pytest.raises(NotAllowed, match=f"not complete: {step}") as caught:
            feeds.publish("summer")
        assert caught.value.remedy is not None
        assert spelled(caught.value.remedy).startswith("vesica feed edit summer --add-")
        edit(pair, **added)
    left("review")
    feeds.publish("summer")
    left()
    assert pair.globe.project.received.show("summer")["version"] == 2


def test_what_cannot_be_added(shared: Pair) -> None:
    wrong: tuple[tuple[type[Exception], dict[str, Any]], ...] = (
        (NotFound, {"segments": ["nobody"]}),
        (AlreadyExists, {"segments": ["vip"]}),
        (AlreadyExists, {"namespaces": ["email_sha256"]}),
        (NotFound, {"namespaces": ["idfa"]}),
        (InvalidInput, {"restricted_uses": ["world-domination"]}),
        (AlreadyExists, {"partners": ["globe"]}),
        (InvalidInput, {}),
    )
    for error, added in wrong:
        with pytest.raises(error):
            edit(shared, **added)
    shared.acme.project.labels.apply("C11", "segment", "old")
    with pytest.raises(PolicyViolation):
        edit(shared, segments=["old"])
    assert agree(shared) == (1, None)
    assert len(shared.acme.acts("feed.edit", Result.DENY)) == 8
    shared.acme.project.feeds.revoke("summer")
    assert shared.acme.project.feeds.show("summer")["steps"] == []
    with pytest.raises(NotAllowed, match="revoked"):
        edit(shared, segments=["rare"])


# Removals


@pytest.mark.feature("FD6")
@pytest.mark.feature("EX4")
def test_a_removal_holds_at_once_also_while_an_addition_waits(shared: Pair) -> None:
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
    pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file goes before the rows that name it: else nobody could say who is still in, and who has left."""
    prepare(pair, person)
    pair.share("summer", ["vip"], [EMAIL, PHONE])
    assert sync(pair) == ["done"]
    assert len(list(pair.globe.node.home.path.glob("data/*/received/*/records-*"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(purges, "sign", full)
        edit(pair, Removal(namespaces=[PHONE]))
    assert pair.globe.members("acme", "vip") == {"g2", "g3"}
    pair.post()
    assert pair.globe.members("acme", "vip") == {"g3"}
    assert pair.globe.project.received.show("summer")["statuses"]["vip"]["exited"] == 1
    assert list(pair.globe.node.home.path.glob("data/*/received/*/records-*")) == []


def full(*_: Any, **__: Any) -> None:
    raise DiskFull("no space left", hint="make room")


@pytest.mark.feature("FD6")
def test_an_edit_that_takes_out_and_adds_does_both(shared: Pair) -> None:
    edit(shared, Removal(segments=["vip", "new"]), segments=["old"])
    assert agree(shared) == (2, 3)
    assert shared.globe.project.received.show("summer")["segments"] == []  # until what was added is accepted
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {}
    shared.globe.project.received.enable("summer")
    assert sync(shared) == ["done"]
    assert shared.globe.project.received.show("summer")["members"] == {"old": 1}


@pytest.mark.feature("FD6")
def test_an_addition_that_is_taken_back_leaves_what_was(shared: Pair) -> None:
    edit(shared, segments=["old"])
    edit(shared, Removal(segments=["old"]))
    assert agree(shared) == (3, None)
    assert shared.globe.project.received.show("summer")["members"] == {"new": 2, "vip": 1}
    with pytest.raises(NotAllowed):
        shared.globe.project.received.enable("summer")
    assert at_sender(shared)["purges"] == []  # nothing of it was ever there


# Namespaces


@pytest.mark.feature("FD7")
def test_a_new_namespace_is_estimated_then_offered_then_used(shared: Pair) -> None:
    acme, globe = shared.acme.project, shared.globe.project
    row = acme.partners.get("globe")

    def refused() -> None:
        with pytest.raises(RefusedToPartner, match="no enabled feed"):
            check_expected(acme.scope, row, PHONE)

    edit(shared, namespaces=["phone_sha256"])
    assert at_sender(shared)["waits_for_estimate"] == [PHONE]
    assert agree(shared) == (1, None)  # not offered
    with pytest.raises(NotAllowed, match="phone_sha256") as caught:
        acme.feeds.publish("summer")
    assert caught.value.remedy == Remedy("feed.estimate", {"name": "summer", "namespaces": [PHONE]})
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
    with shared.globe.node.home.database.read() as tx:
        newest = tx.scalars(select(runs.c.report).where(~runs.c.ours).order_by(runs.c.revision.desc()).limit(1)).one()
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
def test_an_estimate_of_another_week_is_not_enough(shared: Pair) -> None:
    acme = shared.acme.project
    edit(shared, namespaces=["phone_sha256"])
    acme.feeds.estimate("summer")
    shared.clock.advance(days=8)
    with pytest.raises(NotAllowed, match="phone"):
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
def test_each_partner_is_at_its_own_version(shared: Pair, person: type[Person], tmp_path: Path) -> None:
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
        listed = {row["alias"]: row["segments_shared"] for row in acme.reports.partners()}
        assert listed == {"globe": 2, "hooli": 2}  # to globe one of them is offered
    hooli.node.close()


# What an edit makes of a version


def test_what_is_left_of_a_version() -> None:
    version = Definition(
        feed=bytes(16),
        version=3,
        name="summer",
        description="before",
        segments=tuple(SegmentRef(id=name.encode() * 16, name=name) for name in "abc"),
        namespaces=(EMAIL, PHONE),
        restricted_uses=("analytics", "email-targeting"),
        created=0,
    )
    removal = Removal(segments=["b", "unknown"], namespaces=["email_sha256"], restricted_uses=["analytics"])
    left = removal.of(version)
    assert [each.name for each in left.segments] == ["a", "c"]
    assert (left.namespaces, left.restricted_uses) == ((PHONE,), ("email-targeting",))
    assert (left.version, left.description) == (3, "before")
    assert Removal().of(version) == version
    assert Removal().of(version, "after") == replace(version, description="after")
    assert not Removal()
    assert removal
