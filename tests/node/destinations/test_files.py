"""A segment's members as a file."""

from pathlib import Path

import pytest

from node.errors import NotAllowed
from node.governance.lineage import PlaceKind
from node.node import Node
from node.project import Project


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
