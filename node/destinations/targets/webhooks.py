"""A webhook as a destination: JSON by HTTPS, signed by the Standard Webhooks specification.

The id of a message and its body stay the same on each try, the timestamp and with it the signature do not.
"""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...errors import InvalidInput
from ...transport.addresses import AllowedAddresses
from .. import aggregation
from ..kinds import Audience, Batch, Delivered, Message, Outcome, Setting, Settings
from ..mapping import checked_fields
from . import audience_calls, payload, templates
from .audience_calls import AudienceCalls
from .https import AUTHORITIES, WebServer, allowed_addresses, checked_authorities, checked_url, path_of

if TYPE_CHECKING:
    from ...access.scope import Home

PREFIX = "whsec_"
SECRET_BYTES, FEWEST, MOST = 32, 24, 64  # of a secret: ours, and what the specification allows


class _Webhook:
    text = "an HTTPS address that gets signed JSON (Standard Webhooks)"
    settings = (
        Setting(name="url", text="the address, such as https://crm.example.com/vesica", needed=True),
        AUTHORITIES,
        Setting(name="form", text="audience-manager, for the messages of Audience Manager's real-time transfers"),
        templates.SETTING,
        *audience_calls.SETTINGS,
        Setting(
            name="required",
            text="fields that have to be mapped, such as email_status,person.name.firstName",
            may_change=True,
        ),
    )
    limit = 1_000
    most = 10_000  # where it is set
    signs = True

    def checked(self, settings: Settings) -> dict[str, str]:
        checked_url(settings["url"], "a webhook")
        if settings.get("form"):
            raise InvalidInput(
                f"there is no form {settings['form'][:20]!r}", hint="write form=audience-manager, or leave it out"
            )
        kept = {"url": settings["url"], **checked_authorities(settings), **audience_calls.checked(settings)}
        if settings.get("required"):
            kept["required"] = checked_fields(settings["required"])
        if settings.get("template"):
            kept["template"] = templates.checked(
                settings["template"],
                group=settings.get("group") == aggregation.STATUS,
                one=settings.get("max_users_per_request") == "1",
            )
        return kept

    def follows_names(self, settings: Settings) -> bool:
        return "template" not in settings or "audience-id" in settings

    def shown(self, settings: Settings) -> dict[str, str]:
        return audience_calls.shown(settings)

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
        keys = (_key(each) for each in (secret or b"").split())
        return WebhookTarget(settings, allowed_addresses(home), *filter(None, keys))


WEBHOOK = _Webhook()


class WebhookTarget:
    """An open webhook; each key signs, the newest first."""

    def __init__(self, settings: Settings, allowed: AllowedAddresses, *keys: bytes) -> None:
        self._settings, self._url, self._keys = settings, settings["url"], keys
        self._path = path_of(urlsplit(self._url))
        self._server = WebServer(self._url, allowed, settings.get("authorities"))
        self._calls = (settings.get("audiences", "{}"), allowed, settings.get("authorities"))
        self._renderer = templates.Renderer(settings["template"]) if settings.get("template") else None

    def check(self, now: int) -> Outcome:
        outcome = self.send(payload.check(self._url, now))
        if not isinstance(outcome, Delivered):
            return outcome
        return AudienceCalls(*self._calls).validate(self._settings, now)

    def encode(self, batch: Batch) -> bytes:
        return payload.encode(batch) if self._renderer is None else self._renderer.render(batch)

    def send(self, message: Message) -> Outcome:
        assert self._keys
        headers = {"content-type": "application/json", **signed(message, *self._keys)}
        return self._server.send("POST", self._path, headers, message.body, message.now)

    def poll(self, handle: str, now: int) -> Outcome:
        return self._server.poll(handle, signed(payload.of_no_batch(handle, now), *self._keys), now)

    def audience(self, event: str, audience: Audience, key: str, now: int) -> tuple[Outcome, str | None]:
        """Make, rename or delete what the target calls a segment; return how that went, and the id that it gives."""
        return AudienceCalls(*self._calls).call(event, audience, key, now)

    def close(self) -> None:
        self._server.close()
        if self._renderer is not None:
            self._renderer.close()


def signed(message: Message, *keys: bytes) -> dict[str, str]:
    """Return the headers that the specification asks for: HMAC-SHA256 over id, timestamp and body, by each key."""
    content = f"{message.id}.{message.now}.".encode() + message.body
    signatures = (base64.b64encode(hmac.digest(each, content, "sha256")).decode() for each in keys)
    return {
        "webhook-id": message.id,
        "webhook-timestamp": str(message.now),
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }


def _key(secret: bytes) -> bytes | None:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX.encode()), validate=True)
    except (binascii.Error, ValueError):
        return None
