"""Requests to a web server that a destination names: called where its name was found to lead, and judged by the status.

What a name stands for is looked up once for each try, checked, and exactly that is called; a redirect is not followed.
"""

import ssl
import time as clock
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx2

from ...errors import AddressNotAllowed, InvalidInput
from ...transport import tls
from ...transport.addresses import AllowedAddresses, joined, plain_host
from ..kinds import Delivered, Gone, Later, Outcome, Pending, Refused, Setting, Settings

if TYPE_CHECKING:
    from ...access.scope import Home

AUTHORITIES = Setting(
    name="authorities",
    text="a PEM file of authorities for its certificate; the system's unless given",
    may_change=True,
)
TIMEOUT_SECONDS = 15.0  # for all of one try
LATER = {403, 408, 409, 429}  # worth another try, as all of 5xx are but for those in NEVER
NEVER = {501, 505}
SETUP = {401, 403}  # that may be said of every message: the secret is wrong, or may no more
GONE = 410
ACCEPTED, SEE_OTHER = 202, 303
HEADERS = {"user-agent": "vesica", "accept-encoding": "identity"}  # what is packed may be far larger than it looks
LONGEST_URL = 2_000
SMALL = 1 << 16  # bytes of an answer that is read to its end
BEGINNING = 2_000  # bytes of one that says why not
_PORTS = {"https": 443, "http": 80}
_HERE = ("127.0.0.1", "::1")


Judge = Callable[[int, str | None, int], Outcome]  # of a status, what Retry-After says, and the time


class WebServer:
    """The server of a URL, whose path is the beginning of each request's; `judge` says what an answer means, `outcome_of`
    unless given."""

    def __init__(
        self, url: str, allowed: AllowedAddresses, authorities: str | None = None, judge: Judge | None = None
    ) -> None:
        self._url, self._allowed, self._authorities = urlsplit(url), allowed, authorities
        self._judge = outcome_of if judge is None else judge
        self._host, self._port = self._url.hostname or "", self._url.port or _PORTS[self._url.scheme]
        self._client: httpx2.Client | None = None

    @property
    def host(self) -> str:
        """The Host header: the port is in it where it is not the one of the scheme."""
        address = joined(self._host, self._port)
        usual = _PORTS[self._url.scheme]
        return address.removesuffix(f":{usual}") if self._port == usual else address

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        now: int,
        *,
        seconds: float | None = None,
    ) -> Outcome:
        """Send one request to a path with its query, and return what its answer means."""
        headers = {"host": self.host, **HEADERS, **headers}
        try:
            with tls.until(clock.monotonic() + (TIMEOUT_SECONDS if seconds is None else seconds)):
                taken, status, location = self._tried(method, target, headers, body, now)
                if status != ACCEPTED or not location or not isinstance(taken, Delivered):
                    return taken
                handle = self._path_of(target, location)
                return taken if handle is None else Pending(handle)
        except AddressNotAllowed:
            return Refused("address", setup=True)
        except httpx2.TimeoutException:
            outcome: Outcome = Later("timeout")
        except (httpx2.TransportError, OSError) as error:
            outcome = _broken(error)
        self.close()  # a connection that broke is not used again
        return outcome

    def poll(self, target: str, headers: Mapping[str, str], now: int) -> Outcome:
        """Ask at a path whether what was accepted is done: 202 says not yet, and any other place that it is."""
        headers = {"host": self.host, **HEADERS, **headers}
        try:
            with tls.until(clock.monotonic() + TIMEOUT_SECONDS):
                outcome, status, _ = self._tried("GET", target, headers, b"", now)
        except AddressNotAllowed:
            return Refused("address")
        except (httpx2.TransportError, OSError) as error:
            self.close()
            return _broken(error)
        if status == ACCEPTED:
            return Later("http_202")
        return Delivered() if status == SEE_OTHER else outcome

    def _path_of(self, target: str, location: str) -> str | None:
        """Return the path of a place at this server that an answer names; None where it is elsewhere, or nothing."""
        here = f"{self._url.scheme}://{joined(self._host, self._port)}"
        if len(location) > LONGEST_URL or not location.isascii() or not location.isprintable():
            return None
        try:
            place = urlsplit(urljoin(here + target, location.strip()))
            port = place.port or _PORTS.get(place.scheme)
        except ValueError:
            return None
        if (place.scheme, place.hostname, port) != (self._url.scheme, self._host, self._port):
            return None
        return path_of(place)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _tried(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: int
    ) -> tuple[Outcome, int, str | None]:
        """Return what an answer means, its status, and the place that it names."""
        found = self._allowed.resolve(joined(self._host, self._port))
        for tried, (ip, port) in enumerate(found, 1):
            try:
                with self._http().stream(
                    method,
                    f"{self._url.scheme}://{joined(ip, port)}{target}",
                    content=body,
                    headers=dict(headers),
                    timeout=httpx2.Timeout(tls.seconds_left(TIMEOUT_SECONDS)),
                    extensions={"sni_hostname": self._host},
                ) as answer:
                    outcome = self._judge(answer.status_code, answer.headers.get("retry-after"), now)
                    if isinstance(outcome, Delivered):
                        self._take(answer)
                    else:
                        outcome = replace(outcome, answer=_beginning(answer))
                    return outcome, answer.status_code, answer.headers.get("location")
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if tried == len(found) or tls.seconds_left(1.0) <= 0:
                    raise
        raise AssertionError("an address stands for something")

    def _take(self, answer: httpx2.Response) -> None:
        """Read the body of an answer that says yes."""
        _drain(answer)

    def _http(self) -> httpx2.Client:
        if self._client is None:
            verify = tls.web_context() if self._authorities is None else tls.trusting(self._authorities)
            self._client = httpx2.Client(verify=verify, trust_env=False, follow_redirects=False)
        return self._client


class ReadServer(WebServer):
    """A server whose small answer is kept."""

    body, headers = b"", httpx2.Headers()

    def _take(self, answer: httpx2.Response) -> None:
        self.headers = answer.headers
        kept = b""
        for piece in answer.iter_raw():  # as it came: what is packed could be without end
            kept += piece
            if len(kept) > SMALL:
                return
        self.body = kept


def allowed_addresses(home: "Home") -> AllowedAddresses:
    """Return where the destinations of a node may be."""
    return AllowedAddresses.of(home.config.address, private=home.config.private_addresses)


def path_of(url: SplitResult) -> str:
    """Return what is asked for at the server of a URL: the path, and the query if there is one."""
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def checked_url(text: str, noun: str, *, here: bool = False) -> SplitResult:
    """Return the URL of a server; raises InvalidInput. One that is `here`, on this machine, may do without TLS."""
    try:
        url = urlsplit(text)
        port = url.port
        (url.hostname or "").encode("idna")  # as the look-up of a name does: UnicodeError is a ValueError
    except ValueError:
        url, port = urlsplit(""), None
    without_tls = here and url.scheme == "http" and plain_host(url.hostname or "") in _HERE
    plain = len(text) <= LONGEST_URL and text.isascii() and text.isprintable() and " " not in text
    more = url.username is not None or port == 0 or url.fragment
    if not (url.scheme == "https" or without_tls) or not url.hostname or not plain or more:
        raise InvalidInput(
            f"that is no address of {noun}", hint="it reads https://HOST/PATH, without a name, a password or a fragment"
        )
    return url


def checked_authorities(settings: Settings) -> dict[str, str]:
    """Return the setting of authorities, if there is one; raises InvalidInput."""
    path = settings.get("authorities")
    return {"authorities": tls.checked_authorities(path)} if path else {}


def outcome_of(status: int, retry_after: str | None, now: int) -> Outcome:
    """Return what the status of an answer means."""
    code = f"http_{status}"
    if 200 <= status < 300:
        return Delivered()
    if 300 <= status < 400:
        return Refused("redirect")
    if status == GONE:
        return Gone()
    if status in LATER or (status >= 500 and status not in NEVER):
        return Later(code, _seconds(retry_after, now), setup=status in SETUP)
    return Refused(code, setup=status in SETUP)


def _drain(answer: httpx2.Response) -> None:
    """Read the body of a small answer, so that the connection serves again: the status says all there is to know."""
    size = answer.headers.get("content-length", "")
    if size.isascii() and size.isdigit() and int(size[:9]) <= SMALL:
        with suppress(httpx2.TransportError):
            for _ in answer.iter_raw():
                pass


def _beginning(answer: httpx2.Response) -> str:
    """Return how an answer begins, as far as it comes in time."""
    read = b""
    with suppress(httpx2.TransportError):
        for piece in answer.iter_raw():
            read += piece[:BEGINNING]
            if len(read) >= BEGINNING:
                break
    return read[:BEGINNING].decode(errors="replace")


def _seconds(retry_after: str | None, now: int) -> int | None:
    """Return the seconds that a Retry-After header says, as a number or as a date; None where it says nothing."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return int(text[:9])
    try:
        at: datetime = parsedate_to_datetime(text)
        return max(0, int(at.timestamp()) - now)
    except (ValueError, TypeError, OverflowError):
        return None


def _broken(error: BaseException) -> Outcome:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Later("tls", setup=True)
        if isinstance(cause, TimeoutError):
            return Later("timeout")
        cause = cause.__cause__ or cause.__context__
    return Later("connection")
