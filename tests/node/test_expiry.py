"""Members leave by the clock: when no run has confirmed them, when the feed ends; and who left is forgotten in the end."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select

from node.errors import InvalidInput, NotFound
from node.feeds.receiving import expiry
from node.feeds.receiving.memberships import jumped
from node.feeds.sending.schedule import Schedule
from node.operations import alerts as alerts_module
from node.storage.tables import DAY, memberships
from protocol.feed import Definition
from psi import count

EMAIL = "email_sha256/lc-v1"


@pytest.fixture(autouse=True)
def _small_universes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "PADDING", 128)


def people(person: Any, side: str, numbers: Any) -> list[Any]:
    return [person(f"{side}{n}", f"person{n}@example.com") for n in numbers]


def share(pair: Any, person: Any, **rest: Any) -> None:
    """Let globe have ten of acme's twenty people in the segment "all", and make "theirs" and "others" of it."""
    pair.prepare(
        people(person, "a", range(20)), people(person, "g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]}
    )
    pair.share("f", ["all"], [EMAIL], **rest)
    pair.acme.project.feeds.sync("f")
    pair.globe.project.segments.create("theirs", rule="received.acme.all")
    pair.globe.project.segments.create("others", rule="NOT received.acme.all")


def statuses(pair: Any) -> dict[str, int]:
    found = pair.globe.project.received.show("f")["statuses"]["all"]
    return {name: size for name, size in found.items() if size}


def sizes(pair: Any) -> list[int]:
    return [pair.globe.project.segments.show(name).size for name in ("theirs", "others")]


def alerts(side: Any) -> list[str]:
    return [each.kind for each in side.project.alerts.list()]


@pytest.mark.feature("EX6")
@pytest.mark.parametrize("upkeep", [True, False])
def test_members_that_no_run_confirmed_leave_after_thirty_days(pair: Any, person: Any, upkeep: bool) -> None:
    """Whether upkeep has come by or not; what is made of them has nobody then, also where it keeps people out by them."""
    share(pair, person)
    assert statuses(pair) == {"realized": 10}
    assert sizes(pair) == [10, 10]
    pair.clock.advance(days=30, seconds=-1)
    pair.globe.node.sweep()
    assert statuses(pair) == {"realized": 10}
    pair.clock.advance(seconds=1)
    if upkeep:
        pair.globe.node.sweep()
        assert sizes(pair) == [0, 0]
        assert pair.globe.acts("feed.expire")[0]["detail"] == {"expired": ["all"], "forgotten": []}
        assert "feed_expired" in alerts(pair.globe)
    assert statuses(pair) == {"exited": 10}
    shown = pair.globe.project.received.show("f")
    assert (shown["members"], shown["members_until"]) == ({"all": 0}, pair.clock())
    with pytest.raises(NotFound, match="30 days"):
        pair.globe.members("acme", "all")
    with pytest.raises(NotFound, match="have ended"):
        pair.globe.project.segments.evaluate("others")
    pair.globe.project.consent.set("g29", "y")  # computing memberships anew does not bring them back
    assert statuses(pair) == {"exited": 10}


@pytest.mark.feature("EX6")
def test_who_left_is_forgotten_after_thirty_days_more(pair: Any, person: Any) -> None:
    share(pair, person)
    pair.acme.project.consent.set("a15", "n")
    pair.acme.project.feeds.sync("f")
    assert statuses(pair) == {"existing": 9, "exited": 1}
    pair.clock.advance(days=30)
    assert statuses(pair) == {"exited": 9}  # nine have left at this moment, one is forgotten
    pair.globe.node.sweep()
    pair.clock.advance(days=29)
    pair.globe.node.sweep()
    assert statuses(pair) == {"exited": 9}
    pair.clock.advance(days=1)
    pair.globe.node.sweep()
    assert statuses(pair) == {}
    with pair.globe.node.store.read() as tx:
        feed_id, name = tx.execute(select(memberships.c.feed_id, memberships.c.changes)).one()
    import numpy as np

    with np.load(pair.globe.project.data_directory / "received" / feed_id / name) as stored:
        assert {key: len(stored[key]) for key in stored.files} == dict.fromkeys(
            ("realized", "late", "exited", "exited_at"), 0
        )


@pytest.mark.feature("EX6")
def test_runs_that_find_nothing_new_keep_members_and_a_later_one_brings_them_back(pair: Any, person: Any) -> None:
    share(pair, person)
    for _ in range(3):
        pair.clock.advance(days=20)
        pair.acme.project.feeds.sync("f")
        pair.globe.node.sweep()
        assert len(pair.globe.members("acme", "all")) == 10
    pair.clock.advance(days=31)
    pair.globe.node.sweep()
    assert statuses(pair) == {"exited": 10}
    pair.acme.project.feeds.sync("f")
    assert statuses(pair) == {"realized": 10}


@pytest.mark.feature("EX6")
def test_members_that_expired_come_back_with_changes_only_too(pair: Any, person: Any) -> None:
    share(pair, person, membership_days=3)
    pair.clock.advance(days=4)
    pair.globe.node.sweep()
    assert statuses(pair) == {"exited": 10}
    pair.acme.project.feeds.sync("f")  # an empty revision
    assert pair.globe.project.received.show("f")["runs"][0]["whole"] is False
    assert statuses(pair) == {"realized": 10}
    Schedule(pair.globe.node).tick()
    assert sizes(pair) == [10, 10]


@pytest.mark.feature("EX6")
@pytest.mark.parametrize("rest", [{"membership_days": 7}, {"valid_until": 1_800_000_000 + 7 * DAY}])
def test_the_feed_may_say_otherwise(pair: Any, person: Any, rest: dict[str, int]) -> None:
    share(pair, person, **rest)
    for side in (pair.acme.project.feeds, pair.globe.project.received):
        assert {name: side.show("f")[name] for name in rest} == rest
    pair.clock.advance(days=6)
    if "valid_until" in rest:
        pair.acme.project.feeds.sync("f")  # a run does not lengthen it
    pair.clock.advance(days=1, seconds=-1)
    assert len(pair.globe.members("acme", "all")) == 10
    pair.clock.advance(seconds=1)
    assert statuses(pair) == {"exited": 10}


def test_a_feed_that_could_have_no_members_is_refused(pair: Any, person: Any) -> None:
    pair.prepare(people(person, "a", range(3)), people(person, "g", range(3)), {"all": ["a1"]})
    for rest in ({"membership_days": 0}, {"membership_days": 3_651}, {"valid_until": pair.clock()}):
        with pytest.raises(InvalidInput):
            pair.share("f", ["all"], [EMAIL], **rest)


@pytest.mark.feature("EX6")
def test_why_memberships_end() -> None:
    def definition(**rest: Any) -> Definition:
        fields: Any = {"feed": bytes(16), "version": 1, "name": "f", "description": "", "segments": ()}
        return Definition(**fields, namespaces=(EMAIL,), restricted_uses=(), created=0, **rest)

    assert expiry.ended(definition(), 0, 30 * DAY - 1) is None
    assert "30 days" in str(expiry.ended(definition(), 0, 30 * DAY))
    assert "7 days" in str(expiry.ended(definition(membership_days=7), 0, 7 * DAY))
    assert "valid until" in str(expiry.ended(definition(valid_until=5), 4, 5))
    assert expiry.ends(definition(valid_until=5), 4) == 5
    assert expiry.ends(definition(valid_until=50 * DAY), 4) == 4 + 30 * DAY


# Alerts


@pytest.mark.feature("OP4")
def test_a_feed_that_stands_still_is_an_alert_on_both_sides_once_a_day(pair: Any, person: Any) -> None:
    share(pair, person)
    for hours in (0, 47, 1, 1, 24):
        pair.clock.advance(seconds=hours * 3_600)
        for side in (pair.acme, pair.globe):
            side.node.sweep()
    assert alerts(pair.globe).count("feed_stale") == 2
    assert alerts(pair.acme).count("run_overdue") == 2


@pytest.mark.feature("OP4")
def test_a_jump_of_the_overlap_is_seen_at_the_receiver_only(pair: Any, person: Any) -> None:
    pair.prepare(
        people(person, "a", range(300)), people(person, "g", range(300)), {"all": [f"a{n}" for n in range(100)]}
    )
    pair.share("f", ["all"], [EMAIL])
    pair.acme.project.feeds.sync("f")
    file = pair.acme.folder / "acme-all.csv"
    file.write_text("id\n" + "".join(f"a{n}\n" for n in range(300)))
    pair.acme.project.segments.update("all", file)
    pair.acme.project.feeds.sync("f")
    (alert,) = [each for each in pair.globe.project.alerts.list() if each.kind == "overlap_jump"]
    assert "from 100 to 300" in alert.text
    assert "overlap_jump" not in alerts(pair.acme)
    assert [jumped(*each) for each in ((1_000, 1_400), (1_000, 2_000), (10, 30), (400, 100))] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.feature("OP4")
def test_an_alert_is_told_daily_at_most_and_until_it_is_acknowledged(either_node: Any, clock: Any) -> None:
    project = either_node.project()

    def add(*texts: str) -> list[bool]:
        with either_node.store.begin() as tx:
            return [project.alerts.add(tx, "kind", text) for text in texts]

    assert add("one", "two", "one") == [True, True, False]
    clock.advance(seconds=DAY - 1)
    assert add("one") == [False]
    clock.advance(seconds=1)
    assert add("one") == [True]
    newest = project.alerts.list()[0]
    assert project.alerts.acknowledge(newest.id) == 1
    assert project.alerts.list()[0].acknowledged == clock()
    assert sorted(each["text"] for each in either_node.status()["alerts"]) == ["one", "two"]
    assert project.alerts.acknowledge(every=True) == 2
    assert project.alerts.list(open_only=True) == either_node.status()["alerts"] == []
    assert len(project.alerts.list()) == 3
    with pytest.raises(NotFound):
        project.alerts.acknowledge("nothing")
    with pytest.raises(InvalidInput):
        project.alerts.acknowledge()
    acts = [(each.result, each.detail.get("alerts")) for each in either_node.audit.list(act="alert.acknowledge")]
    assert sorted(acts, key=str) == [("allow", 1), ("allow", 2), ("deny", None), ("deny", None)]
    clock.advance(days=366)
    project.alerts.forget_old()
    assert project.alerts.list() == []


@pytest.mark.feature("OP4")
def test_a_partner_cannot_wash_an_alert_away_with_others(
    either_node: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_module, "KEPT_OF_KIND", 3)
    project = either_node.project()

    def add(kind: str, *texts: str) -> None:
        with either_node.store.begin() as tx:
            for text in texts:
                project.alerts.add(tx, kind, text)
                clock.advance(seconds=1)

    for kind in ("key_changed", "exchange.receipt", "feed_offered"):
        add(kind, *(f"globe {kind} {number}" for number in range(4)))
    add("run_failed", "first", "seen", "third", "fourth")
    (seen,) = [each.id for each in project.alerts.list() if each.text == "seen"]
    project.alerts.acknowledge(seen)
    add("feed_changed", *(f"globe changed feed {number}" for number in range(50)))
    project.alerts.forget_old()
    kept = project.alerts.list()
    assert Counter(each.kind for each in kept) == {
        "key_changed": 4,
        "exchange.receipt": 4,
        "feed_offered": 3,
        "run_failed": 3,
        "feed_changed": 3,
    }
    assert {each.text for each in kept if each.kind == "run_failed"} == {"first", "third", "fourth"}


@pytest.mark.feature("OP4")
def test_what_a_partner_ends_an_alert_with_makes_no_second_one(either_node: Any, clock: Any) -> None:
    project = either_node.project()
    for number, new in ((1, True), (2, False), (2, False)):
        with either_node.store.begin() as tx:
            assert project.alerts.add(tx, "feed_enabled", f"globe has {number}", alike="globe has ") is new
        assert [(each.text, each.acknowledged) for each in project.alerts.list()] == [(f"globe has {number}", None)]
        if new:
            project.alerts.acknowledge(every=True)
    clock.advance(days=1)
    with either_node.store.begin() as tx:
        assert project.alerts.add(tx, "feed_enabled", "globe has 3", alike="globe has ")


@pytest.mark.feature("OP4")
def test_a_certificate_that_cannot_be_renewed_is_an_alert(node: Any) -> None:
    from node.errors import DiskFull
    from node.service import tell_ending

    tell_ending(node, DiskFull("the disk is full"))
    assert [each.kind for each in node.project().alerts.list()] == ["certificate_ending"]
