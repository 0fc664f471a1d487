"""What goes over the wire between nodes, for tests that look for what must not be in it."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sides import Side

from node.transport import tls
from node.transport.server import bind
from protocol import wire
from protocol.errors import RemoteProtocolError


class Recorder:
    """A proxy in front of a node that ends TLS with the node's own key, and keeps every byte of both directions."""

    def __init__(self, side: Side) -> None:
        self.streams: list[bytearray] = []
        self._front, side.bound = side.bound, bind("127.0.0.1:0")
        self._front.setblocking(True)
        self._front.settimeout(0.1)
        self._back = side.bound.getsockname()
        self._server = tls.server_context(side.node.home.keys.signing_key, side.node.home.now())
        self._client = tls.client_context(side.node.key)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        accepting = threading.Thread(target=self._accept)
        accepting.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in (accepting, *self._threads):
                thread.join(10)
                assert not thread.is_alive()
            self._front.close()

    def bodies(self) -> list[bytes]:
        """Return the bodies of all requests and answers."""
        found = []
        for stream in self.streams:
            rest = bytes(stream)
            while rest:
                head, _, rest = rest.partition(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                length = int(lengths[0].partition(b":")[2]) if lengths else 0
                found.append(rest[:length])
                rest = rest[length:]
        return found

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                plain, _ = self._front.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._forward, args=(plain,))
            self._threads.append(thread)
            thread.start()

    def _forward(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        near = self._server.wrap_socket(plain, server_side=True)
        far = self._client.wrap_socket(socket.create_connection(self._back), server_hostname="localhost")
        pumps = [threading.Thread(target=self._pump, args=each) for each in ((near, far), (far, near))]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        near.close()
        far.close()

    def _pump(self, source: ssl.SSLSocket, target: ssl.SSLSocket) -> None:
        kept = bytearray()
        self.streams.append(kept)
        source.settimeout(0.1)
        while not self._stop.is_set():
            try:
                piece = source.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not piece:
                break
            kept += piece
            target.sendall(piece)
        self._shut(target)

    def _shut(self, target: ssl.SSLSocket) -> None:
        try:
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def said(body: bytes) -> Iterator[Any]:
    """Yield every key and value of a message, and of the messages inside it."""
    try:
        waiting: list[Any] = [wire.unpack(body)]
    except RemoteProtocolError:
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        else:
            yield value
            if isinstance(value, bytes):
                yield from said(value)
