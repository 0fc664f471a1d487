"""Two homes, two services, and the commands that people type: a feed's whole life, and what is refused on the way."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from homes import SHARE, VESICA, WAIT, Side, check_audit, connect, make, members, received

from node.transport import client
from protocol.connectid import ConnectId

pytestmark = pytest.mark.two_nodes


@pytest.mark.feature("FD5")
@pytest.mark.feature("RC1")
@pytest.mark.feature("RC3")
@pytest.mark.feature("EX4")
@pytest.mark.feature("EX5")
def test_the_life_of_a_feed(sides: tuple[Side, Side], tmp_path: Path) -> None:
    retailer, publisher = sides
    with retailer.serving(), publisher.serving():
        connect(retailer, publisher)
        two = ["--segment", "vip", "--segment", "lapsed"]
        retailer.run("feed", "create", "summer", *two, *SHARE, "--restrict", "analytics", "--description", "Hats")
        estimates = retailer.run("feed", "estimate", "summer", "--yes")
        assert [(row["segment"], row["overlap"]) for row in estimates] == [("lapsed", 40), ("vip", 30)]
        retailer.run("feed", "publish", "summer")
        offered = publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")["received"][0]
        assert (offered["partner"], offered["name"], offered["status"]) == ("retailer", "summer", "pending")
        shown = publisher.run("feed", "show", "summer")
        ours = retailer.run("feed", "show", "summer")
        for key in ("hash", "description", "namespaces", "restricted_uses", "segments"):
            assert shown[key] == ours[key]
        for command in (
            "estimate",
            "publish",
            "edit --description Caps",
            "unshare --segment vip --yes",
            "revoke --yes",
        ):
            verb, *options = command.split()
            error = publisher.refused("not_found", "feed", verb, "summer", *options)
            assert "not ours but retailer's" in error["message"]
            assert error["hint"].endswith(f"vesica feed show summer --home {publisher.home}")
        publisher.enable("summer")
        goes = "publisher"
        retailer.until(lambda feeds: feeds["shared"][0]["partners"][goes] == "enabled", "feed", "list")
        run = retailer.run("feed", "sync", "summer")["runs"][0]  # or the service was faster
        assert (run["status"] in ("done", "unchanged"), run["revision"], run["sent"]) == (True, 1, 70)
        assert received(publisher, tmp_path, "vip") == {f"p{n}" for n in range(50, 80)}
        assert retailer.run("feed", "sync")["runs"][0]["status"] == "unchanged"
        assert "are identities, of which a person may have several" in retailer.command("feed", "sync")[1]

        publisher.run("feed", "disable", "summer", "--reason", "holidays")

        def state(feeds: Any) -> str:
            return str(feeds["shared"][0]["partners"][goes])

        retailer.until(lambda feeds: state(feeds) == "disabled", "feed", "list")
        assert retailer.run("feed", "sync", "summer")["runs"] == []
        assert publisher.run("feed", "show", "summer")["members"] == {"lapsed": 40, "vip": 30}
        publisher.enable("summer")
        retailer.until(lambda feeds: state(feeds) == "enabled", "feed", "list")
        publisher.until(lambda feed: feed["revision"] == 2, "feed", "show", "summer")

        retailer.run("feed", "unshare", "summer", "--segment", "lapsed", "--yes")
        publisher.until(lambda feed: feed["members"] == {"vip": 30}, "feed", "show", "summer")
        assert retailer.run("feed", "sync", "summer")["runs"][0]["revision"] == 3
        assert retailer.run("feed", "edit", "summer", "--remove-restriction", "analytics")["version"] == 3
        retailer.refused("not_found", "feed", "edit", "summer", "--remove-segment", "lapsed", "--yes", act="feed.edit")
        retailer.refused("refused", "feed", "edit", "summer", "--remove-segment", "vip", "--yes", act="feed.edit")
        publisher.until(lambda feed: feed["revision"] == 4, "feed", "show", "summer")

        retailer.run("feed", "revoke", "summer", "--yes")
        publisher.until(lambda feeds: feeds["received"][0]["status"] == "revoked", "feed", "list")
        shown = publisher.run("feed", "show", "summer")
        assert shown["members"] == {}
        last = shown["revision"]
        retailer.until(lambda feed: feed["partners"][0]["purges"][-1]["revision"] == last, "feed", "show", "summer")
        retailer.refused("refused", "feed", "revoke", "summer", "--yes", act="feed.revoke")

        retailer.run("feed", "create", "winter", "--segment", "vip", *SHARE)
        retailer.run("feed", "publish", "winter")
        publisher.until(lambda feeds: len(feeds["received"]) == 2, "feed", "list")
        publisher.run("feed", "decline", "winter", "--reason", "too cold", "--yes")
        goes = "partners"
        declined = retailer.until(lambda feed: feed[goes][0]["status"] == "declined", "feed", "show", "winter")
        assert declined["partners"][0]["reason"] == "too cold"
        publisher.refused("refused", "feed", "enable", "winter", act="feed.enable")

        for side in sides:
            jobs = side.run("job", "list")
            assert {job["state"] for job in jobs} <= {"done"}
        job = retailer.run("job", "list")[0]
        assert retailer.run("job", "show", job["id"]) == job
        assert retailer.command("job", "list")[0] == 0


@pytest.mark.feature("EX1")
@pytest.mark.feature("OP4")
def test_feeds_live_by_themselves(sides: tuple[Side, Side], tmp_path: Path) -> None:
    """Two services: what changes at the one is at the other in seconds, and nobody has typed a command for it."""
    retailer, publisher = sides
    with retailer.serving(), publisher.serving():
        connect(retailer, publisher)
        retailer.run("feed", "create", "summer", "--segment", "vip", *SHARE, "--membership-days", "7")
        retailer.run("feed", "publish", "summer")
        publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")
        assert {each["kind"] for each in publisher.run("alert", "list")} == {"feed_offered"}
        publisher.enable("summer")
        publisher.until(lambda feed: feed["members"] == {"vip": 30}, "feed", "show", "summer")
        publisher.run("segment", "create", "readers", "--rule", "received.retailer.vip")
        retailer.run("consent", "set", "r60", "n")
        shown = publisher.until(lambda feed: feed["members"] == {"vip": 29}, "feed", "show", "summer")
        assert shown["last_run"]["latency"] < WAIT
        assert shown["membership_days"] == 7
        publisher.until(lambda rows: rows[0]["size"] == 29, "segment", "list")
        for side in sides:
            code, out, _ = side.command("feed", "show", "summer")
            assert code == 0
            assert "after the data changed" in out
            lines = [json.loads(line) for line in (side.home / "service.log").read_text().splitlines()]
            done = [line for line in lines if line["event"] == "run" and line["status"] == "done"]
            assert [line["revision"] for line in done] == [1, 2]

        (queued,) = retailer.run("feed", "sync", "summer", "--no-wait")["runs"]
        job = retailer.until(lambda job: job["state"] == "done", "job", "show", queued["job"])
        assert job["result"]["status"] == "unchanged"
        assert retailer.run("feed", "estimate", "summer", "--yes", "--no-wait")[0]["status"] == "queued"
        assert retailer.command("feed", "sync", "--no-wait")[0] == 0
        retailer.refused("refused", "partner", "rotate", "publisher", "--yes", act="partner.rotate")

        assert publisher.run("alert", "list") == publisher.run("node", "status")["alerts"] == []  # all of it is settled
        assert publisher.run("alert", "acknowledge", "--all")["acknowledged"] == 0
        assert len(publisher.run("alert", "list", "--all")) >= 2
        assert "feed_offered" in publisher.command("alert", "list", "--all")[1]
        publisher.refused("not_found", "alert", "acknowledge", "nothing", act="alert.acknowledge")


@pytest.mark.feature("CN1")
def test_a_connect_id_that_is_not_good(sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    retailer, publisher = sides
    good = publisher.run("partner", "id")["connect_id"]
    wrong = good[:40] + ("a" if good[40] != "a" else "b") + good[41:]
    error = retailer.refused("connect_id", "partner", "request", wrong, "--yes")  # nobody is served: no network
    assert "copy it again" in error["hint"]
    parsed = ConnectId.parse(good)
    values = {name: getattr(parsed, name) for name in ("flags", "address", "key", "secret", "expires", "project")}
    expired = ConnectId(**{**values, "expires": 1_700_000_000}).encode()
    assert "expired" in retailer.refused("connect_id", "partner", "request", expired, "--yes")["message"]
    ours = retailer.run("partner", "id")["connect_id"]
    retailer.refused("invalid_input", "partner", "request", ours, "--yes")
    publisher.run("project", "create", "loyalty")
    other = ConnectId.parse(publisher.run("partner", "id", "--project", "loyalty")["connect_id"])
    with publisher.serving():
        mixed = ConnectId(**{**values, "project": other.project}).encode()
        assert "no longer" in retailer.refused("connect_id_proof", "partner", "request", mixed, "--yes")["message"]
        connect(retailer, publisher)
        new = publisher.run("partner", "id", "--regenerate")["connect_id"]
        assert new != good
        retailer.refused("connect_id_proof", "partner", "request", good, "--yes")
        retailer.refused("already_exists", "partner", "request", new, "--yes", act="partner.request")
        assert retailer.run("partner", "list")[0]["status"] == "active"
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.5)
    error = retailer.refused("unreachable", "partner", "request", new, "--yes")
    assert "running" in error["hint"]


@pytest.mark.feature("OP5")
@pytest.mark.feature("OP6")
@pytest.mark.feature("OP9")
def test_what_operators_type(sides: tuple[Side, Side], tmp_path: Path) -> None:
    """Pre-flight, how a partner stands, where people went, heads, and a backup beside a running service, restored."""
    retailer, publisher = sides
    with publisher.serving():
        with retailer.serving():
            connect(retailer, publisher)
            assert retailer.run("partner", "preflight", "publisher")["status"] == "same"
            assert "the same results" in publisher.command("partner", "show", "retailer")[1]
            retailer.run("feed", "create", "summer", "--segment", "vip", *SHARE)
            retailer.run("feed", "publish", "summer")
            publisher.until(lambda lists: lists["received"], "feed", "list")
            publisher.enable("summer")
            retailer.until(lambda feed: feed["partners"][0]["status"] == "enabled", "feed", "show", "summer")
            retailer.run("feed", "sync")
            sent = retailer.run("feed", "reconcile", "summer")["partners"][0]["total"]
            assert (sent["identities"], sent["sent"]) == (50, 50)
            assert "sent" in retailer.command("feed", "reconcile", "summer")[1]
            taken = publisher.run("feed", "reconcile", "summer")
            assert (taken["total"]["matched"], taken["profiles"], taken["total"]["records"]) == (30, 30, 50)
            assert "profiles" in publisher.command("feed", "reconcile", "summer")[1]
        assert retailer.run("audit", "verify")["kept"] == []
        retailer.run("node", "sync")  # a service does it once a day
        with retailer.serving():
            kept = retailer.run("audit", "verify")["kept"]
            assert [(each["partner"], each["stands"]) for each in kept] == [("publisher", "there")]
            assert "publisher" in retailer.command("audit", "verify")[1]
            shown = retailer.run("partner", "show", "publisher")
            assert (shown["status"], shown["their_budget"], shown["segments_shared"]) == ("active", None, 1)
            assert shown["heads"]["they_keep"]["count"] == 1
            assert "key epoch" in retailer.command("partner", "show", "publisher")[1]
            retailer.refused("refused", "audit", "prune", "--before", "2099-01-01", "--yes", act="audit.prune")
            assert retailer.run("audit", "prune", "--before", "2001-01-01", "--yes")["rows"] == 0
            assert retailer.command("audit", "prune", "--before", "2001-01-01")[0] == 2
            retailer.run("partner", "allow", "publisher", "--yes")
            publisher.refused("refused", "partner", "allow", "retailer", "--yes", act="partner.allow")
            made = retailer.run("node", "backup", str(tmp_path / "backup.tar"))
            assert made["keys"] == "as they are"
            retailer.refused("already_exists", "node", "backup", str(tmp_path / "backup.tar"), act="node.backup")
            retailer.refused("already_exists", "node", "restore", str(tmp_path / "backup.tar"))
        restored = Side(tmp_path / "restored", retailer.address, retailer.capture)
        half = tmp_path / "half.tar"
        half.write_bytes((tmp_path / "backup.tar").read_bytes()[:20_000])
        restored.refused("backup_incomplete", "node", "restore", str(half))
        assert restored.run("node", "restore", str(tmp_path / "backup.tar"))["to_notify"] == ["publisher"]
        with restored.serving():
            publisher.until(lambda partner: partner["restored"], "partner", "show", "retailer")
            assert restored.run("partner", "show", "publisher")["status"] == "active"


def test_a_partner_that_is_not_accepted_gets_nothing(sides: tuple[Side, Side]) -> None:
    retailer, publisher = sides
    with retailer.serving(), publisher.serving():
        connect_id = publisher.run("partner", "id")["connect_id"]
        retailer.run("partner", "request", connect_id, "--as", "publisher", "--yes")
        error = retailer.refused("refused", "feed", "create", "summer", "--segment", "vip", *SHARE, act="feed.create")
        assert "pending" in error["message"]
        assert "wait" in error["hint"]
        publisher.run("partner", "decline", "retailer", "--reason", "no")
        rows = retailer.until(lambda rows: rows[0]["status"] == "declined", "partner", "list")
        assert rows[0]["reason"] == "no"
        retailer.refused("refused", "feed", "create", "summer", "--segment", "vip", *SHARE, act="feed.create")
        retailer.refused("refused", "partner", "disconnect", "publisher", "--yes", act="partner.disconnect")
        publisher.refused("refused", "partner", "accept", "retailer", act="partner.accept")
        publisher.refused("not_found", "partner", "accept", "nobody", act="partner.accept")


@pytest.mark.feature("ES4")
@pytest.mark.feature("ES7")
def test_minimums_and_the_budget(sides: tuple[Side, Side], tmp_path: Path) -> None:
    retailer, publisher = sides
    for side in sides:
        side.run("project", "terms", "--epsilon", "1/20", "--budget", "3/20", "--yes")
    with retailer.serving(), publisher.serving():
        connect(retailer, publisher)
        retailer.run("feed", "create", "both", "--segment", "vip", "--segment", "few", *SHARE)
        retailer.run("feed", "estimate", "both", "--yes")
        rows = {row["segment"]: row for row in retailer.run("feed", "estimate", "both", "--yes")}  # once more is free
        assert (rows["few"]["status"], rows["few"]["overlap"]) == ("below_minimum", None)
        assert rows["vip"]["budget"]["left"] == 0.1
        said = "Budget left with publisher: 0.1 of 0.15 (what is spent comes back after 30 days;"
        assert said in retailer.command("feed", "estimate", "both", "--yes")[1]
        shown = retailer.command("feed", "show", "both")[1]
        assert "budget left  0.1 of 0.15" in shown.splitlines()
        assert "below minimum" in shown
        error = retailer.refused("refused", "feed", "publish", "both", act="feed.publish")
        assert "--remove-segment few" in error["hint"]
        for name, numbers in (("early", range(30)), ("late", range(80, 100))):
            file = members(tmp_path / f"{name}.csv", numbers)
            retailer.run("segment", "create", name, "--members", file)
            retailer.run("feed", "create", name, "--segment", name, *SHARE)
            retailer.run("feed", "estimate", name, "--yes")
        denied = publisher.rows("estimate.answer", "deny")
        retailer.run("segment", "create", "all", "--members", members(tmp_path / "all.csv", range(100)))
        retailer.run("feed", "create", "all", "--segment", "all", *SHARE)
        error = retailer.refused("budget", "feed", "estimate", "all", "--yes", act="exchange.count")
        assert "30 days" in error["hint"]
        assert publisher.rows("estimate.answer", "deny") == denied + 1
        assert retailer.run("job", "list", "--state", "failed")[0]["error"]["code"] == "budget"


def test_what_a_draft_shows(sides: tuple[Side, Side]) -> None:
    retailer, _ = sides
    retailer.run("feed", "create", "summer", "--segment", "vip", "--namespace", "email_sha256")
    code, out, _ = retailer.command("feed", "show", "summer")
    assert code == 0
    said, _, steps = out.partition("\n\n")
    assert [line.split(maxsplit=1) for line in said.splitlines()][:3] == [
        ["feed", "summer"],
        ["status", "draft"],
        ["version", "1"],
    ]
    assert "members leave    30 days after a run" in said
    assert [line.rstrip().split(maxsplit=2) for line in steps.splitlines()[1:]] == [
        ["configure", "yes", "-"],
        ["segments", "yes", "-"],
        ["share", "no", f"vesica feed edit summer --add-partner NAME --home {retailer.home}"],
        ["review", "no", f"vesica feed publish summer --home {retailer.home}"],
    ]
    assert "None" not in out


def test_a_universe_below_the_minimum(sides: tuple[Side, Side]) -> None:
    retailer, publisher = sides
    publisher.run("project", "terms", "--minimum-universe", "101")
    with retailer.serving(), publisher.serving():
        connect(retailer, publisher)
        retailer.run("feed", "create", "summer", "--segment", "vip", *SHARE)
        assert (
            "101"
            in retailer.refused("below_minimum", "feed", "estimate", "summer", "--yes", act="exchange.count")["message"]
        )
        retailer.run("feed", "publish", "summer")
        publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")
        enable = ("feed", "enable", "summer", "--version", publisher.run("feed", "show", "summer")["hash"])
        assert "101" in publisher.refused("refused", *enable, act="feed.enable")["message"]


def test_one_service_a_home(sides: tuple[Side, Side]) -> None:
    retailer, _ = sides
    with retailer.serving():
        assert retailer.process is not None
        pid = retailer.process.pid
        for arguments in (["--json"], []):
            done = subprocess.run(
                [*VESICA, "node", "serve", "--home", str(retailer.home), *arguments],
                capture_output=True,
                text=True,
                timeout=WAIT,
                check=False,
            )
            assert done.returncode == 1
            assert f"(pid {pid})" in done.stdout + done.stderr
            assert f"kill {pid}" in done.stdout + done.stderr
        assert retailer.run("node", "status")["serving"] is True
    assert retailer.run("node", "status")["serving"] is False
    other = Side(retailer.home, retailer.address, retailer.capture)
    with other.serving():
        assert other.run("node", "status")["serving"] is True


def test_an_address_that_is_taken(sides: tuple[Side, Side]) -> None:
    retailer, publisher = sides
    with publisher.serving():
        command = [*VESICA, "node", "serve", "--home", str(retailer.home), "--listen", publisher.address, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 1
    assert publisher.address in json.loads(done.stdout)["error"]["message"]
    assert "Traceback" not in done.stderr


def test_two_nodes_on_postgresql(
    postgres_urls: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retailer, publisher = make(tmp_path, capsys, postgres_urls)
    assert not (retailer.home / "control.db").exists()
    with retailer.serving(), publisher.serving():
        connect(retailer, publisher)
        retailer.run("feed", "create", "summer", "--segment", "vip", "--segment", "lapsed", *SHARE)
        assert {row["status"] for row in retailer.run("feed", "estimate", "summer", "--yes")} == {"ok"}
        retailer.run("feed", "publish", "summer")
        publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")
        publisher.enable("summer")
        retailer.until(lambda feeds: feeds["shared"][0]["partners"]["publisher"] == "enabled", "feed", "list")
        assert retailer.run("feed", "sync", "summer")["runs"][0]["revision"] == 1
        assert received(publisher, tmp_path, "vip") == {f"p{n}" for n in range(50, 80)}
        retailer.run("feed", "unshare", "summer", "--segment", "lapsed", "--yes")
        publisher.until(lambda feed: feed["members"] == {"vip": 30}, "feed", "show", "summer")
        assert retailer.run("feed", "sync", "summer")["runs"][0]["revision"] == 2
        retailer.run("partner", "disconnect", "publisher", "--yes")
        publisher.until(lambda rows: rows[0]["status"] == "disconnected", "partner", "list")
    for side in (retailer, publisher):
        check_audit(side)


@pytest.mark.feature("EX3")
def test_the_demo() -> None:
    done = subprocess.run(
        [*VESICA, "demo", "--size", "400", "--json"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "COLUMNS": "200",
            "VESICA_PROJECT": "loyalty",
            "VESICA_TRACEBACK": "1",
            "VESICA_TOKEN": "bob",
        },
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert set(document) >= {"terms", "estimates", "members", "learned"}
    assert document["terms"]["minimum_segment"] == 20
    assert [row["equal"] for row in document["members"]] == [True] * 3
    assert [(row["kind"], row["equal"]) for row in document["destinations"]] == [("file", True), ("webhook", True)]
    assert all(row["count"] > 100 for row in document["destinations"])
    assert all(row["count"] == row["expected_count"] for row in document["members"])
    assert sum(row["count"] > 20 for row in document["members"]) == 2
    assert {row["status"] for row in document["estimates"]} <= {"ok", "below_minimum"}  # so few people: noise decides
    assert document["wrong"] == []
