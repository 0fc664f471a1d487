"""The Connect ID: what one party hands the other out of band to be found, recognised and allowed to ask.

    'vesica1' + base32(version flags length address key project secret expires checksum)

lower-case and unpadded; the checksum is the first 4 bytes of SHA-256 over all before it.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import Self

from .errors import InvalidConnectId

PREFIX = "vesica1"
PROXY = 1  # flag: TLS ends at a proxy with an ordinary certificate; identity rests on the signatures alone
LIFETIME = 30 * 86_400  # seconds that a Connect ID is good for
_VERSION = 1
_CHECKSUM = 4
_FIXED = 3 + 32 + 16 + 16 + 4  # all but address and checksum
_MAX_TEXT = 600  # of an address of 255 characters, with room
_ADDRESS = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):([1-9][0-9]{0,4})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectId:
    """Who can be asked, where, and until when.

    `address` is HOST:PORT, `key` the node's Ed25519 public key (32), `project` 16 bytes, `expires` Unix seconds. Who
    holds `secret` (16) may ask for a connection; no message contains it.
    """

    flags: int
    address: str
    key: bytes
    project: bytes
    secret: bytes = field(repr=False)
    expires: int

    def __post_init__(self) -> None:
        sizes = len(self.key), len(self.project), len(self.secret)
        if sizes != (32, 16, 16) or self.flags & ~PROXY or not 0 <= self.expires < 2**32:
            raise InvalidConnectId("a Connect ID has fields of the wrong size", hint=_ASK)
        check_address(self.address)

    @property
    def proxy(self) -> bool:
        return bool(self.flags & PROXY)

    def encode(self) -> str:
        """Return the text, about 150 characters."""
        address = self.address.encode()
        payload = bytes([_VERSION, self.flags, len(address)]) + address + self.key + self.project + self.secret
        payload += self.expires.to_bytes(4, "big")
        payload += _checksum(payload)
        return PREFIX + base64.b32encode(payload).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the Connect ID that `text` is, white space around it aside. Raise InvalidConnectId if a character is wrong."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise InvalidConnectId(f"this is not a Connect ID: it does not start with {PREFIX}", hint=_ASK)
        if not re.fullmatch(r"[a-z2-7]+", text[len(PREFIX) :], re.ASCII) or len(text) > _MAX_TEXT:
            raise InvalidConnectId("this Connect ID has characters that do not belong there", hint=_COPY)
        try:
            encoded = text[len(PREFIX) :].upper()
            payload = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
        except binascii.Error as error:
            raise InvalidConnectId("this Connect ID is cut off", hint=_COPY) from error
        if len(payload) < _FIXED + _CHECKSUM or payload[-_CHECKSUM:] != _checksum(payload[:-_CHECKSUM]):
            raise InvalidConnectId("this Connect ID is mistyped or cut off: its checksum is wrong", hint=_COPY)
        version, flags, size = payload[:3]
        if version != _VERSION:
            raise InvalidConnectId(f"this Connect ID is of version {version}", hint="install a newer Vesica")
        rest = payload[3 + size : -_CHECKSUM]
        try:
            address = payload[3 : 3 + size].decode("ascii")
        except UnicodeDecodeError as error:
            raise InvalidConnectId("the address in this Connect ID is not text", hint=_ASK) from error
        parsed = cls(
            flags=flags,
            address=address,
            key=rest[:32],
            project=rest[32:48],
            secret=rest[48:64],
            expires=int.from_bytes(rest[64:], "big"),
        )
        if parsed.encode() != text:
            raise InvalidConnectId("this Connect ID is not in its one proper form", hint=_COPY)
        return parsed

    def check_expiry(self, now: int) -> None:
        """Raise InvalidConnectId if it has expired at `now` (Unix seconds)."""
        if now >= self.expires:
            raise InvalidConnectId("this Connect ID has expired", hint=_ASK)


_ASK = "ask the partner for its current Connect ID"
_COPY = "copy it again, whole; every character counts"


def check_address(address: str) -> None:
    """Raise InvalidConnectId unless `address` is HOST:PORT (an IPv6 host in brackets)."""
    match = _ADDRESS.fullmatch(address)
    if not match or len(address) > 255 or int(match[3]) > 65_535:
        raise InvalidConnectId("an address must be HOST:PORT", hint="for example vesica.example.com:7443")


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + payload).digest()[:_CHECKSUM]
