"""A node killed at every place where the world outside memory changes: nothing is lost, and nothing said twice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mortals
import pytest
import targets
from clock import Clock
from targets import Folder, prepared

from node.node import Node
from node.project import Project

NOW = 1_800_000_000
PLACES = 200  # more than an act passes
Act = Callable[[Project], object]


def killed_everywhere(tmp_path: Path, act: Act, check: Callable[[Folder], None], later: int = 60) -> int:
    """Do an act on copies of a home, killed at one place after the other, then let it go on; return how many there were."""
    mortals.warm()
    before = {file.name for file in (tmp_path / "out").iterdir()}
    for place in range(1, PLACES):
        home, folder = tmp_path / "copy", Folder(tmp_path / "out")
        shutil.copytree(tmp_path / "home", home)
        process = mortals.FORKS.Process(target=targets.die, args=(home, act, place, NOW))
        process.start()
        process.join()
        assert process.exitcode in (0, mortals.KILLED)
        written = {file: file.read_bytes() for file in folder.path.iterdir() if not file.name.startswith(".")}
        with Node.open(home, now=Clock(NOW + later)) as node:
            act(node.project())  # as a person does who saw nothing
            node.project().destinations.sync("out")
            for file, content in written.items():  # a message that is written again is the same
                assert file.read_bytes() == content
            assert not [file.name for file in folder.path.iterdir() if file.name.startswith(".")]
            check(folder)
            for row in node.project().destinations.runs("out"):
                assert row["received"] == row["activated"] + row["excluded"] + row["failed"] + row["waiting"]
                assert row["waiting"] == 0
        shutil.rmtree(home)
        for file in folder.path.iterdir():
            if file.name not in before:
                file.unlink()
        if process.exitcode == 0:
            return place
    raise AssertionError("it never ends by itself")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    Folder(tmp_path / "out")
    with Node.create(home, "Fern", now=Clock(NOW)) as node:
        project = prepared(node.project(), tmp_path, 6, s="orders >= 2")
        project.destinations.create("out", "file", {"folder": str(tmp_path / "out")}, uses=["analytics"])
    return home


def test_a_first_export(home: Path, tmp_path: Path) -> None:
    def check(folder: Folder) -> None:
        assert folder.look() == {"p2", "p3", "p4", "p5"}
        assert len(folder.changes) == 4

    assert killed_everywhere(tmp_path, targets.activate, check) > 10


def test_a_change(home: Path, tmp_path: Path) -> None:
    with Node.open(home, now=Clock(NOW)) as node:
        targets.activate(node.project())
        node.project().consent.set("p3", "n")
        node.project().segments.update("s", rule="orders >= 1")

    def check(folder: Folder) -> None:
        assert folder.look() == {"p1", "p2", "p4", "p5"}
        assert len(folder.changes) == 4 + 2

    assert killed_everywhere(tmp_path, targets.sync, check) > 10


def test_a_deactivation(home: Path, tmp_path: Path) -> None:
    with Node.open(home, now=Clock(NOW)) as node:
        targets.activate(node.project())

    def check(folder: Folder) -> None:
        assert folder.look() == set()
        assert len(folder.changes) == 4 + 4

    assert killed_everywhere(tmp_path, targets.deactivate, check) > 10


def test_a_change_that_joins_those_that_wait(home: Path, tmp_path: Path) -> None:
    with Node.open(home, now=Clock(NOW)) as node:
        project = node.project()
        project.destinations.delete("out")
        settings = {"folder": str(tmp_path / "out"), "age": "301", "size": "1000"}
        project.destinations.create("out", "file", settings, uses=["analytics"])
        targets.activate(project)
        project.consent.set("p3", "n")
        project.segments.update("s", rule="orders >= 1")

    def check(folder: Folder) -> None:
        assert folder.look() == {"p1", "p2", "p4", "p5"}
        assert len(folder.changes) == 4

    assert killed_everywhere(tmp_path, targets.sync, check, later=301) > 10
