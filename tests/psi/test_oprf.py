"""The oblivious function end to end, against itself and against another implementation (`voprf`, in Rust)."""

import numpy as np
import pytest
from fixtures import People, Random
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples
from voprf import ristretto

from psi import join, oprf, proof
from psi.errors import DuplicatePoint
from psi.keys import Key
from psi.noise import Stream
from psi.values import Values

CONTEXT = b"c" * 32


def test_the_receiver_gets_the_function_and_the_order_back(people: People, random: Random) -> None:
    values, sender, receiver = people(0, 300), Key.random(random), Key.random(random)
    blinded, permutation = oprf.blind_sorted(CONTEXT, values, receiver)
    assert (blinded == join.sort_points(oprf.blind(CONTEXT, values, receiver))[0]).all()
    evaluated = oprf.evaluate(blinded, sender)
    unblinded = np.empty_like(evaluated)
    unblinded[permutation] = oprf.unblind(evaluated, receiver)
    assert (oprf.finalize(CONTEXT, values, unblinded) == oprf.prf(CONTEXT, values, sender)).all()


@settings(max_examples=examples(10), deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=10, unique=True), st.binary(max_size=40))
def test_they_blind_we_evaluate(inputs: list[bytes], context: bytes) -> None:
    key = Key.from_seed(b"s" * 32, b"interop")
    clients, blinded = zip(*(ristretto.Client.blind(context + value) for value in inputs), strict=True)
    elements = np.frombuffer(b"".join(element.serialize() for element in blinded), np.uint8).reshape(-1, 32)
    evaluated = oprf.evaluate(elements, key)
    made = proof.prove(key, elements, evaluated, Stream(b"nonce".ljust(32)))
    answer = ristretto.VerifiableBatchOutput.deserialize(made + evaluated.tobytes())
    outputs = ristretto.Client.finalize_batch(clients, answer, ristretto.PublicKey.deserialize(key.public))
    assert [row.tobytes() for row in oprf.prf(context, Values.of(inputs), key)] == outputs


@settings(max_examples=examples(10), deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=10, unique=True), st.binary(max_size=40))
def test_we_blind_they_evaluate(inputs: list[bytes], context: bytes) -> None:
    server = ristretto.Evaluator.from_seed(b"s" * 32, b"interop")
    assert Key.from_seed(b"s" * 32, b"interop").public == server.public_key.serialize()
    values, key = Values.of(inputs), Key.random(Stream(b"blind".ljust(32)))
    blinded = oprf.blind(context, values, key)
    answer = server.evaluate_batch([ristretto.BlindedInput.deserialize(row.tobytes()) for row in blinded]).serialize()
    evaluated = np.frombuffer(answer[64:], np.uint8).reshape(-1, 32)
    proof.verify(server.public_key.serialize(), blinded, evaluated, answer[:64])
    outputs = oprf.finalize(context, values, oprf.unblind(evaluated, key))
    assert [row.tobytes() for row in outputs] == [server.evaluate_known_input(context + value) for value in inputs]


def test_a_repeated_value_or_point_is_refused(people: People, random: Random) -> None:
    key, values = Key.random(random), people(0, 4).take(np.array([0, 1, 2, 1]))
    with pytest.raises(DuplicatePoint) as caught:
        oprf.blind(CONTEXT, values, key)
    assert caught.value.index == 3
    points = oprf.blind(CONTEXT, people(0, 4), key)
    with pytest.raises(DuplicatePoint):
        oprf.evaluate(points[[0, 1, 2, 3, 0]], key)
