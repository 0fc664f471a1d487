"""Traits and segments of traits in the project: who of them is a profile, who becomes one, and where they may go."""

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clock import Clock
from sqlalchemy import select

from node.audiencemanager import following, imported, receiving, traits
from node.audiencemanager.controls import ExportControl
from node.destinations import due
from node.erasure.erasure import People
from node.errors import NotAllowed, NotFound
from node.feeds.sending import parts
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.operations.jobs import OPEN
from node.people.snapshots import Snapshot
from node.project import Project
from node.segments import references
from node.storage.tables import jobs
from psi.values import Values

GAID = 20914
KNOWN, UNKNOWN = (0, 1, 2), (8, 9)  # devices of people, and of nobody yet
OUTBOUND = {"format": "audience-manager", "destination_id": "1", "data_source": "20914"}


def device(number: int) -> uuid.UUID:
    return uuid.UUID(int=(4 << 76) + (8 << 62) + number)


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    """People p0 to p5 with a device each; traits 1000 and 1001 of visitors of whom p0 to p2 have the devices, and a
    segment of the second one."""
    project = node.project()
    file = tmp_path / "crm.csv"
    file.write_text("id,visits,gaid\n" + "".join(f"p{each},{each},{device(each)}\n" for each in range(6)))
    columns = [IdentityColumn.parse("gaid=gaid")]
    project.profiles.import_(file, dataset="crm", id_column="id", identities=columns, attributes=["visits"])
    project.consent.set_model("opt-out")
    project.audience.sources.create("Card data", kind="third-party")
    project.audience.traits.create("Gold card", source="Card data")
    project.audience.traits.create("New", source="Card data", days=1)
    project.audience.segments.create("Brand new", rule="1001T", source="Card data")
    realise(project, 1000, *KNOWN, *UNKNOWN)
    realise(project, 1001, 1, 2, 9)
    return project


def realise(project: Project, trait: int, *numbers: int, come: bool = True) -> None:
    values = Values.of([device(each).bytes for each in numbers])
    receiving.receive_members(project.scope, trait, GAID, values, np.full(len(numbers), come))


def members(project: Project, name: str) -> list[str]:
    project.segments.evaluate()
    ids = Snapshot.open(project.scope).profile_ids
    return sorted(ids[each].decode() for each in project.segments.members(name))


def content(project: Project) -> str:
    """Return a digest of all files of a home, and of what its rows are."""
    home = project.scope.home
    kept = [each for each in sorted(home.path.rglob("*")) if each.is_file() and ".db" not in each.name]
    found = hashlib.sha256(b"".join(each.name.encode() + each.read_bytes() for each in kept))
    with home.read() as tx:
        found.update(str([imported.stored(project.scope, tx), references.pickable(project.scope, tx)]).encode())
    found.update(str(len(home.audit.entries())).encode())
    return found.hexdigest()


@pytest.mark.feature("AM9")
def test_the_growth_that_is_shown_is_the_growth_that_comes(project: Project) -> None:
    before = content(project)
    shown = project.audience.imports.preview(["Gold card"], ["Brand new"])
    assert content(project) == before  # who looks, and declines, has changed nothing
    assert shown.as_dict() == {
        "traits": ["Gold card"],
        "segments": ["Brand new"],
        "visitors": 5,
        "identities": 5,
        "known": 3,
        "new": 2,
        "left_out": 0,
        "before": 6,
        "after": 8,
        "percent": 33.3,
    }
    assert project.audience.imports.import_(["Gold card"], ["Brand new"]) == shown
    assert len(Snapshot.open(project.scope).everyone) == shown.after
    assert "audience" in (each["name"] for each in project.datasets.all())
    again = project.audience.imports.preview(everything=True)
    assert (again.known, again.new, again.before) == (5, 0, 8)


@pytest.mark.feature("AM9")
@pytest.mark.parametrize("other", ["4009", "40010"], ids=["of one length", "of several"])
def test_ids_of_a_namespace_of_ours_are_those_of_people(project: Project, tmp_path: Path, other: str) -> None:
    file = tmp_path / "cards.csv"
    file.write_text("id,card\np0,4001\np1,4002\n")
    project.profiles.import_(file, dataset="cards", id_column="id", identities=[IdentityColumn.parse("card=loyalty")])
    number = project.audience.sources.create("Loyalty card", namespace="loyalty")["number"]
    project.audience.traits.create("Buyers", source="Loyalty card")
    trait = project.audience.traits.show("Buyers")["number"]
    values = Values.of([b"4002", other.encode()])
    receiving.receive_members(project.scope, trait, number, values, np.ones(2, bool))
    growth = project.audience.imports.import_(["Buyers"])
    assert (growth.known, growth.new) == (1, 1)
    found = members(project, "trait.buyers")
    assert found[0] == "p1"
    assert project.consent.show(found[1])["share"] is None  # a visitor has said nothing
    assert project.audience.imports.preview(["Buyers"]).known == 2
    project.consent.set("p1", "n")  # which decides about p1 as a profile, and not as a visitor
    receiving.receive_members(project.scope, trait, number, values, np.ones(2, bool))
    assert project.audience.traits.show("Buyers")["members"] == 2


@pytest.mark.feature("AM9")
def test_who_was_erased_here_does_not_come_back(project: Project) -> None:
    project.audience.imports.import_(["Gold card"])
    gone = [each for each in members(project, "trait.gold-card") if each.startswith("visitor-")]
    project.erasure.profiles(People(ids=gone[:1]))
    realise(project, 1000, *UNKNOWN)
    growth = project.audience.imports.preview(["Gold card"])
    assert (growth.new, growth.before) == (0, 7)


@pytest.mark.feature("AM2")
def test_an_imported_trait_and_a_rule_of_ours_are_the_people_who_are_in_both(project: Project) -> None:
    project.audience.imports.import_(["Gold card"], ["Brand new"])
    project.segments.create("both", rule="trait.gold-card AND visits >= 1")
    project.segments.create("new", rule="audience.brand-new AND NOT own.both")
    assert members(project, "both") == ["p1", "p2"]
    assert members(project, "new") == [each for each in members(project, "audience.brand-new") if each[0] == "v"]
    assert [each["size"] for each in project.audience.imports.all()] == [3, 5]


@pytest.mark.feature("AM2")
def test_members_follow_realisations_their_expiry_and_the_data(project: Project, clock: Clock, tmp_path: Path) -> None:
    project.audience.imports.import_(["Gold card"], ["Brand new"])
    project.segments.create("new", rule="audience.brand-new AND visits >= 0")
    realise(project, 1001, 3)
    assert members(project, "new") == ["p1", "p2", "p3"]
    realise(project, 1001, 1, come=False)
    assert members(project, "new") == ["p2", "p3"]
    realise(project, 1000, 30)
    assert len(members(project, "trait.gold-card")) == 5
    file = tmp_path / "more.csv"
    file.write_text(f"id,gaid\nq1,{device(30)}\n")  # a visitor that is no profile until now
    project.profiles.import_(file, dataset="more", id_column="id", identities=[IdentityColumn.parse("gaid=gaid")])
    assert "q1" in members(project, "trait.gold-card")
    clock.advance(days=2)
    assert members(project, "new") == []
    assert len(members(project, "trait.gold-card")) == 6


def rule(project: Project, name: str) -> object:
    return project.segments.create("ruled", rule=f"{name} AND NOT own.none OR visits > 100").size


def condition(project: Project, name: str) -> object:
    return project.consent_policies.create("cond", "visits > 1", applies=name, action="analytics").uses[-1] == name


def read_by_policy(project: Project, name: str) -> object:
    return name in project.consent_policies.create("reads", name, applies="own.none", action="analytics").uses


def narrowed(project: Project, name: str) -> object:
    return project.consent_policies.preview([name], "visits > 100")[0].segment_only


def checked(project: Project, name: str) -> object:
    return project.governance.check([name]) == []


def shared_with_partners(project: Project, name: str) -> object:
    with project.scope.read() as tx:  # as feeds and estimates look their segments up
        return parts.segment_ref(project.scope, tx, name).name == name


def activated(project: Project, name: str) -> object:
    folder = project.scope.home.path.parent / "drop"
    folder.mkdir()
    project.destinations.create("drop", kind="file", settings={"folder": str(folder)})
    project.destinations.activate("drop", [name])
    return project.destinations.show("drop")["segments"][0]["present"]


def exported(project: Project, name: str) -> object:
    file = project.scope.home.path.parent / "out.csv"
    project.files.export(name, file, force=True)
    return len(file.read_text().splitlines()) - 1


def counted(project: Project, name: str) -> object:
    return len(project.segments.members(name))


PLACES: dict[str, Callable[[Project, str], object]] = {
    "a rule": rule,
    "a consent policy": condition,
    "the condition of a consent policy": read_by_policy,
    "the preview of a consent policy": narrowed,
    "a policy check": checked,
    "a feed": shared_with_partners,
    "a destination": activated,
    "a file": exported,
    "members": counted,
}


@pytest.mark.feature("AM9")
def test_imports_can_be_picked_wherever_a_shared_segment_can(project: Project, tmp_path: Path) -> None:
    project.audience.imports.import_(["Gold card"], ["Brand new"])
    project.segments.create("none", rule="visits > 1000")
    picked = [each.name for each in project.segments.pickable()]
    assert picked == ["none", "trait.gold-card", "audience.brand-new"]
    for place, act in PLACES.items():
        assert act(project, "trait.gold-card") in (True, 5), place


@pytest.mark.feature("AM4")
def test_the_controls_of_its_data_source_go_with_it(project: Project, tmp_path: Path) -> None:
    project.audience.sources.control("Card data", add=["off-site-ads"])
    project.audience.imports.import_(["Gold card"], ["Brand new"])
    project.segments.create("made", rule="trait.gold-card AND visits >= 0")
    for name in ("trait.gold-card", "audience.brand-new", "made"):
        assert list(project.labels.labels_of_segment(name)) == ["C5"]
    folder = {"folder": str(tmp_path)}
    project.destinations.create("ads", "file", folder, uses=["cross-site-targeting"])
    project.destinations.create("mail", "file", folder, uses=["email-targeting"])
    for name in ("made", "audience.brand-new"):
        with pytest.raises(ExportControl, match=r"Card data.*off-site-ads.*ads"):
            project.destinations.activate("ads", [name])
    project.destinations.activate("mail", ["made"])
    project.audience.sources.control("Card data", remove=["off-site-ads"])
    project.destinations.activate("ads", ["made"])
    with pytest.raises(ExportControl):  # not while it goes where the control forbids it
        project.audience.sources.control("Card data", add=["off-site-ads"])


@pytest.mark.feature("AM2")
def test_who_reads_what_is_gone_has_nobody(project: Project) -> None:
    project.audience.imports.import_(["Gold card"], ["Brand new"])
    project.segments.create("others", rule="visits >= 0 AND NOT trait.gold-card")
    with pytest.raises(NotAllowed, match=r"the import trait\.gold-card"):
        project.audience.traits.delete("Gold card")
    with project.scope.begin() as tx:  # as its segment of the platform ends
        trait = traits.by_number(project.scope, tx, 1000)
        assert trait is not None
        traits.remove(project.scope, tx, trait)
    assert members(project, "others") == []
    with pytest.raises(references.Gone, match=r"no trait\.gold-card"):
        project.segments.members("trait.gold-card")
    project.segments.create("kept", rule="audience.brand-new")
    assert project.audience.imports.remove("audience.brand-new") == ["kept"]
    assert members(project, "kept") == []
    with pytest.raises(NotFound):
        project.audience.imports.remove("audience.brand-new")


@pytest.mark.feature("AM9")
def test_a_segment_of_traits_goes_to_a_destination_under_its_number(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    project.destinations.create("aam", "file", {"folder": str(folder), **OUTBOUND}, identity="gaid", uses=["analytics"])
    with pytest.raises(NotAllowed, match="not imported"):
        project.audience.imports.segment("Brand new")
    project.audience.imports.import_(segments=["Brand new"])
    found = project.audience.imports.segment("Brand new")
    project.destinations.activate("aam", [found["reference"]], audience_id=str(found["number"]))
    (file,) = folder.glob("*.sync")
    assert sorted(file.read_text().splitlines()) == [f"{device(each)}\t{found['number']}" for each in (1, 2, 9)]


@pytest.mark.feature("AM2")
def test_a_sync_sends_what_realisations_and_midnight_have_changed(
    project: Project, clock: Clock, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    project.audience.imports.import_(["Gold card"], ["Brand new"])
    project.segments.create("read", rule="audience.brand-new AND visits >= 0")
    project.segments.create("nested", rule="own.read AND visits >= 2")
    project.destinations.create("drop", "file", {"folder": str(folder)})
    project.destinations.activate("drop", ["audience.brand-new", "read", "nested"])

    def present() -> list[int]:
        project.destinations.sync("drop")
        return [each["present"] for each in project.destinations.show("drop")["segments"]]

    assert sorted(present()) == [1, 2, 3]
    realise(project, 1001, 3)
    assert sorted(present()) == [2, 3, 4]
    clock.advance(days=2)
    assert present() == [0, 0, 0]


@pytest.mark.feature("AM2")
def test_signals_that_come_all_the_time_hold_up_no_import_and_none_is_missed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, devices = following.evaluate, iter([3, 4])

    def while_more_comes(*arguments: Any) -> Any:
        found = evaluate(*arguments)
        for each in devices:
            realise(project, 1000, each)
            break
        return found

    monkeypatch.setattr(following, "evaluate", while_more_comes)
    project.audience.imports.import_(["Gold card"])  # p3 comes while it is evaluated
    for come in (["p3"], ["p3", "p4"]):  # p4 comes while the first of these is
        following.follow(project.scope)
        snapshot = Snapshot.open(project.scope)
        there = {snapshot.profile_ids[each].decode() for each in project.segments.members("trait.gold-card")}
        assert there >= set(come)


def test_signals_that_change_no_members_make_no_destination_due(project: Project, tmp_path: Path) -> None:
    project.audience.imports.import_(["Gold card"])
    project.segments.create("read", rule="trait.gold-card AND visits >= 0")
    project.destinations.create("drop", "file", {"folder": str(tmp_path)})
    project.destinations.activate("drop", ["trait.gold-card", "read"])

    def is_due() -> bool:
        following.follow(project.scope)
        due.submit_due(project.scope)
        with project.scope.read() as tx:
            return tx.execute(select(jobs.c.id).where(jobs.c.state.in_(OPEN))).first() is not None

    assert not is_due()
    realise(project, 1000, 70)  # no profile has that device
    realise(project, 1001, 3)  # nobody reads that trait
    assert not is_due()
    realise(project, 1000, 3)
    assert is_due()
