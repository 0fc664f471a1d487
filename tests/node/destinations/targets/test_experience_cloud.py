"""The Experience Cloud: several solutions a connection, each for itself, and only people whose primary identity they know."""

import json
from hashlib import sha256
from pathlib import Path

import jsonschema
import pytest
from callers import crew, signed_in
from clock import Clock
from pytest_httpserver import HTTPServer
from targets import Certificate
from werkzeug import Request, Response

from node.destinations import solutions
from node.destinations.targets import payload
from node.erasure.erasure import People
from node.errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from node.governance.lineage import PlaceKind
from node.governance.violations import PolicyViolation
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project

ECID, UUID = "1" * 38, "6d92078a-8246-4ba4-ae5b-76104861e7dc"
PEOPLE = {  # by file: its columns, what they have, and a row
    "ecid": (["e=ecid:primary", "m=email_sha256:raw"], "1" * 38 + ",ann@x.com"),
    "gaid": (["e=gaid"], UUID.upper()),
    "idfa": (["e=idfa"], UUID),
    "mail": (["m=email_sha256:raw:primary", "e=ecid"], "2" * 38 + ",Bob@X.com"),
    "google": (["m=email_sha256/google-v3:raw:primary", "e=ecid"], "3" * 38 + ",cy@gmail.com"),
    "phone": (["e=ecid", "m=phone_sha256:raw:primary"], "4" * 38 + ",+447700900123"),
    "crm": (["e=crmid"], "C-1"),
}
BOB = sha256(b"bob@x.com").hexdigest()


class Solution:
    """What a solution was told: who is in which segment, by namespace; it answers with `status`."""

    def __init__(self, server: HTTPServer, path: str) -> None:
        self.url, self.status = server.url_for(path), 200
        self.tries: list[Request] = []
        self.bodies: list[dict[str, object]] = []
        self.members: dict[str, set[tuple[str, str]]] = {}
        server.expect_request(path).respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.tries.append(request)
        body = json.loads(request.data)
        if self.status == 200 and body["type"] == payload.TYPE:
            jsonschema.validate(body, payload.schema())
            self.bodies.append(body)
            for profile in body["data"]["profiles"]:
                ((namespace, (identity,)),) = profile["identityMap"].items()
                for segment in profile["segments"]["add"]:
                    self.members.setdefault(segment, set()).add((namespace, identity["id"]))
                for segment in profile["segments"]["remove"]:
                    self.members[segment].discard((namespace, identity["id"]))
        return Response(status=self.status)

    def has(self) -> set[tuple[str, str]]:
        return set().union(*self.members.values())


def bring(project: Project, folder: Path, name: str, columns: list[str], row: str, person: str | None = None) -> None:
    head = ",".join(sorted(each.partition("=")[0] for each in columns))
    (folder / f"{name}.csv").write_text(f"id,{head}\n{person or name},{row}\n")
    identities = [IdentityColumn.parse(each) for each in columns]
    project.profiles.import_(folder / f"{name}.csv", dataset=name, id_column="id", identities=identities)


@pytest.fixture
def project(loopback: Node, tmp_path: Path) -> Project:
    """A project of everybody in PEOPLE, all in segment s, of a node that may call loopback."""
    project = loopback.project()
    for name, (columns, row) in PEOPLE.items():
        bring(project, tmp_path, name, columns, row)
    project.consent.set_model("opt-out")
    (tmp_path / "s.csv").write_text("id\n" + "".join(f"{name}\n" for name in PEOPLE))
    project.segments.create("s", members_file=tmp_path / "s.csv")
    return project


@pytest.fixture
def connected(project: Project, web: HTTPServer, certificate: Certificate) -> tuple[Solution, Solution]:
    """Connection "cloud" with two solutions."""
    campaign, target = Solution(web, "/campaign"), Solution(web, "/target")
    settings = {"campaign": campaign.url, "target": target.url, "authorities": str(certificate.chain)}
    tokens = b"target=token-of-target\ncampaign = token-of-campaign\n"
    project.destinations.create("cloud", "experience-cloud", settings, uses=["analytics"], secret=tokens)
    return campaign, target


ALL = {("ECID", ECID), ("GAID", UUID), ("IDFA", UUID.upper()), ("email_lc_sha256", BOB)}


@pytest.mark.feature("EC1")
@pytest.mark.feature("EC2")
@pytest.mark.feature("EC16")
def test_only_people_with_a_known_primary_identity_leave_and_the_others_are_counted(
    project: Project, connected: tuple[Solution, Solution], tmp_path: Path
) -> None:
    project.segments.create("kept-here", members_file=tmp_path / "s.csv")
    project.labels.apply("C3", PlaceKind.DATASET, "crm")
    done = project.destinations.activate("cloud", ["s"])
    assert (done["sent"], done["waiting"], done["status"]) == (2, 0, "active")
    segment = project.segments.show("s").id
    for each, name in zip(connected, ("campaign", "target"), strict=True):
        assert each.members == {segment: ALL}
        assert [one.headers["authorization"] for one in each.tries] == [f"Bearer token-of-{name}"]
        assert b"kept-here" not in each.tries[0].data
        assert project.segments.show("kept-here").id.encode() not in each.tries[0].data
        (row,) = project.destinations.runs(f"cloud.{name}")
        assert [row[key] for key in ("received", "activated", "excluded")] == [7, 4, 3]
        (why,) = row["codes"]
        assert (why["outcome"], why["code"], why["count"]) == ("excluded", "namespace", 3)
    assert {row["solution"] for row in project.destinations.runs("cloud")} == {"cloud.campaign", "cloud.target"}
    shown = project.destinations.show("cloud")
    assert [(each["name"], each["present"]) for each in shown["solutions"]] == [
        ("cloud.campaign", 4),
        ("cloud.target", 4),
    ]
    assert [(each["name"], each["present"]) for each in project.destinations.all()] == [("cloud", 8)]
    assert project.destinations.sync("cloud")["sent"] == 0


def test_who_gets_another_primary_identity_is_known_by_that_and_whoever_goes_is_removed(
    project: Project, connected: tuple[Solution, Solution], tmp_path: Path
) -> None:
    project.destinations.activate("cloud", ["s"])
    campaign = connected[0]
    bring(project, tmp_path, "phone", ["e=ecid:primary", "m=phone_sha256:raw"], "4" * 38 + ",+447700900123")
    bring(project, tmp_path, "ecid", ["e=ecid", "m=email_sha256:raw:primary"], ECID + ",ann@x.com")
    ann = ("email_lc_sha256", sha256(b"ann@x.com").hexdigest())
    project.consent.set("gaid", "n")
    project.destinations.sync("cloud")
    assert campaign.has() == {("ECID", "4" * 38), ("IDFA", UUID.upper()), ("email_lc_sha256", BOB), ann}
    bring(project, tmp_path, "household", ["e=ecid"], "4" * 38, person="other")
    project.consent.set("other", "n")  # whoever has the identity has a say, though it is not in the segment
    proven = project.erasure.profiles(People(ids=["mail"]), prove=True)
    assert "destination cloud.campaign" in str(proven)
    project.destinations.sync("cloud")
    assert campaign.has() == {("IDFA", UUID.upper()), ann}
    codes = {
        each["code"]: each["count"] for row in project.destinations.runs("cloud.campaign") for each in row["codes"]
    }
    assert codes["namespace"] == 3


def test_a_label_on_one_namespace_keeps_that_alone_here(project: Project, connected: tuple[Solution, Solution]) -> None:
    project.destinations.activate("cloud", ["s"])
    project.labels.create("own-device", "what a device gives")
    project.policies.create("no-devices", "analytics", "own-device")
    for dataset in ("gaid", "idfa"):
        project.labels.apply("own-device", PlaceKind.FIELD, f"{dataset}.e")
    project.destinations.sync("cloud")
    assert {name for name, _ in connected[0].has()} == {"ECID", "email_lc_sha256"}
    project.labels.apply("own-device", PlaceKind.SEGMENT, "s")
    project.destinations.sync("cloud")
    assert connected[0].has() == connected[1].has() == set()
    project.destinations.deactivate("cloud", ["s"])
    with pytest.raises(PolicyViolation):
        project.destinations.activate("cloud", ["s"])
    assert project.destinations.show("cloud")["gets"] == []


@pytest.mark.feature("EC6")
def test_a_dead_solution_delays_no_other_and_is_brought_up_to_date_later(
    project: Project, connected: tuple[Solution, Solution], clock: Clock
) -> None:
    campaign, target = connected
    campaign.status = 503
    done = project.destinations.activate("cloud", ["s"])
    assert (done["sent"], done["waiting"]) == (1, 4)
    assert target.has() == ALL
    waits = {
        each["name"]: (each["waiting"], each["next_attempt"])
        for each in project.destinations.show("cloud")["solutions"]
    }
    assert waits == {"cloud.campaign": (4, clock() + 15), "cloud.target": (0, None)}
    for name in ("cloud", "cloud.campaign"):
        with pytest.raises(NotAllowed, match="settings"):
            project.destinations.edit(name, {"age": "400"})
    (error,) = project.destinations.errors("cloud")
    assert (error["solution"], error["code"]) == ("cloud.campaign", "http_503")
    campaign.status = 410
    clock.advance(seconds=15)
    project.destinations.sync("cloud")
    shown = project.destinations.show("cloud")
    assert shown["status"] == "mixed"
    assert {each["name"]: each["status"] for each in shown["solutions"]}["cloud.campaign"] == "disabled"
    campaign.status = 200
    project.destinations.resume("cloud")
    assert campaign.has() == target.has() == ALL
    project.destinations.deactivate("cloud", ["s"])
    assert campaign.has() == target.has() == set()


def test_a_connection_needs_a_name_and_gets_solutions_one_after_the_other(
    project: Project, web: HTTPServer, certificate: Certificate
) -> None:
    made = project.destinations.create("cloud", "experience-cloud", {}, description="all we have")
    assert (made.destination["solutions"], made.secret) == ([], None)
    for act in (
        project.destinations.check,
        project.destinations.sync,
        lambda name: project.destinations.activate(name, ["s"]),
    ):
        with pytest.raises(NotAllowed, match="no solution yet"):
            act("cloud")
    campaign, target = Solution(web, "/campaign"), Solution(web, "/target")
    authorities = {"authorities": str(certificate.chain)}
    project.destinations.connect("cloud", {"campaign": campaign.url, **authorities}, b"secret-1")
    assert project.destinations.check("cloud")["arrived"]
    project.destinations.activate("cloud", ["s"])
    project.destinations.connect("cloud", {"target": target.url, **authorities}, b"secret-2")
    with pytest.raises(AlreadyExists):
        project.destinations.connect("cloud", {"target": target.url, **authorities}, b"secret-2")
    assert target.has() == set()
    project.destinations.activate("cloud", ["s"])  # where it is not yet
    assert campaign.has() == target.has() == ALL
    with pytest.raises(AlreadyExists):
        project.destinations.activate("cloud", ["s"])
    target.status = 500
    found = project.destinations.check("cloud")
    assert (found["arrived"], found["code"]) == (False, "http_500")
    assert [each["arrived"] for each in found["solutions"]] == [True, False]
    target.status = 200
    project.destinations.delete("cloud.target")
    assert (len(campaign.has()), len(target.has())) == (4, 0)
    project.destinations.delete("cloud")
    assert campaign.has() == set()
    assert project.destinations.all() == []
    with pytest.raises(NotFound):
        project.destinations.show("cloud")


def test_what_is_hidden_from_somebody_hides_the_connection(
    project: Project, connected: tuple[Solution, Solution], clock: Clock
) -> None:
    project.destinations.activate("cloud", ["s"])
    project.labels.apply("C3", PlaceKind.SEGMENT, "s")
    node = Node(project.scope.home)
    with signed_in(node, crew(node)["ann"]) as anns:
        anns.roles.create("few", ["view"], labels=["C1"])
        token = anns.users.create("bo", ["few"])
    with signed_in(node, token) as bos:
        assert bos.project().destinations.all() == []
        for act in (bos.project().destinations.show, bos.project().destinations.runs):
            with pytest.raises(NotFound, match="no destination 'cloud'"):
                act("cloud")


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (None, "no token"),
        (b"target=one", "campaign has an address and no token"),
        (b"campaign=one\ntarget=two\nmarketo=three", "marketo has a token and no address"),
        (b"campaign=one\ncampaign=two", "no tokens of solutions"),
        (b"one\ntwo", "no tokens of solutions"),
        (b"a token", "no tokens of solutions"),
        (b"target=\ncampaign=x", "no tokens of solutions"),
        (b"\xff\xfe", "no tokens of solutions"),
        (b"x" * 5_000, "no tokens of solutions"),
    ],
)
def test_each_solution_needs_a_token(project: Project, tokens: bytes | None, says: str) -> None:
    settings = {"campaign": "https://c.example/", "target": "https://t.example/"}
    with pytest.raises(InvalidInput, match=says) as refused:
        project.destinations.create("cloud", "experience-cloud", settings, secret=tokens)
    assert "one" not in str(refused.value).split()
    assert project.destinations.all() == []


def test_one_token_serves_all_and_none_is_shown(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"campaign": "https://c.example/", "target": "https://t.example/"}
    made = project.destinations.create("cloud", "experience-cloud", settings, secret=b"  token-x=\n")
    given = solutions.with_tokens(settings, b"token-x=")
    assert [(each.name, each.token) for each in given] == [("campaign", b"token-x="), ("target", b"token-x=")]
    shown = str([made, project.destinations.show("cloud"), project.destinations.show("cloud.target"), given])
    assert "token-x" not in shown + capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "identity"),
    [({"campaign": "http://c.example/"}, "id"), ({"bing": "https://c.example/"}, "id"), ({}, "ecid")],
)
def test_what_the_kind_does_not_take_is_refused(project: Project, settings: dict[str, str], identity: str) -> None:
    with pytest.raises(InvalidInput):
        project.destinations.create("cloud", "experience-cloud", settings, identity=identity, secret=b"x")
