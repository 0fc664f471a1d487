"""The index of trait rules, against an evaluator made here from the grammar alone, which looks at every rule."""

import os
import random
import re
from collections.abc import Callable
from fractions import Fraction

import pytest

from node.audiencemanager import trait_rules
from node.audiencemanager.trait_index import TraitIndex
from node.errors import InvalidInput
from node.segments.trees import Tree

RULES = int(os.environ.get("VESICA_ASSURE", "20000"))  # 100,000 are tried before a release
BATCH = 500  # rules of one index
Call = list[tuple[str, str]]
Evaluator = Callable[[Call], bool]

KEYS = ("a", "b", "1c", "price-2", "x_Y", '"two words"', '"123"', '"p!"')
TEXTS = (
    "1",
    "01",
    "2",
    "2.50",
    "10",
    "-3",
    "new",
    "New",
    "",
    "a b",
    "red camera",
    "camera red",
    "12e5",
    'say "x"',
    "é",
)
WORDS = ("1", "2.5", "10", "new", "red", "-3", "+2", "x", "camera")
PATTERNS = ("[a-z ]+", "(?i)NEW", ".*red.*", "-?\\d+", "(ab*)*|a b", "")
SIGNS = ("==", "=", "!=", "<", ">", "<=", ">=", "=>")
NAMED = ("contains", "startswith", "endswith", "matcheswords", "matchesregex")


# An evaluator from the grammar: it makes a rule an expression of Python, whose "not", "and" and "or" bind as they do here

_TEST = re.compile(
    rf"""("(?:[^"]|"")*"|[\w-]+)\s*({"|".join([*sorted(SIGNS, key=len, reverse=True), *NAMED])})\s*("(?:[^"]|"")*"|[^\s()"]+)""",
    re.IGNORECASE,
)


def evaluator(rule: str) -> Evaluator:
    tests: list[Evaluator] = []

    def placed(found: re.Match[str]) -> str:
        tests.append(plain_test(bare(found[1]), found[2].lower(), bare(found[3])))
        return f"t[{len(tests) - 1}](c)"

    code = compile(_TEST.sub(placed, rule).lower(), "rule", "eval")
    return lambda call: bool(eval(code, {"t": tests, "c": call}))


def bare(text: str) -> str:
    return text[1:-1].replace('""', '"') if text[0] == '"' else text


def numeric(text: str) -> Fraction | None:
    return Fraction(text) if re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)", text) else None


def plain_test(key: str, sign: str, value: str) -> Evaluator:
    mine = numeric(value)

    def meets(text: str) -> bool:
        theirs = numeric(text)
        match sign:
            case "contains":
                return value in text
            case "startswith":
                return text.startswith(value)
            case "endswith":
                return text.endswith(value)
            case "matcheswords":
                return all(re.search(rf"\b{word}\b", text) for word in re.findall(r"\w+", value))
            case "matchesregex":
                return re.fullmatch(value, text) is not None
        both = (theirs, mine) if theirs is not None and mine is not None else (text, value)
        if sign in ("=", "==", "!="):
            return both[0] == both[1]
        if (theirs is None) != (mine is None):
            return False
        order = (both[0] > both[1]) - (both[0] < both[1])  # type: ignore[operator]
        return {"<": order < 0, ">": order > 0, "<=": order <= 0}.get(sign, order >= 0)

    def test(call: Call) -> bool:
        found = [meets(text) for name, text in call if name == key]
        return bool(found) and not any(found) if sign == "!=" else any(found)

    return test


# Rules and calls by chance


def a_test(chance: random.Random) -> str:
    sign = chance.choice(SIGNS if chance.random() < 0.6 else NAMED)
    if sign == "matchesregex":
        value = '"' + chance.choice(PATTERNS) + '"'
    elif chance.random() < 0.5:
        value = chance.choice(WORDS)
    else:
        text = chance.choice(TEXTS)
        if sign in NAMED and (not text or not re.search(r"\w", text)):
            text = "a"
        value = '"' + text.replace('"', '""') + '"'
    if sign in NAMED:
        sign = f" {chance.choice((sign, sign.upper(), sign.title()))} "
    return f"{chance.choice(KEYS)}{chance.choice(('', ' '))}{sign}{chance.choice(('', ' '))}{value}"


def a_rule(chance: random.Random, depth: int = 0) -> str:
    parts = []
    for _ in range(chance.choice((1, 1, 2, 2, 3))):
        inner = a_test(chance) if depth == 3 or chance.random() < 0.7 else f"({a_rule(chance, depth + 1)})"
        parts.append(chance.choice(("", "", "", "", "", "NOT ", "not ")) + inner)
    rule = parts[0]
    for part in parts[1:]:
        rule += f" {chance.choice(('AND', 'OR', 'and', 'Or'))} {part}"
    return rule


def a_call(chance: random.Random) -> Call:
    return [(bare(chance.choice(KEYS)), chance.choice((*TEXTS, *WORDS))) for _ in range(chance.choice((1, 2, 3, 6)))]


@pytest.mark.feature("AM2")
def test_random_rules_are_met_as_the_grammar_says_and_read_the_same_when_written_out() -> None:
    chance, refused = random.Random(13), 0
    for _ in range(RULES // BATCH):
        plain: dict[int, Evaluator] = {}
        index = TraitIndex()
        for number in range(BATCH):
            rule = a_rule(chance)
            expected = evaluator(rule)
            if expected([]):
                with pytest.raises(InvalidInput, match="nothing is known"):
                    trait_rules.parse(rule)
                refused += 1
                continue
            tree = trait_rules.parse(rule)
            assert trait_rules.parse(trait_rules.written(tree)) == tree, rule
            index.add(number, tree)
            plain[number] = expected
        for _ in range(3):
            call = a_call(chance)
            assert index.matching(call) == [number for number, rule_ in plain.items() if rule_(call)], call
        assert index.matching([]) == []
    assert 0 < refused < RULES / 2


def test_an_index_that_was_changed_finds_what_one_that_was_made_anew_does() -> None:
    chance = random.Random(7)
    changed = TraitIndex()
    rules: dict[int, Tree] = {}
    for _ in range(3_000):
        number = chance.randrange(200)
        rules.pop(number, None)
        if chance.random() < 0.4:
            changed.remove(number)
            continue
        rule = a_rule(chance)
        if evaluator(rule)([]):
            changed.remove(number)
            continue
        rules[number] = trait_rules.parse(rule)
        changed.add(number, rules[number])
    anew = TraitIndex(rules.items())
    assert len(changed) == len(anew) == len(rules)
    for _ in range(300):
        call = a_call(chance)
        assert changed.matching(call) == anew.matching(call), call
    for number in rules:
        changed.remove(number)
    assert changed.matching([(bare(key), text) for key in KEYS for text in TEXTS]) == []
    assert not any(changed.reads(bare(key)) for key in KEYS)


@pytest.mark.parametrize(
    ("rules", "value", "expected"),
    [
        ([f'a contains "{number:04}"' for number in range(2_000)], "x0007y1999z0", [7, 1999]),
        ([f'a contains "{"xyz"[number % 3] * (number // 3 + 1)}"' for number in range(78)], "xyyzzz", [0, 1, 2, 4, 5, 8]),
        ([f'a startswith "{number:04}"' for number in range(2_000)], "00071999", [7]),
        ([f'a endswith "{number:04}"' for number in range(2_000)], "00071999", [1999]),
        ([f'a matcheswords "w{number} x"' for number in range(2_000)], "x w7, w1999; w20000", [7, 1999]),
        ([f"a > {number}" for number in range(2_000)], "2.0", [0, 1]),
        ([f"a <= {number}" for number in range(2_000)], "1997.5", [1998, 1999]),
        ([f"a != {number}" for number in range(2_000)], "7", [*range(7), *range(8, 2_000)]),
        ([f"a == {number} AND NOT b == 1" for number in range(2_000)], "0007", [7]),
        ([f'a matchesregex "x{number}+"' for number in range(500)], "x777", [7, 77]),
    ],
    ids=range(10),
)  # fmt: skip
def test_many_rules_of_one_key_are_told_apart(rules: list[str], value: str, expected: list[int]) -> None:
    index = TraitIndex(enumerate(map(trait_rules.parse, rules)))
    assert index.matching([("a", value)]) == expected


def test_a_call_of_many_signals_is_one_call() -> None:
    index = TraitIndex([(1, trait_rules.parse("a == 1 AND b == 2")), (2, trait_rules.parse("a != 1"))])
    many = [(f"k{number}", "1") for number in range(5_000)]
    assert index.matching([*many, ("a", "1"), ("b", "2")]) == [1]
    assert index.matching([("a", "3"), ("b", "2")] * 1_000) == [2]
    assert index.matching([("a", "3"), ("a", "1.0")]) == []


def test_what_was_found_before_a_change_does_not_stay() -> None:
    index, call = TraitIndex(), [("a", "red camera")]
    for number, rule in enumerate(("a contains cam", 'a matchesregex "red.*"', "a matcheswords red", "a != blue")):
        index.add(number, trait_rules.parse(rule))
        assert index.matching(call) == list(range(number + 1))
    index.add(1, trait_rules.parse('a matchesregex "blue.*"'))
    assert index.matching(call) == [0, 2, 3]
    index.remove(0)
    assert index.matching(call) == [2, 3]


def test_regular_expressions_that_need_much_memory_together_are_all_matched() -> None:
    sizes = [20 if number in (1, 18) else 5 for number in range(20)]
    hungry = [f'a matchesregex "[\\pL\\pN]{{{size}}}{number}.*"' for number, size in enumerate(sizes)]
    index = TraitIndex(enumerate(map(trait_rules.parse, [*hungry, 'a matchesregex "é+19.*"'])))
    assert index.matching([("a", "ééééé19 and more")]) == [19, 20]
    assert index.matching([("a", "é" * 20 + "19")]) == [1, 20]
    for number in range(0, 20, 2):
        index.remove(number)
    assert index.matching([("a", "ééééé17")]) == [17]
    assert index.matching([("a", "é" * 20 + "18")]) == [1]
    assert index.matching([("a", "ééé17")]) == []
