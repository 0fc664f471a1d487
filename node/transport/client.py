"""The way out: one partner at one address, pinned key, signed requests, every answer verified and bounded."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import httpx2
import stamina.instrumentation

from protocol import wire
from protocol.errors import RemoteProtocolError
from psi.errors import VesicaError

from ..errors import InvalidInput, PeerUnreachable, RefusedByPartner, WrongPeerKey, printable
from . import signatures, tls
from .signatures import Signer

stamina.instrumentation.set_on_retry_hooks([])  # its default would log to stdout, where commands answer

TIMEOUT_SECONDS = 60.0  # for one read or write; a chunk is under 1 MiB
CONNECT_SECONDS = 15.0  # for one connect, with its handshake
ANSWER_SECONDS = 300.0  # for a whole body
RETRY_SECONDS = 20.0  # how long a partner may be gone within one request
WORK_SECONDS = 3600.0  # how long a partner may compute on one step
POLL_SECONDS = 0.2
ACCEPTED, NOTHING_YET, TOO_MANY = 202, 204, 429
MAX_TEXT = 500  # characters of a partner's words that are shown


class TurnedAway(httpx2.ConnectError):
    """The partner's server is full."""


class PeerClient:
    """Speaks to one partner for `us`, from any thread; close it, or use it as a context manager.

    `patience` is how many seconds a request is tried again while the partner cannot be reached.
    """

    def __init__(
        self, us: Signer, address: str, peer_key: bytes, *, proxy: bool = False, patience: float | None = None
    ) -> None:
        if not address:
            raise InvalidInput(
                "this partner has no address: it calls us", hint="wait for it, or ask it to run a command"
            )
        self._us, self._address, self._peer_key = us, address, peer_key
        self.patience = RETRY_SECONDS if patience is None else patience
        self._http = httpx2.Client(
            verify=ssl.create_default_context() if proxy else tls.client_context(peer_key),
            trust_env=False,  # a proxy variable of the shell must not see partners' traffic
            timeout=httpx2.Timeout(TIMEOUT_SECONDS, connect=min(CONNECT_SECONDS, self.patience)),
            follow_redirects=False,
            headers={"user-agent": "vesica"},
        )

    def __enter__(self) -> "PeerClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> bytes:
        """Fetch a body, waiting while the partner computes it; b"" where there is nothing."""
        return self._settled(lambda: self._send("GET", path, b""))

    def post(self, path: str, body: bytes) -> bytes:
        return self._settled(lambda: self._send("POST", path, body))

    def put(self, path: str, body: bytes, *, status: str) -> None:
        """Send a chunk; if the partner needs time for it, ask at `status` until it is done with it."""
        code, _ = self._unhurried(lambda: self._send("PUT", path, body))
        if code == ACCEPTED:
            self.get(status)

    def _settled(self, send: Callable[[], tuple[int, bytes]]) -> bytes:
        deadline = time.monotonic() + WORK_SECONDS
        while True:
            code, body = self._unhurried(send)
            if code != ACCEPTED:
                return body
            if time.monotonic() > deadline:
                raise PeerUnreachable("the partner computes for an hour now", hint="run the command again: it resumes")
            time.sleep(POLL_SECONDS)

    def _unhurried(self, send: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        deadline = time.monotonic() + WORK_SECONDS
        while True:
            code, body = send()
            if code != TOO_MANY:
                return code, body
            if time.monotonic() > deadline:
                raise PeerUnreachable("the partner is busy for an hour now", hint="run the command again: it resumes")
            time.sleep(POLL_SECONDS)

    def _send(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        with _explained(self._address):
            for attempt in stamina.retry_context(
                on=_worth_retrying, attempts=None, timeout=self.patience, wait_initial=0.1, wait_max=3.0
            ):
                with attempt:
                    return self.attempt(method, path, body)
        raise AssertionError("retry_context ends with a return or an exception")

    def attempt(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Send one signed request, and return the status and the body of its verified answer; tests watch traffic here."""
        request = signatures.Request(method=method, url=f"https://{self._address}{path}", body=body)
        request.headers["content-type"] = "application/msgpack"
        signatures.sign(request, self._us, self._peer_key)  # inside the retry: every attempt has its own nonce
        with self._http.stream(method, request.url, content=body, headers=request.headers) as answer:
            content = _bounded(answer)
        response = signatures.Response(
            status_code=answer.status_code, body=content, request=request, headers=dict(answer.headers)
        )
        if answer.status_code == 503 and "signature" not in answer.headers:
            raise TurnedAway("the server turns connections away")
        try:
            signatures.verify(response, to=self._us.key, now=self._us.now, expected=self._peer_key)
        except signatures.BadSignature as error:
            raise RemoteProtocolError(
                "bad_signature",
                f"the answer (HTTP status {answer.status_code}) is not signed by the partner: {error}",
                hint="compare the clocks of both machines, and check that the address leads to the partner's node",
            ) from None
        if answer.status_code in (ACCEPTED, NOTHING_YET, TOO_MANY):
            return answer.status_code, b""
        if answer.status_code != 200:
            raise refusal(answer.status_code, content)
        return 200, content


def _worth_retrying(error: Exception) -> bool:
    return isinstance(error, httpx2.TransportError) and not _is_wrong_key(error)


def _is_wrong_key(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, tls.WrongKey):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        if _is_wrong_key(error):
            raise WrongPeerKey(
                f"what answers at {address} has another key than the partner's",
                hint="ask the partner, on another line than this, for a new Connect ID, if its key has changed",
            ) from None
        raise PeerUnreachable(
            f"no answer from {address}: {_what_broke(error)}",
            hint="check that the other side is running and that its address can be reached from here",
        ) from None
    except (httpx2.InvalidURL, UnicodeError):
        raise InvalidInput(f"{address!r} is not an address", hint="it reads HOST:PORT") from None


def _what_broke(error: httpx2.TransportError) -> str:
    """Return how a connection failed, without the library's names."""
    if isinstance(error, httpx2.TimeoutException):
        return "timed out"
    if isinstance(error, TurnedAway):
        return "it turns connections away"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror):
            return "the name is not known"
        cause = cause.__cause__ or cause.__context__
    return "the connection broke"


def _bounded(answer: httpx2.Response) -> bytes:
    content = bytearray()
    deadline = time.monotonic() + ANSWER_SECONDS
    for piece in answer.iter_raw():  # raw: a compressed body could unfold to any size
        content += piece
        if time.monotonic() > deadline:
            raise httpx2.ReadTimeout("the answer trickles")
        if len(content) > wire.MAX_BODY:
            raise RemoteProtocolError("too_large", "the partner's answer is larger than any message may be")
    return bytes(content)


def refusal(status: int, content: bytes) -> VesicaError:
    try:
        body = wire.unpack(content)
    except RemoteProtocolError:
        return RemoteProtocolError("malformed", f"the partner answered with HTTP status {status} and no reason")
    detail = body.get("detail")
    return RefusedByPartner(
        _words(body.get("code"), 40) or "refused",
        _words(body.get("message"), MAX_TEXT) or f"the partner refused ({_words(body.get('code'), 40)})",
        status=status,
        hint=_words(body.get("hint"), MAX_TEXT),
        detail=detail if isinstance(detail, int) else None,
    )


def _words(text: object, size: int) -> str:
    return printable(text[:size]) if isinstance(text, str) else ""
