"""The way out: one partner at one address, pinned key, signed requests, every answer verified and bounded."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import httpx2
import stamina.instrumentation

from protocol import wire
from protocol.errors import RemoteProtocolError
from psi.errors import VesicaError

from ..errors import InvalidInput, PeerUnreachable, RefusedByPartner, WrongPeerKey, printable
from . import paths, signatures, tls
from .addresses import AllowedAddresses, joined, split_address
from .signatures import Signer

stamina.instrumentation.set_on_retry_hooks([])  # its default would log to stdout, where commands answer

TIMEOUT_SECONDS = 60.0  # for one read or write; a chunk is under 1 MiB
CONNECT_SECONDS = 15.0  # for one connect, with its handshake
ANSWER_SECONDS = 300.0  # for one attempt: the look-up, all connects, the head and the body of the answer
LETTER_SECONDS = 60.0  # the same of letters, which are small: they may wait 25 s for one
RETRY_SECONDS = 20.0  # how long a partner may be gone within one request
REFUSED_SECONDS = 1.0  # the same where its machine refuses, and it has not answered before: nobody is there
WORK_SECONDS = 3600.0  # how long a partner may compute on one step
POLL_SECONDS = 0.2
ACCEPTED, NOTHING_YET, TOO_MANY = 202, 204, 429
MAX_TEXT = 500  # characters of a partner's words that are shown


class TurnedAway(httpx2.ConnectError):
    """The partner is full, about to stop, or slow with a letter, or the web server before it cannot reach it: no answer."""


class Unverified(httpx2.ConnectError):
    """An answer that the partner has not signed: whoever stands between may have sent it, so it counts as none."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a partner is called, and with which key it answers.

    `allowed` says which addresses may be called, `proxy` that a web server stands before the partner. `successor` returns
    the key that has replaced the partner's by the signed changes that it shows, or None: then another key is refused.
    """

    address: str
    key: bytes
    allowed: AllowedAddresses
    proxy: bool = False
    successor: Callable[[bytes], bytes | None] = lambda changes: None


class PeerClient:
    """Speaks to one partner for `us`, from any thread; close it, or use it as a context manager.

    `patience` is how many seconds a request is tried again while the partner cannot be reached.
    """

    def __init__(self, us: Signer, peer: Peer, *, patience: float | None = None) -> None:
        if not peer.address:
            raise InvalidInput(
                "this partner has no address: it calls us", hint="wait for it, or ask it to run a command"
            )
        self._us, self._peer, self._address = us, peer, peer.address
        self.peer_key = peer.key  # or that of its successor
        self._found: list[tuple[str, int]] = []  # what the address stands for, once it has been looked up
        self._answered = False
        self.patience = RETRY_SECONDS if patience is None else patience
        self._http = self._pinned(peer.key)

    def _pinned(self, key: bytes) -> httpx2.Client:
        """Return a client that talks to the holder of a key only."""
        return self._client(tls.client_context(key))

    def _client(self, context: ssl.SSLContext) -> httpx2.Client:
        return httpx2.Client(
            verify=tls.web_context() if self._peer.proxy else context,
            trust_env=False,  # a proxy variable of the shell must not see partners' traffic
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
        try:
            return self._tried(method, path, body)
        except WrongPeerKey as error:
            wrong = error
        key = self._peer.successor(self._changes())
        if key is None:
            raise wrong
        self._http.close()
        self.peer_key, self._http = key, self._pinned(key)
        return self._tried(method, path, body)

    def _changes(self) -> bytes:
        """Return what is answered at the partner's address to the question how the pinned key was replaced.

        Nobody signs that, so nothing that goes wrong here is the partner's doing, or shows that it has another key.
        """
        url = f"https://{self._address}{paths.KEYS}?of={self.peer_key.hex()}"
        pinned, self._http = self._http, self._client(tls.unpinned_context())
        try:
            with _explained(self._address):
                answer, body = self._exchange(signatures.Request(method="GET", url=url, body=b""))
                if answer.status_code == TOO_MANY or answer.status_code >= 500 or len(body) > wire.MAX_BODY:
                    raise TurnedAway("it does not say how its key was replaced")
        finally:
            self._http.close()
            self._http = pinned
        return body if answer.status_code == 200 else b""

    def _tried(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        since = time.monotonic()
        with _explained(self._address):
            for attempt in stamina.retry_context(
                on=lambda error: self._worth_retrying(error, since),
                attempts=None,
                timeout=self.patience,
                wait_initial=0.1,
                wait_max=3.0,
            ):
                with attempt:
                    return self.attempt(method, path, body)
        raise AssertionError("retry_context ends with a return or an exception")

    def _worth_retrying(self, error: Exception, since: float) -> bool:
        if not isinstance(error, httpx2.TransportError) or isinstance(error, Unverified) or _is_wrong_key(error):
            return False
        gone = not self._answered and _cause(error, ConnectionRefusedError)
        return not gone or time.monotonic() - since < REFUSED_SECONDS

    def attempt(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Send one signed request, and return the status and the body of its verified answer; tests watch traffic here."""
        request = signatures.Request(method=method, url=f"https://{self._address}{path}", body=body)
        request.headers["content-type"] = "application/msgpack"
        signatures.sign(request, self._us, self.peer_key)  # inside the retry: every attempt has its own nonce
        answer, content = self._exchange(request)
        response = signatures.Response(
            status_code=answer.status_code, body=content, request=request, headers=dict(answer.headers)
        )
        if answer.status_code >= 500 and "signature" not in answer.headers:
            raise TurnedAway("it is full or stopping, or the web server before it cannot reach it")
        if len(content) > wire.MAX_BODY:
            if self._peer.proxy:  # the web server may have made it so
                raise Unverified("what came is larger than any message may be")
            raise RemoteProtocolError("too_large", "the partner's answer is larger than any message may be")
        try:
            signatures.verify(response, to=self._us.key, now=self._us.now, expected=self.peer_key)
            signatures.check_body(response)
        except signatures.OtherKey:
            raise _wrong_key(self._address) from None
        except signatures.BadSignature as error:
            why = f": {error}" if "signature" in answer.headers else ""
            raise Unverified(f"what came, with HTTP status {answer.status_code}, is not signed by it{why}") from None
        if answer.status_code in (ACCEPTED, TOO_MANY) and _at_once(path):
            raise TurnedAway("it does not take the letter now")
        if answer.status_code in (ACCEPTED, NOTHING_YET, TOO_MANY):
            return answer.status_code, b""
        if answer.status_code != 200:
            raise refusal(answer.status_code, content)
        return 200, content

    def _exchange(self, request: signatures.Request) -> tuple[httpx2.Response, bytes]:
        """Send a request to the first IP address that can be reached, and return the answer and its body.

        What the name stands for is looked up and checked here, and exactly that is called: no second look-up could give
        another address.
        """
        path = request.url.removeprefix(f"https://{self._address}")
        with tls.until(time.monotonic() + (LETTER_SECONDS if _at_once(path) else ANSWER_SECONDS)):
            try:
                found = self._found or self._peer.allowed.resolve(self._address)
            except OSError as error:
                raise httpx2.ConnectError("the name is not known") from error
            for tried, (ip, port) in enumerate(found, 1):
                try:
                    return self._called(path, request, ip, port)
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                    self._found = []
                    if tried == len(found) or _is_wrong_key(error) or tls.seconds_left(1.0) <= 0:
                        raise
        raise AssertionError("an address stands for something")

    def _called(self, path: str, request: signatures.Request, ip: str, port: int) -> tuple[httpx2.Response, bytes]:
        connect = tls.seconds_left(min(CONNECT_SECONDS, self.patience))
        if connect <= 0:
            raise httpx2.ConnectTimeout("the look-up took all the time")
        host, _ = split_address(self._address)
        with self._http.stream(
            request.method,
            f"https://{joined(ip, port)}{path}",
            content=request.body,
            headers={**request.headers, "host": self._address},
            timeout=httpx2.Timeout(TIMEOUT_SECONDS, connect=connect),
            extensions={"sni_hostname": host},
        ) as answer:
            self._found, self._answered = [(ip, port)], True
            return answer, _bounded(answer)


def _at_once(path: str) -> bool:
    """Return whether a request must be answered at once: no partner may hold up the letters of the others."""
    return path.startswith((paths.LETTERS, paths.KEYS))


def _is_wrong_key(error: BaseException) -> bool:
    return _cause(error, tls.WrongKey)


def _cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Return whether an error is of a kind, or came from one that is."""
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        if _is_wrong_key(error):
            raise _wrong_key(address) from None
        raise PeerUnreachable(
            f"no answer from {address}: {_what_broke(error)}",
            hint="compare the clocks of both machines, and check that the address leads to the partner's node"
            if isinstance(error, Unverified)
            else "check that the other side is running and that its address can be reached from here",
        ) from None
    except (httpx2.InvalidURL, UnicodeError):
        raise InvalidInput(f"{address!r} is not an address", hint="it reads HOST:PORT") from None


def _wrong_key(address: str) -> WrongPeerKey:
    return WrongPeerKey(
        f"what answers at {address} has another key than the partner's",
        hint="ask the partner, on another line than this, for a new Connect ID, if it has lost its key",
    )


def _what_broke(error: httpx2.TransportError) -> str:
    """Return how a connection failed, without the library's names."""
    if isinstance(error, httpx2.TimeoutException):
        return "timed out"
    if isinstance(error, Unverified):
        return str(error)
    if isinstance(error, TurnedAway):
        return "it is busy or stopping"
    if _cause(error, ConnectionRefusedError):
        return "connection refused"
    if _cause(error, socket.gaierror):
        return "the name is not known"
    return "the connection broke"


def _bounded(answer: httpx2.Response) -> bytes:
    """Return the body of an answer, or its beginning if it is larger than any message may be."""
    content = bytearray()
    for piece in answer.iter_raw():  # raw: a compressed body could unfold to any size
        content += piece
        if len(content) > wire.MAX_BODY:
            break
    return bytes(content)


def refusal(status: int, content: bytes) -> VesicaError:
    try:
        body = wire.unpack(content)
    except RemoteProtocolError:
        return RemoteProtocolError("malformed", f"the partner answered with HTTP status {status} and no reason")
    detail = None
    with contextlib.suppress(RemoteProtocolError):
        detail = wire.number(body.get("detail"), "detail")
    return RefusedByPartner(
        _words(body.get("code"), 40) or "refused",
        _words(body.get("message"), MAX_TEXT) or f"the partner refused ({_words(body.get('code'), 40)})",
        status=status,
        hint=_words(body.get("hint"), MAX_TEXT),
        detail=detail,
    )


def _words(text: object, size: int) -> str:
    return printable(text[:size]) if isinstance(text, str) else ""
