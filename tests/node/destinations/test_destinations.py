"""Segments that go to a folder: whatever changes, the folder's reader has the members who may leave, and no one else."""

import json
import os
import shutil
from pathlib import Path

import pytest
import targets
from callers import crew, signed_in
from clock import Clock
from sides import EMAIL, Pair, Person
from sqlalchemy import select
from targets import Folder, folder_out, names, people

from node.access.permissions import PermissionDenied
from node.destinations import due, kinds, planning, sending, upkeep
from node.destinations.at_target import AtTarget
from node.destinations.kinds import Later, Refused
from node.destinations.targets import folders
from node.errors import AlreadyExists, InvalidInput, InvalidName, NotAllowed, NotFound
from node.governance.lineage import PlaceKind
from node.governance.violations import PolicyViolation
from node.node import Node
from node.operations.jobs import Jobs, JobState
from node.people.snapshots import Snapshot
from node.project import Project
from node.storage.tables import activations, destinations
from node.transport.addresses import split_address
from psi.errors import VesicaError


def hour(project: Project, name: str = "out") -> dict[str, int]:
    """Return the sums over all hours."""
    rows = project.destinations.runs(name)
    for row in rows:
        assert row["received"] == row["activated"] + row["excluded"] + row["failed"] + row["waiting"]
        assert min(row[each] for each in ("activated", "excluded", "failed", "waiting")) >= 0
        coded = [each for each in row["codes"] if each["outcome"] != "activated"]
        assert sum(each["count"] for each in coded) == row["excluded"] + row["failed"]
        assert all(each["reason"] for each in coded)
    return {each: sum(row[each] for row in rows) for each in ("received", "activated", "excluded", "failed", "waiting")}


@pytest.mark.feature("EC3")
def test_the_first_export_is_the_whole_population_and_then_only_what_changes(project: Project, folder: Folder) -> None:
    assert project.destinations.activate("out", ["s"])["sent"] == 1
    assert folder.look() == names(*range(4, 12))
    assert project.destinations.sync("out")["sent"] == 0
    project.segments.update("s", rule="orders BETWEEN 3 AND 10")
    assert project.destinations.sync("out")["sent"] == 1
    assert folder.look() == names(*range(3, 11))
    assert len(folder.changes) == 8 + 2  # nothing is said twice


@pytest.mark.feature("EC4")
@pytest.mark.feature("EC5")
def test_deactivation_removes_all_and_a_reactivation_sends_all(
    project: Project, folder: Folder, tmp_path: Path
) -> None:
    project.destinations.activate("out", ["s"])
    project.destinations.deactivate("out", ["s"])
    assert folder.look() == set()
    assert project.destinations.show("out")["segments"] == []
    project.segments.update("s", rule="orders < 6")
    project.destinations.activate("out", ["s"])
    assert folder.look() == names(*range(6))
    project.destinations.deactivate("out", ["s"], leave=True)
    assert folder.look() == names(*range(6))  # they stay, and the destination knows nothing of them any more
    assert project.destinations.show("out")["segments"] == []
    project.destinations.activate("out", ["s"])
    assert folder.look() == names(*range(6))
    assert folder.changes[-6:] == [("realized", f"p{n}") for n in range(6)]  # all are said again
    project.destinations.delete("out")
    assert folder.look() == set()
    assert project.destinations.all() == []
    with pytest.raises(NotFound):
        project.destinations.show("out")
    assert [each.name for each in (project.scope.data_directory / "destinations").iterdir()] == []


@pytest.mark.feature("EC6")
@pytest.mark.feature("EC16")
def test_two_destinations_get_their_own_segments_and_no_other(project: Project, folder: Folder, tmp_path: Path) -> None:
    project.segments.create("few", rule="orders < 2")
    project.segments.create("kept-here", rule="orders = 11")
    other = Folder(tmp_path / "other")
    project.destinations.create("other", "file", {"folder": str(other.path), "format": "jsonl"}, uses=["analytics"])
    project.destinations.activate("out", ["s"])
    project.destinations.activate("other", ["few"])
    assert folder.look() == names(*range(4, 12))
    assert other.look() == names(0, 1)
    text = "".join(file.read_text() for file in (*folder.path.iterdir(), *other.path.iterdir()))
    assert "kept-here" not in text
    (line, *_) = (json.loads(line) for file in other.path.iterdir() for line in file.read_text().splitlines())
    assert line == {
        "namespace": "id",
        "identity": "p0",
        "segment": "few",
        "status": "realized",
        "at": "2027-01-15T08:00:00Z",
    }


def test_who_withdraws_is_removed_and_who_must_stay_away_is_counted_once(
    project: Project, folder: Folder, clock: Clock
) -> None:
    project.consent.set("p4", "n")
    project.destinations.activate("out", ["s"])
    assert folder.look() == names(*range(5, 12))
    assert hour(project) == {"received": 8, "activated": 7, "excluded": 1, "failed": 0, "waiting": 0}
    project.consent.set("p5", "n")
    project.destinations.sync("out")
    assert folder.look() == names(*range(6, 12))
    assert hour(project)["received"] == 9
    clock.advance(seconds=1)
    project.consent.set("p4", "y")
    project.destinations.sync("out")
    assert folder.look() == names(4, *range(6, 12))
    assert hour(project) == {"received": 10, "activated": 9, "excluded": 1, "failed": 0, "waiting": 0}


def test_an_identity_leaves_only_if_all_who_have_it_agree(node: Node, tmp_path: Path) -> None:
    project = node.project()
    people(project, tmp_path, 4)
    (tmp_path / "more.csv").write_text("id,orders,email\nother,9,P1@x.com\n")
    from node.imports.identity_columns import IdentityColumn

    email = IdentityColumn.parse("email=email_sha256:raw")
    project.profiles.import_(
        tmp_path / "more.csv", dataset="crm", id_column="id", identities=[email], attributes=["orders"]
    )
    project.consent.set_model("opt-out")
    project.segments.create("s", rule="orders < 9")
    folder = Folder(tmp_path / "out")
    settings = {"folder": str(folder.path)}
    project.destinations.create("out", "file", settings, identity="email_sha256", uses=["analytics"])
    project.destinations.activate("out", ["s"])
    assert len(folder.look()) == 4
    assert all(len(each) == 64 for each in folder.look())
    project.consent.set("other", "n")  # who is in no segment
    project.destinations.sync("out")
    assert len(folder.look()) == 3


def test_a_label_that_comes_later_removes_all_and_its_end_sends_them_again(project: Project, folder: Folder) -> None:
    project.destinations.activate("out", ["s"])
    project.labels.apply("C8", PlaceKind.SEGMENT, "s")  # forbids analytics once that policy is enabled
    project.policies.enable("restrict-analytics")
    project.destinations.sync("out")
    assert folder.look() == set()
    (shown,) = project.destinations.show("out")["segments"]
    assert "label" in shown["stopped"]
    project.segments.update("s", rule="orders >= 2")
    project.destinations.sync("out")
    assert folder.look() == set()
    assert hour(project) == {"received": 18, "activated": 16, "excluded": 2, "failed": 0, "waiting": 0}
    project.labels.remove("C8", PlaceKind.SEGMENT, "s")
    project.destinations.sync("out")
    assert folder.look() == names(*range(2, 12))
    assert project.destinations.show("out")["segments"][0]["stopped"] is None


def test_activation_is_refused_where_a_label_forbids_a_use_or_nobody_chose_a_consent_model(
    node: Node, tmp_path: Path
) -> None:
    project = node.project()
    people(project, tmp_path, 3)
    project.segments.create("s", rule="orders >= 1")
    folder = Folder(tmp_path / "out")
    project.destinations.create("out", "file", {"folder": str(folder.path)})
    with pytest.raises(NotAllowed, match="consent model"):
        project.destinations.activate("out", ["s"])
    project.consent.set_model("opt-out")
    project.labels.apply("C12", PlaceKind.DATASET, "crm")
    with pytest.raises(PolicyViolation, match="C12"):
        project.destinations.activate("out", ["s"])
    assert project.destinations.show("out")["gets"] == []
    assert folder.look() == set()


def test_a_consent_policy_on_a_use_leaves_people_out(project: Project, folder: Folder) -> None:
    project.destinations.activate("out", ["s"])
    project.consent_policies.create("ten", "orders < 10", action="analytics", enable=True)
    project.destinations.sync("out")
    assert folder.look() == names(*range(4, 10))
    assert project.destinations.runs("out")[0]["activated"] == 8 + 2


def test_erased_people_are_removed_and_no_trace_of_them_stays(project: Project, folder: Folder) -> None:
    from node.erasure.erasure import People

    project.destinations.activate("out", ["s"])
    done = project.erasure.profiles(People(ids=["p7"]), prove=True)
    project.destinations.sync("out")
    assert folder.look() == names(4, 5, 6, *range(8, 12))
    assert {"place": "destination out", "before": 1, "after": 1} in done["places"]  # the removal was on its way
    again = project.erasure.profiles(People(ids=["p7"]), prove=True)
    assert all(each["after"] == 0 for each in again["places"])
    for file in (project.scope.data_directory / "destinations").rglob("*"):
        assert file.is_dir() or b"p7" not in file.read_bytes()


def test_pausing_sends_nothing_and_resuming_only_the_difference(project: Project, folder: Folder) -> None:
    project.destinations.activate("out", ["s"])
    project.destinations.pause("out")
    project.consent.set("p4", "n")
    project.segments.update("s", rule="orders >= 5")
    done = {"name": "out", "sent": 0, "waiting": 0, "failed": 0, "held": 0, "next_attempt": None, "status": "paused"}
    assert project.destinations.sync("out") == done
    assert folder.look() == names(*range(4, 12))
    project.destinations.resume("out")
    assert folder.look() == names(*range(5, 12))
    assert len(folder.changes) == 8 + 1


def test_a_row_that_was_written_to_do_harm_costs_itself(project: Project, folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    project.destinations.create("aaa", "file", {"folder": str(other.path)}, uses=["analytics"])
    project.destinations.activate("aaa", ["s"])
    project.destinations.activate("out", ["s"])
    with project.scope.home.begin() as tx:
        tx.execute(destinations.update().where(destinations.c.name == "aaa").values(settings=7))
    project.consent.set("p4", "n")
    assert due.submit_due(project.scope) is None
    project.sync()
    assert folder.look() == names(*range(5, 12))


def test_a_segment_is_not_renamed_where_a_target_knows_it_by_its_name(project: Project, folder: Folder) -> None:
    project.destinations.activate("out", ["s"])
    with pytest.raises(NotAllowed, match="destination out knows segment s by its name alone"):
        project.segments.rename("s", "t")  # who withdraws then would be removed from t, and stay in s
    project.consent.set("p4", "n")
    project.destinations.sync("out")
    assert folder.look() == names(*range(5, 12))
    project.destinations.deactivate("out", ["s"])
    project.segments.rename("s", "t")
    project.destinations.activate("out", ["t"])
    assert folder.look() == names(*range(5, 12))


def test_what_waits_is_decided_again_before_it_leaves(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = folders.FolderTarget.send
    monkeypatch.setattr(folders.FolderTarget, "send", lambda self, message: Later("timeout"))
    project.destinations.activate("out", ["s"])
    project.consent.set("p9", "n")
    monkeypatch.setattr(folders.FolderTarget, "send", send)
    clock.advance(seconds=15)
    project.destinations.sync("out")
    assert folder.look() == names(4, 5, 6, 7, 8, 10, 11)
    # The first message may have arrived, so that p9 is taken out for sure; what it said counts as superseded.
    assert ("exited", "p9") in folder.changes
    assert ("realized", "p9") not in folder.changes
    found = project.destinations.runs("out")[0]
    assert hour(project) == {"received": 16, "activated": 8, "excluded": 8, "failed": 0, "waiting": 0}
    assert [each["code"] for each in found["codes"]] == ["superseded"]


def test_what_still_holds_is_sent_again_as_it_was(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[kinds.Message] = []
    send = folders.FolderTarget.send

    def late(self: folders.FolderTarget, message: kinds.Message) -> kinds.Outcome:
        seen.append(message)
        return Later("timeout") if len(seen) == 1 else send(self, message)

    monkeypatch.setattr(folders.FolderTarget, "send", late)
    project.destinations.activate("out", ["s"])
    project.consent.set("p0", "n")  # who is no member
    clock.advance(seconds=15)
    project.destinations.sync("out")
    assert [(each.id, each.body) for each in seen] == [(seen[0].id, seen[0].body)] * 2
    assert hour(project)["received"] == 8


def test_a_target_that_asks_for_more_time_gets_it_and_one_that_refuses_is_left_alone(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [Later("http_429", 100), Later("http_429", 10_000), Refused("http_400")]
    monkeypatch.setattr(folders.FolderTarget, "send", lambda self, message: answers.pop(0))
    project.destinations.activate("out", ["s"])
    assert project.destinations.show("out")["next_attempt"] == clock() + 100
    clock.advance(seconds=99)
    project.destinations.sync("out")
    assert len(answers) == 2
    clock.advance(seconds=1)
    project.destinations.sync("out")
    assert project.destinations.show("out")["next_attempt"] == clock() + 3_600
    clock.advance(seconds=3_600)
    project.destinations.sync("out")
    assert answers == []
    project.destinations.sync("out")  # a 400 is never tried again
    assert project.destinations.errors("out")[0]["code"] == "http_400"


def test_a_clock_that_jumps_back_holds_nothing_up(project: Project, folder: Folder, clock: Clock) -> None:
    folder.path.rmdir()
    project.destinations.activate("out", ["s"])
    clock.advance(days=-400)
    folder.path.mkdir()
    project.destinations.sync("out")
    assert folder.look() == names(*range(4, 12))


def test_batches_have_at_most_so_many_changes_and_are_sealed_until_they_arrive(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(folders.FOLDER), "limit", 3)
    folder.path.rmdir()
    project.destinations.activate("out", ["s"])
    kept = project.scope.data_directory / "destinations"
    sealed = [each for each in kept.rglob("*") if each.is_file() and each.parent != kept]
    assert len(sealed) == 3 * 2 + 1  # bodies, what they say, and the key
    assert not any(b"p11" in each.read_bytes() for each in sealed)
    folder.path.mkdir()
    clock.advance(seconds=15)
    assert project.destinations.sync("out")["sent"] == 3
    assert folder.look() == names(*range(4, 12))
    assert [len(file.read_text().splitlines()) - 1 for file in sorted(folder.path.iterdir())] == [3, 3, 2]
    assert [each for each in kept.rglob("*") if each.is_file() and each.parent != kept and each.name != "key"] == []
    with project.scope.read() as tx:
        name = tx.scalar(select(activations.c.file))
    assert len(AtTarget(kept / str(name))) == 8


def test_what_a_person_cannot_mean_is_refused(project: Project, folder: Folder, tmp_path: Path) -> None:
    create, settings = project.destinations.create, {"folder": str(folder.path)}
    with pytest.raises(AlreadyExists):
        create("out", "file", settings)
    with pytest.raises(InvalidName):
        create("Out!", "file", settings)
    with pytest.raises(InvalidInput, match="kind"):
        create("a", "fil", settings)
    with pytest.raises(InvalidInput, match="needs the setting folder"):
        create("a", "file", {})
    with pytest.raises(InvalidInput, match="no setting 'directory'"):
        create("a", "file", {**settings, "directory": "x"})
    with pytest.raises(InvalidInput, match="no folder"):
        create("a", "file", {"folder": str(tmp_path / "nowhere")})
    with pytest.raises(InvalidInput, match="home of a node"):
        create("a", "file", {"folder": str(project.scope.home.path / "data")})
    with pytest.raises(InvalidInput, match="no format"):
        create("a", "file", {**settings, "format": "xml"})
    with pytest.raises(InvalidInput, match="identities of"):
        create("a", "file", settings, identity="phone_sha256")
    with pytest.raises(InvalidInput, match="partner"):
        create("a", "file", settings, uses=["segment-match"])
    with pytest.raises(InvalidInput, match="no secret"):
        create("a", "file", settings, secret=b"x")
    with pytest.raises(NotFound, match="no segment"):
        project.destinations.activate("out", ["nothing"])
    with pytest.raises(NotAllowed, match="does not get"):
        project.destinations.deactivate("out", ["s"])
    project.destinations.activate("out", ["s"])
    with pytest.raises(AlreadyExists, match="already"):
        project.destinations.activate("out", ["s"])
    with pytest.raises(NotAllowed, match="destination out gets segment s"):
        project.segments.delete("s")


def test_a_job_that_breaks_is_tried_again_a_minute_later(
    project: Project, folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("x")

    plan = planning.plan
    monkeypatch.setattr(planning, "plan", broken)
    with pytest.raises(RuntimeError):
        project.destinations.activate("out", ["s"])
    with project.scope.read() as tx:
        assert tx.scalar(select(destinations.c.next_attempt)) == clock() + sending.BROKEN_SECONDS
    monkeypatch.setattr(planning, "plan", plan)
    clock.advance(seconds=sending.BROKEN_SECONDS)
    project.destinations.sync("out")
    assert folder.look() == names(*range(4, 12))


def test_a_profile_id_goes_out_as_it_was_given(node: Node, tmp_path: Path) -> None:
    project = node.project()
    ids = ["\u00e9t\u00e9", "z", "a", "a b", "\u65e5\u672c"]
    (tmp_path / "odd.csv").write_text("id,x\n" + "".join(f"{each},1\n" for each in ids))
    project.profiles.import_(tmp_path / "odd.csv", dataset="odd", id_column="id", identities=[], attributes=["x"])
    project.consent.set_model("opt-out")
    project.segments.create("odd", rule="x = 1")
    folder = folder_out(project, tmp_path)
    project.destinations.activate("out", ["odd"])
    assert folder.look() == set(ids) == {each.decode() for each in Snapshot.open(project.scope).profile_ids.tolist()}


@pytest.mark.feature("EC10")
def test_the_hours_of_all_segments_are_the_hours_of_the_destination(project: Project, folder: Folder) -> None:
    project.segments.create("few", rule="orders < 3")
    project.consent.set("p1", "n")
    project.destinations.activate("out", ["s", "few"])
    (row,) = project.destinations.runs("out")
    (first,), (second,) = (project.destinations.runs("out", each) for each in ("s", "few"))
    assert (first["received"], second["received"]) == (8, 3)
    for each in ("received", "activated", "excluded", "failed", "waiting", "requests"):
        assert row[each] == first[each] + second[each]
    assert [(each["code"], each["count"]) for each in second["codes"]] == [("consent", 1)]


def test_the_schedule_submits_what_is_due_once_and_waits_for_a_change(
    project: Project, folder: Folder, clock: Clock
) -> None:
    jobs = project.scope.home

    def queued() -> int:
        return len([each for each in Jobs(jobs).all(state=JobState.QUEUED) if each.kind == sending.JOB])

    assert due.submit_due(project.scope) is None
    project.destinations.activate("out", ["s"])
    assert (due.submit_due(project.scope), queued()) == (None, 0)
    project.consent.set("p4", "n")
    for _ in range(2):
        assert (due.submit_due(project.scope), queued()) == (None, 1)
    project.sync()
    assert folder.look() == names(*range(5, 12))
    assert (due.submit_due(project.scope), queued()) == (None, 0)
    shutil.rmtree(folder.path)
    project.consent.set("p5", "n")
    project.destinations.sync("out")
    assert (due.submit_due(project.scope), queued()) == (clock() + 15, 0)
    clock.advance(seconds=15)
    assert (due.submit_due(project.scope), queued()) == (None, 1)


def test_a_backup_brings_back_who_is_at_the_target(
    project: Project, folder: Folder, tmp_path: Path, clock: Clock
) -> None:
    project.destinations.activate("out", ["s"])
    moved = tmp_path / "away"
    folder.path.rename(moved)
    project.consent.set("p4", "n")
    project.destinations.sync("out")  # the removal waits
    with Node.open(project.scope.home.path, now=clock) as opened:
        opened.backup(tmp_path / "backup")
    moved.rename(folder.path)
    Node.restore(tmp_path / "backup", tmp_path / "restored", now=clock)
    with Node.open(tmp_path / "restored", now=clock) as node:
        restored = node.project()
        assert restored.destinations.show("out")["present"] == 8
        assert restored.destinations.runs("out")[0]["waiting"] == 0
        clock.advance(seconds=15)
        with pytest.raises(VesicaError, match="on hold"):
            restored.destinations.sync("out")
        assert folder.look() == names(*range(4, 12))
        restored.resume()
        clock.advance(seconds=sending.BROKEN_SECONDS)
        restored.destinations.sync("out")
        assert "came from a backup" in restored.destinations.show("out")["reason"]
        assert folder.look() == names(*range(4, 12))  # a backup may name any target: a person looks first
        restored.destinations.resume("out")
    assert folder.look() == names(*range(5, 12))
    assert len(folder.changes) == 8 + 1
    last = max(each.name for each in folder.path.iterdir())
    assert int(last[:10]) > 100  # after all that may have been sent since the backup


def test_what_is_old_is_forgotten_and_what_a_kill_left_is_deleted(
    project: Project, folder: Folder, clock: Clock
) -> None:
    targets.fail_first_export(project, folder, clock)
    left = project.scope.data_directory / "destinations" / ("0" * 32)
    left.write_bytes(b"x")
    os.utime(left, (0, 0))
    for file in left.parent.iterdir():
        if file != left:
            os.utime(file, (0, 0))
    upkeep.forget_old(project.scope)
    assert not left.exists()
    assert len(project.destinations.errors("out")) == 1
    clock.advance(days=31)
    upkeep.forget_old(project.scope)
    assert project.destinations.errors("out") == []
    folder.path.mkdir()
    project.destinations.replay("out")
    assert folder.look() == names(*range(4, 12))


def test_each_act_needs_its_permissions_and_a_refusal_names_all_that_are_missing(
    project: Project, node: Node, folder: Folder
) -> None:
    tokens = crew(node, ed="exporter", dee="destination-manager", al="activator")
    with signed_in(node, tokens["ed"]) as eds:
        with pytest.raises(PermissionDenied, match="activate-destinations and manage-destinations") as refused:
            eds.project().destinations.activate("out", ["s"])
        assert refused.value.remedy is not None
        assert refused.value.remedy.arguments["role"] == "activator"
        with pytest.raises(PermissionDenied, match="the permission manage-destinations"):
            eds.project().destinations.create("more", "file", {"folder": str(folder.path)})
    with signed_in(node, tokens["dee"]) as dees:
        dees.project().destinations.create("more", "file", {"folder": str(folder.path)})
        with pytest.raises(PermissionDenied, match="the permission activate-destinations"):
            dees.project().destinations.activate("more", ["s"])
    with signed_in(node, tokens["al"]) as als:
        als.project().destinations.activate("out", ["s"])
    assert folder.look() == names(*range(4, 12))


@pytest.mark.two_nodes
@pytest.mark.feature("GV8")
def test_a_partners_restricted_use_refuses_a_destination_and_so_does_the_partners_address(
    pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    known = [person(f"p{n}", f"p{n}@example.com") for n in range(6)]
    pair.prepare(known, known, {"vip": ["p0", "p1"]})
    pair.share("f", ["vip"], [EMAIL], restricted_uses=["email-targeting"])
    pair.acme.project.feeds.sync("f")
    globe = pair.globe.project
    globe.segments.create("theirs", rule="received.acme.vip")
    folder = Folder(tmp_path / "out")
    settings = {"folder": str(folder.path)}
    globe.destinations.create("mail", "file", settings, uses=["email-targeting"])
    with pytest.raises(PolicyViolation, match="restricted uses"):
        globe.destinations.activate("mail", ["theirs"])
    host, _ = split_address(pair.acme.address)
    globe.destinations.create("spy", "webhook", {"url": f"https://{host}:1/"}, uses=["analytics"])
    with pytest.raises(NotAllowed, match="partner's address"):
        globe.destinations.activate("spy", ["theirs"])
    globe.destinations.create("out", "file", settings, uses=["analytics"])
    globe.destinations.activate("out", ["theirs"])
    assert folder.look() == {"p0", "p1"}
    pair.acme.project.feeds.revoke("f")
    pair.globe.post()
    globe.destinations.sync("out")
    assert folder.look() == set()  # what a partner takes back is removed there too
