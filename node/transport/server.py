"""The listening side of HTTP: who is accepted, for how long a caller may say nothing, and how it stops."""

import asyncio
import errno
import ipaddress
import socket
import ssl
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .. import log
from ..errors import Failure
from .addresses import joined, split_address
from .connection_limit import BY_ADDRESS, CONNECTIONS, ConnectionLimit, Slot, connections_at_most

AT_ONCE = 16  # connections accepted before those that they put out have been closed
HANDSHAKE_SECONDS = 10.0
ASK_SECONDS = 15.0  # from a connection to the end of its first request's headers
KEEP_ALIVE_SECONDS = 75
REQUEST_SECONDS = 180.0  # for a request, its work and its answer; a body has 60, a long poll 25
CLOSE_SECONDS = 10.0  # for a caller to read what is left, once we have closed
RETRY_SECONDS = 1.0  # after the system had no descriptor for a connection
STOP_SECONDS = 1.0  # for answers under way


def bind(listen: str) -> socket.socket:
    """Return a listening socket for HOST:PORT (port 0: any free one)."""
    host, port = split_address(listen)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no such host"
        raise Failure(
            f"cannot listen on {listen}: {reason}", hint="choose another address to listen on, HOST:PORT"
        ) from None
    bound.setblocking(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """Return HOST:PORT under which a socket on this machine is reached."""
    host, port = bound.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return joined(host, port)


def server(app: Any, context: ssl.SSLContext | None, *, proxy: bool = False, part: int = 1) -> "Server":
    """Return a server of an ASGI application that is run with `run(sockets=[bound])`; without a context it is plain HTTP.

    With `proxy` every caller comes from the address of a web server, so no address has a limit of its own. It takes one
    `part` of the connections that the process may have.
    """
    most = connections_at_most() // part
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=_Prompt,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=16_384,
    )
    return Server(config, context, ConnectionLimit(most, most if proxy else min(BY_ADDRESS, most)))


class _Prompt(H11Protocol):
    """HTTP/1.1 that hangs up on callers that do not ask, whose body trickles, or who do not take their answer."""

    slot: Slot
    _timer: asyncio.TimerHandle | None = None  # one for a connection: it waits for one thing at a time

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.slot.end = transport.abort
        self._wait(ASK_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wait(None)
        self.slot.free()

    def handle_events(self) -> None:
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._wait(REQUEST_SECONDS)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is answered:
            self._wait(KEEP_ALIVE_SECONDS + ASK_SECONDS)

    def _wait(self, seconds: float | None) -> None:
        """End the connection unless something else happens on it within so many seconds; None: it has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class Server(uvicorn.Server):
    """uvicorn's server with a limit of connections before TLS, and an end that nothing outlasts."""

    def __init__(self, config: uvicorn.Config, context: ssl.SSLContext | None, limit: ConnectionLimit) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()
        super().__init__(config)
        self._context, self.limit = context, limit
        self._listening: list[socket.socket] = []
        self._greeting: set[asyncio.Task[None]] = set()
        self._polls: set[asyncio.Event] = set()  # of requests that wait for something to answer

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop = self._loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log)
        self._listening = list(sockets or [])
        for listening in self._listening:
            loop.add_reader(listening, self._accept, listening)
        self.started = True

    @property
    def should_exit(self) -> bool:
        """Whether to end; may be set in any thread, and by a signal's handler."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, ends: bool) -> None:
        self._should_exit = ends
        if ends and self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._ending.set)

    async def main_loop(self) -> None:
        """Wait for the end, without a look every tenth of a second."""
        while not self.should_exit:
            await self._ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting at once, let answers under way leave for a second, then end everything."""
        loop = asyncio.get_running_loop()
        for listening in self._listening:
            loop.remove_reader(listening)
            listening.close()
        for greeting in self._greeting:
            greeting.cancel()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for poll in self._polls:
            poll.set()
        deadline = loop.time() + STOP_SECONDS
        while (self.server_state.tasks or self.server_state.connections) and loop.time() < deadline:
            await asyncio.sleep(0.02)
        self.limit.end_all()
        await asyncio.sleep(0.02)  # each learns that its connection is gone, and answers nothing
        for task in self.server_state.tasks:
            task.cancel()
        await asyncio.gather(*self.server_state.tasks, *self._greeting, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            if self.should_exit:
                return
            try:
                accepted, peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                self._pause(listening, error)
                return
            accepted.setblocking(False)
            with suppress(OSError):  # asyncio leaves it: an answer's body must not wait for its head to be acknowledged
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            greeting: asyncio.Task[None]
            slot = self.limit.admit(peer[0], lambda: None)
            if slot is None:
                accepted.close()
                continue
            greeting = asyncio.get_running_loop().create_task(self._greet(accepted, slot))
            slot.end = partial(_cancel, greeting)
            self._greeting.add(greeting)
            greeting.add_done_callback(self._greeting.discard)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Look away from a socket for a moment: it stays readable while the system has nothing for its connections."""
        log.warning("cannot accept connections", reason=errno.errorcode.get(error.errno or 0, "unknown"))
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        again = partial(loop.add_reader, listening, self._accept, listening)
        loop.call_later(RETRY_SECONDS, lambda: None if self.should_exit else again())

    async def _greet(self, accepted: socket.socket, slot: Slot) -> None:
        """Do the handshake; from then on the protocol has the connection."""
        times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": CLOSE_SECONDS}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                partial(self._protocol, slot), accepted, ssl=self._context, **(times if self._context else {})
            )
        except OSError:  # whoever does not finish a handshake is nobody: there is nothing to say
            slot.free()
        except BaseException:
            slot.free()
            raise

    def _protocol(self, slot: Slot) -> _Prompt:
        state = {"slot": slot, "stopping": lambda: self.should_exit, "polls": self._polls}
        protocol = _Prompt(config=self.config, server_state=self.server_state, app_state=state)
        protocol.slot = slot
        return protocol


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _log(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Write what went wrong in the loop in one line, without the values of a traceback."""
    log.warning("the server's loop", kind=type(context.get("exception")).__name__)
