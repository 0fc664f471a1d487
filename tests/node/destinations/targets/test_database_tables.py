"""A table as a destination, in PostgreSQL and in SQLite: it has who may be there, whatever was said how often."""

import socket
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from stores import Place
from targets import batch, prepared

from node.destinations.kinds import Delivered, Gone, Later, Message, Refused
from node.destinations.targets import databases
from node.destinations.targets.database_tables import TABLE, TableTarget
from node.errors import InvalidInput
from node.node import Node
from node.project import Project
from node.transport.addresses import AllowedAddresses

HERE = AllowedAddresses(loopback=True)


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    found = Place.of(database_url, tmp_path)
    yield found
    found.engine.dispose()


@pytest.fixture
def project(loopback: Node, tmp_path: Path) -> Project:
    return prepared(loopback.project(), tmp_path, 8, s="orders >= 4", few="orders < 5")


def target_of(place: Place) -> TableTarget:
    return TableTarget(TABLE.checked(place.settings), HERE)


def message(target: TableTarget, *identities: str, **attributes: str) -> Message:
    """Return a message that adds the first identity, with attributes, and removes the others."""
    body = target.encode(batch(*identities, **attributes))
    return Message(id="msg_1", segment="s", sequence=1, body=body, now=0)


def test_a_table_mirrors_who_is_in_which_segment(project: Project, place: Place) -> None:
    project.destinations.create("crm", "table", place.settings, uses=["analytics"])
    assert project.destinations.check("crm")["arrived"]
    assert place.rows("identity") == set()
    project.destinations.activate("crm", ["s", "few"])
    expected = {("s", f"p{n}") for n in range(4, 8)} | {("few", f"p{n}") for n in range(5)}
    assert place.rows("segment", "identity") == expected
    project.consent.set("p4", "n")  # who is in both
    project.segments.update("s", rule="orders >= 6")
    project.destinations.sync("crm")
    expected = {("s", "p6"), ("s", "p7")} | {("few", f"p{n}") for n in range(4)}
    assert place.rows("segment", "identity") == expected
    project.destinations.deactivate("crm", ["few"])
    assert place.rows("segment", "identity") == {("s", "p6"), ("s", "p7")}
    project.destinations.delete("crm")
    assert place.rows("segment", "identity") == set()


def test_a_message_that_comes_twice_changes_nothing(place: Place) -> None:
    target = target_of(place)
    first = message(target, "p1", "p2")
    for _ in range(2):
        assert target.send(first) == Delivered()
        assert len(place.rows("segment", "identity", "namespace", "at")) == 1
    target.close()
    assert target_of(place).send(first) == Delivered()  # another process
    assert place.rows("identity") == {("p1",)}


def test_an_identity_that_no_database_takes_costs_no_other_one(place: Place) -> None:
    target = target_of(place)
    assert target.send(message(target, "p\0q")) == Delivered()
    assert place.rows("identity") == {("p\u2400q",)}
    assert target.send(message(target, "x'); DROP TABLE members; --", "p\0q")) == Delivered()
    assert place.rows("identity") == {("x'); DROP TABLE members; --",)}


def test_a_message_is_one_transaction(place: Place) -> None:
    target = target_of(place)
    assert target.send(message(target, "p1")) == Delivered()
    bad = message(target, "p2", "p1")
    place.do("ALTER TABLE members RENAME COLUMN namespace TO other")
    assert target.send(bad) == Gone("columns")
    assert place.rows("identity") == {("p1",)}
    place.do("ALTER TABLE members RENAME COLUMN other TO namespace")
    assert target.send(bad) == Delivered()
    assert place.rows("identity") == {("p2",)}


def test_a_mapped_field_is_a_column_also_where_it_is_mapped_later(place: Place) -> None:
    target = target_of(place)
    assert target.send(message(target, "p1")) == Delivered()
    assert target.send(message(target, "p2", tier='go"ld')) == Delivered()
    for tier in ("silver", "gold"):
        assert target.send(message(target, "p3", "p2", tier=tier, **{"person.name": "A; B"})) == Delivered()
    assert place.rows("identity", "tier", '"person.name"') == {("p1", None, None), ("p3", "gold", "A; B")}
    assert target_of(place).send(message(target, "p4", **{"x" * 64: "y"})) == Gone("columns")
    assert target.send(message(target, "p4", tier="a\0b")) == Delivered()  # one value costs the others nothing


@pytest.mark.parametrize(
    "columns",
    [
        "id TEXT PRIMARY KEY, name TEXT",
        "segment TEXT, identity TEXT, namespace TEXT, at TIMESTAMP, PRIMARY KEY (segment)",
        "segment TEXT, identity TEXT, namespace TEXT, at TIMESTAMP, owner TEXT NOT NULL, PRIMARY KEY (segment, identity)",
    ],
)
def test_a_table_of_somebody_else_is_left_as_it_is(project: Project, place: Place, columns: str) -> None:
    place.do(f"CREATE TABLE members ({columns})")
    project.destinations.create("crm", "table", place.settings, uses=["analytics"])
    checked = project.destinations.check("crm")
    assert (checked["arrived"], checked["code"]) == (False, "columns")
    assert "other columns" in checked["reason"]
    project.destinations.activate("crm", ["s"])
    shown = project.destinations.show("crm")
    assert (shown["status"], shown["waiting"], shown["present"]) == ("disabled", 4, 0)  # nothing of it is lost
    place.do("DROP TABLE members")
    project.destinations.resume("crm")
    assert place.rows("identity") == {(f"p{n}",) for n in range(4, 8)}


def test_a_file_is_its_owners_alone_and_a_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0)
    file = tmp_path / "crm.db"
    target = TableTarget(TABLE.checked({"url": f"sqlite:///{file}", "table": "members"}), HERE)
    assert target.check(0) == Delivered()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with sqlite3.connect(file) as other:
        other.execute("BEGIN IMMEDIATE")
        assert target.send(message(target, "p1")) == Later("locked")
    assert target.send(message(target, "p1")) == Delivered()
    target.close()
    file.write_bytes(b"no database" * 1_000)
    assert target.send(message(target, "p1")) == Gone("damaged")
    file.unlink()
    tmp_path.joinpath("crm.db").mkdir()
    assert target.send(message(target, "p1")) == Later("connection")


def test_a_trigger_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TableTarget(TABLE.checked({"url": f"sqlite:///{tmp_path / 'crm.db'}", "table": "members"}), HERE)
    assert target.check(0) == Delivered()
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
    with sqlite3.connect(tmp_path / "crm.db") as owner:
        owner.execute(f"CREATE TRIGGER t AFTER INSERT ON members BEGIN SELECT count(*) FROM ({numbers}); END")
    monkeypatch.setattr(databases, "TIMEOUT_SECONDS", 0.2)
    assert target.send(message(target, "p1")) == Later("timeout")


def test_no_file_in_a_home_is_written_to(node: Node, tmp_path: Path) -> None:
    home = node.home.path
    (tmp_path / "another.db").hardlink_to(home / "control.db")
    for path in (
        tmp_path / "another.db",
        home / "control.db",
        home / "data" / "new.db",
        tmp_path / "missing" / "crm.db",
    ):
        with pytest.raises(InvalidInput):
            TABLE.checked({"url": f"sqlite:///{path}", "table": "members"})
    link = tmp_path / "folder"
    link.mkdir()
    settings = TABLE.checked({"url": f"sqlite:///{link / 'crm.db'}", "table": "members"})
    link.rmdir()
    link.symlink_to(home / "data")
    target = TableTarget(settings, HERE)
    assert target.send(message(target, "p1")) == Later("folder")
    assert not (home / "data" / "crm.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=ro", "sqlite:////tmp/x?mode=ro", "mysql://u@h/d", "x",
        "postgresql://u:secret@h/d", "postgresql://h/d", "postgresql://u@/d", "postgresql://u@h", "postgresql://u@a,b/d",
        "postgresql://u@h/d?host=10.0.0.1", "postgresql://u@h/d?hostaddr=10.0.0.1", "postgresql://u@h/d?options=-cx=1",
        "postgresql://u@h/d?sslmode=prefer", "postgresql://u@h:x/d", "postgresql://u@h/d?service=x",
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_database_is_refused_without_its_password(node: Node, url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        node.project().destinations.create("crm", "table", {"url": url, "table": "members"})
    rows = [entry.as_dict() for entry in node.home.audit.entries(act="destination.create")]
    assert "secret" not in f"{refused.value} {refused.value.__context__} {refused.value.__cause__} {rows}".replace(
        "the destination's secret", ""
    )


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"table": "x y"}, "no name of a table"),
        ({"table": "x", "schema": 'a"b'}, "no name of a schema"),
        ({"table": "x", "authorities": "missing.pem"}, "authorities"),
        ({}, "needs the setting table"),
    ],
)
def test_other_settings_are_refused_in_words(node: Node, settings: dict[str, str], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        node.project().destinations.create("crm", "table", {"url": "postgresql://u@h/d", **settings})


@pytest.mark.parametrize("secret", [b"", b"\n", b"\xff", b"x" * 2_000, b"a\0b"])
def test_what_is_no_password_is_refused(node: Node, secret: bytes) -> None:
    with pytest.raises(InvalidInput, match="password"):
        node.project().destinations.create("crm", "table", {"url": "postgresql://u@h/d", "table": "x"}, secret=secret)


def test_a_password_is_shown_to_nobody(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = {"url": f"postgresql://u@127.0.0.1:{port}/d", "table": "x"}
    created = project.destinations.create("crm", "table", settings, secret=b"pass-word\n", uses=["analytics"])
    assert created.secret is None
    project.destinations.activate("crm", ["s"])
    home = project.scope.home
    said = [
        project.destinations.show("crm"),
        project.destinations.errors("crm"),
        project.destinations.check("crm"),
        created,
    ]
    said += [[entry.as_dict() for entry in home.audit.entries()], capsys.readouterr()]
    kept = b"".join(each.read_bytes() for each in home.path.rglob("*") if each.is_file())
    assert "pass-word" not in str(said)
    assert b"pass-word" not in kept
    assert project.destinations.errors("crm")[0]["code"] == "connection"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"])
def test_no_address_is_called_that_the_operator_has_not_allowed(host: str) -> None:
    target = TableTarget(TABLE.checked({"url": f"postgresql://u@{host}/d", "table": "x"}), AllowedAddresses())
    assert target.check(0) == Refused("address")


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_error_of_signing_in_disables_and_says_nothing_that_a_database_says(
    project: Project, database_url: str
) -> None:
    url = make_url(database_url).set(drivername="postgresql", query={})
    for wrong in (url.set(database="nothing-there"), url.set(username="nobody-known")):
        settings = {"url": wrong.render_as_string(), "table": "x"}
        project.destinations.create(f"crm{wrong.username}", "table", settings, uses=["analytics"])
        checked = project.destinations.check(f"crm{wrong.username}")
        assert checked["code"] == "login"
        assert "nothing-there" not in checked["reason"]


def test_a_package_that_is_missing_is_named(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TABLE.checked({"url": "postgresql://u@127.0.0.1/d", "table": "x"})
    monkeypatch.setattr(databases, "find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(InvalidInput, match="psycopg"):
        TABLE.checked({"url": "postgresql://u@h/d", "table": "x"})
    assert TableTarget(settings, HERE).check(0) == Gone("package")


def _answers(piece: bytes) -> Iterator[int]:
    """Be a server that answers each connection with some bytes and then nothing."""
    return _served(lambda connection: connection.sendall(piece))


def _served(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Be a server that does something with each connection."""
    listening = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            kept.append(connection)
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(10)
    for each in kept:
        each.close()


@pytest.mark.parametrize("piece", [b"", b"N", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(range(100))])
def test_a_server_that_is_none_is_left(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "CONNECT_SECONDS", 2)
    for port in _answers(piece):
        target = TableTarget(TABLE.checked({"url": f"postgresql://u@127.0.0.1:{port}/d", "table": "x"}), HERE)
        assert target.check(0) in (Later("timeout"), Later("connection"), Later("tls"))


def test_a_server_that_lets_in_and_then_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"server_version": "15.0", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
    settings = b"".join(_frame(b"S", f"{name}\0{value}\0".encode()) for name, value in said.items())
    monkeypatch.setattr(databases, "TIMEOUT_SECONDS", 0.3)
    for port in _answers(_frame(b"R", bytes(4)) + settings + _frame(b"Z", b"I")):
        url = f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable"
        assert TableTarget(TABLE.checked({"url": url, "table": "x"}), HERE).check(0) == Later("connection")


def test_a_row_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "MOST_BYTES", 1 << 20)
    begins = _frame(b"T", b"\0\1" + b"c\0" + bytes(18)) + b"D" + (1 << 30).to_bytes(4, "big")
    said = {"server_version": "15.0", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
    settings = b"".join(_frame(b"S", f"{name}\0{value}\0".encode()) for name, value in said.items())
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        with suppress(OSError):
            connection.sendall(_frame(b"R", bytes(4)) + settings + _frame(b"Z", b"I"))
            connection.recv(1 << 16)  # the first question
            connection.sendall(begins)
            while sent < 1 << 28:
                sent += connection.send(bytes(1 << 16))

    for port in _served(endless):
        url = f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable"
        outcome = TableTarget(TABLE.checked({"url": url, "table": "x"}), HERE).check(0)
        assert outcome in (Later("timeout"), Later("connection"))
    assert 1 << 20 < sent < 1 << 28


def _frame(kind: bytes, content: bytes) -> bytes:
    return kind + (4 + len(content)).to_bytes(4, "big") + content


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_database_that_does_not_come_to_an_end_is_cut_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "TIMEOUT_SECONDS", 0.5)
    target = target_of(place)
    assert target.check(0) == Delivered()
    with place.engine.begin() as other:
        other.execute(sa.text("LOCK TABLE members"))
        assert target.send(message(target, "p1")) == Later("timeout")
    monkeypatch.setattr(databases, "TIMEOUT_SECONDS", 60.0)
    assert target.send(message(target, "p1")) == Delivered()
