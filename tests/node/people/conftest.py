"""A project, and people loaded into it from a file."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from loading import Load

from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project


@pytest.fixture
def project(node: Node) -> Project:
    return node.project()


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(
        project: Project,
        content: str,
        *identity: str,
        dataset: str = "crm",
        consent_column: str | None = None,
        attributes: Sequence[str] = (),
    ) -> None:
        path = tmp_path / "people.csv"
        path.write_text(content)
        project.profiles.import_(
            path,
            dataset=dataset,
            id_column="id",
            identities=[IdentityColumn.parse(text) for text in identity],
            consent_column=consent_column,
            attributes=attributes,
        )

    return load
