"""A segment's members as a file."""

import csv
import os
import threading
from pathlib import Path

import pytest

from node.errors import AlreadyExists, NotAllowed
from node.governance.lineage import PlaceKind
from node.node import Node
from node.project import Project
from node.storage.csv_text import csv_text


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = node.project()
    file = tmp_path / "crm.csv"
    file.write_text("id,orders\n1,5\n2,7\n3,1\n")
    project.profiles.import_(file, dataset="crm", id_column="id", identities=[], attributes=["orders"])
    return project


def test_export_writes_ids_and_obeys_the_label(project: Project, tmp_path: Path) -> None:
    project.segments.create("s", rule="orders > 1")
    assert project.files.export("s", tmp_path / "out.csv") == 2
    assert (tmp_path / "out.csv").read_text() == "id\n1\n2\n"
    project.labels.apply("C12", PlaceKind.DATASET, "crm")
    with pytest.raises(NotAllowed, match="C12 from dataset crm"):
        project.files.export("s", tmp_path / "again.csv")
    assert not (tmp_path / "again.csv").exists()


def test_no_spreadsheet_runs_an_id_and_every_id_can_be_had_back(project: Project, tmp_path: Path) -> None:
    ids = ["=1+1", "+12", "-5.5", "-5+cmd", "@x", "'quoted", "plain", "+1 2", "\uff1dwide"]
    with (tmp_path / "odd.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "odd"], *([each, "y"] for each in ids)])
    project.profiles.import_(tmp_path / "odd.csv", dataset="odd", id_column="id", identities=[], attributes=["odd"])
    project.segments.create("odd", rule="odd = 'y'")
    project.files.export("odd", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    assert {each for each in cells if each[0] in "=+-@\uff1d"} == {"+12", "-5.5"}  # numbers stay as they are
    assert {each.removeprefix("'") for each in cells} == set(ids)


@pytest.mark.parametrize("text", ["=1", "+1-1", "-x", "@x", "\t=1", "\r=1", "\n=1", "'"])
def test_what_begins_like_a_formula_is_text(text: str) -> None:
    assert csv_text(["a"], [[text, 5]]).splitlines()[1].lstrip('"').startswith("'")


def test_an_export_goes_through_a_pipe_and_replaces_no_file(project: Project, tmp_path: Path) -> None:
    project.segments.create("s", rule="orders > 1")
    os.mkfifo(tmp_path / "pipe", 0o600)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    project.files.export("s", tmp_path / "pipe")
    reader.join(10)
    assert got == ["id\n1\n2\n"]
    (tmp_path / "mine.csv").write_text("mine")
    with pytest.raises(AlreadyExists):
        project.files.export("s", tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert project.files.export("s", tmp_path / "mine.csv", force=True) == 2
