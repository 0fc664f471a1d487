"""Identities as targets read them: hashes in hex, device ids as UUIDs, all others as the text that they are."""

from psi.values import Values

from ...inputs.normalise import rule
from .. import primaries
from ..primaries import PRIMARY
from ..records import PROFILE_ID

_UUIDS = ("idfa", "gaid", "idfv")
_CODES = {  # of the Experience Cloud; all others keep their names
    "ecid/digits-v1": "ECID",
    "gaid/uuid-v1": "GAID",
    "idfa/uuid-v1": "IDFA",
    "email_sha256/lc-v1": "email_lc_sha256",  # of no other rule
}


def texts(values: Values, identity: str) -> list[str]:
    """Return identities of a namespace ("email_sha256/lc-v1"), or profile ids, as text."""
    found = None if identity == PROFILE_ID else rule(identity)
    if found is not None and found.namespace in _UUIDS:
        uuids = [f"{each[:8]}-{each[8:12]}-{each[12:16]}-{each[16:20]}-{each[20:]}" for each in _hex(values)]
        return [each.upper() for each in uuids] if found.namespace == "idfa" else uuids
    if found is not None and (found.hashed or found.namespace == "android_id"):
        return _hex(values)
    width, content = values.rows.shape[1] or 1, values.rows.tobytes()
    if values.lengths is None:
        return [content[start : start + width].decode() for start in range(0, len(content), width)]
    places = zip(range(0, len(content), width), values.lengths.tolist(), strict=True)
    return [content[start : start + length].decode() for start, length in places]


def namespace(identity: str) -> str:
    """Return the name under which targets know an identity."""
    return identity.partition("/")[0]


def named(values: Values, identity: str) -> list[tuple[str, str]]:
    """Return identities as text, each with the code of its namespace in messages."""
    if identity != PRIMARY:
        name = code(identity)
        return [(name, text) for text in texts(values, identity)]
    found = [("", "")] * len(values)
    for each, places, own in primaries.split(values):
        name = code(each)
        for place, text in zip(places.tolist(), texts(own, each), strict=True):
            found[place] = name, text
    return found


def code(identity: str) -> str:
    """Return the name that a namespace has in an identityMap."""
    return _CODES.get(identity, namespace(identity))


def _hex(values: Values) -> list[str]:
    width, content = 2 * values.rows.shape[1] or 1, values.rows.tobytes().hex()
    return [content[start : start + width] for start in range(0, len(content), width)]
