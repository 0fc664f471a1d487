"""What is decided again costs what changed, and once a day all of it is compared with the whole."""

from typing import Any

import pytest
from sharing import sync, update_segment
from sides import Pair

from node.feeds.receiving import comparison, join, joining
from node.feeds.receiving.membership_files import MembershipFiles, rows
from node.feeds.receiving.received_feeds import of_project
from node.storage.tables import DAY


@pytest.fixture
def wholes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The feeds whose members were computed as a whole."""
    counted = list[str]()

    def counting(now: Any, *given: Any) -> Any:
        counted.append(now.feed.name)
        return join.whole(now, *given)

    monkeypatch.setattr(joining, "whole", counting)
    return counted


def files(pair: Pair) -> dict[str, tuple[str, str]]:
    """Return the names of the files of each segment's members and of their changes."""
    scope = pair.globe.project.scope
    with scope.read() as tx:
        return {row.name: (row.file, row.changes) for _, feed in of_project(scope, tx) for row in rows(tx, feed)}


def test_small_changes_are_decided_for_whom_they_concern(shared: Pair, wholes: list[str]) -> None:
    globe = shared.globe.project
    globe.received.enable("summer")
    sync(shared)
    assert shared.globe.members("acme", "new") == {"g4", "g5"}
    wholes.clear()
    shared.clock.advance(seconds=1)
    globe.consent.set("g4", "n")
    assert shared.globe.members("acme", "new") == {"g5"}
    before = files(shared)
    update_segment(shared, "new", ["a3", "a4"])
    assert wholes == []
    assert sync(shared) == ["done"]
    assert wholes == ["summer"]  # so much changed that all came again
    assert shared.globe.members("acme", "new") == {"g3"}
    shared.clock.advance(seconds=1)
    globe.consent.set("g4", "y")
    assert shared.globe.members("acme", "new") == {"g3", "g4"}
    after = files(shared)
    assert after["new"] != before["new"]
    globe.consent.set("g8", "n")  # nobody's member
    assert files(shared) == after
    assert wholes == ["summer"]


@pytest.mark.feature("OP4")
def test_once_a_day_all_is_compared_and_a_difference_is_an_alert(shared: Pair, wholes: list[str]) -> None:
    globe = shared.globe.project
    globe.received.enable("summer")
    sync(shared)
    members = shared.globe.members("acme", "vip")
    wholes.clear()
    comparison.compare(globe.scope)
    assert wholes == []
    shared.clock.advance(seconds=DAY)
    comparison.compare(globe.scope)
    comparison.compare(globe.scope)
    assert wholes == ["summer"]
    assert "decision_differs" not in {alert.kind for alert in globe.alerts.all()}
    with globe.scope.begin() as tx:  # as if a change had been decided wrongly
        ((_, feed),) = of_project(globe.scope, tx)
        (row,) = [row for row in rows(tx, feed) if row.name == "vip"]
        path = MembershipFiles(globe.scope, feed).folder / row.file
        wrong = MembershipFiles(globe.scope, feed).members(row)
        wrong.clear()
        path.write_bytes(wrong.serialize())
    assert shared.globe.members("acme", "vip") == set() != members
    shared.clock.advance(seconds=DAY)
    comparison.compare(globe.scope)
    assert shared.globe.members("acme", "vip") == members
    (alert,) = [each for each in globe.alerts.all() if each.kind == "decision_differs"]
    assert "vip of acme" in alert.text
