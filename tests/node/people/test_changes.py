"""Whoever has to know that people changed is called, whichever way the change came."""

from pathlib import Path

import pytest

from node.access.scope import Scope
from node.errors import NotFound
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.people.changes import CHANGED


def test_every_way_in_calls_the_hooks(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, called = node.project(), list[Scope]()
    monkeypatch.setitem(CHANGED, "test", called.append)
    people, said, export = tmp_path / "people.csv", tmp_path / "said.csv", tmp_path / "ftp_dpm_1_2.sync"
    people.write_text("id,crm\n1,a\n")
    said.write_text("id,share\n1,n\n")
    export.write_text("2\td_sid=7\n")
    project.profiles.import_(people, dataset="crm", id_column="id", identities=[IdentityColumn.parse("crm=crm")])
    assert len(called) == 1
    project.consent.set("1", "y")
    assert len(called) == 2
    project.consent.import_(said, id_column="id", consent_column="share")
    assert len(called) == 3
    project.profiles.import_audience_manager(export, dataset="aam", own_ids=True)
    assert len(called) == 4
    assert set(called) == {project.scope}
    with pytest.raises(NotFound):
        project.consent.set("nobody", "y")
    assert len(called) == 4
