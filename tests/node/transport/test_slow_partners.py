"""A partner that is called and does not answer, or never ends its answer, holds the caller for a bounded time."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sides import HERE

from node.adhoc.session import Party
from node.errors import PeerUnreachable
from node.transport import addresses, client, paths, tls
from node.transport.addresses import AllowedAddresses
from node.transport.client import Peer, PeerClient
from node.transport.endpoint import Route, application
from node.transport.server import address_of, bind, server
from protocol import wire

SOON = 0.4
BOUND = 20.0  # seconds that no test needs


class Endless:
    """A partner that answers with `head`, then with `piece` for as long as it is listened to."""

    def __init__(self, head: bytes, piece: bytes, *, pause: float) -> None:
        self.party = Party()
        self._head, self._piece, self._pause = head, piece, pause
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "Endless":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with socket.create_connection(self._listening.getsockname()):  # wakes a thread that still accepts
            pass
        self._thread.join(BOUND)
        self._listening.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        context = tls.server_context(self.party.secret, self.party.now())
        while not self._ended.is_set():
            plain, _ = self._listening.accept()
            plain.settimeout(BOUND)
            try:
                with context.wrap_socket(plain, server_side=True) as caller:
                    caller.recv(65_536)
                    caller.sendall(self._head)
                    while not self._ended.wait(self._pause):
                        caller.sendall(self._piece)
            except (OSError, ssl.SSLError):
                plain.close()


@pytest.mark.parametrize("path", [paths.LETTERS, f"{paths.LETTERS}/ack", paths.KEYS, paths.EXCHANGES])
@pytest.mark.parametrize(
    ("head", "piece", "pause"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.05),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.0005),  # always something to read
        (b"HTTP/1.1 200 OK\r\nx-a: ", b"a", 0.05),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n", b"a", 0.05),
        (b"", b"", 0.05),
    ],
    ids=["hints", "many-hints", "head", "body", "silent"],
)
def test_an_answer_that_does_not_end_is_left(
    path: str, head: bytes, piece: bytes, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = not path.startswith(paths.EXCHANGES)
    monkeypatch.setattr(client, "LETTER_SECONDS" if letters else "ANSWER_SECONDS", SOON)
    with (
        Endless(head, piece, pause=pause) as partner,
        PeerClient(Party(), Peer(partner.address, partner.party.key, allowed=HERE), patience=0.1) as caller,
    ):
        began = time.monotonic()
        with pytest.raises(PeerUnreachable, match="timed out"):
            caller.post(path, b"x")
        assert SOON / 2 < time.monotonic() - began < BOUND / 2


@pytest.fixture
def later() -> Iterator[tuple[Party, Party, str]]:
    """A partner's party, a caller's, and the address of a server that says of all work that it is still under way."""
    party, bound, ended = Party(), bind("127.0.0.1:0"), threading.Event()

    def work(_call: Any) -> bytes:
        ended.wait(BOUND)
        return b""

    routes = [Route("POST", path, work) for path in (paths.LETTERS, f"{paths.LETTERS}/ack", paths.KEYS)]
    running = server(application(party, routes, lambda *_: True), tls.server_context(party.secret, party.now()))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    yield party, Party(), address_of(bound)
    ended.set()
    running.should_exit = True
    thread.join(BOUND)
    assert not thread.is_alive()


@pytest.mark.parametrize("status", [202, 429])
def test_later_is_no_answer_to_a_letter(
    status: int, later: tuple[Party, Party, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node works for an hour on an exchange, but it has a letter in hand or not."""
    monkeypatch.setattr("node.transport.endpoint.PROMPT_SECONDS", 0.02)
    monkeypatch.setattr("node.transport.endpoint.WORKERS_PER_CALLER", 3 if status == 202 else 0)
    monkeypatch.setattr(client, "WORK_SECONDS", BOUND)
    party, us, address = later
    with PeerClient(us, Peer(address, party.key, allowed=HERE), patience=0.2) as caller:
        began = time.monotonic()
        for path in (paths.LETTERS, f"{paths.LETTERS}/ack", paths.KEYS):
            with pytest.raises(PeerUnreachable, match="busy"):
                caller.post(path, wire.pack({}))
        assert time.monotonic() - began < BOUND / 2


def test_of_a_name_with_many_addresses_eight_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(_host: str, port: int, **_more: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"93.184.{at >> 8}.{at & 255}", port)) for at in range(999)
        ]

    tried: list[str] = []

    def out_of_reach(_client: httpx2.Client, _method: str, url: str, **_more: Any) -> None:
        tried.append(url)
        raise httpx2.ConnectTimeout("nobody is there")

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    monkeypatch.setattr(httpx2.Client, "stream", out_of_reach)
    with (
        PeerClient(Party(), Peer("partner.example:1", Party().key, allowed=AllowedAddresses()), patience=0.1) as caller,
        pytest.raises(httpx2.ConnectTimeout),
    ):
        caller.attempt("GET", paths.LETTERS, b"")
    assert len(tried) == addresses.MAX_ADDRESSES == 8


def test_where_a_machine_refuses_nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REFUSED_SECONDS", 0.2)
    monkeypatch.setattr(client, "RETRY_SECONDS", BOUND)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with (
        PeerClient(Party(), Peer(address, Party().key, allowed=HERE)) as caller,
        pytest.raises(PeerUnreachable, match="connection refused"),
    ):
        caller.get(paths.LETTERS)
    assert time.monotonic() - began < BOUND / 2
