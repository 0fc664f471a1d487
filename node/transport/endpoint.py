"""The way in: an HTTPS endpoint whose every request is bounded, signed, admitted, and then worked on in a thread.

What is answered is a table of routes; `application` knows nothing of exchanges, letters or stores, and serves a node
and an ad hoc session alike.
"""

import asyncio
import ipaddress
import socket
import ssl
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.routing import Route as HttpRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

from protocol import wire
from protocol.errors import LocalProtocolError, RemoteProtocolError
from psi.errors import VesicaError

from .. import log
from ..errors import Failure, InvalidInput, NotAllowed, NotFound, RefusedToPartner, UnknownCaller
from . import signatures
from .signatures import BadSignature, Signer

PROMPT_SECONDS = 1.0  # work that takes longer is answered 202 and asked for again
KEPT_SECONDS = 120.0  # how long a finished piece of work waits for its caller
WORKERS = 8
WORKERS_PER_CALLER = 3  # one partner must not keep the others waiting
BODY_SECONDS = 60.0  # for a whole body to arrive
DRAINED_BYTES = 8 * wire.MAX_BODY  # read and dropped, so that a caller that sends a little too much hears why
MAX_WAIT_SECONDS = 25.0  # a long poll; proxies often stop at 30
LOOK_SECONDS = 0.5  # how often a long poll looks
CONNECTIONS = 200
KEEP_ALIVE_SECONDS = 75
ASK_SECONDS = 15.0  # from a connection to the end of its first request's headers
GRACE_SECONDS = 5


class TooLarge(VesicaError):
    """A request whose body is larger than any message may be."""

    code = "too_large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One verified request. `caller` is the public key that signed it."""

    caller: bytes
    parameters: dict[str, str]
    query: dict[str, str]
    body: bytes


Handler = Callable[[Call], bytes | None]


@dataclass(frozen=True, slots=True)
class Route:
    """A method, a path with {parameters}, and who answers; None is "nothing there", for which `?wait=S` waits."""

    method: str
    path: str
    handler: Handler


def application(us: Signer, routes: Sequence[Route], admit: Callable[[bytes, str], None]) -> Starlette:
    """Return the ASGI application that answers `routes` for `us`.

    `admit(caller's key, path)` raises for a key that may not call there, before anything is done for it.
    """
    service = _Service(us, admit)
    return Starlette(
        routes=[HttpRoute(route.path, service.endpoint(route), methods=[route.method]) for route in routes],
        exception_handlers={404: service.missing, 405: service.missing, Exception: service.missing},
    )


class _Service:
    def __init__(self, us: Signer, admit: Callable[[bytes, str], None]) -> None:
        self._us, self._admit = us, admit
        self._replays = signatures.Replays(us.now)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="partner")
        self._work: dict[tuple[str, ...], asyncio.Future[bytes | None]] = {}
        self._running: Counter[bytes] = Counter()

    def endpoint(self, route: Route) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
        async def answer(http: HttpRequest) -> HttpResponse:
            request = signatures.Request(
                method=http.method, url=_url(http), body=b"", headers=dict(http.headers.items())
            )
            whole = False
            try:
                if len(http.headers.items()) != len(request.headers):
                    raise BadSignature("a header is repeated")
                request.body = await _body(http)
                whole = True
                caller = self._verified(request, http.url.path)
                call = Call(
                    caller=caller, parameters=http.path_params, query=dict(http.query_params), body=request.body
                )
                body = await self._worked(route, call, http, request)
                status, content = (204, b"") if body is None else (200, body)
            except _Later as later:
                status, content = later.status, b""
            except Exception as error:
                status, content = describe(error)
            return self._signed(request, status, content, whole=whole)

        return answer

    async def missing(self, http: HttpRequest, error: Exception) -> HttpResponse:
        return HttpResponse(status_code=getattr(error, "status_code", 500))

    def _verified(self, request: signatures.Request, path: str) -> bytes:
        verified = signatures.verify(request, to=self._us.key, now=self._us.now)
        self._admit(verified.key, path)
        self._replays.check(verified)
        return verified.key

    async def _worked(self, route: Route, call: Call, http: HttpRequest, request: signatures.Request) -> bytes | None:
        deadline = asyncio.get_running_loop().time() + _wait(call.query)
        while True:
            body = await self._once(route, call, request)
            if body is not None or asyncio.get_running_loop().time() > deadline or await http.is_disconnected():
                return body
            await asyncio.sleep(LOOK_SECONDS)

    async def _once(self, route: Route, call: Call, request: signatures.Request) -> bytes | None:
        """Do the work, or join it where the same request is being worked on already."""
        key = (call.caller.hex(), request.method, request.url, request.headers["content-digest"])
        work = self._work.get(key)
        if work is None:
            if self._running[call.caller] >= WORKERS_PER_CALLER:
                raise _Later(429)
            loop = asyncio.get_running_loop()
            work = self._work[key] = asyncio.ensure_future(loop.run_in_executor(self._pool, route.handler, call))
            self._running[call.caller] += 1

            def finished(work: asyncio.Future[bytes | None]) -> None:
                self._running[call.caller] -= 1
                if not self._running[call.caller]:
                    del self._running[call.caller]
                if not work.cancelled():
                    work.exception()  # seen, even if the caller never asks again
                loop.call_later(KEPT_SECONDS, self._forget, key, work)

            work.add_done_callback(finished)
        done, _ = await asyncio.wait({work}, timeout=PROMPT_SECONDS)
        if not done:
            raise _Later(202)
        self._forget(key, work)
        return work.result()

    def _forget(self, key: tuple[str, ...], work: asyncio.Future[bytes | None]) -> None:
        if self._work.get(key) is work:
            del self._work[key]

    def _signed(self, request: signatures.Request, status: int, content: bytes, *, whole: bool) -> HttpResponse:
        response = signatures.Response(status_code=status, body=content, request=request)
        caller = _claimed_key(request)
        if caller is not None:
            try:
                signatures.sign(response, self._us, caller)
            except Exception as error:  # a stranger's headers can make a signature base impossible
                log.info("answer left unsigned", error=type(error).__name__)
                return HttpResponse(status_code=400)
        headers = {**response.headers, "content-type": "application/msgpack"}
        if not whole:
            headers["connection"] = "close"  # or the rest of the body would be read, and thrown away, for ever
        return HttpResponse(content if status != 204 else None, status_code=status, headers=headers)


class _Later(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


def describe(error: Exception) -> tuple[int, bytes]:
    """Return the status and body that a partner gets: a code always, a text only where it is about the partner."""
    if isinstance(error, RefusedToPartner):
        return error.status, _error(error.code, str(error), error.hint, error.detail)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            assert isinstance(error, VesicaError)
            log.info("request refused", code=error.code, kind=type(error).__name__)
            text = str(error) if isinstance(error, RemoteProtocolError | BadSignature) else ""
            return status, _error(error.code, text, "")
    if isinstance(error, VesicaError):
        log.warning("request failed", code=error.code, kind=type(error).__name__)
    else:  # the text of a foreign exception may name anything, so only its kind is written
        log.error("request failed", kind=type(error).__name__, where=_where(error))
    return 500, _error("internal", "the partner could not do it; its operator finds the reason in its log", "")


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BadSignature, 401),
    (UnknownCaller, 403),
    (NotAllowed, 403),
    (TooLarge, 413),
    (NotFound, 404),
    (LocalProtocolError, 409),
    (RemoteProtocolError, 400),
)


def _error(code: str, message: str, hint: str, detail: int | None = None) -> bytes:
    body: dict[str, object] = {"code": code, "message": message, "hint": hint}
    if detail is not None:
        body["detail"] = detail
    return wire.pack(body)


def _where(error: Exception) -> str:
    """Return file:line of the innermost frame: enough to find it, and no values."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _url(http: HttpRequest) -> str:
    """Return what @path and @query are taken from; the authority is not signed, since proxies change it."""
    path: bytes = http.scope.get("raw_path") or http.scope["path"].encode()
    query: bytes = http.scope.get("query_string", b"")
    return "https://vesica" + (path + (b"?" + query if query else b"")).decode("latin-1")


async def _body(http: HttpRequest) -> bytes:
    length = http.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length[:12]) > DRAINED_BYTES:
        raise TooLarge("the body is larger than any message may be")
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in http.stream():
                size += len(piece)
                if size <= wire.MAX_BODY:
                    body += piece
                elif size > DRAINED_BYTES:
                    break
    except (TimeoutError, ClientDisconnect):
        raise RemoteProtocolError("truncated", "the body did not arrive") from None
    if size > wire.MAX_BODY:
        raise TooLarge("the body is larger than any message may be")
    return bytes(body)


def _claimed_key(request: signatures.Request) -> bytes | None:
    """Return the key that a request says it comes from, only to address the answer to it."""
    _, found, rest = request.headers.get("signature-input", "").partition('keyid="')
    if not found or "signature" not in request.headers:
        return None
    try:
        key = bytes.fromhex(rest[:64])
    except ValueError:
        return None
    return key if len(key) == 32 else None


def _wait(query: dict[str, str]) -> float:
    text = query.get("wait", "0")
    return min(float(text), MAX_WAIT_SECONDS) if text.isascii() and text.isdigit() and len(text) < 4 else 0.0


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


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT or [IPv6]:PORT; raises InvalidInput."""
    host, found, port = address.rpartition(":")
    if not found or not host or not port.isascii() or not port.isdigit() or int(port[:6]) > 65_535:
        raise InvalidInput(f"{address!r} is not an address", hint="it reads HOST:PORT, for example 127.0.0.1:8470")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidInput(f"{address!r} is not an address", hint="an IPv6 address reads [::1]:8470")
    return host, int(port)


def address_of(bound: socket.socket) -> str:
    """Return HOST:PORT under which a socket on this machine is reached."""
    host, port = bound.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Prompt(H11Protocol):
    """HTTP/1.1 that hangs up on callers that connect and do not ask: connections are few, and strangers can make them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(ASK_SECONDS, self._hang_up, None)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        self.loop.call_later(KEEP_ALIVE_SECONDS + ASK_SECONDS, self._hang_up, answered)

    def _hang_up(self, last: object) -> None:
        """Close the connection if no request has begun since `last`."""
        if self.cycle is last and not self.transport.is_closing():
            self.transport.close()


def server(app: Starlette, context: ssl.SSLContext) -> uvicorn.Server:
    """Return a server that is run with `run(sockets=[bound])`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_context_factory=lambda config, default: context,
            http=_Prompt,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            h11_max_incomplete_event_size=16_384,
        )
    )
