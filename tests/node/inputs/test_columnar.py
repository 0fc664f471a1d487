"""Inputs that come as tables: Arrow files and streams, and queries on databases, read-only and without a password told."""

import gzip
import sqlite3
import sys
import traceback
import uuid
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from node.errors import InvalidInput
from node.imports.identity_columns import IdentityColumn, ImportReport
from node.inputs import columnar, queries
from node.inputs.queries import Query, given
from node.inputs.sources import Source
from node.node import Node
from node.people.snapshots import Snapshot
from node.project import Project

SELECT = "SELECT id, email, share FROM people ORDER BY id"
DIGEST = sha256(b"+447400123456").digest()


@pytest.fixture
def project(node: Node) -> Project:
    return node.project()


def load(project: Project, source: Path | Query, identity: str = "email=email_sha256", **options: Any) -> ImportReport:
    columns = [IdentityColumn.parse(each) for each in identity.split()]
    options = {"dataset": "crm", "id_column": "id", "consent_column": "share"} | options
    return project.profiles.import_(source, identities=columns, **options)


def people() -> pa.Table:
    return pa.table(
        {
            "id": pa.array([1, 2, 3], pa.int64()),
            "email": ["ann@x.com", "bob@x.com", None],
            "share": pa.array(["y", "n", ""]).dictionary_encode(),
            "mobile": pa.array([DIGEST, None, None], pa.binary()),
            "seen": pa.array([0, None, 86_400], pa.timestamp("s")),
            "vip": [True, False, None],
        }
    )


def written(folder: Path, *, stream: bool, packed: bool, batch: int = 2) -> Path:
    path = folder / "people.arrow"
    with gzip.open(path, "wb") if packed else path.open("wb") as file:
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(file, people().schema) as writer:
            writer.write_table(people(), max_chunksize=batch)
    return path


@pytest.mark.feature("ID8")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_arrow_files_and_streams(project: Project, tmp_path: Path, stream: bool, packed: bool) -> None:
    path = written(tmp_path, stream=stream, packed=packed)
    if packed:
        assert path.read_bytes()[:2] == b"\x1f\x8b"
    report = load(project, path, "email=email_sha256 mobile=phone_sha256:hashed", attributes=["seen", "vip"])
    assert (report.kind, report.rows, report.accepted) == ("Arrow", 3, 3)
    assert report.columns[0].dropped == {"empty": {"count": 1, "lines": [3]}}
    assert project.consent.show()["profiles"] == {"none": 1, "y": 1, "n": 1}
    assert Snapshot.open(project.scope).identities("phone_sha256/e164-v1").values[0] == DIGEST
    shown = project.profiles.show("1")["attributes"]["crm"]
    assert shown == {"seen": "1970-01-01 00:00:00", "vip": "true"}


@pytest.mark.feature("ID8")
@pytest.mark.parametrize("stream", [False, True])
def test_a_damaged_arrow_file(project: Project, tmp_path: Path, stream: bool) -> None:
    path = written(tmp_path, stream=stream, packed=False)
    data = path.read_bytes()
    for end in (7, 60, len(data) // 2):
        path.write_bytes(data[:end])
        with pytest.raises(InvalidInput):
            load(project, path)
    assert Snapshot.open(project.scope).generation == 0


@pytest.mark.feature("ID8")
def test_without_the_extra_it_is_named(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, stream=True, packed=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInput) as caught:
        load(project, path)
    assert "pip install pyarrow" in caught.value.hint


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "crm data.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE people (id INTEGER, email TEXT, share TEXT, orders NUMERIC, mobile BLOB)")
        rows = [(n, f"u{n}@x.com", "yn"[n % 2], n * 1.5, DIGEST if n == 1 else None) for n in range(1, 6)]
        connection.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute("INSERT INTO people VALUES (6, NULL, 'maybe', NULL, NULL)")
    connection.close()
    return path


@pytest.mark.feature("ID8")
def test_a_query_on_sqlite(project: Project, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "ROWS", 2)
    seen: list[int] = []
    query = Query(sql="SELECT * FROM people WHERE email LIKE '%' OR email IS NULL", database=f"sqlite:///{database}")
    report = load(
        project,
        query,
        "email=email_sha256 mobile=phone_sha256:hashed",
        attributes=["orders"],
        progress=lambda done, total: seen.append(done),
    )
    assert (report.kind, report.file, report.rows, report.accepted) == ("SQL", "query", 6, 5)
    assert report.rejected == {"not a consent value": {"count": 1, "lines": [6]}}
    assert seen == [2, 4, 6]
    assert project.profiles.show("3")["attributes"]["crm"] == {"orders": "4.5"}
    assert project.consent.show()["profiles"] == {"y": 2, "n": 3}
    out = project.consent.import_(
        Query(sql="SELECT id, 'n' AS share FROM people WHERE id < 3", database=f"sqlite:///{database}"),
        id_column="id",
        consent_column="share",
    )
    assert out.accepted == 2


@pytest.mark.feature("ID8")
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM people",
        "INSERT INTO people VALUES (9, 'e@x.com', 'y', 1, NULL) RETURNING *",
        "CREATE TABLE other (id)",
        "SELECT 1; DROP TABLE people",
        "SELECT nothing FROM nowhere",
        "PRAGMA query_only = OFF",
        "ATTACH 'file:new.db?mode=rwc' AS other",
        "VACUUM INTO 'new.db'",
        "SELECT load_extension('new')",
        "",
    ],
)
def test_a_database_is_only_read(project: Project, database: Path, sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(database.parent)
    before = database.read_bytes()
    with pytest.raises(InvalidInput):
        load(project, Query(sql=sql, database=f"sqlite:///{database}"))
    assert database.read_bytes() == before
    assert not Path("new.db").exists()
    assert [(each.act, each.result) for each in project.scope.home.audit.entries(limit=1)] == [
        ("profile.import", "deny")
    ]


@pytest.mark.feature("ID8")
def test_a_database_that_is_not_there_is_not_made(project: Project, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"\(operational error\)"):
        load(project, Query(sql=SELECT, database=f"sqlite:///{tmp_path / 'new.db'}"))
    assert not (tmp_path / "new.db").exists()
    for url in ("sqlite://", "mysql://u:hush@localhost/x", "no url", "postgresql://u:hush@[::1", "sqlite:///:memory:"):
        with pytest.raises(InvalidInput) as caught:
            load(project, Query(sql=SELECT, database=url))
        assert "hush" not in str(caught.value) + caught.value.hint


@pytest.mark.feature("ID8")
@pytest.mark.parametrize(
    "name", ["{}#", "{}?mode=rwc", "file:{}#", "file:{}%23", "file:{}%3fmode=rwc", "file:{}?mode=rwc"]
)
def test_no_sign_in_the_name_of_a_database_makes_one(project: Project, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        load(project, Query(sql=SELECT, database="sqlite:///" + name.format(tmp_path / "new.db")))
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("new")] == []


@pytest.mark.feature("ID8")
def test_the_password_is_told_to_nobody(project: Project) -> None:
    query = Query(sql="SELECT 'ann@x.com'", database="postgresql://reader:hush-hush@127.0.0.1:1/crm")
    with pytest.raises(InvalidInput) as caught:
        load(project, query)
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.hint + repr(query)
    assert "postgresql" in str(caught.value)
    audited = str([each.as_dict() for each in project.scope.home.audit.entries(limit=10)])
    for secret in ("hush-hush", "ann@x.com"):
        assert secret not in shown
        assert secret not in audited


@pytest.mark.feature("ID8")
def test_a_query_on_postgresql(
    project: Project, postgres_urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "ROWS", 2)
    node_url = make_url(postgres_urls[0])
    engine, reader = create_engine(node_url.set(drivername="postgresql+psycopg")), f"reader_{uuid.uuid4().hex}"
    with engine.begin() as connection:
        schema = connection.execute(text("SELECT current_schema()")).scalar()
        connection.execute(text(f"CREATE ROLE {reader} LOGIN PASSWORD 'reader'"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {reader}"))
        connection.execute(text(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT ALL ON TABLES TO {reader}"))
        connection.execute(
            text("CREATE TABLE people (id int, email text, share text, paid numeric, tags jsonb, vip bool)")
        )
        connection.execute(
            text(
                "INSERT INTO people SELECT n, 'u' || n || '@x.com', 'y', 2.50, '[1]', n = 1 FROM generate_series(1, 5) n"
            )
        )
    url = node_url.set(drivername="postgresql", username=reader, password="reader").render_as_string(False)
    query = Query(sql="SELECT * FROM people WHERE email LIKE '%@x.com' AND share <> ':no'", database=url)
    report = load(project, query, attributes=["paid", "tags", "vip"])
    assert (report.kind, report.accepted) == ("SQL", 5)
    assert project.profiles.show("1")["attributes"]["crm"] == {"paid": "2.50", "tags": "[1]", "vip": "true"}
    for sql in (
        "DELETE FROM people RETURNING *",
        "WITH gone AS (DELETE FROM people RETURNING *) SELECT * FROM gone",
        "SELECT 1; COMMIT; DELETE FROM people",
        "SELECT 1; SELECT 2",
        "SELECT id, email, share, 1 / 0 FROM people",
        "SELECT pg_sleep(0), set_config('transaction_read_only', 'off', false); DELETE FROM people",
    ):
        with pytest.raises(InvalidInput):
            load(project, Query(sql=sql, database=url))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM people")).scalar() == 5
    with engine.begin() as connection:  # a node's own tables are nobody's input
        for table in ("audit", "label_uses", "suppressions"):
            connection.execute(text(f"CREATE TABLE {table} (number int)"))
    with pytest.raises(InvalidInput, match="the node's alone"):
        load(project, query)
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {reader}"))
        connection.execute(text(f"DROP ROLE {reader}"))
    engine.dispose()


def test_cells_become_text() -> None:
    assert queries.cell_text(Decimal("1E+2")) == "100"
    assert queries.cell_text(memoryview(b"\x01\xff")) == "01ff"
    assert queries.cell_text(None) is None
    assert [queries.cell_text(each) for each in (True, 7, 1.5, {"a": [1]})] == ["true", "7", "1.5", '{"a": [1]}']
    assert columnar.as_csv([["a", None, 'b"c']]) == ['a,,"b""c"']


def test_people_come_from_a_file_or_a_query() -> None:
    assert given("a.csv", None, "sqlite:///x") == "a.csv"
    assert given(None, "SELECT 1", "sqlite:///x") == Query(sql="SELECT 1", database="sqlite:///x")
    for wrong in ((None, None, None), ("a.csv", "SELECT 1", "sqlite:///x"), (None, "SELECT 1", None)):
        with pytest.raises(InvalidInput):
            given(*wrong)


def test_a_table_may_have_thousands_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    columns = ", ".join(f"'v{number}' AS c{number}" for number in range(2_000))
    duckdb.sql(f"COPY (SELECT {columns}) TO '{path}' (FORMAT parquet)")
    assert [batch.columns for batch in Source.open(path, ["c7"]).batches()] == [{"c7": ["v7"]}]
