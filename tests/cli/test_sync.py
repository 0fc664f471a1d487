"""A command does what it says: what shows something calls no partner and runs no job; what waits moves with a sync."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from sides import Pair, Person, Side
from sqlalchemy import update

from cli.main import main
from node.partners import letters
from node.storage import locks, tables

pytestmark = pytest.mark.two_nodes

SHOWN = [
    "feed list",
    "feed show summer",
    "feed reconcile summer",
    "partner list",
    "partner show globe",
    "alert list",
    "job list",
    "node status",
    "project show",
    "audit verify",
]
PEOPLE = [Person(id=f"p{number}", email=f"person.{number}@example.com") for number in range(8)]


def now() -> int:
    return int(time.time())


class Acme:
    """The sender's people at their command line; globe serves only where a test says so."""

    def __init__(self, pair: Pair, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.pair, self._capture, self._patch = pair, capture, patch

    def command(self, *words: str, token: str = "") -> tuple[int, str, str]:
        self._capture.readouterr()
        self._patch.setenv("VESICA_TOKEN", token)
        code = main([*words, "--home", str(self.pair.acme.node.home.path)])
        out, err = self._capture.readouterr()
        return code, out, err

    def run(self, *words: str, token: str = "") -> Any:
        code, out, err = self.command(*words, "--json", token=token)
        assert (code, err) == (0, ""), out
        return json.loads(out)

    def states(self) -> list[str]:
        return [job.state for job in self.pair.acme.node.jobs.all()]


@pytest.fixture
def acme(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Acme]:
    """Acme, whose run of a feed that globe has enabled is queued; no service runs on either side."""
    monkeypatch.setattr(letters, "SYNC_SECONDS", 0.5)
    pair = Pair(tmp_path, Clock(now()))
    with pair.acme.serving(), pair.globe.serving():
        pair.prepare(PEOPLE, PEOPLE[2:], {"vip": [each.id for each in PEOPLE[:6]]})
        pair.share("summer", ["vip"])
    assert not pair.globe.called()
    pair.acme.project.feeds.sync(wait=False)
    yield Acme(pair, capsys, monkeypatch)
    pair.acme.node.close()
    pair.globe.node.close()


def tokens(side: Side, *roles: str) -> dict[str, str]:
    """Make an administrator and a user of each role; return the tokens of these by role."""
    first = side.node.users.create("ann", ["administrator"])
    side.node.sign_in(first.text)
    return {role: side.node.users.create(f"{role}-user", [role]).text for role in roles}


@pytest.mark.parametrize("words", SHOWN)
def test_what_shows_something_calls_nobody_and_runs_no_job(acme: Acme, words: str) -> None:
    role = "auditor" if words.startswith("audit") else "viewer"
    token = tokens(acme.pair.acme, role)[role]
    with acme.pair.acme.node.home.database.begin() as tx:  # the head of our audit log is due to go
        tx.execute(update(tables.connections).values(head_sent=None))
    for as_json in ([], ["--json"]):
        code, out, err = acme.command(*words.split(), *as_json, token=token)
        assert code == 0, out + err
    assert not acme.pair.globe.called()
    assert acme.states() == ["queued"]


def test_node_sync_moves_what_waits(acme: Acme) -> None:
    with acme.pair.globe.serving():
        acme.pair.globe.project.received.disable("summer", reason="holidays")
        acme.pair.globe.project.received.enable("summer")
        assert acme.pair.acme.waits()
        document = acme.run("node", "sync")
    assert document["serving"] is False
    assert document["out_of_reach"] == []
    assert [(job["kind"], job["state"], job["project"]) for job in document["jobs"]] == [("release", "done", "default")]
    assert acme.pair.globe.members("acme", "vip") == {f"p{number}" for number in range(2, 6)}
    assert "nothing was queued" in acme.command("node", "sync")[1]


def test_node_sync_says_who_is_out_of_reach(acme: Acme) -> None:
    code, out, err = acme.command("node", "sync")
    assert code == 0
    assert acme.pair.globe.called()
    assert err == "partner globe of project default is out of reach: letters wait\n"
    assert "failed" in out


def test_node_sync_needs_a_permission(acme: Acme) -> None:
    token = tokens(acme.pair.acme, "viewer", "shares")
    code, out, _ = acme.command("node", "sync", "--json", token=token["viewer"])
    assert (code, json.loads(out)["error"]["code"]) == (1, "permission_denied")
    code, out, _ = acme.command("feed", "sync", "--json", token=token["viewer"])
    assert (code, json.loads(out)["error"]["code"]) == (1, "permission_denied")
    assert not acme.pair.globe.called()
    assert acme.states() == ["queued"]
    with acme.pair.globe.serving():
        (job,) = acme.run("node", "sync", token=token["shares"])["jobs"]
    assert job["state"] == "done"
    assert {each["actor"] for each in acme.pair.acme.acts("feed.run")} == {job["submitted_by"]}
    assert job["submitted_by"] != "shares-user"


def test_a_sync_only_counts_jobs_that_are_not_for_the_caller_to_see(acme: Acme) -> None:
    side = acme.pair.acme
    side.node.sign_in(side.node.users.create("ann", ["administrator"]).text)
    side.node.roles.create("limited", ["view", "manage-shares"], labels=["C1"])
    limited = side.node.users.create("lou", ["limited"]).text
    with acme.pair.globe.serving():
        document = acme.run("node", "sync", token=limited)
    assert (document["jobs"], document["other_jobs"]) == ([], 1)
    assert "summer" not in str(document)
    assert acme.states() == ["done"]


def test_feed_sync_moves_what_waits(acme: Acme) -> None:
    with acme.pair.globe.serving():
        assert acme.run("feed", "sync")["runs"][0]["status"] in ("done", "unchanged")
        assert acme.states() == ["done"] * len(acme.states())
        assert acme.pair.globe.members("acme", "vip") == {f"p{number}" for number in range(2, 6)}
        acme.pair.globe.project.received.disable("summer")
        assert acme.run("feed", "sync")["runs"] == []


def test_feed_sync_leaves_other_projects_alone(acme: Acme) -> None:
    acme.pair.acme.node.create_project("loyalty")
    assert acme.run("feed", "sync", "--project", "loyalty")["runs"] == []
    assert not acme.pair.globe.called()
    assert acme.states() == ["queued"]


def test_without_waiting_work_is_only_queued(acme: Acme) -> None:
    assert acme.run("feed", "sync", "--no-wait")["runs"][0]["status"] == "queued"
    assert not acme.pair.globe.called()
    assert acme.states() == ["queued"]


def test_what_shows_something_says_when_letters_were_last_fetched(acme: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [*SHOWN[:6], "node status"]
    for words in shown:
        assert "letters" not in acme.command(*words.split())[2]
    (fetched,) = (acme.pair.acme.node.home.path / "fetched").iterdir()
    three_hours_ago = now() - 3 * 3_600 - 60
    os.utime(fetched, (three_hours_ago, three_hours_ago))
    for words in shown:
        said = acme.command(*words.split())[2]
        assert "letters of project default were last fetched 3 h ago: vesica node sync\n" in said
    assert acme.run("feed", "list")["letters_fetched"] == three_hours_ago
    assert acme.run("node", "status")["projects"][0]["letters_fetched"] == three_hours_ago
    with locks.service_lock(acme.pair.acme.node.home.path):
        assert "letters" not in acme.command("feed", "list")[2]
    fetched.unlink()
    assert "were never fetched: vesica node sync\n" in acme.command("feed", "list")[2]
    with acme.pair.globe.serving():
        acme.run("node", "sync")
    assert acme.command("feed", "list")[2] == ""


def test_a_node_that_calls_nobody_is_not_told_to_fetch(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init", "--org", "Fern", "--home", str(home)]) == 0
    capsys.readouterr()
    assert main(["feed", "list", "--home", str(home)]) == 0
    assert capsys.readouterr().err == ""
