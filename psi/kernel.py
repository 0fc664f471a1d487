"""The group operations over whole batches, and the only door to the library that computes them.

ristretto255 (RFC 9496) with SHA-512, as RFC 9497 uses them. A batch is a C-contiguous uint8 array, one row an
element: points and scalars have 32 bytes, hashes 64. Values come as `psi.values.Values`, with a prefix that stands
before each of them. Every function takes batches of any size, also none.

libsodium answers (`psi._sodium`), called with addresses that step through whole arrays. Its calls drop the GIL, so the
chunks of a batch run in `threads` threads, and its scalar multiplication is constant-time. What Python does around it
(hashing, copying rows) branches on lengths and on public outcomes, never on the content of scalars or values.

An element decodes in one way only: canonically, and never to the identity. Whatever else arrives raises InvalidPoint
with the index of the first such row. Scalars are 1 .. L-1, little-endian; others raise InvalidScalar.
"""

import ctypes
import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from functools import cache
from itertools import repeat
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ._sodium import libsodium
from .errors import DuplicatePoint, InvalidPoint, InvalidScalar, WrongCount
from .join import first_repeat
from .values import U8, Values

ORDER = 2**252 + 27742317777372353535851937790883648493  # L, RFC 9496 section 4
GENERATOR = bytes.fromhex("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76")
CHUNK = 1024  # elements a thread takes at once: some 70 ms of curve work, beside which a task costs nothing

threads = os.cpu_count() or 1

T = TypeVar("T")


class Mode(IntEnum):
    """The modes of RFC 9497 (section 3.1). Vesica speaks VOPRF; OPRF is here for the RFC's vectors."""

    OPRF = 0
    VOPRF = 1

    def label(self, name: bytes) -> bytes:
        """Return `name || contextString`, the RFC's domain separation tag of a purpose."""
        return name + b"OPRFV1-" + bytes([self]) + b"-ristretto255-SHA512"


def name() -> str:
    """Return which library answers, with its version."""
    return f"libsodium {libsodium().version}"


# Elements


def hash_to_group(prefix: bytes, values: Values, mode: Mode = Mode.VOPRF) -> U8:
    """Return HashToGroup(prefix || value) of RFC 9497 for each value, uint8 (n, 32)."""
    return from_uniform(_expand(prefix, values, mode.label(b"HashToGroup-")))


def from_uniform(uniform: U8) -> U8:
    """Return the element that each 64-byte row maps to, uint8 (n, 32) (RFC 9496, section 4.3.4)."""
    uniform = _batch(uniform, 64)
    elements = np.empty((len(uniform), 32), np.uint8)
    _each(len(uniform), libsodium().from_hash, elements, uniform)
    return elements


def hash_and_multiply(prefix: bytes, values: Values, scalar: bytes, mode: Mode = Mode.VOPRF) -> U8:
    """Return scalar * HashToGroup(prefix || value) for each value, uint8 (n, 32)."""

    def multiply_chunk(start: int, stop: int) -> U8:
        return multiply(hash_to_group(prefix, _part(values, start, stop), mode), scalar)

    return np.concatenate([np.empty((0, 32), np.uint8), *_chunked(len(values), multiply_chunk)])


def multiply(points: U8, scalar: bytes) -> U8:
    """Return scalar * point for each point, uint8 (n, 32). The points are decoded strictly."""
    points = _batch(points, 32)
    products = np.empty_like(points)
    factor = np.frombuffer(check_scalar(scalar), np.uint8)
    _refuse(points, _each(len(points), libsodium().multiply, products, factor, points))
    return products


def multiply_each(points: U8, scalars: U8) -> U8:
    """Return scalars[i] * points[i], uint8 (n, 32); one row of points stands for all. Points are decoded strictly."""
    scalars = check_scalars(scalars)
    points = _batch(np.broadcast_to(points, scalars.shape) if len(points) == 1 else points, 32)
    _same_count("scalars", points, scalars)
    products = np.empty_like(points)
    _refuse(points, _each(len(points), libsodium().multiply, products, scalars, points))
    return products


def multiply_base(scalars: U8) -> U8:
    """Return scalars[i] * G, uint8 (n, 32)."""
    scalars = check_scalars(scalars)
    products = np.empty_like(scalars)
    _each(len(scalars), libsodium().multiply_base, products, scalars)
    return products


def multi_scalar(scalars: U8, points: U8) -> bytes:
    """Return the sum of scalars[i] * points[i], 32 bytes; the empty sum is the identity. Points are decoded strictly.

    The library has no shared-doubling sum and its addition costs a quarter of a multiplication, so that Pippenger's
    buckets would lose: this is one multiplication and one addition an element.
    """
    products = multiply_each(points, scalars)
    sums = _chunked(len(products), lambda start, stop: _sum(products[start:stop]))
    return _sum(np.frombuffer(b"".join(sums), np.uint8).reshape(-1, 32))


def check(points: U8) -> None:
    """Decode every point strictly and refuse repetition: InvalidPoint or DuplicatePoint names the first bad index."""
    points = _batch(points, 32)
    valid = _each(len(points), libsodium().is_valid, points, expected=1)
    identity = _first((points == 0).all(axis=1))
    _refuse(points, min((index for index in (valid, identity) if index is not None), default=None))
    repeated = first_repeat(points)
    if repeated is not None:
        raise DuplicatePoint(repeated)


# Scalars


def check_scalar(scalar: bytes) -> bytes:
    """Return the scalar if it is in 1 .. L-1, else raise InvalidScalar."""
    return check_scalars(np.frombuffer(scalar, np.uint8).reshape(1, -1)).tobytes()


def check_scalars(scalars: U8) -> U8:
    """Return the scalars, uint8 (n, 32), if each is in 1 .. L-1, else raise InvalidScalar.

    Compared without a branch on the bytes: from the top one down, each row is below L, above it, or equal so far.
    """
    if scalars.ndim != 2 or scalars.shape[1] != 32:
        raise InvalidScalar("a scalar has 32 bytes")
    limit = np.frombuffer(ORDER.to_bytes(32, "little"), np.uint8)
    below = np.zeros(len(scalars), np.bool_)
    equal = ~below
    for place in range(31, -1, -1):
        below |= equal & (scalars[:, place] < limit[place])
        equal &= scalars[:, place] == limit[place]
    if not (below & scalars.any(axis=1)).all():
        raise InvalidScalar("a scalar is zero, or not reduced modulo the order of the group")
    return np.ascontiguousarray(scalars)


def reduce(uniform: U8) -> U8:
    """Return each 64-byte row as a little-endian number modulo L, uint8 (n, 32)."""
    uniform = _batch(uniform, 64)
    scalars = np.empty((len(uniform), 32), np.uint8)
    _each(len(uniform), libsodium().scalar_reduce, scalars, uniform)
    return scalars


def hash_to_scalar(prefix: bytes, values: Values, dst: bytes) -> U8:
    """Return HashToScalar(prefix || value) of RFC 9497, section 4.1, for each value under the tag `dst`, (n, 32)."""
    return reduce(_expand(prefix, values, dst))


def invert(scalar: bytes) -> bytes:
    """Return 1 / scalar modulo L, in constant time."""
    inverse = ctypes.create_string_buffer(32)
    libsodium().scalar_invert(inverse, check_scalar(scalar))
    return inverse.raw


def respond(nonce: bytes, challenge: bytes, secret: bytes) -> bytes:
    """Return nonce - challenge * secret modulo L, a Schnorr response, in constant time."""
    result = ctypes.create_string_buffer(32)
    libsodium().scalar_multiply(result, challenge, secret)
    libsodium().scalar_subtract(result, nonce, result)
    return result.raw


# Hashes


def finalize(prefix: bytes, values: Values, elements: U8) -> U8:
    """Return RFC 9497's Finalize (section 3.3.1) of input prefix || value and the unblinded element, uint8 (n, 64)."""
    elements = _batch(elements, 32)
    _same_count("elements", values.rows, elements)
    states = cache(lambda length: hashlib.sha512((len(prefix) + length).to_bytes(2, "big") + prefix))

    def hash_chunk(start: int, stop: int) -> list[bytes]:
        rows = zip(_strings(_part(values, start, stop)), _strings(Values(elements[start:stop])), strict=True)
        return [_continue(states(len(value)), value + b"\x00\x20" + element + b"Finalize") for value, element in rows]

    return _hashes(len(values), hash_chunk)


def digests(prefix: bytes, rows: U8 | Values, suffix: bytes = b"", size: int = 64) -> U8:
    """Return SHA-512(prefix || row || suffix)[:size] for each row or value, uint8 (n, size)."""
    values = rows if isinstance(rows, Values) else Values(rows)
    state = hashlib.sha512(prefix)

    def hash_chunk(start: int, stop: int) -> list[bytes]:
        return [_continue(state, value + suffix) for value in _strings(_part(values, start, stop))]

    return _hashes(len(values), hash_chunk, size)


def _expand(prefix: bytes, values: Values, dst: bytes) -> U8:
    """Return expand_message_xmd(prefix || value, dst, 64) with SHA-512, uint8 (n, 64) (RFC 9380, section 5.3.1).

    64 bytes are one block of output: b_0 = H(Z_pad || msg || 0x0040 || 0x00 || DST'), b_1 = H(b_0 || 0x01 || DST').
    """
    dst_prime = dst + bytes([len(dst)])
    state = hashlib.sha512(bytes(128) + prefix)
    first, second = b"\x00\x40\x00" + dst_prime, b"\x01" + dst_prime
    sha512 = hashlib.sha512

    def hash_chunk(start: int, stop: int) -> list[bytes]:
        inputs = _strings(_part(values, start, stop))
        return [sha512(_continue(state, value + first) + second).digest() for value in inputs]

    return _hashes(len(values), hash_chunk)


def _continue(state: "hashlib._Hash", rest: bytes) -> bytes:
    """Return the digest of what `state` has hashed, followed by `rest`."""
    state = state.copy()
    state.update(rest)
    return state.digest()


def _hashes(count: int, hash_chunk: Callable[[int, int], list[bytes]], size: int = 64) -> U8:
    """Return the first `size` bytes of `count` SHA-512 digests, uint8 (count, size).

    Hashing short strings holds the GIL, so that threads would only take it from each other.
    """
    hashes = np.empty((count, size), np.uint8)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        whole = np.frombuffer(b"".join(hash_chunk(start, stop)), np.uint8)
        hashes[start:stop] = whole.reshape(-1, 64)[:, :size]
    return hashes


# Batches


def _part(values: Values, start: int, stop: int) -> Values:
    return Values(values.rows[start:stop], None if values.lengths is None else values.lengths[start:stop])


def _strings(values: Values) -> list[bytes]:
    """Return the values as byte strings, in one pass."""
    count, width = values.rows.shape
    if width == 0:
        return [b""] * count
    strings: list[bytes] = np.ascontiguousarray(values.rows).view(f"V{width}").ravel().tolist()
    if values.lengths is None:
        return strings
    return [string[:length] for string, length in zip(strings, values.lengths.tolist(), strict=True)]


def _batch(rows: U8, width: int) -> U8:
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != width:
        raise TypeError(f"expected uint8 (n, {width}), got {rows.dtype} {rows.shape}")
    return np.ascontiguousarray(rows)


def _same_count(what: str, expected: U8, got: U8) -> None:
    if len(expected) != len(got):
        raise WrongCount(what, expected=len(expected), got=len(got))


def _chunked(count: int, work: Callable[[int, int], T]) -> list[T]:
    """Return work(start, stop) for every chunk of a batch, in order; the first chunk that fails raises."""
    starts = range(0, count, CHUNK)
    stops = [min(start + CHUNK, count) for start in starts]
    if len(starts) < 2 or threads < 2:
        return list(map(work, starts, stops))
    with ThreadPoolExecutor(min(threads, len(starts))) as pool:
        return list(pool.map(work, starts, stops))


def _each(count: int, function: Callable[..., int], *arrays: U8, expected: int = 0) -> int | None:
    """Call a library function on row i of every array (one-dimensional ones stay), for all i.

    Returns the first i for which it did not return `expected`, or None.
    """

    def addresses(array: U8, start: int, stop: int) -> Iterable[int]:
        if array.ndim == 1:
            return repeat(array.ctypes.data)
        base, width = array.ctypes.data, array.shape[1]
        return range(base + start * width, base + stop * width, width)

    def call_chunk(start: int, stop: int) -> int | None:
        codes = list(map(function, *(addresses(array, start, stop) for array in arrays)))
        if codes.count(expected) == len(codes):
            return None
        return start + next(index for index, code in enumerate(codes) if code != expected)

    return next((index for index in _chunked(count, call_chunk) if index is not None), None)


def _first(flags: npt.NDArray[np.bool_]) -> int | None:
    return int(np.argmax(flags)) if flags.any() else None


def _refuse(points: U8, index: int | None) -> None:
    if index is not None:
        raise InvalidPoint(index, "not canonical" if points[index].any() else "identity")


def _sum(points: U8) -> bytes:
    total = ctypes.create_string_buffer(32)
    address, add = ctypes.addressof(total), libsodium().add
    for point in range(points.ctypes.data, points.ctypes.data + points.size, 32):
        add(address, address, point)
    return total.raw
