"""Webhooks: what leaves is verified by others' code, and whatever a target answers, the changes are counted and kept."""

import base64
import socket
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import jsonschema
import pytest
import targets
from clock import Clock, RealClock
from pytest_httpserver import HTTPServer
from sqlalchemy import select
from standardwebhooks import Webhook, WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError as SvixVerificationError
from targets import Certificate, project_on_loopback
from werkzeug import Request, Response

from node.destinations import upkeep
from node.destinations.kinds import Delivered, Gone, Later, Message, Refused
from node.destinations.targets import https, payload, webhooks
from node.destinations.targets.https import outcome_of
from node.destinations.targets.webhooks import WebhookTarget, signed
from node.errors import InvalidInput, NotAllowed
from node.node import Node
from node.storage.tables import destinations
from node.transport.addresses import AllowedAddresses

KEY = bytes(range(32))
MESSAGE = Message(id="msg_1", segment="s", sequence=1, body=b'{"a":1}', now=1_800_000_000)
HERE = AllowedAddresses(loopback=True)


def target(url: str, certificate: Certificate, allowed: AllowedAddresses = HERE) -> WebhookTarget:
    return WebhookTarget({"url": url, "authorities": str(certificate.chain)}, allowed, KEY)


@pytest.mark.feature("EC1")
@pytest.mark.feature("EC14")
def test_a_receiver_with_the_library_of_the_specification_has_the_members(
    tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(webhooks.WEBHOOK), "limit", 3)
    project = project_on_loopback(tmp_path / "home", RealClock(), tmp_path)
    given = webhooks.PREFIX + base64.b64encode(KEY).decode()
    with targets.receiver(tmp_path, certificate, given) as receiver:
        settings = {"url": receiver.url, "authorities": str(certificate.chain)}
        project.destinations.create("hook", "webhook", settings, uses=["analytics"], secret=given.encode())
        assert project.destinations.check("hook") == {"arrived": True, "code": None, "reason": None}
        assert project.destinations.activate("hook", ["s"])["sent"] == 3
        project.consent.set("p3", "n")
        from node.governance.lineage import PlaceKind

        project.labels.apply("C3", PlaceKind.DATASET, "crm")
        project.destinations.sync("hook")
        bodies = receiver.bodies()
        other = {**settings, "url": receiver.url}
        created = project.destinations.create("stranger", "webhook", other, uses=["analytics"])
        assert created.secret is not None
        assert created.secret.startswith("whsec_")
        assert project.destinations.check("stranger")["code"] == "http_401"  # another secret
    members: set[str] = set()
    segment = project.segments.show("s").id
    assert all(len(each) == 1 for each in bodies.values())
    changes = [body for (body,) in bodies.values() if body["type"] == "segment.members.changed"]
    for body in changes:
        jsonschema.validate(body, payload.schema())
        data = body["data"]
        assert isinstance(data, dict)
        assert data["segments"] == {segment: {"name": "s", "labels": [] if body is not changes[-1] else ["C3"]}}
        for profile in data["profiles"]:
            (each,) = profile["identityMap"]["id"]
            status = profile["segmentMembership"]["ups"][segment]["status"]
            said: dict[str, list[str]] = {"add": [], "remove": []} | {
                {"realized": "add", "exited": "remove"}[status]: [segment]
            }
            assert profile["segments"] == said
            (members.add if status == "realized" else members.discard)(each["id"])
    assert members == {f"p{n}" for n in range(8)} - {"p3"}
    assert "analytics" not in str(changes)  # no marketing action travels
    project.scope.home.close()


def test_a_secret_is_sealed_and_shown_once(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    project = project_on_loopback(tmp_path / "home", clock, tmp_path)
    created = project.destinations.create("hook", "webhook", {"url": "https://localhost:1/x"})
    secret = created.secret
    assert secret is not None
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    shown = [project.destinations.show("hook"), project.destinations.all(), created.destination]
    kept = b"".join(each.read_bytes() for each in (tmp_path / "home").rglob("*") if each.is_file())
    audited = [entry.as_dict() for entry in project.scope.home.audit.entries(act="destination.create")]
    for place in (str(shown), str(audited), kept.decode("latin-1"), capsys.readouterr().err):
        assert secret not in place
        assert secret.removeprefix("whsec_") not in place
    assert base64.b64decode(secret.removeprefix("whsec_")) not in kept
    project.scope.home.close()


def test_the_signature_is_that_of_the_library(clock: Clock) -> None:
    signature = Webhook(base64.b64encode(KEY).decode()).sign(
        MESSAGE.id, datetime.fromtimestamp(MESSAGE.now, UTC), MESSAGE.body.decode()
    )
    assert signed(MESSAGE, KEY) == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1800000000",
        "webhook-signature": signature,
    }


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_two_hundreds_alone_are_success(status: int) -> None:
    assert outcome_of(status, None, 0) == Delivered()


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((each, Later(f"http_{each}")) for each in (403, 408, 409, 429, 500, 502, 503, 504, 507, 599)),
        *((each, Refused(f"http_{each}")) for each in (400, 401, 404, 405, 413, 422, 501, 505)),
        *((each, Refused("redirect")) for each in (301, 302, 303, 307, 308)),
        (410, Gone()),
    ],
)
def test_each_status_means_what_the_table_says(
    web: HTTPServer, certificate: Certificate, status: int, outcome: object
) -> None:
    web.expect_request("/hook").respond_with_response(
        Response(status=status, headers={"location": web.url_for("/other")})
    )
    assert target(web.url_for("/hook"), certificate).send(MESSAGE) == outcome
    assert [request.path for request, _ in web.log] == ["/hook"]  # nothing is followed
    assert web.log[0][0].headers["host"] == f"127.0.0.1:{web.port}"


@pytest.mark.parametrize("host", ["a" * 64 + ".com", "a..b", "x" * 3_000])
def test_an_address_that_no_name_server_can_be_asked_for_is_refused_at_once(host: str) -> None:
    with pytest.raises(InvalidInput, match="no address of a webhook"):
        webhooks.WEBHOOK.checked({"url": f"https://{host}/hook"})


@pytest.mark.parametrize(
    ("address", "host"),
    [("[2001:db8::1]", "[2001:db8::1]"), ("[2001:db8::1]:8443", "[2001:db8::1]:8443"), ("A.com:443", "a.com")],
)
def test_the_host_header_is_the_host_as_the_address_has_it(address: str, host: str) -> None:
    assert https.WebServer(f"https://{address}/", HERE).host == host


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120), (" 7 ", 7), (format_datetime(datetime.fromtimestamp(1_000, UTC), usegmt=True), 600), ("0", 0)],
)
def test_retry_after_is_a_number_or_a_date(header: str, seconds: int) -> None:
    assert outcome_of(429, header, 400) == Later("http_429", seconds)


@pytest.mark.parametrize("header", ["", "soon", "-5", "1e9", "Wed, 99 Foo 2026", "\u0663"])
def test_a_retry_after_that_says_nothing_is_left_out(header: str) -> None:
    assert outcome_of(503, header, 0) == Later("http_503", None)


@pytest.mark.feature("EC8")
@pytest.mark.feature("EC9")
def test_retries_come_after_15_and_30_seconds_count_once_and_gone_disables(
    tmp_path: Path, clock: Clock, web: HTTPServer, certificate: Certificate
) -> None:
    project = project_on_loopback(tmp_path / "home", clock, tmp_path)
    answers = [429, 429, 200, 500, 502, 503, 400, 410]
    seen: list[tuple[int, Request]] = []

    def answer(request: Request) -> Response:
        seen.append((clock(), request))
        return Response(status=answers[len(seen) - 1])

    web.expect_request("/hook").respond_with_handler(answer)
    settings = {"url": web.url_for("/hook"), "authorities": str(certificate.chain)}
    project.destinations.create("hook", "webhook", settings, uses=["analytics"])
    began = clock()
    project.destinations.activate("hook", ["s"])
    for _ in range(45):
        clock.advance(seconds=1)
        project.destinations.sync("hook")
    assert [at - began for at, _ in seen] == [0, 15, 45]
    assert len({request.headers["webhook-id"] for _, request in seen}) == 1
    assert len({request.data for _, request in seen}) == 1
    assert len({request.headers["webhook-signature"] for _, request in seen}) == 3
    (row,) = project.destinations.runs("hook")
    counted = ("received", "activated", "excluded", "failed", "waiting", "requests")
    assert [row[each] for each in counted] == [8, 8, 0, 0, 0, 3]
    project.segments.update("s", rule="orders >= 1")
    project.destinations.sync("hook")
    for seconds in (15, 30, 100):
        clock.advance(seconds=seconds)
        project.destinations.sync("hook")
    assert len(seen) == 6  # it has failed: nothing more is tried
    (row, *_) = project.destinations.runs("hook")
    assert row["codes"] == [
        {"outcome": "failed", "code": "http_503", "count": 1, "reason": "the target answered with HTTP status 503"}
    ]
    (error,) = project.destinations.errors("hook")
    assert (error["code"], error["attempts"], error["changes"]) == ("http_503", 3, 1)
    project.destinations.replay("hook")  # 400: one request
    assert len(seen) == 7
    clock.advance(seconds=100)
    project.destinations.sync("hook")
    assert len(seen) == 7
    project.destinations.replay("hook")
    shown = project.destinations.show("hook")
    assert (shown["status"], len(seen)) == ("disabled", 8)
    assert "takes no more" in shown["reason"]
    (row, *_) = project.destinations.runs("hook")
    assert row["received"] == row["activated"] + row["excluded"] + row["failed"] + row["waiting"]
    assert row["waiting"] == 1  # what a disabled target missed is kept
    answers.append(200)
    project.destinations.resume("hook")
    assert project.destinations.show("hook")["status"] == "active"
    assert seen[-1][1].headers["webhook-id"] == seen[-2][1].headers["webhook-id"]
    assert project.destinations.show("hook")["waiting"] == 0
    project.scope.home.close()


def _slowly(connection: socket.socket) -> None:
    for piece in b"HTTP/1.1 200 OK\r\n":
        connection.sendall(bytes([piece]))
        connection.settimeout(0.2)
        try:
            connection.recv(1)
        except TimeoutError:
            continue


def _half(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 O")


def _garbage(connection: socket.socket) -> None:
    connection.sendall(b"\0\1\2 nothing that HTTP has\r\n\r\n")


def _gigabyte(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
    for _ in range(1_000):
        connection.sendall(bytes(1_000_000))


def _endless_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(10_000):
        connection.sendall(b"x: " + b"y" * 10_000 + b"\r\n")


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (_slowly, Later("timeout")),
        (_half, Later("connection")),
        (_garbage, Later("connection")),
        (_gigabyte, Delivered()),
        (_endless_head, Later("connection")),
        (lambda connection: None, Later("connection")),
    ],
)
def test_an_answer_that_is_slow_half_or_huge_is_judged_by_its_status(
    certificate: Certificate, script: targets.Script, outcome: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "TIMEOUT_SECONDS", 1.0)
    with targets.scripted(certificate, script) as url:
        assert target(url, certificate).send(MESSAGE) == outcome


def test_a_certificate_of_nobody_known_or_of_another_name_is_refused(certificate: Certificate, tmp_path: Path) -> None:
    other = targets.certificate(tmp_path, "other.example")
    with targets.scripted(certificate, lambda connection: None) as url:
        assert target(url, other).send(MESSAGE) == Later("tls")
        assert WebhookTarget({"url": url}, HERE, KEY).send(MESSAGE) == Later("tls")
    with targets.scripted(other, lambda connection: None) as url:
        assert target(url, other).send(MESSAGE) == Later("tls")


def test_nobody_listens(certificate: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert target(f"https://127.0.0.1:{port}/", certificate).send(MESSAGE) == Later("connection")
    assert target("https://nothing.invalid/", certificate).send(MESSAGE) == Later("connection")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]"]
)
def test_no_address_is_called_that_the_operator_has_not_allowed(certificate: Certificate, host: str) -> None:
    found = target(f"https://{host}:9/", certificate, AllowedAddresses())
    assert found.send(MESSAGE) == Refused("address")


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example.com/",
        "https://",
        "https://user:password@crm.example.com/",
        "https://crm.example.com:0/",
        "https://crm.example.com:99999/",
        "https://crm.example.com/#x",
        "https://crm.example.com/ x",
        "https://[::1/",
        "file:///etc/passwd",
        "crm.example.com",
    ],
)
def test_what_is_no_address_is_refused(node: Node, url: str) -> None:
    with pytest.raises(InvalidInput):
        node.project().destinations.create("hook", "webhook", {"url": url})


@pytest.mark.parametrize("secret", [b"", b"whsec_", b"whsec_AAAA", b"whsec_" + b"!" * 40, b"whsec_" + b"A" * 400])
def test_what_is_no_secret_is_refused(node: Node, secret: bytes) -> None:
    with pytest.raises(InvalidInput, match="secret"):
        node.project().destinations.create("hook", "webhook", {"url": "https://x.example/"}, secret=secret)


def test_a_file_that_has_no_authorities_is_refused(node: Node, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    for path in (tmp_path / "x.pem", tmp_path / "missing.pem"):
        with pytest.raises(InvalidInput, match="authorities"):
            node.project().destinations.create(
                "hook", "webhook", {"url": "https://x.example/", "authorities": str(path)}
            )


def test_a_secret_that_is_replaced_signs_too_for_a_day(
    tmp_path: Path, clock: Clock, web: HTTPServer, certificate: Certificate
) -> None:
    project = project_on_loopback(tmp_path / "home", RealClock(), tmp_path)
    now = project.scope.home.now
    assert isinstance(now, RealClock)
    web.expect_request("/hook").respond_with_data()
    settings = {"url": web.url_for("/hook"), "authorities": str(certificate.chain)}
    old = project.destinations.create("hook", "webhook", settings, uses=["analytics"]).secret
    new = project.destinations.rotate("hook")
    assert old is not None
    assert new is not None

    def verified(secret: str) -> bool:
        project.destinations.check("hook")
        request = web.log[-1][0]
        headers = {key.lower(): value for key, value in request.headers.items()}
        found = set()
        for library, error in ((Webhook, WebhookVerificationError), (SvixWebhook, SvixVerificationError)):
            with suppress(error):
                library(secret).verify(request.data.decode(), headers)
                found.add(library)
        assert found in (set(), {Webhook, SvixWebhook})
        return bool(found)

    assert (verified(old), verified(new)) == (True, True)
    signatures = web.log[-1][0].headers["webhook-signature"].split(" ")
    assert [each.split(",")[0] for each in signatures] == ["v1", "v1"]
    kept = b"".join(each.read_bytes() for each in (tmp_path / "home").rglob("*") if each.is_file())
    assert base64.b64decode(new.removeprefix("whsec_")) not in kept
    before = now.now
    now.advance(days=-2)  # a clock that jumps back forgets nothing
    upkeep.forget_old(project.scope)
    now.now = before
    assert verified(old)
    with project.scope.begin() as tx:
        tx.execute(destinations.update().values(old_secret_ends=now()))
    assert (verified(old), verified(new)) == (False, True)
    upkeep.forget_old(project.scope)
    with project.scope.read() as tx:
        assert tx.scalar(select(destinations.c.old_secret)) is None
    project.destinations.create("files", "file", {"folder": str(tmp_path)}, uses=["analytics"])
    with pytest.raises(NotAllowed, match="no secret"):
        project.destinations.rotate("files")
    project.scope.home.close()


def _refusing(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 422 No\r\n\r\nwhy not: ")
    with suppress(OSError):
        for _ in range(1_000):
            connection.sendall(b"x" * 1_000_000)


def test_the_beginning_of_an_answer_that_refuses_is_read(certificate: Certificate) -> None:
    with targets.scripted(certificate, _refusing) as url:
        outcome = target(url, certificate).send(MESSAGE)
    assert isinstance(outcome, Refused)
    assert outcome.answer.startswith("why not: xxx")
    assert len(outcome.answer) == https.BEGINNING
