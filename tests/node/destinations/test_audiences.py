"""What a target calls a segment: made, renamed and deleted there by its own interface, which somebody else wrote."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from clock import Clock
from pytest_httpserver import HTTPServer
from targets import Certificate, prepared
from werkzeug import Request, Response

from node.destinations.kinds import Audience
from node.destinations.targets import audience_calls, payload
from node.destinations.targets.audience_calls import AudienceCalls
from node.errors import AlreadyExists, Failure, InvalidInput, NotAllowed
from node.governance.lineage import PlaceKind
from node.node import Node
from node.project import Project
from node.transport.addresses import AllowedAddresses


class Market:
    """A target with an interface for audiences, which keeps their names by the ids that it gives."""

    def __init__(self, server: HTTPServer) -> None:
        self.url, self.names, self.status = server.url_for(""), dict[str, str](), 200
        self.by_key: dict[str, str] = {}
        self.keys = set[str]()  # of other calls
        self.messages: list[Any] = []
        self.answer: Any = None
        self.authorization: str | None = None
        self.packed = False
        server.expect_request(re.compile("/accounts/a 1/segments.*")).respond_with_handler(self._audience)
        server.expect_request("/hook").respond_with_handler(self._message)

    def _audience(self, request: Request) -> Response:
        if self.status != 200:
            return Response(status=self.status)
        audience = request.path.removeprefix("/accounts/a 1/segments").strip("/")
        if request.method == "DELETE":
            return Response(status=200 if self.names.pop(audience, None) else 404)
        name = json.loads(request.data)["segments"][0]["name"]
        if request.method == "POST":
            audience = self.by_key.setdefault(request.headers["idempotency-key"], f"ext-{len(self.by_key) + 1}")
        elif request.headers["idempotency-key"] in self.keys:  # it was done before
            return Response(status=200)
        self.keys.add(request.headers["idempotency-key"])
        self.names[audience] = name
        self.authorization = request.headers.get("authorization")
        found = {"segments": [{"segment": {"id": audience}}]} if self.answer is None else self.answer
        if self.packed:
            return Response(gzip.compress(json.dumps(found).encode()), headers={"content-encoding": "gzip"})
        return Response(json.dumps(found), headers={"x-audience-id": audience})

    def _message(self, request: Request) -> Response:
        body = json.loads(request.data)
        if body["type"] == payload.TYPE:
            jsonschema.validate(body, payload.schema())
            self.messages.append(body["data"])
        return Response(status=200)

    def template(self, value: str = "{{body.segments[0].segment.id}}") -> dict[str, Any]:
        url = f"{self.url}accounts/{{{{customerData.audience-id}}}}/segments".replace(
            "{{customerData.audience-id}}", "a%201"
        )
        body = {"json": {"segments": [{"name": "{{segment.name}}", "retention_in_days": 180}]}}
        headers = [{"header": "Content-Type", "value": "application/json"}]
        one = f"{url}/{{{{segment.alias}}}}"
        given = [{"name": "externalAudienceId", "value": value}]
        return {
            "metadataTemplate": {
                "create": {
                    "url": url,
                    "httpMethod": "POST",
                    "headers": headers,
                    "requestBody": body,
                    "responseFields": given,
                },
                "update": {"url": one, "httpMethod": "PUT", "headers": headers, "requestBody": body},
                "delete": {"url": one, "httpMethod": "DELETE", "headers": headers},
            }
        }


@pytest.fixture
def market(certificate: Certificate) -> Iterator[Market]:
    with HTTPServer(host="127.0.0.1", ssl_context=certificate.context()) as server:
        yield Market(server)


@pytest.fixture
def project(loopback: Node, tmp_path: Path) -> Project:
    return prepared(loopback.project(), tmp_path, 4, s="orders >= 2")


def connect(project: Project, market: Market, certificate: Certificate, folder: Path, **settings: str) -> None:
    given = {"url": f"{market.url}hook", "authorities": str(certificate.chain)}
    if "audiences" not in settings:
        (folder / "calls.json").write_text(json.dumps(market.template()))
        settings["audiences"] = str(folder / "calls.json")
    settings = {name.replace("_", "-"): value for name, value in settings.items() if value}
    project.destinations.create("hook", "webhook", {**given, **settings}, uses=["analytics"])


@pytest.mark.feature("EC13")
def test_the_target_makes_an_audience_follows_its_name_and_deletes_it(
    project: Project, market: Market, certificate: Certificate, tmp_path: Path
) -> None:
    connect(project, market, certificate, tmp_path)
    project.destinations.activate("hook", ["s"])
    segment = project.segments.show("s").id
    assert market.names == {"ext-1": "s"}
    assert market.messages[0]["segments"] == {segment: {"name": "s", "external_id": "ext-1", "labels": []}}
    assert project.destinations.show("hook")["segments"][0]["external_id"] == "ext-1"
    project.labels.apply("C3", PlaceKind.SEGMENT, "s")
    for name in ("spring", "summer"):
        project.segments.rename(project.segments.all()[0].name, name)
        project.destinations.sync("hook")
        assert market.names == {"ext-1": name}
    project.segments.update("summer", rule="orders >= 1")
    project.destinations.sync("hook")
    assert market.messages[-1]["segments"] == {segment: {"name": "summer", "external_id": "ext-1", "labels": ["C3"]}}
    assert [each["segment"] for each in project.destinations.show("hook")["segments"]] == ["summer"]
    (row,) = project.destinations.runs("hook", "summer")
    assert (row["received"], row["activated"]) == (3, 3)
    project.destinations.deactivate("hook", ["summer"])
    assert market.names == {}
    project.destinations.activate("hook", ["summer"])
    assert market.names == {"ext-2": "summer"}
    project.destinations.deactivate("hook", ["summer"], leave=True)
    assert market.names == {"ext-2": "summer"}  # left as it is, with its members


def test_a_check_tries_the_call_that_changes_nothing(
    project: Project, market: Market, certificate: Certificate, tmp_path: Path
) -> None:
    template = market.template()
    one = f"{market.url}accounts/a%201/segments/{{{{customerData.audience-id}}}}"
    template["metadataTemplate"]["validate"] = {"url": one, "httpMethod": "DELETE"}
    connect(project, market, certificate, tmp_path, audiences=json.dumps(template), audience_id="name")
    found = project.destinations.check("hook")
    assert (found["arrived"], found["code"]) == (False, "http_404")
    market.names["name"] = "x"
    assert project.destinations.check("hook")["arrived"]


def test_an_audience_that_cannot_be_made_is_tried_again_and_made_once(
    project: Project, market: Market, certificate: Certificate, tmp_path: Path, clock: Clock
) -> None:
    connect(project, market, certificate, tmp_path)
    market.status = 503
    with pytest.raises(Failure, match=r"did not create the audience of segment s.*503"):
        project.destinations.activate("hook", ["s"])
    market.status, market.answer = 200, {"segments": []}
    clock.advance(seconds=60)
    with pytest.raises(Failure, match="no id of an audience"):
        project.destinations.sync("hook")
    assert market.messages == []  # nobody is sent to an audience that is not there
    market.answer = None
    clock.advance(seconds=60)
    project.destinations.sync("hook")
    assert market.names == {"ext-1": "s"}
    assert len(market.messages) == 1


@pytest.mark.parametrize(("choice", "called"), [("ours", None), ("name", "s"), ("typed", "T-7")])
def test_what_a_segment_is_called_is_ours_its_name_or_typed(
    project: Project, market: Market, certificate: Certificate, tmp_path: Path, choice: str, called: str | None
) -> None:
    connect(project, market, certificate, tmp_path, audiences="", audience_id=choice)
    if choice == "typed":
        for segments, typed in ((["s"], None), (["s"], ""), (["s", "s"], "T-7"), (["s"], "x" * 256)):
            with pytest.raises(InvalidInput, match="has to be told"):
                project.destinations.activate("hook", segments, audience_id=typed)
    project.destinations.activate("hook", ["s"], audience_id="T-7" if choice == "typed" else None)
    segment = project.segments.show("s").id
    assert market.messages[0]["segments"][segment]["external_id"] == (called or segment)
    assert market.names == {}


def test_an_id_stands_in_a_header_or_in_the_body_and_is_bounded(market: Market, certificate: Certificate) -> None:
    about = Audience(id="8f81", name='a"b', alias="", settings={})

    def call(value: str, answer: Any = None) -> str | None:
        market.answer = answer
        template = json.dumps(market.template(value)["metadataTemplate"])
        calls = AudienceCalls(template, AllowedAddresses(loopback=True), str(certificate.chain))
        return calls.call("create", about, "k", 0)[1]

    assert call("{{headers.x-audience-id}}") == "ext-1"
    assert call("{{response.id}}", {"id": 17}) == "17"
    assert market.names["ext-1"] == 'a"b'  # a name is one value of the JSON, whatever is in it
    bad: object
    for bad in (
        {"id": True},
        {"id": None},
        {"id": "x" * 256},
        {"id": "a\nb"},
        {"id": ["x"]},
        [],
        "x",
        {"id": "y" * 70_000},
    ):
        assert call("{{response.id}}", bad) is None
    assert call("{{body[3].id}}", [1]) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda calls: calls.clear(),
        lambda calls: calls["create"].pop("url"),
        lambda calls: calls["create"].update(url="http://x.example/"),
        lambda calls: calls["create"].update(url="https://{{segment.name}}.example/"),
        lambda calls: calls["create"].update(httpMethod="TRACE"),
        lambda calls: calls["create"].update(headers=[{"header": "x"}]),
        lambda calls: calls["create"].update(requestBody={"formData": {}}),
        lambda calls: calls["update"].update(url="https://x.example/{{authData.accessToken}}"),
        lambda calls: calls["update"].update(url="https://x.example/{{ 7 * 7 }}"),
        lambda calls: calls["create"].pop("responseFields"),
        lambda calls: calls["create"].update(
            responseFields=[{"name": "externalAudienceId", "value": "{{body.__class__}} x"}]
        ),
        lambda calls: calls.update(create=[]),
    ],
)
def test_calls_that_cannot_work_are_refused_when_they_are_saved(market: Market, tmp_path: Path, spoil: Any) -> None:
    template = market.template()
    spoil(template["metadataTemplate"])
    (tmp_path / "calls.json").write_text(json.dumps(template))
    with pytest.raises(InvalidInput):
        audience_calls.checked({"audiences": str(tmp_path / "calls.json")})


@pytest.mark.parametrize("text", ["", "[]", "{", "nothing", "[" * 100_000, '{"create": "' + "x" * 70_000 + '"}'])
def test_what_is_no_template_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "calls.json").write_text(text)
    for path in (tmp_path / "calls.json", tmp_path / "missing.json"):
        with pytest.raises(InvalidInput):
            audience_calls.checked({"audiences": str(path)})
    with pytest.raises(InvalidInput):
        audience_calls.checked({"audience-id": "somebody"})


def test_who_withdraws_is_removed_though_the_target_takes_no_other_name(
    project: Project, market: Market, certificate: Certificate, tmp_path: Path
) -> None:
    connect(project, market, certificate, tmp_path)
    project.destinations.activate("hook", ["s"])
    market.status = 503
    project.segments.rename("s", "summer")
    project.consent.set("p2", "n")
    with pytest.raises(Failure, match="did not update the audience of segment summer"):
        project.destinations.sync("hook")
    (profile,) = market.messages[-1]["profiles"]
    assert (profile["identityMap"], len(profile["segments"]["remove"])) == ({"id": [{"id": "p2"}]}, 1)


def test_what_a_call_says_in_a_header_is_shown_to_nobody(
    project: Project, market: Market, certificate: Certificate, tmp_path: Path
) -> None:
    template = market.template()
    template["metadataTemplate"]["create"]["headers"].append(
        {"header": "authorization", "value": "Bearer of-the-target"}
    )
    connect(project, market, certificate, tmp_path, audiences=json.dumps(template))
    assert "of-the-target" not in f"{project.destinations.show('hook')} {project.destinations.all()}"
    project.destinations.activate("hook", ["s"])
    assert market.authorization == "Bearer of-the-target"


def test_a_token_in_a_call_is_sealed_and_shown_to_nobody(
    project: Project, market: Market, certificate: Certificate, tmp_path: Path
) -> None:
    calls = market.template()["metadataTemplate"]
    calls["create"]["url"] += "?token=hush-1"
    calls["create"]["requestBody"]["json"]["token"] = "hush-2"
    calls["update"]["headers"].append({"header": "X-Token", "value": "hush-3"})
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    connect(project, market, certificate, tmp_path, audiences=str(tmp_path / "calls.json"))
    assert "hush" not in json.dumps(project.destinations.show("hook"))
    assert b"hush" not in b"".join(each.read_bytes() for each in project.scope.home.path.glob("*.db*"))
    project.destinations.edit("hook", {"required": ""})
    project.destinations.activate("hook", ["s"])
    assert market.names == {"ext-1": "s"}


def test_two_segments_have_no_id_at_a_target_in_common(
    project: Project, market: Market, certificate: Certificate, tmp_path: Path
) -> None:
    connect(project, market, certificate, tmp_path, audiences="", audience_id="typed")
    project.segments.create("t", rule="orders < 2")
    project.destinations.activate("hook", ["s"], audience_id="T-7")
    with pytest.raises(AlreadyExists, match="T-7"):
        project.destinations.activate("hook", ["t"], audience_id="T-7")


def test_what_is_packed_is_not_unpacked(market: Market, certificate: Certificate) -> None:
    market.packed = True
    template = json.dumps(market.template()["metadataTemplate"])
    calls = AudienceCalls(template, AllowedAddresses(loopback=True), str(certificate.chain))
    assert calls.call("create", Audience(id="8f81", name="s", alias="", settings={}), "k", 0)[1] is None


def test_a_segment_is_not_renamed_under_what_names_it(project: Project) -> None:
    project.segments.create("of-s", rule="own.s AND orders > 2")
    project.segments.create("other", rule="orders > 2")
    with pytest.raises(NotAllowed, match="used by of-s"):
        project.segments.rename("s", "t")
    with pytest.raises(AlreadyExists):
        project.segments.rename("other", "s")
    before = project.segments.members("other")
    assert project.segments.rename("other", "third").name == "third"
    assert project.segments.members("third") == before
    assert [each.name for each in project.segments.all()] == ["of-s", "s", "third"]
