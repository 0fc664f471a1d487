"""An object store as a destination, S3 and what speaks it: an object for each batch, in order of their names.

A message that comes again is put under the same key with the same bytes. botocore signs the request, with nothing but the
keys that were given; it is sent as every other one, to an address that was checked.
"""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from ...errors import InvalidInput
from ...storage.files import below
from ...transport.addresses import AllowedAddresses
from ..kinds import Batch, Delivered, Gone, Message, Outcome, Refused, Setting, Settings
from . import formats, outbound_files
from .https import AUTHORITIES, WebServer, allowed_addresses, checked_authorities, checked_url
from .outbound_files import OutboundFiles

if TYPE_CHECKING:
    from ...access.scope import Home

REGION = "us-east-1"  # what stores without regions take
TIMEOUT_SECONDS = 120.0  # for all of one object
TYPES = {
    "csv": "text/csv",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "sync": "text/plain",
    "gz": "application/gzip",
    "info": "application/json",
}
CHECK = ".vesica-check"
LONGEST_SECRET = 1_000
MISSING = Refused("http_404")  # which a store answers for the bucket alone: it is asked for no object
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_KEY_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=-]+(/[A-Za-z0-9!_.*'()=-]+)*")
LONGEST_PREFIX = 500


class _ObjectStore:
    text = "a bucket of S3, or of a store that speaks it, which gets an object for each batch of changes"
    settings = (
        Setting(name="bucket", text="the bucket, which has to exist", needed=True),
        Setting(
            name="access_key_id",
            text="the id of the access key; the secret key is the secret",
            needed=True,
            may_change=True,
        ),
        Setting(name="region", text=f"the region that requests are signed for; {REGION} unless given"),
        Setting(
            name="url",
            text="the store, such as https://minio.example.com, where the bucket comes first in the path unless the host "
            "begins with it; Amazon's unless given",
        ),
        Setting(name="prefix", text="what the keys of all objects begin with, such as audiences/crm"),
        *formats.SETTINGS,
        AUTHORITIES,
    )
    limit = 100_000
    reserved_fields = formats.HEADER

    def required_mappings_only(self, settings: Settings) -> bool:
        return settings["format"] == outbound_files.FORMAT

    def checked(self, settings: Settings) -> dict[str, str]:
        if find_spec("botocore") is None:
            raise InvalidInput(
                "an object store needs the package botocore",
                hint="install it beside Vesica: pip install 'vesica[objectstore]'",
            )
        region = settings.get("region") or REGION
        url = settings.get("url") or f"https://s3.{region}.amazonaws.com"
        prefix = (settings.get("prefix") or "").strip("/")
        given = {"bucket": settings["bucket"], "access_key_id": settings["access_key_id"], "region": region}
        for name, form in (("bucket", _BUCKET), ("access_key_id", _KEY_ID), ("region", _REGION)):
            if not form.fullmatch(given[name]):
                raise InvalidInput(f"that is no {name} of an object store", hint="copy it from the store's own pages")
        if prefix and (len(prefix) > LONGEST_PREFIX or not _PREFIX.fullmatch(prefix) or ".." in prefix):
            raise InvalidInput(
                "that is no prefix of keys", hint="use letters, digits and !_.*'()=- with / between them, 500 at most"
            )
        if checked_url(url, "an object store", here=True).query:
            raise InvalidInput("that is no address of an object store", hint="leave out what follows the ?")
        kept = given | {"url": url.rstrip("/"), "prefix": prefix, **formats.checked(settings)}
        return kept | checked_authorities(settings)

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        key = b"" if given is None else given.strip()
        if not 0 < len(key) <= LONGEST_SECRET or not key.isascii() or not key.decode().isprintable():
            raise InvalidInput(
                "an object store needs the secret key of its access key", hint="give it as the destination's secret"
            )
        return key

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> "ObjectStoreTarget":
        return ObjectStoreTarget(settings, allowed_addresses(home), "" if secret is None else secret.decode())


OBJECT_STORE = _ObjectStore()


class ObjectStoreTarget:
    """An open bucket."""

    def __init__(self, settings: Settings, allowed: AllowedAddresses, secret_key: str) -> None:
        self._settings, self._secret_key = settings, secret_key
        self._outbound = OutboundFiles.of(settings)
        url = urlsplit(settings["url"])
        bucket = settings["bucket"]
        names = [url.path.strip("/"), "" if (url.hostname or "").startswith(f"{bucket.lower()}.") else bucket]
        self._beginning = "".join(f"/{each}" for each in (*names, settings["prefix"]) if each)
        self._server = WebServer(settings["url"], allowed, settings.get("authorities"))

    def check(self, now: int) -> Outcome:
        outcome = self._request("PUT", CHECK, b"", now)
        self._request("DELETE", CHECK, b"", now)  # who may only write leaves an empty object
        return outcome

    def encode(self, batch: Batch) -> bytes:
        if self._outbound is not None:
            return self._outbound.encode(batch)
        return formats.encode(batch, self._settings["format"])

    def send(self, message: Message) -> Outcome:
        if self._outbound is not None:
            outcome: Outcome = Delivered()
            for name, body in outbound_files.files(message.body):
                outcome = self._request("PUT", below(Path(), name).as_posix(), body, message.now)
                if not isinstance(outcome, Delivered):
                    break
            return outcome
        name = f"{message.sequence:010}-{message.id}.{self._settings['format']}"
        return self._request("PUT", below(Path(), message.segment, name).as_posix(), message.body, message.now)

    def close(self) -> None:
        self._server.close()

    def _request(self, method: str, key: str, body: bytes, now: int) -> Outcome:
        target = quote(f"{self._beginning}/{key}", safe="/~")
        try:
            headers = self._signed(method, target, body)
        except ModuleNotFoundError:
            return Gone("package")
        outcome = self._server.send(method, target, headers, body, now, seconds=TIMEOUT_SECONDS)
        return Gone("bucket") if outcome == MISSING else outcome

    def _signed(self, method: str, target: str, body: bytes) -> dict[str, str]:
        """Return the headers of a request, signed by Signature Version 4 with the digest of the body."""
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        url = urlsplit(self._settings["url"])
        headers = {"host": self._server.host, "content-type": TYPES.get(target.rpartition(".")[2], "text/plain")}
        request = AWSRequest(method, f"{url.scheme}://{self._server.host}{target}", headers=headers, data=body)
        request.context["payload_signing_enabled"] = True
        credentials = Credentials(self._settings["access_key_id"], self._secret_key)
        S3SigV4Auth(credentials, "s3", self._settings["region"]).add_auth(request)
        return {name.lower(): str(value) for name, value in request.headers.items()}
