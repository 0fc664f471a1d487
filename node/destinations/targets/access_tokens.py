"""Access tokens by OAuth 2 client credentials (RFC 6749, section 4.4), kept in memory until they end."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from urllib.parse import quote_plus, urlsplit

from ...transport.addresses import AllowedAddresses
from ..kinds import Delivered, Later, Outcome
from ..solutions import TOKEN
from .https import ReadServer, path_of

DEFAULT_SECONDS = 300  # of a token that does not say when it ends
EARLY_SECONDS = 30  # before its end it is not used any more
MOST = 1_000  # tokens in memory
NONE = Later("token")
_kept: dict[bytes, tuple[str, int]] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessTokens:
    """Where tokens come from, and who asks for them."""

    url: str
    client: str
    secret: str = field(repr=False)
    allowed: AllowedAddresses
    authorities: str | None

    def token(self, now: int) -> str | Outcome:
        """Return a token that holds, a new one where there is none; an outcome where none is given."""
        with _lock:
            kept, ends = _kept.get(self._key, ("", 0))
        if now < ends:
            return kept
        server = ReadServer(self.url, self.allowed, self.authorities)
        try:
            outcome = server.send("POST", path_of(urlsplit(self.url)), self._headers(), _BODY, now)
        finally:
            server.close()
        if not isinstance(outcome, Delivered):
            return Later("token", answer=outcome.answer) if outcome.code.startswith("http_") else outcome
        given = _read(server.body)
        if given is None:
            return NONE
        token, seconds = given
        with _lock:
            if len(_kept) >= MOST:
                _kept.clear()
            _kept[self._key] = token, now + seconds - EARLY_SECONDS
        return token

    def forget(self) -> None:
        """Ask for another token the next time: this one is not taken."""
        with _lock:
            _kept.pop(self._key, None)

    @property
    def _key(self) -> bytes:
        return hashlib.sha256("\0".join((self.url, self.client, self.secret)).encode()).digest()

    def _headers(self) -> dict[str, str]:
        named = f"{quote_plus(self.client)}:{quote_plus(self.secret)}"
        return {
            "authorization": f"Basic {base64.b64encode(named.encode()).decode()}",
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
        }


_BODY = b"grant_type=client_credentials"


def _read(body: bytes) -> tuple[str, int] | None:
    """Return the token of an answer and for how many seconds it holds; None where it has none that can be one."""
    try:
        given = json.loads(body)
        token, seconds = given["access_token"], given.get("expires_in", DEFAULT_SECONDS)
        if str(given.get("token_type", "Bearer")).lower() != "bearer" or not TOKEN.fullmatch(token):
            return None
        return token, max(0, min(int(seconds), 86_400))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
