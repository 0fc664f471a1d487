"""One module says what is there for the caller, of every kind of place."""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from callers import crew, signed_in

import node as package
from node.errors import NotFound
from node.governance.lineage import Place, PlaceKind
from node.governance.visibility import Visibility, no_segment
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project
from psi.errors import Remedy

NODE = Path(package.__file__).parent


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = node.project()
    file = tmp_path / "crm.csv"
    file.write_text("id,email,orders,score\n1,a@x.com,5,1\n2,b@x.com,7,2\n")
    identities = [IdentityColumn.parse("email=email_sha256:raw")]
    project.profiles.import_(file, dataset="crm", id_column="id", identities=identities, attributes=["orders", "score"])
    project.segments.create("open", rule="orders > 1")
    project.segments.create("scored", rule="score > 1")
    project.segments.create("composed", rule="own.scored OR own.open")
    project.labels.apply("S1", PlaceKind.FIELD, "crm.score")
    project.labels.apply("C1", PlaceKind.SEGMENT, "open")
    return project


@contextmanager
def sight(project: Project, *labels: str) -> Iterator[Visibility]:
    """Open the home for a user who may see some labels and no others, and say what is there for them."""
    node = Node(project.scope.home)
    node.sign_in(crew(node)["ann"].text)
    node.roles.create("limited", ["view"], labels=labels)
    with signed_in(node, node.users.create("lou", ["limited"])) as opened, opened.home.database.read() as tx:
        yield Visibility(opened.project().scope, tx)


def place(kind: PlaceKind, target: str) -> Place:
    return Place(kind=kind, target=target)


def test_without_users_everything_is_there(project: Project) -> None:
    with project.scope.home.database.read() as tx:
        found = Visibility(project.scope, tx)
        assert not found.limited
        assert found.hidden_segments() == set()
        assert found.clears(["C1", "S1"])
        assert found.sees(place(PlaceKind.SEGMENT, "scored"))


def test_what_has_a_label_that_is_not_cleared_is_hidden(project: Project) -> None:
    with sight(project, "C1") as found:
        assert found.limited
        assert found.hidden_segments() == {"scored", "composed"}
        assert (found.clears(["C1"]), found.clears(["C1", "S1"]), found.clears([])) == (True, False, True)
        assert found.sees_segments(["open"])
        assert not found.sees_segments(["open", "composed"])
        assert not found.sees(place(PlaceKind.FIELD, "crm.score"))
        for seen in (
            place(PlaceKind.FIELD, "crm.orders"),
            place(PlaceKind.DATASET, "crm"),
            place(PlaceKind.POLICY, "any"),
        ):
            assert found.shown(seen) == seen
        hidden = place(PlaceKind.SEGMENT, "scored")
        assert found.shown(hidden) == hidden.unseen()
        assert str(found.shown(hidden)) == "a segment that you may not see"


def test_nothing_is_hidden_where_all_labels_of_it_are_cleared(project: Project) -> None:
    with sight(project, "C1", "S1") as found:
        assert found.limited
        assert found.hidden_segments() == set()


@pytest.mark.parametrize(
    ("name", "words", "remedy"),
    [
        ("vip", "there is no segment 'vip'", Remedy("segment.list")),
        (
            "received.acme.vip",
            "'received.acme.vip' is no segment of ours",
            Remedy("segment.create", {"rule": "received.acme.vip"}),
        ),
    ],
)
def test_a_segment_that_is_not_there_is_refused_in_one_way(name: str, words: str, remedy: Remedy) -> None:
    refusal = no_segment(name)
    assert isinstance(refusal, NotFound)
    assert (str(refusal), refusal.remedy) == (words, remedy)


def decides(source: str) -> bool:
    """Return whether a module asks which labels the caller may see, or compares them itself."""
    methods = (each.func for each in ast.walk(ast.parse(source)) if isinstance(each, ast.Call))
    return any(
        isinstance(each, ast.Attribute)
        and each.attr in ("cleared", "clears")
        and "visibility" not in ast.unparse(each.value).lower()
        for each in methods
    )


def test_no_other_module_decides_what_is_there_for_the_caller() -> None:
    found = {path.relative_to(NODE).as_posix() for path in NODE.rglob("*.py") if decides(path.read_text())}
    assert found == {"access/guard.py", "governance/visibility.py"}  # which labels there are, and what they are on


def test_a_module_that_decides_is_found() -> None:
    assert decides("limit = guard.cleared(tx, project_id)")
    assert decides("permissions.clears(limit, labels)")
    assert not decides("guard.limited(tx, project_id)")
    assert not decides("Visibility(scope, tx).clears(labels)")
