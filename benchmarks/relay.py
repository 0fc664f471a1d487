"""A TCP relay on loopback that counts the bytes in both directions: what a wire would carry, TLS and HTTP included."""

import socket
import threading
from contextlib import suppress


class Relay:
    """Listens on a free port and passes everything on to `target`; `count` is the bytes of both directions so far."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.count = 0
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, _ = self._server.accept()
                with suppress(OSError):
                    callee = socket.create_connection(("127.0.0.1", self._target))
                    for source, target in ((caller, callee), (callee, caller)):
                        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        threading.Thread(target=self._pass, args=(source, target), daemon=True).start()
                    continue
                caller.close()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 18):
                with self._lock:
                    self.count += len(data)
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
