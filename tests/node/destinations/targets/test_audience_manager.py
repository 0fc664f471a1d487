"""The older sharing and its hand-over to a connection, looked at by a receiver after every message."""

import json
from pathlib import Path

import jsonschema
import pytest
from ecids import add_people, ecids
from pytest_httpserver import HTTPServer
from targets import Certificate
from werkzeug import Request, Response

from node.destinations.older_sharing import LegacySharingOn
from node.destinations.targets import payload
from node.errors import NotAllowed
from node.governance.lineage import PlaceKind
from node.node import Node
from node.project import Project


class Side:
    """Another node's Audience Manager side: whom it has in which segment, after every message."""

    def __init__(self, server: HTTPServer) -> None:
        self.url, self.status = server.url_for("/audiences"), 200
        self.names: dict[str, str] = {}
        self.ways: dict[str, str] = {}
        self.labels: dict[str, list[str]] = {}
        self.members: dict[str, set[str]] = {}
        self.history: list[dict[str, set[str]]] = []
        self.said: list[tuple[str, str]] = []  # each change that ever came
        self.sequences: list[tuple[str, int]] = []
        server.expect_request("/audiences").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        if self.status == 200:
            body = json.loads(request.data)
            jsonschema.validate(body, payload.schema())
            for segment, about in body["data"]["segments"].items():
                self.names[segment], self.labels[segment] = about["name"], about["labels"]
                self.ways[segment] = request.headers["vesica-sharing"]
            for profile in body["data"]["profiles"]:
                ((given,),) = profile["identityMap"].values()
                for act in ("add", "remove"):
                    for segment in profile["segments"][act]:
                        self.said.append((act, given["id"]))
                        mine = self.members.setdefault(segment, set())
                        (mine.add if act == "add" else mine.discard)(given["id"])
            if body["data"]["profiles"]:
                self.sequences.append((request.headers["vesica-sender"], int(request.headers["vesica-sequence"])))
            self.history.append({segment: set(members) for segment, members in self.members.items()})
        return Response(status=self.status)


@pytest.fixture
def project(loopback: Node, tmp_path: Path) -> Project:
    """A project of twelve people with an ECID each, of whom four are in segment a, six in b and all in c."""
    project = loopback.project()
    add_people(project, tmp_path)
    return project


@pytest.fixture
def side(web: HTTPServer) -> Side:
    return Side(web)


def share(project: Project, side: Side, certificate: Certificate) -> dict[str, object]:
    settings = {"url": side.url, "authorities": str(certificate.chain)}
    return project.destinations.older_sharing.on(settings, secret=b"token-1\n", uses=["analytics"])


def by_name(project: Project, side: Side) -> dict[str, set[str]]:
    return {side.names[segment]: members for segment, members in side.members.items() if members}


def test_every_segment_is_shared_also_one_made_later_and_a_deleted_one_goes(
    project: Project, side: Side, certificate: Certificate
) -> None:
    project.labels.create("kept", "stays here")
    project.policies.create("no-analytics", "analytics", "kept")
    project.labels.apply("kept", PlaceKind.SEGMENT, "b")
    share(project, side, certificate)
    assert by_name(project, side) == {"a": ecids(9), "c": ecids(1)}
    assert project.segments.show("b").id not in side.names
    (row,) = project.destinations.all()
    assert (row["name"], row["of_all"], row["gets"]) == ("audience-sharing", True, ["a", "c"])
    project.labels.create("noted", "goes with its people")
    project.labels.apply("noted", PlaceKind.SEGMENT, "c")
    said = len(side.said)
    project.destinations.sync("audience-sharing")
    assert side.labels == {project.segments.show("a").id: [], project.segments.show("c").id: ["noted"]}
    assert len(side.said) == said
    project.segments.create("d", rule="orders >= 11")
    project.labels.remove("kept", PlaceKind.SEGMENT, "b")
    project.segments.rename("c", "everybody")
    gone = project.segments.show("a").id
    project.segments.delete("a")
    project.segments.create("a", rule="orders >= 12")
    project.destinations.sync("audience-sharing")
    project.destinations.sync("audience-sharing")
    assert side.members[gone] == set()
    assert by_name(project, side) == {"a": ecids(12), "b": ecids(7), "everybody": ecids(1), "d": ecids(11)}
    assert set(side.ways.values()) == {"older"}
    with pytest.raises(NotAllowed, match="older sharing"):
        project.destinations.activate("audience-sharing", ["a"])
    with pytest.raises(NotAllowed, match="older sharing"):
        project.destinations.deactivate("audience-sharing", ["a"])
    with pytest.raises(NotAllowed, match="older sharing"):
        project.destinations.delete("audience-sharing")
    project.destinations.older_sharing.off()
    assert by_name(project, side) == {}
    assert project.destinations.all() == []


@pytest.mark.feature("EC17")
def test_a_connection_takes_over_without_a_gap_and_nothing_is_sent_again(
    project: Project, side: Side, certificate: Certificate
) -> None:
    share(project, side, certificate)
    with pytest.raises(LegacySharingOn) as refused:
        project.destinations.create("cloud", "experience-cloud", {})
    assert refused.value.code == "legacy_sharing_on"
    remedy = refused.value.remedy
    assert remedy is not None
    assert (remedy.act, remedy.arguments) == ("audience.sharing.off", {"hand_over": "cloud"})
    assert [each["name"] for each in project.destinations.all()] == ["audience-sharing"]
    project.consent.set("p12", "n")  # waits to be removed while it is handed over
    said, asked = len(side.said), len(side.history)
    ids = {name: project.segments.show(name).id for name in ("a", "b", "c")}
    project.destinations.older_sharing.hand_over("cloud", ["a", "b"])
    for each in side.history[asked:]:
        assert each[ids["a"]] >= ecids(9) - ecids(12)
        assert each[ids["b"]] >= ecids(7) - ecids(12)
    assert by_name(project, side) == {"a": ecids(9) - ecids(12), "b": ecids(7) - ecids(12)}
    assert {act for act, _ in side.said[said:]} == {"remove"}
    assert len(side.said) == said + 2 + 12
    assert {side.ways[ids[name]] for name in ("a", "b")} == {"connection"}
    senders = {sender for sender, _ in side.sequences}
    assert len(senders) == 1
    numbers = [sequence for _, sequence in side.sequences]
    assert numbers == sorted(set(numbers))
    shown = project.destinations.show("cloud")
    assert [each["name"] for each in shown["solutions"]] == ["cloud.audience-manager"]
    assert (shown["kind"], shown["of_all"], shown["gets"], shown["present"]) == (
        "experience-cloud", False, ["a", "b"], 3 + 5,
    )  # fmt: skip
    project.segments.create("d", rule="orders >= 11")
    assert project.destinations.sync("cloud")["sent"] == 0
    with pytest.raises(LegacySharingOn, match="cloud"):
        share(project, side, certificate)
    project.destinations.deactivate("cloud", ["a", "b"])
    assert by_name(project, side) == {}
