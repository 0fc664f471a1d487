"""Drafts: what is stored, what survives, and which files go."""

from pathlib import Path

import numpy as np
import pytest
from loading import Load
from pyroaring import BitMap

from node.errors import DiskFull, Failure
from node.node import Node
from node.people import drafts
from node.people.datasets import namespaces
from node.people.drafts import Draft
from node.people.snapshots import Snapshot
from node.project import Project
from node.storage import files


@pytest.mark.parametrize("beginning", ["", "customer-"])
def test_profiles_are_numbered_as_they_appear(project: Project, load: Load, beginning: str) -> None:
    random, numbers = np.random.default_rng(3), dict[str, int]()
    for last in (40, 200):
        ids = [f"{beginning}{number}" for number in random.integers(0, last, 300).tolist()]
        load(project, "id,l\n" + "".join(f"{name},{name}\n" for name in ids), "l=loyalty")
        for name in ids:
            numbers.setdefault(name, len(numbers))
        snapshot = Snapshot.open(project.scope)
        assert snapshot.profile_ids.tolist() == [name.encode() for name in numbers]
        assert snapshot.numbers(np.array([*numbers, "nobody"], np.bytes_)).tolist() == [*numbers.values(), -1]
        held = snapshot.identities("loyalty/opaque-v1")
        assert {held.values[row].decode(): int(held.profiles[row]) for row in range(len(held))} == numbers


def test_profile_numbers_stay(project: Project, load: Load) -> None:
    load(project, "id,l\nb,1\na,2\n", "l=loyalty")
    load(project, "id,l\nc,3\na,4\nlonger-id,5\n", "l=loyalty")
    snapshot = Snapshot.open(project.scope)
    assert snapshot.numbers(np.array([b"a", b"b", b"c", b"longer-id", b"nobody"])).tolist() == [1, 0, 2, 3, -1]
    assert [each["value"] for each in project.profiles.show("a")["identities"]] == ["4"]


def test_a_pinned_snapshot_stays_and_old_files_go(project: Project, load: Load) -> None:
    load(project, "id,l\n1,a\n", "l=loyalty")
    pinned = Snapshot.open(project.scope)
    for number in range(drafts.KEPT_GENERATIONS - 1):
        load(project, f"id,l\n1,b{number}\n", "l=loyalty")
    assert pinned.identities("loyalty/opaque-v1").values[0] == b"a"
    stored = _files(project)
    load(project, "id,l\n1,c\n", "l=loyalty")
    assert _files(project) <= stored
    with pytest.raises(Failure, match="missing"):
        Snapshot(pinned.directory, 1, pinned.content).identities("loyalty/opaque-v1")
    assert Snapshot.open(project.scope).generation == drafts.KEPT_GENERATIONS + 1


def test_a_full_disk_leaves_the_generation_before(
    project: Project, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(project, "id,l\n1,a\n", "l=loyalty")
    written = 0

    def full(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise DiskFull("no space left", hint="make room")
        files.write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(drafts, "write_atomically", full)
        with pytest.raises(DiskFull):
            load(project, "id,l,c\n1,b,x\n2,c,y\n", "l=loyalty", attributes=["c"])
    snapshot = Snapshot.open(project.scope)
    assert (snapshot.generation, snapshot.profile_count) == (1, 1)
    assert snapshot.identities("loyalty/opaque-v1").values[0] == b"a"
    assert project.scope.home.audit.entries(limit=1)[0].result == "fail"
    load(project, "id,l\n1,b\n2,c\n", "l=loyalty")
    assert Snapshot.open(project.scope).profile_count == 2


def test_drafts_on_either_database(either_node: Node, load: Load) -> None:
    project = either_node.project()
    load(project, "id,email,s,c\n1,ann@x.com,y,blue\n", "email=email_sha256", consent_column="s", attributes=["c"])
    with project.scope.act("test.draft", "x") as tx:
        draft = Draft(project.scope, tx)
        draft.set_members("s1", BitMap([0]))
        draft.publish()
    assert Snapshot.open(project.scope).members("s1") == BitMap([0])
    assert Snapshot.open(project.scope).members("s2") == BitMap()
    assert namespaces(project.scope) == ["email_sha256/lc-v1"]
    assert project.segments.create("blue", rule="c = 'blue'").size == 1


def test_the_number_of_a_basis_that_nobody_has_any_more_is_given_again(project: Project, load: Load) -> None:
    """So the texts of the last words are kept, however many there were."""
    load(project, "id,l\na,1\nb,2\n", "l=loyalty")
    project.consent.set("a", "y", at=1, basis="first")
    project.consent.set("b", "y", at=1, basis="second")
    for number in range(5):
        project.consent.set("a", "n", at=2 + number, basis=f"later-{number}")
        assert project.consent.show("a")["basis"] == f"later-{number}"
        assert project.consent.show("b")["basis"] == "second"
    assert len(Snapshot.open(project.scope).content.bases) <= 3
    project.consent.set("a", "n", at=9)
    project.consent.set("b", "n", at=9)
    assert Snapshot.open(project.scope).content.bases == ()


def _files(project: Project) -> int:
    """Return how many files there are of people; whom generations touched is known for longer."""
    return sum(not each.name.endswith("-touched.roaring") for each in project.scope.data_directory.iterdir())
