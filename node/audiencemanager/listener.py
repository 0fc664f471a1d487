"""What programs of the operator may call: signals that arrive, and what another node shares, each with a user's token.

It has an address of its own, which is never the one that partners call. A token says who calls. The project is the one
that the path begins with (/projects/NAME/...), or the only one in which the user may receive for the Audience Manager side.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from psi.errors import VesicaError

from .. import log
from ..access.guard import Caller
from ..access.permissions import Permission, permits, reaches
from ..access.users import Users
from ..errors import Failure, InvalidInput, InvalidToken, NotAllowed, NotFound, TokenNeeded
from ..storage.config import Config
from ..transport import operator_endpoint
from ..transport.addresses import is_loopback, split_address
from ..transport.operator_endpoint import Answer, Asked, Body, Receive, Send, Unacceptable, json_answer, refusal
from ..transport.server import address_of, bind, server
from .routes import ROUTES, Call, Route
from .write_queue import WriteQueue

if TYPE_CHECKING:
    from ..access.scope import Home, Scope

T = TypeVar("T")
_Identity = tuple[Caller, "Scope", frozenset[int] | None]  # the user, the project, the data sources they may send for

ADDRESS = "127.0.0.1:8490"  # what is proposed
ACT = "audience.receive"
KNOWN_SECONDS = 5.0  # how long a token counts as known without a look into the store
KNOWN = 1_000  # tokens
WORKERS = 4
WORK_AT_ONCE = 32  # requests that wait for a worker or have one
RETRY_SECONDS = 1


def refused(error: VesicaError) -> Answer:
    """Return the answer of a route without a form of its own: the error's code, message and hint."""
    if isinstance(error, Unacceptable):
        return refusal(error)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 400)
    document = {"code": error.code, "message": str(error), "hint": error.hint}
    return json_answer(document, status=status, headers={"retry-after": str(RETRY_SECONDS)} if status == 503 else {})


def opened(home: "Home") -> "Programs | None":
    """Return what listens where the settings name an address, None where they name none; see `check`."""
    if not home.config.audience_listen:
        return None
    return Programs(home, home.config.audience_listen, check(home.config))


def check(config: Config) -> ssl.SSLContext | None:
    """Return the TLS of the address that the settings name; raises InvalidInput for one that others can reach without."""
    certificate = config.audience_certificate
    if not certificate and not is_loopback(split_address(config.audience_listen)[0]):
        raise InvalidInput(
            f"{config.audience_listen} can be reached from other machines, so what is sent there needs TLS",
            hint=f"name a PEM file with a certificate and its key, or listen on {ADDRESS} behind a web server with TLS",
        )
    return context_of(Path(certificate)) if certificate else None


def context_of(certificate: Path) -> ssl.SSLContext:
    """Return the TLS of a PEM file with a certificate, its chain and its key; raises InvalidInput."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, password=lambda: b"")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = getattr(error, "strerror", None) if not isinstance(error, ssl.SSLError) else None
        raise InvalidInput(
            f"{certificate} is not a certificate with its key: {reason or 'no PEM with both in it'}",
            hint="put both into one PEM file, the key without a passphrase",
        ) from None
    return context


def application(home: "Home") -> "Listener":
    """Return the ASGI application that answers ROUTES for the users of a home; whoever runs it closes it."""
    return Listener(home)


class Programs:
    """The address for programs, in a service that also has one for partners."""

    def __init__(self, home: "Home", address: str, context: ssl.SSLContext | None) -> None:
        self._bound = bind(address)
        self.address = address_of(self._bound)
        self._listener = application(home)
        self._server = server(self._listener, context, proxy=True, part=2)

    def run(self) -> None:
        """Answer until `stop`; the thread names no caller, so that each request acts for its own."""
        self._server.run(sockets=[self._bound])

    def stop(self) -> None:
        self._server.should_exit = True
        self._listener.close()


class Listener:
    """Answers requests: finds the route, the user and the project, and has the route's handler do the rest."""

    def __init__(self, home: "Home") -> None:
        self._home = home
        self._routes = {tuple(key.replace("/", " /").split()): route for key, route in ROUTES.items()}
        self._known: dict[tuple[bytes, str], tuple[float, asyncio.Future[_Identity]]] = {}
        self._queue = WriteQueue(home)
        self._endpoint = operator_endpoint.application(self.answer)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="audience")
        self._working = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)

    def close(self) -> None:
        """Let what has arrived be written, and take nothing more."""
        self._queue.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def answer(self, asked: Asked, body: Body) -> Answer:
        project, parts = _project(asked.path)
        route, parameters = self._route(asked.method, parts)
        try:
            caller, scope, sources = await self._identified(asked.token, project)
            call = Call(
                scope=scope,
                caller=caller,
                sources=sources,
                method=asked.method,
                parameters=parameters,
                query=asked.query,
                headers=asked.headers,
                body=await body(route.most),
            )
            if route.prompt is not None:
                return await route.prompt(call, self._queue)
            assert route.handler is not None
            return await self._worked(partial(self._as_caller, route.handler, call))
        except VesicaError as error:
            if isinstance(error, Failure):
                log.warning("a program's request failed", code=error.code)
            return (route.refused or refused)(error)

    def _route(self, method: str, parts: tuple[str, ...]) -> tuple[Route, dict[str, str]]:
        other = False
        for (its_method, *pattern), route in self._routes.items():
            if len(pattern) != len(parts):
                continue
            found = {}
            for template, part in zip(pattern, parts, strict=True):
                if template.startswith("/{"):
                    found[template[2:-1]] = part
                elif template[1:] != part:
                    break
            else:
                if its_method == method:
                    return route, found
                other = True
        if other:
            raise Unacceptable(405, "method_not_allowed", f"{method[:10]} is not for this path")
        raise Unacceptable(
            404, "not_found", "there is nothing at this path", hint="begin with /event, /stream or /profile"
        )

    async def _identified(self, token: str, project: str) -> _Identity:
        """Return who a token is, and where; raises TokenNeeded, InvalidToken, NotFound or PermissionDenied."""
        if not token:
            raise TokenNeeded("this address needs a token", hint='send the header "Authorization: Bearer TOKEN"')
        key = hashlib.sha256(token.encode()).digest(), project
        known = self._known.get(key)
        if known is None or known[0] < time.monotonic():
            if len(self._known) >= KNOWN:
                self._known.clear()
            again = known is not None  # strangers with wrong tokens do not keep out who had a right one
            asking = asyncio.ensure_future(self._worked(partial(self._identify, token, project), anyway=again))
            known = self._known[key] = time.monotonic() + KNOWN_SECONDS, asking  # many requests ask once
            asking.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(known[1])

    def _forget(self, key: tuple[bytes, str], asking: "asyncio.Future[_Identity]") -> None:
        """Ask again next time where there was no answer."""
        if (asking.cancelled() or asking.exception()) and self._known.get(key, (0, None))[1] is asking:
            del self._known[key]

    def _identify(self, token: str, project: str) -> _Identity:
        home = self._home
        with home.database.read() as tx:
            caller = Users(home).identify(tx, token)
            with home.guard.acting_as(caller):
                grants = home.guard.grants(tx)
        with home.guard.acting_as(caller):
            reached = [each for each in home.all_scopes() if grants is None or reaches(grants, each.id)]
            if project:
                may = [each for each in reached if each.name == project]
                if not may:
                    raise NotFound(f"there is no project {project[:80]!r}", hint="name another after /projects/")
                may[0].require(ACT, may[0].name)
            else:
                may = [
                    each for each in reached if grants is None or permits(grants, Permission.RECEIVE_AUDIENCE, each.id)
                ]
            if len(may) > 1:
                raise InvalidInput(
                    "the token's user may send to several projects", hint="begin the path with /projects/NAME"
                )
            if not may:
                home.guard.require(ACT, "node", None)
            with home.read() as tx:
                allowed = home.guard.sources(tx, Permission.RECEIVE_AUDIENCE, may[0].id)
        return caller, may[0], None if allowed is None else frozenset(allowed)

    def _as_caller(self, handler: Callable[[Call], Answer], call: Call) -> Answer:
        with self._home.guard.acting_as(call.caller):
            return handler(call)

    async def _worked(self, work: Callable[[], T], *, anyway: bool = False) -> T:
        """Do in a thread what may wait for a file or the store; `anyway`: also where much else waits."""
        if self._working >= WORK_AT_ONCE and not anyway:
            raise Unacceptable(503, "busy", "too much is asked for at once", hint="try again", wait=RETRY_SECONDS)
        self._working += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._working -= 1


def _project(path: str) -> tuple[str, tuple[str, ...]]:
    """Return the project that a path names, "" for none, and the decoded parts that follow it."""
    parts = tuple(unquote(part, errors="replace") for part in path.removeprefix("/").split("/"))
    if parts[-1] == "":
        parts = parts[:-1]
    if len(parts) > 1 and parts[0] == "projects":
        return parts[1], parts[2:]
    return "", parts


_STATUS: tuple[tuple[type[VesicaError], int], ...] = (
    (TokenNeeded, 401),
    (InvalidToken, 401),
    (NotFound, 404),
    (NotAllowed, 403),
    (Failure, 503),
)
