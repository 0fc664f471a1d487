"""Snapshots and drafts: what is stored, what survives, and what a pinned reader sees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyroaring import BitMap

from node.errors import DiskFull, Failure
from node.imports.importer import IdentityColumn
from node.node import Node
from node.people import data
from node.people.data import Draft, Held, Snapshot, order
from node.project import Project
from node.storage import files
from psi.values import Values

IDFA = "6d92078a-8246-4ba4-ae5b-76104861e7dc"

Load = Callable[..., None]


@pytest.fixture
def project(node: Node) -> Project:
    return node.project()


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(project: Project, content: str, *identity: str, dataset: str = "crm", **options: object) -> None:
        path = tmp_path / "people.csv"
        path.write_text(content)
        columns = [IdentityColumn.parse(text) for text in identity]
        project.profiles.import_(path, dataset=dataset, id_column="id", identities=columns, **options)  # type: ignore[arg-type]

    return load


@pytest.mark.feature("ID5")
def test_the_same_text_in_two_namespaces_is_two_identities(project: Project, load: Load) -> None:
    load(project, f"id,a,b,c\n1,{IDFA},,{IDFA}\n2,,{IDFA},x\n", "a=idfa", "b=gaid", "c=loyalty")
    snapshot = Snapshot.open(project)
    assert snapshot.namespaces == ["gaid/uuid-v1", "idfa/uuid-v1", "loyalty/opaque-v1"]
    assert snapshot.identities("idfa/uuid-v1").profiles.tolist() == [0]
    assert snapshot.identities("gaid/uuid-v1").profiles.tolist() == [1]
    assert snapshot.identities("idfa/uuid-v1").values[0] == snapshot.identities("gaid/uuid-v1").values[0]
    assert len(snapshot.identities("loyalty/opaque-v1")) == 2
    assert len(snapshot.identities("nothing/opaque-v1")) == 0


def test_identities_are_sorted_and_group_by_value(project: Project, load: Load) -> None:
    load(project, "id,l\n9,bb\n8,a\n7,bb\n6,a\n5,a \n9,bb\n", "l=loyalty")
    load(project, "id,l\n7,bb\n4,b\n", "l=loyalty", dataset="shop")
    snapshot = Snapshot.open(project)
    held = snapshot.identities("loyalty/opaque-v1")
    rows = [(held.values[row], int(held.profiles[row])) for row in range(len(held))]
    assert rows == sorted(rows) == [(b"a", 1), (b"a", 3), (b"a ", 4), (b"b", 5), (b"bb", 0), (b"bb", 2)]
    values, starts = snapshot.distinct("loyalty/opaque-v1")
    assert [values[row] for row in range(len(values))] == [b"a", b"a ", b"b", b"bb"]
    assert starts.tolist() == snapshot.starts("loyalty/opaque-v1").tolist() == [0, 2, 3, 4]
    assert np.add.reduceat(np.ones(6, int), starts).tolist() == [2, 1, 1, 2]


def test_order_sees_past_equal_beginnings() -> None:
    rows = np.random.default_rng(1).integers(0, 2, (500, 19), np.uint8)
    values = Values(rows)
    found = values.take(order(values, np.zeros(500, np.uint32)))
    assert [found[row] for row in range(500)] == sorted(row.tobytes() for row in rows)


def test_order_is_by_value_then_by_columns_then_by_place() -> None:
    random = np.random.default_rng(2)
    for width in (0, 1, 8, 9, 24):
        rows, lengths = (
            random.integers(0, 2, (300, width), np.uint8),
            random.integers(0, width + 1, 300).astype(np.uint8),
        )
        rows[:, : min(width, 8)] = rows[0, : min(width, 8)] if width > 9 else rows[:, : min(width, 8)]
        rows[np.arange(width) >= lengths[:, None]] = 0
        profiles, ranks = random.integers(0, 4, 300).astype(np.uint32), random.integers(0, 2, 300).astype(np.uint16)
        values = Values(rows, lengths)
        keys = [(rows[row].tobytes(), lengths[row], profiles[row], ranks[row], row) for row in range(300)]
        assert order(values, profiles, ranks).tolist() == [key[-1] for key in sorted(keys)]
        held = Held(values=values, profiles=profiles, sources=np.zeros(300, np.uint16), ranks=ranks).sorted()
        lowest = {key[:3]: key[3] for key in sorted(keys, reverse=True)}
        found = zip(held.values.rows, held.values.lengths, held.profiles, held.ranks, strict=True)
        assert [(row.tobytes(), *rest) for row, *rest in found] == [(*key, lowest[key]) for key in sorted(lowest)]


@pytest.mark.parametrize("beginning", ["", "customer-"])
def test_profiles_are_numbered_as_they_appear(project: Project, load: Load, beginning: str) -> None:
    random, numbers = np.random.default_rng(3), dict[str, int]()
    for last in (40, 200):
        ids = [f"{beginning}{number}" for number in random.integers(0, last, 300).tolist()]
        load(project, "id,l\n" + "".join(f"{name},{name}\n" for name in ids), "l=loyalty")
        for name in ids:
            numbers.setdefault(name, len(numbers))
        snapshot = Snapshot.open(project)
        assert snapshot.profile_ids.tolist() == [name.encode() for name in numbers]
        assert snapshot.numbers(np.array([*numbers, "nobody"], np.bytes_)).tolist() == [*numbers.values(), -1]
        held = snapshot.identities("loyalty/opaque-v1")
        assert {held.values[row].decode(): int(held.profiles[row]) for row in range(len(held))} == numbers


def test_profile_numbers_stay(project: Project, load: Load) -> None:
    load(project, "id,l\nb,1\na,2\n", "l=loyalty")
    load(project, "id,l\nc,3\na,4\nlonger-id,5\n", "l=loyalty")
    snapshot = Snapshot.open(project)
    assert snapshot.numbers(np.array([b"a", b"b", b"c", b"longer-id", b"nobody"])).tolist() == [1, 0, 2, 3, -1]
    assert [each["value"] for each in project.profiles.show("a")["identities"]] == ["4"]


def test_a_profile_has_one_primary_identity(project: Project, load: Load) -> None:
    content = "id,email,l\n1,z@x.com,\n1,a@x.com,A\n2,,B\n3,c@x.com,C\n"
    load(project, content, "email=email_sha256", "l=loyalty")

    def primary(profile: str) -> list[str]:
        return [each["namespace"] for each in project.profiles.show(profile)["identities"] if each["primary"]]

    assert [primary(each) for each in "123"] == [["email_sha256/lc-v1"], ["loyalty/opaque-v1"], ["email_sha256/lc-v1"]]
    first = next(each for each in project.profiles.show("1")["identities"] if each["primary"])
    load(project, "id,email\n9,z@x.com\n", "email=email_sha256", dataset="other")
    assert first["value"] == project.profiles.show("9")["identities"][0]["value"]
    load(project, content, "email=email_sha256", "l=loyalty:primary")
    assert [primary(each) for each in "123"] == [["loyalty/opaque-v1"]] * 3


def test_a_pinned_snapshot_stays_and_old_files_go(project: Project, load: Load) -> None:
    load(project, "id,l\n1,a\n", "l=loyalty")
    pinned = Snapshot.open(project)
    for number in range(data.KEPT_GENERATIONS - 1):
        load(project, f"id,l\n1,b{number}\n", "l=loyalty")
    assert pinned.identities("loyalty/opaque-v1").values[0] == b"a"
    stored = len(list(project.data_directory.iterdir()))
    load(project, "id,l\n1,c\n", "l=loyalty")
    assert len(list(project.data_directory.iterdir())) <= stored
    with pytest.raises(Failure, match="missing"):
        Snapshot(pinned.directory, 1, pinned.content).identities("loyalty/opaque-v1")
    assert Snapshot.open(project).generation == data.KEPT_GENERATIONS + 1


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
        patch.setattr(data, "write_atomically", full)
        with pytest.raises(DiskFull):
            load(project, "id,l,c\n1,b,x\n2,c,y\n", "l=loyalty", attributes=["c"])
    snapshot = Snapshot.open(project)
    assert (snapshot.generation, snapshot.profile_count) == (1, 1)
    assert snapshot.identities("loyalty/opaque-v1").values[0] == b"a"
    assert project.node.audit.list(limit=1)[0].result == "fail"
    load(project, "id,l\n1,b\n2,c\n", "l=loyalty")
    assert Snapshot.open(project).profile_count == 2


def test_drafts_on_either_database(either_node: Node, load: Load) -> None:
    project = either_node.project()
    load(project, "id,email,s,c\n1,ann@x.com,y,blue\n", "email=email_sha256", consent_column="s", attributes=["c"])
    with project.act("test.draft", "x") as tx:
        draft = Draft(project, tx)
        draft.set_members("s1", BitMap([0]))
        draft.publish()
    assert Snapshot.open(project).members("s1") == BitMap([0])
    assert Snapshot.open(project).members("s2") == BitMap()
    assert project.namespaces() == ["email_sha256/lc-v1"]
    assert project.segments.create("blue", rule="c = 'blue'").size == 1
