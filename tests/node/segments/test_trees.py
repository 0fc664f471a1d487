"""Rules as trees: the same rule as text, YAML and JSON, and trees written by an attacker."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from node.node import Node
from node.project import Project
from node.segments import rules, trees

FIELDS: dict[str, rules.FieldPath] = {
    name: (name.rpartition(".")[0], name.rpartition(".")[2])
    for name in ("crm.orders", "crm.e-mail opens", 'crm.x" OR true --', "crm.select", "crm.current_date", "a.b.Größe")
}
LEAF = {"field": "crm.orders", "operator": ">=", "value": 2}


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = node.project()
    file = tmp_path / "people.csv"
    file.write_text("id,orders,country\n1,2,GB\n2,10,NO\n3,,US\n")
    project.profiles.import_(file, dataset="crm", id_column="id", identities=[], attributes=["orders", "country"])
    return project


def ids(project: Project, name: str) -> str:
    return "".join(str(number + 1) for number in project.segments.members(name))


# One rule, three forms

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
value = text | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
field = st.sampled_from(sorted(FIELDS))
leaf = st.one_of(
    st.builds(
        lambda field, operator, value: {"field": field, "operator": operator, "value": value},
        field,
        st.sampled_from(trees.COMPARISONS),
        value,
    ),
    st.builds(lambda field, text: {"field": field, "operator": "like", "value": text}, field, text),
    st.builds(lambda field: {"field": field, "operator": "null", "value": None}, field),
    st.builds(
        lambda field, values: {"field": field, "operator": "in", "value": values},
        field,
        st.lists(value, min_size=1, max_size=4),
    ),
    st.builds(
        lambda field, values: {"field": field, "operator": "between", "value": values},
        field,
        st.lists(value, min_size=2, max_size=2),
    ),
    st.sampled_from(["own.vip", "own.a-b.c", "received.fern.new-parents"]).map(
        lambda name: {"field": name, "operator": "=", "value": True}
    ),
)
tree = st.recursive(
    leaf,
    lambda inner: st.builds(
        lambda combinator, negated, rules: {"combinator": combinator, "not": negated, "rules": rules},
        st.sampled_from(["and", "or"]),
        st.booleans(),
        st.lists(inner, min_size=1, max_size=4),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@example({"field": "a.b.Größe", "operator": "=", "value": "a\x85b\u2028c\u2029"})  # which YAML takes for line breaks
@given(tree)
def test_a_tree_is_the_same_as_text_yaml_and_json(document: dict[str, Any]) -> None:
    read = trees.read(document)
    assert trees.read(read) == read
    assert rules.parse(trees.written(read), FIELDS).tree == read
    assert trees.read(json.loads(trees.dumped(read, "json"))) == read
    assert trees.read(trees.from_yaml(trees.dumped(read, "yaml"))) == read


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("orders > 1", "crm.orders > 1"),
        ("((orders > 1))", "crm.orders > 1"),
        ("NOT NOT orders > 1", "crm.orders > 1"),
        ("NOT (orders = 1 OR own.vip)", "NOT (crm.orders = 1 OR own.vip)"),
        ("orders NOT IN (1, 2) AND (own.vip)", "NOT crm.orders IN (1, 2) AND own.vip"),
        ("own.a OR own.b AND NOT own.c", "own.a OR (own.b AND NOT own.c)"),
        ("orders = 'it''s'", "crm.orders = 'it''s'"),
        ("crm.select = 1.5e300", '"crm.select" = 1.5e+300'),
    ],
)
def test_text_from_a_tree_reads_well(expression: str, written: str) -> None:
    names = {**FIELDS, "orders": ("crm", "orders")}
    if "select" in expression:
        expression = expression.replace("crm.select", '"crm.select"')
    parsed = rules.parse(expression, names)
    assert trees.written(parsed.tree) == written
    assert rules.parse(written, names) == parsed


def test_a_segment_of_a_file_is_that_of_the_text(project: Project, tmp_path: Path) -> None:
    by_text = project.segments.create("a", rule="orders >= 2 AND NOT country IN ('GB', 'US')")
    assert ids(project, "a") == "2"
    for form in ("yaml", "json"):
        file = tmp_path / f"rule.{form}"
        file.write_text(by_text.written(form))
        made = project.segments.create(form, tree=file)
        assert (made.tree, made.uses, made.rule) == (by_text.tree, by_text.uses, trees.written(by_text.tree or {}))
        assert ids(project, form) == "2"
    file.write_text("combinator: and\nrules:\n- {field: crm.country, operator: in, value: [GB, NO]}\n")
    assert project.segments.create("norway", tree=file).size == 2
    (tmp_path / "list.csv").write_text("id\n1\n")
    with pytest.raises(NotAllowed, match="no rule"):
        project.segments.create("list", members_file=tmp_path / "list.csv").written("yaml")


def test_what_a_builder_makes_is_taken(project: Project) -> None:
    made = {
        "id": "7f",
        "combinator": "or",
        "not": False,
        "rules": [
            {"id": "1", "field": "crm.country", "operator": "beginsWith", "valueSource": "value", "value": "N"},
            {"field": "orders", "operator": "notNull", "value": ""},
            {"combinator": "and", "rules": [{"field": "crm.country", "operator": "notIn", "value": "GB, NO"}]},
        ],
    }
    segment = project.segments.create("s", tree=made)
    assert segment.rule == "crm.country LIKE 'N%' OR NOT crm.orders IS NULL OR NOT crm.country IN ('GB', 'NO')".replace(
        "crm.orders", "orders"
    )
    assert ids(project, "s") == "123"


# Attacks

DEEP: dict[str, Any] = LEAF
for _ in range(500):
    DEEP = {"combinator": "and", "not": True, "rules": [DEEP, LEAF]}
SELF: dict[str, Any] = {"combinator": "and", "rules": []}
SELF["rules"].append(SELF)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "orders > 1",
        1,
        {},
        {"rules": []},
        {"combinator": "and", "rules": []},
        {"combinator": "and", "rules": {}},
        {"combinator": "xor", "rules": [LEAF]},
        {"combinator": "AND 1=1 --", "rules": [LEAF]},
        {"combinator": ["and"], "rules": [LEAF]},
        {"combinator": "and", "not": "yes", "rules": [LEAF]},
        {"combinator": "and", "rules": [LEAF, "and", LEAF]},
        {"combinator": "and", "rules": [LEAF], "sql": "1=1"},
        {**LEAF, "field": "crm.orders > 1 OR true --"},
        {**LEAF, "field": 'crm.orders" OR "1"="1'},
        {**LEAF, "field": "(SELECT 1)"},
        {**LEAF, "field": "read_text('/etc/passwd')"},
        {**LEAF, "field": "p.number"},
        {**LEAF, "field": "crm.orders\0"},
        {**LEAF, "field": ["crm.orders"]},
        {**LEAF, "field": "own.vip); DROP TABLE p; --", "operator": "=", "value": True},
        {**LEAF, "field": "own.vip OR true", "operator": "=", "value": True},
        {**LEAF, "field": "own.", "operator": "=", "value": True},
        {**LEAF, "field": "own.nothing", "operator": "=", "value": True},
        {**LEAF, "field": "received.fern.vip", "operator": "=", "value": True},
        {**LEAF, "field": "own.vip"},
        {**LEAF, "operator": "= 1 OR 1 ="},
        {**LEAF, "operator": "ilike"},
        {**LEAF, "operator": "~"},
        {**LEAF, "operator": None},
        {**LEAF, "valueSource": "field", "value": "crm.country"},
        {**LEAF, "value": None},
        {**LEAF, "value": {"sql": "1"}},
        {**LEAF, "value": [1]},
        {**LEAF, "value": float("inf")},
        {**LEAF, "value": float("nan")},
        {**LEAF, "value": 10**400},
        {**LEAF, "value": "\0"},
        {**LEAF, "value": "\ud800"},
        {**LEAF, "value": "x" * 20_000},
        {**LEAF, "operator": "in", "value": []},
        {**LEAF, "operator": "in", "value": [[1]]},
        {**LEAF, "operator": "in", "value": list(range(2_000))},
        {**LEAF, "operator": "between", "value": [1, 2, 3]},
        {**LEAF, "operator": "like", "value": 5},
        {**LEAF, "operator": "contains", "value": "100%"},
        DEEP,
        SELF,
        {"combinator": "or", "rules": [LEAF] * 5_000},
    ],
    ids=lambda document: str(document)[:40] if document not in (DEEP, SELF) else "deep",
)
def test_hostile_trees_are_refused(project: Project, document: Any) -> None:
    with pytest.raises((InvalidInput, NotFound)) as caught:
        project.segments.create("s", tree=document)
    assert caught.value.hint
    assert len(str(caught.value)) < 500
    assert project.segments.all() == []
    assert project.scope.home.audit.entries(limit=1)[0].result == "deny"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"{",
        b'{"combinator": "and", "rules": [' * 100_000,
        b'{"field": "crm.orders", "operator": "=", "value": ' + b"9" * 5_000 + b"}",
        b"[" * 5_000,
        b"a: &a [x, x]\nb: &b [*a, *a]\nrules: [*b, *b]\ncombinator: and\n",
        b"&a {combinator: and, rules: [*a]}",
        b"!!python/object/apply:os.system ['touch /tmp/owned']",
        b"rules: !!python/name:os.system ''",
        b"combinator: and\nrules: [{field: crm.orders, operator: '>', value: !!binary aGk=}]",
        b"combinator: and\nrules: [{field: crm.orders, operator: '>', value: !!timestamp 2024-01-01}]",
        b"--- {}\n--- {}\n",
        b"x" * (trees.MAX_FILE + 1),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_hostile_files_are_refused(project: Project, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rule.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        project.segments.create("s", tree=file)
    assert caught.value.hint
    assert project.segments.all() == []
    with pytest.raises(InvalidInput, match="cannot read"):
        project.segments.create("s", tree=tmp_path / "nothing.yaml")


@settings(deadline=None)
@given(st.recursive(st.none() | st.text(max_size=5) | value, lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["combinator", "rules", "not", "field", "operator", "value", "x"]), inner), max_leaves=10))  # fmt: skip
def test_any_document_is_a_tree_or_refused(document: Any) -> None:
    try:
        read = trees.read(document)
    except InvalidInput:
        return
    assert trees.read(read) == read


# Another rule


def test_a_rule_is_replaced_and_what_is_composed_of_it_follows(project: Project, tmp_path: Path) -> None:
    segments = project.segments
    segments.create("many", rule="orders >= 5")
    segments.create("few", rule="NOT own.many")
    changed = segments.update("many", rule="orders >= 2")
    assert (changed.rule, changed.size, segments.show("many")) == ("orders >= 2", 2, changed)
    assert ids(project, "many") == "12"
    assert ids(project, "few") == "3"
    assert segments.update("many", tree={**LEAF, "value": 10}).uses == ["crm.orders"]
    assert ids(project, "many") == "2"
    for rule, tree in (("nothing > 1", None), ("orders", None), (None, {}), (None, None), ("orders > 1", LEAF)):
        with pytest.raises(InvalidInput):
            segments.update("many", rule=rule, tree=tree)
    (tmp_path / "list.csv").write_text("id\n1\n")
    segments.create("list", members_file=tmp_path / "list.csv")
    with pytest.raises(NotAllowed, match="has a rule"):
        segments.update("many", tmp_path / "list.csv")
    with pytest.raises(NotAllowed, match="is a list"):
        segments.update("list", rule="orders > 1")
    with pytest.raises(NotFound):
        segments.update("nothing", rule="orders > 1")
    assert ids(project, "many") == "2"


def test_no_segment_is_made_of_itself(project: Project) -> None:
    segments = project.segments
    segments.create("a", rule="orders > 1")
    segments.create("b", rule="own.a")
    segments.create("c", rule="own.b AND orders > 1")
    for rule in ("own.a", "own.b", "orders > 1 OR NOT own.c"):
        with pytest.raises(NotAllowed, match="made of itself"):
            segments.update("a", rule=rule)
    with pytest.raises(NotAllowed) as refused:
        segments.update("a", rule="orders > 1 OR NOT own.c")
    assert str(refused.value) == "segment a would be made of itself: a reads c reads b reads a"
    assert refused.value.hint == "leave own.c out of the rule"  # what the rule has, and not what it leads to
    segments.update("b", rule="orders > 5")
    segments.update("a", rule="NOT own.c")
    assert ids(project, "a") == "13"
    with pytest.raises(AlreadyExists):
        segments.create("a", rule="orders > 1")
