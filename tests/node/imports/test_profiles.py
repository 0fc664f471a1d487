"""Bad and good input files: what is refused, what costs a row, what the report says, and that nothing raw stays."""

import base64
import gzip
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import duckdb
import pytest

from node.errors import InvalidInput
from node.imports.identity_columns import IdentityColumn, ImportReport
from node.inputs import sources
from node.node import Node
from node.people.snapshots import Snapshot
from node.project import Project

EMAIL = [IdentityColumn.parse("email=email_sha256")]
ROWS = [("1", "ann@x.com", "y"), ("2", "bob@x.com", "n"), ("3", "eve@x.com", "")]
HEADER = "id,email,share\n"
GOOD = HEADER + "".join(",".join(row) + "\n" for row in ROWS)


@pytest.fixture
def project(node: Node) -> Project:
    return node.project()


Load = Callable[..., ImportReport]


@pytest.fixture
def load(project: Project, tmp_path: Path) -> Load:
    def load(content: str | bytes | Path, *, identity: str = "email=email_sha256", **options: object) -> ImportReport:
        path = content if isinstance(content, Path) else tmp_path / "people.csv"
        if not isinstance(content, Path):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        arguments = {"dataset": "crm", "id_column": "id", "consent_column": None} | options
        columns = [IdentityColumn.parse(text) for text in identity.split()]
        return project.profiles.import_(path, identities=columns, **arguments)  # type: ignore[arg-type]

    return load


def emails(project: Project, *addresses: str) -> bool:
    held = Snapshot.open(project.scope).identities("email_sha256/lc-v1").values
    return {held[index] for index in range(len(held))} == {sha256(each.encode()).digest() for each in addresses}


@pytest.mark.feature("ID8")
@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\n\n"),
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        GOOD.replace(",", "|"),
        "sep=;\r\n" + GOOD.replace(",", ";").replace("\n", "\r\n"),
        GOOD.replace("ann@x.com", '"ann@x.com"').replace("id,", '"id",'),
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        GOOD.encode("utf-16-le"),
        b"\xfe\xff" + GOOD.encode("utf-16-be"),
        GOOD.encode("utf-32"),
        gzip.compress(GOOD.encode(), mtime=0),
        gzip.compress(GOOD.encode("utf-16"), mtime=0),
        "".join(json.dumps(dict(zip(["id", "email", "share"], row, strict=True))) + "\n" for row in ROWS),
    ],
    ids=str,
)
def test_every_way_to_write_the_same_file(load: Load, project: Project, content: str | bytes) -> None:
    report = load(content, consent_column="share")
    assert (report.rows, report.accepted, report.rejected) == (3, 3, {})
    assert emails(project, "ann@x.com", "bob@x.com", "eve@x.com")
    assert project.consent.show()["profiles"] == {"none": 1, "y": 1, "n": 1}


@pytest.mark.feature("ID8")
def test_parquet_also_with_binary_hashes(load: Load, project: Project, tmp_path: Path) -> None:
    path = tmp_path / "people.parquet"
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t (id INTEGER, email VARCHAR, mobile BLOB)")
        digest = sha256(b"+447400123456").digest()
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", [[1, "ann@x.com", digest], [2, None, None]])
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    report = load(path, identity="email=email_sha256 mobile=phone_sha256")
    assert (report.kind, report.accepted) == ("Parquet", 2)
    assert Snapshot.open(project.scope).identities("phone_sha256/e164-v1").values[0] == digest
    (tmp_path / "broken.parquet").write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidInput, match="damaged"):
        load(tmp_path / "broken.parquet")


def test_latin_1_is_recognised_and_said(load: Load, project: Project) -> None:
    report = load((HEADER + "1,jörg@x.com,\n").encode("latin-1"))
    assert report.encoding == "latin-1"
    assert emails(project, "jörg@x.com")


def test_a_stray_byte_costs_its_row(load: Load, project: Project) -> None:
    report = load(HEADER.encode() + "1,jörg@x.com,\n2,žofia@x.com,\n".encode() + b"3,b\xffd@x.com,\n")
    assert report.rejected == {"bytes that are not UTF-8": {"count": 1, "lines": [4]}}
    assert emails(project, "jörg@x.com", "žofia@x.com")


@pytest.mark.feature("ID6")
@pytest.mark.parametrize(
    ("rows", "reason", "lines"),
    [
        ("1,ann@x.com,y\n2,bob@x.com\n3,eve@x.com,y\n", "fewer cells than the header", [3]),
        ("1,ann@x.com,y\n2,b,c,d\n3,eve@x.com,y\n", "more cells than the header", [3]),
        ('1,ann@x.com,y\n2,"bob@x.com,y\n3,eve@x.com,y\n', "a broken or unclosed quote", [3]),
        ('1,ann@x.com,y\n2,"bob@x.com,y\n3,"eve@x.com",y\n', "a broken or unclosed quote", [3]),
        ('1,ann@x.com,y\n2,"b"ob@x.com,y\n3,eve@x.com,y\n', "a broken or unclosed quote", [3]),
        ('1,ann@x.com,"y\n"\n,x@x.com,y\n3,eve@x.com,y\n', "no profile id", [4]),
        (
            "1,ann@x.com,y\n\n\n2,bob@x.com,maybe\n3,eve@x.com,y\n",
            "not a consent value",
            [5],
        ),
        (f"1,ann@x.com,y\n{'9' * 300},bob@x.com,y\n3,eve@x.com,y\n", "a profile id over 255 bytes", [3]),
    ],
)
def test_a_broken_row_costs_only_itself(load: Load, project: Project, rows: str, reason: str, lines: list[int]) -> None:
    report = load(HEADER + rows, consent_column="share")
    assert report.rejected == {reason: {"count": 1, "lines": lines}}
    assert (report.rows, report.accepted) == (3, 2)
    assert emails(project, "ann@x.com", "eve@x.com")


def test_broken_json_lines_cost_only_themselves(load: Load, project: Project) -> None:
    lines = ['{"id": 1, "email": "ann@x.com"}', '{"id": 2', "[]", '{"id": 3, "email": "\\ud800@x.com"}', '{"id": 4}']
    report = load("\n".join([*lines, '{"id": 5, "email": "eve@x.com"}']))
    assert report.rejected == {
        "not a JSON object": {"count": 2, "lines": [2, 3]},
        "text that is not valid Unicode": {"count": 1, "lines": [4]},
    }
    assert report.columns[0].dropped == {"empty": {"count": 1, "lines": [5]}}
    assert emails(project, "ann@x.com", "eve@x.com")


def test_quoted_cells_may_hold_lines_across_reads(
    load: Load, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK", 64)
    rows = (
        "".join(f'{n},u{n}@x.com,"two\nlines, ""quoted"""\n' for n in range(50)) + "x,broken\n" + '60,e@x.com,"open\n'
    )
    report = load(HEADER + rows + "61,f@x.com,y\n", attributes=["share"])
    assert report.accepted == 51
    assert report.rejected == {
        "fewer cells than the header": {"count": 1, "lines": [102]},
        "a broken or unclosed quote": {"count": 1, "lines": [103]},
    }
    assert project.profiles.show("7")["attributes"]["crm"]["share"] == 'two\nlines, "quoted"'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n\n", "first line"),
        (HEADER.encode(), "only a header"),
        (b"id:email\n1:ann@x.com\n", "no column"),
        (b"id,mail\n1,ann@x.com\n", "no column 'email'"),
        (b"id,email,email\n1,ann@x.com,b@x.com\n", "2 columns"),
        (b"id,email,share\n1;ann@x.com;y\n", "fewer cells"),
        (b'id,"email\n1,ann@x.com\n', "no column|broken quote"),
        (b"PK\x03\x04rest", "ZIP archive"),
        (b'[{"id": "1", "email": "ann@x.com"}]', "one JSON array"),
        (b'[\n  {"id": "1"}\n]\n', "one JSON array"),
        (b'{\n  "id": "1"\n}\n', "over several lines"),
        (b"sep=;\nid;mail\n1;ann@x.com\n", "no column 'email'"),
        (b"\x00\x01\x02\x03" * 50, "not a text file"),
        (b"\x1f\x8bnot gzip at all", "damaged gzip"),
        (gzip.compress(GOOD.encode() * 50, mtime=0)[:-20], "damaged gzip"),
        (b"\xff\xfei\x00d\x00,", "not valid|no column"),
        (b"id,email\n1,not-an-address\n", "not an e-mail address"),
    ],
    ids=str,
)
def test_files_that_cannot_be_taken(load: Load, project: Project, content: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        load(content)
    assert caught.value.hint
    assert Snapshot.open(project.scope).generation == 0
    assert [(entry.act, entry.result) for entry in project.scope.home.audit.entries(limit=1)] == [
        ("profile.import", "deny")
    ]


def test_paths_that_are_no_file(load: Load, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="directory"):
        load(tmp_path)
    with pytest.raises(InvalidInput, match="no file"):
        load(tmp_path / "nothing.csv")


def test_a_missing_header_does_not_print_the_person(load: Load) -> None:
    with pytest.raises(InvalidInput) as caught:
        load("1,ann@x.com,y\n2,bob@x.com,n\n")
    assert "ann" not in str(caught.value)


def test_raw_and_hashed_mixed(load: Load, project: Project) -> None:
    content = "id,email\n1,ann@x.com\n2,bob@x.com\n3," + sha256(b"eve@x.com").hexdigest() + "\n"
    with pytest.raises(InvalidInput, match="1 hashes and 2 raw") as caught:
        load(content)
    assert ":raw" in caught.value.hint
    report = load(content, identity="email=email_sha256:raw")
    assert report.columns[0].dropped == {"a hash in a raw column": {"count": 1, "lines": [4]}}
    assert emails(project, "ann@x.com", "bob@x.com")
    load(content, identity="email=email_sha256:hashed")
    assert emails(project, "eve@x.com")


def test_a_phone_without_a_region(load: Load) -> None:
    with pytest.raises(InvalidInput) as caught:
        load("id,m\n1,07400 123456\n", identity="m=phone_sha256")
    assert caught.value.hint == "give the region of national phone numbers, such as GB"
    report = load("id,m\n1,07400 123456\n2,+447400123457\n", identity="m=phone_sha256")
    assert report.columns[0].dropped == {"a national phone number without a region": {"count": 1, "lines": [2]}}
    assert load("id,m\n1,07400 123456\n", identity="m=phone_sha256", region="GB").columns[0].accepted == 1


@pytest.mark.feature("ID6")
def test_the_report_counts_and_names_no_value(load: Load) -> None:
    digest = sha256(b"ann@x.com").digest()
    wrong = "ab" * 20
    rows = [digest.hex(), digest.hex().upper(), base64.b64encode(digest).decode(), wrong, "", sha256(b"").hexdigest()]
    report = load("id,email\n" + "".join(f"{n // 2},{cell}\n" for n, cell in enumerate(rows)))
    column = report.columns[0]
    assert (report.rows, report.accepted, report.profiles_added) == (6, 6, 3)
    assert (column.accepted, column.duplicates, column.forms) == (3, 1, {"hex": 2, "Base64": 1})
    assert column.dropped == {
        "empty": {"count": 1, "lines": [6]},
        "a hash of the wrong length": {"count": 1, "lines": [5]},
        "the hash of the empty string": {"count": 1, "lines": [7]},
    }
    assert "cannot be checked" in column.note
    text = json.dumps(report.as_dict())
    assert digest.hex() not in text
    assert wrong not in text


@pytest.mark.feature("ID4")
@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("id,email,note\n1,ann@x.com,write to bob@y.org\n", {"attributes": ["note"]}),
        ("id,email,note\n1,ann@x.com,+44 7400 123456\n", {"attributes": ["note"]}),
        ("id,email\n1,ann@x.com\n", {"attributes": ["email"]}),
        ("id,email,l\n1,ann@x.com,bob@x.com\n", {"identity": "email=email_sha256 l=loyalty"}),
        ("id,email,mail\n1,ann@x.com,bob@x.com\n", {"id_column": "mail"}),
        (
            "id,email,tel\n" + "".join(f"{n},a{n}@x.com,07400 12345{n}\n" for n in range(5)),
            {"attributes": ["tel"], "region": "GB"},
        ),
    ],
)
def test_raw_personal_data_is_refused_elsewhere(
    load: Load, project: Project, content: str, options: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput, match=r"personal|raw") as caught:
        load(content, **options)
    assert "bob" not in str(caught.value)
    assert Snapshot.open(project.scope).generation == 0


@pytest.mark.feature("ID4")
def test_no_raw_value_is_in_the_home(load: Load, project: Project) -> None:
    content = "email,mobile,colour\n Ann.Secret@X.com ,+44 7400 987654,blue\nbad.secret@,07400 987655,red\n"
    load(content, identity="email=email_sha256 mobile=phone_sha256", id_column="email", attributes=["colour"])
    stored = b"".join(path.read_bytes() for path in project.scope.home.path.rglob("*") if path.is_file()).lower()
    assert b"blue" in stored
    for secret in (b"ann.secret", b"bad.secret", b"7400987654", b"987654", b"987655"):
        assert secret not in stored
    assert emails(project, "ann.secret@x.com")


def test_an_import_again_replaces_what_the_dataset_said(load: Load, project: Project, tmp_path: Path) -> None:
    load("id,email,a,b\n1,ann@x.com,1,x\n2,bob@x.com,2,\n", attributes=["a", "b"])
    load("id,email\n1,ann@y.com\n1,ann@z.com\n", dataset="shop")
    report = load("id,email,a\n2,new@x.com,9\n3,eve@x.com,3\n", attributes=["a"])
    assert (report.profiles_added, report.profiles_updated) == (1, 1)
    assert emails(project, "ann@x.com", "ann@y.com", "ann@z.com", "new@x.com", "eve@x.com")
    assert project.profiles.show("1")["attributes"]["crm"] == {"a": "1", "b": "x"}
    assert project.profiles.show("2")["attributes"]["crm"] == {"a": "9", "b": None}
    assert project.profiles.show("3")["attributes"]["crm"] == {"a": "3", "b": None}
    assert project.profiles.count() == {
        "profiles": 3,
        "namespaces": {"email_sha256/lc-v1": {"identities": 5, "profiles": 3}},
    }


@pytest.mark.feature("ID6")
def test_progress_goes_to_the_end(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK", 1_000)
    seen: list[tuple[int, int]] = []
    content = HEADER + "".join(f"{n},u{n}@x.com,y\n" for n in range(20_000))
    load(content, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 10
    assert seen[-1] == (len(content), len(content))
    assert seen == sorted(seen)


def test_one_long_id_does_not_widen_all(load: Load, project: Project) -> None:
    ids = ["a" * 256, "b" * 255 + "\0" * 1_000_000, "c" * 255 + "\0c", "d"]
    report = load("".join(json.dumps({"id": each, "email": "x@x.com"}) + "\n" for each in ids))
    assert report.rejected == {"a profile id over 255 bytes": {"count": 2, "lines": [1, 3]}}
    assert Snapshot.open(project.scope).profile_ids.tolist() == [b"b" * 255, b"d"]


@pytest.mark.feature("ID4")
@pytest.mark.parametrize("region", [None, "GB"])
def test_a_number_as_it_is_dialled_is_neither_id_nor_attribute_nor_identity(load: Load, region: str | None) -> None:
    for content in ("id,a,c\n07700 900123,1,\n", "id,a,c\n1,07700 900123,\n", "id,a,c\n1,,ann@localhost\n"):
        with pytest.raises(InvalidInput, match="raw personal data"):
            load(content, identity="c=crmid", attributes=["a"], region=region)


@pytest.mark.feature("ID6")
def test_what_may_be_personal_data_is_reported_and_what_is_too_long_left_out(load: Load) -> None:
    content = f"id,a,c\n1,@ann,07700900123\n2,,x\n3,@bob,\n4,{'x' * 10_001},\n"
    report = load(content, identity="c=crmid", attributes=["a"])
    assert report.rejected == {"a of over 10000 characters": {"count": 1, "lines": [5]}}
    assert report.doubts == {
        "a": {"with an @": {"count": 2, "lines": [2, 4]}},
        "c": {"of digits that begin with 0, as phone numbers do": {"count": 1, "lines": [2]}},
    }


@pytest.mark.feature("ID6")
def test_rows_that_repeat_an_id_are_reported(load: Load, project: Project) -> None:
    report = load(
        "id,email,a\n1,ann@x.com,x\n2,bob@x.com,y\n1,eve@x.com,z\n,e@x.com,\n1,ann@x.com,w\n", attributes=["a"]
    )
    assert report.repeated == {"count": 2, "lines": [4, 6]}
    assert (report.accepted, report.profiles_added) == (4, 2)
    assert project.profiles.show("1")["attributes"] == {"crm": {"a": "w"}}
    assert load("id,email\n1,ann@x.com\n2,bob@x.com\n").repeated is None
