import numpy as np
import pytest

from psi import kernel, oprf, proof
from psi.errors import InvalidPoint, InvalidProof, WrongCount
from psi.keys import Key

STATEMENT = {"context": b"c" * 32, "direction": b"ft" * 32, "epoch": 7}


@pytest.fixture
def key(random):
    return Key.random(random)


@pytest.fixture
def batch(people, random, key):
    blinded = oprf.blind(b"", people(0, 20), Key.random(random))
    return blinded, oprf.evaluate(blinded, key)


def test_a_proof_for_one_element_and_for_many(key, batch, random):
    blinded, evaluated = batch
    for count in (1, 2, 20):
        made = proof.prove(key, blinded[:count], evaluated[:count], random)
        proof.verify(key.public, blinded[:count], evaluated[:count], made)


def test_another_key_for_one_element_is_caught(key, batch, random):
    blinded, evaluated = batch
    cheat = evaluated.copy()
    cheat[11] = kernel.multiply(blinded[11:12], Key.random(random).scalar)[0]
    for made in (proof.prove(key, blinded, cheat, random), proof.prove(key, blinded, evaluated, random)):
        with pytest.raises(InvalidProof):
            proof.verify(key.public, blinded, cheat, made)


def test_another_key_for_all_elements_is_caught(key, batch, random):
    blinded, _ = batch
    other = Key.random(random)
    answered = oprf.evaluate(blinded, other)
    for made in (proof.prove(other, blinded, answered, random), proof.prove(key, blinded, answered, random)):
        with pytest.raises(InvalidProof):
            proof.verify(key.public, blinded, answered, made)


def test_two_answers_exchanged_are_caught(key, batch, random):
    blinded, evaluated = batch
    made = proof.prove(key, blinded, evaluated, random)
    with pytest.raises(InvalidProof):
        proof.verify(key.public, blinded, evaluated[::-1], made)


@pytest.mark.parametrize("place", [0, 31, 32, 63])
def test_a_changed_byte_is_caught(key, batch, random, place):
    blinded, evaluated = batch
    made = bytearray(proof.prove(key, blinded, evaluated, random))
    made[place] ^= 1
    with pytest.raises(InvalidProof):
        proof.verify(key.public, blinded, evaluated, bytes(made))


def test_malformed_input(key, batch, random):
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


def test_two_proofs_never_share_a_nonce(key, batch, random):
    blinded, evaluated = batch
    assert len({proof.prove(key, blinded, evaluated, random) for _ in range(5)}) == 5


def test_a_key_statement(key, random):
    proof.verify_key(key.public, proof.prove_key(key, **STATEMENT, random=random), **STATEMENT)


@pytest.mark.parametrize("change", [{"context": b"d" * 32}, {"direction": b"tf" * 32}, {"epoch": 8}], ids=str)
def test_a_key_statement_holds_for_one_context_direction_and_epoch(key, random, change):
    made = proof.prove_key(key, **STATEMENT, random=random)
    with pytest.raises(InvalidProof):
        proof.verify_key(key.public, made, **(STATEMENT | change))


def test_a_key_statement_needs_the_scalar(key, random):
    made = proof.prove_key(Key.random(random), **STATEMENT, random=random)
    with pytest.raises(InvalidProof):
        proof.verify_key(key.public, made, **STATEMENT)
