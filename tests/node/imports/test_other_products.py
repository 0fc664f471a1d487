"""Exports of other products become people, consents and lists."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from exports import ECID, LAPSED, VIP, Take, hashed, members, record
from sides import Pair, Person

from node.erasure.erasure import People
from node.errors import AlreadyExists, InvalidInput
from node.governance.violations import PolicyConflict
from node.node import Node
from node.people.snapshots import Snapshot
from node.project import Project
from psi.errors import Remedy


@pytest.mark.feature("OP10")
def test_a_profile_export_comes_in_as_it_is(take: Take, project: Project, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps({"segments": [{"id": VIP, "name": "VIP customers (EU)"}]}))
    report = take(
        [record(1), record(2), record(3, segmentMembership={"ups": {VIP: {"status": "existing"}}})],
        id_path="_fern.loyalty.number",
        namespaces=["CRMID=crmid"],
        attributes=["person.gender", "_fern.loyalty.tier=tier"],
        segments=tmp_path / "names.json",
    )
    assert (report.records, report.accepted, report.profiles_added, report.consents_changed) == (3, 3, 3, 6)
    assert report.identities == {"email_sha256/lc-v1": 3, "ecid/digits-v1": 3, "crmid/opaque-v1": 3}
    assert (report.rejected, report.dropped) == ({}, {})
    assert [(each.id, each.name, each.size, each.created) for each in report.segments] == [
        (VIP, "vip-customers-eu", 3, True),
        (LAPSED, LAPSED, 0, True),
    ]
    assert members(project, "vip-customers-eu") == {"L1", "L2", "L3"}
    shown = project.profiles.show("L1")
    assert shown["attributes"] == {"aep": {"person_gender": "female", "tier": "gold"}}
    found = {each["namespace"]: each for each in shown["identities"]}
    assert found["email_sha256/lc-v1"]["value"] == hashed("u1@x.com")
    assert [name for name, each in found.items() if each["primary"]] == ["email_sha256/lc-v1"]
    assert (shown["share"], shown["share_at"]) == ("y", "2026-05-01T10:00:00Z")
    project.consent.set_model("opt-in")
    said = project.consent.show("L1")["namespaces"]
    assert (said["ecid"]["share"], said["ecid"]["may_be_shared"]) == ("n", False)
    assert said["email_sha256"]["may_be_shared"] is True
    assert project.segments.create("women", rule="person_gender = 'female' AND tier = 'gold'").size == 3
    assert project.scope.home.audit.entries(act="profile.take-over")[0].detail["accepted"] == 3


@pytest.mark.feature("OP10")
def test_a_later_export_moves_people_out_and_keeps_the_newest_word(take: Take, project: Project) -> None:
    take([record(1), record(2)], id_path="_id")
    consents = {"share": {"val": "n"}, "metadata": {"time": "2026-06-01T00:00:00Z"}}
    older = {"share": {"val": "n"}, "metadata": {"time": "2020-06-01T00:00:00Z"}}
    report = take(
        [
            record(1, consents=consents, segmentMembership={"ups": {LAPSED: {"status": "realized"}}}),
            record(2, consents=older, segmentMembership={"ups": {VIP: {"status": "exited"}}}),
            record(3),
        ],
        id_path="_id",
    )
    assert (report.profiles_added, report.profiles_updated) == (1, 2)
    assert members(project, VIP) == {"profile-3"}
    assert members(project, LAPSED) == {"profile-1"}
    assert [project.profiles.show(f"profile-{n}")["share"] for n in (1, 2, 3)] == ["n", "y", "y"]


@pytest.mark.feature("OP10")
def test_who_is_in_no_segment_any_more_is_out_of_all_that_the_dataset_brought(
    take: Take, project: Project, tmp_path: Path
) -> None:
    take([record(1), record(2), record(3)], id_path="_id")
    (tmp_path / "own.csv").write_text("id\nprofile-1\n")
    project.segments.create("own", members_file=tmp_path / "own.csv")
    silent = record(2)
    del silent["segmentMembership"]
    report = take([record(1, segmentMembership={"ups": {}}), silent], id_path="_id")
    assert report.segments == []
    assert members(project, VIP) == {"profile-2", "profile-3"}
    assert members(project, "own") == {"profile-1"}
    project.segments.delete(VIP)
    take([record(1, segmentMembership={"ups": {}})], id_path="_id")
    assert VIP not in [each.name for each in project.segments.all()]


@pytest.mark.feature("GV2")
@pytest.mark.feature("OP10")
def test_a_label_on_the_dataset_is_on_the_segments_that_it_brought(take: Take, project: Project) -> None:
    take([record(1)])
    project.labels.apply("C11", "dataset", "aep")
    assert "C11" in project.labels.labels_of_segment(VIP)
    assert [each.policy for each in project.governance.check([VIP])] == ["restrict-data-sharing"]


@pytest.mark.feature("ID4")
@pytest.mark.feature("OP10")
def test_no_raw_value_of_an_export_stays(take: Take, project: Project) -> None:
    raw = {"Email": [{"id": "Ann.Secret@X.com"}], "Phone_E.164": [{"id": "+447400987654"}]}
    consents = {"idSpecific": {"Email": {"Ann.Secret@X.com": {"share": {"val": "n"}}}}}
    take([record(1, identityMap=raw, consents=consents)])
    stored = b"".join(path.read_bytes() for path in project.scope.home.path.rglob("*") if path.is_file()).lower()
    assert b"ann.secret" not in stored
    assert b"7400987654" not in stored
    assert project.consent.show()["namespaces"] == {"email_sha256": {"n": 1}}
    personal = record(2, personalEmail={"address": "bob@x.com"})
    for options in ({"attributes": ["personalEmail.address"]}, {"id_path": "personalEmail.address"}):
        with pytest.raises(InvalidInput, match="raw personal data"):
            take([personal], **options)


@pytest.mark.feature("CO3")
@pytest.mark.feature("OP10")
def test_words_without_a_time_lift_no_withdrawal(take: Take, project: Project, clock: Clock) -> None:
    def said(all_of_it: str, ecid: str) -> dict[str, Any]:
        return {
            "share": {"val": all_of_it},
            "idSpecific": {"ECID": {ECID(1): {"share": {"val": ecid}}}},
        }

    def words() -> tuple[str, str]:
        found = project.consent.show("profile-1")
        return found["share"], found["namespaces"]["ecid"]["share"]

    take([record(1, consents=said("n", "n"))], id_path="_id")
    clock.advance(days=1)
    report = take([record(1, consents=said("y", "y"))], id_path="_id")
    assert (report.consents_changed, report.withdrawals_kept, words()) == (2, 0, ("y", "y"))
    project.consent.set("profile-1", "n", "ecid")
    dated = {"share": {"val": "n"}, "metadata": {"time": "2027-01-17T00:00:00Z"}}
    clock.advance(days=1)
    take([record(1, consents=dated)], id_path="_id")
    clock.advance(days=1)
    report = take([record(1, consents=said("y", "y"))], id_path="_id")
    assert (report.consents_changed, report.withdrawals_kept, words()) == (0, 2, ("n", "n"))


@pytest.mark.feature("OP10")
def test_an_import_changes_only_the_lists_that_its_dataset_brought(
    take: Take, project: Project, tmp_path: Path
) -> None:
    take([record(1), record(2)], id_path="_id")
    file = tmp_path / "own.csv"
    file.write_text("id\nprofile-1\n")
    project.segments.create("own", members_file=file)
    (tmp_path / "names.csv").write_text(f"id,name\n{VIP},own\n")
    named = partial(take, id_path="_id", segments=tmp_path / "names.csv")
    before = Snapshot.open(project.scope).generation
    for dataset in ("aep", "other"):
        with pytest.raises(AlreadyExists, match="may not change"):
            named([record(2)], dataset=dataset)
    with pytest.raises(AlreadyExists, match="may not change"):
        take([record(2)], dataset="other", id_path="_id")  # it is aep's
    assert Snapshot.open(project.scope).generation == before
    assert members(project, "own") == {"profile-1"}
    named([record(2)], into=["own"])
    named([record(2)])  # aep's from now on
    assert members(project, "own") == {"profile-1", "profile-2"}
    project.segments.delete("own")
    project.segments.create("own", members_file=file)
    with pytest.raises(AlreadyExists):
        named([record(2)])


@pytest.mark.feature("GV10")
@pytest.mark.feature("OP10")
def test_an_import_says_the_same_of_a_hidden_segment(take: Take, project: Project, tmp_path: Path) -> None:
    take([record(1), record(2)], id_path="_id")
    file = tmp_path / "own.csv"
    file.write_text("id\nprofile-1\n")
    for name in ("shown", "hidden"):
        project.segments.create(name, members_file=file)
        (tmp_path / f"{name}.csv").write_text(f"id,name\n{VIP},{name}\n")
    project.labels.apply("S1", "segment", "hidden")
    project.labels.apply("S1", "segment", LAPSED)
    node = Node(project.scope.home)
    node.sign_in(node.users.create("ann", ["administrator"]).text)
    node.roles.create("limited", ["view", "manage-data"], labels=[])
    token = node.users.create("lou", ["limited"])
    node.sign_in(token.text)
    said = []
    for name, into in (("shown", []), ("hidden", []), ("hidden", ["hidden"])):
        with pytest.raises(AlreadyExists) as refused:
            take([record(2)], id_path="_id", segments=tmp_path / f"{name}.csv", into=into)
        said.append(f"{refused.value} {refused.value.hint}".replace(name, "NAME"))
    assert len(set(said)) == 1
    with pytest.raises(AlreadyExists, match=LAPSED):  # what it brought, too
        take([record(2)], id_path="_id")


@pytest.mark.feature("GV6")
@pytest.mark.feature("OP10")
def test_an_import_by_which_a_published_feed_would_break_a_policy_is_refused(
    pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    people = [person(f"profile-{n}", f"u{n}@x.com") for n in range(5)]
    pair.prepare(people, people, {"vip": ["profile-1", "profile-2"]})
    pair.share("summer", ["vip"], ["email_sha256/lc-v1"])
    project, path = pair.acme.project, tmp_path / "export.json"
    path.write_text(json.dumps(record(1)) + "\n")
    (tmp_path / "names.csv").write_text(f"id,name\n{VIP},vip\n")
    take = partial(project.profiles.import_segment_match, path, dataset="aep", id_path="_id")
    take()
    project.labels.apply("C11", "field", "aep.segments")
    with pytest.raises(PolicyConflict, match="feed summer"):
        take(segments=tmp_path / "names.csv", into=["vip"])
    assert "C11" not in project.labels.labels_of_segment("vip")


def test_an_export_warns_of_what_may_be_personal_data_and_leaves_out_what_is_too_long(take: Take) -> None:
    records = [{"own": "07700900123", "a": "@ann"}, {"own": "2", "a": "x" * 10_001}]
    report = take(records, attributes=["a"], id_path="own")
    assert report.rejected == {"a of over 10000 characters": {"count": 1, "lines": [2]}}
    assert set(report.doubts) == {"id", "a"}


@pytest.mark.feature("OP10")
def test_another_rule_of_a_namespace_gets_a_field_with_the_same_labels(take: Take, project: Project) -> None:
    raw = {"Email": [{"id": "Ann.B+x@gmail.com"}]}
    take([{"own": "1", "identityMap": raw}], id_path="own")
    project.labels.apply("C4", "field", "aep.email_sha256")
    both = {**raw, "Google": [{"id": "Ann.B+x@gmail.com"}]}
    for _ in range(2):
        take([{"own": "1", "identityMap": both}], id_path="own", namespaces=["Google=email_sha256/google-v3:raw"])
    identities = project.profiles.show("1")["identities"]
    assert {each["namespace"]: each["value"] for each in identities} == {
        "email_sha256/lc-v1": hashed("ann.b+x@gmail.com"),
        "email_sha256/google-v3": hashed("annb@gmail.com"),
    }
    label = next(each for each in project.labels.all() if each.name == "C4")
    assert sorted(place.target for place in label.applied_to) == ["aep.email_sha256", "aep.email_sha256/google-v3"]


def test_an_export_of_erased_people_alone_says_how_they_may_return(take: Take, project: Project) -> None:
    take([record(1), record(2)])
    project.erasure.profiles(People(ids=list(members(project, VIP))))
    with pytest.raises(InvalidInput, match="erased here before") as caught:
        take([record(1)])
    assert caught.value.remedy == Remedy("profile.readmit")
