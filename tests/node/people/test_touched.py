"""Whom a generation touched: after every random change, whoever differs between two generations is among them."""

import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from loading import Load
from pyroaring import BitMap

from node.erasure.erasure import People
from node.errors import InvalidInput, NotAllowed
from node.governance.lineage import PlaceKind
from node.node import Node
from node.people import touched
from node.people.drafts import Draft
from node.people.snapshots import NUMBER, Snapshot
from node.people.touched import SomeIdentities, touched_since
from node.project import Project
from node.segments import references
from node.segments.evaluation import matching
from node.storage.database import Tx
from node.storage.sorted_files import texts
from psi.values import sort_keys

STEPS = 40
PEOPLE = 12
ADDRESSES = 8  # fewer than people: some are shared
DATASETS = ("crm", "shop")


class Play:
    """A project that is changed at random."""

    def __init__(self, project: Project, load: Load, folder: Path, seed: int) -> None:
        self.project, self.load, self.folder, self.chance = project, load, folder, random.Random(seed)
        self.received: BitMap | None = BitMap()  # the members of a partner's segment; None: it is gone

    def ids(self, most: int = 3) -> list[str]:
        return [f"p{self.chance.randrange(PEOPLE)}" for _ in range(self.chance.randrange(1, most + 1))]

    def known(self) -> list[str]:
        return [each.decode() for each in Snapshot.open(self.project.scope).profile_ids.tolist() if each]

    def people_come(self) -> None:
        lines = "".join(
            f"{name},person{self.chance.randrange(ADDRESSES)}@example.com,{self.chance.choice(['y', 'n', ''])},"
            f"{self.chance.randrange(5)}\n"
            for name in self.ids()
        )
        amount = self.chance.choice(["amount", "Spent"])
        dataset = self.chance.choice(DATASETS) if amount == "amount" else "other"
        content = f"id,email,share,{amount}\n{lines}"
        self.load(
            self.project, content, "email=email_sha256", dataset=dataset, consent_column="share", attributes=[amount]
        )

    def someone_speaks(self) -> None:
        if self.known():
            name, namespace = self.chance.choice(self.known()), self.chance.choice([None, "email_sha256"])
            self.project.consent.set(name, self.chance.choice("yn"), namespace)

    def words_come(self) -> None:
        file = self.folder / "said.csv"
        file.write_text("id,share\n" + "".join(f"{each},{self.chance.choice('yn')}\n" for each in self.ids()))
        with suppress(InvalidInput):  # nobody of them is there
            self.project.consent.import_(file, id_column="id", consent_column="share", namespace="email_sha256")

    def an_export_comes(self) -> None:
        file = self.folder / "ftp_dpm_1_2.sync"
        file.write_text("".join(f"{name}\td_sid={self.chance.choice([7, 8])}\n" for name in self.ids()))
        self.project.profiles.import_audience_manager(file, dataset="aam", own_ids=True)

    def a_list_changes(self) -> None:
        if known := self.known():
            file = self.folder / "list.csv"
            file.write_text("id\n" + "".join(f"{each}\n" for each in {self.chance.choice(known) for _ in range(3)}))
            if "list" in {each.name for each in self.project.segments.all()}:
                self.project.segments.update("list", file)
            else:
                self.project.segments.create("list", members_file=file)

    def a_rule_changes(self) -> None:
        there = {each.name for each in self.project.segments.all()}
        with suppress(InvalidInput):  # no such attribute yet
            if "rich" not in there:
                self.project.segments.create("rich", rule="crm.amount >= 2")
            elif "told" not in there and self.received is not None:
                self.project.segments.create("told", rule="own.rich OR NOT received.acme.vip")
            elif "both" not in there and "list" in there:
                self.project.segments.create("both", rule="own.rich AND NOT own.list")
            else:
                self.project.segments.update("rich", rule=f"crm.amount >= {self.chance.randrange(5)}")

    def rules_are_evaluated(self) -> None:
        """For those alone who were touched, and each as for all of them."""
        scope = self.project.scope
        for each in self.project.segments.evaluate_all():
            if each.tree is not None:
                with scope.read() as tx:
                    snapshot = Snapshot.open(scope, tx)
                    gone = self.received is None and each.name == "told"
                    expected = BitMap() if gone else matching(scope, tx, snapshot, each.tree)
                    assert snapshot.members(each.id) == expected, each.rule

    def a_partner_sends(self) -> None:
        self.received = BitMap(self.chance.sample(range(PEOPLE), 5)) if self.chance.random() < 0.8 else None

    def a_segment_goes(self) -> None:
        with suppress(IndexError, NotAllowed):  # there is none, or another reads it
            self.project.segments.delete(self.chance.choice([each.name for each in self.project.segments.all()]))

    def someone_is_erased(self) -> None:
        if known := self.known():
            self.project.erasure.profiles(People(ids=[self.chance.choice(known)]), may_return=True)

    def a_field_goes(self) -> None:
        names = {each["name"] for each in self.project.datasets.all()}
        if "other" in names and self.chance.random() < 0.3:
            self.project.datasets.delete("other")
        elif "shop" in names and self.chance.random() < 0.3:
            (shop,) = (each for each in self.project.datasets.all() if each["name"] == "shop")
            if fields := sorted({field["name"] for field in shop["fields"]} & {"email", "amount"}):
                with suppress(NotAllowed):  # a rule reads it
                    self.project.datasets.drop_field("shop", self.chance.choice(fields))


class Received:
    """What a partner's segment is to rules: in no generation of the data."""

    def __init__(self, play: Play) -> None:
        self.play = play

    def members(self, _tx: Tx, snapshot: Snapshot, _name: str) -> BitMap:
        if self.play.received is None:
            raise references.Gone("gone")
        return self.play.received & snapshot.everyone

    def names(self, _tx: Tx) -> list[str]:
        return ["acme.vip"]

    def stamp(self, _tx: Tx) -> object:
        return self.play.received


CHANGES = [
    Play.people_come,
    Play.people_come,
    Play.someone_speaks,
    Play.words_come,
    Play.an_export_comes,
    Play.a_list_changes,
    Play.a_rule_changes,
    Play.a_rule_changes,
    Play.a_partner_sends,
    Play.a_segment_goes,
    Play.someone_is_erased,
    Play.a_field_goes,
]


def everything(snapshot: Snapshot) -> dict[int, list[Any]]:
    """Return all that a generation has of each profile, by number."""
    found: dict[int, list[Any]] = {number: [] for number in range(snapshot.profile_count)}
    for number, name in enumerate(snapshot.profile_ids.tolist()):
        found[number].append(("id", name))
    for number, code in enumerate(snapshot.profile_consent.tolist()):
        found[number].append(("said", code))
    for namespace in sorted(snapshot.content.noted):
        for number, code, *_ in snapshot.noted(namespace).tolist():
            found[number].append(("said", namespace, code))
    for namespace in snapshot.namespaces:
        rows = snapshot.rows(namespace)
        for row, number in enumerate(rows.profiles.tolist()):
            source = snapshot.content.sources[rows.sources[row]]
            found[number].append((namespace, bytes(rows.values[row]), source, int(rows.ranks[row])))
    for dataset, path in sorted(snapshot.attributes.items()):
        table = duckdb.read_parquet(str(path))
        for cells_of in table.fetchall():
            cells = dict(zip(table.columns, cells_of, strict=True))
            number = cells.pop(NUMBER)
            found[number] += [(dataset, name, text) for name, text in sorted(cells.items()) if text is not None]
    for segment in sorted(snapshot.content.segments):
        for number in snapshot.members(segment):
            found[number].append(("member", segment))
    return {number: sorted(each, key=repr) for number, each in found.items()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whoever_differs_between_two_generations_was_touched(
    node: Node, load: Load, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(node.project(), load, tmp_path, seed)
    monkeypatch.setitem(references.KINDS, PlaceKind.RECEIVED, lambda _scope: Received(play))
    play.people_come()
    known: dict[int, dict[int, list[Any]]] = {}
    answered = 0
    for _ in range(STEPS):
        change = play.chance.choice(CHANGES)
        change(play)
        if play.chance.random() < 0.5:
            play.rules_are_evaluated()
        snapshot = Snapshot.open(play.project.scope)
        now = known[snapshot.generation] = everything(snapshot)
        for generation, before in known.items():
            differ = {number for number in now if now[number] != before.get(number)}
            found = touched_since(snapshot, generation)
            if found is not None:
                answered += bool(differ)
                assert differ <= set(found), (change.__name__, generation)
    assert answered > STEPS


def test_they_are_known_for_so_many_generations_and_so_many_people(
    project: Project, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.people.drafts.MOST_GENERATIONS", 3)
    load(project, "id,l\n" + "".join(f"{n},{n}\n" for n in range(40)), "l=loyalty")
    for number in range(3):
        load(project, f"id,l\n{number},x\n", "l=loyalty")
    snapshot = Snapshot.open(project.scope)
    assert [touched_since(snapshot, g) for g in range(5)] == [
        None,
        BitMap([0, 1, 2]),
        BitMap([1, 2]),
        BitMap([2]),
        BitMap(),
    ]
    assert touched_since(snapshot, 5) is None  # of a home that has gone on without this data
    monkeypatch.setattr(touched, "FEW", 1)
    assert touched_since(snapshot, 1) is None
    assert touched_since(snapshot, 2) == BitMap([1, 2])
    load(project, "id,l\n1,y\n2,y\n3,y\n", "l=loyalty")
    load(project, "id,l\n1,z\n", "l=loyalty")
    snapshot = Snapshot.open(project.scope)
    assert (touched_since(snapshot, 4), touched_since(snapshot, 5)) == (None, BitMap([1]))


def test_what_changed_before_a_version_that_noted_nobody_is_not_known(project: Project, load: Load) -> None:
    load(project, "id,l\n1,a\n", "l=loyalty")
    with project.scope.begin() as tx:
        draft = Draft(project.scope, tx)
        draft.base.content = replace(draft.base.content, touched=())
        draft.publish()
    load(project, "id,l\n1,b\n", "l=loyalty")
    snapshot = Snapshot.open(project.scope)
    assert [touched_since(snapshot, g) for g in range(4)] == [None, BitMap([0]), BitMap([0]), BitMap()]


@pytest.mark.parametrize("content", [None, b"", b"no bitmap"])
def test_without_the_file_of_a_generation_it_may_be_anybody(
    project: Project, load: Load, content: bytes | None
) -> None:
    for value in "abc":
        load(project, f"id,l\n1,{value}\n", "l=loyalty")
    snapshot = Snapshot.open(project.scope)
    damaged = snapshot.directory / snapshot.content.touched[1]
    damaged.unlink() if content is None else damaged.write_bytes(content)
    assert [touched_since(snapshot, g) for g in range(4)] == [None, None, BitMap([0]), BitMap()]


@pytest.mark.parametrize("searched", [0, 1 << 20])
def test_rows_that_have_some_identities_are_found_by_reading_all_or_by_searching(
    project: Project, load: Load, monkeypatch: pytest.MonkeyPatch, searched: int
) -> None:
    lines = "".join(f"{n},person{n % 23}@example.com,{n % 7}\n" for n in range(40))
    load(project, f"id,email,l\n{lines}", "email=email_sha256", "l=loyalty")
    monkeypatch.setattr(touched, "SEARCHED", searched)
    snapshot = Snapshot.open(project.scope)
    for namespace in snapshot.namespaces:
        values = snapshot.distinct(namespace)[0]
        for wanted in (values.part(slice(0)), values.part(slice(0, None, 3)), values):
            some = SomeIdentities.having(snapshot, {namespace: wanted})
            mask = np.isin(texts(sort_keys(snapshot.rows(namespace).values)), texts(sort_keys(wanted)))
            assert some.places[namespace].tolist() == np.flatnonzero(mask).tolist()
            assert set(some.holders) == set(snapshot.rows(namespace).profiles[mask].tolist())
