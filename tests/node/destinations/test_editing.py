"""Settings that change while a destination is there, and for whom."""

from pathlib import Path

import pytest
from callers import crew, signed_in
from clock import Clock
from targets import Folder

from node.errors import InvalidInput, NotAllowed, NotFound
from node.governance.lineage import PlaceKind
from node.node import Node
from node.project import Project


def test_what_says_where_a_target_is_stays_and_other_settings_change(
    project: Project, folder: Folder, clock: Clock, tmp_path: Path
) -> None:
    project.destinations.activate("out", ["s"])
    changed = project.destinations.edit("out", {"format": "jsonl", "age": "400"}, description="the shop")
    assert changed["settings"] == {"folder": str(folder.path), "format": "jsonl", "age": "400", "size": "10000"}
    changed = project.destinations.edit("out", {"age": "", "size": ""})
    assert changed["settings"] == {"folder": str(folder.path), "format": "jsonl"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for wrong in ({"folder": str(elsewhere)}, {"format": "pdf"}, {"colour": "red"}, {"size": "7"}):
        with pytest.raises(InvalidInput):
            project.destinations.edit("out", wrong)
    assert project.destinations.show("out")["settings"] == changed["settings"]
    before = set(folder.path.iterdir())
    project.consent.set("p4", "n")
    project.destinations.sync("out")
    (file,) = set(folder.path.iterdir()) - before
    assert file.suffix == ".jsonl"


def test_settings_of_a_solution_stay_and_one_that_is_hidden_is_not_there(project: Project, node: Node) -> None:
    settings = {"target": "https://in.example.com/target"}
    project.destinations.create("cloud", "experience-cloud", settings, uses=["analytics"], secret=b"token-1")
    with pytest.raises(NotAllowed, match="settings of a solution"):
        project.destinations.edit("cloud.target", {"url": "https://elsewhere.example.com/"})
    project.destinations.activate("cloud", ["s"])
    project.labels.apply("C3", PlaceKind.SEGMENT, "s")
    with signed_in(node, crew(node)["ann"]) as anns:
        anns.roles.create("few", ["view", "manage-destinations"], labels=["C1"])
        token = anns.users.create("bo", ["few"])
    with signed_in(node, token) as bos:
        for name in ("cloud", "cloud.target", "nowhere"):
            with pytest.raises(NotFound, match="no destination"):
                bos.project().destinations.edit(name, {"url": "https://elsewhere.example.com/"})
