"""The group operations over whole batches, and the only door to the library that computes them.

ristretto255 (RFC 9496) with SHA-512, as RFC 9497 uses them. A batch is a C-contiguous uint8 array, one row an
element: points and scalars have 32 bytes, hashes 64. Values come as `psi.values.Values`, with a prefix that stands
before each of them. Every function takes batches of any size, also empty ones. SHA-256 of an import's texts, the
sorting of 64-bit keys and the merging of sorted rows go the same way, each in one call.

The C extension (`psi._kernel`) answers with the fastest instructions that the processor has, or libsodium
(`psi._sodium`) where the extension was not built: the same bytes either way. VESICA_KERNEL forces one of them (ifma,
avx2, portable, libsodium). Their calls drop the GIL, so the chunks of a batch run in `threads` threads. The time that a
call takes depends on the lengths of scalars and values, never on their content, except in functions whose name has
`vartime`: they take public scalars only. Sorting and merging may depend on what they get.

An element decodes in one way only: canonically, and never to the identity. Whatever else arrives raises InvalidPoint
with the index of the first such row. Scalars are 1 .. L-1, little-endian; others raise InvalidScalar.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from ._sodium import Sodium
from .errors import DuplicatePoint, InvalidPoint, InvalidScalar, UnknownKernel, WrongCount
from .values import U8, Indices, Values

if TYPE_CHECKING:
    from ._kernel import Backend

ORDER = 2**252 + 27742317777372353535851937790883648493  # L, RFC 9496 section 4
GENERATOR = bytes.fromhex("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76")
CHUNK = 1024  # elements a thread takes at once: 3 to 70 ms of curve work, beside which a task costs nothing

threads = os.cpu_count() or 1

T = TypeVar("T")


class Mode(IntEnum):
    """The modes of RFC 9497 (section 3.1). Vesica speaks VOPRF; OPRF is here for the RFC's vectors."""

    OPRF = 0
    VOPRF = 1

    def label(self, name: bytes) -> bytes:
        """Return `name || contextString`, the RFC's domain separation tag of a purpose."""
        return name + b"OPRFV1-" + bytes([self]) + b"-ristretto255-SHA512"


def available() -> "dict[str, Backend | Sodium]":
    """Return the backends that can answer here, the fastest first."""
    try:
        from ._kernel import BACKENDS
    except ImportError:  # installed without a C compiler
        return {"libsodium": Sodium()}
    return {backend.name: backend for backend in BACKENDS} | {"libsodium": Sodium()}


@cache
def backend() -> "Backend | Sodium":
    """Return the backend, chosen at the first call. Raises UnknownKernel if VESICA_KERNEL names none."""
    backends = available()
    wanted = os.environ.get("VESICA_KERNEL") or next(iter(backends))
    if wanted not in backends:
        raise UnknownKernel(wanted, list(backends))
    return backends[wanted]


def name() -> str:
    """Return the name of the backend that answers; libsodium's has its version."""
    return backend().name


# Elements


def hash_to_group(prefix: bytes, values: Values, mode: Mode = Mode.VOPRF) -> U8:
    """Return HashToGroup(prefix || value) of RFC 9497 for each value, uint8 (n, 32)."""
    elements = np.empty((len(values), 32), np.uint8)
    dst = mode.label(b"HashToGroup-")

    def hash_chunk(start: int, stop: int) -> int | None:
        return backend().from_uniform(elements[start:stop], _expand(prefix, values, dst, start, stop))

    _chunked(len(values), hash_chunk)
    return elements


def from_uniform(uniform: U8) -> U8:
    """Return the element that each 64-byte row maps to, uint8 (n, 32) (RFC 9496, section 4.3.4)."""
    uniform = _batch(uniform, 64)
    elements = np.empty((len(uniform), 32), np.uint8)
    _chunked(len(uniform), lambda start, stop: backend().from_uniform(elements[start:stop], uniform[start:stop]))
    return elements


def hash_and_multiply(prefix: bytes, values: Values, scalar: bytes, mode: Mode = Mode.VOPRF) -> U8:
    """Return scalar * HashToGroup(prefix || value) for each value, uint8 (n, 32)."""
    products = np.empty((len(values), 32), np.uint8)
    factor = np.frombuffer(check_scalar(scalar), np.uint8)
    dst = mode.label(b"HashToGroup-")

    def multiply_chunk(start: int, stop: int) -> int | None:
        uniform = _expand(prefix, values, dst, start, stop)
        return backend().multiply_uniform(products[start:stop], uniform, factor)

    _refuse(products, _first_refused(len(values), multiply_chunk))
    return products


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """Elements that were decoded once, for a product and for a sum; 128 or 256 bytes each beside the 32 of `points`."""

    points: U8
    rows: U8  # what the backend made of them

    def __len__(self) -> int:
        return len(self.points)


def decode(points: U8 | Decoded) -> Decoded:
    """Decode every point strictly: InvalidPoint names the first bad index."""
    if isinstance(points, Decoded):
        return points
    points = _batch(points, 32)
    width = backend().decoded_bytes
    room = np.empty(len(points) * width + 64, np.uint8)
    room = room[-room.ctypes.data % 64 :][: len(points) * width]  # a row in as few cache lines as it fits
    rows = room.reshape(-1, width)
    _refuse(
        points, _first_refused(len(points), lambda start, stop: backend().decode(rows[start:stop], points[start:stop]))
    )
    return Decoded(points=points, rows=rows)


def multiply(points: U8 | Decoded, scalar: bytes) -> U8:
    """Return scalar * point for each point, uint8 (n, 32). The points are decoded strictly."""
    encoded = points.points if isinstance(points, Decoded) else _batch(points, 32)
    products = np.empty_like(encoded)
    factor = np.frombuffer(check_scalar(scalar), np.uint8)

    def multiply_chunk(start: int, stop: int) -> int | None:
        if isinstance(points, Decoded):
            return backend().multiply_decoded(products[start:stop], points.rows[start:stop], factor)
        return backend().multiply(products[start:stop], encoded[start:stop], factor)

    _refuse(encoded, _first_refused(len(encoded), multiply_chunk))
    return products


def multiply_each(points: U8, scalars: U8) -> U8:
    """Return scalars[i] * points[i], uint8 (n, 32); one row of points stands for all. Points are decoded strictly."""
    scalars = check_scalars(scalars)
    points = _batch(np.broadcast_to(points, scalars.shape) if len(points) == 1 else points, 32)
    _same_count("scalars", points, scalars)
    products = np.empty_like(points)

    def multiply_chunk(start: int, stop: int) -> int | None:
        return backend().multiply(products[start:stop], points[start:stop], scalars[start:stop])

    _refuse(points, _first_refused(len(points), multiply_chunk))
    return products


def multiply_base(scalars: U8) -> U8:
    """Return scalars[i] * G, uint8 (n, 32)."""
    return multiply_each(np.frombuffer(GENERATOR, np.uint8).reshape(1, 32), scalars)


def multi_scalar_vartime(scalars: U8, *batches: U8 | Decoded) -> bytes:
    """Return the sum of scalars[i] * points[i] of each of one or two batches, 32 bytes each; an empty sum is the identity.

    Points are decoded strictly. The time it takes depends on the scalars, which have to be public, as the weights of a
    proof are. Two batches that share them cost less than twice one.
    """
    scalars, decoded = check_scalars(scalars), [decode(batch) for batch in batches]
    for batch in decoded:
        _same_count("scalars", batch.points, scalars)
    size = max(CHUNK, -(-len(scalars) // threads))  # the more elements a sum has, the less each of them costs
    sums = np.zeros((-(-len(scalars) // size), len(decoded), 32), np.uint8)

    def sum_chunk(start: int, stop: int) -> int | None:
        rows = tuple(batch.rows[start:stop] for batch in decoded)
        return backend().multi_scalar_vartime(sums[start // size], scalars[start:stop], rows)

    _chunked(len(scalars), sum_chunk, size)
    totals = np.zeros((len(decoded), 32), np.uint8)
    for place, total in enumerate(totals):
        backend().sum(total, np.ascontiguousarray(sums[:, place]))
    return totals.tobytes()


def check_distinct(points: U8) -> None:
    """Refuse repetition without decoding: DuplicatePoint names the first index whose row occurs before it."""
    repeated = backend().first_repeat(_batch(points, 32), os.urandom(40))
    if repeated is not None:
        raise DuplicatePoint(repeated)


# Scalars


def check_scalar(scalar: bytes) -> bytes:
    """Return the scalar if it is in 1 .. L-1, else raise InvalidScalar."""
    return check_scalars(np.frombuffer(scalar, np.uint8).reshape(1, -1)).tobytes()


def check_scalars(scalars: U8) -> U8:
    """Return a copy of the scalars, uint8 (n, 32), if each is in 1 .. L-1, else raise InvalidScalar.

    Compared without a branch on them: from the top word down, each row is below L, above it, or equal so far.
    """
    if scalars.ndim != 2 or scalars.shape[1] != 32:
        raise InvalidScalar("a scalar has 32 bytes")
    scalars = np.array(scalars, order="C")  # another thread may change what was given
    words, limit = scalars.view("<u8"), np.frombuffer(ORDER.to_bytes(32, "little"), "<u8")
    below = np.zeros(len(scalars), np.bool_)
    equal = ~below
    for place in range(3, -1, -1):
        below |= equal & (words[:, place] < limit[place])
        equal &= words[:, place] == limit[place]
    if not (below & (np.bitwise_or.reduce(words.T) != 0)).all():
        raise InvalidScalar("a scalar is zero, or not reduced modulo the order of the group")
    return scalars


def reduce(uniform: U8) -> U8:
    """Return each 64-byte row as a little-endian number modulo L, uint8 (n, 32)."""
    uniform = _batch(uniform, 64)
    scalars = np.empty((len(uniform), 32), np.uint8)
    _chunked(len(uniform), lambda start, stop: backend().reduce(scalars[start:stop], uniform[start:stop]))
    return scalars


def hash_to_scalar(prefix: bytes, values: Values, dst: bytes) -> U8:
    """Return HashToScalar(prefix || value) of RFC 9497, section 4.1, for each value under the tag `dst`, (n, 32)."""
    scalars = np.empty((len(values), 32), np.uint8)

    def hash_chunk(start: int, stop: int) -> int | None:
        return backend().reduce(scalars[start:stop], _expand(prefix, values, dst, start, stop))

    _chunked(len(values), hash_chunk)
    return scalars


def invert(scalar: bytes) -> bytes:
    """Return 1 / scalar modulo L, in constant time."""
    return backend().invert(check_scalar(scalar))


def respond(nonce: bytes, challenge: bytes, secret: bytes) -> bytes:
    """Return nonce - challenge * secret modulo L, a Schnorr response, in constant time."""
    return backend().respond(nonce, challenge, secret)


# Hashes


def finalize(prefix: bytes, values: Values, elements: U8) -> U8:
    """Return RFC 9497's Finalize (section 3.3.1) of input prefix || value and the unblinded element, uint8 (n, 64)."""
    elements = _batch(elements, 32)
    _same_count("elements", values.rows, elements)
    hashes = np.empty((len(values), 64), np.uint8)

    def hash_chunk(start: int, stop: int) -> int | None:
        part = _part(values, start, stop)
        parts = (_input_length(prefix, *part), prefix, part, b"\x00\x20", (elements[start:stop], None), b"Finalize")
        return backend().sha512(hashes[start:stop], stop - start, parts)

    _chunked(len(values), hash_chunk)
    return hashes


def digests(prefix: bytes, rows: U8 | Values, suffix: bytes = b"", size: int = 64) -> U8:
    """Return SHA-512(prefix || row || suffix)[:size] for each row or value, uint8 (n, size)."""
    values = rows if isinstance(rows, Values) else Values(rows)
    hashes = np.empty((len(values), size), np.uint8)

    def hash_chunk(start: int, stop: int) -> int | None:
        return backend().sha512(hashes[start:stop], stop - start, (prefix, _part(values, start, stop), suffix))

    _chunked(len(values), hash_chunk)
    return hashes


def sha256(data: bytes, starts: Indices, ends: Indices) -> U8:
    """Return SHA-256(data[starts[i] : ends[i]]) for each i, uint8 (n, 32)."""
    starts, ends = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(ends, np.int64)
    if starts.ndim != 1 or starts.shape != ends.shape:
        raise TypeError(f"expected as many starts as ends, got {starts.shape} and {ends.shape}")
    bad = (starts < 0) | (starts > ends) | (ends > len(data))
    if bad.any():
        raise IndexError(f"text {int(np.argmax(bad))} does not lie within the data")
    hashes = np.empty((len(starts), 32), np.uint8)
    backend().sha256(hashes, data, starts, ends)
    return hashes


def sort_order(keys: npt.NDArray[np.uint64]) -> Indices:
    """Return the permutation that sorts the keys, uint64 (n,); it is stable."""
    keys = np.ascontiguousarray(keys, np.uint64)
    if keys.ndim != 1:
        raise TypeError(f"expected uint64 (n,), got {keys.shape}")
    found = np.empty(len(keys), np.intp)
    backend().order(found, keys)
    return found


def merge(left: U8, right: U8) -> tuple[Indices, Indices] | None:
    """Return where rows of `right` stand first in `left`, as (left indices, right indices), ascending in both.

    Both are uint8 (n, any width) and sorted; None where `right` is not, or where the backend cannot do it.
    """
    for each in (left, right):
        if each.dtype != np.uint8 or each.ndim != 2:
            raise TypeError(f"expected uint8 (n, any width), got {each.dtype} {each.shape}")
    if not 8 <= left.shape[1] == right.shape[1] or left.strides[1] != 1 or right.strides[1] != 1:
        return None
    places, found = np.empty((2, len(right)), np.intp)
    count = backend().merge(places, found, left, right)
    return None if count is None else (places[:count], found[:count])


def _expand(prefix: bytes, values: Values, dst: bytes, start: int, stop: int) -> U8:
    """Return expand_message_xmd(prefix || value, dst, 64) with SHA-512 of a chunk's values (RFC 9380, section 5.3.1).

    64 bytes are one block of output: b_0 = H(Z_pad || msg || 0x0040 || 0x00 || DST'), b_1 = H(b_0 || 0x01 || DST').
    """
    dst_prime = dst + bytes([len(dst)])
    first, uniform = np.empty((2, stop - start, 64), np.uint8)
    head, tail = bytes(128) + prefix, b"\x00\x40\x00" + dst_prime
    backend().sha512(first, stop - start, (head, _part(values, start, stop), tail))
    backend().sha512(uniform, stop - start, ((first, None), b"\x01" + dst_prime))
    return uniform


def _input_length(prefix: bytes, rows: U8, lengths: U8 | None) -> "bytes | tuple[U8, None]":
    """Return the length of prefix || value as two big-endian bytes, for all values or for each."""
    if lengths is None:
        return int(len(prefix) + rows.shape[1]).to_bytes(2, "big")
    totals = (lengths.astype(np.uint16) + len(prefix)).astype(">u2")
    return np.frombuffer(totals.tobytes(), np.uint8).reshape(-1, 2), None


# Batches


def _part(values: Values, start: int, stop: int) -> tuple[U8, U8 | None]:
    rows = np.ascontiguousarray(values.rows[start:stop])
    return rows, None if values.lengths is None else values.lengths[start:stop].copy()


def _batch(rows: U8, width: int) -> U8:
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != width:
        raise TypeError(f"expected uint8 (n, {width}), got {rows.dtype} {rows.shape}")
    return np.ascontiguousarray(rows)


def _same_count(what: str, expected: U8, got: U8) -> None:
    if len(expected) != len(got):
        raise WrongCount(what, expected=len(expected), got=len(got))


def _chunked(count: int, work: Callable[[int, int], T], size: int = 0) -> list[T]:
    """Return work(start, stop) for every chunk of a batch, in order; the first chunk that fails raises."""
    size = size or CHUNK
    starts = range(0, count, size)
    stops = [min(start + size, count) for start in starts]
    if len(starts) < 2 or threads < 2:
        return list(map(work, starts, stops))
    with ThreadPoolExecutor(min(threads, len(starts))) as pool:
        return list(pool.map(work, starts, stops))


def _first_refused(count: int, work: Callable[[int, int], int | None], size: int = 0) -> int | None:
    """Return the first index of the whole batch that one of its chunks refused."""
    refused = _chunked(count, work, size)
    return next((chunk * (size or CHUNK) + index for chunk, index in enumerate(refused) if index is not None), None)


def _refuse(points: U8, index: int | None) -> None:
    if index is not None:
        raise InvalidPoint(index, "not canonical" if points[index].any() else "identity")
