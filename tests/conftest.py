"""A node on a temporary home with a clock that a test sets, seeded randomness, and either database."""

import gc
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from node.node import Node

MEMORY = "/dev/shm"
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30:
    # A node syncs every file that it writes.
    os.environ["TMPDIR"] = tempfile.tempdir = MEMORY
gc.set_threshold(50_000)  # modules and collected tests stay

POSTGRES = os.environ.get("VESICA_TEST_POSTGRES", "")


LONGEST = ("test_month.py", "test_killed_anywhere.py", "test_kills.py", "test_nodes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: at the end the other processes would wait for them."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


class Clock:
    """Unix seconds that move only when a test says so."""

    def __init__(self, now: int = 1_800_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, *, days: int = 0, seconds: int = 0) -> None:
        self.now += days * 86_400 + seconds


class SeededRandom:
    """The same bytes in every run, for whoever takes `random: Callable[[int], bytes]`."""

    def __init__(self, seed: str = "vesica") -> None:
        self._seed = seed.encode()
        self._numbers = count(1)  # no two threads get the same

    def __call__(self, size: int) -> bytes:
        return hashlib.shake_256(self._seed + next(self._numbers).to_bytes(8, "big")).digest(size)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VESICA_HOME", "VESICA_PROJECT", "VESICA_PASSPHRASE", "VESICA_TOKEN", "VESICA_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def random(request: pytest.FixtureRequest) -> SeededRandom:
    return SeededRandom(request.node.nodeid)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


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
