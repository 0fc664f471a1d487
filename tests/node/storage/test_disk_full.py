"""A disk that is full at the one write function: a clear error, nothing half written, and all well when there is room."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sides import Pair, Person, Side
from sqlalchemy import select

from node.access.audit import Result
from node.errors import DiskFull, RefusedByPartner, StoreUnavailable
from node.feeds.sending.edits import Removal
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.people.snapshots import Snapshot
from node.storage import tables
from psi.errors import VesicaError

Full = Callable[[str], AbstractContextManager[list[str]]]
GOOD = {f"g{n}" for n in range(10, 20)}


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Full:
    """Let every file whose path holds a text fail for want of space, after half of it is written; yields which did."""
    sync = os.fsync

    @contextmanager
    def full(part: str) -> Iterator[list[str]]:
        met: list[str] = []

        def no_space(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if part in path:
                met.append(path)
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", no_space)
            yield met

    return full


def tree(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_an_import(node: Node, tmp_path: Path, full: Full) -> None:
    file = tmp_path / "people.csv"
    project = node.project()

    def load(people: int) -> Any:
        file.write_text("id,mail\n" + "".join(f"p{n},p{n}@x.com\n" for n in range(people)))
        columns = [IdentityColumn.parse("mail=email_sha256")]
        return project.profiles.import_(file, dataset="crm", id_column="id", identities=columns)

    with full("/data/"), pytest.raises(DiskFull) as error:
        load(20)
    assert "make room" in error.value.hint
    assert Snapshot.open(project.scope).generation == 0
    assert tree(project.scope.data_directory) == {}
    assert [entry.act for entry in node.audit.entries(result=Result.FAIL)] == ["profile.import"]
    load(20)
    before = tree(project.scope.data_directory)
    with full("-rows.npy"), pytest.raises(DiskFull):
        load(21)
    assert Snapshot.open(project.scope).generation == 1
    node.sweep()
    assert tree(project.scope.data_directory) == before
    load(21)
    assert Snapshot.open(project.scope).generation == 2


@pytest.fixture
def shared(pair: Pair, person: type[Person]) -> Any:
    pair.prepare(
        [person(f"a{n}", f"p{n}@x.com") for n in range(20)],
        [person(f"g{n}", f"p{n}@x.com") for n in range(10, 30)],
        {"vip": [f"a{n}" for n in range(20)]},
    )
    pair.share("summer", ["vip"], ["email_sha256"])
    return pair


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("/acme/spool/", id="the caller's messages"),
        pytest.param("/globe/spool/", id="the partner's messages"),
        pytest.param("/acme/cache/", id="the sender's cache"),
        pytest.param("/globe/cache/", id="the receiver's cache"),
        pytest.param("/received/", id="the received records"),
        pytest.param(".members", id="the memberships"),
    ],
)
def test_a_release(shared: Any, full: Full, part: str) -> None:
    acme, globe = shared.acme, shared.globe
    with full(part) as met, pytest.raises(VesicaError) as error:
        acme.project.feeds.sync("summer")
    assert met
    if "/acme/" in part:
        assert isinstance(error.value, DiskFull)
        assert "make room" in error.value.hint
    else:  # the partner's disk: it says that it failed, and not where
        assert isinstance(error.value, RefusedByPartner)
        assert error.value.status >= 500
        assert "globe" not in str(error.value)
    for side in (acme, globe):
        assert [path for path in (side.folder / side.name).rglob(".*") if path.is_file()] == []  # no temporary file
    assert globe.members("acme", "vip") in (set(), GOOD) if taken(globe) else taken(globe) == []
    assert [run["status"] for run in acme.project.feeds.sync("summer")] == ["done"]
    assert globe.members("acme", "vip") == GOOD
    assert taken(acme) == taken(globe) == [1]


def taken(side: Side) -> list[int]:
    """Return the revisions that a side holds a receipt of."""
    with side.node.home.database.read() as tx:
        return list(tx.scalars(select(tables.runs.c.revision).where(tables.runs.c.state == "done")))


def test_an_estimate(shared: Any, full: Full) -> None:
    feeds = shared.acme.project.feeds
    with full("/globe/cache/"), pytest.raises(RefusedByPartner):
        feeds.estimate("summer")
    with full("/acme/spool/"), pytest.raises(DiskFull):
        feeds.estimate("summer")
    assert [row["overlap"] for row in feeds.estimate("summer")] == [10]


def test_the_memberships_of_a_removal(pair: Pair, full: Full) -> None:
    """A letter whose effect finds no room is not lost: it comes again."""
    acme, globe = pair.acme, pair.globe
    people = {
        side.name: [Person(f"{letter}{n}", f"p{n}@x.com", "" if n % 2 else f"+4474001000{n}") for n in range(20)]
        + [Person(f"{letter}{n}", "", f"+4474001000{n}") for n in range(20, 25)]
        for side, letter in ((acme, "a"), (globe, "g"))
    }
    pair.prepare(people["acme"], people["globe"], {"vip": [each.id for each in people["acme"]]})
    pair.share("other", ["vip"], ["email_sha256", "phone_sha256"])
    acme.project.feeds.sync("other")
    with full("/received/") as met:
        acme.project.feeds.edit("other", Removal(namespaces=["phone_sha256"]))
        assert met
        assert len(globe.members("acme", "vip")) == 25
    pair.post()
    assert globe.members("acme", "vip") == {f"g{n}" for n in range(20)}


def test_a_database_that_cannot_be_opened_for_want_of_room(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside it SQLite has a file of 32 KiB, also for what only reads."""
    home = node.home.path
    node.close()
    (home / "control.db").unlink()
    (home / "control.db").mkdir()  # stands for whatever SQLite cannot open
    for free, kind in ((1 << 30, StoreUnavailable), (3 << 12, DiskFull)):
        found = os.statvfs_result((4_096, 4_096, 9, free // 4_096, free // 4_096, 9, 9, 9, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda path, found=found: found)
        with pytest.raises(kind):
            Node.open(home)
