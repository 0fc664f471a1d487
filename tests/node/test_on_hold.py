"""A restored project shares and answers nothing before a person lets it go on, and what was spent stays spent."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cli.main import main
from node.access.permissions import PermissionDenied
from node.errors import Refusal, Refused
from node.feeds.sending import releases
from node.feeds.sending.edits import Addition
from node.feeds.sending.schedule import Schedule
from node.node import Node
from node.partners import key_epochs
from node.storage import tables
from protocol.letters import FeedHeld
from psi.errors import VesicaError

EMAIL, PHONE = "email_sha256/lc-v1", "phone_sha256/e164-v1"
DAY = key_epochs.DAY


def prepare(pair: Any, person: Any, **terms: Any) -> None:
    """Let globe have enabled acme's feed "summer" of pa to pd, who are at globe as well."""
    people = [
        person(f"p{each}", f"{each}@example.com", f"+4474000000{place:02}") for place, each in enumerate("abcdef")
    ]
    pair.prepare(people, people, {"vip": ["pa", "pb", "pc", "pd"], "new": ["pe"]}, **terms)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == {"pa", "pb", "pc", "pd"}


def set_back(pair: Any, side: Any, source: Path) -> Any:
    """Lose a side's home, and restore it two days later; the endpoint serves the restored one."""
    pair.clock.advance(days=2)
    side.node.close()
    shutil.rmtree(side.folder / side.name)
    document = Node.restore(source, side.folder / side.name, now=pair.clock)
    side.open()
    return document


@pytest.mark.feature("OP9")
def test_who_opted_out_after_the_backup_is_not_shared_again(
    idle_pair: Any, person: Any, tmp_path: Path, capsys: Any
) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with globe.serving():
        with acme.serving():
            prepare(pair, person)
            acme.node.backup(tmp_path / "backup")
            acme.project.consent.set("pa", "n")
            pair.clock.advance(seconds=60)
            acme.project.feeds.sync()
            assert globe.members("acme", "vip") == {"pb", "pc", "pd"}
        assert set_back(pair, acme, tmp_path / "backup")["on_hold"] == ["default"]
        with acme.serving():
            pair.post()
            for _ in range(3):
                pair.clock.advance(days=1)
                Schedule(acme.node).tick()
                pair.post()
            assert [job for job in acme.node.jobs.list() if job.kind == "release" and job.state != "done"] == []
            for ask in (acme.project.feeds.sync, lambda: acme.project.feeds.estimate("summer")):
                with pytest.raises(VesicaError) as refused:
                    ask()
                assert refused.value.code == "on_hold"
            assert globe.members("acme", "vip") == {"pb", "pc", "pd"}
            shows_and_resumes(acme, capsys)
            assert acme.acts("project.resume")
            acme.project.partners.allow("globe")
            acme.project.consent.set("pa", "n")
            pair.clock.advance(days=1)
            Schedule(acme.node).tick()
            pair.post()
            assert globe.members("acme", "vip") == {"pb", "pc", "pd"}
            assert acme.project.feeds.show("summer")["partners"][0]["last_revision"] > 2
    with pytest.raises(Refused):
        acme.project.resume()


def shows_and_resumes(side: Any, capsys: Any) -> None:
    def typed(*words: str) -> str:
        assert main(["--home", str(side.folder / side.name), *words]) == 0
        return str(capsys.readouterr().out)

    assert next(each.text for each in side.project.alerts.list() if each.kind == "on_hold").endswith(
        "vesica project resume default"
    )
    assert side.project.show()["on_hold"] is True
    assert side.node.status()["projects"][0]["on_hold"] is True
    assert "on hold since a restore" in typed("project", "show")
    assert "on hold" in typed("node", "status")
    assert "goes on" in typed("project", "resume")
    assert "on_hold" not in [each.kind for each in side.project.alerts.list(open_only=True)]
    assert "on hold since a restore" not in typed("project", "show")
    assert side.node.status()["projects"][0]["on_hold"] is False


@pytest.mark.feature("OP9")
def test_on_hold_nothing_is_fetched_and_no_count_is_answered(idle_pair: Any, person: Any, tmp_path: Path) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with acme.serving():
        with globe.serving():
            prepare(pair, person)
            globe.segment("theirs", ["pa", "pb"])
            globe.project.feeds.create("winter", segments=["theirs"], namespaces=[EMAIL], partners=["acme"])
            for side in (acme, globe):
                side.node.backup(tmp_path / f"{side.name}.tar")
        set_back(pair, globe, tmp_path / "globe.tar")
        with globe.serving():
            pair.post()
            with pytest.raises(VesicaError) as refused:  # globe came from a backup, and would answer
                acme.project.feeds.estimate("summer")
            assert refused.value.code == "on_hold"
            globe.project.resume()
            pair.clock.advance(days=1)
            assert acme.project.feeds.estimate("summer")[0]["status"] == "ok"
    set_back(pair, acme, tmp_path / "acme.tar")
    with acme.node.store.read() as tx:
        feed_id = tx.scalar(select(tables.feeds.c.id).where(tables.feeds.c.name == "summer"))
    subject = {"feed": bytes.fromhex(feed_id), "version": 1, "revision": 1}
    with pytest.raises(Refusal) as fetched:
        releases._called_for(acme.project, acme.project.partners.get("globe"), subject)
    assert fetched.value.code == "on_hold"


@pytest.mark.feature("OP9")
def test_whoever_restores_is_told_what_to_do(node: Node, tmp_path: Path, capsys: Any) -> None:
    node.backup(tmp_path / "backup")
    assert main(["--home", str(tmp_path / "new"), "node", "restore", str(tmp_path / "backup")]) == 0
    said = capsys.readouterr().out
    for command in ("project resume", "partner allow NAME", "user reset NAME", "partner id"):
        assert f"vesica {command}" in said
    assert main(["--home", str(tmp_path / "other"), "node", "restore", str(tmp_path / "nothing")]) == 1
    assert "there is nothing at" in capsys.readouterr().err


@pytest.mark.feature("OP9")
def test_who_may_not_share_may_not_resume(node: Node, tmp_path: Path, clock: Any) -> None:
    node.backup(tmp_path / "backup")
    Node.restore(tmp_path / "backup", tmp_path / "new", now=clock)
    with Node.open(tmp_path / "new", now=clock) as again:
        again.guard.sign_in(again.users.create("ann", ["administrator"]).text)
        data, shares = (again.users.create(name, [name]).text for name in ("data", "shares"))
        again.guard.sign_in(data)
        with pytest.raises(PermissionDenied):
            again.project().resume()
        again.guard.sign_in(shares)
        again.project().resume()
        assert not again.project().on_hold


@pytest.mark.feature("EX8")
def test_after_a_restore_evaluations_count_as_spent_for_each_partner(
    idle_pair: Any, person: Any, tmp_path: Path
) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with globe.serving():
        with acme.serving():
            prepare(pair, person)
            acme.node.backup(tmp_path / "backup")
        set_back(pair, acme, tmp_path / "backup")
        with acme.serving():
            pair.post()
            acme.project.resume()
            for _ in range(2):
                with pytest.raises(VesicaError) as spent:
                    acme.project.feeds.sync()
                assert spent.value.code == "evaluations_spent"
                pair.clock.advance(days=13)
            acme.project.partners.allow("globe")
            assert acme.project.feeds.sync()[0]["status"] == "done"
            people = [person(f"q{n}", f"q{n}@example.com") for n in range(6)]
            globe.people(people, "more")
            with pytest.raises(VesicaError) as spent:  # once, not for ever
                acme.project.feeds.sync()
            assert spent.value.code == "evaluations_spent"


@pytest.mark.feature("EX8")
def test_after_a_restore_a_partner_ends_one_epoch_early_and_no_more(
    idle_pair: Any, person: Any, tmp_path: Path
) -> None:
    pair, acme = idle_pair, idle_pair.acme
    with pair.globe.serving():
        with acme.serving():
            prepare(pair, person)
            acme.node.backup(tmp_path / "backup")
        set_back(pair, acme, tmp_path / "backup")
    project = acme.project
    connection = project.partners.get("globe")

    def pulled(number: int) -> int:
        with acme.node.store.begin() as tx:
            return key_epochs.follow(project, tx, connection, number).number

    with acme.node.store.begin() as tx:
        ours = key_epochs.current(project, tx, connection).number
    pair.clock.advance(seconds=60)
    assert pulled(ours + 5) == ours + 5  # our number was too low
    pair.clock.advance(seconds=60)
    with pytest.raises(Refused):
        pulled(ours + 6)
    pair.clock.advance(days=1)
    assert pulled(ours + 6) == ours + 6
    pair.clock.advance(seconds=60)
    with pytest.raises(Refused):
        pulled(ours + 7)


# The other side of it


@pytest.mark.feature("OP9")
def test_a_partner_that_forgot_the_end_of_a_connection_is_told_again(
    idle_pair: Any, person: Any, tmp_path: Path
) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with globe.serving():
        with acme.serving():
            prepare(pair, person)
            acme.node.backup(tmp_path / "backup")
            acme.project.partners.disconnect("globe", "enough")
            pair.post()
            assert globe.project.partners.get("acme").status == "disconnected"
        set_back(pair, acme, tmp_path / "backup")
        with acme.serving():
            assert acme.project.partners.get("globe").status == "active"
            pair.post()
            assert acme.project.partners.get("globe").status == "disconnected"
            assert acme.project.feeds.show("summer")["partners"][0]["status"] == "revoked"


@pytest.mark.feature("OP9")
def test_a_partner_is_told_no_version_that_it_was_never_offered(idle_pair: Any, person: Any, tmp_path: Path) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with acme.serving():
        with globe.serving():
            prepare(pair, person)
            globe.node.backup(tmp_path / "backup")
            acme.project.feeds.edit("summer", addition=Addition(namespaces=[PHONE]))
            shown = acme.project.feeds.show("summer")["partners"][0]
            assert (shown["accepted_version"], shown["waits_for_estimate"]) == (1, [PHONE])
        set_back(pair, globe, tmp_path / "backup")
        globe.post()
        with acme.node.store.read() as tx:
            (held,) = tx.scalars(select(tables.letters.c.body).where(tables.letters.c.kind == "feed.held"))
        definition = FeedHeld.decode(held).definition
        assert (definition.version, definition.namespaces) == (1, (EMAIL,))
