"""Whole-batch functions: the same bytes whatever the size, chunks and threads, and strict about what comes in."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures import People, Random
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from psi import kernel
from psi.errors import DuplicatePoint, InvalidPoint, InvalidScalar, WrongCount
from psi.keys import random_scalars
from psi.noise import Stream
from psi.values import Values

bounded = settings(max_examples=examples(25), deadline=None)
scalars = st.integers(1, kernel.ORDER - 1)
byte_strings = st.lists(st.binary(max_size=40), max_size=8)


def encode(*numbers: int) -> np.ndarray:
    return np.frombuffer(b"".join(number.to_bytes(32, "little") for number in numbers), np.uint8).reshape(-1, 32)


def points(count: int) -> np.ndarray:
    return kernel.multiply_base(random_scalars(count, Stream(b"points".ljust(32))))


def test_no_elements() -> None:
    none = Values.of([])
    for result, width in (
        (kernel.hash_to_group(b"", none), 32),
        (kernel.hash_and_multiply(b"", none, b"\1" * 32), 32),
        (kernel.multiply(np.empty((0, 32), np.uint8), b"\1" * 32), 32),
        (kernel.multiply_base(np.empty((0, 32), np.uint8)), 32),
        (kernel.finalize(b"", none, np.empty((0, 32), np.uint8)), 64),
        (kernel.digests(b"", none, size=16), 16),
    ):
        assert result.shape == (0, width)
    kernel.decode(np.empty((0, 32), np.uint8))


@pytest.mark.parametrize("count", [1, kernel.CHUNK - 1, kernel.CHUNK, kernel.CHUNK + 1])
def test_threads_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, people: People, count: int) -> None:
    values, scalar = people(0, count), encode(12345).tobytes()
    monkeypatch.setattr(kernel, "threads", 1)
    alone = kernel.hash_and_multiply(b"prefix", values, scalar), kernel.finalize(b"", values, values.rows)
    monkeypatch.setattr(kernel, "threads", 3)
    together = kernel.hash_and_multiply(b"prefix", values, scalar), kernel.finalize(b"", values, values.rows)
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))
    assert (alone[0][-1:] == kernel.hash_and_multiply(b"prefix", people(count - 1, count), scalar)).all()


@bounded
@given(scalars, scalars)
def test_arithmetic(a: int, b: int) -> None:
    base, order = points(3), kernel.ORDER
    product = kernel.multiply(kernel.multiply(base, encode(a).tobytes()), encode(b).tobytes())
    assert (product == kernel.multiply_each(base, encode(*[a * b % order] * 3))).all()
    inverse = kernel.invert(encode(a).tobytes())
    assert (kernel.multiply(kernel.multiply(base, inverse), encode(a).tobytes()) == base).all()
    assert int.from_bytes(inverse, "little") * a % order == 1
    assert kernel.multi_scalar_vartime(encode(a, b), base[:2]) == kernel.multi_scalar_vartime(encode(b, a), base[1::-1])
    assert kernel.multi_scalar_vartime(encode(a, order - a), base[[0, 0]]) == bytes(32)
    response = kernel.respond(encode(a).tobytes(), encode(b).tobytes(), inverse)
    assert int.from_bytes(response, "little") == (a - b * int.from_bytes(inverse, "little")) % order


def test_multi_scalar_over_chunks(random: Random) -> None:
    count = kernel.CHUNK + 3
    weights = random_scalars(count, random)
    discrete_logarithms = random_scalars(count, random)
    total = sum(
        int.from_bytes(weight.tobytes(), "little") * int.from_bytes(logarithm.tobytes(), "little")
        for weight, logarithm in zip(weights, discrete_logarithms, strict=True)
    )
    expected = kernel.multiply_base(encode(total % kernel.ORDER)).tobytes()
    assert kernel.multi_scalar_vartime(weights, kernel.multiply_base(discrete_logarithms)) == expected


@pytest.mark.parametrize("bad", [0, 5, kernel.CHUNK - 1, kernel.CHUNK, kernel.CHUNK + 9])
@pytest.mark.parametrize(("encoding", "reason"), [(bytes(32), "identity"), (b"\1" * 32, "not canonical")])
def test_the_first_bad_point_is_named(bad: int, encoding: bytes, reason: str) -> None:
    batch = np.frombuffer(kernel.GENERATOR, np.uint8).reshape(1, 32).repeat(kernel.CHUNK + 10, axis=0)
    batch[bad:] = np.frombuffer(encoding, np.uint8)
    for decode in (kernel.decode, lambda batch: kernel.multiply(batch, encode(7).tobytes())):
        with pytest.raises(InvalidPoint) as caught:
            decode(batch)
        assert (caught.value.index, caught.value.reason) == (bad, reason)


def test_the_first_repetition_is_named() -> None:
    batch = points(6)
    kernel.check_distinct(batch)
    batch[5], batch[4] = batch[1], batch[3]
    with pytest.raises(DuplicatePoint) as caught:
        kernel.check_distinct(batch)
    assert caught.value.index == 4


@pytest.mark.parametrize("scalar", [0, kernel.ORDER, kernel.ORDER + 1, 2**252 + 2**255, 2**256 - 1])
def test_scalars_out_of_range(scalar: int) -> None:
    for use in (
        lambda: kernel.multiply(points(1), encode(scalar).tobytes()),
        lambda: kernel.multiply_base(encode(1, scalar)),
        lambda: kernel.multi_scalar_vartime(encode(scalar), points(1)),
        lambda: kernel.invert(encode(scalar).tobytes()),
        lambda: kernel.check_scalar(b"short"),
    ):
        with pytest.raises(InvalidScalar):
            use()
    kernel.check_scalars(encode(1, kernel.ORDER - 1, 2**252))


def test_counts_and_shapes_must_agree(people: People) -> None:
    with pytest.raises(WrongCount):
        kernel.multiply_each(points(2), encode(1, 2, 3))
    with pytest.raises(WrongCount):
        kernel.finalize(b"", people(0, 2), points(3))
    with pytest.raises(TypeError):
        kernel.multiply(np.zeros((1, 31), np.uint8), encode(1).tobytes())


def test_arrays_that_are_not_contiguous() -> None:
    batch = points(8)
    assert (kernel.multiply(batch[::2], encode(9).tobytes()) == kernel.multiply(batch, encode(9).tobytes())[::2]).all()


@bounded
@given(st.binary(max_size=200), byte_strings, st.binary(max_size=20), st.integers(1, 64))
def test_digests_are_sha512(prefix: bytes, strings: list[bytes], suffix: bytes, size: int) -> None:
    expected = [hashlib.sha512(prefix + string + suffix).digest()[:size] for string in strings]
    result = kernel.digests(prefix, Values.of(strings), suffix, size)
    assert [row.tobytes() for row in result] == expected


@bounded
@given(st.binary(max_size=200), byte_strings)
def test_finalize_hashes_what_the_rfc_says(prefix: bytes, strings: list[bytes]) -> None:
    elements = points(len(strings))
    expected = [
        hashlib.sha512(
            len(prefix + string).to_bytes(2, "big") + prefix + string + b"\0\x20" + element.tobytes() + b"Finalize"
        ).digest()
        for string, element in zip(strings, elements, strict=True)
    ]
    assert [row.tobytes() for row in kernel.finalize(prefix, Values.of(strings), elements)] == expected


@bounded
@given(st.binary(max_size=150), byte_strings.filter(bool))
def test_the_prefix_is_part_of_the_input(prefix: bytes, strings: list[bytes]) -> None:
    joined = kernel.hash_to_group(b"", Values.of([prefix + string for string in strings]))
    assert (kernel.hash_to_group(prefix, Values.of(strings)) == joined).all()


def test_the_library_is_loaded_late_and_leaves_no_copy(tmp_path: Path) -> None:
    program = """
import sys
from psi import count, keys, membership, noise, oprf, proof
assert "rbcl" not in sys.modules
from psi import kernel
print(kernel.name())
"""
    environment = {"TMPDIR": str(tmp_path), "PATH": "/usr/bin", "VESICA_KERNEL": "libsodium"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("libsodium 1.")
    assert list(tmp_path.iterdir()) == []
