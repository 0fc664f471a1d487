"""When messages leave: at once, or when enough changes wait or the first has waited long enough; each change counts once."""

import random
from pathlib import Path

import pytest
from clock import Clock
from targets import Folder, names, prepared

from node.destinations import aggregation, due, kinds
from node.destinations.kinds import Delivered, Later, Message, Outcome
from node.destinations.targets import folders, webhooks
from node.errors import InvalidInput
from node.node import Node
from node.project import Project

AGE = 301


@pytest.fixture
def folder(project: Project, tmp_path: Path) -> Folder:
    return create(project, tmp_path, age=str(AGE), size="1000")


def create(project: Project, tmp_path: Path, **settings: str) -> Folder:
    folder = Folder(tmp_path / "out")
    project.destinations.create("out", "file", {"folder": str(folder.path), **settings}, uses=["analytics"])
    return folder


def counted(project: Project) -> dict[str, int]:
    """Return the sums over all hours, each of which is right by itself."""
    rows = project.destinations.runs("out")
    for row in rows:
        assert row["received"] == row["activated"] + row["excluded"] + row["failed"] + row["waiting"]
        assert min(row[each] for each in ("activated", "excluded", "failed", "waiting")) >= 0
    return {
        each: sum(row[each] for row in rows) for each in ("received", "activated", "excluded", "waiting", "requests")
    }


@pytest.mark.feature("EC7")
def test_changes_wait_until_the_first_has_waited_long_enough(project: Project, folder: Folder, clock: Clock) -> None:
    assert project.destinations.activate("out", ["s"])["waiting"] == 8
    assert due.submit_due(project.scope) == clock() + AGE
    clock.advance(seconds=AGE - 1)
    assert project.destinations.sync("out")["sent"] == 0
    assert folder.look() == set()
    clock.advance(seconds=1)
    assert project.destinations.sync("out")["sent"] == 1
    assert folder.look() == names(*range(4, 12))
    assert counted(project) == {"received": 8, "activated": 8, "excluded": 0, "waiting": 0, "requests": 1}
    assert due.submit_due(project.scope) is None


@pytest.mark.feature("EC7")
def test_what_comes_meanwhile_joins_and_is_counted_once_and_what_is_over_never_leaves(
    project: Project, folder: Folder, clock: Clock
) -> None:
    project.destinations.activate("out", ["s"])
    clock.advance(seconds=100)
    project.consent.set("p4", "n")
    project.segments.update("s", rule="orders >= 3")
    project.destinations.sync("out")
    # p4 was received as a change, and as somebody who must stay away
    assert counted(project) == {"received": 10, "activated": 0, "excluded": 2, "waiting": 8, "requests": 0}
    clock.advance(seconds=100)
    project.consent.set("p3", "n")  # who came, and goes again
    project.destinations.sync("out")
    assert counted(project)["waiting"] == 7
    clock.advance(seconds=AGE - 200)  # since the first one, whatever came meanwhile
    assert project.destinations.sync("out")["sent"] == 1
    assert folder.look() == names(*range(5, 12))
    assert [each[0] for each in folder.changes] == ["realized"] * 7
    assert counted(project) == {"received": 11, "activated": 7, "excluded": 4, "waiting": 0, "requests": 1}


@pytest.mark.feature("EC7")
def test_a_withdrawal_waits_no_longer_than_the_age_and_a_deactivation_not_at_all(
    project: Project, folder: Folder, clock: Clock
) -> None:
    project.destinations.activate("out", ["s"])
    clock.advance(seconds=AGE)
    project.destinations.sync("out")
    project.consent.set("p4", "n")
    project.destinations.sync("out")
    for number in (5, 6, 7):
        clock.advance(seconds=100)
        project.consent.set(f"p{number}", "n")
        project.destinations.sync("out")
    assert folder.look() == names(*range(4, 12))
    clock.advance(seconds=1)
    project.destinations.sync("out")
    assert folder.look() == names(*range(8, 12))
    project.consent.set("p8", "n")
    project.destinations.sync("out")
    assert "p8" in folder.look()
    project.destinations.deactivate("out", ["s"])
    assert folder.look() == set()
    assert counted(project)["waiting"] == 0
    assert project.destinations.show("out")["gets"] == []


@pytest.mark.feature("EC7")
def test_a_full_message_waits_no_longer(node: Node, tmp_path: Path, clock: Clock) -> None:
    project = prepared(node.project(), tmp_path, 1_002, s="orders >= 3")
    folder = create(project, tmp_path, age="3600", size="1000")
    assert project.destinations.activate("out", ["s"]) == {
        "name": "out",
        "sent": 0,
        "waiting": 999,
        "failed": 0,
        "held": 0,
        "next_attempt": None,
        "status": "active",
    }
    project.segments.update("s", rule="orders >= 2")
    assert project.destinations.sync("out")["sent"] == 1
    assert len(folder.look()) == 1_000
    assert counted(project) == {"received": 1_000, "activated": 1_000, "excluded": 0, "waiting": 0, "requests": 1}
    project.segments.update("s", rule="orders < 2")  # all leave, and two more come
    clock.advance(seconds=60)
    done = project.destinations.sync("out", yes=True)
    assert (done["sent"], done["waiting"]) == (1, 2)
    clock.advance(seconds=3_600)
    project.destinations.sync("out")
    assert folder.look() == names(0, 1)


@pytest.mark.feature("EC7")
def test_what_was_tried_stays_as_it_was_and_what_comes_then_waits_for_itself(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Message] = []
    send = folders.FolderTarget.send

    def late(self: folders.FolderTarget, message: Message) -> Outcome:
        seen.append(message)
        return Later("timeout") if len(seen) == 1 else send(self, message)

    monkeypatch.setattr(folders.FolderTarget, "send", late)
    project.destinations.activate("out", ["s"])
    clock.advance(seconds=AGE)
    project.destinations.sync("out")
    project.segments.update("s", rule="orders >= 3")
    clock.advance(seconds=15)
    project.destinations.sync("out")
    assert [(each.id, each.body) for each in seen] == [(seen[0].id, seen[0].body)] * 2
    assert folder.look() == names(*range(4, 12))
    clock.advance(seconds=AGE)
    project.destinations.sync("out")
    assert folder.look() == names(*range(3, 12))
    assert counted(project) == {"received": 9, "activated": 9, "excluded": 0, "waiting": 0, "requests": 3}


def test_each_change_counts_in_the_hour_in_which_it_was_noticed(project: Project, folder: Folder, clock: Clock) -> None:
    clock.advance(seconds=3_600 - clock() % 3_600 - 100)
    project.destinations.activate("out", ["s"])
    clock.advance(seconds=150)
    project.segments.update("s", rule="orders >= 2")
    project.destinations.sync("out")
    assert [(each["received"], each["waiting"]) for each in project.destinations.runs("out")] == [(2, 2), (8, 8)]
    clock.advance(seconds=AGE - 150)
    assert project.destinations.sync("out")["sent"] == 1
    assert [(each["received"], each["activated"]) for each in project.destinations.runs("out")] == [(2, 2), (8, 8)]
    assert folder.look() == names(*range(2, 12))


def test_a_replay_that_waits_goes_on_when_something_joins_it(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(folders.FolderTarget, "send", lambda *_: kinds.Refused("http_400"))
        project.destinations.activate("out", ["s"])
        clock.advance(seconds=AGE)
        project.destinations.sync("out")
    project.destinations.replay("out")
    clock.advance(seconds=10)
    project.segments.update("s", rule="orders >= 3")
    project.destinations.sync("out")
    clock.advance(seconds=AGE - 10)
    project.destinations.sync("out")
    assert folder.look() == names(*range(3, 12))
    assert len(folder.changes) == 9


@pytest.mark.feature("EC7")
def test_additions_and_removals_leave_apart_where_that_is_asked_for(
    project: Project, tmp_path: Path, clock: Clock
) -> None:
    folder = create(project, tmp_path, group="status")
    project.destinations.activate("out", ["s"])
    project.segments.update("s", rule="orders BETWEEN 2 AND 9")
    project.destinations.sync("out")
    assert folder.look() == names(*range(2, 10))
    files = [file.read_text() for file in sorted(folder.path.iterdir())]
    assert [("realized" in each, "exited" in each) for each in files] == [(True, False), (False, True), (True, False)]


@pytest.mark.feature("EC7")
def test_people_leave_at_once_so_many_with_each_message(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create(project, tmp_path, max_users_per_request="3")
    assert project.destinations.activate("out", ["s"])["sent"] == 3
    project.consent.set("p4", "n")
    assert project.destinations.sync("out")["sent"] == 1  # without a second's wait
    assert folder.look() == names(*range(5, 12))
    sent: list[Message] = []

    def send(_target: object, message: Message) -> Outcome:
        sent.append(message)
        return Delivered()

    monkeypatch.setattr(webhooks.WebhookTarget, "send", send)
    (tmp_path / "template.txt").write_text(
        '{ "{{ input.aggregationKey.segmentStatus }}": "{{ input.profile.identityMap.id[0].id }}" }'
    )
    settings = {"url": "https://localhost:1/x", "template": str(tmp_path / "template.txt"), "group": "status"}
    settings["max_users_per_request"] = "1"
    project.destinations.create("hook", "webhook", settings, uses=["analytics"])
    project.destinations.activate("hook", ["s"])
    assert sorted(each.body for each in sent) == sorted(
        f'{{"realized":"p{number}"}}'.encode() for number in range(5, 12)
    )


@pytest.mark.feature("EC7")
@pytest.mark.parametrize(
    "settings",
    [
        {"age": "300"},
        {"age": "3601"},
        {"age": "-301"},
        {"size": "999"},
        {"size": "10001"},
        {"size": "\u0661000"},
        {"age": "400", "max_users_per_request": "1"},
        {"max_users_per_request": "0"},
        {"group": "colour"},
    ],
)
def test_bounds_are_kept(project: Project, tmp_path: Path, settings: dict[str, str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        create(project, tmp_path, **settings)
    assert refused.value.hint


@pytest.mark.feature("EC7")
@pytest.mark.parametrize("seed", [1])
def test_whatever_comes_between_the_folder_ends_with_the_members_and_each_hour_adds_up(
    project: Project, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(aggregation, "SIZES", (3, 10_000))
    chance = random.Random(seed)
    folder = create(project, tmp_path, age=str(AGE), size="3", group="status")
    project.destinations.activate("out", ["s"])
    low, away = 4, set[int]()
    for _ in range(15):
        match chance.randrange(4):
            case 0:
                low = chance.randrange(10)
                project.segments.update("s", rule=f"orders >= {low}")
            case 1:
                number = chance.randrange(12)
                project.consent.set(f"p{number}", "y" if number in away else "n")
                away ^= {number}
            case 2:
                clock.advance(seconds=chance.randrange(1, 400))
            case 3:
                moved = folder.path.rename(tmp_path / "away")
                project.destinations.sync("out")
                moved.rename(folder.path)
        clock.advance(seconds=1)
        project.destinations.sync("out")
        found = counted(project)
        assert found["waiting"] == project.destinations.show("out")["waiting"]
    for _ in range(3):
        clock.advance(seconds=AGE)
        project.destinations.sync("out")
    project.destinations.replay("out")
    clock.advance(seconds=AGE)
    project.destinations.sync("out")
    assert folder.look() == names(*range(low, 12)) - names(*away)
    assert counted(project)["waiting"] == 0
