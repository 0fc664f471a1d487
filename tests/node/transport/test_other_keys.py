"""Another key at a partner's address: what answers there may be anybody, and nothing that it says is the partner's doing."""

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from sides import HERE

from node.adhoc.session import Party
from node.errors import PeerUnreachable, WrongPeerKey
from node.transport import paths, tls
from node.transport.client import Peer, PeerClient
from protocol import wire

WAIT = 20.0


class Stranger:
    """Answers whoever connects with the same bytes, by TLS with a key of its own."""

    def __init__(self, said: bytes) -> None:
        self.said = said
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        party = Party()
        context = tls.server_context(party.secret, party.now())
        while True:
            plain, _ = self._listening.accept()
            plain.settimeout(WAIT)
            if not plain.recv(1, socket.MSG_PEEK):
                plain.close()
                return
            try:
                with context.wrap_socket(plain, server_side=True) as caller:
                    if caller.recv(65_536):
                        caller.sendall(self.said)
            except (OSError, ssl.SSLError):
                plain.close()

    def end(self) -> None:
        socket.create_connection(self._listening.getsockname()).close()
        self._thread.join(WAIT)
        self._listening.close()
        assert not self._thread.is_alive()


@pytest.fixture
def ask(request: pytest.FixtureRequest) -> Iterator[PeerClient]:
    stranger = Stranger(request.param)
    with PeerClient(Party(), Peer(stranger.address, Party().key, allowed=HERE), patience=0.2) as client:
        yield client
    stranger.end()


def answer(status: str, body: bytes = b"", more: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body + more


@pytest.mark.parametrize(
    "ask",
    [
        answer("429 Busy"),
        answer("500 Broken"),
        answer("503 Stopping"),
        answer("200 OK", bytes(wire.MAX_BODY + 1)),
        answer("200 OK", b"abc")[:-1],
        b"what is this\r\n\r\n",
        b"",
    ],
    ids=["busy", "broken", "stopping", "over-long", "cut", "odd", "silent"],
    indirect=True,
)
def test_what_does_not_say_how_its_key_was_replaced_is_out_of_reach(ask: PeerClient) -> None:
    with pytest.raises(PeerUnreachable):
        ask.get(paths.LETTERS)


@pytest.mark.parametrize(
    "ask", [answer("204 Nothing"), answer("200 OK", b"odd"), answer("404 Not Found")], indirect=True
)
def test_what_shows_no_change_of_its_key_has_another_key(ask: PeerClient) -> None:
    with pytest.raises(WrongPeerKey):
        ask.get(paths.LETTERS)
