"""Columns whose names differ in case alone are one column: no spelling takes a label off, or what is deleted stays."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from callers import crew, signed_in
from governed import put_unasked

from node.access.permissions import Permission
from node.access.users import Token
from node.errors import AlreadyExists, NotAllowed, NotFound
from node.governance.lineage import PlaceKind
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project
from node.storage.tables import datasets, fields


def bring(
    project: Project, folder: Path, text: str, *, identities: Sequence[str] = (), attributes: Sequence[str] = ()
) -> None:
    file = folder / "in.csv"
    file.write_text(text)
    columns = [IdentityColumn.parse(f"{each}=email_sha256:raw") for each in identities]
    project.profiles.import_(file, dataset="crm", id_column="id", identities=columns, attributes=attributes)


def spell_too(node: Node, project: Project, name: str) -> None:
    """Have another spelling of a field, as a home of an older release may have it."""
    with node.home.database.begin() as tx:
        dataset_id = tx.scalar(datasets.select().with_only_columns(datasets.c.id).where(datasets.c.name == "crm"))
        row = {"id": node.home.new_id(), "dataset_id": dataset_id, "name": name, "kind": "attribute"}
        tx.execute(fields.insert().values(**row))


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    """A project with a dataset whose column "score" has a label."""
    project = node.project()
    bring(
        project,
        tmp_path,
        "id,email,score\n1,a@x.com,7\n2,b@x.com,9\n",
        identities=["email"],
        attributes=["score"],
    )
    project.labels.apply("C11", PlaceKind.FIELD, "crm.score")
    return project


@pytest.fixture
def lou(node: Node, project: Project) -> Token:
    """A user who may see C1 and nothing else labelled."""
    node.sign_in(crew(node)["ann"].text)
    everything = [each for each in Permission if each not in (Permission.ADMINISTER, Permission.AUDIT)]
    node.roles.create("limited", everything, labels=["C1"])
    return node.users.create("lou", ["limited"])


@pytest.mark.feature("GV10")
@pytest.mark.parametrize("name", ["SCORE", "Score"])
def test_another_spelling_of_a_column_is_refused_with_the_known_one(
    project: Project, tmp_path: Path, name: str
) -> None:
    with pytest.raises(NotAllowed, match=f"column '{name}' 'score'") as refused:
        bring(project, tmp_path, f"id,{name}\n1,8\n", attributes=[name])
    assert "rename the column to score" in (refused.value.hint or "")
    assert project.profiles.show("1")["attributes"] == {"crm": {"score": "7"}}


@pytest.mark.feature("GV10")
def test_so_is_that_of_identities_ids_and_of_a_column_of_the_same_file(project: Project, tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="'EMAIL' 'email'"):
        bring(project, tmp_path, "id,EMAIL\n1,c@x.com\n", identities=["EMAIL"])
    with pytest.raises(NotAllowed, match="'ID' 'id'"):
        bring(project, tmp_path, "id,ID\n1,8\n", attributes=["ID"])
    with pytest.raises(NotAllowed, match="'work' 'Work'"):
        bring(project, tmp_path, "id,work,Work\n1,c@x.com,8\n", identities=["work"], attributes=["Work"])


@pytest.mark.feature("GV10")
def test_so_is_that_of_an_export_of_another_product(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "export.json"
    file.write_text(json.dumps({"crm": "1", "points": "8"}))
    with pytest.raises(NotAllowed, match="'SCORE' 'score'"):
        project.profiles.import_segment_match(file, dataset="crm", id_path="crm", attributes=["points=SCORE"])


@pytest.mark.feature("GV10")
def test_a_limited_user_writes_over_no_hidden_column_by_another_spelling(
    node: Node, project: Project, lou: Token, tmp_path: Path
) -> None:
    with signed_in(node, lou) as lous:
        with pytest.raises(AlreadyExists) as refused:
            bring(lous.project(), tmp_path, "id,SCORE\n1,8\n", attributes=["SCORE"])
        assert "'score'" not in str(refused.value)
        assert lous.project().profiles.show("2")["attributes"] == {"crm": {}}
    assert node.project().profiles.show("1")["attributes"]["crm"] == {"score": "7"}


@pytest.mark.feature("GV10")
def test_a_limited_user_sees_no_hidden_identities_by_another_column_of_their_namespace(
    node: Node, project: Project, lou: Token, tmp_path: Path
) -> None:
    project.labels.apply("C11", PlaceKind.FIELD, "crm.email")
    export = tmp_path / "export.json"
    export.write_text(json.dumps({"crm": "1", "identityMap": {"Email": [{"id": "c@x.com"}]}}))
    with signed_in(node, lou) as lous:
        profiles = lous.project().profiles
        with pytest.raises(AlreadyExists, match="a field of email_sha256"):
            bring(lous.project(), tmp_path, "id,mail\n1,c@x.com\n", identities=["mail"])
        with pytest.raises(AlreadyExists, match="a field of email_sha256"):
            profiles.import_segment_match(export, dataset="crm", id_path="crm", namespaces=["Email=email_sha256"])
        assert profiles.show("2")["identities"] == []
    bring(node.project(), tmp_path, "id,mail\n1,c@x.com\n", identities=["mail"])
    with signed_in(node, lou) as lous:  # identities do not say which of the two columns gave them
        assert lous.project().profiles.show("2")["identities"] == []


@pytest.mark.feature("GV10")
def test_in_an_older_home_the_labels_of_every_spelling_count(
    node: Node, project: Project, lou: Token, tmp_path: Path
) -> None:
    spell_too(node, project, "SCORE")
    bring(project, tmp_path, "id,SCORE\n1,8\n", attributes=["SCORE"])
    project.segments.create("high", rule="crm.SCORE > 5")
    assert set(project.labels.labels_of_segment("high")) == {"C11"}
    with signed_in(node, lou) as lous:
        assert lous.project().profiles.show("1")["attributes"] == {"crm": {}}
        with pytest.raises(NotFound):
            lous.project().segments.show("high")


@pytest.mark.feature("OP11")
def test_in_an_older_home_a_dropped_field_goes_in_every_spelling(node: Node, project: Project, tmp_path: Path) -> None:
    spell_too(node, project, "SCORE")
    bring(project, tmp_path, "id,SCORE\n1,8\n", attributes=["SCORE"])
    put_unasked(project, "C2", "field", "crm.SCORE")
    project.datasets.drop_field("crm", "score")
    assert project.profiles.show("2")["attributes"] == {"crm": {}}
    assert [each["name"] for each in project.datasets.all()[0]["fields"]] == ["email", "id"]
    assert project.labels.in_use() == {}
