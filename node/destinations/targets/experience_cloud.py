"""The Experience Cloud as a destination: a connection to its solutions, each at an address of its own with a token.

Segments need neither a mapping nor a schedule; members go by their primary identities.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...transport.addresses import AllowedAddresses
from ..kinds import Batch, Message, Outcome, Setting, Settings, Target
from ..records import AUDIENCE_MANAGER, HERE
from ..solutions import SOLUTIONS, checked_token
from . import payload
from .https import AUTHORITIES, WebServer, allowed_addresses, checked_authorities, checked_url, path_of

if TYPE_CHECKING:
    from ...access.scope import Home, Scope
    from ..records import Destination


_OWN = {AUDIENCE_MANAGER: f"; {HERE}: that of this project"}


class _ExperienceCloud:
    text = (
        "solutions of the Experience Cloud, which know people by ECID, GAID, IDFA or hashed e-mail; each takes a token"
    )
    settings = (
        *(
            Setting(name=name, text=f"the address of {text}, such as https://in.example.com/{name}{_OWN.get(name, '')}")
            for name, text in SOLUTIONS.items()
        ),
        AUTHORITIES,
    )
    limit = 1_000

    def checked(self, settings: Settings) -> dict[str, str]:
        found = {name: url for name, url in settings.items() if name in SOLUTIONS}
        for name, url in found.items():
            if (name, url) != (AUDIENCE_MANAGER, HERE):
                checked_url(url, "a solution")
        return {**found, **checked_authorities(settings)}

    def follows_names(self, settings: Settings) -> bool:
        return True

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        return None if given is None else checked_token(given, "a solution")

    def open_of(self, scope: "Scope", destination: "Destination", secret: bytes | None) -> Target:
        if destination.is_audience_manager:
            from . import audience_manager

            return audience_manager.opened(scope, destination, secret)
        return self.open(scope.home, destination.settings, secret)

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
        return self._server.send("POST", self._path, self.headers(message), message.body, message.now)

    def headers(self, message: Message) -> dict[str, str]:
        return {
            "content-type": "application/json",
            "authorization": f"Bearer {self._token}",
            "webhook-id": message.id,
            "webhook-timestamp": str(message.now),
        }

    def close(self) -> None:
        self._server.close()
