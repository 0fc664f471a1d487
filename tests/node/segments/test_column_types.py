"""Comparisons that cannot mean what they say: refused with how to write them, and told when a column changes."""

from pathlib import Path

import pytest
from shop import ids, load

from node.errors import InvalidInput
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project

COLUMNS = "id,spend,zip,seen,paid,born,mixed,none,tier"
ROWS = [
    "1,900,01067,2026-01-05,true,31.12.1980,5,,gold",
    "2,1000.5,80331,2026-10-01T10:00,false,01.02.1999,unknown,,silver",
]


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = node.project()
    load(project, tmp_path, "crm", "\n".join([COLUMNS, *ROWS]) + "\n")
    return project


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("spend >= '900'", "write crm.spend >= 900"),
        ("spend = '900'", "write crm.spend = 900"),
        ("spend IN (900, '1000')", "write crm.spend IN (1000)"),
        ("spend BETWEEN 1 AND '9'", "write crm.spend BETWEEN 9 AND 9"),
        ("NOT (tier = 'gold' OR spend < 'high')", "write crm.spend < 5"),
        ("tier > 5", "write crm.tier > 'a text'"),
        ("tier = true", "write crm.tier = 'a text'"),
        ("seen > 2026", "write crm.seen > '2026-01-31'"),
        ("seen >= '2026-1-5'", "write crm.seen >= '2026-01-31'"),
        ("seen >= '05.01.2026'", "write crm.seen >= '2026-01-31'"),
        ("seen > 2026-01-05", "dates stand in single quotes"),
        ("frequent-buyers", "a segment is own.NAME"),
        ("segment.frequent-buyers AND spend > 5", "a segment is own.NAME"),
        ("spend-a-year > 5", "an attribute with a hyphen stands in double quotes"),
        ("tier = very-good", "a text in single ones"),
        ("paid = 'true'", "write crm.paid = true"),
        ("paid = 1", "write crm.paid = true"),
        ("spend LIKE '9%'", "write crm.spend >= 5"),
        ("paid LIKE 't%'", "write crm.paid = true"),
        ("born > '01.01.1990'", "import them as YYYY-MM-DD"),
    ],
)
def test_a_comparison_that_means_nothing_says_how_to_write_it(project: Project, rule: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as said:
        project.segments.create("s", rule=rule)
    assert hint in said.value.hint
    with pytest.raises(InvalidInput):
        project.consent_policies.create("p", f"tier = 'gold' AND {rule}")
    with pytest.raises(InvalidInput):
        project.consent_policies.preview([], "tier = 'gold'", applies=rule)
    assert project.segments.all() == []


def test_a_tree_is_checked_as_a_text_is(project: Project) -> None:
    for leaf in ({"operator": ">=", "value": "900"}, {"operator": "in", "value": "900, 901"}):
        with pytest.raises(InvalidInput, match="has numbers"):
            project.segments.create("s", tree={"combinator": "and", "rules": [{"field": "crm.spend", **leaf}]})


@pytest.mark.parametrize(
    ("rule", "members"),
    [
        ("spend >= 900", "12"),
        ("zip LIKE '01%'", "1"),
        ("born LIKE '%1980'", "1"),
        ("zip = '01067'", "1"),
        ("zip BETWEEN '01000' AND '02000'", "1"),
        ("zip < 2000", "1"),
        ("seen >= '2026-05'", "2"),
        ("born = '31.12.1980'", "1"),
        ("mixed >= 5", "1"),
        ("mixed = 'unknown'", "2"),
        ("none > 5", ""),
        ("none > 'x' OR none = true", ""),
        ("tier > 'h'", "2"),
    ],
)
def test_a_comparison_that_fits_the_values_is_taken(project: Project, rule: str, members: str) -> None:
    project.segments.create("s", rule=rule)
    assert ids(project, "s") == members


def test_an_import_says_which_rules_its_columns_no_longer_fit(project: Project, tmp_path: Path) -> None:
    project.segments.create("rich", rule="spend > 900")
    project.segments.create("lively", rule="none > 5 AND tier = 'gold'")
    project.consent_policies.create("paying", "spend > 1")
    (tmp_path / "people.csv").write_text("id,spend,none\n1,much,a\n2,little,b\n")
    report = project.profiles.import_(
        tmp_path / "people.csv", dataset="crm", id_column="id", identities=[], attributes=["spend", "none"]
    )
    wrong = "crm.spend has no numbers; write crm.spend > 'a text'"
    assert report.outdated == {
        "segment rich": wrong,
        "segment lively": "crm.none has no numbers; write crm.none > 'a text'",
        "consent policy paying": wrong,
    }
    (tmp_path / "people.csv").write_text("id,spend,email\n1,5,ann@x.com\n")
    columns = [IdentityColumn.parse("email=email_sha256")]
    report = project.profiles.import_(
        tmp_path / "people.csv", dataset="web", id_column="id", identities=columns, attributes=["spend"]
    )
    assert report.outdated == {}
