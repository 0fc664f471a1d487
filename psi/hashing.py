"""Labels and contexts: the one form in which bytes are hashed.

Whatever is hashed in Vesica is a list of parts, the first of them a label, each part preceded by its length as a
big-endian u64: no two different lists give the same bytes. The labels of psi are here (SPEC.md lists all).
"""

import hashlib

CONTEXT_LABEL = b"vesica/1 ctx"
KEY_LABEL = b"vesica/1 key"  # key derivation
KEY_PROOF_LABEL = b"vesica/1 key proof"
COUNT_LABEL = b"vesica/1 count"
UNIVERSE_LABEL = b"vesica/1 universe"
TAG_LABEL = b"vesica/1 tag"
PAD_LABEL = b"vesica/1 pad"
SAMPLE_LABEL = b"vesica/1 sample"
NOISE_LABEL = b"vesica/1 noise"


def number(value: int) -> bytes:
    """Return a number as a big-endian u64."""
    return value.to_bytes(8, "big")


def length_prefixed(*parts: bytes) -> bytes:
    """Join the parts, each after its length as a big-endian u64."""
    return b"".join(number(len(part)) + part for part in parts)


def context(*, protocol: str, from_key: bytes, to_key: bytes, connection: bytes, namespace: str) -> bytes:
    """Return the 32 bytes that stand before every identity of one protocol, direction, connection and namespace.

    `from_key` and `to_key` are the fingerprints of the two nodes' keys, 32 bytes each: from the asker to the answerer
    of a count, from the sender to the receiver of a release. `namespace` is "namespace/rule". Nothing that was blinded
    under one context means anything under another, so nothing can be relayed.
    """
    parts = length_prefixed(CONTEXT_LABEL, protocol.encode(), from_key, to_key, connection, namespace.encode())
    return hashlib.sha512(parts).digest()[:32]
