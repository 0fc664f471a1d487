"""Identities as targets read them: hashes in hex, device ids as UUIDs, all others as the text that they are."""

import uuid
from collections.abc import Callable

from psi.values import Values

from ..inputs.normalise import rule
from .records import PROFILE_ID

_UUIDS = ("idfa", "gaid", "idfv")


def texts(values: Values, identity: str) -> list[str]:
    """Return identities of a namespace ("email_sha256/lc-v1"), or profile ids, as text."""
    spell = _spelling(identity)
    return [spell(values[place]) for place in range(len(values))]


def namespace(identity: str) -> str:
    """Return the name under which targets know an identity."""
    return identity.partition("/")[0]


def _spelling(identity: str) -> Callable[[bytes], str]:
    if identity == PROFILE_ID:
        return bytes.decode
    found = rule(identity)
    if found.namespace in _UUIDS:
        upper = found.namespace == "idfa"
        return lambda value: str(uuid.UUID(bytes=value)).upper() if upper else str(uuid.UUID(bytes=value))
    if found.hashed or found.namespace == "android_id":
        return bytes.hex
    return bytes.decode
