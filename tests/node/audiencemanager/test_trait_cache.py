"""What is kept in memory of traits is what is stored, and a change costs what it changes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pyroaring import BitMap

from node.audiencemanager import segment_rules, traits
from node.audiencemanager.records import BriefTrait, NewTrait, TraitKind
from node.audiencemanager.trait_cache import cached
from node.node import Node

SEEN = (("a", "1"),)


def add(node: Node, rule: str, count: int = 1) -> list[int]:
    scope = node.project().scope
    wanted = NewTrait(name="T", source=0, kind=TraitKind.RULE_BASED, rule=rule)
    with scope.begin() as tx:
        return [traits.add(scope, tx, wanted).number for _ in range(count)]


def matching(node: Node) -> list[int]:
    scope = node.project().scope
    with scope.read() as tx:
        return cached(scope, tx).index.matching(SEEN)


def test_a_change_of_one_trait_reads_one(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    scope, found = node.project().scope, add(node, "a == 1", 20)
    assert matching(node) == found
    brief, read = traits.brief, list[int]()

    def noted(*given: Any) -> Iterator[BriefTrait]:
        for each in brief(*given):
            read.append(each.number)
            yield each

    monkeypatch.setattr(traits, "brief", noted)
    with scope.begin() as tx:
        trait = traits.by_number(scope, tx, found[3])
        assert trait is not None
        traits.change(scope, tx, trait, rule="a == 2")
        deleted = traits.by_number(scope, tx, found[5])
        assert deleted is not None
        traits.remove(scope, tx, deleted)
    read.clear()
    assert matching(node) == [each for each in found if each not in (found[3], found[5])]
    assert read == [found[3]]


def test_what_was_rolled_back_is_not_kept(node: Node) -> None:
    scope, (number,) = node.project().scope, add(node, "a == 1")
    assert matching(node) == [number]
    with scope.read() as tx:
        trait = traits.by_number(scope, tx, number)
        assert trait is not None

    def break_off() -> None:
        with scope.begin() as tx:
            traits.change(scope, tx, trait, rule="a == 2")
            assert cached(scope, tx).index.matching(SEEN) == []
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    with scope.begin() as tx:
        traits.change(scope, tx, trait, days=3)
    assert matching(node) == [number]


def test_who_reads_an_older_state_leaves_the_newest_one_as_it_is(node: Node) -> None:
    scope, first = node.project().scope, add(node, "a == 1")
    with scope.read() as old:
        assert list(cached(scope, old).traits) == first
        more = add(node, "a == 1")
        assert matching(node) == [*first, *more]
        assert list(cached(scope, old).traits) == first
    assert matching(node) == [*first, *more]


def test_who_comes_between_two_looks_at_the_same_trait_breaks_no_rule() -> None:
    looks = iter([[1, 2], [2, 9]])

    def frequency(numbers: object, days: object) -> tuple[object, object]:
        found = next(looks)
        return np.array(found, np.uint32), np.ones(len(found), np.int64)

    tree = segment_rules.parse("FREQUENCY([1T] >= 2D) >= 1")
    found = segment_rules.evaluate(tree, lambda each: BitMap(), frequency, lambda each: BitMap())  # type: ignore[arg-type]
    assert set(found) == {1}
