"""The backend where there is no C compiler: libsodium's ristretto255 functions, out of the library that rbcl bundles.

rbcl's own functions check and copy every element; so only the loaded library is taken from it, and called with
addresses that step through whole arrays. Foreign calls through ctypes drop the GIL, and libsodium's scalar
multiplication is constant-time. What Python does around it (hashing, copying rows) branches on lengths and on public
outcomes, never on the content of scalars or values.
"""

import ctypes
import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .values import U8, Indices


class Libsodium:
    """Functions that take addresses, the result's first, and return 0 for done."""

    def __init__(self) -> None:
        import rbcl  # 60 ms and 3 MB: not before the first use

        library: ctypes.CDLL = rbcl._sodium  # initialised by the import
        with suppress(OSError):  # the import left a copy of the library in the temporary directory
            Path(library._name).unlink()

        def function(name: str, arguments: int) -> Callable[..., int]:
            bound = library[name]  # a new object, so that rbcl's own keeps its signature
            bound.argtypes = [ctypes.c_void_p] * arguments
            bound.restype = ctypes.c_int
            return bound

        version = library["sodium_version_string"]
        version.restype = ctypes.c_char_p
        self.version = version().decode()
        self.from_hash = function("crypto_core_ristretto255_from_hash", 2)
        self.is_valid = function("crypto_core_ristretto255_is_valid_point", 1)
        self.add = function("crypto_core_ristretto255_add", 3)
        # these two fail also if the result is the identity
        self.multiply = function("crypto_scalarmult_ristretto255", 3)
        self.multiply_base = function("crypto_scalarmult_ristretto255_base", 2)
        self.scalar_reduce = function("crypto_core_ristretto255_scalar_reduce", 2)
        self.scalar_invert = function("crypto_core_ristretto255_scalar_invert", 2)
        self.scalar_multiply = function("crypto_core_ristretto255_scalar_mul", 3)
        self.scalar_subtract = function("crypto_core_ristretto255_scalar_sub", 3)


@cache
def libsodium() -> Libsodium:
    """Return the library, loaded at the first call."""
    return Libsodium()


class Sodium:
    """The functions of `_kernel.Backend`, with the same arguments and the same bytes."""

    @property
    def name(self) -> str:
        return f"libsodium {libsodium().version}"

    @property
    def decoded_bytes(self) -> int:
        return 32  # as it came: the library decodes in each of its functions

    def sha256(self, digests: U8, data: bytes, starts: Indices, ends: Indices) -> int | None:
        hashes = [
            hashlib.sha256(data[start:end]).digest() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        digests[:] = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
        return None

    def sha512(self, digests: U8, count: int, parts: tuple[bytes | tuple[U8, U8 | None], ...]) -> int | None:
        shared = next((place for place, part in enumerate(parts) if isinstance(part, tuple)), len(parts))
        start = hashlib.sha512(b"".join(part for part in parts[:shared] if isinstance(part, bytes)))
        columns = [_strings(*part) if isinstance(part, tuple) else repeat(part, count) for part in parts[shared:]]
        messages = zip(*columns, strict=True) if columns else repeat((), count)
        hashes = b"".join([_continue(start, b"".join(message)) for message in messages])
        digests[:] = np.frombuffer(hashes, np.uint8).reshape(-1, 64)[:, : digests.shape[1]]
        return None

    def from_uniform(self, elements: U8, uniform: U8) -> int | None:
        return _each(libsodium().from_hash, elements, uniform)

    def multiply(self, products: U8, elements: U8, scalars: U8) -> int | None:
        return _strict(elements, _each(libsodium().multiply, products, scalars, elements))

    def multiply_decoded(self, products: U8, decoded: U8, scalars: U8) -> int | None:
        return self.multiply(products, decoded, scalars)

    def multiply_uniform(self, products: U8, uniform: U8, scalars: U8) -> int | None:
        elements = np.empty_like(products)
        self.from_uniform(elements, uniform)
        return self.multiply(products, elements, scalars)

    def decode(self, decoded: U8, elements: U8) -> int | None:
        decoded[:] = elements
        valid = _each(libsodium().is_valid, decoded, expected=1)
        return _earliest(_strict(decoded, valid), _first((decoded == 0).all(axis=1)))

    def multi_scalar_vartime(self, sums: U8, scalars: U8, decoded: tuple[U8, ...]) -> int | None:
        """Multiply and add element by element: the library's addition costs a quarter of a multiplication, so
        Pippenger's buckets would be slower."""
        for sum, elements in zip(sums, decoded, strict=True):
            products = np.empty_like(elements)
            self.multiply(products, elements, scalars)
            self.sum(sum, products)
        return None

    def sum(self, sum: U8, elements: U8) -> int | None:
        sum[:] = 0
        for index, element in enumerate(_addresses(elements, len(elements))):
            if libsodium().add(sum.ctypes.data, sum.ctypes.data, element):
                return _strict(elements, index)
        return _strict(elements, None)

    def first_repeat(self, elements: U8, key: bytes) -> int | None:
        found = np.lexsort(np.ascontiguousarray(elements).view(np.uint64).T)
        arranged = elements[found]
        repeats = (arranged[1:] == arranged[:-1]).all(axis=1)
        return int(found[1:][repeats].min()) if repeats.any() else None

    def order(self, order: Indices, keys: npt.NDArray[np.uint64]) -> int | None:
        order[:] = np.argsort(keys, kind="stable")
        return None

    def merge(self, places: Indices, found: Indices, left: U8, right: U8) -> int | None:
        """Leave it to `join.search`, which needs no order: row by row, Python would be slower."""
        return None

    def reduce(self, scalars: U8, uniform: U8) -> int | None:
        return _each(libsodium().scalar_reduce, scalars, uniform)

    def invert(self, scalar: bytes) -> bytes:
        inverse = ctypes.create_string_buffer(32)
        libsodium().scalar_invert(inverse, scalar)
        return inverse.raw

    def respond(self, nonce: bytes, challenge: bytes, secret: bytes) -> bytes:
        result = ctypes.create_string_buffer(32)
        libsodium().scalar_multiply(result, challenge, secret)
        libsodium().scalar_subtract(result, nonce, result)
        return result.raw


def _continue(state: "hashlib._Hash", rest: bytes) -> bytes:
    """Return the digest of what `state` has hashed, followed by `rest`."""
    state = state.copy()
    state.update(rest)
    return state.digest()


def _addresses(array: U8, count: int) -> Iterable[int]:
    """Return the address of each row; of a one-dimensional array always the same."""
    if array.ndim == 1:
        return repeat(array.ctypes.data, count)
    width = array.shape[1]
    return range(array.ctypes.data, array.ctypes.data + count * width, width)


def _each(function: Callable[..., int], *arrays: U8, expected: int = 0) -> int | None:
    """Call a function of the library on row i of every array, for all i; return the first i that was refused."""
    codes = list(map(function, *(_addresses(array, len(arrays[0])) for array in arrays)))
    if codes.count(expected) == len(codes):
        return None
    return next(index for index, code in enumerate(codes) if code != expected)


def _strict(elements: U8, refused: int | None) -> int | None:
    """Refuse also elements with bit 255 set: libsodium 1.0.18 ignores it, against RFC 9496, section 4.3.1."""
    return _earliest(refused, _first(elements[:, 31] > 127))


def _first(flags: npt.NDArray[np.bool_]) -> int | None:
    return int(flags.argmax()) if flags.any() else None


def _earliest(*indices: int | None) -> int | None:
    return min((index for index in indices if index is not None), default=None)


def _strings(rows: U8, lengths: U8 | None) -> list[bytes]:
    """Return the rows as byte strings, in one pass."""
    count, width = rows.shape
    if width == 0:
        return [b""] * count
    strings: list[bytes] = rows.view(f"V{width}").ravel().tolist()
    if lengths is None:
        return strings
    return [string[:length] for string, length in zip(strings, lengths.tolist(), strict=True)]
