"""Removals that fail are said again by themselves, and a run that would remove most of a segment waits for a person."""

from pathlib import Path

import pytest
from clock import Clock
from targets import Folder, names, prepared

from node.destinations import brake, due, kinds
from node.destinations.changes import Act
from node.destinations.kinds import Delivered, Gone, Later, Refused
from node.destinations.targets import folders
from node.erasure.erasure import People
from node.errors import InvalidInput
from node.governance.lineage import PlaceKind
from node.node import Node
from node.project import Project
from psi.errors import Remedy

DAY = 86_400


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    return prepared(node.project(), tmp_path, 12, s="orders >= 4", t="orders < 4")


class Answers:
    """What the target says instead of taking a message; None: it takes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: kinds.Outcome | None = None
        send = folders.FolderTarget.send
        monkeypatch.setattr(folders.FolderTarget, "send", lambda target, message: self.now or send(target, message))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    return Answers(monkeypatch)


def fail_a_removal(project: Project, answers: Answers, clock: Clock) -> None:
    """Let the removal of p4 fail three times, and the adding of p3 at once."""
    project.destinations.activate("out", ["s"])
    answers.now = Later("timeout")
    project.consent.set("p4", "n")
    for seconds in (0, 15, 30):
        clock.advance(seconds=seconds)
        project.destinations.sync("out")
    answers.now = Refused("http_400")
    project.segments.update("s", rule="orders >= 3")
    project.destinations.sync("out")
    assert project.destinations.show("out")["failed"] == 2
    answers.now = None


def test_a_removal_that_failed_is_said_again_a_day_later_and_an_addition_at_a_replay(
    project: Project, folder: Folder, answers: Answers, clock: Clock
) -> None:
    fail_a_removal(project, answers, clock)
    project.destinations.sync("out")
    clock.advance(seconds=DAY - 31)
    project.destinations.sync("out")
    assert folder.look() == names(*range(4, 12))
    assert due.submit_due(project.scope) is not None
    clock.advance(seconds=31)
    answers.now = Refused("http_400")
    project.destinations.sync("out")  # and once a day until it has arrived
    project.destinations.sync("out")
    assert project.destinations.runs("out")[0]["requests"] == 1
    answers.now = None
    clock.advance(seconds=DAY)
    project.destinations.sync("out")
    assert folder.look() == names(*range(5, 12))
    project.destinations.replay("out")
    assert folder.look() == names(3, *range(5, 12))


def test_a_removal_leaves_though_nothing_can_be_made_of_the_additions(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = folders.FolderTarget.encode

    def encoded(target: folders.FolderTarget, batch: kinds.Batch) -> bytes:
        if batch.revision > 1 and Act.ADD in batch.acts:
            raise kinds.NotEncoded("template", "an attribute is none of its forms")
        return encode(target, batch)

    project.destinations.activate("out", ["s"])
    monkeypatch.setattr(folders.FolderTarget, "encode", encoded)
    with monkeypatch.context() as paused:
        paused.setattr(folders.FolderTarget, "send", lambda _target, _message: Later("timeout"))
        project.consent.set("p4", "n")
        project.segments.update("s", rule="orders >= 3")
        project.destinations.sync("out")
    assert folder.look() == names(*range(4, 12))
    project.destinations.resume("out")
    assert folder.look() == names(*range(5, 12))
    counted = project.destinations.runs("out")[0]
    assert [counted[each] for each in ("received", "activated", "failed", "waiting")] == [10, 9, 1, 0]


def test_a_removal_that_failed_is_said_again_with_the_next_one(
    project: Project, folder: Folder, answers: Answers, clock: Clock
) -> None:
    fail_a_removal(project, answers, clock)
    project.segments.update("s", rule="orders >= 2")
    project.destinations.sync("out")
    assert folder.look() == names(2, *range(4, 12))  # what comes says nothing of those who have to go
    project.consent.set("p9", "n")
    project.destinations.sync("out")
    assert folder.look() == names(2, 5, 6, 7, 8, 10, 11)


def test_a_removal_that_failed_is_todays_truth(
    project: Project, folder: Folder, answers: Answers, clock: Clock
) -> None:
    fail_a_removal(project, answers, clock)
    project.consent.set("p4", "y")
    clock.advance(days=1)
    project.destinations.sync("out")
    assert "p4" in folder.look()
    assert ("exited", "p4") not in folder.changes


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps_neither_loses_a_removal_nor_repeats_it(
    project: Project, folder: Folder, answers: Answers, clock: Clock, days: int
) -> None:
    fail_a_removal(project, answers, clock)
    clock.advance(days=days)
    for _ in range(3):
        project.destinations.sync("out")
    assert folder.look() == names(*range(5, 12))
    assert folder.changes.count(("exited", "p4")) == 1


def test_a_target_that_is_gone_while_it_is_deleted_is_left_with_its_members(
    project: Project, folder: Folder, answers: Answers
) -> None:
    project.destinations.activate("out", ["s"])
    answers.now = Gone()
    assert project.destinations.delete("out")["status"] == "disabled"
    (alert,) = project.alerts.all()
    assert "its members stay there" in alert.text
    assert alert.remedy == Remedy("destination.delete", {"name": "out", "leave": True}).document()
    project.destinations.delete("out", leave=True)
    assert project.destinations.all() == []
    assert folder.look() == names(*range(4, 12))


@pytest.fixture
def braked(project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose rule has lost seven of eight members of s, which waits for a person."""
    monkeypatch.setattr(brake, "FEWEST", 3)
    project.destinations.activate("out", ["s"])
    project.segments.update("s", rule="orders < 5 AND orders > 2")
    project.destinations.sync("out")
    return project


def test_a_run_that_would_remove_most_waits_for_a_yes(braked: Project, folder: Folder) -> None:
    assert folder.look() == names(*range(4, 12))  # p3 is not sent either
    (alert,) = braked.alerts.all()
    assert alert.text.startswith("destination out would lose most of segment s: 7 removals")
    assert braked.destinations.show("out")["segments"][0]["held"] == 7
    braked.destinations.activate("out", ["t"])  # nothing else is held up
    assert folder.look() == names(*range(12))
    braked.destinations.sync("out")
    braked.destinations.sync("out", yes=True)
    assert folder.look() == names(*range(5))
    assert "destination_braked" not in {each.kind for each in braked.alerts.all(open_only=True)}
    (entry,) = braked.scope.home.audit.entries(act="destination.sync")
    assert entry.as_dict()["detail"] == {"yes": True, "segments": {"s": 7}}


def test_who_withdraws_or_is_erased_goes_while_the_rest_waits(braked: Project, folder: Folder) -> None:
    braked.consent.set("p9", "n")
    braked.erasure.profiles(People(ids=["p8"]))
    braked.destinations.sync("out")
    assert folder.look() == names(4, 5, 6, 7, 10, 11)
    (alert,) = braked.alerts.all()
    assert ": 5 removals" in alert.text
    braked.segments.update("s", rule="orders >= 4")
    braked.destinations.sync("out")  # the mistake is mended
    assert folder.look() == names(4, 5, 6, 7, 10, 11)
    assert "destination_braked" not in {each.kind for each in braked.alerts.all(open_only=True)}
    assert braked.destinations.show("out")["segments"][0]["held"] == 0


def test_a_yes_is_to_what_was_held_when_it_was_said(braked: Project, folder: Folder) -> None:
    braked.destinations.pause("out")
    braked.destinations.sync("out", yes=True)  # to 7 removals
    braked.segments.update("s", rule="orders < 0")
    braked.destinations.resume("out")
    assert folder.look() == names(*range(4, 12))
    assert braked.destinations.show("out")["segments"][0]["held"] == 8
    braked.destinations.sync("out", yes=True)
    assert folder.look() == set()


def test_what_people_labels_and_persons_take_back_passes_the_brake(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brake, "FEWEST", 3)
    project.destinations.activate("out", ["s"])
    project.erasure.profiles(People(ids=[f"p{n}" for n in range(4, 9)]))
    project.destinations.sync("out")
    assert folder.look() == names(9, 10, 11)
    project.segments.update("s", rule="orders >= 0")
    project.destinations.sync("out")
    project.labels.apply("C8", PlaceKind.SEGMENT, "s")
    project.policies.enable("restrict-analytics")
    project.destinations.sync("out")
    assert folder.look() == set()
    project.labels.remove("C8", PlaceKind.SEGMENT, "s")
    project.destinations.sync("out")
    for n in (0, 1, 2, 3, 9):
        project.consent.set(f"p{n}", "n")
    project.destinations.sync("out")
    assert folder.look() == names(10, 11)
    project.consent.set("p3", "y")
    project.destinations.sync("out")
    project.destinations.deactivate("out", ["s"])
    assert folder.look() == set()
    assert [each.kind for each in project.alerts.all() if each.kind == "destination_braked"] == []


def test_the_brake_is_set_for_each_destination(
    project: Project, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brake, "FEWEST", 1)
    other = Folder(tmp_path / "other")
    settings = {"folder": str(other.path)}
    project.destinations.create("other", "file", settings, uses=["analytics"], brake=10)
    for name in ("out", "other"):
        project.destinations.activate(name, ["s"])
    project.segments.update("s", rule="orders >= 6")
    for name in ("out", "other"):
        project.destinations.sync(name)
    assert (folder.look(), other.look()) == (names(*range(6, 12)), names(*range(4, 12)))
    project.destinations.edit("other", brake=100)
    project.destinations.sync("other", yes=True)
    project.segments.update("s", rule="orders >= 12")
    project.destinations.sync("other")
    assert other.look() == set()
    for wrong in (-1, 101):
        with pytest.raises(InvalidInput, match="per cent"):
            project.destinations.edit("out", brake=wrong)


@pytest.mark.feature("EC5")
def test_a_paused_destination_says_whom_it_keeps_and_what_is_deactivated_goes(project: Project, folder: Folder) -> None:
    project.destinations.activate("out", ["s", "t"])
    project.destinations.pause("out")
    erased = project.erasure.profiles(People(ids=["p5"]), prove=True)
    assert erased["destinations"] == ["out (paused)"]
    assert {"place": "destination out (paused)", "before": 1, "after": 1} in erased["places"]
    project.destinations.sync("out")
    assert project.destinations.show("out")["erased"] == 1
    assert folder.look() == names(*range(12))
    project.destinations.deactivate("out", ["s"])
    assert folder.look() == names(*range(4))
    shown = project.destinations.show("out")
    assert (shown["status"], shown["gets"], shown["erased"]) == ("paused", ["t"], 0)


def test_what_has_come_of_a_run_that_is_under_way_is_counted(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(folders.FOLDER), "limit", 2)
    send, said = folders.FolderTarget.send, list[object]()

    def answer(target: folders.FolderTarget, message: kinds.Message) -> kinds.Outcome:
        said.append(message)
        outcomes: list[kinds.Outcome] = [Delivered(), Refused("http_400"), Later("timeout")]
        return outcomes[min(len(said), 3) - 1]

    monkeypatch.setattr(folders.FolderTarget, "send", answer)
    project.destinations.activate("out", ["s"])
    shown = project.destinations.show("out")
    assert [shown[each] for each in ("present", "failed", "waiting")] == [2, 2, 4]
    monkeypatch.setattr(folders.FolderTarget, "send", send)
    project.destinations.resume("out")
    shown = project.destinations.show("out")
    assert [shown[each] for each in ("present", "failed", "waiting")] == [6, 2, 0]
