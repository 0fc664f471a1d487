"""The project of the shop."""

from pathlib import Path

import pytest
from shop import ROWS, load

from node.node import Node
from node.project import Project


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = node.project()
    load(project, tmp_path, "crm", "id,orders,country,note,vip\n" + "".join(",".join(row) + "\n" for row in ROWS))
    load(project, tmp_path, "web.shop", "id,visits,country,e-mail opens\n2,7,IE,3\n4,9,FR,1\n")
    return project
