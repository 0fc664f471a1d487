"""A command does what it says: what shows something calls no partner and runs no job; what waits moves with a sync."""

import json
import os
import re
import socket
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
from node.transport import client

pytestmark = pytest.mark.two_nodes

SHOWN = [
    "feed list",
    "feed show summer",
    "feed reconcile summer",
    "partner list",
    "partner show globe",
    "alert list",
    "job list",
    "job show JOB",
    "node status",
    "project list",
    "project show",
    "project terms",
    "profile count",
    "dataset list",
    "profile show p1",
    "consent policy list",
    "consent show p1",
    "label list",
    "policy list",
    "segment list",
    "audience reconcile vip",
    "segment show vip",
    "audience source list",
    "audience folder list",
    "audience trait list",
    "audience trait show Buyers",
    "audience segment list",
    "audience imports",
    "audience segment show Shoppers",
    "partner id",
    "partner terms globe",
    "user list",
    "user show ann",
    "role list",
    "destination list",
    "destination show drop",
    "audit list",
    "audit export",
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


def test_what_shows_something_calls_nobody_and_runs_no_job(
    acme: Acme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = acme.pair.acme.node.users.create("ann", ["administrator"]).text
    acme.pair.acme.node.sign_in(token)
    (tmp_path / "drop").mkdir()
    acme.pair.acme.project.destinations.create("drop", kind="file", settings={"folder": str(tmp_path / "drop")})
    audience = acme.pair.acme.project.audience
    audience.sources.create("Site")
    buyers = audience.traits.create("Buyers", source="Site", rule='event == "buy"')
    audience.segments.create("Shoppers", source="Site", rule=f"{buyers['number']}T")
    with acme.pair.acme.node.home.database.begin() as tx:  # the head of our audit log is due to go
        tx.execute(update(tables.connections).values(head_sent=None))
    (job,) = acme.pair.acme.node.jobs.all()

    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"{address} was called")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for words in SHOWN:
        for as_json in ([], ["--json"]):
            code, out, err = acme.command(*words.replace("JOB", job.id).split(), *as_json, token=token)
            assert code == 0, (words, out + err)
            assert "internal" not in out + err
    assert not acme.pair.globe.called()
    assert acme.states() == ["queued"]


def test_what_shows_something_is_all_that_shows_something() -> None:
    """A new command named like one that shows is one."""
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    found = re.findall(r"^## vesica (.* (?:list|show|status|count|id|verify|terms|reconcile))$", page, re.MULTILINE)
    assert {each for each in found if not any(words.startswith(each) for words in SHOWN)} == set()


def test_a_command_says_that_its_letter_could_not_be_delivered(acme: Acme) -> None:
    code, _, err = acme.command("feed", "revoke", "summer", "--yes")
    assert code == 0
    assert re.search(r"globe could not be told: no answer from .*\nthe letter waits: vesica node sync\n", err)
    with locks.service_lock(acme.pair.acme.node.home.path):
        code, _, err = acme.command("partner", "disconnect", "globe", "--yes")
    assert (code, err.splitlines()[-1]) == (0, "the letter waits: the service delivers it")
    assert acme.pair.acme.waits()
    with acme.pair.globe.serving():
        assert acme.run("node", "sync")["letters"]["delivered"] == 2
    assert not acme.pair.acme.waits()


def test_a_command_whose_letter_arrived_says_nothing_of_it(acme: Acme) -> None:
    with acme.pair.globe.serving():
        code, _, err = acme.command("feed", "revoke", "summer", "--yes")
        assert (code, err) == (0, "")
    assert "letters_wait" not in acme.run("feed", "show", "summer")


def test_in_json_the_document_says_who_could_not_be_told(acme: Acme) -> None:
    assert acme.run("partner", "disconnect", "globe", "--yes")["letters_wait"] == ["globe"]


def test_a_run_to_a_partner_that_is_gone_is_announced_before_it_is_tried(
    acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.2)
    code, _, err = acme.command("feed", "sync")
    assert code == 1
    assert err.splitlines()[0] == "partner globe of project default is out of reach: letters wait"


@pytest.mark.parametrize("words", [("feed", "sync"), ("feed", "estimate", "summer", "--yes"), ("node", "sync")])
def test_a_partner_whose_machine_refuses_keeps_no_command_waiting(
    acme: Acme, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY_SECONDS", 60.0)
    monkeypatch.setattr(letters, "SYNC_SECONDS", 60.0)
    monkeypatch.setattr(client, "REFUSED_SECONDS", 0.1)
    with acme.pair.acme.node.home.database.begin() as tx:
        tx.execute(update(tables.connections).values(peer_address="127.0.0.1:1"))
    began = time.monotonic()
    said = "".join(acme.command(*words)[1:])
    assert time.monotonic() - began < 15
    assert "connection refused" in said or "out of reach" in said


def test_the_newest_jobs_are_listed(acme: Acme) -> None:
    scope = acme.pair.acme.project.scope
    for _ in range(3):
        acme.pair.acme.node.jobs.submit("release", {"feed": "x"}, scope)
    everything = [job["id"] for job in acme.run("job", "list")]
    assert len(everything) == 4
    assert [job["id"] for job in acme.run("job", "list", "--limit", "2")] == everything[:2]


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
    assert document["letters"] == {"delivered": 0, "fetched": 2}
    assert acme.command("node", "sync")[1] == "letters: 0 delivered, 0 fetched\nno job was queued\n"


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


def test_a_sync_does_not_tell_a_limited_user_of_the_jobs_of_others(acme: Acme) -> None:
    side = acme.pair.acme
    side.node.sign_in(side.node.users.create("ann", ["administrator"]).text)
    side.node.roles.create("limited", ["view", "manage-shares"], labels=["C1"])
    limited = side.node.users.create("lou", ["limited"]).text
    with acme.pair.globe.serving():
        document = acme.run("node", "sync", token=limited)
    assert (document["jobs"], document["other_jobs"]) == ([], 0)
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
        assert "letters of project default were last fetched 3 h ago: vesica node sync" in said
    assert acme.run("feed", "list")["letters_fetched"] == three_hours_ago
    assert acme.run("node", "status")["projects"][0]["letters_fetched"] == three_hours_ago
    with locks.service_lock(acme.pair.acme.node.home.path):
        assert "letters" not in acme.command("feed", "list")[2]
    fetched.unlink()
    assert "were never fetched: vesica node sync" in acme.command("feed", "list")[2]
    with acme.pair.globe.serving():
        acme.run("node", "sync")
    assert acme.command("feed", "list")[2] == ""


def test_a_node_that_calls_nobody_is_not_told_to_fetch(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init", "--org", "Fern", "--home", str(home)]) == 0
    capsys.readouterr()
    assert main(["feed", "list", "--home", str(home)]) == 0
    assert capsys.readouterr().err == ""
