"""The Experience Cloud as a destination: a connection to its solutions, each at an address of its own with a token.

Segments need neither a mapping nor a schedule; members go by their primary identities.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...errors import InvalidInput
from ...transport.addresses import AllowedAddresses
from ..kinds import Batch, Message, Outcome, Setting, Settings
from ..solutions import SOLUTIONS, TOKEN
from . import payload
from .https import AUTHORITIES, WebServer, allowed_addresses, checked_authorities, checked_url, path_of

if TYPE_CHECKING:
    from ...access.scope import Home


class _ExperienceCloud:
    text = (
        "solutions of the Experience Cloud, which know people by ECID, GAID, IDFA or hashed e-mail; each takes a token"
    )
    settings = (
        *(
            Setting(name=name, text=f"the address of {text}, such as https://in.example.com/{name}")
            for name, text in SOLUTIONS.items()
        ),
        AUTHORITIES,
    )
    limit = 1_000

    def checked(self, settings: Settings) -> dict[str, str]:
        found = {name: url for name, url in settings.items() if name in SOLUTIONS}
        for url in found.values():
            checked_url(url, "a solution")
        return {**found, **checked_authorities(settings)}

    def follows_names(self, settings: Settings) -> bool:
        return True

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        if given is None:
            return None
        token = given.strip()
        if not TOKEN.fullmatch(token.decode(errors="replace")):
            raise InvalidInput("that is no token of a solution", hint="it has no spaces, and at most 4,096 characters")
        return token

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> "SolutionTarget":
        return SolutionTarget(settings, allowed_addresses(home), None if secret is None else secret.decode())


EXPERIENCE_CLOUD = _ExperienceCloud()


class SolutionTarget:
    """An open solution."""

    def __init__(self, settings: Settings, allowed: AllowedAddresses, token: str | None) -> None:
        self._url, self._token = settings["url"], token
        self._path = path_of(urlsplit(self._url))
        self._server = WebServer(self._url, allowed, settings.get("authorities"))

    def check(self, now: int) -> Outcome:
        return self.send(payload.check(self._url, now))

    def encode(self, batch: Batch) -> bytes:
        return payload.encode(batch)

    def send(self, message: Message) -> Outcome:
        headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {self._token}",
            "webhook-id": message.id,
            "webhook-timestamp": str(message.now),
        }
        return self._server.send("POST", self._path, headers, message.body, message.now)

    def close(self) -> None:
        self._server.close()
