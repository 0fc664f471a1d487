import errno
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory
from clock import Clock, SeededRandom
from sqlalchemy import Column, Index, Integer, MetaData, Table, Text, UniqueConstraint, inspect, select, text

from node.errors import (
    AlreadyExists,
    DiskFull,
    Failure,
    InvalidInput,
    NoHome,
    NotAllowed,
    NotFound,
    StoreBusy,
    StoreUnavailable,
    WrongPassphrase,
)
from node.node import Node
from node.operations.alerts import AlertKind
from node.storage import tables
from node.storage.config import Config
from node.storage.database import Database, Tx
from node.storage.files import write_atomically
from node.storage.migrations import HEAD
from psi.errors import VesicaError


def described(connection: Tx) -> set[str]:
    """Return all that a database says of its tables, a line for each column, key, constraint and index."""
    found = inspect(connection)
    return {
        f"{name} {part} {sorted((key, str(value)) for key, value in each.items())}"
        for name in found.get_table_names()
        if name != "alembic_version"
        for part, rows in (
            ("column", found.get_columns(name)),
            ("primary key", [found.get_pk_constraint(name)]),
            ("foreign key", found.get_foreign_keys(name)),
            ("unique", found.get_unique_constraints(name)),
            ("index", found.get_indexes(name)),
            ("check", found.get_check_constraints(name)),
        )
        for each in rows
    }


def made_by(metadata: MetaData, connection: Tx) -> set[str]:
    """Return the same of tables that are made anew from what the code says."""
    there = MetaData()
    there.reflect(connection)
    there.drop_all(connection)
    metadata.create_all(connection)
    return described(connection)


def test_migrations_make_the_tables_that_the_code_names(database_url: str) -> None:
    """A change of the tables without a migration fails here."""
    store = Database.open(database_url)
    with store.begin() as tx:
        migrated = described(tx)
        assert sorted(migrated ^ made_by(tables.metadata, tx)) == []
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda alerts: alerts.append_column(Column("new", Integer)),
        lambda alerts: alerts.append_constraint(UniqueConstraint("kind", "at")),
        lambda alerts: Index("ix_alerts_at", alerts.c.at),
        lambda alerts: setattr(alerts.c.at, "nullable", True),
        lambda alerts: setattr(alerts.c.kind, "type", Text()),
        lambda alerts: alerts.metadata.remove(alerts),
    ],
    ids=["column", "constraint", "index", "nullable", "type", "table"],
)
def test_a_change_of_the_tables_alone_is_found(database_url: str, change: Callable[[Table], object]) -> None:
    changed = MetaData(naming_convention=tables.metadata.naming_convention)
    for table in tables.metadata.sorted_tables:
        table.to_metadata(changed)
    change(changed.tables["alerts"])
    store = Database.open(database_url)
    with store.begin() as tx:
        migrated = described(tx)
        assert migrated != made_by(changed, tx)
    store.close()


def test_opening_again_changes_nothing(database_url: str, clock: Clock) -> None:
    store = Database.open(database_url)
    with store.begin() as tx:
        _insert_project(tx, "kept")
    store.close()
    store = Database.open(database_url)
    with store.read() as connection:
        assert connection.scalars(select(tables.projects.c.name)).all() == ["kept"]
    store.close()


def test_head_is_the_newest_migration() -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", "node.storage:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_database_of_a_newer_release_is_refused(database_url: str) -> None:
    store = Database.open(database_url)
    with store.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(Failure, match="newer release"):
        Database.open(database_url)


def test_an_exception_takes_everything_back(database_url: str) -> None:
    store = Database.open(database_url)

    def act() -> None:
        with store.begin() as tx:
            _insert_project(tx, "gone")
            raise KeyError

    with pytest.raises(KeyError):
        act()
    with store.read() as connection:
        assert connection.scalars(select(tables.projects.c.name)).all() == []
    store.close()


def test_what_is_left_for_afterwards_is_done_once_the_commit_is(database_url: str) -> None:
    store = Database.open(database_url)
    done: list[object] = []

    def act(fails: bool) -> None:
        with store.begin() as tx:
            store.afterwards(lambda: done.append("first"))
            store.afterwards(lambda: done.append(_names(store)))
            _insert_project(tx, "new")
            assert done == []
            if fails:
                raise KeyError

    with pytest.raises(KeyError):
        act(fails=True)
    assert done == []
    act(fails=False)
    assert done == ["first", ["new"]]
    with store.begin():
        store.afterwards(failing)
        store.afterwards(lambda: done.append("third"))
    assert done[2:] == ["third"]  # what fails comes too late to undo anything
    with pytest.raises(RuntimeError):
        store.afterwards(failing)
    store.close()


def failing() -> None:
    raise PermissionError(1, "not permitted")


def test_foreign_keys_hold(database_url: str) -> None:
    store = Database.open(database_url)
    with pytest.raises(Exception, match=r"(?i)foreign key"), store.begin() as tx:
        tx.execute(tables.alerts.insert().values(id="a", project_id="none", kind="k", text="t", at=1))
    store.close()


def test_no_value_appears_in_a_database_error(database_url: str) -> None:
    store = Database.open(database_url)
    with store.begin() as tx:
        _insert_project(tx, "ann-at-x")
    with pytest.raises(Exception, match=r"(?i)unique") as caught, store.begin() as tx:
        _insert_project(tx, "ann-at-x")
    if store.engine.dialect.name == "sqlite":  # PostgreSQL's own text quotes the key
        assert "ann-at-x" not in str(caught.value)
    assert "parameters hidden" in str(caught.value)
    store.close()


def test_a_second_act_waits_for_the_first(database_url: str) -> None:
    first, second = Database.open(database_url), Database.open(database_url)
    order = []

    def act() -> None:
        with second.begin() as tx:
            order.append("second")
            assert tx.scalar(select(tables.projects.c.name)) == "first"

    with first.begin() as tx:
        thread = threading.Thread(target=act)
        thread.start()
        _insert_project(tx, "first")
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    first.close()
    second.close()


def test_reading_does_not_wait_for_a_writer(database_url: str) -> None:
    store = Database.open(database_url)
    with store.begin() as tx:
        _insert_project(tx, "uncommitted")
        with store.read() as connection:
            assert connection.scalars(select(tables.projects.c.name)).all() == []
    store.close()


def test_a_store_that_stays_locked_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.storage.database.BUSY_SECONDS", 1)
    first, second = Database.open(database_url), Database.open(database_url)
    with first.begin(), pytest.raises(StoreBusy), second.begin():
        pass
    first.close()
    second.close()


def test_transactions_do_not_nest(database_url: str) -> None:
    store = Database.open(database_url)
    with store.begin(), pytest.raises(RuntimeError), store.begin():
        pass
    store.close()


def test_a_full_disk_in_the_database(home: Path, node: Node) -> None:
    row = {"project_id": node.project().id, "kind": "k", "text": "x" * 4_000, "at": 1}

    def fill() -> None:
        with node.home.database.begin() as tx:
            tx.execute(text(f"PRAGMA max_page_count = {tx.scalar(text('PRAGMA page_count'))}"))
            tx.execute(tables.alerts.insert(), [{"id": str(number), **row} for number in range(500)])

    with pytest.raises(DiskFull) as caught:
        fill()
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be taken for one" * 40])
def test_a_damaged_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(content)
    if content:
        with pytest.raises(StoreUnavailable, match="damaged"):
            Database.open(path)
    else:
        Database.open(path).close()


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "postgresql+pg8000://host/name"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        Database.open(url)


def test_an_unreachable_database_is_named_without_its_password() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        Database.open("postgresql://user:hunter2@127.0.0.1:9/none")
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_killed_while_creating_then_created_again(home: Path, clock: Clock, random: SeededRandom) -> None:
    script = (
        "import os, node.storage.config; node.storage.config.Config.save = lambda *_: os._exit(9);"
        f"from node.node import Node; Node.create({str(home)!r}, 'Fern')"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    with pytest.raises(NoHome):
        Node.open(home)
    with Node.create(home, "Fern", now=clock, random=random) as node:
        assert [project.name for project in node.projects()] == ["default"]


def test_create_open_and_the_key_stays(home: Path, node: Node) -> None:
    key = node.key
    node.close()
    with Node.open(home) as again:
        assert again.key == key
        assert again.home.config.organisation == "Fern"
    with pytest.raises(AlreadyExists):
        Node.create(home, "Other")


def test_no_home(tmp_path: Path) -> None:
    with pytest.raises(NoHome):
        Node.open(tmp_path)
    with pytest.raises(NoHome):
        Node.open(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "\x1b[2J", "x" * 256, "é" * 128])
def test_organisations_that_a_partner_could_not_show(home: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        Node.create(home, name)
    assert not home.exists()


def test_a_damaged_config(home: Path, node: Node) -> None:
    (home / "config.json").write_text('{"organisation":')
    with pytest.raises(Failure, match="damaged"):
        Node.open(home)


def test_config_hides_the_database_password() -> None:
    assert "hunter2" not in repr(Config(organisation="Fern", database="postgresql://u:hunter2@h/d"))


def test_every_file_of_a_home_is_its_owners_alone(home: Path, node: Node) -> None:
    for name in ("config.json", "keys/master.key", "keys/node.key"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_wrapped_secrets(node: Node) -> None:
    wrapped = node.home.keys.wrap(b"epoch secret", b"epoch")
    assert b"epoch secret" not in wrapped
    assert node.home.keys.unwrap(wrapped, b"epoch") == b"epoch secret"
    for other in (wrapped[:-1], wrapped[:5], wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b""):
        with pytest.raises(Failure):
            node.home.keys.unwrap(other, b"epoch")
    with pytest.raises(Failure):
        node.home.keys.unwrap(wrapped, b"spool")


def test_a_passphrase_keeps_the_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESICA_PASSPHRASE", "correct horse")
    with Node.create(home, "Fern") as node:
        key = node.key
        seed = node.home.keys.signing_key.private_bytes_raw()
    kept = b"".join(path.read_bytes() for path in (home / "keys").iterdir())
    assert seed not in kept
    with Node.open(home) as node:
        assert node.key == key
    monkeypatch.setenv("VESICA_PASSPHRASE", "wrong")
    with Node.open(home) as node, pytest.raises(WrongPassphrase):
        node.key  # noqa: B018
    monkeypatch.delenv("VESICA_PASSPHRASE")
    with Node.open(home) as node:
        assert node.projects()  # what needs no secret asks for no passphrase
        with pytest.raises(WrongPassphrase):
            node.home.sign(b"")


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "below" / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull) as caught:
        write_atomically(path, b"new")
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_writing_where_one_may_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Failure):
        write_atomically(tmp_path / "file" / "below", b"")


def test_projects_are_apart(either_node: Node) -> None:
    either_node.create_project("loyalty")
    assert [project.name for project in either_node.projects()] == ["default", "loyalty"]
    assert either_node.project("loyalty").id != either_node.project().id
    with pytest.raises(AlreadyExists):
        either_node.create_project("loyalty")
    for name in ("", "-a", "A", "a b", "x" * 64, "a/b", "ä", "a\n"):
        with pytest.raises(Exception, match="is not a project name"):
            either_node.create_project(name)
    with pytest.raises(NotFound):
        either_node.project("other")


def test_the_same_seed_gives_the_same_ids(tmp_path: Path, clock: Clock) -> None:
    def project_id(name: str) -> str:
        numbers = count()
        with Node.create(tmp_path / name, "Fern", now=clock, random=lambda size: bytes([next(numbers)]) * size) as node:
            return node.project().id

    assert project_id("one") == project_id("two")


def test_sqlite_keeps_what_it_acknowledged(home: Path, node: Node) -> None:
    connection = sqlite3.connect(home / "control.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    with node.home.database.begin() as tx:
        assert tx.scalar(text("PRAGMA synchronous")) == 2


def _names(store: Database) -> list[str]:
    with store.read() as connection:
        return list(connection.scalars(select(tables.projects.c.name)))


def _insert_project(tx: Tx, name: str) -> None:
    tx.execute(tables.projects.insert().values(id=name, name=name, terms={}, count_secret=bytes(32), created=1))


def test_a_database_of_another_node_is_refused(database_url: str, either_node: Node, tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="another node"):
        Node.create(tmp_path / "other", "Other", database=database_url)


def test_an_address_that_no_partner_could_call(home: Path) -> None:
    with pytest.raises(VesicaError):
        Node.create(home, "Fern", address="not an address")
    assert not home.exists()


def test_terms_keep_what_was_set(either_node: Node) -> None:
    project = either_node.project()
    default = project.terms
    project.set_terms(minimum_overlap="5", epsilon="0.02", budget=3)
    assert str(project.terms.epsilon) == "1/50"
    assert project.terms.minimum_overlap == 5
    assert project.terms.budget == 3
    assert project.terms.minimum_segment == default.minimum_segment
    project.set_terms(epsilon="none")
    assert project.terms.epsilon is None
    project.set_terms(epsilon="1/20", minimum_overlap=1_000, budget="2")
    assert project.terms == default
    for wrong in ({"epsilon": "1/0"}, {"minimum_overlap": "many"}, {"minimum_universe": -1}, {"colour": 1}):
        with pytest.raises(VesicaError, match=r".") as caught:
            project.set_terms(**wrong)
        assert caught.value.code != "error"
    assert project.terms == default
    assert [entry.result for entry in either_node.audit.entries(act="project.terms", limit=5)] == ["deny"] * 4 + [
        "allow"
    ]


@pytest.mark.feature("CO0")
def test_project_show_lists_what_sharing_needs(either_node: Node) -> None:
    project = either_node.project()
    document = project.reports.project()
    needs = {each["name"]: each for each in document["prerequisites"]}
    assert list(needs) == ["namespace", "consent model", "sharing label", "sharing policy"]
    assert not needs["namespace"]["met"]
    assert needs["namespace"]["remedy"]["act"] == "profile.import"
    assert not needs["consent model"]["met"]
    assert needs["consent model"]["remedy"]["act"] == "consent.model"
    assert needs["sharing policy"]["state"] == "restrict-data-sharing"

    with either_node.home.database.begin() as tx:
        tx.execute(
            tables.datasets.insert().values(id="d", project_id=project.id, name="crm", created=1),
        )
        for name, kind, rule in (("mail", "identity", "email_sha256/lc-v1"), ("income", "attribute", None)):
            tx.execute(tables.fields.insert().values(id=name, dataset_id="d", name=name, kind=kind, rule=rule))
        tx.execute(tables.projects.update().values(consent_model="opt-out"))
    project.labels.apply("C11", "field", "crm.income")
    project.policies.disable("restrict-data-sharing")
    document = project.reports.project()
    assert document["namespaces"] == ["email_sha256/lc-v1"]
    assert document["consent_model"] == "opt-out"
    assert document["labels"] == {"C11": 1}
    assert document["policies"] == []
    assert [each["name"] for each in project.reports.project()["prerequisites"] if not each["met"]] == [
        "sharing policy"
    ]


def test_status_says_what_to_look_at(either_node: Node, clock: Clock) -> None:
    project = either_node.project()
    with either_node.home.database.begin() as tx:
        for number in range(3):
            clock.advance(seconds=1)
            project.alerts.add(tx, AlertKind.CONNECTION_REQUEST, f"request {number}")
    status = either_node.status(alerts=2)
    assert [alert["text"] for alert in status["alerts"]] == ["request 2", "request 1"]
    shown = {"name": "default", "partners": 0, "open_jobs": 0, "on_hold": False, "letters_fetched": None}
    assert status["projects"] == [shown]
    assert status["serving"] is False


def test_deleted_rows_are_overwritten_once_nobody_reads_an_older_state(database_url: str) -> None:
    database = Database.open(database_url)
    with closing(database):
        with database.begin() as tx:
            row = {"name": "p", "terms": {}, "count_secret": b"", "created": 1}
            tx.execute(tables.projects.insert().values(id="1" * 32, **row))
        with database.read() as reading:
            assert reading.scalar(select(tables.projects.c.name)) == "p"
            with database.begin() as tx:
                tx.execute(tables.projects.delete())
            assert not database.overwrite_deleted("projects")
        assert database.overwrite_deleted("projects")
        with database.begin() as tx:
            assert tx.scalar(select(tables.projects.c.name)) is None
