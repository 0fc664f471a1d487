"""Segments: rules, members, composition, labels on the way out, and rules written by an attacker."""

from pathlib import Path

import pytest
from pyroaring import BitMap

from node.errors import AlreadyExists, InvalidInput, InvalidName, NotFound, Refused
from node.governance.labels import Kind
from node.imports.importer import IdentityColumn
from node.node import Node
from node.project import Project
from node.segments import rules

ROWS = [  # id, orders, country, note, vip
    ("1", "2", "GB", "100% wool", "true"),
    ("2", "10", "IE", "it's", "false"),
    ("3", "", "US", "", "yes"),
    ("4", "-1.5", "", "wool", ""),
]


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = node.project()
    load(project, tmp_path, "crm", "id,orders,country,note,vip\n" + "".join(",".join(row) + "\n" for row in ROWS))
    load(project, tmp_path, "web.shop", "id,visits,country,e-mail opens\n2,7,IE,3\n4,9,FR,1\n")
    return project


def load(project: Project, folder: Path, dataset: str, content: str, *identity: str) -> None:
    path = folder / "people.csv"
    path.write_text(content)
    attributes = content.partition("\n")[0].split(",")[1:]
    columns = [IdentityColumn.parse(text) for text in identity]
    kept = [name for name in attributes if name not in {each.column for each in columns}]
    project.profiles.import_(path, dataset=dataset, id_column="id", identities=columns, attributes=kept)


def ids(project: Project, name: str) -> str:
    numbers = project.segments.members(name)
    return "".join(str(number + 1) for number in numbers)


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
        ("orders >> 2", "a rule cannot hold bitwise right shift", "IS NULL"),
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
    assert project.segments.list() == []
    assert project.node.audit.list(limit=1)[0].result == "deny"


def test_values_reach_the_database_only_as_parameters(project: Project) -> None:
    text = "'; DROP TABLE p; --"
    parsed = rules.parse(f"note = '{text.replace(chr(39), chr(39) * 2)}'", {"note": ("crm", "note")})
    query = rules._Query({"crm.note": ("crm", "note")})
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


def test_received_segments_include_and_exclude(project: Project) -> None:
    class Memberships:
        def members(self, partner: str, name: str, tx: object = None) -> BitMap:
            if (partner, name) != ("fern", "new-parents"):
                raise NotFound("no such segment")
            return BitMap([0, 1])

    project.__dict__["memberships"] = Memberships()
    project.segments.create("in", rule="received.fern.new-parents AND orders > 5")
    project.segments.create("out", rule="NOT received.fern.new-parents")
    assert (ids(project, "in"), ids(project, "out")) == ("2", "34")
    assert project.segments.show("in").uses == ["crm.orders", "received.fern.new-parents"]
    with pytest.raises(NotFound):
        project.segments.create("no", rule="received.fern.other")


def test_segments_are_evaluated_after_what_they_are_composed_of(project: Project, tmp_path: Path) -> None:
    project.segments.create("z-many.orders", rule="orders >= 5")
    project.segments.create("a-rest", rule="NOT own.z-many.orders")
    assert (ids(project, "z-many.orders"), ids(project, "a-rest")) == ("2", "134")
    load(project, tmp_path, "crm", "id,orders\n1,50\n9,1\n")
    assert ids(project, "a-rest") == "134"
    done = project.segments.evaluate("a-rest")
    assert [each.name for each in done] == ["a-rest", "z-many.orders"]
    assert (ids(project, "z-many.orders"), ids(project, "a-rest")) == ("12", "345")
    with pytest.raises(Refused, match="a-rest"):
        project.segments.delete("z-many.orders")
    project.segments.delete("a-rest")
    project.segments.delete("z-many.orders")
    assert project.segments.list() == []


@pytest.mark.parametrize(
    ("content", "members", "unknown"),
    [
        ("id\n1\n3\n3\nnobody\n", "13", 1),
        ("1\n 3 \n", "13", 0),
        ("customer;x\n1;a\n4;b\n", "14", 0),
        ("name,id\nann,2\n", "2", 0),
        ("\ufeffwhoever\r\n2\r\n", "2", 0),
    ],
)
def test_members_of_a_file(project: Project, tmp_path: Path, content: str, members: str, unknown: int) -> None:
    path = tmp_path / "members.csv"
    path.write_text(content)
    segment = project.segments.create("s", members_file=path)
    assert (ids(project, "s"), segment.unknown, segment.kind) == (members, unknown, "members")
    assert [each.name for each in project.segments.evaluate()] == []


def test_segments_that_cannot_be_made(project: Project, tmp_path: Path) -> None:
    project.segments.create("s", rule="orders > 1")
    (tmp_path / "nobody.csv").write_text("id\nx\n")
    with pytest.raises(AlreadyExists):
        project.segments.create("s", rule="orders > 1")
    with pytest.raises(InvalidName):
        project.segments.create("S 1", rule="orders > 1")
    with pytest.raises(InvalidInput):
        project.segments.create("t")
    with pytest.raises(InvalidInput, match="none of the 1"):
        project.segments.create("t", members_file=tmp_path / "nobody.csv")
    with pytest.raises(NotFound):
        project.segments.evaluate("t")
    with pytest.raises(NotFound):
        project.segments.members("t")


@pytest.mark.feature("GV2")
def test_a_label_reaches_a_segment_only_by_the_fields_its_rule_reads(project: Project) -> None:
    project.labels.apply("C12", Kind.FIELD, "crm.note")
    project.segments.create("clean", rule="orders > 1")
    project.segments.create("tainted", rule="note LIKE '%wool'")
    project.segments.create("composed", rule="own.tainted AND orders > 0")
    assert "C12" not in project.labels.labels_of_segment("clean")
    assert "C12" in project.labels.labels_of_segment("tainted")
    assert "C12" in project.labels.labels_of_segment("composed")


def test_export_writes_ids_and_obeys_the_label(project: Project, tmp_path: Path) -> None:
    project.segments.create("s", rule="orders > 1")
    assert project.segments.export("s", tmp_path / "out.csv") == 2
    assert (tmp_path / "out.csv").read_text() == "id\n1\n2\n"
    project.labels.apply("C12", Kind.DATASET, "crm")
    with pytest.raises(Refused, match="C12 from dataset crm"):
        project.segments.export("s", tmp_path / "again.csv")
    assert not (tmp_path / "again.csv").exists()
