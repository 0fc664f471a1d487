"""Hashes in the place of the curve, for measurements of memory: what is computed commutes, is of the same size, and protects
nothing. Both nodes have to use it. Keys and single points stay as they are."""

from collections.abc import Callable

import numpy as np

from psi import kernel, proof
from psi.errors import VesicaError
from psi.kernel import Decoded, Mode
from psi.values import U8, Values

FEW = 2  # points: those of keys and their proofs


def use() -> None:
    """Replace the functions of this process."""
    multiply, multiply_each, decode = kernel.multiply, kernel.multiply_each, kernel.decode

    def hash_and_multiply(prefix: bytes, values: Values, scalar: bytes, mode: Mode = Mode.VOPRF) -> U8:
        return _encoded(kernel.digests(prefix, values, size=32))

    def multiplied(points: U8 | Decoded, scalar: bytes) -> U8:
        given = points.points if isinstance(points, Decoded) else points
        if len(given) <= FEW:
            try:
                return multiply(points, scalar)
            except VesicaError:  # one of ours
                pass
        return np.array(given)

    def multiplied_each(points: U8, scalars: U8) -> U8:
        return (
            multiply_each(points, scalars) if len(scalars) <= FEW else _encoded(kernel.digests(b"", scalars, size=32))
        )

    def decoded(points: U8 | Decoded) -> Decoded:
        if isinstance(points, Decoded) or len(points) <= FEW:
            return decode(points)
        return Decoded(points=points, rows=np.zeros((len(points), kernel.backend().decoded_bytes), np.uint8))

    def proven(key: object, blinded: object, evaluated: object, random: Callable[[int], bytes]) -> bytes:
        return bytes(proof.PROOF_BYTES)

    def verified(public: bytes, blinded: object, evaluated: object, shown: bytes) -> None: ...

    for module, functions in (
        (kernel, {"hash_and_multiply": hash_and_multiply, "multiply": multiplied, "multiply_each": multiplied_each}),
        (kernel, {"decode": decoded}),
        (proof, {"prove": proven, "verify": verified}),
    ):
        for name, function in functions.items():
            setattr(module, name, function)


def _encoded(digests: U8) -> U8:
    """Return digests with the bits cleared that no encoding of a point has."""
    digests[:, 0] &= 0xFE
    digests[:, 31] &= 0x7F
    return digests
