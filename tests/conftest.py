"""A node on a temporary home with a clock that a test sets, seeded randomness, and either database."""

import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from clock import Clock, SeededRandom
from hypothesis import settings
from quick import FEW, QUICK
from sides import Side
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from node.node import Node
from node.storage.database import Database
from node.wiring import wire

MEMORY = "/dev/shm"
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30:
    # A node syncs every file that it writes.
    os.environ["TMPDIR"] = tempfile.tempdir = MEMORY
gc.set_threshold(50_000)  # modules and collected tests stay

if QUICK:
    settings.register_profile("quick", max_examples=FEW)
    settings.load_profile("quick")
wire()  # before a test replaces a table of handlers
POSTGRES = os.environ.get("VESICA_TEST_POSTGRES", "")


LONGEST = ("test_month.py", "test_killed_anywhere.py", "test_kills.py", "test_nodes.py")


# Fixtures with nodes that reach each other over TLS; `living` chooses one of the others.
TWO_NODES = {"pair", "idle_pair", "quiet_receiver", "pair_type", "living"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts two nodes, and begin with the longest: at the end the other processes would wait for them."""
    for item in items:
        if TWO_NODES & set(getattr(item, "fixturenames", ())):
            item.add_marker("two_nodes")
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """Let no later collection of garbage look at modules and collected tests again: a third of the time of a long run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VESICA_HOME", "VESICA_PROJECT", "VESICA_PASSPHRASE", "VESICA_TOKEN", "VESICA_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _two_nodes_are_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is not marked from serving, so that `make quick` stays quick."""

    def refuse(_: Side) -> None:
        raise AssertionError("a test that starts two nodes has to be marked two_nodes")

    if request.node.get_closest_marker("two_nodes") is None:
        monkeypatch.setattr(Side, "serving", refuse)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def random(request: pytest.FixtureRequest) -> SeededRandom:
    return SeededRandom(request.node.nodeid)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(autouse=True, scope="session")
def _new_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Begin a SQLite database with a copy of one that has all tables: a hundredth of the time of the steps that make them."""
    file = tmp_path_factory.mktemp("tables") / "control.db"
    Database.open(file).close()
    unpatched = Database.open

    def copied(database: str | Path) -> Database:
        new = database if isinstance(database, Path) else _file_of(database)
        if new is not None and not new.exists() and new.parent.is_dir():
            shutil.copyfile(file, new)
        return unpatched(database)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Database, "open", copied)
        yield


def _file_of(database: str) -> Path | None:
    with suppress(ArgumentError):
        url = make_url(database)
        if url.get_backend_name() == "sqlite" and url.database:
            return Path(url.database)
    return None


@pytest.fixture
def node(home: Path, clock: Clock, random: SeededRandom) -> Iterator[Node]:
    """A fresh node of the organisation Fern, on SQLite."""
    with Node.create(home, "Fern", now=clock, random=random) as node:
        yield node


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once for each kind; PostgreSQL where VESICA_TEST_POSTGRES names one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'control.db'}"
        return
    with _schema() as url:
        yield url


@pytest.fixture
def postgres_urls() -> Iterator[tuple[str, str]]:
    """The URLs of two empty PostgreSQL databases, one for each of two nodes."""
    with _schema() as first, _schema() as second:
        yield first, second


@contextmanager
def _schema() -> Iterator[str]:
    if not POSTGRES:
        pytest.skip("PostgreSQL: VESICA_TEST_POSTGRES is not set")
    schema = f"test_{uuid.uuid4().hex}"
    engine = create_engine(make_url(POSTGRES).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    url = make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        engine.dispose()


@pytest.fixture
def either_node(database_url: str, home: Path, clock: Clock, random: SeededRandom) -> Iterator[Node]:
    """A fresh node on each kind of database."""
    with Node.create(home, "Fern", database=database_url, now=clock, random=random) as node:
        yield node
