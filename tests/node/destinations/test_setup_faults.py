"""What a person has to mend holds a destination and loses nothing; what files are given with it are read before it is kept."""

import os
import sqlite3
from pathlib import Path

import pytest
from clock import Clock
from targets import Folder, names

from node.destinations import kinds
from node.destinations.kinds import Delivered, Later, Refused
from node.destinations.targets import folders
from node.destinations.targets.https import outcome_of
from node.errors import InvalidInput
from node.project import Project

WRONG = Refused("http_401", setup=True)


def answer(monkeypatch: pytest.MonkeyPatch, send: kinds.Outcome, check: kinds.Outcome) -> None:
    monkeypatch.setattr(folders.FolderTarget, "send", lambda *_: send)
    monkeypatch.setattr(folders.FolderTarget, "check", lambda *_: check)


@pytest.mark.feature("EC8")
@pytest.mark.parametrize(
    "outcome", [WRONG, Later("http_403", setup=True), Later("tls", setup=True), Refused("address", setup=True)]
)
def test_what_holds_for_every_message_disables_and_nothing_has_failed(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch, outcome: Later | Refused
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(type(folders.FOLDER), "limit", 4)
        answer(patched, outcome, outcome)
        project.destinations.activate("out", ["s"])
        for seconds in (15, 30):
            clock.advance(seconds=seconds)
            project.destinations.sync("out")
        shown = project.destinations.show("out")
        assert (shown["status"], shown["failed"], shown["waiting"]) == ("disabled", 0, 8)
        (alert,) = project.alerts.all()
        assert "out is disabled" in alert.text
        assert project.destinations.dead("out") == []
        answer(patched, Later("timeout"), outcome)
        project.destinations.resume("out")  # all tries again
        assert project.destinations.show("out")["waiting"] == 8
    clock.advance(seconds=15)
    project.destinations.resume("out")
    assert folder.look() == names(*range(4, 12))


def test_what_holds_for_one_message_costs_that_one(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, WRONG, Delivered())
    project.destinations.activate("out", ["s"])
    shown = project.destinations.show("out")
    assert (shown["status"], shown["failed"]) == ("active", 8)


def test_a_status_that_may_hold_for_every_message_says_so() -> None:
    found = {status: outcome_of(status, None, 0) for status in (400, 401, 403, 404, 429, 503)}
    assert [status for status, each in found.items() if getattr(each, "setup", False)] == [401, 403]


def test_settings_are_checked_outside_the_transaction(
    project: Project, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = type(folders.FOLDER).checked
    (database,) = project.scope.home.path.glob("*.db")

    def writing(kind: object, settings: kinds.Settings) -> dict[str, str]:
        other = sqlite3.connect(database, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.rollback()
        other.close()
        return checked(kind, settings)  # type: ignore[arg-type]

    monkeypatch.setattr(type(folders.FOLDER), "checked", writing)
    project.destinations.create("two", "file", {"folder": str(folder.path)}, uses=["analytics"])
    assert project.destinations.edit("two", {"format": "jsonl"})["settings"]["format"] == "jsonl"


@pytest.mark.parametrize("setting", ["template", "audiences", "authorities"])
def test_a_pipe_is_no_setting(project: Project, tmp_path: Path, setting: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="is no file"):
        project.destinations.create("x", "webhook", {"url": "https://x.example/", setting: str(tmp_path / "pipe")})
