"""Two proofs of knowledge, both of the form (challenge, response) = (c, z), 32 bytes each.

`prove_key` shows that the node that states a public key for an epoch knows its scalar (Schnorr). `prove` shows that one
scalar turned a whole batch of points into another, the one behind the public key (RFC 9497, section 2.2): a sender
that uses a second key for a single element is caught.

Both draw a nonce t, send t times the bases inside the challenge, and respond z = t - c*k. A nonce used twice gives
the key away, so it is drawn afresh inside each call, from 64 bytes of the caller's `random`.
"""

import hashlib
import hmac
from collections.abc import Callable

import numpy as np

from . import kernel
from .errors import InvalidProof, VesicaError, WrongCount
from .hashing import KEY_PROOF_LABEL, length_prefixed, number
from .kernel import GENERATOR, Decoded, Mode
from .keys import Key, random_scalars
from .values import U8, Values

PROOF_BYTES = 64
MAX_BATCH = 2**16  # the RFC numbers the elements of a batch with two bytes

_HASH_TO_SCALAR = Mode.VOPRF.label(b"HashToScalar-")
_NOTHING = Values.of([b""])


def prove_key(key: Key, *, context: bytes, direction: bytes, epoch: int, random: Callable[[int], bytes]) -> bytes:
    """Return a proof that the holder of `key` states it for this context, direction and epoch, 64 bytes."""
    nonce = Key.random(random)
    challenge = _key_challenge(key.public, nonce.public, context, direction, epoch)
    return challenge + kernel.respond(nonce.scalar, challenge, key.scalar)


def verify_key(public: bytes, proof: bytes, *, context: bytes, direction: bytes, epoch: int) -> None:
    """Check a proof of `prove_key`. Raises InvalidProof, also for a public key that is no element."""
    challenge, response = _split(public, proof)
    try:
        commitment = _combine(response, GENERATOR, challenge, public)  # z*G + c*k*G = t*G
    except VesicaError as error:
        raise InvalidProof("the stated public key or its proof is malformed") from error
    if not hmac.compare_digest(challenge, _key_challenge(public, commitment, context, direction, epoch)):
        raise InvalidProof("the proof for the stated public key does not hold")


def prove(key: Key, blinded: U8 | Decoded, evaluated: U8, random: Callable[[int], bytes]) -> bytes:
    """Return the RFC's GenerateProof that `evaluated` is key * `blinded`, element by element, 64 bytes.

    Both are uint8 (n, 32), n from 1 to 65,536.
    """
    _check_counts(blinded, evaluated)
    blinded = kernel.decode(blinded)
    weights = _weights(key.public, blinded.points, evaluated)
    composite = kernel.multi_scalar_vartime(weights, blinded)  # M = sum d_i C_i
    image = _times(key.scalar, composite)  # Z = k*M = sum d_i D_i
    nonce = Key(random_scalars(1, random).tobytes())
    challenge = _batch_challenge(key.public, composite, image, nonce.public, _times(nonce.scalar, composite))
    return challenge + kernel.respond(nonce.scalar, challenge, key.scalar)


def verify(public: bytes, blinded: U8, evaluated: U8 | Decoded, proof: bytes) -> None:
    """Check a proof of `prove` against the public key (the RFC's VerifyProof). Raises InvalidProof.

    Points are decoded strictly on the way: InvalidPoint names the first bad one.
    """
    challenge, response = _split(public, proof)
    _check_counts(blinded, evaluated)
    evaluated = kernel.decode(evaluated)
    weights = _weights(public, blinded, evaluated.points)
    composites = kernel.multi_scalar_vartime(weights, blinded, evaluated)
    composite, image = composites[:32], composites[32:]
    try:
        first = _combine(response, GENERATOR, challenge, public)  # z*G + c*k*G = t*G
        second = _combine(response, composite, challenge, image)  # z*M + c*k*M = t*M
    except VesicaError as error:
        raise InvalidProof("the public key or the proof of the batch is malformed") from error
    if not hmac.compare_digest(challenge, _batch_challenge(public, composite, image, first, second)):
        raise InvalidProof("the batch was not evaluated with the stated key")


def _check_counts(blinded: U8 | Decoded, evaluated: U8 | Decoded) -> None:
    if len(blinded) != len(evaluated):
        raise WrongCount("evaluated elements", expected=len(blinded), got=len(evaluated))
    if len(blinded) > MAX_BATCH:
        raise WrongCount("elements under one proof", expected=MAX_BATCH, got=len(blinded))


def _weights(public: bytes, blinded: U8, evaluated: U8) -> U8:
    """Return the scalars d_i of the RFC's ComputeComposites, which depend on the key and on both whole batches."""
    seed = hashlib.sha512(_short_prefixed(public, Mode.VOPRF.label(b"Seed-"))).digest()
    transcript = np.empty((len(blinded), 2 + 34 + 34 + 9), np.uint8)
    transcript[:, :2] = np.arange(len(blinded), dtype=">u2").reshape(-1, 1).view(np.uint8)
    transcript[:, [2, 36]], transcript[:, [3, 37]] = 0, 32
    transcript[:, 4:36] = blinded
    transcript[:, 38:70] = evaluated
    transcript[:, 70:] = np.frombuffer(b"Composite", np.uint8)
    return kernel.hash_to_scalar(_short_prefixed(seed), Values(transcript), _HASH_TO_SCALAR)


def _batch_challenge(*elements: bytes) -> bytes:
    transcript = _short_prefixed(*elements) + b"Challenge"
    return kernel.hash_to_scalar(transcript, _NOTHING, _HASH_TO_SCALAR).tobytes()


def _key_challenge(public: bytes, commitment: bytes, context: bytes, direction: bytes, epoch: int) -> bytes:
    transcript = length_prefixed(KEY_PROOF_LABEL, context, direction, number(epoch), public, commitment)
    return kernel.hash_to_scalar(transcript, _NOTHING, KEY_PROOF_LABEL).tobytes()


def _split(public: bytes, proof: bytes) -> tuple[bytes, bytes]:
    if len(public) != 32 or len(proof) != PROOF_BYTES:
        raise InvalidProof("a public key has 32 bytes and a proof 64")
    return proof[:32], proof[32:]


def _combine(first_scalar: bytes, first: bytes, second_scalar: bytes, second: bytes) -> bytes:
    scalars, points = (np.frombuffer(pair, np.uint8) for pair in (first_scalar + second_scalar, first + second))
    return kernel.multi_scalar_vartime(scalars.reshape(2, 32), points.reshape(2, 32))


def _times(scalar: bytes, point: bytes) -> bytes:
    return kernel.multiply(np.frombuffer(point, np.uint8).reshape(1, 32), scalar).tobytes()


def _short_prefixed(*parts: bytes) -> bytes:
    """Join the parts, each after its length in two bytes, as the RFC does."""
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)
