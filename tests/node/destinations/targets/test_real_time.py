"""Real-time messages of Audience Manager: what leaves is what its partners read, and what they answer is what counts."""

import base64
import hmac
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import targets
from clock import Clock
from pytest_httpserver import HTTPServer
from targets import Certificate, batch, project_on_loopback
from werkzeug import Request, Response

from node.destinations.kinds import Delivered, Gone, Later, Message
from node.destinations.targets import access_tokens, real_time
from node.destinations.targets.real_time import RealTimeTarget
from node.errors import InvalidInput
from node.project import Project
from node.transport.addresses import AllowedAddresses

HERE = AllowedAddresses(loopback=True)
ABOUT = {"form": "audience-manager", "data_source": "20914", "client_id": "74323", "destination_id": "423"}
KEY = b"sample_partner_private_key"
MESSAGE = Message(id="msg_1", segment="s", sequence=1, body=b'{"Users":[]}', now=1_800_000_000)


def settings(web: HTTPServer, certificate: Certificate, **more: str) -> dict[str, str]:
    return {"url": web.url_for("/aam"), "authorities": str(certificate.chain), **ABOUT, **more}


def target(web: HTTPServer, certificate: Certificate, **more: str) -> RealTimeTarget:
    given = settings(web, certificate, **more)
    return RealTimeTarget(real_time.form(given).checked(given), HERE, KEY)


class Partner:
    """A partner's server: it takes a message with a signature by its key, and knows who is in which segment."""

    def __init__(self, web: HTTPServer, key: bytes, status: int = 200) -> None:
        self.key, self.status, self.bodies = key, status, list[dict[str, Any]]()
        self.members: dict[str, set[str]] = {}
        web.expect_request("/aam", method="POST").respond_with_handler(self.answer)
        web.expect_request("/aam", method="HEAD").respond_with_response(Response(status=405))

    def answer(self, request: Request) -> Response:
        said = base64.b64decode(request.headers["x-signature"])
        assert hmac.compare_digest(said, hmac.digest(self.key, request.data, "sha256"))
        body = request.get_json()
        assert 1 <= len(body["Users"]) <= 10
        assert body["User_count"] == str(len(body["Users"]))
        self.bodies.append(body)
        for user in body["Users"] if self.status == 200 else ():
            for each in user["Segments"]:
                there = self.members.setdefault(each["Segment_ID"], set())
                (there.add if each["Status"] == "1" else there.discard)(user["DataPartner_UUID"])
        return Response(status=self.status)


def made(folder: Path, clock: Clock, web: HTTPServer, certificate: Certificate) -> Project:
    project = project_on_loopback(folder / "home", clock, folder)
    given = settings(web, certificate, signature="hmac-sha256")
    project.destinations.create("aam", "webhook", given, uses=["analytics"], secret=KEY)
    return project


def test_a_partner_has_the_members_and_all_segments_that_its_target_is_known_to_have(
    tmp_path: Path, clock: Clock, web: HTTPServer, certificate: Certificate
) -> None:
    project, partner = made(tmp_path, clock, web, certificate), Partner(web, KEY)
    targets.people(project, tmp_path, 12)
    project.segments.create("everyone", rule="orders >= 0")
    project.segments.create("few", rule="orders >= 9")
    assert project.destinations.check("aam") == {"arrived": True, "code": None, "reason": None}
    project.destinations.activate("aam", ["everyone"], audience_id="14356")
    assert [len(body["Users"]) for body in partner.bodies] == [10, 2]
    assert partner.bodies[0]["User_DPID"] == "20914"
    assert partner.bodies[0]["AAM_Destination_Id"] == "423"
    clock.advance(seconds=60)
    project.destinations.activate("aam", ["few"], audience_id="14357")
    users = {user["DataPartner_UUID"]: user["Segments"] for user in partner.bodies[-1]["Users"]}
    assert users == {
        f"p{number}": [
            {"Segment_ID": "14357", "Status": "1", "DateTime": "Fri Jan 15 08:01:00 UTC 2027"},
            {"Segment_ID": "14356", "Status": "1", "DateTime": "Fri Jan 15 08:00:00 UTC 2027"},
        ]
        for number in (9, 10, 11)
    }
    project.consent.set("p9", "n")  # leaves both: no message about one brings them back into the other
    project.destinations.sync("aam")
    assert partner.members == {"14356": {f"p{n}" for n in range(12)} - {"p9"}, "14357": {"p10", "p11"}}
    project.destinations.delete("aam")
    assert partner.members == {"14356": set(), "14357": set()}
    project.scope.home.close()


def test_what_is_not_200_is_tried_once_more(
    tmp_path: Path, clock: Clock, web: HTTPServer, certificate: Certificate
) -> None:
    project, partner = made(tmp_path, clock, web, certificate), Partner(web, KEY, status=204)
    project.destinations.activate("aam", ["s"])
    for seconds in (15, 30, 300):
        clock.advance(seconds=seconds)
        project.destinations.sync("aam")
    assert len(partner.bodies) == 2
    assert partner.bodies[0] == partner.bodies[1]
    (error,) = project.destinations.errors("aam")
    assert (error["code"], error["attempts"], error["changes"]) == ("http_204", 2, 8)
    partner.status = 200
    project.destinations.replay("aam")
    assert [len(each) for each in partner.members.values()] == [8]
    project.scope.home.close()


def test_the_signature_is_the_one_that_adobe_documents() -> None:
    body = b"POST message content"
    assert real_time.signature(KEY, body, "hmac-sha1") == "+wFdR/afZNoVqtGl8/e1KJ4ykPU="
    for name in ("sha256", "md5"):
        found = base64.b64decode(real_time.signature(KEY, body, f"hmac-{name}"))
        assert found == hmac.new(KEY, body, name).digest()


def test_an_ecid_is_the_id_of_audience_manager(web: HTTPServer, certificate: Certificate) -> None:
    digits = "1" * 38
    body = json.loads(target(web, certificate).encode(batch(digits, identity="ecid/digits-v1")))
    assert body == {
        "ProcessTime": "Fri Jan 15 08:00:00 UTC 2027",
        "User_DPID": "20914",
        "Client_ID": "74323",
        "AAM_Destination_Id": "423",
        "User_count": "1",
        "Users": [
            {
                "AAM_UUID": digits,
                "DataPartner_UUID": "",
                "AAM_Regions": [],
                "Segments": [{"Segment_ID": "i", "Status": "1", "DateTime": "Fri Jan 15 08:00:00 UTC 2027"}],
            }
        ],
    }


@pytest.mark.parametrize("status", [201, 202, 204, 301, 400, 401, 404, 429, 500, 501, 503])
def test_200_alone_is_success(web: HTTPServer, certificate: Certificate, status: int) -> None:
    answer = Response(status=status, headers={"location": web.url_for("/other"), "retry-after": "9"})
    web.expect_request("/aam").respond_with_response(answer)
    assert target(web, certificate).send(MESSAGE) == Later(f"http_{status}")
    assert len(web.log) == 1


def test_gone_disables_and_an_answer_that_is_late_is_none(
    web: HTTPServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.expect_ordered_request("/aam").respond_with_response(Response(status=410))
    to = target(web, certificate)
    assert to.send(MESSAGE) == Gone()
    late = threading.Event()
    monkeypatch.setattr(real_time, "TIMEOUT_SECONDS", 0.2)
    web.expect_request("/aam").respond_with_handler(lambda request: (late.wait(5) and Response()) or Response())
    assert to.send(MESSAGE) == Later("timeout")
    late.set()


class Tokens:
    """An authorisation server that counts whom it gave a token."""

    def __init__(self, web: HTTPServer, answer: object = None) -> None:
        self.given, self.answer = 0, answer
        web.expect_request("/token", method="POST").respond_with_handler(self.give)
        web.expect_request("/aam").respond_with_handler(self.take)

    def give(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Basic {base64.b64encode(b'me:' + KEY).decode()}"
        assert request.form.to_dict() == {"grant_type": "client_credentials"}
        self.given += 1
        body = {"access_token": f"t{self.given}", "token_type": "bearer", "expires_in": 600}
        return Response(json.dumps(body if self.answer is None else self.answer))

    def take(self, request: Request) -> Response:
        assert "x-signature" not in request.headers
        return Response(status=200 if request.headers["authorization"] == f"Bearer t{self.given}" else 401)


@pytest.fixture
def with_token(web: HTTPServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> RealTimeTarget:
    monkeypatch.setattr(access_tokens, "_kept", {})
    return target(web, certificate, token_url=web.url_for("/token"), token_client="me")


def test_a_token_is_asked_for_once_until_it_ends_or_is_not_taken(web: HTTPServer, with_token: RealTimeTarget) -> None:
    tokens = Tokens(web)
    assert with_token.check(MESSAGE.now) == Delivered()
    assert [with_token.send(MESSAGE) for _ in range(3)] == [Delivered()] * 3
    assert tokens.given == 1
    later = Message(id="msg_2", segment="s", sequence=2, body=MESSAGE.body, now=MESSAGE.now + 571)
    assert with_token.send(later) == Delivered()
    assert tokens.given == 2
    tokens.given = 7  # the server forgot what it gave
    assert with_token.send(later) == Later("http_401")
    assert with_token.send(later) == Delivered()
    assert KEY.decode() not in repr(with_token._tokens)


@pytest.mark.parametrize(
    "answer",
    [
        *([], {}, {"access_token": 1}, {"access_token": "a b"}, {"access_token": "x" * 70_000}),
        *({"access_token": "x", "token_type": "mac"}, {"access_token": "x", "expires_in": "soon"}),
    ],
)
def test_an_answer_without_a_token_costs_the_try(web: HTTPServer, with_token: RealTimeTarget, answer: object) -> None:
    Tokens(web, answer)
    assert with_token.send(MESSAGE) == Later("token")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"url": "http://localhost/aam"}, "no address of a webhook"),
        ({"data_source": "gaid"}, "no data_source"),
        ({"signature": "hmac-sha512"}, "no such signature"),
        ({"token_url": "http://localhost/token", "token_client": "me"}, "no address of an authorisation server"),
        ({"token_url": "https://localhost/token"}, "needs token_client"),
        ({"token_client": "me"}, "token_client is for"),
        ({"token_url": "https://localhost/token", "signature": "hmac-md5"}, "a signature or an access token"),
        ({"template": "{}"}, "no setting 'template'"),
        ({"max_users_per_request": "11"}, "out of bounds"),
        ({"form": "other"}, "no setting|no form"),
    ],
)
def test_settings_that_cannot_work_are_refused(project: Project, more: dict[str, str], match: str) -> None:
    given = {"url": "https://localhost/aam", **ABOUT, **more}
    with pytest.raises(InvalidInput, match=match):
        project.destinations.create("aam", "webhook", given, secret=KEY)


def test_its_settings_are_shown_with_the_kind(project: Project) -> None:
    (webhook,) = (each for each in project.destinations.kinds() if each["kind"] == "webhook")
    texts = {each["name"]: each["text"] for each in webhook["settings"]}
    assert texts["token_url"].startswith("for form=audience-manager: ")
    given = {"url": "https://localhost/", "token_url": "https://localhost/t", "token_client": "me", **ABOUT}
    with pytest.raises(InvalidInput, match="secret of a client"):
        project.destinations.create("aam", "webhook", given)
