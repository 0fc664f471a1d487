"""Alerts: each once a day, until somebody has seen it, and none washed away by others."""

from collections import Counter

import pytest
from clock import Clock

from node.errors import DiskFull, InvalidInput, NotFound
from node.node import Node
from node.operations import alerts as alerts_module
from node.operations.alerts import BROKEN, AlertKind
from node.service import alert_ending
from node.storage.tables import DAY


@pytest.mark.feature("OP4")
def test_an_alert_is_told_daily_at_most_and_until_it_is_acknowledged(either_node: Node, clock: Clock) -> None:
    project = either_node.project()

    def add(*texts: str) -> list[bool]:
        with either_node.home.database.begin() as tx:
            return [project.alerts.add(tx, AlertKind.FEED_STALE, text) for text in texts]

    assert add("one", "two", "one") == [True, True, False]
    clock.advance(seconds=DAY - 1)
    assert add("one") == [False]
    clock.advance(seconds=1)
    assert add("one") == [True]
    newest = project.alerts.all()[0]
    assert newest.at == clock()
    assert project.alerts.acknowledge(newest.id) == 1
    assert project.alerts.all()[0].acknowledged == clock()
    assert sorted(each["text"] for each in either_node.status()["alerts"]) == ["one", "two"]
    assert project.alerts.acknowledge(every=True) == 2
    assert project.alerts.all(open_only=True) == either_node.status()["alerts"] == []
    assert len(project.alerts.all()) == 3
    with pytest.raises(NotFound):
        project.alerts.acknowledge("nothing")
    with pytest.raises(InvalidInput):
        project.alerts.acknowledge()
    acts = [(each.result, each.detail.get("alerts")) for each in either_node.audit.entries(act="alert.acknowledge")]
    assert sorted(acts, key=str) == [("allow", 1), ("allow", 2), ("deny", None), ("deny", None)]
    clock.advance(days=366)
    alerts_module.forget_old(project.scope)
    assert project.alerts.all() == []


@pytest.mark.feature("OP4")
def test_a_partner_cannot_wash_an_alert_away_with_others(
    either_node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_module, "KEPT_OF_KIND", 3)
    project = either_node.project()

    def add(kind: str, *texts: str) -> None:
        with either_node.home.database.begin() as tx:
            for text in texts:
                if kind.startswith(BROKEN):
                    project.alerts.add_broken(tx, kind.removeprefix(BROKEN), text, alike="")
                else:
                    project.alerts.add(tx, AlertKind(kind), text)
                clock.advance(seconds=1)

    for kind in ("key_changed", "exchange.receipt", "feed_offered"):
        add(kind, *(f"globe {kind} {number}" for number in range(4)))
    add("run_failed", "first", "seen", "third", "fourth")
    (seen,) = [each.id for each in project.alerts.all() if each.text == "seen"]
    project.alerts.acknowledge(seen)
    add("feed_changed", *(f"globe changed feed {number}" for number in range(50)))
    alerts_module.forget_old(project.scope)
    kept = project.alerts.all()
    assert Counter(each.kind for each in kept) == {
        "key_changed": 4,
        "exchange.receipt": 4,
        "feed_offered": 3,
        "run_failed": 3,
        "feed_changed": 3,
    }
    assert {each.text for each in kept if each.kind == "run_failed"} == {"first", "third", "fourth"}


@pytest.mark.feature("OP4")
def test_what_a_partner_ends_an_alert_with_makes_no_second_one(either_node: Node, clock: Clock) -> None:
    project = either_node.project()
    for number, new in ((1, True), (2, False), (2, False)):
        with either_node.home.database.begin() as tx:
            assert project.alerts.add(tx, AlertKind.FEED_ENABLED, f"globe has {number}", alike="globe has ") is new
        assert [(each.text, each.acknowledged) for each in project.alerts.all()] == [(f"globe has {number}", None)]
        if new:
            project.alerts.acknowledge(every=True)
    clock.advance(days=1)
    with either_node.home.database.begin() as tx:
        assert project.alerts.add(tx, AlertKind.FEED_ENABLED, "globe has 3", alike="globe has ")


@pytest.mark.feature("OP4")
def test_a_certificate_that_cannot_be_renewed_is_an_alert(node: Node) -> None:
    alert_ending(node.home, DiskFull("the disk is full"))
    assert [each.kind for each in node.project().alerts.all()] == ["certificate_ending"]


def test_an_alert_that_gets_new_words_gets_the_time_of_these(node: Node, clock: Clock) -> None:
    alerts = node.project().alerts
    for text in ("globe declined: first", "globe declined: second"):
        clock.advance(seconds=3_600)
        with node.home.database.begin() as tx:
            alerts.add(tx, AlertKind.FEED_DECLINED, text, alike="globe declined")
    (alert,) = alerts.all()
    assert (alert.text, alert.at) == ("globe declined: second", clock())
