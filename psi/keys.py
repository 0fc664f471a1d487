"""Keys: one scalar for one purpose, in one direction of one connection, for one namespace and epoch.

Two purposes never share a key: if the key of a count could be made to answer a release's points, or the other way
round, one protocol would be an oracle for the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from . import kernel
from .errors import InvalidScalar
from .hashing import KEY_LABEL, length_prefixed, number
from .kernel import Mode
from .values import U8, Values


class Purpose(Enum):
    """What a key is for; SPEC.md calls them b, a, r, s."""

    COUNT_ANSWER = b"count-answer"
    COUNT_ASK = b"count-ask"
    RELEASE_BLIND = b"release-blind"
    RELEASE_PRF = b"release-prf"


@dataclass(frozen=True, slots=True)
class Key:
    """A secret scalar k in 1 .. L-1, 32 bytes little-endian, and `public`, k*G. Raises InvalidScalar.

    Keys compare and print by their public half.
    """

    scalar: bytes = field(repr=False, compare=False)
    public: bytes = field(init=False)

    def __post_init__(self) -> None:
        scalar = np.frombuffer(self.scalar, np.uint8).reshape(1, -1)
        object.__setattr__(self, "public", kernel.multiply_base(scalar).tobytes())

    def inverse(self) -> bytes:
        """Return 1/k, the scalar that undoes this key."""
        return kernel.invert(self.scalar)

    @classmethod
    def random(cls, random: Callable[[int], bytes]) -> "Key":
        """Draw a key from 64 random bytes, reduced modulo L."""
        return cls(random_scalars(1, random).tobytes())

    @classmethod
    def derive(
        cls,
        secret: bytes,
        *,
        connection: bytes,
        direction: bytes,
        namespace: str,
        epoch: int,
        purpose: Purpose,
        extra: bytes = b"",
    ) -> "Key":
        """Return the key of one purpose, made from an epoch's 32-byte secret: HKDF-SHA512, then DeriveKeyPair.

        `direction` is the fingerprints of the two nodes' keys, from || to. `extra` binds a key to what it may be used
        on: the asker of a count gives the digest of the answerer's universe.
        """
        info = length_prefixed(
            KEY_LABEL, connection, direction, namespace.encode(), number(epoch), purpose.value, extra
        )
        seed = HKDF(algorithm=SHA512(), length=32, salt=None, info=info).derive(secret)
        return cls.from_seed(seed, KEY_LABEL)

    @classmethod
    def from_seed(cls, seed: bytes, info: bytes, mode: Mode = Mode.VOPRF) -> "Key":
        """Return DeriveKeyPair(seed, info) of RFC 9497, section 3.2.1."""
        prefix = seed + len(info).to_bytes(2, "big") + info
        for counter in range(256):
            scalar = kernel.hash_to_scalar(prefix, Values.of([bytes([counter])]), mode.label(b"DeriveKeyPair"))
            if scalar.any():
                return cls(scalar.tobytes())
        raise InvalidScalar("the seed gives no key")  # with probability 2^-64512


def random_scalars(count: int, random: Callable[[int], bytes]) -> U8:
    """Draw scalars, uint8 (n, 32), 64 random bytes for each."""
    return kernel.reduce(np.frombuffer(random(64 * count), np.uint8).reshape(count, 64))
