"""Segments of the platform on the Audience Manager side: signals, traits and segments, by each way, here and from afar."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecids import add_people, ecids
from programs import Programs

from node.audiencemanager import (
    audience_segments,
    builtin,
    folders,
    platform,
    platform_messages,
    signals,
    sources,
    traits,
    visitors,
)
from node.audiencemanager.platform import Arrival, Members
from node.destinations.targets import payload
from node.errors import AlreadyExists, InvalidInput
from node.node import Node
from node.project import Project
from psi.values import Values


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    """A project of twelve people with an ECID each, of whom four are in segment a, six in b and all in c."""
    project = node.project()
    add_people(project, tmp_path)
    return project


def rows(project: Project) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Return by data source and integration code the one trait and the one segment."""
    scope = project.scope
    with scope.read() as tx:
        named = {each.number: each.name for each in sources.stored(scope, tx)}
        of = {(named[each.source], str(each.integration_code)): each for each in audience_segments.stored(scope, tx)}
        found = traits.stored(scope, tx)
        assert len(of) == len(found) == len({(each.source, each.integration_code) for each in found})
        return {
            (named[each.source], str(each.integration_code)): (each, of[named[each.source], str(each.integration_code)])
            for each in found
        }


def members(project: Project, trait: Any) -> set[str]:
    side = visitors.opened(project.scope)
    _, values = side.ids(side.members(trait.number, trait.days), builtin.DEVICES)
    return {each.decode() for each in visitors.split(values)}


@pytest.mark.feature("AM1")
def test_a_segment_is_one_signal_one_trait_and_one_segment_in_each_source(project: Project) -> None:
    scope = project.scope
    project.destinations.older_sharing.on({}, uses=["analytics"])
    project.destinations.older_sharing.off()
    cloud = project.destinations.create("cloud", "experience-cloud", {"audience-manager": "here"})
    assert [each["name"] for each in cloud.destination["solutions"]] == ["cloud.audience-manager"]
    project.destinations.activate("cloud", ["a"])
    ids = {name: project.segments.show(name).id for name in ("a", "b", "c")}
    found = rows(project)
    older, chosen = "Adobe Experience Platform Audience Sharing", "Experience Platform Segments"
    assert found.keys() == {(older, ids[each]) for each in "abc"} | {(chosen, ids["a"])}
    with scope.read() as tx:
        named = {each.number: each.name for each in folders.stored(scope, tx)}
    for (_, code), (trait, segment) in found.items():
        assert (trait.kind, trait.rule, trait.integration_code) == ("ON_BOARDED_TRAIT", f'segID == "{code}"', code)
        assert (named[trait.folder], named[segment.folder]) == (
            "Experience Platform Traits",
            "Experience Platform Segments",
        )
        assert (segment.rule, segment.merge_rule) == (f"{trait.number}T", "External Merge Policy")
        assert trait.name == segment.name
        assert ids[trait.name] == code
        assert trait.days == 0
    assert members(project, found[chosen, ids["a"]][0]) == ecids(9)
    for code in ids.values():
        assert members(project, found[older, code][0]) == set()
    with visitors.opened(scope).begin() as tx:
        seen = signals.search(tx, [("segID", ids["a"])], 0)
    assert len(seen) == 2  # one of each source
    project.segments.rename("a", "few")
    project.consent.set("p12", "n")
    project.destinations.sync("cloud")
    trait, segment = rows(project)[chosen, ids["a"]]
    assert (trait.name, segment.name, trait.number) == ("few", "few", found[chosen, ids["a"]][0].number)
    assert members(project, trait) == ecids(9) - ecids(12)
    with pytest.raises(AlreadyExists, match="sends to this project"):
        project.destinations.create("other", "audience-manager", {})


@pytest.mark.feature("EC17")
def test_traits_keep_their_numbers_and_members_when_a_connection_takes_over(project: Project) -> None:
    project.destinations.older_sharing.on({})
    assert project.destinations.show("audience-sharing")["kind"] == "audience-manager"
    before = rows(project)
    project.destinations.older_sharing.hand_over("cloud", ["a", "b"])
    after = rows(project)
    for name, first in (("a", 9), ("b", 7)):
        code = project.segments.show(name).id
        old, new = before[builtin.SHARING_SOURCE, code], after[builtin.SEGMENTS_SOURCE, code]
        assert [each.number for each in old] == [each.number for each in new]
        assert members(project, new[0]) == ecids(first)
    code = project.segments.show("c").id
    assert members(project, after[builtin.SHARING_SOURCE, code][0]) == set()
    project.destinations.deactivate("cloud", ["a", "b"])
    project.destinations.delete("cloud")
    project.destinations.older_sharing.on({})
    again = rows(project)  # both sources know the segment now
    code = project.segments.show("a").id
    assert members(project, again[builtin.SHARING_SOURCE, code][0]) == ecids(9)
    project.destinations.older_sharing.hand_over("cloud", ["a"])
    handed = rows(project)
    assert handed.keys() == again.keys()
    assert handed[builtin.SEGMENTS_SOURCE, code][0].number == again[builtin.SHARING_SOURCE, code][0].number
    assert members(project, handed[builtin.SEGMENTS_SOURCE, code][0]) == ecids(9)


def test_what_comes_twice_or_late_changes_nothing_and_a_name_that_is_taken_gets_its_id(project: Project) -> None:
    def take(segment: str, sequence: int | None, adds: str = "", removes: str = "") -> bool:
        values = Values.of([each.encode() * 38 for each in adds + removes])
        came = np.array([True] * len(adds) + [False] * len(removes), bool)
        given = [Members(namespace="ecid/digits-v1", values=values, adds=came)] if len(came) else []
        arrival = Arrival(sender="s", sequence=sequence, older=True, segment=segment, name="vip", members=given)
        return platform.take(project.scope, arrival).new

    assert take("one", 3, adds="12")
    assert not take("one", 3, removes="1")
    assert not take("one", 2, removes="2")
    assert take("two", 2, adds="3")
    assert take("one", 4, removes="1")
    found = rows(project)
    assert members(project, found[builtin.SHARING_SOURCE, "one"][0]) == {"2" * 38}
    assert found[builtin.SHARING_SOURCE, "two"][0].name == "vip (two)"


def message(**changes: Any) -> dict[str, Any]:
    profile = {
        "identityMap": {"ECID": [{"id": "1" * 38}]},
        "segmentMembership": {"ups": {"s1": {"status": "realized", "lastQualificationTime": "2026-11-22T08:00:00Z"}}},
        "segments": {"add": ["s1"], "remove": []},
        "attributes": {},
    }
    data = {"connection": "c", "revision": 1, "batch": 0, "segments": {"s1": {"name": "vip", "labels": []}}}
    data |= {"profiles": [profile], **changes}
    return {"type": "segment.members.changed", "timestamp": "2026-11-22T08:00:00Z", "data": data}


PROFILE = message()["data"]["profiles"][0]
OF_DATA: list[dict[str, Any]] = [
    {"segments": {}}, {"segments": []}, {"segments": {"s1": {"name": "", "labels": []}}},
    {"segments": {'s1" OR x == "1': {"name": "a", "labels": []}}, "profiles": []},
    {"segments": {"s" * 65: {"name": "a", "labels": []}}, "profiles": []},
    {"segments": {"s1": {"name": "a", "labels": "C1"}}}, {"segments": {"s1": {"name": "\x1b\n", "labels": []}}},
    {"profiles": [{}]}, {"profiles": [[]]}, {"profiles": {}}, {"profiles": [PROFILE] * 20_001},
    {"revision": "1"}, {"batch": True}, {"connection": 1}, {"more": 1},
]  # fmt: skip
OF_A_PROFILE: list[dict[str, Any]] = [
    {"identityMap": {}}, {"identityMap": {"ECID": []}}, {"identityMap": {"ECID": [{"id": 1}]}},
    {"identityMap": {"ECID": [{"id": "1", "more": 1}]}}, {"segments": {"add": ["s2"], "remove": []}},
    {"segments": {"add": ["s1"], "remove": ["s1"]}}, {"segments": {"add": [["s1"]], "remove": []}},
    {"segmentMembership": {"AAM": {}}}, {"attributes": []},
]  # fmt: skip
WRONG = [
    *(b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"type":1}', json.dumps({**message(), "more": 1}).encode()),
    *(json.dumps(message(**each)).encode() for each in OF_DATA),
    *(json.dumps(message(profiles=[{**PROFILE, **each}])).encode() for each in OF_A_PROFILE),
]


@pytest.mark.parametrize("body", WRONG)
def test_a_message_that_is_none_is_refused_and_changes_nothing(body: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        platform_messages.read(body, {})
    assert "1" * 38 not in str(refused.value)


def test_ids_that_are_none_cost_themselves() -> None:
    other = {"segments": {"add": [], "remove": ["s1"]}, "attributes": {"x": {"deep": [1]}}}
    other |= {"segmentMembership": message()["data"]["profiles"][0]["segmentMembership"]}
    ids = {"ECID": [{"id": "no"}], "crmid": [{"id": "C-1"}], "IDFA": [{"id": "6D92078A-8246-4BA4-AE5B-76104861E7DC"}]}
    ids["email_lc_sha256"] = [{"id": "ann@x.com"}, {"id": "a" * 64}]
    body = message(profiles=[message()["data"]["profiles"][0], {"identityMap": ids, **other}])
    (found,), rejected = platform_messages.read(json.dumps(body).encode(), {"vesica-sharing": "older"})
    assert (rejected, found.older, found.name, found.sequence) == (3, True, "vip", None)
    said = [(each.namespace, each.adds.tolist()) for each in found.members]
    assert said == [("ecid/digits-v1", [True]), ("idfa/uuid-v1", [False]), ("email_sha256/lc-v1", [False])]


def test_another_node_sends_to_the_listener(programs: Programs) -> None:
    project = programs.node.project()
    with programs.client() as client:
        headers = {"vesica-sender": "d1", "vesica-sequence": "1", "vesica-sharing": "connection"}
        answer = client.post("/audiences", content=json.dumps(message()).encode(), headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"added": 1, "removed": 0, "rejected": 0})
        again = client.post("/audiences", content=json.dumps(message()).encode(), headers=headers)
        assert again.json() == {"added": 0, "removed": 0, "rejected": 0}
        assert client.post("/audiences", content=payload.check("x", 1).body).status_code == 200
        refused = client.post("/audiences", content=b"{}")
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
    with programs.client("vic") as client:
        assert client.post("/audiences", content=json.dumps(message()).encode()).status_code == 403
    ((trait, _),) = rows(project).values()
    assert members(project, trait) == {"1" * 38}
