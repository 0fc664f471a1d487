"""Names are kept as they are: a file without a header line, whose first person would be one, is refused."""

from pathlib import Path

import pytest

from node.errors import InvalidInput
from node.imports.identity_columns import IdentityColumn, read_identities
from node.node import Node

PEOPLE = {"e-mail": "C1,ann@example.com,gold\nC2,bob@example.com,blue\n", "phone": "C1,07700 900123\nC2,07700 900124\n"}


@pytest.mark.feature("ID4")
@pytest.mark.parametrize("kind", PEOPLE)
def test_a_file_without_a_header_line_says_what_to_do(node: Node, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "people.csv"
    file.write_text(PEOPLE[kind])
    for given in ("C1", "id"):
        with pytest.raises(InvalidInput, match="where the name of a column should be") as said:
            node.project().profiles.import_(file, dataset="crm", id_column=given, identities=[])
        assert "put a line with the names" in said.value.hint
    with pytest.raises(InvalidInput, match="where the name of a column should be"):
        read_identities(file, [IdentityColumn.parse("C1=crmid")])


@pytest.mark.feature("ID4")
@pytest.mark.parametrize("name", ["ann@example.com", "+44 7700 900123", "07700900123"])
def test_a_name_that_is_a_person_is_kept_nowhere(node: Node, tmp_path: Path, name: str) -> None:
    file = tmp_path / "people.csv"
    file.write_text(f"id,{name},email\nC1,5,ann@x.com\n")
    profiles, emails = node.project().profiles, [IdentityColumn.parse("email=email_sha256")]
    with pytest.raises(InvalidInput, match="the name of a column is"):
        profiles.import_(file, dataset="crm", id_column="id", identities=emails, attributes=[name])
    with pytest.raises(InvalidInput, match="the name of a dataset is"):
        profiles.import_(file, dataset=name, id_column="id", identities=emails)
    with pytest.raises(InvalidInput, match="the name of a dataset is"):
        profiles.import_segment_match(file, dataset=name)
    assert name not in str([entry.as_dict() for entry in node.audit.entries()])


def test_a_misspelt_column_is_asked_about(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("customer,e-mail\nC1,ann@x.com\n")
    for given in ({"id_column": "costumer"}, {"id_column": "customer", "attributes": ["email"]}):
        with pytest.raises(InvalidInput) as said:
            node.project().profiles.import_(file, dataset="crm", identities=[], **given)
        assert said.value.hint.startswith(f"did you mean {'e-mail' if 'attributes' in given else 'customer'}?")


def test_other_names_are_taken(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("id,e-mail (such as ann@x.com),2026-01-31,0123,@price\nC1,ann@x.com,5,6,7\n")
    report = node.project().profiles.import_(
        file, dataset="2026-01-31", id_column="id", identities=[], attributes=["2026-01-31", "0123", "@price"]
    )
    assert report.accepted == 1
