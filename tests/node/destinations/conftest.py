"""A project with people, and what stands at the other end of its destinations."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import targets
from clock import Clock
from pytest_httpserver import HTTPServer
from targets import Certificate, Folder

from node.node import Node
from node.project import Project


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    """A project with the people p0 to p11, of whom p4 and all after them are in segment s."""
    return targets.prepared(node.project(), tmp_path, 12, s="orders >= 4")


@pytest.fixture
def folder(project: Project, tmp_path: Path) -> Folder:
    """A folder that is destination "out" for analytics by the project's own ids."""
    return targets.folder_out(project, tmp_path)


@pytest.fixture
def loopback(tmp_path: Path, clock: Clock) -> Iterator[Node]:
    """A node that may call loopback."""
    with Node.create(tmp_path / "home", "Fern", address="127.0.0.1:8470", now=clock) as node:
        yield node


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return targets.certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def web(certificate: Certificate) -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1", ssl_context=certificate.context()) as server:
        yield server
