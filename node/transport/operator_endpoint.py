"""The way in for the operator's own programs: HTTP requests that are bounded, carry a token, and come from no browser.

Who a token is, and what answers, is said by whoever makes the application: this module knows no user and no store.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from psi.errors import VesicaError

from .. import log

MAX_QUERY = 8_192  # bytes
BODY_SECONDS = 10.0  # for a whole body to arrive
DRAINED_BYTES = 1 << 20  # read and dropped, so that a caller that sends a little too much hears why
_TOKEN = re.compile(r"[Bb]earer +([\x21-\x7e]{1,512})")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request is answered: JSON unless `kind` says what else."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The head of a request: `path` is still percent-encoded, `token` is "" where there is none."""

    method: str
    path: str
    query: bytes
    headers: Mapping[str, str]
    token: str


Body = Callable[[int], Awaitable[bytes]]
"""Returns a request's body, of at most so many bytes."""


class Unacceptable(VesicaError):
    """A request that is refused with a status of HTTP, whoever sends it."""

    code = "unacceptable"

    def __init__(self, status: int, code: str, message: str, *, hint: str = "", wait: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status, self.code = status, code
        self.headers = {} if wait is None else {"retry-after": str(wait)}


def application(answer: Callable[[Asked, Body], Awaitable[Answer]]) -> Asgi:
    """Return the ASGI application that has `answer` answer what is no browser's and has a head of the right size.

    What `answer` raises is `Unacceptable`, and rendered by `refusal`; anything else is a fault of ours.
    """

    async def endpoint(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = _Body(scope, receive)
        try:
            if scope["state"].get("stopping", bool)():
                raise Unacceptable(503, "stopping", "the service stops", wait=1)
            answered = await answer(_asked(scope), body.read)
        except Unacceptable as error:
            answered = refusal(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # its text may name anything
            log.error("a program's request failed", kind=type(error).__name__)
            answered = refusal(Unacceptable(500, "internal", "the node could not do it; its log says more"))
        if not body.whole and answered.status >= 400:
            await body.drop()
        await _send(answered, send, close=not body.whole)

    return endpoint


def refusal(error: Unacceptable) -> Answer:
    """Return what a refused request is answered."""
    document = {"code": error.code, "message": str(error), "hint": error.hint}
    return json_answer(document, status=error.status, headers=error.headers)


def json_answer(document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer with a JSON document."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Answer(status=status, body=body, headers=headers or {})


def _asked(scope: MutableMapping[str, Any]) -> Asked:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        text = name.decode("latin-1")
        if text in headers and text in ("authorization", "content-type", "content-length"):
            raise Unacceptable(400, "bad_request", f"the header {text} is repeated", hint="send it once")
        headers[text] = value.decode("latin-1")
    # Every browser says one of the two; "sec-fetch-mode" is said by Node.js too.
    if "origin" in headers or "sec-fetch-site" in headers:
        raise Unacceptable(
            403,
            "from_browser",
            "this address is for programs, not for pages in a browser",
            hint="call it from a server",
        )
    if len(scope["query_string"]) > MAX_QUERY:
        raise Unacceptable(
            414, "too_large", f"a query has at most {MAX_QUERY} bytes", hint="send it as the body of a POST"
        )
    token = _TOKEN.fullmatch(headers.get("authorization", "").strip())
    return Asked(
        method=scope["method"],
        path=(scope.get("raw_path") or scope["path"].encode()).decode("latin-1"),
        query=scope["query_string"],
        headers=headers,
        token=token[1] if token else "",
    )


class _Body:
    """The body of a request as it arrives. `whole`: nothing of it is left."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive) -> None:
        self._receive = receive
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        self._length = int(lengths[0][:12]) if lengths and lengths[0].isdigit() else None if chunked else 0
        self.whole = self._length == 0

    async def read(self, most: int) -> bytes:
        """Return all of it; raises Unacceptable for one that is too large or too slow."""
        if self._length is not None and self._length > most:
            raise _too_large(most)
        if self.whole:
            return b""
        body = await self._take(most)
        if len(body) > most:
            raise _too_large(most)
        return body

    async def drop(self) -> None:
        """Let what is left arrive, within bounds."""
        if self._length is None or self._length <= DRAINED_BYTES:
            try:
                await self._take(0, DRAINED_BYTES)
            except Unacceptable:
                return

    async def _take(self, most: int, beyond: int = 0) -> bytes:
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise _late()
                    piece = message.get("body", b"")
                    size += len(piece)
                    if len(body) <= most:
                        body += piece
                    if not message.get("more_body", False):
                        self.whole = True
                        return bytes(body)
                    if size > most + beyond:
                        return bytes(body)
        except TimeoutError:
            raise _late() from None


def _too_large(most: int) -> Unacceptable:
    return Unacceptable(413, "too_large", f"a body has at most {most} bytes here", hint="send it in several requests")


def _late() -> Unacceptable:
    return Unacceptable(408, "truncated", "the body did not arrive in time", hint="send it again")


async def _send(answer: Answer, send: Send, *, close: bool) -> None:
    headers = [
        (b"content-type", answer.kind.encode("latin-1")),
        (b"content-length", str(len(answer.body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()),
    ]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
