from typing import Any

import numpy as np
import pytest
from fixtures import People, Random

from psi import kernel, oprf, proof
from psi.errors import InvalidPoint, InvalidProof, WrongCount
from psi.keys import Key
from psi.values import U8

Batch = tuple[U8, U8]  # blinded points, and evaluated
STATEMENT: dict[str, Any] = {"context": b"c" * 32, "direction": b"ft" * 32, "epoch": 7}


@pytest.fixture
def key(random: Random) -> Key:
    return Key.random(random)


@pytest.fixture
def batch(people: People, random: Random, key: Key) -> Batch:
    blinded = oprf.blind(b"", people(0, 20), Key.random(random))
    return blinded, oprf.evaluate(blinded, key)


def test_a_proof_for_one_element_and_for_many(key: Key, batch: Batch, random: Random) -> None:
    blinded, evaluated = batch
    for count in (1, 2, 20):
        made = proof.prove(key, blinded[:count], evaluated[:count], random)
        proof.verify(key.public, blinded[:count], evaluated[:count], made)


def test_another_key_for_one_element_is_caught(key: Key, batch: Batch, random: Random) -> None:
    blinded, evaluated = batch
    cheat = evaluated.copy()
    cheat[11] = kernel.multiply(blinded[11:12], Key.random(random).scalar)[0]
    for made in (proof.prove(key, blinded, cheat, random), proof.prove(key, blinded, evaluated, random)):
        with pytest.raises(InvalidProof):
            proof.verify(key.public, blinded, cheat, made)


def test_another_key_for_all_elements_is_caught(key: Key, batch: Batch, random: Random) -> None:
    blinded, _ = batch
    other = Key.random(random)
    answered = oprf.evaluate(blinded, other)
    for made in (proof.prove(other, blinded, answered, random), proof.prove(key, blinded, answered, random)):
        with pytest.raises(InvalidProof):
            proof.verify(key.public, blinded, answered, made)


def test_two_answers_exchanged_are_caught(key: Key, batch: Batch, random: Random) -> None:
    blinded, evaluated = batch
    made = proof.prove(key, blinded, evaluated, random)
    with pytest.raises(InvalidProof):
        proof.verify(key.public, blinded, evaluated[::-1], made)


@pytest.mark.parametrize("place", [0, 31, 32, 63])
def test_a_changed_byte_is_caught(key: Key, batch: Batch, random: Random, place: int) -> None:
    blinded, evaluated = batch
    made = bytearray(proof.prove(key, blinded, evaluated, random))
    made[place] ^= 1
    with pytest.raises(InvalidProof):
        proof.verify(key.public, blinded, evaluated, bytes(made))


def test_malformed_input(key: Key, batch: Batch, random: Random) -> None:
    blinded, evaluated = batch
    made = proof.prove(key, blinded, evaluated, random)
    for public, bad in (
        (key.public, made[:-1]),
        (key.public, made + b"\0"),
        (key.public, bytes(64)),
        (key.public, made[:32] + b"\xff" * 32),
        (key.public[:-1], made),
        (bytes(32), made),
        (b"\1" * 32, made),
    ):
        with pytest.raises(InvalidProof):
            proof.verify(public, blinded, evaluated, bad)
        with pytest.raises(InvalidProof):
            proof.verify_key(public, bad, **STATEMENT)
    with pytest.raises(WrongCount):
        proof.verify(key.public, blinded, evaluated[:-1], made)
    evaluated[4] = 0
    with pytest.raises(InvalidPoint) as caught:
        proof.verify(key.public, blinded, evaluated, made)
    assert caught.value.index == 4
    many = np.zeros((proof.MAX_BATCH + 1, 32), np.uint8)
    with pytest.raises(WrongCount):
        proof.verify(key.public, many, many, made)


def test_two_proofs_never_share_a_nonce(key: Key, batch: Batch, random: Random) -> None:
    blinded, evaluated = batch
    assert len({proof.prove(key, blinded, evaluated, random) for _ in range(5)}) == 5


def test_a_key_statement(key: Key, random: Random) -> None:
    proof.verify_key(key.public, proof.prove_key(key, **STATEMENT, random=random), **STATEMENT)


@pytest.mark.parametrize("change", [{"context": b"d" * 32}, {"direction": b"tf" * 32}, {"epoch": 8}], ids=str)
def test_a_key_statement_holds_for_one_context_direction_and_epoch(
    key: Key, random: Random, change: dict[str, Any]
) -> None:
    made = proof.prove_key(key, **STATEMENT, random=random)
    with pytest.raises(InvalidProof):
        proof.verify_key(key.public, made, **(STATEMENT | change))


def test_a_key_statement_needs_the_scalar(key: Key, random: Random) -> None:
    made = proof.prove_key(Key.random(random), **STATEMENT, random=random)
    with pytest.raises(InvalidProof):
        proof.verify_key(key.public, made, **STATEMENT)
