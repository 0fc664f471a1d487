"""A feed's life between two nodes, from draft to revocation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sharing import draft, small, state
from sides import EMAIL, Pair, Person
from sqlalchemy import func, select, update

from node.errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from node.exchanges import requests
from node.feeds.receiving import releases as received_releases
from node.feeds.sending.edits import Removal
from node.storage.tables import exchanges, feed_versions, jobs, memberships, runs
from protocol.feed import MARKETING_USES, Definition
from protocol.receipt import PurgeStatement

PEOPLE = [(f"a{number}", f"person{number}@example.com", f"+44740000{number:04}") for number in range(40)]


def acme_people(person: type[Person]) -> list[Any]:
    return [person(*row) for row in PEOPLE[:30]]


def globe_people(person: type[Person]) -> list[Any]:
    return [person(f"g{row[0][1:]}", row[1], row[2]) for row in PEOPLE[10:]]


@pytest.mark.feature("FD5")
def test_a_published_feed_reaches_the_partner_and_its_members_are_the_plain_join(
    pair: Pair, person: type[Person]
) -> None:
    pair.prepare(acme_people(person), globe_people(person), {"vip": [f"a{n}" for n in range(5, 25)]})
    pair.share("summer", ["vip"])
    runs = pair.acme.project.feeds.sync("summer")
    assert [run["status"] for run in runs] == ["done"]
    assert pair.globe.members("acme", "vip") == {f"g{n}" for n in range(10, 25)}


def test_a_receiver_without_an_address_calls_for_everything(quiet_receiver: Pair, person: type[Person]) -> None:
    pair = quiet_receiver
    pair.prepare(acme_people(person), globe_people(person), {"vip": [f"a{n}" for n in range(5, 25)]})
    pair.acme.project.feeds.create("summer", segments=["vip"], namespaces=["email_sha256"], partners=["globe"])
    pair.acme.project.feeds.estimate("summer")
    pair.post()
    (estimate,) = pair.acme.project.feeds.estimates("summer")
    assert (estimate["overlap"], estimate["consented"]) == (15, 15)
    pair.acme.project.feeds.publish("summer")
    pair.post()
    pair.globe.project.received.enable("summer")
    pair.post()
    pair.acme.project.feeds.sync("summer")
    pair.post()
    assert pair.globe.members("acme", "vip") == {f"g{n}" for n in range(10, 25)}


@pytest.mark.parametrize("other", [False, True])
def test_a_caller_that_lost_the_end_gets_the_revision_again(
    quiet_receiver: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """The sender is done, has restarted and keeps no message any more: the same bytes go out under the same receipt."""
    pair = quiet_receiver
    pair.prepare(acme_people(person), globe_people(person), {"vip": [f"a{n}" for n in range(5, 25)]})
    pair.share("summer", ["vip"], ["email_sha256"])
    if other:
        pair.acme.segment("few", ["a12"])
        pair.share("winter", ["few"], ["email_sha256"])
    pair.acme.project.feeds.sync("summer")
    with monkeypatch.context() as patched:
        patched.setattr(received_releases, "received", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pair.post()
    pair.globe.node.close()
    pair.globe.open()
    with pair.acme.node.home.database.read() as tx:
        assert tx.scalars(select(runs.c.state)).all() == ["done"]
    for side in (pair.acme, pair.globe):
        with side.node.home.database.begin() as tx:
            tx.execute(update(exchanges).values(state="failed"))
        shutil.rmtree(side.node.home.path / "spool")
    with pair.globe.node.home.database.begin() as tx:  # as after SIGKILL
        tx.execute(update(jobs).where(jobs.c.kind == requests.JOB).values(state="queued", error=None))
    if other:
        pair.acme.project.feeds.sync("winter")
    pair.post()
    assert pair.globe.members("acme", "vip") == {f"g{n}" for n in range(10, 25)}


@pytest.mark.feature("FD2")
def test_all_ten_restricted_uses_can_be_chosen_and_both_sides_show_the_same(pair: Pair) -> None:
    small(pair)
    assert len(MARKETING_USES) == 10
    chosen = ["email-targeting", "analytics", "email-targeting"]
    draft(pair, restricted_uses=chosen)
    draft(pair, "all", restricted_uses=MARKETING_USES)
    with pytest.raises(InvalidInput, match="world-domination"):
        draft(pair, "more", restricted_uses=["world-domination"])
    for name, uses in (("summer", ["analytics", "email-targeting"]), ("all", sorted(MARKETING_USES))):
        assert pair.acme.project.feeds.show(name)["restricted_uses"] == uses
        pair.acme.project.feeds.publish(name)
        pair.post()
        assert pair.globe.project.received.show(name)["restricted_uses"] == uses


@pytest.mark.feature("FD3")
def test_what_was_received_cannot_be_shared_on(pair: Pair) -> None:
    small(pair)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    globe = pair.globe.project
    globe.segments.create("copied", rule="received.acme.vip")
    globe.segments.create("composed", rule="NOT own.copied")
    pair.globe.segment("mine", ["g3"])
    for segment in ("received.acme.vip", "copied", "composed"):
        with pytest.raises(NotAllowed, match="first-party"):
            globe.feeds.create("back", segments=["mine", segment], namespaces=[EMAIL], partners=["acme"])
    globe.feeds.create("back", segments=["mine"], namespaces=[EMAIL], partners=["acme"])


@pytest.mark.feature("FD4")
def test_one_feed_of_two_segments_goes_to_two_partners_each_with_its_own_state(
    pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    small(pair)
    hooli = type(pair.globe)(tmp_path, "hooli", now=pair.clock)
    hooli.project.set_terms(minimum_universe=1, minimum_segment=1, minimum_overlap=1, epsilon="none")
    hooli.project.consent.set_model("opt-out")
    hooli.people([person(f"h{n}", f"person{n}@example.com") for n in (0, 2, 4)])
    with hooli.serving():
        acme, globe = pair.acme, pair.globe
        found = hooli.project.partners.look_up(acme.project.partners.connect_id().encode())
        hooli.project.partners.request(found, alias="acme")
        acme.project.partners.accept("hooli")
        acme.project.feeds.create(
            "summer", segments=["vip", "new"], namespaces=[EMAIL], partners=["globe", "hooli"], description="warm"
        )
        acme.project.feeds.publish("summer")
        assert acme.project.feeds.all()[0]["partners"] == {"globe": "pending", "hooli": "pending"}
        hooli.project.received.enable("summer")
        globe.project.received.decline("summer", reason="no room")
        assert acme.project.feeds.all()[0]["partners"] == {"globe": "declined", "hooli": "enabled"}
        (run,) = acme.project.feeds.sync("summer")
        assert (run["partner"], run["status"]) == ("hooli", "done")
        assert (hooli.members("acme", "vip"), hooli.members("acme", "new")) == ({"h2"}, {"h4"})
        with pytest.raises(NotFound):
            globe.members("acme", "vip")
        assert (state(acme)["reason"], state(acme, partner="hooli")["last_revision"]) == ("no room", 1)
        acme.project.feeds.unshare("summer", partner="hooli")
        assert acme.project.feeds.all()[0]["partners"] == {"globe": "declined", "hooli": "revoked"}
        with pytest.raises(NotFound):
            hooli.members("acme", "vip")
    hooli.node.close()


@pytest.mark.feature("FD5")
def test_the_receiver_sees_all_that_the_feed_says_of_itself(pair: Pair) -> None:
    small(pair)
    pair.acme.project.labels.apply("C5", "segment", "vip")
    draft(pair, segments=["vip", "new"], description="Our best", restricted_uses=["analytics"])
    pair.post()
    assert pair.globe.project.received.all() == []
    pair.acme.project.feeds.publish("summer")
    shown = pair.globe.project.received.show("summer")
    assert (shown["name"], shown["description"], shown["partner"]) == ("summer", "Our best", "acme")
    assert shown["segments"] == [{"name": "vip", "labels": ["C5"]}, {"name": "new", "labels": []}]
    assert (shown["restricted_uses"], shown["namespaces"]) == (["analytics"], [EMAIL])
    assert "feed_offered" in [alert.kind for alert in pair.globe.project.alerts.all()]


@pytest.mark.feature("FD8")
def test_each_version_is_immutable_and_both_nodes_hold_the_same_hash(pair: Pair) -> None:
    small(pair)
    draft(pair, segments=["vip", "new"])
    pair.acme.project.feeds.publish("summer")
    seen: dict[int, bytes] = {}

    def same() -> tuple[int, str]:
        ours, theirs = pair.acme.project.feeds.show("summer"), pair.globe.project.received.show("summer")
        assert (ours["version"], ours["hash"]) == (theirs["version"], theirs["hash"])
        for side in (pair.acme, pair.globe):  # the rows are what they were
            with side.node.home.database.read() as tx:
                rows = {row.version: row.definition for row in tx.execute(select(feed_versions))}
            for version, definition in rows.items():
                assert seen.setdefault(version, definition) == definition
            assert Definition.decode(rows[ours["version"]]).digest().hex() == ours["hash"]
        return ours["version"], ours["hash"]

    first = same()
    pair.globe.project.received.enable("summer")
    pair.acme.project.feeds.unshare("summer", segment="new")
    second = same()
    pair.acme.project.feeds.edit("summer", Removal(), description="other words")
    third = same()
    assert [version for version, _ in (first, second, third)] == [1, 2, 3]
    assert len({first, second, third}) == len(seen) == 3
    assert state(pair.acme)["accepted_version"] == pair.globe.project.received.show("summer")["accepted_version"] == 3


@pytest.mark.feature("FD8")
def test_an_acceptance_that_crosses_a_removal_holds_for_what_is_left(idle_pair: Pair) -> None:
    pair = idle_pair
    with pair.acme.serving(), pair.globe.serving():
        small(pair)
        draft(pair, segments=["vip", "new"])
        pair.acme.project.feeds.publish("summer")
    pair.globe.project.received.enable("summer")  # version 1, and nobody is there to hear it
    pair.acme.project.feeds.unshare("summer", segment="vip")
    with pair.acme.serving(), pair.globe.serving():
        pair.post()
        assert (state(pair.acme)["status"], state(pair.acme)["accepted_version"]) == ("enabled", 2)
        assert pair.globe.project.received.show("summer")["accepted_version"] == 2
        assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["done"]
        assert pair.globe.members("acme", "new") == {"g3", "g4", "g5"}
        with pytest.raises(NotFound):
            pair.globe.members("acme", "vip")


# Taking back


@pytest.mark.feature("EX4")
def test_unsharing_one_segment_takes_it_from_every_profile_and_leaves_the_others(pair: Pair) -> None:
    small(pair)
    pair.acme.segment("old", ["a3"])
    pair.share("summer", ["vip", "new", "old"], [EMAIL])
    pair.acme.project.feeds.sync()
    globe = pair.globe.project
    pair.acme.project.feeds.unshare("summer", segment="old")
    assert globe.received.all()[0]["segments"] == {"new": 3, "vip": 1}
    globe.segments.create("from-vip", rule="received.acme.vip")
    globe.segments.create("without-vip", rule="NOT own.from-vip")
    globe.segments.create("from-new", rule="received.acme.new")
    pair.acme.project.feeds.unshare("summer", segment="vip")
    assert pair.globe.members("acme", "new") == {"g3", "g4", "g5"}
    with pytest.raises(NotFound):
        pair.globe.members("acme", "vip")
    assert globe.received.all()[0]["segments"] == {"new": 3}
    assert {each.name: each.size for each in globe.segments.all()} == {"from-vip": 0, "without-vip": 0, "from-new": 3}
    assert "segment_emptied" in [alert.kind for alert in globe.alerts.all()]
    assert list(globe.scope.data_directory.rglob("*records*")) == []  # they still said who was in it
    pair.globe.post()
    statement = state(pair.acme)["purges"][-1]
    vip = pair.acme.project.segments.show("vip").id
    assert (statement["segments"], statement["revision"], statement["made"]) == ([vip], 1, pair.clock())
    assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["done"]
    assert pair.globe.members("acme", "new") == {"g3", "g4", "g5"}
    with pytest.raises(NotFound):
        pair.globe.members("acme", "vip")


@pytest.mark.feature("EX4")
def test_unsharing_during_a_run_takes_effect_on_what_the_run_brings(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(pair)
    pair.share("summer", ["vip", "new"], [EMAIL])
    during(pair, monkeypatch, lambda: pair.acme.project.feeds.unshare("summer", segment="vip"))
    pair.acme.project.feeds.sync()
    assert pair.globe.project.received.all()[0]["segments"] == {"new": 3}


@pytest.mark.feature("EX5")
def test_a_namespace_that_is_taken_out_is_not_said_to_be_a_whole_purge(pair: Pair, person: type[Person]) -> None:
    pair.prepare(
        [person("a1", "one@example.com"), person("a2", "", "+447400000002")],
        [person("g1", "one@example.com"), person("g2", "", "+447400000002")],
        {"vip": ["a1", "a2"], "old": ["a1"]},
    )
    pair.share("summer", ["vip", "old"])
    pair.share("winter", ["old", "vip"])
    pair.acme.project.feeds.sync()
    pair.acme.project.feeds.edit("winter", Removal(namespaces=["phone_sha256"]))
    assert pair.globe.project.received.show("winter")["members"] == {"old": 1, "vip": 1}  # at once
    pair.acme.project.feeds.revoke("winter")
    pair.acme.project.feeds.unshare("summer", segment="old")
    pair.globe.post()
    assert len(state(pair.acme)["purges"][-1]["segments"]) == 1
    pair.acme.project.feeds.edit("summer", Removal(namespaces=["phone_sha256"]))
    pair.globe.post()
    assert pair.globe.project.received.show("summer")["namespaces"] == [EMAIL]
    assert pair.globe.project.received.show("summer")["members"] == {}  # until the next run tells who is left
    statement = state(pair.acme)["purges"][-1]
    assert (statement["version"], statement["segments"], statement["namespaces"]) == (3, [], ["phone_sha256/e164-v1"])
    assert [len(each["segments"]) for each in state(pair.acme)["purges"]] == [1, 0]
    assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["done"]
    assert pair.globe.members("acme", "vip") == {"g1"}


@pytest.mark.feature("EX5")
def test_a_revoked_feed_is_purged_and_the_sender_holds_the_signed_word_of_it(idle_pair: Pair) -> None:
    pair = idle_pair
    with pair.acme.serving():
        with pair.globe.serving():
            small(pair)
            pair.share("summer", ["vip", "new"], [EMAIL])
            pair.acme.project.feeds.sync()
        folder = pair.globe.project.scope.data_directory / "received"
        assert any(path.is_file() for path in folder.rglob("*"))
        pair.acme.project.feeds.revoke("summer", "season over")  # while the receiver is away
        assert state(pair.acme)["purges"] == []
        assert pair.globe.members("acme", "new")
        assert pair.acme.project.feeds.sync() == []
        pair.clock.advance(days=2)
        pair.globe.post()
    assert not any(path.is_file() for path in folder.rglob("*"))
    with pair.globe.node.home.database.read() as tx:
        assert tx.scalar(select(func.count()).select_from(memberships)) == 0
    shown = pair.globe.project.received.show("summer")
    assert (shown["status"], shown["reason"], shown["members"]) == ("revoked", "season over", {})
    assert (state(pair.acme)["status"], state(pair.acme)["reason"]) == ("revoked", "season over")
    purged = state(pair.acme)["purges"][-1]
    assert (purged["revision"], purged["made"], purged["segments"]) == (1, pair.clock(), [])
    # It names no number of people.
    assert set(purged) == {
        "version",
        "revision",
        "made",
        "segments",
        "namespaces",
        "signature",
    }
    statement = PurgeStatement(
        connection=bytes.fromhex(pair.acme.project.partners.get("globe").id),
        feed=bytes.fromhex(pair.acme.project.feeds.get("summer").id),
        version=0,
        revision=1,
        segments=(),
        namespaces=(),
        made=pair.clock(),
    )
    statement.verify(bytes.fromhex(purged["signature"]), pair.globe.node.key)
    with pytest.raises(NotAllowed):
        pair.acme.project.feeds.publish("summer")
    with pytest.raises(NotAllowed):
        pair.globe.project.received.enable("summer")


def during(pair: Pair, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen when the receiver has the records of a release, and before it keeps them."""
    received = received_releases.received
    done: list[bool] = []

    def late(*arguments: Any) -> None:
        if not done:
            done.append(True)
            act()
        received(*arguments)

    monkeypatch.setattr(received_releases, "received", late)


@pytest.mark.feature("FD6")
def test_the_name_of_a_revoked_feed_can_be_used_again(shared: Pair) -> None:
    feeds = shared.acme.project.feeds
    with pytest.raises(AlreadyExists):
        feeds.create("summer", segments=["new"], namespaces=[EMAIL], partners=["globe"])
    feeds.sync()
    feeds.revoke("summer")
    shared.post()
    feeds.create("summer", segments=["new"], namespaces=[EMAIL], partners=["globe"])
    feeds.publish("summer")
    shared.post()
    assert [(row["name"], row["status"]) for row in feeds.all()] == [
        ("summer", "published"),
        ("summer-revoked-1", "revoked"),
    ]
    assert feeds.show("summer-revoked-1")["partners"][0]["purges"]
    renamed = {"feed": feeds.get("summer-revoked-1").id, "from": "summer", "to": "summer-revoked-1"}
    assert renamed in [row["detail"].get("renamed") for row in shared.acme.acts("feed.create")]
    shared.globe.project.received.enable("summer")
    assert [run["status"] for run in feeds.sync("summer")] == ["done"]
    assert shared.globe.members("acme", "new") == {"g3", "g4"}
