"""Calls of visitors, and who has a trait afterwards."""

from typing import Any

from node.access.scope import Scope
from node.audiencemanager import receiving, traits
from node.audiencemanager.receiving import Call, Received
from node.audiencemanager.records import NewTrait, TraitKind
from node.audiencemanager.trait_members import TraitMembers
from node.audiencemanager.visitors import opened

ECIDS, EMAILS, GAIDS = 0, 1, 20914
Id = tuple[int, bytes]


def ecid(number: int) -> Id:
    return ECIDS, f"{number:038}".encode()


def add_trait(scope: Scope, rule: str | None = None, **more: Any) -> int:
    """Add a trait of Audience Manager's own ids and return its number."""
    kind = TraitKind.ON_BOARDED if rule is None else TraitKind.RULE_BASED
    with scope.begin() as tx:
        return traits.add(
            scope, tx, NewTrait(**{"name": "T", "source": ECIDS, "rule": rule, "kind": kind, **more})
        ).number


def seen(scope: Scope, *ids: Id, **more: Any) -> Call:
    """Return a call of now."""
    return Call(ids, **{"signals": (), "realise": (), "remove": (), "at": scope.home.now(), **more})


def receive(scope: Scope, *calls: Call, source: int = ECIDS) -> Received:
    return receiving.receive(scope, calls, source)


def members(scope: Scope, trait: int) -> set[int]:
    """Return who has a trait now, by the number of their device id."""
    with scope.home.read() as tx:
        found = TraitMembers(scope, tx).of(trait)
    values = opened(scope).ids(found, ECIDS)[1]
    return {int(values[each]) for each in range(len(values))}


def frequency(scope: Scope, *given: int, days: int | None = None) -> dict[int, int]:
    """Return how often traits were realised, by the number of the device id."""
    with scope.home.read() as tx:
        numbers, counts = TraitMembers(scope, tx).frequency(given, days)
    visitors = opened(scope)
    found = {}
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        values = visitors.ids(type(visitors.everybody())([number]), ECIDS)[1]
        found[int(values[0])] = count
    return found
