"""Segments that are lists of members."""

from pathlib import Path

import pytest
from pyroaring import BitMap
from shop import ids

from node.errors import AlreadyExists, NotAllowed
from node.people.drafts import Draft
from node.project import Project
from node.segments.lists import Lists


@pytest.mark.parametrize(
    ("content", "members", "unknown"),
    [
        ("id\n1\n3\n3\nnobody\n", "13", 1),
        ("1\n 3 \n", "13", 0),
        ("customer;x\n1;a\n4;b\n", "14", 0),
        ("name,id\nann,2\n", "2", 0),
        ("\ufeffwhoever\r\n2\r\n", "2", 0),
    ],
)
def test_members_of_a_file(project: Project, tmp_path: Path, content: str, members: str, unknown: int) -> None:
    path = tmp_path / "members.csv"
    path.write_text(content)
    segment = project.segments.create("s", members_file=path)
    assert (ids(project, "s"), segment.unknown, segment.kind) == (members, unknown, "members")
    assert [each.name for each in project.segments.evaluate_all()] == []


def test_an_import_changes_the_lists_that_are_its_own(project: Project, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id\n1\n")
    project.segments.create("list", members_file=tmp_path / "list.csv")
    project.segments.create("rule", rule="orders > 1")
    lists = Lists(project.scope)
    with project.scope.home.database.begin() as tx:
        assert lists.names(tx) == {"list"}
        lists.check_open(tx, ["list", "fresh"], mine=["list"])
        for name in ("rule", "list"):
            with pytest.raises(AlreadyExists, match=f"segment '{name}' already, which this import may not change"):
                lists.check_open(tx, [name], mine=[])
        draft = Draft(project.scope, tx)
        inside, outside = BitMap([1, 2]), BitMap([0])
        assert lists.lay_over(tx, draft, "list", inside, outside, source="crm.orders") == (2, False)
        assert lists.lay_over(tx, draft, "fresh", inside, outside, source="crm.orders") == (2, True)
        with pytest.raises(NotAllowed, match="segment rule has a rule"):
            lists.lay_over(tx, draft, "rule", inside, outside, source="crm.orders")
        draft.publish()
    assert (ids(project, "list"), ids(project, "fresh")) == ("23", "23")
    assert project.segments.show("list").uses == ["crm.orders"]
