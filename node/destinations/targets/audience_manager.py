"""The Audience Manager side as a destination: this project's own, or that of another node, which has an address and a token.

Members go by their primary identities. Who receives learns the segment's name before its members, and each other name.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from psi.values import Values

from ...audiencemanager import platform
from ...audiencemanager.platform import Arrival, Members
from ...errors import InvalidInput, NotAllowed
from ...inputs.normalise import rule
from .. import primaries
from ..changes import Act
from ..kinds import Audience, Batch, Delivered, Message, Outcome, Refused, Setting, Settings, Target, Unusable
from ..solutions import checked_token
from . import payload
from .experience_cloud import SolutionTarget
from .https import AUTHORITIES, allowed_addresses, checked_authorities, checked_url

if TYPE_CHECKING:
    from ...access.scope import Home, Scope
    from ..records import Destination


class _AudienceManager:
    text = "the Audience Manager side of this project, or of another node, whose address takes a token"
    settings = (
        Setting(name="url", text="the address at another node, such as https://node.example.com/audiences"),
        AUTHORITIES,
    )
    limit = 5_000
    most = 10_000

    def checked(self, settings: Settings) -> dict[str, str]:
        if not settings.get("url"):
            if settings.get("authorities"):
                raise InvalidInput("this project's own Audience Manager side has no certificate", hint="leave it out")
            return {}
        checked_url(settings["url"], "an Audience Manager side", here=True)
        return {"url": settings["url"], **checked_authorities(settings)}

    def needs_secret(self, settings: Settings) -> bool:
        return "url" in settings

    def follows_names(self, settings: Settings) -> bool:
        return True

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        return None if given is None else checked_token(given, "an Audience Manager side")

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> Target:
        raise Unusable("plugin", "an Audience Manager side is opened for a project")

    def open_of(self, scope: "Scope", destination: "Destination", secret: bytes | None) -> Target:
        return opened(scope, destination, secret)


AUDIENCE_MANAGER = _AudienceManager()


def opened(scope: "Scope", destination: "Destination", secret: bytes | None) -> Target:
    """Open the side that a destination names, or the solution of a connection that is one."""
    if destination.is_here:
        return OwnSide(scope, destination.id, older=destination.of_all)
    return OtherSide(scope, destination, None if secret is None else secret.decode())


class OwnSide:
    """The Audience Manager side of the project itself: a message is an array of identities for each namespace."""

    def __init__(self, scope: "Scope", sender: str, *, older: bool) -> None:
        self._scope, self._sender, self._older = scope, sender, older

    def check(self, now: int) -> Outcome:
        return Delivered()

    def encode(self, batch: Batch) -> bytes:
        groups = [
            (namespace, values.rows.tobytes(), (batch.acts[places] == Act.ADD).tobytes())
            for namespace, places, values in primaries.split(batch.values)
        ]
        packed: bytes = msgpack.packb([batch.segment_id, batch.segment, batch.labels, groups])
        return packed

    def as_text(self, batch: Batch) -> bytes:
        """Return the message as another node would get it, for people to read."""
        return payload.encode(batch)

    def send(self, message: Message) -> Outcome:
        segment, name, labels, groups = msgpack.unpackb(message.body)
        members = [_members(*group) for group in groups]
        about = {"segment": segment, "name": name, "labels": tuple(labels), "members": members}
        return self._taken(message.sequence, about)

    def audience(self, event: str, audience: Audience, key: str, now: int) -> tuple[Outcome, str | None]:
        """Have the side know a segment by its name; who is in it left before it is deleted."""
        if event == "delete":
            return Delivered(), None
        about = {"segment": audience.id, "name": audience.name, "labels": audience.labels, "members": ()}
        return self._taken(None, about), None

    def _taken(self, sequence: int | None, about: dict[str, Any]) -> Outcome:
        try:
            platform.take(self._scope, Arrival(sender=self._sender, sequence=sequence, older=self._older, **about))
        except (InvalidInput, NotAllowed) as error:
            return Refused("rejected", answer=str(error))
        return Delivered()

    def close(self) -> None:
        pass


def _members(namespace: str, rows: bytes, adds: bytes) -> Members:
    values = np.frombuffer(rows, np.uint8).reshape(-1, rule(namespace).width)
    return Members(namespace=namespace, values=Values(values), adds=np.frombuffer(adds, np.bool_))


class OtherSide(SolutionTarget):
    """That of another node: a solution that is told which destination sends, and in which order."""

    def __init__(self, scope: "Scope", destination: "Destination", token: str | None) -> None:
        super().__init__(destination.settings, allowed_addresses(scope.home), token)
        self._sender, self._name = destination.id, destination.name
        self._older = destination.of_all

    def headers(self, message: Message) -> dict[str, str]:
        more = {platform.SENDER: self._sender, platform.WAY: platform.OLDER if self._older else platform.CONNECTION}
        if message.sequence:
            more[platform.SEQUENCE] = str(message.sequence)
        return {**super().headers(message), **more}

    def audience(self, event: str, audience: Audience, key: str, now: int) -> tuple[Outcome, str | None]:
        """As OwnSide.audience."""
        if event == "delete":
            return Delivered(), None
        return self.send(payload.about(self._name, audience, key, now)), None
