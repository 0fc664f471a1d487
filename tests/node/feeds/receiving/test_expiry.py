"""Members leave by the clock: when no run has confirmed them, when the feed ends; and who left is forgotten in the end."""

from typing import Any

import numpy as np
import pytest
from sharing import people
from sides import EMAIL, Pair, Side
from sqlalchemy import select

from node.errors import InvalidInput, NotFound
from node.service import Schedule
from node.storage.tables import DAY, memberships

pytestmark = pytest.mark.usefixtures("small_universes")


def share(pair: Pair, **rest: Any) -> None:
    """Let globe have ten of acme's twenty people in the segment "all", and make "theirs" and "others" of it."""
    pair.prepare(people("a", range(20)), people("g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]})
    pair.share("f", ["all"], [EMAIL], **rest)
    pair.acme.project.feeds.sync("f")
    pair.globe.project.segments.create("theirs", rule="received.acme.all")
    pair.globe.project.segments.create("others", rule="NOT received.acme.all")


def statuses(pair: Pair) -> dict[str, int]:
    found = pair.globe.project.received.show("f")["statuses"]["all"]
    return {name: size for name, size in found.items() if size}


def sizes(pair: Pair) -> list[int]:
    return [pair.globe.project.segments.show(name).size for name in ("theirs", "others")]


def alerts(side: Side) -> list[str]:
    return [each.kind for each in side.project.alerts.all()]


@pytest.mark.feature("EX6")
@pytest.mark.parametrize("upkeep", [True, False])
def test_members_that_no_run_confirmed_leave_after_thirty_days(pair: Pair, upkeep: bool) -> None:
    """Whether upkeep has come by or not; what is made of them has nobody then, also where it keeps people out by them."""
    share(pair)
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
def test_who_left_is_forgotten_after_thirty_days_more(pair: Pair) -> None:
    share(pair)
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
    with pair.globe.node.home.database.read() as tx:
        feed_id, name = tx.execute(select(memberships.c.feed_id, memberships.c.changes)).one()
    with np.load(pair.globe.project.scope.data_directory / "received" / feed_id / name) as stored:
        assert {key: len(stored[key]) for key in stored.files} == dict.fromkeys(
            ("realized", "late", "exited", "exited_at"), 0
        )


@pytest.mark.feature("EX6")
def test_runs_that_find_nothing_new_keep_members_and_a_later_one_brings_them_back(pair: Pair) -> None:
    share(pair)
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
def test_members_that_expired_come_back_with_changes_only_too(pair: Pair) -> None:
    share(pair, membership_days=3)
    pair.clock.advance(days=4)
    pair.globe.node.sweep()
    assert statuses(pair) == {"exited": 10}
    pair.acme.project.feeds.sync("f")  # an empty revision
    assert pair.globe.project.received.show("f")["runs"][0]["whole"] is False
    assert statuses(pair) == {"realized": 10}
    Schedule(pair.globe.node.home).tick()
    assert sizes(pair) == [10, 10]


@pytest.mark.feature("EX6")
@pytest.mark.parametrize("rest", [{"membership_days": 7}, {"valid_until": 1_800_000_000 + 7 * DAY}])
def test_the_feed_may_say_otherwise(pair: Pair, rest: dict[str, int]) -> None:
    share(pair, **rest)
    for side in (pair.acme.project.feeds, pair.globe.project.received):
        assert {name: side.show("f")[name] for name in rest} == rest
    pair.clock.advance(days=6)
    if "valid_until" in rest:
        pair.acme.project.feeds.sync("f")  # a run does not lengthen it
    pair.clock.advance(days=1, seconds=-1)
    assert len(pair.globe.members("acme", "all")) == 10
    pair.clock.advance(seconds=1)
    assert statuses(pair) == {"exited": 10}


def test_a_feed_that_could_have_no_members_is_refused(pair: Pair) -> None:
    pair.prepare(people("a", range(3)), people("g", range(3)), {"all": ["a1"]})
    for rest in ({"membership_days": 0}, {"membership_days": 3_651}, {"valid_until": pair.clock()}):
        with pytest.raises(InvalidInput):
            pair.share("f", ["all"], [EMAIL], **rest)


# Alerts


@pytest.mark.feature("OP4")
def test_a_feed_that_stands_still_is_an_alert_on_both_sides_once_a_day(pair: Pair) -> None:
    share(pair)
    for hours in (0, 47, 1, 1, 24):
        pair.clock.advance(seconds=hours * 3_600)
        for side in (pair.acme, pair.globe):
            side.node.sweep()
    assert alerts(pair.globe).count("feed_stale") == 2
    assert alerts(pair.acme).count("run_overdue") == 2


@pytest.mark.feature("OP4")
def test_a_jump_of_the_overlap_is_seen_at_the_receiver_only(pair: Pair) -> None:
    pair.prepare(people("a", range(300)), people("g", range(300)), {"all": [f"a{n}" for n in range(100)]})
    pair.share("f", ["all"], [EMAIL])
    pair.acme.project.feeds.sync("f")
    file = pair.acme.folder / "acme-all.csv"
    file.write_text("id\n" + "".join(f"a{n}\n" for n in range(300)))
    pair.acme.project.segments.update("all", file)
    pair.acme.project.feeds.sync("f")
    (alert,) = [each for each in pair.globe.project.alerts.all() if each.kind == "overlap_jump"]
    assert "from 100 to 300" in alert.text
    assert "overlap_jump" not in alerts(pair.acme)
