"""Messages of another node's platform: read strictly, for they may say anything. An id that is none costs itself."""

import json
import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.labels import spelled_label

from ..errors import InvalidInput, printable
from ..inputs.normalise import normalise, rule
from . import platform
from .platform import LONGEST, Arrival, Members
from .records import MAX_NAME

if TYPE_CHECKING:
    from ..transport.operator_endpoint import Answer
    from .routes import Call

MOST_PROFILES = 20_000
MOST_SEGMENTS = 1_000
MOST_CHANGES = 1_000_000  # each id of a profile times each of its segments
MOST_LABELS = 128  # of a segment
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
TYPE, CHECK = "segment.members.changed", "vesica.check"
_NAMESPACES = {  # by the code in an identityMap
    "ECID": "ecid/digits-v1",
    "GAID": "gaid/uuid-v1",
    "IDFA": "idfa/uuid-v1",
    "email_lc_sha256": "email_sha256/lc-v1",
}
_PLACES = {"ups", "VesicaFeed", "VesicaShared"}
_HINT = "send what the schema of segment.members.changed describes"
_Said = dict[str, dict[str, list[tuple[str, bool]]]]  # by segment and namespace: ids, and whether each came


def answer(call: "Call") -> "Answer":
    """Take a message of a user who may receive, and say how many ids came, left and were none."""
    from ..transport.operator_endpoint import json_answer

    arrivals, rejected = read(call.body, call.headers)
    mine = [replace(each, caller=call.caller.name or "", allowed=call.sources) for each in arrivals]
    done = [platform.take(call.scope, each) for each in mine]
    added, removed = sum(each.added for each in done), sum(each.removed for each in done)
    return json_answer({"added": added, "removed": removed, "rejected": rejected})


def read(body: bytes, headers: Any) -> tuple[list[Arrival], int]:
    """Return what a message says of each segment, and how many ids of it are none; raises InvalidInput."""
    message = _document(body)
    if message.get("type") == CHECK:
        return [], 0
    data = _map(message, "type", "timestamp", "data")["data"]
    if message["type"] != TYPE:
        raise _wrong("its type")
    data = _map(data, "connection", "revision", "batch", "segments", "profiles")
    named, profiles = data["segments"], data["profiles"]
    if not isinstance(named, dict) or not named or not isinstance(profiles, list) or len(profiles) > MOST_PROFILES:
        raise _wrong("its segments or profiles")
    if len(named) > MOST_SEGMENTS:
        raise _wrong("too many segments")
    if not isinstance(data["connection"], str) or not all(type(data[each]) is int for each in ("revision", "batch")):
        raise _wrong("its connection, revision or batch")
    said: _Said = {_id(each): defaultdict(list) for each in named}
    left = MOST_CHANGES
    for profile in profiles:
        left = _read_profile(profile, said, left)
    sender, sequence = str(headers.get(platform.SENDER, "")) or data["connection"], _sequence(headers)
    way, rejected, found = headers.get(platform.WAY, platform.CONNECTION), 0, []
    if way not in (platform.OLDER, platform.CONNECTION):
        raise _wrong("its way of sharing")
    for segment, by_namespace in said.items():
        name, labels = _about(named[segment])
        members = []
        for namespace, ids in sorted(by_namespace.items()):
            one, none = _members(namespace, ids)
            rejected += none
            members += [one] if len(one.adds) else []
        found.append(
            Arrival(
                sender=_id(sender),
                sequence=sequence if profiles else None,
                older=way == platform.OLDER,
                segment=segment,
                name=name,
                labels=labels,
                members=members,
            )
        )
    return found, rejected


def _document(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        message = None
    if not isinstance(message, dict):
        raise _wrong("it is no JSON object")
    return message


def _read_profile(profile: Any, said: _Said, left: int) -> int:
    """Note what a profile says: the segments that each of its ids came into and left.

    Return how many of `left` changes may follow.
    """
    profile = _map(profile, "identityMap", "segmentMembership", "segments", "attributes")
    ids, changes = profile["identityMap"], _map(profile["segments"], "add", "remove")
    if not isinstance(ids, dict) or not ids or not isinstance(profile["attributes"], dict):
        raise _wrong("a profile")
    memberships = profile["segmentMembership"]
    if not isinstance(memberships, dict) or not memberships or not memberships.keys() <= _PLACES:
        raise _wrong("a segmentMembership")
    added, removed = (_names(changes[each], said) for each in ("add", "remove"))
    if added & removed:
        raise _wrong("a profile that came and left")
    for code, given in ids.items():
        if not isinstance(given, list) or not given:
            raise _wrong("an identityMap")
        texts = [_map(each, "id")["id"] for each in given]
        if not all(isinstance(each, str) and each for each in texts):
            raise _wrong("an id")
        left -= len(texts) * len(added | removed)
        if left < 0:
            raise _wrong("too many changes")
        for segment in added | removed:
            said[segment][code].extend((each, segment in added) for each in texts)
    return left


def _names(given: Any, said: _Said) -> set[str]:
    if not isinstance(given, list) or not all(isinstance(each, str) and each in said for each in given):
        raise _wrong("a segment that it does not name")
    return set(given)


def _members(code: str, ids: list[tuple[str, bool]]) -> tuple[Members, int]:
    """Return the members of a namespace, of an id that is named twice as it was last, and how many ids are none."""
    namespace = _NAMESPACES.get(code)
    last = dict(ids)
    if namespace is None:
        nobody = normalise(rule(platform.NAMESPACES[0]), [])
        return Members(namespace=platform.NAMESPACES[0], values=nobody.values, adds=np.zeros(0, bool)), len(last)
    found = normalise(rule(namespace), list(last), form="hashed" if rule(namespace).hashed else None)
    adds = np.fromiter(last.values(), bool, len(last))
    kept = found.keep
    members = Members(namespace=namespace, values=found.values.take(kept), adds=adds[kept])
    return members, len(last) - len(members.adds)


def _about(given: Any) -> tuple[str, tuple[str, ...]]:
    if not isinstance(given, dict) or not {"name", "labels"} <= given.keys() <= {"name", "labels", "external_id"}:
        raise _wrong("what it says of a segment")
    name, labels = given["name"], given["labels"]
    if not isinstance(name, str) or not isinstance(labels, list) or not all(isinstance(each, str) for each in labels):
        raise _wrong("the name or the labels of a segment")
    if len(labels) > MOST_LABELS or not all(_LABEL.fullmatch(each) for each in labels):
        raise _wrong("the labels of a segment")
    name = printable(name).strip()[:MAX_NAME].strip()
    if not name:
        raise _wrong("the name of a segment")
    return name, tuple(map(spelled_label, labels))


def _sequence(headers: Any) -> int | None:
    """Return the place of a message among those of its sender; None where that is not said: then it is taken as it comes."""
    text = str(headers.get(platform.SEQUENCE, ""))
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise _wrong("its sequence")
    return int(text)


def _id(text: Any) -> str:
    """Return an id of a segment or a sender: it becomes a part of a rule."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST or not text.isascii():
        raise _wrong("an id of a segment or of the sender")
    if not text.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise _wrong("an id of a segment or of the sender")
    return text


def _map(given: Any, *keys: str) -> dict[str, Any]:
    """Return an object that has these members and no others."""
    if not isinstance(given, dict) or given.keys() != set(keys):
        raise _wrong("its form")
    return given


def _wrong(what: str) -> InvalidInput:
    return InvalidInput(f"a message of the platform cannot be read: {what}", hint=_HINT)
