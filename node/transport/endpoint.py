"""The way in: an HTTPS endpoint whose every request is bounded, signed, admitted, and then worked on in a thread.

What is answered is a table of routes; `application` knows nothing of exchanges, letters or stores, and serves a node
and an ad hoc session alike.
"""

import asyncio
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.routing import Route as HttpRoute

from protocol import wire
from protocol.errors import LocalProtocolError, RemoteProtocolError
from psi.errors import VesicaError

from .. import log
from ..errors import NotAllowed, NotFound, RefusedToPartner, UnknownCaller
from . import signatures
from .signatures import BadSignature, Signer

PROMPT_SECONDS = 1.0  # work that takes longer is answered 202 and asked for again
KEPT_SECONDS = 120.0  # how long a finished piece of work waits for its caller
WORKERS = 8
WORKERS_PER_CALLER = 3  # one partner must not keep the others waiting
BODY_SECONDS = 60.0  # for a whole body to arrive
BODY_SECONDS_OF_STRANGERS = 10.0
DRAINED_BYTES = 8 * wire.MAX_BODY  # read and dropped, so that a caller that sends a little too much hears why
MAX_WAIT_SECONDS = 25.0  # a long poll; proxies often stop at 30
LOOK_SECONDS = 0.5  # how often a long poll looks where nothing tells it of a change
AT_ONCE = 64  # requests of one caller, those that wait included: each connected project has a long poll


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
    """A method, a path with {parameters}, and who answers; None is "nothing there", for which `?wait=S` waits.

    `most` is how long a body may be, if not as any message; who is not known here may send
    `wire.MAX_BODY_OF_STRANGERS`.

    `unsigned`: it takes requests that nobody signed, with no caller, for an answer that needs no signature either. Its
    handler is quick: each connection has one such request at a time, answered at once, so that no stranger keeps another
    out.

    `heard(act)` is a context in which `act` is called, from any thread, when there may be something: a long poll looks then.
    """

    method: str
    path: str
    handler: Handler
    most: int | None = None
    unsigned: bool = False
    heard: Callable[[Callable[[], object]], AbstractContextManager[None]] | None = None


def application(us: Signer, routes: Sequence[Route], admit: Callable[[bytes, str], bool]) -> Starlette:
    """Return the ASGI application that answers `routes` for `us`.

    `admit(caller's key, path)` returns whether the caller is known here, and raises for one that may not call there,
    before its body is read or anything is done for it.
    """
    service = _Service(us, admit)
    return Starlette(
        routes=[HttpRoute(route.path, service.endpoint(route), methods=[route.method]) for route in routes],
        exception_handlers={404: service.missing, 405: service.missing, Exception: service.missing},
    )


class _Service:
    def __init__(self, us: Signer, admit: Callable[[bytes, str], bool]) -> None:
        self._us, self._admit = us, admit
        self._replays = signatures.Replays(us.now)
        self._replays_of_strangers = signatures.Replays(us.now, signatures.REPLAYS_OF_STRANGERS)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="partner")
        self._work: dict[tuple[str, ...], asyncio.Future[bytes | None]] = {}
        self._kept: dict[tuple[str, ...], asyncio.TimerHandle] = {}  # what is done, until its caller has it
        self._running: Counter[bytes] = Counter()
        self._asking: Counter[bytes] = Counter()

    def endpoint(self, route: Route) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
        async def answer(http: HttpRequest) -> HttpResponse:
            request = signatures.Request(
                method=http.method, url=_url(http), body=b"", headers=dict(http.headers.items())
            )
            arriving = _Arriving(http)
            try:
                _check_serving(http)
                caller = b"" if route.unsigned else await self._verified(route, http, request, arriving)
                call = Call(
                    caller=caller, parameters=http.path_params, query=dict(http.query_params), body=request.body
                )
                if route.unsigned:
                    body = route.handler(call)
                else:
                    body = await self._counted(route, call, http, request)
                status, content = (204, b"") if body is None else (200, body)
            except _Later as later:
                status, content = later.status, b""
            except _Stopping:
                return HttpResponse(status_code=503, headers={"connection": "close"})
            except Exception as error:
                await arriving.drop()
                status, content = describe(error)
            return self._answer(request, arriving, status, content)

        return answer

    async def _verified(
        self, route: Route, http: HttpRequest, request: signatures.Request, arriving: "_Arriving"
    ) -> bytes:
        """Return the key that signed a request, whose body is read once its head is known to be signed.

        What is refused because of the body, or because the request came before, is somebody's doing who carries it, perhaps:
        then `arriving.caller` is empty, and the refusal is unsigned.
        """
        if len(http.headers.items()) != len(request.headers):
            raise BadSignature("a header is repeated")
        verified = signatures.verify(request, to=self._us.key, now=self._us.now)
        arriving.caller = verified.key
        known = self._admit(verified.key, http.url.path)
        arriving.caller = b""
        if known and (slot := http.scope["state"].get("slot")):
            slot.authenticate(verified.key)
        most = route.most or (wire.MAX_BODY if known else wire.MAX_BODY_OF_STRANGERS)
        request.body = await arriving.read(most, BODY_SECONDS if known else BODY_SECONDS_OF_STRANGERS)
        signatures.check_body(request)
        (self._replays if known else self._replays_of_strangers).check(verified)
        arriving.caller = verified.key
        return verified.key

    async def missing(self, http: HttpRequest, error: Exception) -> HttpResponse:
        return HttpResponse(status_code=getattr(error, "status_code", 500))

    async def _counted(self, route: Route, call: Call, http: HttpRequest, request: signatures.Request) -> bytes | None:
        """Work on a request, unless its caller has too many under way already."""
        if self._asking[call.caller] >= AT_ONCE:
            raise _Later(429)
        self._asking[call.caller] += 1
        try:
            return await self._worked(route, call, http, request)
        finally:
            self._asking[call.caller] -= 1
            if not self._asking[call.caller]:
                del self._asking[call.caller]

    async def _worked(self, route: Route, call: Call, http: HttpRequest, request: signatures.Request) -> bytes | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _wait(call.query)
        _check_serving(http)
        if loop.time() >= deadline:
            return await self._once(route, call, request)
        changed = asyncio.Event()
        polls: set[asyncio.Event] = http.scope["state"].get("polls", set())
        gone = asyncio.ensure_future(http.receive())
        gone.add_done_callback(lambda _: changed.set())
        polls.add(changed)
        try:
            with route.heard(lambda: loop.call_soon_threadsafe(changed.set)) if route.heard else nullcontext():
                while True:
                    changed.clear()
                    body = await self._once(route, call, request)
                    left = deadline - loop.time()
                    if body is not None or left <= 0 or gone.done():
                        return body
                    with suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), left if route.heard else min(left, LOOK_SECONDS))
                    _check_serving(http)
        finally:
            polls.discard(changed)
            gone.cancel()

    async def _once(self, route: Route, call: Call, request: signatures.Request) -> bytes | None:
        """Do the work, or join it where the same request is being worked on already."""
        key = (call.caller.hex(), request.method, request.url, request.headers.get("content-digest", ""))
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
                self._kept[key] = loop.call_later(KEPT_SECONDS, self._forget, key, work)

            work.add_done_callback(finished)
        done, _ = await asyncio.wait({work}, timeout=PROMPT_SECONDS)
        if not done:
            raise _Later(202)
        self._forget(key, work)
        return work.result()

    def _forget(self, key: tuple[str, ...], work: asyncio.Future[bytes | None]) -> None:
        if self._work.get(key) is work:
            del self._work[key]
            if (timer := self._kept.pop(key, None)) is not None:
                timer.cancel()  # it holds the answer

    def _answer(self, request: signatures.Request, arriving: "_Arriving", status: int, content: bytes) -> HttpResponse:
        """Return an answer, signed for its caller if that is known: an unsigned one counts as none there."""
        response = signatures.Response(status_code=status, body=content, request=request)
        if arriving.caller:
            signatures.sign(response, self._us, arriving.caller)
        headers = {**response.headers, "content-type": "application/msgpack"}
        if not arriving.whole:
            headers["connection"] = "close"  # or the rest of the body would be read, and thrown away, for ever
        return HttpResponse(content if status != 204 else None, status_code=status, headers=headers)


class _Stopping(Exception):
    """The server takes no more requests: an answer without a signature, which counts as none."""


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


def _check_serving(http: HttpRequest) -> None:
    if http.scope["state"].get("stopping", bool)():
        raise _Stopping


class _Arriving:
    """A request as it arrives: whether its body is here, and the caller that has signed what is known of it so far."""

    def __init__(self, http: HttpRequest) -> None:
        self._http = http
        self.whole = False
        self.caller = b""

    async def read(self, most: int, seconds: float) -> bytes:
        """Return the whole body; raises TooLarge, and RemoteProtocolError if it does not arrive in time."""
        body, size = await self._take(most, seconds)
        if size > most:
            raise TooLarge("the body is larger than any message may be")
        return bytes(body)

    async def drop(self) -> None:
        """Let the rest of a refused body arrive, so that a caller that sends a little too much hears why."""
        if not self.whole:
            with suppress(TooLarge, RemoteProtocolError):
                await self._take(0, BODY_SECONDS_OF_STRANGERS)

    async def _take(self, most: int, seconds: float) -> tuple[bytearray, int]:
        length = self._http.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:12]) > DRAINED_BYTES:
            raise TooLarge("the body is larger than any message may be")
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(seconds):
                async for piece in self._http.stream():
                    size += len(piece)
                    if size <= most:
                        body += piece
                    elif size > DRAINED_BYTES:
                        return body, size
        except (TimeoutError, ClientDisconnect):
            raise RemoteProtocolError("truncated", "the body did not arrive") from None
        except RuntimeError:  # it was read before, until it was too long or too slow
            return body, size
        self.whole = True
        return body, size


def _wait(query: dict[str, str]) -> float:
    text = query.get("wait", "0")
    return min(float(text), MAX_WAIT_SECONDS) if text.isascii() and text.isdigit() and len(text) < 4 else 0.0
