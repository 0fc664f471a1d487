"""Callers that say nothing, trickle, do not read, or ask very much at once hold a connection for a bounded time."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from sides import HERE

from node.adhoc.session import Party
from node.errors import PeerUnreachable, UnknownCaller
from node.transport import endpoint, signatures, tls
from node.transport import server as module
from node.transport.addresses import split_address
from node.transport.client import Peer, PeerClient
from node.transport.endpoint import Call, Route, application
from node.transport.server import Server, address_of, bind, server
from protocol import wire

WAIT = 20.0
SOON = 0.3


class Running:
    """A server whose door "/door" is open to strangers, with one partner."""

    def __init__(self) -> None:
        self.party, self.partner = Party(), Party()
        self.calls: list[Call] = []
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        self.bound = bind("127.0.0.1:0")
        self.address = address_of(self.bound)
        routes = [
            Route("POST", "/door", self.echo),
            Route("POST", "/echo", self.echo),
            Route("GET", "/nothing", self.nothing),
            Route("GET", "/held", self.held),
        ]
        app = application(self.party, routes, self.admit)
        self.server: Server = server(app, tls.server_context(self.party.secret, self.party.now()))

    def echo(self, call: Call) -> bytes:
        self.calls.append(call)
        return call.body

    def nothing(self, call: Call) -> None:
        self.begun.release()

    def held(self, call: Call) -> bytes:
        self.begun.release()
        assert self.go_on.wait(WAIT)
        return b"done"

    def admit(self, caller: bytes, path: str) -> bool:
        if caller != self.partner.key and path != "/door":
            raise UnknownCaller("who are you?")
        return caller == self.partner.key

    def connect(self) -> socket.socket:
        return socket.create_connection(split_address(self.address), timeout=WAIT)

    def secure(self) -> ssl.SSLSocket:
        return tls.client_context(self.party.key).wrap_socket(self.connect(), server_hostname="x")

    def head(self, us: Party, path: str, body: bytes, length: int) -> bytes:
        """Return the head of a request, signed, whose body is to come."""
        request = signatures.Request(method="POST", url=f"https://x{path}", body=body)
        signatures.sign(request, us, self.party.key)
        headers = {**request.headers, "host": "x", "content-length": str(length)}
        return f"POST {path} HTTP/1.1\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items())


@pytest.fixture
def running() -> Iterator[Running]:
    state = Running()
    thread = threading.Thread(target=state.server.run, kwargs={"sockets": [state.bound]})
    thread.start()
    yield state
    state.server.should_exit = True
    thread.join(WAIT)
    assert not thread.is_alive()


def ended(connection: socket.socket) -> bytes:
    """Return what the server still said before it closed a connection."""
    said = b""
    while True:
        try:
            piece = connection.recv(65_536)
        except (ConnectionError, ssl.SSLError):
            return said
        if not piece:
            return said
        said += piece


def empty(running: Running) -> bool:
    deadline = time.monotonic() + WAIT
    while len(running.server.limit) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(running.server.limit) == 0


def test_a_connection_without_a_handshake_ends(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_SECONDS", SOON)
    with running.connect() as silent, running.connect() as trickling:
        trickling.sendall(b"\x16\x03\x01")
        assert ended(silent) == ended(trickling) == b""
        assert empty(running)


@pytest.mark.parametrize("sent", [b"", b"POST /door HTTP/1.1\r\nHost: x\r\nx-more: "])
def test_a_connection_without_a_whole_request_ends(
    sent: bytes, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASK_SECONDS", SOON)
    with running.secure() as silent:
        silent.sendall(sent)
        assert ended(silent) == b""
        assert empty(running)


@pytest.mark.parametrize(("who", "path"), [("stranger", "/door"), ("partner", "/echo"), ("stranger", "/echo")])
def test_a_body_that_does_not_arrive_is_refused(
    who: str, path: str, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", SOON)
    monkeypatch.setattr(endpoint, "BODY_SECONDS", SOON)
    monkeypatch.setattr(endpoint, "BODY_SECONDS_OF_STRANGERS", SOON)
    us = running.partner if who == "partner" else Party()
    with running.secure() as slow:
        slow.sendall(running.head(us, path, b"body", 1_000) + b"\r\nbo")
        assert ended(slow).startswith(b"HTTP/1.1 40")
        assert empty(running)
    assert running.calls == []


def test_answers_that_nobody_reads_end_their_connection(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests are many, so that their answers fill every buffer on the way."""
    monkeypatch.setattr(module, "REQUEST_SECONDS", SOON)
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 60)
    body = bytes(900_000)
    with running.secure() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with pytest.raises((ConnectionError, ssl.SSLError, TimeoutError)):  # noqa: PT012 - whichever request it is
            for _ in range(100):
                deaf.sendall(running.head(running.partner, "/echo", body, len(body)) + b"\r\n" + body)
        assert empty(running)


def test_a_connection_that_is_kept_and_not_used_ends(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0)
    monkeypatch.setattr(module, "ASK_SECONDS", SOON)
    with running.secure() as kept:
        kept.sendall(running.head(running.partner, "/echo", b"body", 4) + b"\r\nbody")
        assert ended(kept).endswith(b"body")
        assert empty(running)


def test_a_stranger_may_send_little(running: Running) -> None:
    most = wire.MAX_BODY_OF_STRANGERS
    with PeerClient(Party(), Peer(running.address, running.party.key, allowed=HERE)) as stranger:
        assert stranger.post("/door", bytes(most)) == bytes(most)
        with pytest.raises(PeerUnreachable, match="HTTP status 413"):
            stranger.post("/door", bytes(most + 1))
    assert len(running.calls) == 1


@pytest.fixture
def ask(running: Running) -> Iterator[Callable[[str], httpx2.Response]]:
    """Return the answer to one request of the partner."""
    with httpx2.Client(verify=tls.client_context(running.party.key), trust_env=False, timeout=WAIT) as http:

        def send(path: str) -> httpx2.Response:
            request = signatures.Request(method="GET", url=f"https://{running.address}{path}", body=b"")
            signatures.sign(request, running.partner, running.party.key)
            return http.get(request.url, headers=request.headers)

        yield send


def test_one_caller_has_so_many_requests_at_once(
    running: Running, ask: Callable[[str], httpx2.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "AT_ONCE", 2)
    with ThreadPoolExecutor(2) as pool:
        polls = [pool.submit(ask, f"/held?number={number}") for number in range(2)]
        for _ in polls:
            assert running.begun.acquire(timeout=WAIT)
        assert ask("/held?number=2").status_code == 429
        running.go_on.set()
        assert [poll.result(WAIT).status_code for poll in polls] == [200, 200]


def test_a_server_that_stops_takes_no_more_requests(running: Running) -> None:
    with PeerClient(running.partner, Peer(running.address, running.party.key, allowed=HERE), patience=SOON) as client:
        assert client.post("/echo", b"before") == b"before"
        running.server.should_exit = True
        with pytest.raises(PeerUnreachable):  # not an answer that is wrong: an end that is no fault of anybody
            client.post("/echo", b"after")
    assert [call.body for call in running.calls] == [b"before"]


def test_a_long_poll_ends_when_its_server_stops(running: Running, ask: Callable[[str], httpx2.Response]) -> None:
    """With an answer that is unsigned: the caller takes it for a node out of reach, and not for a wrong one."""
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(ask, "/nothing?wait=25")
        assert running.begun.acquire(timeout=WAIT)  # it is worked on, so it was taken before the server stops
        running.server.should_exit = True
        answer = poll.result(WAIT)
        assert (answer.status_code, "signature" in answer.headers) == (503, False)
