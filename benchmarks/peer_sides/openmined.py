"""A party of OpenMined's PSI: Diffie-Hellman over P-256, the server's set as a Golomb-compressed set (GCS).

The library makes and reads messages and leaves their way to its user: here each goes over a socket behind its length.

    python -m benchmarks.peer_sides.openmined server|client PORT
"""

import socket
import struct
import sys
from typing import Any

import private_set_intersection.python as psi  # type: ignore[import-not-found]

from . import side

FALSE_POSITIVES = 1e-9  # of one run: the library's documentation takes this for its examples


class Server:
    """The party that is asked. Learns the number of the client's items."""

    def __init__(self, port: int) -> None:
        self._listening = socket.create_server(("127.0.0.1", port))
        self._psi: Any = psi.server.CreateWithNewKey(True)
        self._connection: socket.socket | None = None

    def prepare(self, path: str, clients: int) -> None:
        """Send the own set, for a client of so many items."""
        setup = self._psi.CreateSetupMessage(FALSE_POSITIVES, clients, side.read(path), psi.DataStructure.GCS)
        self._connection, _ = self._listening.accept()
        _send(self._connection, setup.SerializeToString())

    def online(self) -> None:
        """Answer one request."""
        assert self._connection is not None
        request = psi.Request()
        request.ParseFromString(_receive(self._connection))
        _send(self._connection, self._psi.ProcessRequest(request).SerializeToString())

    def run(self, path: str, clients: int) -> None:
        self.prepare(path, clients)
        self.online()


class Client:
    """The party that asks. Learns which of its items the server has."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._psi: Any = psi.client.CreateWithNewKey(True)
        self._setup: Any = psi.ServerSetup()
        self._connection: socket.socket | None = None

    def prepare(self) -> None:
        """Receive the server's set."""
        self._connection = socket.create_connection(("127.0.0.1", self._port))
        self._setup.ParseFromString(_receive(self._connection))

    def online(self, path: str, target: str) -> str:
        """Ask for the items of a file, and write those that the server has."""
        items = side.read(path)
        return self._ask(items, self._psi.CreateRequest(items), target)

    def run(self, path: str, target: str) -> str:
        items = side.read(path)
        request = self._psi.CreateRequest(items)  # while the server makes its own message
        self.prepare()
        return self._ask(items, request, target)

    def _ask(self, items: list[str], request: Any, target: str) -> str:
        assert self._connection is not None
        _send(self._connection, request.SerializeToString())
        response = psi.Response()
        response.ParseFromString(_receive(self._connection))
        found = self._psi.GetIntersection(self._setup, response)
        return side.write(target, (items[place] for place in found))


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(struct.pack(">Q", len(message)))
    connection.sendall(message)


def _receive(connection: socket.socket) -> bytes:
    (size,) = struct.unpack(">Q", _exactly(connection, 8))
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    message = bytearray(size)
    view, have = memoryview(message), 0
    while have < size:
        if not (more := connection.recv_into(view[have:])):
            raise ConnectionError("the other party went away")
        have += more
    return bytes(message)


if __name__ == "__main__":
    party: Any = {"server": Server, "client": Client}[sys.argv[1]](int(sys.argv[2]))
    side.serve({"run": party.run, "prepare": party.prepare, "online": party.online})
