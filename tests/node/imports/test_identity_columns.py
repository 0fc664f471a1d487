"""Identity columns: how they are named, and read without a node."""

from hashlib import sha256
from pathlib import Path

import pytest

from node.errors import InvalidInput
from node.imports.identity_columns import IdentityColumn, read_identities


def test_identities_without_a_node_keep_the_original_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id;email;m\n1;ANN@x.com;\n2;"bob@x.com";+447400123456\nbroken\n3;nobody;ann@x.com\n')
    columns = [IdentityColumn.parse("email=email_sha256"), IdentityColumn.parse("m=phone_sha256")]
    found, report, records = read_identities(path, columns)
    values, rows = found["email_sha256/lc-v1"]
    assert records[0] == "id;email;m"
    assert [(values[index], records[rows[index]]) for index in range(2)] == [
        (sha256(b"ann@x.com").digest(), "1;ANN@x.com;"),
        (sha256(b"bob@x.com").digest(), '2;"bob@x.com";+447400123456'),
    ]
    assert found["phone_sha256/e164-v1"][1].tolist() == [2]
    assert (report.rows, report.accepted) == (4, 3)


def test_repetitions_are_counted_by_column_and_an_empty_column_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,c\nx@x.com,X@x.com,\nx@x.com,y@x.com,\n")
    columns = [IdentityColumn.parse(each) for each in ("a=email_sha256", "b=email_sha256", "c=crmid")]
    found, report, _ = read_identities(path, columns)
    assert [each.duplicates for each in report.columns] == [1, 0, 0]
    assert found["email_sha256/lc-v1"][1].tolist() == [1, 2, 1, 2]
    assert report.columns[2].dropped == {"empty": {"count": 2, "lines": [2, 3]}}


@pytest.mark.parametrize(
    "text", ["email", "=email_sha256", "a=", "a=email_sha256:raw:hashed", "a=idfa:hashed", "a=idfa:x"]
)
def test_identity_columns_that_say_nothing(text: str) -> None:
    with pytest.raises(InvalidInput):
        IdentityColumn.parse(text)
