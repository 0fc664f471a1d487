"""The vectors of RFC 9496 and RFC 9497, and our own, through the public functions."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psi import count, hashing, join, kernel, membership, noise, oprf, proof
from psi.errors import InvalidPoint
from psi.kernel import Mode
from psi.keys import Key, Purpose
from psi.values import U8, Values

Vector = dict[str, Any]
VECTORS = Path(__file__).parent.parent / "vectors"
RFC9496 = json.loads((VECTORS / "rfc9496.json").read_text())
RFC9497 = json.loads((VECTORS / "rfc9497.json").read_text())
VESICA = json.loads((VECTORS / "vesica.json").read_text())
CASES = [(suite, vector) for suite in RFC9497["suites"] for vector in suite["vectors"]]


def unhex(*rows: str) -> U8:
    return np.array([list(bytes.fromhex(row)) for row in rows], np.uint8)


def test_multiples_of_the_generator() -> None:
    expected = unhex(*RFC9496["generator_multiples"])
    scalars = np.zeros((15, 32), np.uint8)
    scalars[:, 0] = np.arange(1, 16)
    generator = np.frombuffer(kernel.GENERATOR, np.uint8).reshape(1, 32)
    assert expected[0].tobytes() == bytes(32) == kernel.multi_scalar_vartime(scalars[:0], expected[:0])
    assert (kernel.multiply_base(scalars) == expected[1:]).all()
    assert (kernel.multiply_each(generator, scalars) == expected[1:]).all()
    ones = scalars[:1].repeat(15, axis=0)
    for multiple in range(16):
        repeated = generator.repeat(multiple, axis=0)
        assert kernel.multi_scalar_vartime(ones[:multiple], repeated) == expected[multiple].tobytes()


@pytest.mark.parametrize("case", RFC9496["invalid_encodings"], ids=lambda case: case["encoding"][:8])
def test_invalid_encodings_are_refused_by_index(case: Vector) -> None:
    batch = unhex(*RFC9496["generator_multiples"][1:4], case["encoding"], RFC9496["generator_multiples"][5])
    scalars = np.ones((5, 32), np.uint8)
    for decode in (
        lambda: kernel.decode(batch),
        lambda: kernel.multiply(batch, scalars[0].tobytes()),
        lambda: kernel.multiply_each(batch, scalars),
        lambda: kernel.multi_scalar_vartime(scalars, batch),
    ):
        with pytest.raises(InvalidPoint) as caught:
            decode()
        assert (caught.value.index, caught.value.reason) == (3, "not canonical")


def test_hash_to_group_of_uniform_bytes() -> None:
    cases = RFC9496["hash_to_group"]
    elements = kernel.from_uniform(unhex(*(case["uniform"] for case in cases)))
    assert (elements == unhex(*(case["element"] for case in cases))).all()


@pytest.mark.parametrize("suite", RFC9497["suites"], ids=lambda suite: suite["mode"])
def test_key_derivation(suite: Vector) -> None:
    mode = Mode[suite["mode"]]
    assert mode == suite["mode_byte"]
    assert mode.label(b"HashToGroup-").hex() == suite["hash_to_group_dst"]
    key = Key.from_seed(bytes.fromhex(suite["seed"]), bytes.fromhex(suite["key_info"]), mode)
    assert key.scalar.hex() == suite["secret_key"]
    assert key.public.hex() == suite.get("public_key", key.public.hex())


@pytest.mark.parametrize(("suite", "vector"), CASES, ids=lambda case: case.get("mode", len(case.get("inputs", ""))))
def test_oprf_from_blind_to_output(suite: Vector, vector: Vector) -> None:
    mode = Mode[suite["mode"]]
    key = Key.from_seed(bytes.fromhex(suite["seed"]), bytes.fromhex(suite["key_info"]), mode)
    values = Values.of([bytes.fromhex(value) for value in vector["inputs"]])
    blinds = [Key(bytes.fromhex(blind)) for blind in vector["blinds"]]  # the RFC draws one for each element
    each = [values.take(np.array([index])) for index in range(len(values))]

    blinded = np.concatenate([oprf.blind(b"", value, blind, mode) for value, blind in zip(each, blinds, strict=True)])
    assert (blinded == unhex(*vector["blinded"])).all()
    evaluated = oprf.evaluate(blinded, key)
    assert (evaluated == unhex(*vector["evaluated"])).all()
    if mode is Mode.VOPRF:
        nonce = bytes.fromhex(vector["proof_randomness"])
        made = proof.prove(key, blinded, evaluated, lambda size: nonce.ljust(size, b"\0"))
        assert made.hex() == vector["proof"]
        proof.verify(key.public, blinded, evaluated, made)
    unblinded = np.concatenate([oprf.unblind(evaluated[i : i + 1], blind) for i, blind in enumerate(blinds)])
    assert (oprf.finalize(b"", values, unblinded) == unhex(*vector["outputs"])).all()
    assert (oprf.prf(b"", values, key, mode) == unhex(*vector["outputs"])).all()


def test_our_own_labels_and_encodings() -> None:
    inputs = VESICA["context"]
    ends = {name: bytes.fromhex(inputs[name]) for name in ("from_key", "to_key", "connection")}
    context = hashing.context(protocol=inputs["protocol"], namespace=inputs["namespace"], **ends)
    assert context.hex() == inputs["context"]

    epoch, direction = VESICA["keys"]["epoch"], ends["from_key"] + ends["to_key"]
    keys = {
        purpose: Key.derive(
            bytes.fromhex(VESICA["keys"]["secret"]),
            connection=ends["connection"],
            direction=direction,
            namespace=inputs["namespace"],
            epoch=epoch,
            purpose=purpose,
        )
        for purpose in Purpose
    }
    assert {purpose.value.decode(): key.scalar.hex() for purpose, key in keys.items()} == VESICA["keys"]["scalars"]

    values, release = Values(unhex(*VESICA["values"])), VESICA["release"]
    blinded = oprf.blind(context, values, keys[Purpose.RELEASE_BLIND])
    assert (blinded == unhex(*release["blinded"])).all()
    key, evaluated = keys[Purpose.RELEASE_PRF], oprf.evaluate(blinded, keys[Purpose.RELEASE_PRF])
    assert (evaluated == unhex(*release["evaluated"])).all()
    statement = {"context": context, "direction": direction, "epoch": epoch}

    def nonce(size: int) -> bytes:
        return bytes.fromhex(release["nonce"]).ljust(size, b"\0")

    assert proof.prove_key(key, **statement, random=nonce).hex() == release["key_proof"]
    assert proof.prove(key, blinded, evaluated, nonce).hex() == release["batch_proof"]
    prf = oprf.prf(context, values, key)
    assert (prf == unhex(*release["prf"])).all()
    run = {"feed": bytes.fromhex(release["feed"]), "version": release["version"], "revision": release["revision"]}
    assert (membership.seal(prf, unhex(*release["bitmaps"]), **run) == unhex(*release["records"])).all()

    universe, _ = join.sort_points(oprf.blind(context, values, keys[Purpose.COUNT_ANSWER]))
    assert (universe == unhex(*VESICA["count"]["universe"])).all()
    digest = count.universe_digest(len(universe), count.chunk_digests(universe))
    assert digest.hex() == VESICA["count"]["universe_digest"]
    tag_context = count.tag_context(context, direction, epoch, digest)
    assert (count.ask_tags(universe, keys[Purpose.COUNT_ASK], tag_context) == unhex(*VESICA["count"]["tags"])).all()

    stream = noise.Stream(bytes.fromhex(VESICA["noise"]["seed"]))
    assert stream(96).hex() == VESICA["noise"]["stream"]
    stream = noise.Stream(bytes.fromhex(VESICA["noise"]["seed"]))
    epsilon = Fraction(VESICA["noise"]["epsilon"])
    assert [noise.discrete_laplace(epsilon, stream) for _ in range(8)] == VESICA["noise"]["draws"]
