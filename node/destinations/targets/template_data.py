"""What a template of a message sees and what it may do with it: JSON by key, and the filters, tests and functions.

They are Adobe's and Pebble's, by their names, as far as they are of use for a message.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from jinja2 import ChainableUndefined


class Wrong(Exception):
    """A template that cannot be used, or what it makes; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Nothing(ChainableUndefined):
    """What is not there: it prints as nothing, and is equal to null."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, ChainableUndefined)

    def __hash__(self) -> int:
        return 0


class Entry:
    """One entry of a map."""

    __slots__ = ("key", "value")

    def __init__(self, key: str, value: object) -> None:
        self.key, self.value = key, value


class Map:
    """A JSON object: it is read by key, and gives its entries where it is gone through."""

    __slots__ = ("items",)

    def __init__(self, items: Mapping[str, object]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Entry]:
        return (Entry(key, wrapped(value)) for key, value in self.items.items())

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, key: object) -> bool:
        return key in self.items

    def get(self, key: object) -> object:
        return wrapped(self.items.get(key)) if isinstance(key, str) else Nothing()


def wrapped(value: object) -> object:
    """Return JSON as templates see it."""
    if value is None:
        return Nothing()
    if isinstance(value, dict):
        return Map(value)
    return [wrapped(each) for each in value] if isinstance(value, list) else value


def _is_empty(value: object) -> bool:
    if value is None or isinstance(value, ChainableUndefined):
        return True
    return isinstance(value, str | list | Map) and not len(value)


def _by_status(value: object, status: str) -> object:
    """Return the segments of a status, of one namespace or of all."""
    if _is_empty(value):
        return Map({})
    if not isinstance(value, Map):
        raise Wrong("segments are asked of what is no map of them", "write segmentMembership.ups, or segmentMembership")
    found: dict[str, object] = {}
    for key, each in value.items.items():
        inner = each if isinstance(each, dict) else {}
        of_namespace = {key: inner} if "status" in inner else inner
        found |= {
            name: one for name, one in of_namespace.items() if isinstance(one, dict) and one.get("status") == status
        }
    return Map(found)


def _has_segments(value: object) -> bool:
    if not isinstance(value, Map):
        return False
    return any(isinstance(each, dict) and each for each in value.items.values())


def _each(value: object) -> object:
    if value is None or isinstance(value, ChainableUndefined):
        return []
    if isinstance(value, list | Map):
        return value
    raise Wrong("a loop goes through what is neither a list nor a map")


def _list(value: object) -> list[object]:
    found = _each(value)
    return list(found) if isinstance(found, Map) else found  # type: ignore[return-value]


def _parts(value: object) -> list[object]:
    return list(value) if isinstance(value, str) else _list(value)


def _told(value: object) -> str:
    if value is None or isinstance(value, ChainableUndefined):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise Wrong("a list or a map is used as text")
    return str(value)


def _replace(value: object, pairs: object) -> str:
    text = _told(value)
    if not isinstance(pairs, dict) or not all(isinstance(each, str) and each for each in pairs):
        raise Wrong("replace takes a map of texts")
    for old, new in pairs.items():
        text = text.replace(old, _told(new))
    return text


def _date(value: object, format: object = "yyyy-MM-dd'T'HH:mm:ssX", existingFormat: object = None) -> str:
    """Return an RFC 3339 time in a form of Java's: what is in quotes stays, letters stand for parts of the time."""
    text = _told(value)
    if not text:
        return ""
    at = datetime.fromisoformat(re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text))
    zone = at.strftime("%z") or "+0000"
    parts = {"yyyy": f"{at.year:04}", "MM": f"{at.month:02}", "dd": f"{at.day:02}", "HH": f"{at.hour:02}"}
    parts |= {"mm": f"{at.minute:02}", "ss": f"{at.second:02}", "SSS": f"{at.microsecond // 1000:03}", "Z": zone}
    parts |= {"X": "Z" if zone == "+0000" else zone[:3], "XXX": "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"}
    made = []
    for found in re.finditer(r"'([^']*)'|([A-Za-z])\2*|.", _told(format)):
        piece = found[0]
        if found[2] and piece not in parts:
            raise Wrong(f"a date has no part {piece[:10]}", f"its parts are {', '.join(parts)}")
        made.append(found[1] if found[1] is not None else parts.get(piece, piece))
    return "".join(made)


def _default(value: object, other: object = "") -> object:
    return other if _is_empty(value) else value


FUNCTIONS = ("addedSegments", "removedSegments", "hasSegments")
FILTERS: dict[str, Any] = {
    "_each": _each,
    "added": lambda value: _by_status(value, "realized"),
    "removed": lambda value: _by_status(value, "exited"),
    "upper": lambda value: _told(value).upper(),
    "lower": lambda value: _told(value).lower(),
    "trim": lambda value: _told(value).strip(),
    "capitalize": lambda value: _told(value)[:1].upper() + _told(value)[1:],
    "title": lambda value: _told(value).title(),
    "length": lambda value: 0 if _is_empty(value) else len(value),
    "first": lambda value: next(iter(_parts(value)), Nothing()),
    "last": lambda value: next(iter(_parts(value)[-1:]), Nothing()),
    "reverse": lambda value: _list(value)[::-1],
    "join": lambda value, between="": _told(between).join(map(_told, _list(value))),
    "default": _default,
    "replace": _replace,
    "date": _date,
    "sha256": lambda value: hashlib.sha256(_told(value).encode()).hexdigest(),
    "base64encode": lambda value: base64.b64encode(_told(value).encode()).decode(),
    "urlencode": lambda value: quote(_told(value), safe=""),
}
TESTS: dict[str, Any] = {
    "empty": _is_empty,
    "null": lambda value: value is None or isinstance(value, ChainableUndefined),
    "defined": lambda value: not isinstance(value, ChainableUndefined),
    "map": lambda value: isinstance(value, Map),
    "iterable": lambda value: isinstance(value, list | Map),
    "even": lambda value: isinstance(value, int) and value % 2 == 0,
    "odd": lambda value: isinstance(value, int) and value % 2 == 1,
}
GLOBALS: dict[str, Any] = {
    "null": None,
    "addedSegments": FILTERS["added"],
    "removedSegments": FILTERS["removed"],
    "hasSegments": _has_segments,
}
