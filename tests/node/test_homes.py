"""No command reads its input from a home, or writes a result there, by whatever name: a home has what roles hide."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.main import main
from node.erasure.erasure import People
from node.errors import InvalidInput
from node.inputs.queries import Query
from node.node import Node
from psi.errors import VesicaError

INSIDE = "the node's alone"


def people(node: Node, path: Path | str | Query) -> None:
    node.project().profiles.import_(path, dataset="mine", id_column="#", identities=[], attributes=["amount"])


def rows_of(file: Path | str) -> Query:
    return Query(sql="SELECT number AS '#', act AS amount FROM audit", database=f"sqlite:///{file}")


@pytest.fixture
def stored(node: Node, tmp_path: Path) -> Path:
    """The file of the attributes of a dataset, in the home."""
    file = tmp_path / "in.csv"
    file.write_text("id,amount\n1,5\n2,6\n")
    node.project().profiles.import_(file, dataset="crm", id_column="id", identities=[], attributes=["amount"])
    (found,) = node.home.path.glob("data/*/*attributes*")
    return found


@pytest.mark.feature("OP8")
def test_what_a_home_has_is_no_input(node: Node, stored: Path) -> None:
    project, control = node.project(), node.home.path / "control.db"
    tries: list[Callable[[Path], object]] = [
        lambda path: people(node, path),
        lambda path: project.segments.create("mine", members_file=path),
        lambda path: project.segments.create("mine", tree=path),
        lambda path: project.consent.import_(path, id_column="#", consent_column="amount"),
        lambda path: project.erasure.find(People(file=path)),
        lambda path: project.profiles.import_segment_match(path, dataset="mine", id_path="#"),
        lambda path: project.profiles.import_audience_manager(path, dataset="mine"),
        lambda path: project.profiles.import_audience_manager(stored.parent / "none", dataset="mine", segments=path),
    ]
    for each in tries:
        with pytest.raises(InvalidInput, match=INSIDE):
            each(stored)
    for database in (control, f"file:{control}", f"file://{control}?mode=rw", f"file:{control}%23"):
        with pytest.raises(VesicaError, match=INSIDE):
            people(node, rows_of(database))


@pytest.mark.feature("OP8")
def test_nor_under_another_name(node: Node, stored: Path, tmp_path: Path) -> None:
    linked, hard, folder = tmp_path / "linked.parquet", tmp_path / "hard.parquet", tmp_path / "folder"
    linked.symlink_to(stored)
    os.link(stored, hard)
    folder.symlink_to(stored.parent)
    for path in (linked, hard, folder / stored.name, Path(os.path.relpath(stored))):
        with pytest.raises(InvalidInput, match=INSIDE):
            people(node, path)
    os.link(node.home.path / "control.db", tmp_path / "hard.db")
    (tmp_path / "linked.db").symlink_to(node.home.path / "control.db")
    for name in ("hard.db", "linked.db"):
        with pytest.raises(InvalidInput, match=INSIDE):
            people(node, rows_of(tmp_path / name))


@pytest.mark.feature("OP8")
def test_nor_from_another_home_a_backup_or_a_copy_of_the_database(node: Node, stored: Path, tmp_path: Path) -> None:
    node.backup(tmp_path / "backup")
    shutil.copytree(node.home.path, tmp_path / "other")
    for folder in (tmp_path / "backup", tmp_path / "other"):
        with pytest.raises(InvalidInput, match=INSIDE):
            people(node, folder / stored.relative_to(node.home.path))
    with (
        closing(sqlite3.connect(node.home.path / "control.db")) as control,
        closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
    ):
        control.backup(copy)
    with pytest.raises(InvalidInput, match=INSIDE):
        people(node, rows_of(tmp_path / "copy.db"))


@pytest.mark.feature("OP8")
def test_a_name_of_sqlites_own_makes_no_file(node: Node, tmp_path: Path) -> None:
    with pytest.raises(VesicaError):
        people(node, rows_of(f"file:{tmp_path}/made.db#"))
    assert not list(tmp_path.glob("made*"))


@pytest.mark.feature("OP8")
def test_no_result_is_written_into_a_home(
    node: Node, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, home = node.project(), node.home.path
    before = {each: each.read_bytes() for each in home.rglob("*.key")}
    project.consent.set_model("opt-out")
    project.segments.create("all", rule="crm.amount > 1")
    linked, folder = tmp_path / "linked", tmp_path / "folder"
    linked.symlink_to(home / "keys" / "master.key")
    folder.symlink_to(home / "data")
    for target in (home / "keys" / "master.key", home / "control.db", home / "new.csv", linked, folder / "new.csv"):
        with pytest.raises(InvalidInput, match=INSIDE):
            project.files.export("all", target, force=True)
    for target in (home / "backup.tar", home / "backup", folder / "backup"):
        with pytest.raises(InvalidInput, match=INSIDE):
            node.backup(target, force=True)
    with pytest.raises(InvalidInput, match=INSIDE):
        Node.create(home / "data" / "inner", "Inner")
    assert main(["--home", str(home), "audit", "export", str(home / "keys" / "node.key"), "--force"]) == 1
    assert main(["demo", "--keep", str(home / "demo")]) == 1
    assert INSIDE in capsys.readouterr().err
    assert {each: each.read_bytes() for each in home.rglob("*.key")} == before
    assert not (home / "demo").exists()
