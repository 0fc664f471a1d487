"""What comes between a decision, its batches and their arrival: a person's word, time, a backup, another process."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from clock import Clock
from sharing import people as persons
from sides import EMAIL, Pair
from sqlalchemy import select
from targets import Folder, folder_out, names, people

from node.destinations import additions, kinds, partner_addresses, planning, sending, settling
from node.destinations.kinds import Delivered, Later, Refused
from node.destinations.records import Activation, activations_of, stored
from node.destinations.targets import folders
from node.errors import Failure, NotAllowed
from node.node import Node
from node.project import Project
from node.storage.tables import activations, batches, connections


def test_a_message_of_a_restored_home_has_no_id_that_said_something_else(
    project: Project, folder: Folder, tmp_path: Path, clock: Clock
) -> None:
    project.destinations.activate("out", ["s"])
    with Node.open(project.scope.home.path, now=clock) as opened:
        opened.backup(tmp_path / "backup")
    project.consent.set("p4", "n")
    project.destinations.sync("out")
    assert folder.look() == names(*range(5, 12))
    Node.restore(tmp_path / "backup", tmp_path / "restored", now=clock)
    with Node.open(tmp_path / "restored", now=clock) as node:
        restored = node.project()
        restored.resume()
        restored.destinations.resume("out")
        restored.consent.set("p4", "n")
        restored.consent.set("p5", "n")
        restored.destinations.sync("out")
    assert folder.look() == names(*range(6, 12))  # a reader that has each message once hears of p5


def test_what_was_taken_back_is_said_after_all_where_all_is_as_it_was(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy leaves some out while a batch waits, and is gone before the batch has arrived."""
    monkeypatch.setattr(type(folders.FOLDER), "limit", 4)
    project.consent_policies.create("low", "orders <> 7", action="analytics")
    away = folder.path.rename(folder.path.with_name("away"))
    project.destinations.activate("out", ["s"])  # p10, p11, p4, p5 and p6 to p9; nothing arrives
    project.consent_policies.enable("low")
    clock.advance(seconds=15)
    project.destinations.sync("out")  # the second batch is taken back, the first one waits
    project.consent_policies.disable("low")
    clock.advance(seconds=30)
    away.rename(folder.path)
    project.destinations.sync("out")
    assert folder.look() == names(*range(4, 12))


def test_nothing_more_is_sent_of_a_segment_that_is_left_meanwhile(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(folders.FOLDER), "limit", 2)
    sent = []

    def send(_target: object, message: kinds.Message) -> kinds.Outcome:
        sent.append(message.id)
        with project.scope.begin() as tx:
            tx.execute(activations.update().values(status="left"))
        return Delivered()

    monkeypatch.setattr(folders.FolderTarget, "send", send)
    project.destinations.activate("out", ["s"])
    assert len(sent) == 1
    project.destinations.sync("out")
    assert project.destinations.show("out")["segments"] == []


def test_who_withdraws_between_two_messages_of_one_turn_is_in_none_that_follows(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(folders.FOLDER), "limit", 2)
    send, sent = folders.FolderTarget.send, list[kinds.Message]()

    def withdrawing(target: folders.FolderTarget, message: kinds.Message) -> kinds.Outcome:
        if not sent:
            project.consent.set("p9", "n")
        sent.append(message)
        return send(target, message)

    monkeypatch.setattr(folders.FolderTarget, "send", withdrawing)
    project.destinations.activate("out", ["s"])
    assert folder.look() == names(*range(4, 9), 10, 11)
    assert ("realized", "p9") not in folder.changes


def test_who_withdraws_during_a_first_export_does_not_wait_for_its_rest(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(folders.FOLDER), "limit", 1)
    send, sent = folders.FolderTarget.send, list[kinds.Message]()

    def withdrawing(target: folders.FolderTarget, message: kinds.Message) -> kinds.Outcome:
        sent.append(message)
        outcome = send(target, message)
        if len(sent) == 2:
            folder.look()
            project.consent.set(folder.changes[0][1], "n")
        return outcome

    monkeypatch.setattr(folders.FolderTarget, "send", withdrawing)
    project.destinations.activate("out", ["s"])
    assert len(folder.look()) == 7
    first = folder.changes[0][1]
    assert folder.changes.index(("exited", first)) == 2
    assert len(folder.changes) == 9
    (row,) = project.destinations.runs("out")
    assert [row[each] for each in ("received", "activated", "excluded", "waiting")] == [9, 9, 0, 0]


def test_removals_leave_before_additions(project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    project.destinations.activate("out", ["s"])
    folder.look()
    for most_kept in (additions.MOST_KEPT, 0):  # few additions, and so many that they are found once more
        monkeypatch.setattr(additions, "MOST_KEPT", most_kept)
        monkeypatch.setattr(type(folders.FOLDER), "limit", 2)
        before = len(folder.changes)
        project.segments.update("s", rule="orders < 6" if most_kept else "orders >= 4")
        project.destinations.sync("out")
        assert folder.look() == (names(*range(6)) if most_kept else names(*range(4, 12)))
        said = [status for status, _ in folder.changes[before:]]
        assert said == sorted(said)  # "exited", then "realized"
        assert set(said) == {"exited", "realized"}


def test_who_withdraws_from_one_segment_does_not_wait_for_all_of_another(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.segments.create("t", rule="orders < 4")
    project.destinations.activate("out", ["t"])
    monkeypatch.setattr(type(folders.FOLDER), "limit", 1)
    send = folders.FolderTarget.send
    sent: list[str] = []
    monkeypatch.setattr(sending, "time", SimpleNamespace(monotonic=lambda: 4.0 * len(sent)))  # each takes four seconds

    def withdrawing(target: folders.FolderTarget, message: kinds.Message) -> kinds.Outcome:
        if not sent:
            project.consent.set("p1", "n")
        sent.append(message.segment)
        return send(target, message)

    monkeypatch.setattr(folders.FolderTarget, "send", withdrawing)
    project.destinations.activate("out", ["s"])
    assert sent == ["s"] * 3 + ["t"] + ["s"] * 5
    assert folder.look() == names(*range(12)) - names(1)


def test_a_process_that_slept_ends_and_plans_no_revision_of_another(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = folders.FolderTarget.send

    def waiting() -> Activation:
        monkeypatch.setattr(folders.FolderTarget, "send", lambda *_: Later("timeout"))
        project.destinations.sync("out")
        monkeypatch.setattr(folders.FolderTarget, "send", send)
        with project.scope.read() as tx:
            (found,) = activations_of(tx, destination)
        return found

    project.destinations.activate("out", ["s"])
    with project.scope.read() as tx:
        (destination,) = stored(project.scope, tx)
    project.consent.set("p4", "n")
    old = waiting()
    assert old.pending is not None
    clock.advance(seconds=15)
    project.destinations.sync("out")  # by another process
    project.segments.update("s", rule="orders >= 3")
    waiting()
    before = _rows(project)
    settling.finish(project.scope, old)
    planning.plan(project.scope, destination, replace(old, file=None), "another")
    assert _rows(project) == before


def _rows(project: Project) -> list[object]:
    with project.scope.read() as tx:
        return [*tx.execute(select(activations)).all(), *tx.execute(select(batches)).all()]


@pytest.mark.two_nodes
@pytest.mark.usefixtures("small_universes")
def test_members_whose_time_is_over_are_removed_without_a_service(pair: Pair, tmp_path: Path) -> None:
    pair.prepare(persons("a", range(20)), persons("g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]})
    pair.share("f", ["all"], [EMAIL])
    pair.acme.project.feeds.sync("f")
    globe = pair.globe.project
    globe.segments.create("theirs", rule="received.acme.all")
    folder = Folder(tmp_path / "out")
    globe.destinations.create("out", "file", {"folder": str(folder.path)}, uses=["analytics"])
    globe.destinations.activate("out", ["theirs"])
    assert len(folder.look()) == 10
    pair.clock.advance(days=30)
    globe.destinations.sync("out")
    assert folder.look() == set()


def test_a_destination_that_breaks_here_is_an_alert(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("p4 is in this text")

    monkeypatch.setattr(planning, "plan", broken)
    with pytest.raises(RuntimeError):
        project.destinations.activate("out", ["s"])
    (alert,) = project.alerts.all()
    assert alert.kind == "destination_failed"
    assert "RuntimeError" in alert.text
    assert "p4" not in alert.text


def test_a_segment_that_breaks_here_holds_no_other_up(project: Project, folder: Folder) -> None:
    project.segments.create("t", rule="orders < 4")
    project.destinations.activate("out", ["s", "t"])
    with project.scope.read() as tx:
        name = tx.scalar(select(activations.c.file).where(activations.c.segment == "s"))
    (project.scope.data_directory / "destinations" / str(name)).write_bytes(b"x")
    project.consent.set("p1", "n")
    with pytest.raises(Failure, match="damaged"):
        project.destinations.sync("out")
    assert folder.look() == names(*range(12)) - names(1)


def test_a_removal_that_failed_is_said_again_when_all_are_removed(
    project: Project, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.destinations.activate("out", ["s"])
    with monkeypatch.context() as patched:
        patched.setattr(folders.FolderTarget, "send", lambda *_: Refused("http_400"))
        project.consent.set("p4", "n")
        project.destinations.sync("out")
    project.destinations.sync("out")
    assert "p4" in folder.look()
    project.destinations.deactivate("out", ["s"])
    assert folder.look() == set()
    assert project.destinations.show("out")["gets"] == []


@pytest.mark.two_nodes
@pytest.mark.parametrize("written", ["{host}.", "{upper}", "hooks.{host}", "example", "other.example"])
def test_a_partners_address_is_known_however_it_is_written(
    pair: Pair, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partner_addresses, "looked_up", lambda _host, _port: ["192.0.2.7"])  # whatever the name
    known = persons("a", range(6))
    pair.prepare(known, persons("g", range(6)), {"vip": ["a0", "a1"]})
    pair.share("f", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync("f")
    globe = pair.globe.project
    globe.segments.create("theirs", rule="received.acme.vip")
    with globe.scope.begin() as tx:
        tx.execute(connections.update().values(peer_address="Acme.example:8470"))
    url = "https://" + written.format(host="acme.example", upper="ACME.EXAMPLE") + "/"
    globe.destinations.create("spy", "webhook", {"url": url}, uses=["analytics"])
    with pytest.raises(NotAllowed, match="partner's address"):
        globe.destinations.activate("spy", ["theirs"])


def test_either_database_says_who_is_there(either_node: Node, tmp_path: Path) -> None:
    project = either_node.project()
    people(project, tmp_path, 6)
    project.consent.set_model("opt-out")
    project.segments.create("s", rule="orders >= 2")
    folder = folder_out(project, tmp_path)
    project.destinations.activate("out", ["s"])
    project.consent.set("p3", "n")
    project.destinations.sync("out")
    assert folder.look() == names(2, 4, 5)
    project.destinations.delete("out")
    assert folder.look() == set()
    assert project.destinations.all() == []


def test_another_projects_segment_with_the_longest_name_comes_and_goes(either_node: Node, tmp_path: Path) -> None:
    either_node.share_segments(on=True)
    theirs, ours = either_node.create_project("c" * 27), either_node.create_project("a" * 63)
    for project in (theirs, ours):
        people(project, tmp_path, 6)
        project.consent.set_model("opt-out")
    theirs.segments.create("s" * 28, rule="orders >= 2")
    theirs.sharing.share("s" * 28, [ours.name], namespaces=["email_sha256"])
    segment = f"shared.{theirs.name}.{'s' * 28}"
    folder = Folder(tmp_path / "out")
    ours.destinations.create("out", "file", {"folder": str(folder.path)}, uses=["analytics"])
    ours.destinations.activate("out", [segment])
    assert folder.look() == names(2, 3, 4, 5)
    theirs.sharing.unshare("s" * 28)
    ours.destinations.sync("out")
    assert folder.look() == set()
    ours.destinations.deactivate("out", [segment])
    assert ours.destinations.show("out")["gets"] == []
