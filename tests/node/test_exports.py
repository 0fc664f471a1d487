"""Exports of other products, written here as their documentation shows them, become people, consents and lists."""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import AlreadyExists, InvalidInput, Refused
from node.governance.governance import PolicyConflict
from node.imports.audience_manager_files import FileName, Line, parse
from node.imports.experience_platform import Broken, Mapped, open_export, read
from node.imports.other_products import ExportReport, Names, _Arrived
from node.node import Node
from node.people.data import Snapshot
from node.project import Project

NOW = 1_800_000_000  # the clock of the tests: January 2027
ECID = "{:038d}".format
VIP, LAPSED = "0b2a1ff2-7d8a-4c0f-b1c1-1f0f0a1b2c3d", "9f1c5a70-0000-4000-8000-000000000001"


def hashed(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def record(number: int, **fields: Any) -> dict[str, Any]:
    """Return a profile as Experience Platform exports one."""
    return {
        "_id": f"profile-{number}",
        "_fern": {"loyalty": {"number": f"L{number}", "tier": "gold"}},
        "person": {"gender": "female", "name": {"firstName": "Ann"}},
        "identityMap": {
            "ECID": [{"id": ECID(number), "authenticatedState": "ambiguous", "primary": False}],
            "Email_LC_SHA256": [{"id": hashed(f"u{number}@x.com"), "primary": True}],
            "CRMID": [{"id": f"C{number}"}],
        },
        "consents": {
            "collect": {"val": "y"},
            "share": {"val": "y"},
            "idSpecific": {"ECID": {ECID(number): {"share": {"val": "n"}}}},
            "metadata": {"time": "2026-05-01T10:00:00Z"},
        },
        "segmentMembership": {
            "ups": {
                VIP: {"status": "realized", "lastQualificationTime": "2026-05-02T00:00:00Z"},
                LAPSED: {"status": "exited", "lastQualificationTime": "2026-05-02T00:00:00Z"},
            }
        },
        **fields,
    }


@pytest.fixture
def project(node: Node) -> Project:
    return node.project()


Take = Callable[..., ExportReport]


@pytest.fixture
def take(project: Project, tmp_path: Path) -> Take:
    def take(records: list[Any], **options: Any) -> ExportReport:
        path = tmp_path / "export.json"
        path.write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in records))
        return project.profiles.import_segment_match(path, **{"dataset": "aep", **options})

    return take


def members(project: Project, segment: str) -> set[str]:
    snapshot = Snapshot.open(project)
    return {snapshot.profile_ids[number].decode() for number in project.segments.members(segment, snapshot)}


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
    assert project.node.audit.list(act="profile.take-over")[0].detail["accepted"] == 3


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
def test_who_is_in_no_segment_any_more_is_out_of_all_that_the_dataset_brought(take: Take, project: Project) -> None:
    take([record(1), record(2), record(3)], id_path="_id")
    (Path(project.node.home) / "own.csv").write_text("id\nprofile-1\n")
    project.segments.create("own", members_file=Path(project.node.home) / "own.csv")
    silent = record(2)
    del silent["segmentMembership"]
    report = take([record(1, segmentMembership={"ups": {}}), silent], id_path="_id")
    assert report.segments == []
    assert members(project, VIP) == {"profile-2", "profile-3"}
    assert members(project, "own") == {"profile-1"}
    project.segments.delete(VIP)
    take([record(1, segmentMembership={"ups": {}})], id_path="_id")
    assert VIP not in [each.name for each in project.segments.list()]


@pytest.mark.feature("GV2")
@pytest.mark.feature("OP10")
def test_a_label_on_the_dataset_is_on_the_segments_that_it_brought(take: Take, project: Project) -> None:
    take([record(1)])
    project.labels.apply("C11", "dataset", "aep")
    assert "C11" in project.labels.labels_of_segment(VIP)
    assert [each.policy for each in project.governance.check([VIP])] == ["restrict-data-sharing"]


@pytest.mark.feature("OP10")
def test_without_an_id_the_primary_identity_is_one(take: Take, project: Project) -> None:
    both = {"ECID": [{"id": ECID(2)}], "IDFA": [{"id": "6D92078A-8246-4BA4-AE5B-76104861E7DC", "primary": True}]}
    raw = {"Email": [{"id": " Ann@X.com ", "primary": True}]}
    none = {"ECID": [{"id": "0" * 38}], "Phone": [{"id": "+44 7400 123456"}]}
    take([record(1), record(2, identityMap=both), record(3, identityMap=raw), record(4, identityMap=none)])
    ids = [each.decode() for each in Snapshot.open(project).profile_ids]
    assert ids == [
        f"email_sha256:{hashed('u1@x.com')}",
        "idfa:6d92078a82464ba4ae5b76104861e7dc",
        f"email_sha256:{hashed('ann@x.com')}",
        f"phone_sha256:{hashed('+447400123456')}",
    ]


@pytest.mark.feature("OP10")
def test_a_broken_record_costs_itself_and_everything_left_out_is_counted(take: Take, project: Project) -> None:
    memberships = {
        "ups": {
            VIP: {"status": "realized", "validUntil": "2026-12-31T00:00:00Z"},
            LAPSED: {"status": "maybe"},
            "ann@x.com": {"status": "realized"},
        },
        "AEPSegmentMatch": {"theirs": {"status": "realized"}},
        "aam": {"12345": {"status": "realized"}},
    }
    report = take(
        [
            record(1, segmentMembership=memberships),
            "{broken\n",
            record(3, identityMap=[]),
            record(4, consents={"share": {"val": "perhaps"}}),
            record(5, consents={"share": {"val": "y"}, "metadata": {"time": "2031-01-01T00:00:00Z"}}),
            record(6, identityMap={}),
            record(7, identityMap={"ECID": [{"id": 7}]}),
            record(8, segmentMembership={"ups": []}),
            record(9, identityMap={"ECID": [{"id": "zero"}], "GAID": [{"id": "97987bca-ae59-4c7d-94ba-ee4f19ab8c21"}]}),
        ]
    )
    assert (report.records, report.accepted) == (9, 2)
    assert {reason: tally["lines"] for reason, tally in report.rejected.items()} == {
        "not a JSON object": [2],
        "an identityMap that is none": [3, 7],
        "not a consent value": [4],
        "not a time, or one to come": [5],
        "no id and no identity that can be used": [6],
        "a segmentMembership that is none": [8],
    }
    assert {reason: tally["lines"] for reason, tally in report.dropped.items()} == {
        "a membership in a segment received from a partner": [1],
        "a membership status that is none of realized, existing, exited": [1],
        "a membership that has expired": [1],
        "a membership in what is no segment id": [1],
        "ecid: not an ECID of 38 digits": [9],
        "identity of namespace CRMID, which is not mapped": [1, 4, 5, 8],
    }
    assert len(members(project, "aam-12345")) == 1
    assert members(project, VIP) == {"gaid:97987bcaae594c7d94baee4f19ab8c21"}
    assert project.node.audit.list(limit=1)[0].result == "allow"
    with pytest.raises(InvalidInput, match="not mapped"):
        take([record(1, identityMap={"CRMID": [{"id": "C1"}]})])
    assert project.node.audit.list(limit=1)[0].result == "deny"


@pytest.mark.feature("ID4")
@pytest.mark.feature("OP10")
def test_no_raw_value_of_an_export_stays(take: Take, project: Project) -> None:
    raw = {"Email": [{"id": "Ann.Secret@X.com"}], "Phone_E.164": [{"id": "+447400987654"}]}
    consents = {"idSpecific": {"Email": {"Ann.Secret@X.com": {"share": {"val": "n"}}}}}
    take([record(1, identityMap=raw, consents=consents)])
    stored = b"".join(path.read_bytes() for path in project.node.home.rglob("*") if path.is_file()).lower()
    assert b"ann.secret" not in stored
    assert b"7400987654" not in stored
    assert project.consent.show()["namespaces"] == {"email_sha256": {"n": 1}}
    personal = record(2, personalEmail={"address": "bob@x.com"})
    for options in ({"attributes": ["personalEmail.address"]}, {"id_path": "personalEmail.address"}):
        with pytest.raises(InvalidInput, match="raw personal data"):
            take([personal], **options)


@pytest.mark.feature("CO2")
@pytest.mark.feature("OP10")
def test_the_strictest_word_of_a_namespace_s_identities_holds(take: Take, project: Project) -> None:
    two = {"ECID": [{"id": ECID(1)}, {"id": ECID(2)}]}
    said = {ECID(1): {"share": {"val": "n"}}, ECID(2): {"share": {"val": "y", "time": "2026-06-01T00:00:00Z"}}}
    take([record(1, identityMap=two, consents={"idSpecific": {"ECID": said}, "metadata": {"time": "2026-01-01"}})])
    (profile,) = Snapshot.open(project).profile_ids.tolist()
    word = project.consent.show(profile.decode())["namespaces"]["ecid"]
    assert (word["share"], word["at"]) == ("n", "2026-06-01T00:00:00Z")


@pytest.mark.feature("CO3")
@pytest.mark.feature("OP10")
def test_words_without_a_time_lift_no_withdrawal(take: Take, project: Project, clock: Any) -> None:
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
def test_the_same_from_parquet_and_from_the_entities_endpoint(project: Project, tmp_path: Path) -> None:
    lines = tmp_path / "profiles.json"
    lines.write_text("".join(json.dumps(record(n)) + "\n" for n in (1, 2)))
    parquet = tmp_path / "profiles.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * FROM read_json('{lines}')) TO '{parquet}' (FORMAT parquet)")
    report = project.profiles.import_segment_match(parquet, dataset="aep", id_path="_id", attributes=["person.gender"])
    assert (report.accepted, report.rejected) == (2, {})
    assert members(project, VIP) == {"profile-1", "profile-2"}
    assert project.profiles.show("profile-1")["share"] == "y"
    assert project.profiles.show("profile-1")["attributes"]["aep"] == {"person_gender": "female"}
    wrapped = tmp_path / "entities.json.gz"
    entity = {"entityId": "BVrqzwVv7o2p3naHvnsWpqZXv3KJgA", "mergePolicy": {"id": "x"}, "entity": record(7)}
    wrapped.write_bytes(gzip.compress((json.dumps(entity) + "\n").encode(), mtime=0))
    assert project.profiles.import_segment_match(wrapped, dataset="aep", id_path="_id").accepted == 1
    assert members(project, VIP) == {"profile-1", "profile-2", "profile-7"}


def test_what_maps_nothing_is_refused(take: Take, project: Project, tmp_path: Path) -> None:
    for options in (
        {"namespaces": ["CRMID"]},
        {"namespaces": ["CRMID=crmid:raw"]},
        {"attributes": ["person.gender=id"]},
        {"attributes": ["a.b", "a_b"]},
        {"dataset": "own"},
        {"region": "XX"},
    ):
        with pytest.raises(InvalidInput):
            take([record(1)], **options)
    (tmp_path / "people.csv").write_text("id,email\n1,ann@x.com\n")
    with pytest.raises(InvalidInput, match="JSON lines"):
        project.profiles.import_segment_match(tmp_path / "people.csv", dataset="aep")
    take([record(1)], attributes=["person.gender"])
    project.segments.create("taken", rule="person_gender = 'female'")
    (tmp_path / "names.csv").write_text(f"id,name\n{VIP},Taken\n")
    with pytest.raises(AlreadyExists, match="may not change"):
        take([record(1)], segments=tmp_path / "names.csv")
    with pytest.raises(Refused, match="has a rule"):
        take([record(1)], segments=tmp_path / "names.csv", into=["taken"])


@pytest.mark.feature("OP10")
def test_an_import_changes_only_the_lists_that_its_dataset_brought(
    take: Take, project: Project, tmp_path: Path
) -> None:
    take([record(1), record(2)], id_path="_id")
    file = tmp_path / "own.csv"
    file.write_text("id\nprofile-1\n")
    project.segments.create("own", members_file=file)
    (tmp_path / "names.csv").write_text(f"id,name\n{VIP},own\n")
    names = {"id_path": "_id", "segments": tmp_path / "names.csv"}
    before = project.snapshot().generation
    for dataset in ("aep", "other"):
        with pytest.raises(AlreadyExists, match="may not change"):
            take([record(2)], dataset=dataset, **names)
    with pytest.raises(AlreadyExists, match="may not change"):
        take([record(2)], dataset="other", id_path="_id")  # it is aep's
    assert project.snapshot().generation == before
    assert members(project, "own") == {"profile-1"}
    take([record(2)], into=["own"], **names)
    take([record(2)], **names)  # aep's from now on
    assert members(project, "own") == {"profile-1", "profile-2"}
    project.segments.delete("own")
    project.segments.create("own", members_file=file)
    with pytest.raises(AlreadyExists):
        take([record(2)], **names)


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
    node = project.node
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
    pair: Any, person: Any, tmp_path: Path
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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["y", "n", "realized", "ECID"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ups", "ECID", "share", "val", "id", "status", "time", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["identityMap", "consents", "segmentMembership", "entity", "a"]), JSON))
def test_any_record_is_read_or_broken(record: dict[str, Any]) -> None:
    mapped = Mapped.parse(namespaces=["x=x"], attributes=["a.id"], id_path="identityMap.ECID")
    with suppress(Broken):
        assert read(record, 1, mapped, NOW, defaultdict(list)).line == 1


REASONS = {  # all that may be said of a record, or of a value, that is left out
    *("an identityMap that is none", "a segmentMembership that is none", "a consents that is none"),
    *("a metadata that is none", "an idSpecific that is none", "not a consent value", "not a time, or one to come"),
    *("text that is not valid Unicode", "bytes that are not UTF-8"),
    *("no id and no identity that can be used", "a profile id over 255 bytes"),
    "a membership in a segment received from a partner",
    "a membership in what is no segment id",
    "a membership status that is none of realized, existing, exited",
    "a membership that has expired",
}
OTHER = re.compile(r"(consent for|identity of) namespace .+, which is not mapped|(email_sha256|ecid|crmid): .+")


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """Return a record with any JSON value in one of its places, or a key that is none of its own."""
    whole = record(1)
    place, keys = whole, sorted(whole)
    while True:
        key = draw(st.sampled_from(keys))
        inner = place[key]  # type: ignore[index]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.integers(0, 3)) == 0:
            break
        place, keys = inner, sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
    value = draw(JSON | st.sampled_from(["\ud800", 10**400, ["realized"], {"id": ["x"]}]))
    if isinstance(place, dict) and draw(st.booleans()):
        place[draw(st.text(max_size=8) | st.sampled_from(["\ud800", "validUntil"]))] = value
    else:
        place[key] = value  # type: ignore[index]
    return whole


@settings(max_examples=300, deadline=None)
@given(spoilt())
def test_whatever_stands_in_a_record_costs_itself_and_is_counted(
    tmp_path_factory: pytest.TempPathFactory, bad: dict[str, Any]
) -> None:
    mapped = Mapped.parse(namespaces=["CRMID=crmid"], attributes=["person.gender"], id_path="_id")
    path = tmp_path_factory.getbasetemp() / "spoilt.json"
    path.write_text(json.dumps(bad) + "\n" + json.dumps(record(2)) + "\n")
    export = open_export(path, mapped, NOW)
    _Arrived(export, None)
    said = {*export.source.rejected, *export.dropped}
    assert {each for each in said if each not in REASONS and not OTHER.match(each)} == set()


def test_a_status_that_is_a_list_costs_its_membership(take: Take, project: Project) -> None:
    report = take([record(1), record(2, segmentMembership={"ups": {VIP: {"status": ["realized"]}}})], id_path="_id")
    assert report.accepted == 2
    assert report.dropped["a membership status that is none of realized, existing, exited"]["count"] == 1
    assert members(project, VIP) == {"profile-1"}


# Audience Manager


@pytest.mark.feature("OP10")
@pytest.mark.parametrize(
    ("name", "source", "extent", "namespace"),
    [
        ("ftp_dpm_21_1234567890.sync", "21", "changes", "dpid-21"),
        ("ftp_dpm_20914_21_1234567890.overwrite.2.gz", "20914", "people", "gaid"),
        ("ftp_dpm_20915_1234567890.sync.gz", "20915", "changes", "idfa"),
        ("s3_215_888_full_1449756724001.sync", "888", "whole", "dpid-888"),
        ("ftp_215_20914_iter_1449756724.csv.gz", "20914", "changes", "gaid"),
        ("people.txt", "", None, ""),
    ],
)
def test_a_data_file_s_name(name: str, source: str, extent: str | None, namespace: str) -> None:
    found = FileName.parse(name)
    assert (found.source, found.extent, found.namespace) == (source, extent, namespace)


@pytest.mark.feature("OP10")
def test_a_data_file_s_line() -> None:
    names = Names(codes={"crm-vip": "77"})
    assert parse("d_sid=24,d_sid=26 , d_unsid=27", names) == Line(
        segments={"24": True, "26": True, "27": False}, signals=[]
    )
    assert parse('"segID"="1001","d_sid"="5",ic=crm-vip,ic=other', names) == Line(
        segments={"1001": True, "5": True, "77": True, "ic-other": True}, signals=[]
    )
    assert parse('24,26\t30,"31"', names) == Line(
        segments={"24": True, "26": True, "30": False, "31": False}, signals=[]
    )
    assert parse('"color"="blue, dark",size==5,"a@x.com"="1"', names) == Line(
        segments={}, signals=["color", "size", "?"]
    )
    assert parse("", names) == Line(segments={}, signals=[])
    for broken in ('"open', 'd_sid="1', "ann@x.com", "d_sid=", '"a" "b"'):
        assert parse(broken, names) is None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab1"=,;|\t d_si', max_size=40) | st.text(max_size=40))
def test_any_line_is_read_or_broken(text: str) -> None:
    found = parse(text, Names())
    assert found is None or all(found.segments)


@pytest.mark.feature("OP10")
def test_inbound_files_add_up_and_overwrite(project: Project, tmp_path: Path) -> None:
    (tmp_path / "traits.json").write_text(
        json.dumps([{"sid": 24, "name": "Bought shoes", "integrationCode": "shoes"}, {"sid": 26, "name": "Lapsed"}])
    )
    first, second, third = (
        "97987bca-ae59-4c7d-94ba-ee4f19ab8c21",
        "97987bca-ae59-4c7d-94ba-ee4f19ab8c22",
        "not-a-device",
    )
    path = tmp_path / "ftp_dpm_20914_1500000000.sync"
    path.write_text(
        f"{first}\td_sid=24,d_sid=26\n\n{second}\tic=shoes\n{third}\td_sid=24\nno tab\n{first}\td_unsid=26\n"
        f'{second}\t"segID"="1001","colour"="blue"\n'
    )
    names = {"segments": tmp_path / "traits.json", "dataset": "aam"}
    report = project.profiles.import_audience_manager(path, **names)
    ids = [f"gaid:{each.replace('-', '')}" for each in (first, second)]
    assert (report.records, report.accepted, report.extent) == (4, 2, "changes")
    assert {reason: tally["lines"] for reason, tally in report.rejected.items()} == {
        "no id and no identity that can be used": [4],
        "not an id, a tab and a list of traits or segments": [5],
    }
    assert {reason: tally["lines"] for reason, tally in report.dropped.items()} == {
        "gaid: not a device id": [4],
        "signal colour, which is no trait or segment": [7],
    }
    assert [(each.name, each.size) for each in report.segments] == [("1001", 1), ("bought-shoes", 2), ("lapsed", 0)]
    assert members(project, "bought-shoes") == set(ids)
    more = tmp_path / "ftp_dpm_20914_1500000001.sync"
    more.write_text(f"{first}\td_sid=26\n")
    project.profiles.import_audience_manager(more, **names)
    assert (members(project, "bought-shoes"), members(project, "lapsed")) == (set(ids), {ids[0]})
    anew = tmp_path / "ftp_dpm_20914_1500000002.overwrite.gz"
    anew.write_bytes(gzip.compress(f"{first}\td_sid=24\n{second}\td_sid=26\n".encode(), mtime=0))
    project.profiles.import_audience_manager(anew, **names)
    assert (members(project, "bought-shoes"), members(project, "lapsed")) == ({ids[0]}, {ids[1]})


@pytest.mark.feature("OP10")
def test_outbound_files_and_ids_of_our_own(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "s3_215_888_full_1449756724001.csv"
    path.write_text("C1\t10,20\nC2\t10\nC3\t20\n")
    report = project.profiles.import_audience_manager(path, dataset="aam", own_ids=True)
    assert (report.extent, report.identities, report.accepted) == ("whole", {}, 3)
    assert (members(project, "10"), members(project, "20")) == ({"C1", "C2"}, {"C1", "C3"})
    path.write_text("C2\t20\nC4\t10\t20\n")
    project.profiles.import_audience_manager(path, dataset="aam", own_ids=True)
    assert (members(project, "10"), members(project, "20")) == ({"C4"}, {"C2"})
    more = tmp_path / "s3_215_888_iter_1449756724002.csv"
    more.write_text("C1\t10\t20\n")
    project.profiles.import_audience_manager(more, dataset="aam", own_ids=True)
    assert (members(project, "10"), members(project, "20")) == ({"C1", "C4"}, {"C2"})
    other = tmp_path / "ids.txt"
    other.write_text(f"{hashed('ann@x.com')}\t10\n")
    with pytest.raises(InvalidInput) as caught:
        project.profiles.import_audience_manager(other, dataset="aam")
    assert "--namespace" in caught.value.hint
    report = project.profiles.import_audience_manager(other, dataset="aam", namespace="email_sha256")
    assert report.identities == {"email_sha256/lc-v1": 1}
    other.write_text(f"ann@x.com\t10\n{hashed('bob@x.com')}\t10\n")
    with pytest.raises(InvalidInput, match="1 of the ids"):
        project.profiles.import_audience_manager(other, dataset="aam", namespace="email_sha256")
    other.write_text("ann@x.com\t10\n")
    for options in ({"own_ids": True}, {"namespace": "crm"}):
        with pytest.raises(InvalidInput, match="raw personal data"):
            project.profiles.import_audience_manager(other, dataset="aam", **options)


def test_names_of_segments(tmp_path: Path) -> None:
    path = tmp_path / "names"
    for text, expected in (
        ('{"1": "One", "2": 2}', {"1": "One"}),
        ('[{"sid": 1, "name": "One"}, 7, {"name": "x"}]', {"1": "One"}),
        ('{"list": [{"id": "a", "name": "One"}], "total": 1}', {"a": "One"}),
        ("id,name\n1,One\n2,\n", {"1": "One"}),
    ):
        path.write_text(text)
        assert Names.read(path).names == expected
    for text in ("{", "[1, 2", "a,b\n1,2\n", ""):
        path.write_text(text)
        with pytest.raises(InvalidInput):
            Names.read(path)
    names = Names(names={"1": "Same Name", "2": "same-name", "3": "Ünïque!"})
    assert names.of(["1", "2", "3", "--"]) == {
        "1": "same-name-1",
        "2": "same-name-2",
        "3": "n-que",
        "--": "segment",
    }
    assert names.of(["1"]) == {"1": "same-name-1"}
