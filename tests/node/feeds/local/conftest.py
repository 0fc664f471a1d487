"""A company of three projects in one node."""

from pathlib import Path

import pytest
from company import company

from node.node import Node
from node.project import Project


@pytest.fixture
def projects(node: Node, tmp_path: Path) -> dict[str, Project]:
    return company(node, tmp_path)


@pytest.fixture
def crm(projects: dict[str, Project]) -> Project:
    return projects["crm"]


@pytest.fixture
def app(projects: dict[str, Project]) -> Project:
    return projects["app"]


@pytest.fixture
def shop(projects: dict[str, Project]) -> Project:
    return projects["shop"]
