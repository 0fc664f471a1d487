"""Segments: composition, what cannot be made, labels on the way out."""

from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap
from shop import ids, load

from node.access.scope import Scope
from node.erasure.erasure import People
from node.errors import AlreadyExists, InvalidInput, InvalidName, NotAllowed, NotFound
from node.governance.lineage import PlaceKind
from node.people.drafts import Draft
from node.people.snapshots import Snapshot
from node.project import Project
from node.segments import rules
from node.segments.references import KINDS
from node.storage.database import Tx


class Fern:
    """The partner fern's one segment, as the room of received segments answers for it."""

    def __init__(self, _scope: Scope) -> None: ...

    def members(self, _tx: Tx, _snapshot: Snapshot, name: str) -> BitMap:
        if name != "fern.new-parents":
            raise self.missing(name)
        return BitMap([0, 1])

    def stamp(self, _tx: Tx) -> object:
        return []

    def missing(self, _name: str) -> NotFound:
        return NotFound("no such segment")


def test_received_segments_include_and_exclude(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, PlaceKind.RECEIVED, Fern)
    project.segments.create("in", rule="received.fern.new-parents AND orders > 5")
    project.segments.create("out", rule="NOT received.fern.new-parents")
    assert (ids(project, "in"), ids(project, "out")) == ("2", "34")
    assert project.segments.show("in").uses == ["crm.orders", "received.fern.new-parents"]
    with pytest.raises(NotFound):
        project.segments.create("no", rule="received.fern.other")


def test_segments_are_evaluated_after_what_they_are_composed_of(project: Project, tmp_path: Path) -> None:
    project.segments.create("z-many.orders", rule="orders >= 5")
    project.segments.create("a-rest", rule="NOT own.z-many.orders")
    assert (ids(project, "z-many.orders"), ids(project, "a-rest")) == ("2", "134")
    load(project, tmp_path, "crm", "id,orders\n1,50\n9,1\n")
    assert ids(project, "a-rest") == "134"
    assert project.segments.evaluate() == []  # none is named, so none is evaluated
    assert ids(project, "a-rest") == "134"
    done = project.segments.evaluate("a-rest")
    assert [each.name for each in done] == ["a-rest", "z-many.orders"]
    assert (ids(project, "z-many.orders"), ids(project, "a-rest")) == ("12", "345")
    with pytest.raises(NotAllowed, match="a-rest"):
        project.segments.delete("z-many.orders")
    project.segments.delete("a-rest")
    project.segments.delete("z-many.orders")
    assert project.segments.all() == []


def test_rules_are_evaluated_again_only_where_what_they_read_has_changed(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, evaluated, received = rules.evaluate, list[object](), dict[str, Any](members=[0, 1], stamp=1)

    class Other(Fern):
        def members(self, _tx: Tx, _snapshot: Snapshot, _name: str) -> BitMap:
            return BitMap(received["members"])

        def stamp(self, _tx: Tx) -> object:
            return received["stamp"]

    def counted(tree: Any, **more: Any) -> BitMap:
        evaluated.append(tree)
        return evaluate(tree, **more)

    def again(count: int, **members: str) -> None:
        evaluated.clear()
        done = [each.name for each in project.segments.evaluate("rest", "theirs")]
        assert (done, len(evaluated)) == (["many", "rest", "theirs"], count)
        assert {name: ids(project, name) for name in members} == members

    monkeypatch.setitem(KINDS, PlaceKind.RECEIVED, Other)
    project.segments.create("many", rule="orders >= 5")
    project.segments.create("rest", rule="NOT own.many")
    project.segments.create("theirs", rule="received.fern.new-parents")
    monkeypatch.setattr(rules, "evaluate", counted)
    again(3, many="2", rest="134", theirs="12")
    again(0, many="2", rest="134", theirs="12")
    project.consent.set("3", "n")
    again(0, many="2", rest="134", theirs="12")
    received |= {"members": [2], "stamp": 2}
    again(1, many="2", rest="134", theirs="3")
    again(0)
    load(project, tmp_path, "crm", "id,orders\n1,50\n")
    again(3, many="12", rest="34", theirs="3")
    project.segments.update("many", rule="orders >= 50")
    again(1, many="1", rest="234", theirs="3")
    with project.scope.home.database.begin() as tx:  # as a kill between two writers could have left it
        draft = Draft(project.scope, tx)
        draft.set_members(project.segments.show("many").id, BitMap([3]))
        draft.publish()
    again(2, many="1", rest="234", theirs="3")
    project.erasure.profiles(People(ids=["4"]))
    again(3, many="1", rest="23", theirs="3")
    again(0)


def test_segments_that_cannot_be_made(project: Project, tmp_path: Path) -> None:
    project.segments.create("s", rule="orders > 1")
    (tmp_path / "nobody.csv").write_text("id\nx\n")
    with pytest.raises(AlreadyExists):
        project.segments.create("s", rule="orders > 1")
    with pytest.raises(InvalidName):
        project.segments.create("S 1", rule="orders > 1")
    with pytest.raises(InvalidInput):
        project.segments.create("t")
    with pytest.raises(InvalidInput, match="none of the 1"):
        project.segments.create("t", members_file=tmp_path / "nobody.csv")
    with pytest.raises(NotFound):
        project.segments.evaluate("t")
    with pytest.raises(NotFound):
        project.segments.members("t")


@pytest.mark.feature("GV2")
def test_a_label_reaches_a_segment_only_by_the_fields_its_rule_reads(project: Project) -> None:
    project.labels.apply("C12", PlaceKind.FIELD, "crm.note")
    project.segments.create("clean", rule="orders > 1")
    project.segments.create("tainted", rule="note LIKE '%wool'")
    project.segments.create("composed", rule="own.tainted AND orders > 0")
    assert "C12" not in project.labels.labels_of_segment("clean")
    assert "C12" in project.labels.labels_of_segment("tainted")
    assert "C12" in project.labels.labels_of_segment("composed")
