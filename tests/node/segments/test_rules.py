"""Rules over attributes and segments, and rules written by an attacker."""

from pathlib import Path

import pytest
from shop import ids

from node.errors import InvalidInput, NotFound
from node.project import Project
from node.segments import rules
from node.segments.rule_query import RuleQuery


@pytest.mark.parametrize(
    ("rule", "members"),
    [
        ("orders >= 2", "12"),
        ("2 <= orders", "12"),
        ("orders > 2", "2"),
        ("orders = 10", "2"),
        ("orders != 10", "14"),
        ("orders < -1", "4"),
        ("NOT orders = 10", "134"),
        ("orders IS NULL", "3"),
        ("orders IS NOT NULL", "124"),
        ("orders BETWEEN 2 AND 10", "12"),
        ("orders NOT BETWEEN 2 AND 10", "34"),
        ("orders IN (2, 10)", "12"),
        ("crm.country IN ('GB', 'US')", "13"),
        ("crm.country NOT IN ('GB', 'US')", "24"),
        ("note LIKE '%wool'", "14"),
        ("note LIKE '100%'", "1"),
        ("note NOT LIKE '%wool'", "23"),
        ("note = 'it''s'", "2"),
        ("vip = true", "13"),
        ("vip = false OR visits > 8", "24"),
        ("visits > 6 AND NOT (orders > 5)", "4"),
        ('web.shop.country = \'FR\'', "4"),
        ('"e-mail opens" >= 3', "2"),
        ("orders > 1 AND crm.country = 'GB' OR visits = 9", "14"),
        ("country_not_there IS NULL OR orders > 1", None),
    ],
)  # fmt: skip
def test_rules(project: Project, rule: str, members: str | None) -> None:
    if members is None:
        with pytest.raises(InvalidInput, match="country_not_there"):
            project.segments.create("s", rule=rule)
    else:
        segment = project.segments.create("s", rule=rule)
        assert ids(project, "s") == members
        assert segment.size == len(members)


@pytest.mark.parametrize(
    ("rule", "words", "hint"),
    [
        ("orders >> 2", "a rule cannot have bitwise right shift", "IS NULL"),
        ('crm.country = "GB"', "a rule compares with a value, and GB is none", "single quotes"),
        ("orders > visits", "and visits is none", "single quotes"),
    ],
)
def test_what_a_rule_cannot_hold_is_said_in_words(project: Project, rule: str, words: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        project.segments.create("s", rule=rule)
    assert hint in refused.value.hint


def test_a_field_of_two_datasets_must_be_told_apart(project: Project) -> None:
    with pytest.raises(InvalidInput, match="more than one"):
        project.segments.create("s", rule="country = 'GB'")


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "   ",
        "orders",
        "1 = 1",
        "true",
        "orders > 1; DROP TABLE p",
        "orders > 1) OR (SELECT 1",
        "SELECT 1",
        "orders IN (SELECT number FROM p)",
        "EXISTS (SELECT 1)",
        "orders = (SELECT 1)",
        "orders > getenv('HOME')",
        "read_text('/etc/passwd') = ''",
        "note LIKE note",
        "note LIKE '%' || note",
        "note ILIKE 'x'",
        "note LIKE 'x' ESCAPE '!'",
        "note SIMILAR TO 'x'",
        "note GLOB '*'",
        "note ~ '(a+)+$'",
        "orders + 1 > 2",
        "orders::INT > 2",
        "CAST(orders AS INT) > 2",
        "CASE WHEN true THEN true END",
        "orders > ?",
        "orders > $1",
        "orders > visits",
        "orders IS TRUE",
        "orders = NULL",
        "orders = ANY(ARRAY[1])",
        "COLUMNS(*) = 1",
        "p.number = 1",
        "t0.c0 = 1",
        '"x"" OR true --" = 1',
        "own.nothing",
        "own.a.b.c = 1",
        "received.x",
        "information_schema.tables",
        "orders BETWEEN SYMMETRIC 10 AND 2",
        "((((((((((" * 100 + "orders > 1",
        "(" * 60 + "orders > 1" + ")" * 60,
        "NOT " * 3000 + "orders > 1",
        "orders > 1 OR " * 3000 + "orders > 1",
        "orders IN (" + ",".join(map(str, range(1_500))) + ")",
        "ATTACH '/tmp/x.db'",
        "COPY p TO '/tmp/x'",
        "orders > 1 UNION SELECT 1",
        "orders > 1 LIMIT 1",
        "\x00",
    ],
    ids=lambda rule: rule[:30],
)
def test_hostile_rules_are_refused(project: Project, rule: str) -> None:
    with pytest.raises((InvalidInput, NotFound)) as caught:
        project.segments.create("s", rule=rule)
    assert caught.value.hint
    assert project.segments.all() == []
    assert project.scope.home.audit.entries(limit=1)[0].result == "deny"


@pytest.mark.parametrize("profiles", [1, 2, 3])
def test_a_rule_is_the_same_whatever_number_of_profiles_is_looked_at_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, profiles: int
) -> None:
    monkeypatch.setattr(rules, "PROFILES", profiles)
    project.segments.create("many", rule="orders >= 5")
    project.segments.create("rest", rule="NOT own.many AND (orders IS NULL OR crm.country IN ('GB', 'US'))")
    assert (ids(project, "many"), ids(project, "rest")) == ("2", "13")


def test_values_reach_the_database_only_as_parameters(project: Project) -> None:
    text = "'; DROP TABLE p; --"
    parsed = rules.parse(f"note = '{text.replace(chr(39), chr(39) * 2)}'", {"note": ("crm", "note")})
    query = RuleQuery({"crm.note": ("crm", "note")})
    assert "DROP" not in query.condition(parsed.tree)
    assert query.parameters == [text]
    assert project.segments.create("s", rule="note = '" + text.replace("'", "''") + "'").size == 0


def test_a_hostile_column_name_stays_a_name(project: Project, tmp_path: Path) -> None:
    name = "x\" FROM read_text('/etc/passwd') --"
    path = tmp_path / "evil.csv"
    path.write_text('id,"' + name.replace('"', '""') + '"\n1,5\n')
    project.profiles.import_(path, dataset="evil", id_column="id", identities=[], attributes=[name])
    assert project.profiles.show("1")["attributes"]["evil"] == {name: "5"}
    assert project.segments.create("s", rule='"' + name.replace('"', '""') + '" = 5').size == 1


def test_the_tree_has_a_builders_shape(project: Project) -> None:
    project.segments.create("vip", rule="vip = true")
    segment = project.segments.create("s", rule="orders >= 2 AND (NOT own.vip OR note IN ('a', 'b'))")
    assert segment.tree == {
        "combinator": "and",
        "rules": [
            {"field": "crm.orders", "operator": ">=", "value": 2},
            {
                "combinator": "or",
                "rules": [
                    {
                        "combinator": "and",
                        "not": True,
                        "rules": [{"field": "own.vip", "operator": "=", "value": True}],
                    },
                    {"field": "crm.note", "operator": "in", "value": ["a", "b"]},
                ],
            },
        ],
    }
    assert segment.uses == ["crm.note", "crm.orders", "own.vip"]
    assert project.segments.show("s") == segment


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ("orders >= AND note = 'x'", "from here on: \"AND note = 'x'\""),
        ("own.a-b AND (orders > 5 OR) AND NOT received.x.y-z", "from here on: ') AND NOT received.x.y-z'"),
        ("orders > 5\nAND AND note = 'x'", "from here on: \"AND note = 'x'\""),
        ("orders >=", "at its end, 'orders >='"),
        ("(orders > 5", "at its end, '(orders > 5'"),
        ("note = 'x", "a quote is open"),
        ("orders > 5 note", "at 'note'"),
    ],
)
def test_a_rule_that_cannot_be_read_says_where(rule: str, where: str) -> None:
    with pytest.raises(InvalidInput) as said:
        rules.parse(rule, {name: ("crm", name) for name in ("orders", "note")})
    assert where in str(said.value)


def test_a_misspelt_attribute_is_asked_about() -> None:
    with pytest.raises(InvalidInput) as said:
        rules.parse("ordes > 5", {"orders": ("crm", "orders"), "note": ("crm", "note")})
    assert said.value.hint.startswith("did you mean orders?")
