"""Profiles of Experience Platform, written here as its documentation shows them."""

import gzip
import json
import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from exports import ECID, LAPSED, NOW, VIP, Take, hashed, members, record
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from node.errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from node.imports.arrivals import Arrivals
from node.imports.experience_platform import Broken, Mapped, open_export, read
from node.people.snapshots import Snapshot
from node.project import Project


@pytest.mark.feature("OP10")
def test_without_an_id_the_primary_identity_is_one(take: Take, project: Project) -> None:
    both = {"ECID": [{"id": ECID(2)}], "IDFA": [{"id": "6D92078A-8246-4BA4-AE5B-76104861E7DC", "primary": True}]}
    raw = {"Email": [{"id": " Ann@X.com ", "primary": True}]}
    none = {"ECID": [{"id": "0" * 38}], "Phone": [{"id": "+44 7400 123456"}]}
    take([record(1), record(2, identityMap=both), record(3, identityMap=raw), record(4, identityMap=none)])
    ids = [each.decode() for each in Snapshot.open(project.scope).profile_ids]
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
    assert project.scope.home.audit.entries(limit=1)[0].result == "allow"
    with pytest.raises(InvalidInput, match="not mapped"):
        take([record(1, identityMap={"CRMID": [{"id": "C1"}]})])
    assert project.scope.home.audit.entries(limit=1)[0].result == "deny"


@pytest.mark.feature("CO2")
@pytest.mark.feature("OP10")
def test_the_strictest_word_of_a_namespace_s_identities_holds(take: Take, project: Project) -> None:
    two = {"ECID": [{"id": ECID(1)}, {"id": ECID(2)}]}
    said = {ECID(1): {"share": {"val": "n"}}, ECID(2): {"share": {"val": "y", "time": "2026-06-01T00:00:00Z"}}}
    take([record(1, identityMap=two, consents={"idSpecific": {"ECID": said}, "metadata": {"time": "2026-01-01"}})])
    (profile,) = Snapshot.open(project.scope).profile_ids.tolist()
    word = project.consent.show(profile.decode())["namespaces"]["ecid"]
    assert (word["share"], word["at"]) == ("n", "2026-06-01T00:00:00Z")


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
    with pytest.raises(NotAllowed, match="has a rule"):
        take([record(1)], segments=tmp_path / "names.csv", into=["taken"])


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


@settings(max_examples=examples(300), deadline=None)
@given(st.dictionaries(st.sampled_from(["identityMap", "consents", "segmentMembership", "entity", "a"]), JSON))
def test_any_record_is_read_or_broken(record: dict[str, Any]) -> None:
    mapped = Mapped.parse(namespaces=["x=x"], attributes=["a.id"], id_path="identityMap.ECID")
    with suppress(Broken):
        assert read(record, 1, mapped, NOW, defaultdict(list)).line == 1


REASONS = {
    "no _id",  # all that may be said of a record, or of a value, that is left out
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
    place: Any = whole
    keys: list[Any] = sorted(whole)
    while True:
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.integers(0, 3)) == 0:
            break
        place, keys = inner, sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
    value = draw(JSON | st.sampled_from(["\ud800", 10**400, ["realized"], {"id": ["x"]}]))
    if isinstance(place, dict) and draw(st.booleans()):
        place[draw(st.text(max_size=8) | st.sampled_from(["\ud800", "validUntil"]))] = value
    else:
        place[key] = value
    return whole


@settings(max_examples=examples(300), deadline=None)
@given(spoilt())
def test_whatever_stands_in_a_record_costs_itself_and_is_counted(
    tmp_path_factory: pytest.TempPathFactory, bad: dict[str, Any]
) -> None:
    mapped = Mapped.parse(namespaces=["CRMID=crmid"], attributes=["person.gender"], id_path="_id")
    path = tmp_path_factory.getbasetemp() / "spoilt.json"
    path.write_text(json.dumps(bad) + "\n" + json.dumps(record(2)) + "\n")
    export = open_export(path, mapped, NOW)
    Arrivals(export, None)
    said = {*export.source.rejected, *export.dropped}
    assert {each for each in said if each not in REASONS and not OTHER.match(each)} == set()


def test_a_status_that_is_a_list_costs_its_membership(take: Take, project: Project) -> None:
    report = take([record(1), record(2, segmentMembership={"ups": {VIP: {"status": ["realized"]}}})], id_path="_id")
    assert report.accepted == 2
    assert report.dropped["a membership status that is none of realized, existing, exited"]["count"] == 1
    assert members(project, VIP) == {"profile-1"}


@pytest.mark.feature("OP10")
def test_what_no_record_has_is_refused_before_anything_is_written(take: Take, project: Project, tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"0000": "gold"}')
    for options in (
        {"id_path": "nope.path"},
        {"attributes": ["person.gendre"]},
        {"namespaces": ["CRMDI=crmid"]},
        {"segments": names},
        {"into": ["gold"]},
    ):
        with pytest.raises((InvalidInput, NotFound)):
            take([record(1), record(2)], **options)
        assert project.profiles.count()["profiles"] == 0


@pytest.mark.feature("OP10")
def test_a_record_without_the_id_that_is_asked_for_gets_no_other(take: Take, project: Project) -> None:
    report = take(
        [record(1, own={"id": "a"}), record(2), record(3, own={"id": " "}), record(4, own=[])], id_path="own.id"
    )
    assert report.rejected == {"no own.id": {"count": 3, "lines": [2, 3, 4]}}
    assert [each.decode() for each in Snapshot.open(project.scope).profile_ids] == ["a"]
