"""libsodium's ristretto255 functions, out of the library that rbcl bundles.

rbcl's own functions check and copy every element; so only the loaded library is taken from it. Foreign calls through
ctypes drop the GIL.
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path


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
