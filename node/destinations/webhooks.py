"""A webhook as a destination: JSON by HTTPS, signed by the Standard Webhooks specification.

The id of a message and its body stay the same on each try, the timestamp and with it the signature do not.
"""

import base64
import binascii
import hashlib
import hmac
import json
import ssl
import time as clock
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2

from ..errors import AddressNotAllowed, InvalidInput
from ..homes import check_input
from ..transport import tls
from ..transport.addresses import AllowedAddresses, joined
from . import identity_texts
from .changes import Act
from .folders import STATUS, time
from .kinds import Batch, Delivered, Gone, Later, Message, Outcome, Refused, Setting, Settings

if TYPE_CHECKING:
    from ..access.scope import Home

PREFIX = "whsec_"
SECRET_BYTES, FEWEST, MOST = 32, 24, 64  # of a secret: ours, and what the specification allows
TIMEOUT_SECONDS = 15.0  # for all of one try
LATER = {403, 408, 409, 429}  # worth another try, as all of 5xx are but for those in NEVER
NEVER = {501, 505}
GONE = 410
LONGEST_URL = 2_000
SMALL = 1 << 16  # bytes of an answer that is read to its end
TYPE = "segment.members.changed"
CHECK = "vesica.check"
OWN = "ups"  # the key of segments of ours in segmentMembership


class _Webhook:
    text = "an HTTPS address that gets signed JSON (Standard Webhooks)"
    settings = (
        Setting(name="url", text="the address, such as https://crm.example.com/vesica", needed=True),
        Setting(name="authorities", text="a PEM file of authorities for its certificate; the system's unless given"),
    )
    limit = 1_000

    def checked(self, settings: Settings) -> dict[str, str]:
        kept = {"url": _checked_url(settings["url"])}
        if settings.get("authorities"):
            check_input(settings["authorities"])
            kept["authorities"] = str(Path(settings["authorities"]).absolute())
            _context(kept)
        return kept

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        if given is None:
            return PREFIX.encode() + base64.b64encode(random(SECRET_BYTES))
        text = given.strip()
        key = _key(text)
        if key is None or not FEWEST <= len(key) <= MOST:
            raise InvalidInput(
                "that is no secret of a webhook",
                hint=f"it reads {PREFIX}, then {FEWEST} to {MOST} bytes in base64; without one, one is made",
            )
        return text

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> "WebhookTarget":
        config = home.config
        allowed = AllowedAddresses.of(config.address, private=config.private_addresses)
        return WebhookTarget(settings, allowed, None if secret is None else _key(secret))


WEBHOOK = _Webhook()


class WebhookTarget:
    """An open webhook. What its name stands for is looked up once for each try, checked, and exactly that is called."""

    def __init__(self, settings: Settings, allowed: AllowedAddresses, key: bytes | None) -> None:
        self._settings, self._allowed, self._key = settings, allowed, key
        url = urlsplit(settings["url"])
        self._host, self._port = url.hostname or "", url.port or 443
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._client: httpx2.Client | None = None

    def check(self, now: int) -> Outcome:
        body = json.dumps({"type": CHECK, "timestamp": time(now), "data": {}}).encode()
        digest = hashlib.sha256(f"{self._settings['url']} {now}".encode()).hexdigest()[:32]
        return self.send(Message(id=f"msg_{digest}", segment="", sequence=0, body=body, now=now))

    def encode(self, batch: Batch) -> bytes:
        at, name = time(batch.at), identity_texts.namespace(batch.identity)
        profiles = []
        for text, act in zip(identity_texts.texts(batch.values, batch.identity), batch.acts.tolist(), strict=True):
            membership = {"status": STATUS[Act(act)], "lastQualificationTime": at}
            added, removed = ([batch.segment_id], []) if act == Act.ADD else ([], [batch.segment_id])
            profiles.append(
                {
                    "identityMap": {name: [{"id": text}]},
                    "segmentMembership": {OWN: {batch.segment_id: membership}},
                    "segments": {"add": added, "remove": removed},
                    "attributes": {},
                }
            )
        about = {"name": batch.segment, "labels": list(batch.labels)}
        data = {"connection": batch.destination, "revision": batch.revision, "batch": batch.number}
        data |= {"segments": {batch.segment_id: about}, "profiles": profiles}
        return json.dumps({"type": TYPE, "timestamp": at, "data": data}, separators=(",", ":")).encode()

    def send(self, message: Message) -> Outcome:
        assert self._key is not None
        address = joined(self._host, self._port)
        headers = {
            "host": address.removesuffix(":443") if self._port == 443 else address,
            "user-agent": "vesica",
            "content-type": "application/json",
            **signed(message, self._key),
        }
        try:
            with tls.until(clock.monotonic() + TIMEOUT_SECONDS):
                return self._tried(message, headers)
        except AddressNotAllowed:
            return Refused("address")
        except httpx2.TimeoutException:
            outcome: Outcome = Later("timeout")
        except (httpx2.TransportError, OSError) as error:
            outcome = _broken(error)
        self.close()  # a connection that broke is not used again
        return outcome

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _tried(self, message: Message, headers: dict[str, str]) -> Outcome:
        found = self._allowed.resolve(joined(self._host, self._port))
        for tried, (ip, port) in enumerate(found, 1):
            try:
                with self._http().stream(
                    "POST",
                    f"https://{joined(ip, port)}{self._path}",
                    content=message.body,
                    headers=headers,
                    timeout=httpx2.Timeout(tls.seconds_left(TIMEOUT_SECONDS)),
                    extensions={"sni_hostname": self._host},
                ) as answer:
                    _drain(answer)
                    return outcome_of(answer.status_code, answer.headers.get("retry-after"), message.now)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if tried == len(found) or tls.seconds_left(1.0) <= 0:
                    raise
        raise AssertionError("an address stands for something")

    def _http(self) -> httpx2.Client:
        if self._client is None:
            self._client = httpx2.Client(verify=_context(self._settings), trust_env=False, follow_redirects=False)
        return self._client


def _drain(answer: httpx2.Response) -> None:
    """Read the body of a small answer, so that the connection serves again: the status says all there is to know."""
    size = answer.headers.get("content-length", "")
    if size.isascii() and size.isdigit() and int(size[:9]) <= SMALL:
        with suppress(httpx2.TransportError):
            for _ in answer.iter_raw():
                pass


def signed(message: Message, key: bytes) -> dict[str, str]:
    """Return the headers that the specification asks for: HMAC-SHA256 over id, timestamp and body."""
    digest = hmac.digest(key, f"{message.id}.{message.now}.".encode() + message.body, "sha256")
    return {
        "webhook-id": message.id,
        "webhook-timestamp": str(message.now),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


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
        return Later(code, _seconds(retry_after, now))
    return Refused(code)


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
            return Later("tls")
        if isinstance(cause, TimeoutError):
            return Later("timeout")
        cause = cause.__cause__ or cause.__context__
    return Later("connection")


def _context(settings: Settings) -> ssl.SSLContext:
    path = settings.get("authorities")
    context = tls.web_context()
    if path:
        try:
            context = tls.web_context(path)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(f"{path} has no certificates of authorities", hint="name a PEM file") from error
    return context


def _checked_url(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port
        (url.hostname or "").encode("idna")  # as the look-up of a name does: UnicodeError is a ValueError
    except ValueError:
        url, port = urlsplit(""), None
    plain = len(text) <= LONGEST_URL and text.isascii() and text.isprintable() and " " not in text
    if url.scheme != "https" or not url.hostname or not plain or url.username is not None or port == 0 or url.fragment:
        raise InvalidInput(
            "that is no address of a webhook",
            hint="it reads https://HOST/PATH, without a name, a password or a fragment",
        )
    return text


def _key(secret: bytes) -> bytes | None:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX.encode()), validate=True)
    except (binascii.Error, ValueError):
        return None
