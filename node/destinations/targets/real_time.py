"""Audience Manager's real-time outbound transfers: a webhook that gets the messages which its partners read.

Sources (Experience League): "Real-Time Outbound Data Transfers", "Digitally Signed HTTP(S) Requests", "OAuth 2.0 Integration
for Real-Time Outbound Transfers". One to ten people a message; 200 within three seconds, or it is tried once more.
"""

import base64
import hmac
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...errors import InvalidInput
from ...storage.records import Document
from ...transport.addresses import AllowedAddresses
from ..changes import Act
from ..kinds import Batch, Delivered, Gone, Later, Message, Outcome, Refused, Setting, Settings
from . import identity_texts
from .access_tokens import AccessTokens
from .https import AUTHORITIES, GONE, WebServer, allowed_addresses, checked_authorities, checked_url, path_of

if TYPE_CHECKING:
    from ...access.scope import Home

FORM = "audience-manager"
MOST_USERS = 10  # in a message
TIMEOUT_SECONDS = 3.0
SIGNATURES = {"hmac-sha1": "sha1", "hmac-sha256": "sha256", "hmac-md5": "md5"}
STATUS = {Act.ADD: "1", Act.REMOVE: "0"}
SECRET_BYTES, LONGEST_SECRET = 32, 1_000
_NUMBERS = {"data_source": "User_DPID", "client_id": "Client_ID", "destination_id": "AAM_Destination_Id"}
_NUMBER = re.compile(r"[0-9]{1,10}")
_CLIENT = re.compile(r"[\x21-\x7e]{1,255}")
_MISSING = (401, 403, 404)


class _RealTime:
    text = "an HTTPS address that gets Audience Manager's real-time messages"
    settings = (
        Setting(name="url", text="the address, such as https://partner.example.com/segments", needed=True),
        Setting(name="form", text=FORM, needed=True),
        Setting(name="data_source", text="the number of the data source that the ids are of", needed=True),
        Setting(name="client_id", text="the number that the target knows us by", needed=True),
        Setting(name="destination_id", text="the number that the target knows this destination by", needed=True),
        Setting(
            name="signature",
            text="hmac-sha1, which is the default, hmac-sha256 or hmac-md5; the secret is the key",
            may_change=True,
        ),
        Setting(name="token_url", text="the address that gives access tokens (OAuth 2), in place of a signature"),
        Setting(
            name="token_client", text="who asks for tokens there; the secret is that client's secret", may_change=True
        ),
        AUTHORITIES,
    )
    limit = MOST_USERS

    def __init__(self, *, tokens: bool) -> None:
        self._tokens = tokens

    def checked(self, settings: Settings) -> dict[str, str]:
        checked_url(settings["url"], "a webhook")
        kept = {name: settings[name] for name in ("url", "form", *_NUMBERS)}
        for name in _NUMBERS:
            if not _NUMBER.fullmatch(kept[name]):
                raise InvalidInput(f"that is no {name} of Audience Manager", hint="it is a number")
        if self._tokens:
            if settings.get("signature"):
                raise InvalidInput(
                    "a message has a signature or an access token", hint="leave out one of signature and token_url"
                )
            checked_url(settings["token_url"], "an authorisation server")
            client = settings.get("token_client", "")
            if not _CLIENT.fullmatch(client):
                raise InvalidInput("token_url needs token_client", hint="say who asks for tokens there")
            kept |= {"token_url": settings["token_url"], "token_client": client}
        else:
            kept["signature"] = settings.get("signature") or next(iter(SIGNATURES))
            if kept["signature"] not in SIGNATURES:
                raise InvalidInput("there is no such signature", hint=f"there are {', '.join(SIGNATURES)}")
            if settings.get("token_client"):
                raise InvalidInput("token_client is for a destination with token_url", hint="leave it out")
        return kept | checked_authorities(settings)

    def required_mappings_only(self, settings: Settings) -> bool:
        return True

    def follows_names(self, settings: Settings) -> bool:
        return True

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        if given is None and not self._tokens:
            return base64.b64encode(random(SECRET_BYTES))
        key = b"" if given is None else given.strip()
        if not 0 < len(key) <= LONGEST_SECRET or not key.isascii() or not key.decode().isprintable():
            raise InvalidInput(
                f"that is no secret of {'a client' if self._tokens else 'a signature'}",
                hint=f"it is text in one line, {LONGEST_SECRET:,} characters at most",
            )
        return key

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> "RealTimeTarget":
        return RealTimeTarget(settings, allowed_addresses(home), secret or b"")


def form(settings: Settings) -> _RealTime:
    """Return the kind of a destination whose messages are signed, or with a setting `token_url` carry an access token."""
    return _RealTime(tokens=bool(settings.get("token_url")))


class RealTimeTarget:
    """An open target of real-time messages."""

    retries = 1
    names_others = True

    def __init__(self, settings: Settings, allowed: AllowedAddresses, secret: bytes) -> None:
        self._settings, self._allowed, self._secret = settings, allowed, secret
        self._path = path_of(urlsplit(settings["url"]))
        self._server = WebServer(settings["url"], allowed, settings.get("authorities"), _judged)
        self._tokens: AccessTokens | None = None
        if "token_url" in settings:
            self._tokens = AccessTokens(
                url=settings["token_url"],
                client=settings["token_client"],
                secret=secret.decode(),
                allowed=allowed,
                authorities=settings.get("authorities"),
            )

    def check(self, now: int) -> Outcome:
        """Get a token where one is needed, and ask for the head of the address: a message has one person at least."""
        headers = self._proof(b"", now)
        if not isinstance(headers, dict):
            return headers
        server = WebServer(self._settings["url"], self._allowed, self._settings.get("authorities"), _there)
        try:
            return server.send("HEAD", self._path, headers, b"", now, seconds=TIMEOUT_SECONDS)
        finally:
            server.close()

    def encode(self, batch: Batch) -> bytes:
        about = {name: self._settings[setting] for setting, name in _NUMBERS.items()}
        known = "AAM_UUID" if identity_texts.code(batch.identity) == "ECID" else "DataPartner_UUID"
        segment = batch.external_id or batch.segment_id
        users = [
            {
                "AAM_UUID": "",
                "DataPartner_UUID": "",
                "AAM_Regions": [],
                known: text,
                "Segments": [_segment(segment, Act(act), batch.at)],
            }
            for text, act in zip(identity_texts.texts(batch.values, batch.identity), batch.acts.tolist(), strict=True)
        ]
        body = {"ProcessTime": time(batch.at), **about, "User_count": str(len(users)), "Users": users}
        return json.dumps(body, separators=(",", ":")).encode()

    def send(self, message: Message) -> Outcome:
        body = _with_others(message)
        headers = self._proof(body, message.now)
        if not isinstance(headers, dict):
            return headers
        outcome = self._server.send("POST", self._path, headers, body, message.now, seconds=TIMEOUT_SECONDS)
        if self._tokens is not None and outcome == Later("http_401"):
            self._tokens.forget()
        return outcome

    def close(self) -> None:
        self._server.close()

    def _proof(self, body: bytes, now: int) -> dict[str, str] | Outcome:
        """Return headers that say from whom a body is; an outcome where no token is given."""
        headers = {"content-type": "application/json"}
        if self._tokens is None:
            return headers | {"x-signature": signature(self._secret, body, self._settings["signature"])}
        token = self._tokens.token(now)
        return headers | {"authorization": f"Bearer {token}"} if isinstance(token, str) else token


def signature(key: bytes, body: bytes, name: str) -> str:
    """Return the X-Signature of a body: base64 of its HMAC."""
    return base64.b64encode(hmac.digest(key, body, SIGNATURES[name])).decode()


def time(at: int) -> str:
    """Return Unix seconds as these messages have them, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%a %b %d %H:%M:%S UTC %Y")


def _segment(name: str, act: Act, at: int) -> Document:
    return {"Segment_ID": name, "Status": STATUS[act], "DateTime": time(at)}


def _with_others(message: Message) -> bytes:
    """Return the body with the other segments that its people are in, as far as they are known."""
    if not any(message.others):
        return message.body
    body = json.loads(message.body)
    for user, more in zip(body["Users"], message.others, strict=True):
        said = {each["Segment_ID"] for each in user["Segments"]}
        user["Segments"] += [_segment(name, Act.ADD, at) for name, at in more if name not in said]
    return json.dumps(body, separators=(",", ":")).encode()


def _judged(status: int, retry_after: str | None, now: int) -> Outcome:
    if status == 200:
        return Delivered()
    return Gone() if status == GONE else Later(f"http_{status}")


def _there(status: int, retry_after: str | None, now: int) -> Outcome:
    """Judge an answer to a request without a message: what takes POST alone may refuse it."""
    return Refused(f"http_{status}") if status in (*_MISSING, GONE) or status >= 500 else Delivered()
