"""The endpoint as a hostile network sees it: bounded, signed, admitted; errors without internals; long work polled."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx2
import pytest
from sides import HERE

from node.adhoc.session import Party
from node.errors import PeerUnreachable, RefusedByPartner, RefusedToPartner, UnknownCaller, WrongPeerKey
from node.transport import client as client_module
from node.transport import endpoint, signatures, tls
from node.transport.addresses import split_address
from node.transport.client import Peer, PeerClient
from node.transport.endpoint import Call, Route, application
from node.transport.server import address_of, bind, server
from protocol import wire
from protocol.errors import RemoteProtocolError
from psi.errors import VesicaError


@dataclass
class Running:
    party: Party
    address: str
    known: set[bytes] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def running() -> Iterator[Running]:
    party, bound = Party(), bind("127.0.0.1:0")
    state = Running(party, address_of(bound))

    def echo(call: Call) -> bytes:
        state.calls.append(call)
        return call.body

    def slow(call: Call) -> bytes:
        state.calls.append(call)
        assert state.released.wait(20)
        return b"worked"

    def nothing(call: Call) -> bytes | None:
        return b"now" if state.released.is_set() else None

    def ask(call: Call) -> None:
        state.calls.append(call)

    def refuse(call: Call) -> bytes:
        raise RefusedToPartner("epoch_behind", "our key epoch is ahead", status=409, detail=7)

    def break_down(call: Call) -> bytes:
        raise ValueError("ann@example.com")

    def fail(call: Call) -> bytes:
        raise VesicaError("cannot write /home/secret/place")

    def admit(caller: bytes, path: str) -> bool:
        if caller not in state.known and path != "/door":
            raise UnknownCaller("who are you?")
        return caller in state.known

    routes = [
        Route("POST", "/echo", echo),
        Route("PUT", "/echo/{step}", echo),
        Route("POST", "/door", echo),
        Route("POST", "/small", echo, 100),
        Route("POST", "/slow", slow),
        Route("GET", "/nothing", nothing),
        Route("GET", "/large", lambda call: bytes(5_000)),
        Route("POST", "/refuse", refuse),
        Route("GET", "/open", ask, unsigned=True),
        Route("POST", "/break", break_down),
        Route("POST", "/fail", fail),
    ]
    running = server(application(party, routes, admit), tls.server_context(party.secret, party.now()))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    yield state
    state.released.set()
    running.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def caller(running: Running) -> Iterator[PeerClient]:
    us = Party()
    running.known.add(us.key)
    with PeerClient(us, Peer(running.address, running.party.key, allowed=HERE)) as client:
        yield client


def test_a_signed_request_is_answered(running: Running, caller: PeerClient) -> None:
    body = os.urandom(900_000)
    assert caller.post("/echo", body) == body
    assert running.calls[0].caller in running.known


def test_a_stranger_is_turned_away(running: Running) -> None:
    with (
        PeerClient(Party(), Peer(running.address, running.party.key, allowed=HERE)) as stranger,
        pytest.raises(RefusedByPartner) as refused,
    ):
        stranger.post("/echo", b"let me in")
    assert refused.value.code == "unwelcome"
    assert running.calls == []


def test_a_partner_with_another_key_gets_no_request(running: Running) -> None:
    us = Party()
    running.known.add(us.key)
    with (
        PeerClient(us, Peer(running.address, Party().key, allowed=HERE)) as client,
        pytest.raises(WrongPeerKey) as wrong,
    ):
        client.post("/echo", b"for your eyes only")
    assert "Connect ID" in wrong.value.hint
    assert running.calls == []


def test_nobody_there_ends_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        PeerClient(Party(), Peer(f"127.0.0.1:{port}", Party().key, allowed=HERE)) as client,
        pytest.raises(PeerUnreachable) as gone,
    ):
        client.get("/echo")
    assert "running" in gone.value.hint
    assert str(gone.value).endswith(": connection refused")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx2.ReadTimeout("1.2.3.4"), "timed out"),
        (httpx2.ReadError("1.2.3.4"), "the connection broke"),
        (client_module.TurnedAway("full"), "it is busy or stopping"),
    ],
)
def test_how_a_connection_failed_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise error

    us = Party()
    monkeypatch.setattr(PeerClient, "attempt", broken)
    with (
        PeerClient(us, Peer("127.0.0.1:1", us.key, allowed=HERE), patience=0.1) as client,
        pytest.raises(PeerUnreachable) as gone,
    ):
        client.get("/echo")
    assert str(gone.value) == f"no answer from 127.0.0.1:1: {words}"


def test_work_of_over_a_second_is_polled_and_done_once(running: Running, caller: PeerClient) -> None:
    threading.Timer(1.5, running.released.set).start()
    assert caller.post("/slow", b"x") == b"worked"
    assert len(running.calls) == 1


def test_one_caller_cannot_take_all_workers(running: Running, caller: PeerClient) -> None:
    threads = [threading.Thread(target=caller.post, args=("/slow", bytes([n]))) for n in range(endpoint.WORKERS + 2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert len(running.calls) == endpoint.WORKERS_PER_CALLER
    other = Party()
    running.known.add(other.key)
    with PeerClient(other, Peer(running.address, running.party.key, allowed=HERE)) as second:
        assert second.post("/echo", b"me too") == b"me too"
    running.released.set()
    for thread in threads:
        thread.join(20)
    assert len([call for call in running.calls if call.body != b"me too"]) == len(threads)


def test_a_long_poll_waits_for_something(running: Running, caller: PeerClient) -> None:
    assert caller.get("/nothing") == b""
    threading.Timer(0.4, running.released.set).start()
    assert caller.get("/nothing?wait=10") == b"now"


def test_what_needs_no_signature_is_answered_at_once_however_many_ask(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger that asks again and again, and wants to wait, keeps nobody out."""
    monkeypatch.setattr(endpoint, "AT_ONCE", 0)
    monkeypatch.setattr(endpoint, "WORKERS_PER_CALLER", 0)
    with httpx2.Client(verify=tls.client_context(running.party.key), trust_env=False) as http:
        assert http.get(f"https://{running.address}/open?wait=25").status_code == 204
    assert [call.caller for call in running.calls] == [b""]  # a long poll would have looked again


def test_a_refusal_carries_code_text_and_number(caller: PeerClient) -> None:
    with pytest.raises(RefusedByPartner) as refused:
        caller.post("/refuse", b"")
    assert (refused.value.code, refused.value.status, refused.value.detail) == ("epoch_behind", 409, 7)
    assert str(refused.value) == "our key epoch is ahead"


@pytest.mark.parametrize("path", ["/break", "/fail"])
def test_what_goes_wrong_here_is_not_told_there(
    path: str, caller: PeerClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RefusedByPartner) as refused:
        caller.post(path, b"")
    assert (refused.value.code, refused.value.status) == ("internal", 500)
    told = f"{refused.value} {refused.value.hint}" + "".join(capsys.readouterr())
    assert "ann@" not in told
    assert "secret" not in told
    assert "Traceback" not in told


Send = Callable[..., httpx2.Response]


@pytest.fixture
def raw(running: Running) -> Iterator[Send]:
    """Send a request with a chosen signer, changed after it was signed."""
    us = Party()
    running.known.add(us.key)
    with httpx2.Client(verify=tls.client_context(running.party.key), trust_env=False) as http:

        def send(
            method: str = "POST",
            path: str = "/echo",
            body: bytes = b"body",
            *,
            to: bytes = running.party.key,
            change: Callable[[signatures.Request], None] = lambda request: None,
        ) -> httpx2.Response:
            request = signatures.Request(method=method, url=f"https://{running.address}{path}", body=body)
            signatures.sign(request, us, to)
            change(request)
            return http.request(request.method, request.url, content=request.body, headers=request.headers)

        yield send


def test_an_honest_raw_request_passes(raw: Send) -> None:
    assert raw().status_code == 200


def test_a_replayed_request_is_refused(raw: Send, running: Running) -> None:
    kept: list[signatures.Request] = []
    assert raw(change=kept.append).status_code == 200
    answer = raw(change=lambda request: request.headers.update(kept[0].headers))
    assert answer.status_code == 401
    assert wire.unpack(answer.content)["code"] == "bad_signature"
    assert "signature" not in answer.headers
    assert len(running.calls) == 1


def put_elsewhere(request: signatures.Request) -> None:
    request.method = "PUT"
    request.url += "/tags"


@pytest.mark.parametrize(
    "change",
    [
        lambda request: setattr(request, "body", b"other"),
        put_elsewhere,
        lambda request: setattr(request, "url", request.url + "?wait=1"),
        lambda request: request.headers.clear(),
        lambda request: request.headers.pop("Signature"),
        lambda request: request.headers.update({"Signature-Input": "vesica=()"}),
        lambda request: request.headers.update({"vesica-to": "00" * 32}),
    ],
)
def test_a_changed_request_is_refused(
    change: Callable[[signatures.Request], None], raw: Send, running: Running
) -> None:
    answer = raw(change=change)
    assert answer.status_code == 401
    assert "signature" not in answer.headers  # somebody between could hand it to the partner as our refusal
    assert running.calls == []


def test_a_request_for_another_node_is_refused(raw: Send, running: Running) -> None:
    assert raw(to=Party().key).status_code == 401
    assert running.calls == []


def test_a_body_above_the_limit_is_refused(raw: Send, running: Running) -> None:
    assert raw(body=bytes(wire.MAX_BODY)).status_code == 200
    longer = raw(change=lambda request: setattr(request, "body", bytes(wire.MAX_BODY + 1)))
    assert (longer.status_code, "signature" in longer.headers) == (413, False)
    assert len(running.calls) == 1


def test_a_body_without_length_is_stopped_while_it_streams(running: Running) -> None:
    host, port = split_address(running.address)
    sent = 0
    with (
        socket.create_connection((host, port), timeout=20) as plain,
        tls.client_context(running.party.key).wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):  # noqa: PT012 - whichever byte it stops at
            piece = b"10000\r\n" + bytes(65_536) + b"\r\n"
            while sent < 100 * wire.MAX_BODY:
                secure.sendall(piece)
                sent += 65_536
            raise AssertionError
    assert running.calls == []
    assert sent < 100 * wire.MAX_BODY


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/echo"), ("DELETE", "/echo"), ("GET", "/../etc")])
def test_other_paths_and_methods_say_nothing(method: str, path: str, raw: Send) -> None:
    answer = raw(method, path)
    assert answer.status_code in (404, 405)
    assert answer.content == b""


def test_an_answer_that_is_not_the_partners_is_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    us, impostor = Party(), Party()
    running.known.add(us.key)
    monkeypatch.setattr(
        Party, "sign", lambda self, text: (impostor if self is running.party else self).secret.sign(text)
    )
    with (
        PeerClient(us, Peer(running.address, running.party.key, allowed=HERE)) as client,
        pytest.raises(PeerUnreachable, match="not signed by it: the signature does not fit"),
    ):
        client.post("/echo", b"")


def test_an_answer_above_the_limit_is_refused(caller: PeerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(5_000)
    assert caller.post("/echo", body) == body
    monkeypatch.setattr(wire, "MAX_BODY", 4_000)
    with pytest.raises(PeerUnreachable, match="HTTP status 413"):
        caller.post("/echo", body)
    with pytest.raises(RemoteProtocolError) as error:
        caller.get("/large")
    assert error.value.code == "too_large"


def test_what_a_web_server_sends_in_a_partners_place_is_not_blamed_on_the_partner(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    us = Party()
    running.known.add(us.key)
    monkeypatch.setattr(tls, "web_context", tls.unpinned_context)
    with PeerClient(us, Peer(running.address, running.party.key, allowed=HERE, proxy=True)) as client:
        assert client.get("/large") == bytes(5_000)
        monkeypatch.setattr(wire, "MAX_BODY", 4_000)
        with pytest.raises(PeerUnreachable, match="larger than any message"):
            client.get("/large")
        with pytest.raises(PeerUnreachable, match="HTTP status 404, is not signed"):
            client.get("/missing")


@pytest.mark.parametrize("address", ["", "host", "host:", "host:70000", ":1", "::1:80", "host:1x", "host:-1"])
def test_a_wrong_address_is_explained(address: str) -> None:
    with pytest.raises(VesicaError) as error:
        bind(address)
    assert "8470" in error.value.hint


def test_a_taken_port_is_explained(running: Running) -> None:
    with pytest.raises(VesicaError) as error:
        bind(running.address)
    assert "another address to listen on" in error.value.hint


def test_a_partners_words_cannot_steer_a_terminal(running: Running) -> None:
    hostile = client_module.refusal(
        400, wire.pack({"code": "\x1b[2J", "message": "a\x1b]0;owned\x07b", "hint": "\r\n"})
    )
    assert str(hostile) == "a]0;ownedb"
    assert hostile.hint == ""
    assert isinstance(client_module.refusal(502, b"<html>"), RemoteProtocolError)
