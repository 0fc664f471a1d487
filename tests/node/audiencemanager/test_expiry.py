"""A trait expires at 00:00 UTC of the day on which it was realised, plus its days, plus one."""

import pytest
from clock import Clock
from seen import add_trait, ecid, frequency, members, receive, seen

from node.access.scope import Scope
from node.audiencemanager.records import NEVER
from node.audiencemanager.visitors import DAY, opened
from node.node import Node

pytestmark = pytest.mark.feature("AM8")
HOUR = 3_600


@pytest.fixture
def scope(node: Node) -> Scope:
    return node.project().scope


def at_hour(clock: Clock, hour: int) -> None:
    clock.now += DAY - clock.now % DAY + hour * HOUR


@pytest.mark.parametrize(("hour", "lasts"), [(1, 47), (23, 25), (0, 48)])
def test_one_day_lasts_until_the_second_midnight(scope: Scope, clock: Clock, hour: int, lasts: int) -> None:
    at_hour(clock, hour)
    trait = add_trait(scope, days=1)
    receive(scope, seen(scope, ecid(1), realise=(trait,)))
    clock.advance(seconds=lasts * HOUR - 1)
    assert members(scope, trait) == {1}
    clock.advance(seconds=1)
    assert members(scope, trait) == set()


def test_120_days_unless_told_otherwise_and_never_for_0(scope: Scope, clock: Clock) -> None:
    usual, kept = add_trait(scope, "a == 1"), add_trait(scope, "a == 1", days=NEVER)
    receive(scope, seen(scope, ecid(1), signals=(("a", "1"),)))
    clock.advance(days=120)
    assert members(scope, usual) == {1}
    clock.advance(days=1)
    assert members(scope, usual) == set()
    assert frequency(scope, usual) == {}
    clock.advance(days=3_650)
    assert members(scope, kept) == {1}
    assert frequency(scope, kept) == {1: 1}


def test_who_realises_it_again_has_it_anew_and_a_clock_that_goes_back_loses_nothing(scope: Scope, clock: Clock) -> None:
    onboarded, ruled = add_trait(scope, days=10), add_trait(scope, "a == 1", days=10)
    call = {"realise": (onboarded,), "signals": (("a", "1"),)}
    receive(scope, seen(scope, ecid(1), **call), seen(scope, ecid(2), **call))
    clock.advance(days=8)
    receive(scope, seen(scope, ecid(1), **call))
    clock.advance(days=-3)  # somebody set it back
    receive(scope, seen(scope, ecid(1), **call), seen(scope, ecid(2), **call))
    clock.advance(days=13)  # 18 days after the first, 10 after the newest of the one, 13 of the other
    for trait in (onboarded, ruled):
        assert members(scope, trait) == {1}
    clock.advance(days=1)
    for trait in (onboarded, ruled):
        assert members(scope, trait) == set()


def test_upkeep_drops_what_has_expired_and_what_is_of_traits_that_are_no_more(
    node: Node, scope: Scope, clock: Clock
) -> None:
    short, long = add_trait(scope, "a == 1", days=1), add_trait(scope, "a == 1", days=30)
    receive(scope, seen(scope, ecid(1), signals=(("a", "1"),), realise=(long,)))
    visitors = opened(scope)
    with visitors.begin():
        visitors.realise(9_999, visitors.everybody(), visitors.today, once=True)
    node.sweep()
    assert [each.trait for each in visitors.held(1)] == [short, long]
    clock.advance(days=2)
    node.sweep()
    assert [each.trait for each in visitors.held(1)] == [long]
    assert members(scope, long) == {1}
    assert node.project().audience.signals.search(["a"])[0]["count"] == 1
    clock.advance(days=30)
    node.sweep()
    assert visitors.held(1) == []
    assert node.project().audience.signals.search(["a"]) == []


def test_more_days_bring_nobody_back_whose_time_was_over(node: Node, scope: Scope, clock: Clock) -> None:
    traits = node.project().audience.traits
    node.project().audience.sources.create("Site")
    trait = traits.create("T", source="Site", days=1)["number"]
    receive(scope, seen(scope, ecid(1), realise=(trait,)))
    clock.advance(days=2)
    receive(scope, seen(scope, ecid(2), realise=(trait,)))
    assert traits.edit(trait, days=30)["members"] == 1
    clock.advance(days=20)
    assert traits.show(trait)["members"] == 1
    assert traits.edit(trait, days=5)["members"] == 0
    assert traits.edit(trait, days=0)["members"] == 0
