"""Messages as canonical msgpack: strict, size-limited, checked against the types of a dataclass.

A message class is its own schema: every `str`, `bytes`, `int`, tuple and dict carries a `Limit`. Encodings are
canonical (keys sorted, shortest forms), so that equal messages have equal bytes and a digest or a signature covers one
meaning.
"""

import dataclasses
import hashlib
import re
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from fractions import Fraction
from functools import cache
from typing import Annotated, ClassVar, NoReturn, Self, Union, cast, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from psi.hashing import length_prefixed
from psi.join import first_disorder
from psi.values import U8

from .errors import LocalProtocolError, Malformed, RemoteProtocolError

VERSION = 1
MAX_PAYLOAD = 960 * 1024  # proxies stop at 1 MiB a body
MAX_BODY = MAX_PAYLOAD + 4096  # and the fields around the payload
MAX_BODY_OF_STRANGERS = 16 * 1024  # a request to connect is smaller, and nobody has proven anything by then
MAX_DEPTH = 8  # no message nests deeper; keeps the walk off the interpreter's recursion limit
MAX_VALUES = 75_000  # in one message, keys of maps too: a feed version of 512 segments with 128 labels each has 70,000
TAGS_PER_CHUNK = MAX_PAYLOAD // 16
MAX_NUMBER = 2**63 - 1  # fits the store's integers

Document = dict[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of one value: of an int itself, of the length of anything else (UTF-8 bytes for a str)."""

    least: int
    most: int
    multiple: int = 1
    pattern: str = ""


def _bytes(size: int) -> Limit:
    return Limit(size, size)


Id = Annotated[bytes, _bytes(16)]
Digest = Annotated[bytes, _bytes(32)]
PublicKey = Annotated[bytes, _bytes(32)]
Signature = Annotated[bytes, _bytes(64)]
Number = Annotated[int, Limit(0, MAX_NUMBER)]
Moment = Annotated[int, Limit(0, 253_402_300_799)]  # Unix seconds, up to the end of the year 9999
Short = Annotated[str, Limit(1, 255)]
Name = Annotated[str, Limit(1, 63, pattern=r"[a-z0-9][a-z0-9._-]*")]  # safe to print, and to paste into a command
Text = Annotated[str, Limit(0, 4096)]
Namespace = Annotated[str, Limit(3, 127, pattern=r"[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*")]
Points = Annotated[bytes, Limit(0, MAX_PAYLOAD, multiple=32)]


def pack(document: Mapping[str, object]) -> bytes:
    """Return the canonical bytes of a document of str, bytes, int, bool, None, lists and maps."""
    return bytes(msgpack.packb(_sorted(document, 0)))


def unpack(data: bytes, *, most: int = MAX_BODY) -> Document:
    """Return the map that `data` holds, in canonical form. Raise RemoteProtocolError for anything else."""
    if len(data) > most:
        raise RemoteProtocolError("too_large", f"a message of {len(data)} bytes; at most {most} are allowed")
    _check_values(data)
    try:
        document = msgpack.unpackb(data, strict_map_key=True, ext_hook=_no_extension, timestamp=0)
        canonical = pack(document) == data if isinstance(document, dict) else False
    except Malformed:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, KeyError, msgpack.UnpackException) as error:
        raise Malformed("not canonical msgpack") from error
    if not canonical:
        raise Malformed("not a map in canonical msgpack")
    return dict(document)


_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}  # bin to map
_EXTENSIONS = {0xC1, 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9)}  # and the one first byte that means nothing
_NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


def _check_values(data: bytes) -> None:
    """Raise Malformed if `data` has more values than any message: decoded, a byte of it may take a hundred.

    Only first bytes and lengths are read; whatever else is wrong is found by the decoder. An extension is refused here: the
    decoder has one of its own, for times, whose bytes are no values.
    """
    at, open_, values = 0, 1, 0
    while open_ and at < len(data):
        first = data[at]
        at, open_, values = at + 1, open_ - 1, values + 1
        if first in _LENGTHS:
            size = int.from_bytes(data[at : at + _LENGTHS[first]])
            at += _LENGTHS[first]
            if first < 0xDC:
                at += size
            else:
                open_ += size if first < 0xDE else 2 * size
        elif first in _NUMBERS:
            at += _NUMBERS[first]
        elif first in _EXTENSIONS:
            _no_extension()
        elif 0x80 <= first < 0xA0:
            open_ += first - 0x90 if first >= 0x90 else 2 * (first - 0x80)
        elif 0xA0 <= first < 0xC0:
            at += first - 0xA0
        if values + open_ > MAX_VALUES:
            raise Malformed(f"more than {MAX_VALUES} values in a message")


def _no_extension(*_: object) -> NoReturn:
    raise Malformed("extension types are not allowed")


def _sorted(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise Malformed("nested too deeply")
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            raise Malformed("map keys must be text")
        return {key: _sorted(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item, depth + 1) for item in value]
    if value is None or type(value) in (str, bytes, int, bool):
        return value
    raise Malformed(f"{type(value).__name__} values are not allowed")


class Message:
    """Base of every message: a frozen, keyword-only dataclass whose annotations are the schema."""

    __slots__ = ()
    TYPE: ClassVar[str]  # on the wire beside the version; empty for parts of other messages

    def check(self) -> None:
        """Raise Malformed where fields contradict each other; their types and limits have been checked already."""

    def encode(self) -> bytes:
        """Return the canonical bytes. Raise LocalProtocolError if a field is outside its limits."""
        data = pack({"v": VERSION, "type": self.TYPE, **self.document()})
        if len(data) > MAX_BODY:
            raise LocalProtocolError(f"cannot send {self.TYPE}: {len(data)} bytes; at most {MAX_BODY} are allowed")
        return data

    @classmethod
    def decode(cls, data: bytes, *, most: int = MAX_BODY) -> Self:
        """Return the message that `data` holds. Raise RemoteProtocolError for anything else."""
        document = unpack(data, most=most)
        check_version(document.pop("v", None))
        if (found := document.pop("type", None)) != cls.TYPE:
            raise RemoteProtocolError("type", f"expected a message of type {cls.TYPE}, got {_name(found)}")
        return cls.from_document(document)

    def document(self) -> Document:
        """Return the fields as plain values, checked as the receiver will check them."""
        assert dataclasses.is_dataclass(self)
        document = {field.name: _dump(getattr(self, field.name)) for field in dataclasses.fields(self)}
        try:
            self.from_document(document)
        except Malformed as error:
            raise LocalProtocolError(f"cannot send {self.TYPE or type(self).__name__}: {error}") from error
        return document

    @classmethod
    def from_document(cls, document: object, path: str = "") -> Self:
        """Check every field against its type and limit; `path` leads the text of an error."""
        message = load(cls, document, path or cls.TYPE)
        assert isinstance(message, cls)
        return message

    def digest(self) -> bytes:
        """Return SHA-256 over the labelled encoding (32 bytes)."""
        return hashlib.sha256(length_prefixed(b"vesica/1 digest", self.encode())).digest()

    def sign(self, sign: Callable[[bytes], bytes]) -> bytes:
        """Return `sign` (Ed25519) of the labelled encoding, 64 bytes."""
        return sign(length_prefixed(b"vesica/1 signature", self.encode()))

    def verify(self, signature: bytes, *keys: bytes) -> None:
        """Raise RemoteProtocolError unless the holder of one of the Ed25519 public `keys` signed this message.

        A node that has changed its key has several; what it signed before stays signed.
        """
        signed = length_prefixed(b"vesica/1 signature", self.encode())
        for key in keys:
            with suppress(InvalidSignature, ValueError):
                Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
                return
        raise RemoteProtocolError("signature", f"the signature of this {self.TYPE} is wrong")


def number(value: object, path: str, *, most: int = MAX_NUMBER) -> int:
    """Return an integer of a map that is no message, or raise Malformed naming `path`."""
    return cast(int, load(Annotated[int, Limit(0, most)], value, path))


def split(array: U8, size: int) -> list[bytes]:
    """Cut rows into chunks of `size` rows, at least one chunk, as bytes."""
    return [array[start : start + size].tobytes() for start in range(0, max(len(array), 1), size)]


def rows(data: bytes, width: int) -> U8:
    """Return bytes as uint8 (n, width); the length is a multiple already."""
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def check_sorted(step: str, points: U8) -> None:
    """Raise RemoteProtocolError unless the points ascend by encoding, which leaves no room for repetition either."""
    if found := first_disorder(points):
        index, repeated = found
        raise RemoteProtocolError("points", f"{step}: point {index} {'is repeated' if repeated else 'is out of order'}")


def check_version(version: object) -> None:
    """Raise RemoteProtocolError unless the partner speaks our version."""
    if version != VERSION or type(version) is not int:
        raise RemoteProtocolError("version", f"expected protocol version {VERSION}, got {_name(version)}")


def _name(value: object) -> str:
    """Name a hostile value without repeating more than a word of it."""
    if isinstance(value, str) and re.fullmatch(r"[a-z_.-]{1,32}", value):
        return value
    return str(value) if type(value) is int and abs(value) < 2**32 else type(value).__name__


@cache
def _fields(cls: object) -> Mapping[str, object]:
    assert isinstance(cls, type)
    assert dataclasses.is_dataclass(cls)
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _dump(value: object) -> object:
    match value:
        case Message():
            return value.document()
        case tuple():
            return [_dump(item) for item in value]
        case Mapping():
            return {key: _dump(item) for key, item in value.items()}
        case Enum():
            return value.value
        case Fraction():
            return str(value)
    return value


def load(hint: object, value: object, path: str) -> object:
    """Return `value` as the type `hint` says, or raise Malformed naming `path` (never the value)."""
    limit = None
    if get_origin(hint) is Annotated:
        hint, limit = get_args(hint)
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return load(_option(get_args(hint), value), value, path)
    if isinstance(origin, type) and issubclass(origin, Message):
        return _load_message(origin, _fields(hint), value, path)
    if isinstance(origin, type) and issubclass(origin, Enum):
        if value not in [member.value for member in origin]:
            raise Malformed(f"{path}: not one of the allowed words")
        return origin(value)
    if origin is Fraction:
        return _load_fraction(value, path)
    wanted = list if origin is tuple else origin
    if type(value) is not wanted:
        raise Malformed(f"{path}: expected {getattr(wanted, '__name__', wanted)}, got {type(value).__name__}")
    if limit is not None:
        _check_limit(limit, value, path)
    if isinstance(value, list):
        return tuple(load(get_args(hint)[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if isinstance(value, dict):
        key_hint, item_hint = get_args(hint)
        return {load(key_hint, key, path): load(item_hint, item, f"{path}.{_name(key)}") for key, item in value.items()}
    return value


def _option(options: tuple[object, ...], value: object) -> object:
    """Return the member of a union that `value` must be: the one of its own type, else the first."""
    bases = [get_args(option)[0] if get_origin(option) is Annotated else option for option in options]
    return next((option for option, base in zip(options, bases, strict=True) if type(value) is base), options[0])


def _load_message(cls: type[Message], fields: Mapping[str, object], value: object, path: str) -> Message:
    if type(value) is not dict:
        raise Malformed(f"{path}: expected a map, got {type(value).__name__}")
    if fields.keys() != value.keys():
        missing = ", ".join(sorted(fields.keys() - value.keys())) or "none"
        raise Malformed(f"{path}: missing fields: {missing}; unknown fields: {len(value.keys() - fields.keys())}")
    message = cls(**{name: load(hint, value[name], f"{path}.{name}") for name, hint in fields.items()})
    message.check()
    return message


def _load_fraction(value: object, path: str) -> Fraction:
    if type(value) is str and re.fullmatch(r"[0-9]{1,9}(/[1-9][0-9]{0,8})?", value, re.ASCII):
        fraction = Fraction(value)
        if fraction > 0 and str(fraction) == value:
            return fraction
    raise Malformed(f"{path}: expected a positive fraction in lowest terms, such as 1/20")


def _check_limit(limit: Limit, value: object, path: str) -> None:
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise Malformed(f"{path}: not UTF-8") from error
        if "\0" in value:  # some stores take none
            raise Malformed(f"{path}: holds the character 0")
        if limit.pattern and not re.fullmatch(limit.pattern, value, re.ASCII):
            raise Malformed(f"{path}: not of the form {limit.pattern}")
    else:
        size = value if isinstance(value, int) else len(value)  # type: ignore[arg-type]
    if not limit.least <= size <= limit.most or size % limit.multiple:
        multiple = f", a multiple of {limit.multiple}" if limit.multiple > 1 else ""
        raise Malformed(f"{path}: {size} is outside {limit.least}..{limit.most}{multiple}")
