"""The rules of traits: what a call meets, how they are written, and what is refused where."""

import pytest

from node.audiencemanager import trait_rules
from node.audiencemanager.trait_index import TraitIndex
from node.errors import InvalidInput

Call = list[tuple[str, str]]

PRICES: Call = [("price", "99.5"), ("price", "250")]
PAGE: Call = [("page", "https://shop.example/sale/cameras?id=7"), ("title", "A digital camera, as new")]
ABC: Call = [("a", "1"), ("b", "2"), ("c", "new")]
UUID = "8f81b2c3-0d1e-4f5a-9b6c-7d8e9fa0b1c2"
LONG = "59767559181262060060278870901087098252"

TABLE: list[tuple[str, Call, bool]] = [
    # the examples of the two documents
    ("segID = X", [("segID", "X")], True),
    ("segID = X", [("segID", "Y")], False),
    (f"segID = {UUID}", [("segID", UUID)], True),
    (f"segID == {UUID}", [("segID", UUID.upper())], False),
    ('(a=="1" OR b=="1") AND (c=="new")', ABC, True),
    ('(a=="1" OR b=="1") AND (c=="new")', [("b", "1"), ("c", "new")], True),
    ('(a=="1" OR b=="1") AND (c=="new")', [("b", "1"), ("c", "old")], False),
    ('(a=="1" OR b=="1") AND (c=="new")', [("c", "new")], False),
    ('(c_make=="A") AND (c_model=="B") AND (c_search=="1")', [("c_make", "A"), ("c_model", "B")], False),
    ("(price >= 1.00 AND price <= 100.00)", PRICES, True),
    # one and two signs of equality, both orders of >=
    ('a = "1"', ABC, True),
    ("a => 1", ABC, True),
    ("a >= 1", ABC, True),
    ("a => 2", ABC, False),
    # precedence: AND before OR, NOT before both, parentheses first
    ("a == 1 OR b == 1 AND c == old", ABC, True),
    ("(a == 1 OR b == 1) AND c == old", ABC, False),
    ("c == old AND b == 1 OR a == 1", ABC, True),
    ("NOT a == 2 AND c == new", ABC, True),
    ("NOT (a == 2 AND c == new) AND b == 2", ABC, True),
    ("NOT (a == 2 OR c == new) AND b == 2", ABC, False),
    ("c == new AND NOT a == 1", ABC, False),
    ("c == new AND NOT NOT a == 1", ABC, True),
    ("c == new AND NOT z == 1", ABC, True),
    ("((((a == 1))))", ABC, True),
    # words are not case-sensitive, keys and values are
    ("a == 1 or a == 2 aNd b == 3", ABC, True),
    ("c == new and Not a == 5", ABC, True),
    ("A == 1", ABC, False),
    ("c == New", ABC, False),
    ('title CONTAINS "camera"', PAGE, True),
    ('title contains "Camera"', PAGE, False),
    # both sides are numbers: numbers are compared
    ("price > 100", PRICES, True),
    ("price > 250", PRICES, False),
    ("price < 99.50", PRICES, False),
    ("price <= 99.50", PRICES, True),
    ('price >= "99.500"', PRICES, True),
    ("price == 250.0", PRICES, True),
    ('a == "01"', ABC, True),
    ("price > 9", [("price", "10")], True),
    ("price > -5", [("price", "-4.9")], True),
    ("price > -5", [("price", "-5.1")], False),
    ("price == +7", [("price", "7")], True),
    ("price < .5", [("price", ".25")], True),
    ("price == 0", [("price", "-0.00")], True),
    (f"id == {LONG}", [("id", LONG[:-1] + "3")], False),
    (f"id < {LONG}", [("id", LONG[:-1] + "1")], True),
    # one side is no number: texts, and no order between a number and a text
    ("code == 12e5", [("code", "1200000")], False),
    ("price >= 1", [("price", "on request")], False),
    ("price >= cheap", [("price", "5")], False),
    ('day >= "2026-11-01"', [("day", "2026-12-24")], True),
    ('day < "2026-11-01"', [("day", "2026-12-24")], False),
    # a key has many values: any meets a test, and all together "!="
    ("price == 99.5 AND price == 250", PRICES, True),
    ("a != 2", ABC, True),
    ("a != 1", ABC, False),
    ("z != 1", ABC, False),
    ("price != 250", PRICES, False),
    ("price != 300", PRICES, True),
    ("price != 250.0", PRICES, False),
    ("b == 2 AND NOT z != 1", ABC, True),
    # parts of texts
    ('page contains "/sale/"', PAGE, True),
    ("page contains cameras", PAGE, True),
    ('page contains "a"', PAGE, True),
    ('page startswith "https://"', PAGE, True),
    ('page startswith "shop"', PAGE, False),
    ('page startswith "https://shop.example/sale/cameras?id=7&more"', PAGE, False),
    ('page endswith "?id=7"', PAGE, True),
    ('page EndsWith "?id=8"', PAGE, False),
    ('title matcheswords "camera digital"', PAGE, True),
    ("title matcheswords came", PAGE, False),
    ('title matcheswords "new, camera"', PAGE, True),
    ('page matchesregex "https://.*/sale/.*\\bid=\\d+"', PAGE, True),
    ('page matchesregex "sale"', PAGE, False),
    ('title matchesregex "(?i)a DIGITAL.*"', PAGE, True),
    # what has to stand in quotes
    ('"123" == 1', [("123", "1")], True),
    ('"price!1" == 1', [("price!1", "1")], True),
    ('"and" == "or"', [("and", "or")], True),
    ("123price == 1 AND price-1 == 2 AND c_price123 == 3", [("123price", "1"), ("price-1", "2"), ("c_price123", "3")], True),
    ('q == "say ""yes"""', [("q", 'say "yes"')], True),
    ('q == ""', [("q", "")], True),
    ('q == ""', [], False),
    ('q == "a AND b == 1"', [("q", "a AND b == 1")], True),
    ("contains contains contains", [("contains", "it contains it")], True),
    ('"straße" == zürich', [("straße", "zürich")], True),
]  # fmt: skip


def met(rule: str, call: Call) -> bool:
    return TraitIndex([(24, trait_rules.parse(rule))]).matching(call) == [24]


@pytest.mark.feature("AM2")
@pytest.mark.parametrize(("rule", "call", "expected"), TABLE)
def test_a_rule_is_met(rule: str, call: Call, expected: bool) -> None:
    assert met(rule, call) is expected


@pytest.mark.feature("AM2")
@pytest.mark.parametrize("rule", [rule for rule, _, _ in TABLE])
def test_a_rule_that_is_written_out_reads_the_same(rule: str) -> None:
    tree = trait_rules.parse(rule)
    assert trait_rules.parse(trait_rules.written(tree)) == tree


def test_the_tree_is_one_of_react_querybuilder() -> None:
    assert trait_rules.parse("(a=1 OR b startswith x) AND NOT c<2") == {
        "combinator": "and",
        "rules": [
            {
                "combinator": "or",
                "rules": [
                    {"field": "a", "operator": "=", "value": "1"},
                    {"field": "b", "operator": "beginsWith", "value": "x"},
                ],
            },
            {"combinator": "and", "not": True, "rules": [{"field": "c", "operator": "<", "value": "2"}]},
        ],
    }


@pytest.mark.parametrize(
    ("rule", "as_written"),
    [
        ("segID=X", 'segID == "X"'),
        ("a=1 and (b=>2.50 or not(c!=d))", 'a == "1" AND (b >= 2.50 OR NOT c != "d")'),
        ('"a" Contains b', 'a contains "b"'),
    ],
)
def test_a_rule_is_written_in_one_way(rule: str, as_written: str) -> None:
    assert trait_rules.written(trait_rules.parse(rule)) == as_written


@pytest.mark.feature("AM2")
@pytest.mark.parametrize(
    ("rule", "place", "expected"),
    [
        ("", 1, "expected a key but found the end"),
        ("123 == 1", 1, "expected a key, which stands in quotes"),
        ("price!1 == 2", 6, "expected an operator"),
        ("a 5", 3, "expected an operator"),
        ("a", 2, "expected an operator such as ==, >= or contains but found the end"),
        ("a == ", 6, "expected a value but found the end"),
        ("a == (b)", 6, "expected a value but found '('"),
        ("a == and", 6, "expected a value but found 'and'"),
        ('a == "b', 6, "found a quote that does not end"),
        ("(a == 1", 8, "expected ')' but found the end"),
        ("a == 1)", 7, "expected AND, OR or the end but found ')'"),
        ("a == 1 b == 2", 8, "expected AND, OR or the end but found 'b'"),
        ("a == 1 AND", 11, "expected a key but found the end"),
        ("a == 1 OR OR b == 2", 11, "expected a key but found 'OR'"),
        ('"" == 1', 1, "expected a key"),
        ("a === 1", 5, "expected a value but found '='"),
        ("a <> 1", 4, "expected a value but found '>'"),
        ('a contains ""', 12, "contains needs a text that is not empty"),
        ('a matcheswords "!?"', 16, "matcheswords needs a word at least"),
        ('a matchesregex "(a)\\1"', 16, "regular expression cannot be used"),
        ('a matchesregex "(?=a)b"', 16, "regular expression cannot be used"),
        ('a matchesregex "("', 16, "regular expression cannot be used"),
        ('a matchesregex "((a{100}){100}){100}"', 16, "regular expression cannot be used"),
        (f'a matchesregex "{"a" * 1001}"', 16, "over 1000 characters"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_place(rule: str, place: int, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        trait_rules.parse(rule)
    assert f"at character {place}: " in str(refused.value)
    assert expected in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize("rule", ["NOT a == 1", "NOT a != 1", "a == 1 OR NOT b == 1", "NOT (a == 1 AND b == 2)"])
def test_a_rule_that_a_call_without_signals_meets_is_refused(rule: str) -> None:
    with pytest.raises(InvalidInput, match="nothing is known"):
        trait_rules.parse(rule)


@pytest.mark.parametrize(
    "rule",
    [
        "(" * 10_000,
        "(" * 41 + "a=1" + ")" * 41,
        "a=1 AND (b=1 OR " * 41 + "c=1" + ")" * 41,
        "NOT " * 2_500,
        "NOT " * 2_499 + "a",
        "a=1 OR " * 1_428 + "a=1",  # longer than it may be when it is written out
        "a == " + "9" * 10_000,
        'a == "\0"',
        'a == "\ud800"',
        "\ud800 == 1",
        "a == \0",
        "\x1b[31m == 1",
        'a matchesregex "' + "(" * 900 + '"',
        'a matchesregex "' + "a?" * 100 + "{900}" * 30 + '"',
    ],
    ids=range(14),
)
def test_a_hostile_rule_is_refused(rule: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        trait_rules.parse(rule)
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()


def test_a_rule_may_be_nested_forty_deep_and_reads_the_same() -> None:
    rule = "a=1 AND (b=1 OR " * 19 + "c=1" + ")" * 19
    tree = trait_rules.parse(rule)
    assert trait_rules.parse(trait_rules.written(tree)) == tree
    assert met("(" * 40 + "a=1" + ")" * 40, ABC)


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ('a matchesregex "(a+)+$"', "a" * 30_000 + "!", False),
        ('a matchesregex "(x+x+)+y"', "x" * 30_000, False),
        ('a matchesregex "(.*)(.*)(.*)(.*)z"', "y" * 30_000, False),
        ("a > 1", "9" * 100_000, True),
        ("a > 1", "-" + "9" * 100_000, False),
        ("a == 0", "0." + "0" * 100_000, True),
        ("a == 0", "0." + "0" * 100_000 + "1", False),
        ("a == 1", "\0", False),
        ('a matchesregex ".*x"', "\udfffx", True),
        ("a matcheswords x", "\ud800 x", True),
        ("a contains x", "\ud800x", True),
        ("a > 1", "١٢", False),  # digits, but none that rules have
        ("a > 1", "inf", False),
        ("a == nan", "nan", True),
    ],
    ids=range(14),
)
def test_a_hostile_value_costs_no_more_than_its_length(rule: str, value: str, expected: bool) -> None:
    assert met(rule, [("a", value)]) is expected
