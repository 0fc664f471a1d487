"""A project, and exports of Experience Platform taken over into it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from exports import Record, Take

from node.imports.other_products import ExportReport
from node.node import Node
from node.project import Project


@pytest.fixture
def project(node: Node) -> Project:
    return node.project()


@pytest.fixture
def take(project: Project, tmp_path: Path) -> Take:
    def take(
        records: Sequence[Record | str],
        *,
        dataset: str = "aep",
        namespaces: Iterable[str] = (),
        attributes: Iterable[str] = (),
        id_path: str = "",
        segments: Path | None = None,
        region: str | None = None,
        into: Iterable[str] = (),
    ) -> ExportReport:
        path = tmp_path / "export.json"
        path.write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in records))
        return project.profiles.import_segment_match(
            path,
            dataset=dataset,
            namespaces=namespaces,
            attributes=attributes,
            id_path=id_path,
            segments=segments,
            region=region,
            into=into,
        )

    return take
