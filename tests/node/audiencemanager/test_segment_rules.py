"""The rules of segments of traits: whom they take in, how they are written, and what is refused where."""

import random
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pyroaring import BitMap

from node.audiencemanager import segment_rules
from node.errors import InvalidInput

# By trait and visitor, how often it was realised how many days ago
REALISED: dict[int, dict[int, dict[int, int]]] = {
    24: {1: {0: 1}, 2: {5: 2}, 3: {0: 3, 9: 1}, 4: {6: 1}},
    26: {2: {1: 1}, 3: {3: 1}, 5: {30: 4}},
    28: {1: {0: 1}, 5: {0: 1}, 6: {0: 1}},
    30: {},
}
NESTED = {17: BitMap([2, 5, 7]), 18: BitMap()}
EVERYBODY = range(1, 10)


def members(trait: int) -> BitMap:
    return BitMap(REALISED[trait])


def frequency(traits: Sequence[int], days: int | None) -> segment_rules.Counts:
    counts = {visitor: count(traits, visitor, lambda age: days is None or age <= days) for visitor in EVERYBODY}
    found = {visitor: count for visitor, count in counts.items() if count}
    return np.array(list(found), np.uint32), np.array(list(found.values()), np.uint32)


def count(traits: Sequence[int], visitor: int, wanted: Callable[[int], bool]) -> int:
    return sum(times for trait in traits for age, times in REALISED[trait].get(visitor, {}).items() if wanted(age))


def taken_in(rule: str) -> list[int]:
    found = segment_rules.evaluate(segment_rules.parse(rule), members, frequency, NESTED.__getitem__)
    return list(found)


@pytest.mark.feature("AM2")
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("24T", [1, 2, 3, 4]),
        ("24T AND 26T", [2, 3]),
        ("24T OR 26T", [1, 2, 3, 4, 5]),
        ("24T AND NOT 26T", [1, 4]),
        ("[24T,26T]", [1, 2, 3, 4, 5]),
        ("[24T, 26T] AND 28T", [1, 5]),
        ("[30T]", []),
        ("24T OR 26T AND 28T", [1, 2, 3, 4, 5]),
        ("(24T OR 26T) AND 28T", [1, 5]),
        ("NOT 24T AND 26T", [5]),
        ("NOT (24T AND 26T) AND [24T,26T]", [1, 4, 5]),
        ("(NOT 24T OR 26T) AND [24T,28T]", [2, 3, 5, 6]),
        ("(NOT 24T AND NOT 26T) AND 28T", [6]),
        ("NOT (NOT 24T)", [1, 2, 3, 4]),
        ("17S", [2, 5, 7]),
        ("17S AND NOT 26T", [7]),
        ("17S AND 18S", []),
        ("24T OR 17S", [1, 2, 3, 4, 5, 7]),
        ("FREQUENCY([24T]) >= 1", [1, 2, 3, 4]),
        ("FREQUENCY([24T,26T]) >= 3", [2, 3, 5]),
        ("FREQUENCY([24T,26T] <= 5D) >= 3", [2, 3]),
        ("FREQUENCY([24T,26T] <= 4D) >= 3", [3]),
        ("FREQUENCY([24T] >= 5D) >= 1", [2, 3, 4]),
        ("FREQUENCY([24T] => 6D) >= 1", [3, 4]),
        ("FREQUENCY([24T,26T] >= 6D) == 1", [3, 4]),
        ("FREQUENCY([24T]) == 1", [1, 4]),
        ("FREQUENCY([24T]) == 0 AND 28T", [5, 6]),
        ("FREQUENCY([24T]) <= 5 AND 28T", [1, 5, 6]),
        ("frequency([24T]) >= 1  AND  frequency([24T]) <= 2", [1, 2, 4]),
        ("(frequency([24T] <= 2D) >= 3)", [3]),
        ("NOT FREQUENCY([24T]) <= 2", [3]),
        ("28T AND NOT FREQUENCY([24T,26T]) => 3", [1, 6]),
        ("FREQUENCY([30T]) <= 1 AND FREQUENCY([24T] <= 1D) >= 1", [1, 3]),
        ("24t and not 26t", [1, 4]),
    ],
)
def test_a_rule_takes_in(rule: str, expected: list[int]) -> None:
    assert taken_in(rule) == expected
    tree = segment_rules.parse(rule)
    assert segment_rules.parse(segment_rules.written(tree)) == tree


def a_rule(chance: random.Random, depth: int = 0) -> str:
    parts = []
    for _ in range(chance.choice((1, 2, 2, 3))):
        roll = chance.random()
        some = ",".join(f"{each}T" for each in chance.sample(sorted(REALISED), chance.choice((1, 2, 3))))
        if depth < 3 and roll < 0.3:
            inner = f"({a_rule(chance, depth + 1)})"
        elif roll < 0.5:
            inner = f"{chance.choice(sorted(REALISED))}T"
        elif roll < 0.6:
            inner = f"{chance.choice(sorted(NESTED))}S"
        elif roll < 0.7:
            inner = f"[{some}]"
        else:
            recency = chance.choice(("", f" {chance.choice(('<=', '>='))} {chance.choice((1, 3, 5, 6, 9))}D"))
            inner = f"FREQUENCY([{some}]{recency}) {chance.choice(('<=', '>=', '=='))} {chance.choice((0, 1, 2, 3))}"
        parts.append(chance.choice(("", "", "", "NOT ")) + inner)
    return "".join(
        part + (f" {chance.choice(('AND', 'OR'))} " if place else "")
        for place, part in reversed(list(enumerate(parts)))
    )


def is_met(rule: str, visitor: int) -> bool:
    """Return whether a visitor meets a rule, as the grammar says: an expression of Python over that visitor alone."""

    def counted(found: re.Match[str]) -> str:
        traits = [int(each) for each in re.findall(r"(\d+)T", found[1])]
        sign, days = found[2], int(found[3] or 0)
        within = {"<=": lambda age: age <= days, ">=": lambda age: age >= days}.get(sign, lambda age: True)
        return f"{count(traits, visitor, within)} {found[4]} "

    frequencies = re.sub(r"FREQUENCY\(\[(.*?)\](?: (<=|>=) (\d+)D)?\) (<=|>=|==) ", counted, rule)
    lists = re.sub(r"\[(.*?)\]", lambda found: f"({found[1].replace(',', ' OR ')})", frequencies)
    traits = re.sub(r"(\d+)T", lambda found: str(visitor in REALISED[int(found[1])]), lists)
    nested = re.sub(r"(\d+)S", lambda found: str(visitor in NESTED[int(found[1])]), traits)
    return bool(eval(re.sub("AND|OR|NOT", lambda found: found[0].lower(), nested)))


@pytest.mark.feature("AM2")
def test_random_rules_take_in_whom_the_grammar_says() -> None:
    chance, refused, unknown = random.Random(13), 0, max(EVERYBODY) + 1
    for _ in range(1_500):
        rule = a_rule(chance)
        if is_met(rule, unknown):
            with pytest.raises(InvalidInput, match="nothing is known"):
                segment_rules.parse(rule)
            refused += 1
            continue
        tree = segment_rules.parse(rule)
        assert segment_rules.parse(segment_rules.written(tree)) == tree, rule
        found = segment_rules.evaluate(tree, members, frequency, NESTED.__getitem__)
        assert list(found) == [visitor for visitor in EVERYBODY if is_met(rule, visitor)], rule
    assert 0 < refused < 1_000


def test_evaluating_leaves_the_members_of_traits_as_they_are() -> None:
    given = {24: BitMap([1, 2]), 26: BitMap([2])}
    for rule in ("24T", "24T AND NOT 26T", "24T OR 26T", "[24T]"):
        found = segment_rules.evaluate(segment_rules.parse(rule), given.__getitem__, frequency, NESTED.__getitem__)
        found.add(9)
    assert given == {24: BitMap([1, 2]), 26: BitMap([2])}


def test_a_rule_reads_traits_and_segments() -> None:
    rule = segment_rules.parse("28T AND (17S OR 3S) AND NOT FREQUENCY([26T,024T,28T] <= 5D) >= 3")
    assert segment_rules.reads(rule) == ([24, 26, 28], [3, 17])
    assert segment_rules.written(rule) == "28T AND (17S OR 3S) AND NOT FREQUENCY([26T,24T,28T] <= 5D) >= 3"


@pytest.mark.feature("AM2")
@pytest.mark.parametrize(
    "rule",
    [
        "FREQUENCY([24T]) <= 5",
        "FREQUENCY([24T]) == 0",
        "FREQUENCY([24T] <= 2D) <= 5",
        "FREQUENCY([24T]) >= 0",
        "NOT 24T",
        "24T OR NOT 26T",
        "26T OR FREQUENCY([24T]) <= 5",
    ],
)
def test_a_rule_that_takes_in_all_who_have_no_trait_is_refused(rule: str) -> None:
    with pytest.raises(InvalidInput, match="nothing is known") as refused:
        segment_rules.parse(rule)
    assert "join it by AND" in refused.value.hint


@pytest.mark.parametrize(
    ("rule", "place", "expected"),
    [
        ("", 1, "expected a trait such as 24T, a segment such as 17S"),
        ("24", 1, "expected a trait such as 24T"),
        ("24TT", 1, "expected a trait such as 24T"),
        ("24T 26T", 5, "expected AND, OR or the end"),
        ("[24T", 5, "expected ',' or ']' but found the end"),
        ("[24T 26T]", 6, "expected ',' or ']'"),
        ("[]", 2, "expected a trait such as 24T"),
        ("[17S]", 2, "expected a trait such as 24T but found '17S'"),
        ("FREQUENCY([17S]) >= 1", 12, "expected a trait such as 24T but found '17S'"),
        ("FREQUENCY(24T) >= 1", 11, "expected '['"),
        ("FREQUENCY([24T]) > 1", 18, "expected '<=', '>=' or '=='"),
        ("FREQUENCY([24T]) != 1", 18, "expected '<=', '>=' or '=='"),
        ("FREQUENCY([24T])", 17, "expected '<=', '>=' or '==' but found the end"),
        ("FREQUENCY([24T] == 5D) >= 1", 17, "expected '<=', '>=' or ')'"),
        ("FREQUENCY([24T] <= 5) >= 1", 20, "expected a number of days from 1 on"),
        ("FREQUENCY([24T] <= 0D) >= 1", 20, "expected a number of days from 1 on"),
        ("FREQUENCY([24T] <= 5D >= 1", 23, "expected ')'"),
        ("FREQUENCY([24T]) >= -1", 21, "expected a number"),
        ("FREQUENCY([24T]) >= 1.5", 21, "expected a number"),
        ("FREQUENCY([24T]) >= 9999999999", 21, "expected a number"),
        ("99999999999T", 1, "expected a trait such as 24T"),
        ("٢٤T", 1, "expected a trait such as 24T"),
        ('"24T"', 1, "expected a trait such as 24T"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_place(rule: str, place: int, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        segment_rules.parse(rule)
    assert f"at character {place}: " in str(refused.value)
    assert expected in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize(
    "rule",
    ["(" * 10_000, "NOT " * 2_500, "[" + "1T," * 3_300 + "1T]", "24T\0", "\ud8004T", "9" * 10_001, "[" * 5_000 + "24T"],
    ids=range(7),
)
def test_a_hostile_rule_is_refused(rule: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        segment_rules.parse(rule)
    assert len(str(refused.value)) < 300


KINDS = {24: "RULE_BASED_TRAIT", 26: "FOLDER_TRAIT", 28: "ON_BOARDED_TRAIT", 30: "ON_BOARDED_TRAIT"}


@pytest.mark.feature("AM2")
@pytest.mark.parametrize(
    "rule",
    [
        "FREQUENCY([28T]) >= 2",
        "FREQUENCY([28T]) == 1",
        "24T AND FREQUENCY([28T,30T]) <= 2",
        "FREQUENCY([28T] <= 5D) >= 1",
        "FREQUENCY([24T,28T] <= 5D) >= 1",
    ],
)
def test_onboarded_traits_have_neither_recency_nor_frequency(rule: str) -> None:
    with pytest.raises(InvalidInput, match="28T is not realised by rule"):
        segment_rules.check(segment_rules.parse(rule), KINDS)


@pytest.mark.parametrize(
    "rule",
    ["28T", "FREQUENCY([28T]) >= 1", "[24T,28T]", "FREQUENCY([24T,28T]) >= 3", "FREQUENCY([24T,26T] <= 5D) >= 3"],
)
def test_onboarded_traits_count_once_among_others(rule: str) -> None:
    segment_rules.check(segment_rules.parse(rule), KINDS)
