"""What did not arrive: it is tried again, then listed with the reason until a replay has brought it."""

from clock import Clock
from targets import Folder, fail_first_export, names

from node.project import Project


def test_a_folder_that_is_away_is_tried_again_and_then_fails_until_a_replay(
    project: Project, folder: Folder, clock: Clock
) -> None:
    folder.path.rmdir()
    assert project.destinations.activate("out", ["s"])["waiting"] == 8
    clock.advance(seconds=14)
    assert project.destinations.sync("out")["waiting"] == 8
    assert project.destinations.runs("out")[0]["requests"] == 1
    for seconds in (1, 30):
        clock.advance(seconds=seconds)
        project.destinations.sync("out")
    assert counted(project) == [8, 0, 8]
    (error,) = project.destinations.errors("out")
    assert (error["changes"], error["attempts"], error["code"], error["state"]) == (8, 3, "folder", "failed")
    assert "folder" in error["reason"]
    (alert,) = project.alerts.all()
    assert "destination out" in alert.text
    folder.path.mkdir()
    project.segments.update("s", rule="orders >= 6")
    project.destinations.sync("out")
    assert folder.look() == set()
    assert [each[1] for each in folder.changes] == ["p4", "p5"]  # they may have come all the same: they go for sure
    project.destinations.replay("out")
    assert folder.look() == names(*range(6, 12))  # today's truth
    assert counted(project) == [8 + 2 + 6, 8, 8]
    assert project.destinations.show("out")["failed"] == 0


def test_what_failed_is_no_error_any_more_once_a_replay_brought_it(
    project: Project, folder: Folder, clock: Clock
) -> None:
    fail_first_export(project, folder, clock)
    assert [each["changes"] for each in project.destinations.errors("out")] == [8]
    folder.path.mkdir()
    project.destinations.replay("out")
    assert folder.look() == names(*range(4, 12))
    assert project.destinations.errors("out") == []
    assert [each["changes"] for each in project.destinations.dead("out")] == [8]


def counted(project: Project) -> list[int]:
    """Return how many changes were received, arrived and failed."""
    (row,) = project.destinations.runs("out")
    return [row[each] for each in ("received", "activated", "failed")]
