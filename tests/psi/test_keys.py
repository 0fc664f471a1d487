from typing import Any

import numpy as np
import pytest
from fixtures import People, Random

from psi import hashing, kernel, membership, oprf
from psi.errors import InvalidScalar
from psi.keys import Key, Purpose

EPOCH_KEY: dict[str, Any] = {
    "connection": b"c" * 16,
    "direction": b"f" * 32 + b"t" * 32,
    "namespace": "email_sha256/lc-v1",
    "epoch": 3,
    "purpose": Purpose.RELEASE_PRF,
}
CONTEXT: dict[str, Any] = {
    "protocol": "release",
    "from_key": b"f" * 32,
    "to_key": b"t" * 32,
    "connection": b"c" * 16,
    "namespace": "email_sha256/lc-v1",
}


@pytest.mark.parametrize(
    "other",
    [
        {"connection": b"d" * 16},
        {"direction": b"t" * 32 + b"f" * 32},
        {"namespace": "phone_sha256/e164-v1"},
        {"epoch": 4},
        {"purpose": Purpose.COUNT_ANSWER},
        {"extra": b"universe"},
    ],
    ids=str,
)
def test_keys_belong_to_one_purpose(other: dict[str, Any]) -> None:
    key = Key.derive(b"secret".ljust(32), **EPOCH_KEY)
    assert key == Key.derive(b"secret".ljust(32), **EPOCH_KEY)
    assert key != Key.derive(b"secret".ljust(32), **(EPOCH_KEY | other))
    assert key != Key.derive(b"another".ljust(32), **EPOCH_KEY)


@pytest.mark.feature("EX7")
def test_nothing_is_shared_between_sessions_connections_directions_namespaces_epochs_or_feeds(
    people: People, random: Random
) -> None:
    values, secret = people(0, 50), random(32)
    swapped = {"from_key": CONTEXT["to_key"], "to_key": CONTEXT["from_key"]}
    settings: list[tuple[dict[str, Any], Key]] = [
        ({}, Key.derive(secret, **EPOCH_KEY)),
        ({"connection": b"d" * 16}, Key.derive(secret, **(EPOCH_KEY | {"connection": b"d" * 16}))),
        (swapped, Key.derive(secret, **(EPOCH_KEY | {"direction": b"t" * 32 + b"f" * 32}))),
        (
            {"namespace": "phone_sha256/e164-v1"},
            Key.derive(secret, **(EPOCH_KEY | {"namespace": "phone_sha256/e164-v1"})),
        ),
        ({}, Key.derive(random(32), **(EPOCH_KEY | {"epoch": 4}))),
        ({}, Key.random(random)),  # two ad-hoc sessions
        ({}, Key.random(random)),
    ]
    batches = [oprf.blind(hashing.context(**(CONTEXT | change)), values, key) for change, key in settings]
    assert len(np.unique(np.concatenate(batches), axis=0)) == len(settings) * len(values)

    prf = oprf.prf(hashing.context(**CONTEXT), values, settings[0][1])
    bitmaps = np.ones((50, 1), np.uint8)
    feeds = [membership.seal(prf, bitmaps, feed=feed * 16, version=1, revision=1) for feed in (b"1", b"2")]
    assert len(np.unique(np.concatenate(feeds)[:, :16], axis=0)) == 100


@pytest.mark.parametrize("part", CONTEXT)
def test_every_part_of_a_context_counts(part: str) -> None:
    other = CONTEXT[part] + ("x" if isinstance(CONTEXT[part], str) else b"x")
    assert hashing.context(**CONTEXT) != hashing.context(**(CONTEXT | {part: other}))
    assert len(hashing.context(**CONTEXT)) == 32


def test_length_prefixes_keep_parts_apart() -> None:
    assert hashing.length_prefixed(b"ab", b"c") != hashing.length_prefixed(b"a", b"bc")
    assert hashing.length_prefixed(b"ab") == b"\0\0\0\0\0\0\0\2ab"


def test_a_key_is_a_scalar_and_does_not_print_it(random: Random) -> None:
    key = Key.random(random)
    assert key.scalar.hex() not in repr(key)
    assert repr(key.scalar) not in repr(key)
    point = np.frombuffer(key.public, np.uint8).reshape(1, 32)
    assert kernel.multiply(point, key.inverse()).tobytes() == kernel.GENERATOR
    for scalar in (bytes(32), b"\xff" * 32, kernel.ORDER.to_bytes(32, "little"), b"", b"\1" * 31):
        with pytest.raises(InvalidScalar):
            Key(scalar)
