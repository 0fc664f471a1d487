"""What a home has on disk is its owner's alone, and names from its rows lead nowhere else."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from node.errors import Failure, NotAllowed
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.people.manifests import Manifest
from node.people.snapshots import Snapshot
from node.storage import tables
from node.storage.files import below, make_directory, make_private
from node.storage.locks import service_lock
from node.storage.records import Document


def open_to_others(home: Path) -> list[str]:
    """Return what in a home, itself included, others may read, write or enter."""
    paths = [home, *home.rglob("*")]
    return sorted(str(path.relative_to(home)) for path in paths if path.lstat().st_mode & 0o077)


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("loose_umask")
def test_a_home_is_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (tmp_path / "people.csv").write_text("id,email,orders\n1,ann@example.com,3\n2,bob@example.com,4\n")
    with Node.create(home, "Fern") as node, service_lock(home):
        project = node.project()
        columns = [IdentityColumn.parse("email=email_sha256:raw")]
        project.profiles.import_(
            tmp_path / "people.csv", dataset="crm", id_column="id", identities=columns, attributes=["orders"]
        )
        project.segments.create("some", rule="orders > 3")
        assert (home / "control.db-wal").exists()
        assert open_to_others(home) == []
        node.backup(tmp_path / "copy")
        node.backup(tmp_path / "copy.tar")
    (tmp_path / "again").mkdir(mode=0o777)
    Node.restore(tmp_path / "copy.tar", tmp_path / "again")
    Node.restore(tmp_path / "copy", tmp_path / "new" / "home")
    for made in (tmp_path / "copy", tmp_path / "again", tmp_path / "new" / "home"):
        assert open_to_others(made) == []
    assert stat.S_IMODE((tmp_path / "copy.tar").stat().st_mode) == 0o600


def test_a_home_that_others_can_reach_is_closed_when_it_is_opened(home: Path, node: Node) -> None:
    node.close()
    for path in (home, home / "control.db", home / "keys", home / "config.json"):
        path.chmod(0o755)
    with Node.open(home):
        assert open_to_others(home) == []


def test_a_home_that_cannot_be_closed_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(mode=0o755)

    def fails(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", fails)  # a home of somebody else; as root nothing is
    with pytest.raises(Failure, match="other users"):
        make_private(home)
    with pytest.raises(Failure, match="other users"):
        Node.create(home, "Fern")


def test_no_home_is_made_among_files_that_others_reach(home: Path) -> None:
    home.mkdir(mode=0o755)
    (home / "notes.txt").write_text("mine")
    with pytest.raises(NotAllowed, match="other users"):
        Node.create(home, "Fern")
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert [path.name for path in home.iterdir()] == ["notes.txt"]


@pytest.mark.usefixtures("loose_umask")
def test_directories_above_are_private_too(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b" / "c")
    assert open_to_others(tmp_path / "a") == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b", ".hidden"])
def test_a_stored_name_is_a_plain_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(Failure, match="names a file"):
        below(tmp_path, "fine", name)


def make_hostile(node: Node, tmp_path: Path, name: str) -> None:
    """Let the newest generation name a file of somebody else as its ids, as a restored database may."""
    (tmp_path / "crm.csv").write_text("id\n1\n2\n")
    node.project().profiles.import_(tmp_path / "crm.csv", dataset="crm", id_column="id", identities=[])
    rows = tables.manifests
    with node.home.database.begin() as tx:
        content: Document = tx.scalars(select(rows.c.content).order_by(rows.c.generation.desc()).limit(1)).one()
        tx.execute(update(rows).values(content={**content, "ids": name}))


@pytest.mark.parametrize("absolute", [False, True])
def test_a_hostile_row_costs_no_file_and_shows_none(node: Node, tmp_path: Path, absolute: bool) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    name = str(victim) if absolute else os.path.relpath(victim, node.project().scope.data_directory)
    make_hostile(node, tmp_path, name)
    for number in range(10):  # after eight generations the files of the first are deleted
        (tmp_path / "crm.csv").write_text(f"id\n{number + 3}\n")
        with pytest.raises(Failure, match="names a file"):
            node.project().profiles.import_(tmp_path / "crm.csv", dataset="crm", id_column="id", identities=[])
    with pytest.raises(Failure, match="names a file"):
        Snapshot.open(node.project().scope).profile_ids  # noqa: B018
    with pytest.raises(Failure, match="names a file"):
        node.backup(tmp_path / "with-it")
    assert victim.read_text() == "mine"
    assert Manifest.from_document({"ids": name}).ids == name


def test_hostile_ids_of_projects_and_partners_lead_nowhere(node: Node, tmp_path: Path) -> None:
    from node.storage import cache

    (tmp_path / "victim").mkdir()
    with pytest.raises(Failure):
        cache.folders(node.home.path, "../../victim")
    with pytest.raises(Failure):
        cache.Cache(node.home.path, "..", cache.Epoch(1, bytes(32)), node.home.random)
    assert (tmp_path / "victim").is_dir()
