"""Every backend gives libsodium's bytes and refuses what it refuses, at every lane and at the borders of chunks.

`make assure` runs the same comparisons over 100,000 elements: VESICA_ASSURE is their number.
"""

import hashlib
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from psi import kernel
from psi.errors import DuplicatePoint, InvalidPoint, InvalidScalar, UnknownKernel
from psi.noise import Stream
from psi.values import U8, Values

LIBSODIUM = kernel.available()["libsodium"]
EXTENSION = [each for name, each in kernel.available().items() if name != "libsodium"]
ELEMENTS = int(os.environ.get("VESICA_ASSURE", "2000"))
SIZES = (0, 1, 7, 8, 9, 255, 256, 257, 511, 512, 513)
P = 2**255 - 19
NASTY = [1, 2, 3, 7, 8, 9, 15, 16, 17, kernel.ORDER - 1, kernel.ORDER - 2, kernel.ORDER // 2, kernel.ORDER // 2 + 1]
NASTY += [2**power for power in range(4, 253, 31)] + [2**252, 2**252 - 1, 2**252 + 1, 2**128 - 1]
NASTY += [int(digit * 63, 16) for digit in "78f"]  # every digit of radix 16 at a border of its sign
INVALID = {
    "bit 255": 4 + 2**255,
    "p": P,
    "above p": P + 2,
    "largest": 2**256 - 2,
    "negative": 3,
    "negative, canonical when negated": P - 4,
    "no square": 8,  # shown below to be off the curve's image
    "minus one": P - 1,  # y = 0
    "identity": 0,
}


@pytest.fixture
def bytes_of() -> np.random.Generator:
    return np.random.default_rng(9496)


def number(value: int) -> U8:
    return np.frombuffer(value.to_bytes(32, "little"), np.uint8)


def sodium(width: int, function: str, *arguments: U8) -> U8:
    result = np.empty((len(arguments[0]), width), np.uint8)
    assert getattr(LIBSODIUM, function)(result, *arguments) is None
    return result


def elements(count: int, generator: np.random.Generator) -> U8:
    """Return random elements, from libsodium."""
    return sodium(32, "from_uniform", generator.integers(0, 256, (count, 64), np.uint8))


def summed(scalars: U8, *batches: U8) -> bytes:
    """Return the sums of scalars[i] * batch[i], from libsodium."""
    sums = np.empty((len(batches), 32), np.uint8)
    assert LIBSODIUM.multi_scalar_vartime(sums, scalars, batches) is None
    return sums.tobytes()


def refused_at(answering: Any, rows: U8) -> int | None:
    index: int | None = answering.decode(np.empty((len(rows), answering.decoded_bytes), np.uint8), rows)
    return index


def repeated_at(rows: U8) -> int | None:
    try:
        kernel.check_distinct(rows)
    except DuplicatePoint as refusal:
        return refusal.index
    return None


def test_agreement_on_random_elements(bytes_of: np.random.Generator) -> None:
    uniform = bytes_of.integers(0, 256, (ELEMENTS, 64), np.uint8)
    uniform[:, :32][::7] |= 128  # the hash's halves drop bit 255
    uniform[5], uniform[6], uniform[7, :32] = 0, 255, number(P)
    points, scalars = sodium(32, "from_uniform", uniform), sodium(32, "reduce", uniform)
    one = scalars[17]
    assert (kernel.from_uniform(uniform) == points).all()
    assert (kernel.reduce(uniform) == scalars).all()
    points[~points.any(axis=1)] = elements(1, bytes_of)  # hashed zeros give the identity
    products, decoded = sodium(32, "multiply", points, one), kernel.decode(points)
    assert (decoded.points == points).all()
    assert (kernel.multiply(points, one.tobytes()) == products).all()
    assert (kernel.multiply(decoded, one.tobytes()) == products).all()
    scalars[~scalars.any(axis=1)] = number(1)
    assert (kernel.multiply_each(points, scalars) == sodium(32, "multiply", points, scalars)).all()
    expected = summed(scalars, points, products)
    assert kernel.multi_scalar_vartime(scalars, decoded, products) == expected
    assert kernel.multi_scalar_vartime(scalars, points) == expected[:32]
    values = Values(uniform[:, :37], (uniform[:, 63] % 38).astype(np.uint8))
    hashed = kernel.hash_and_multiply(b"some context", values, one.tobytes())
    assert (hashed == kernel.multiply(kernel.hash_to_group(b"some context", values), one.tobytes())).all()
    hashes = kernel.finalize(b"some context", values, points)
    for index in range(0, ELEMENTS, 97):
        value = b"some context" + values[index]
        message = len(value).to_bytes(2, "big") + value + b"\0\x20" + points[index].tobytes() + b"Finalize"
        assert hashes[index].tobytes() == hashlib.sha512(message).digest()


@pytest.mark.parametrize("size", SIZES)
def test_agreement_at_every_size(size: int, bytes_of: np.random.Generator) -> None:
    uniform = bytes_of.integers(0, 256, (size, 64), np.uint8)
    points, scalars = sodium(32, "from_uniform", uniform), sodium(32, "reduce", uniform)
    assert (kernel.from_uniform(uniform) == points).all()
    product, decoded = sodium(32, "multiply", points, number(9876543210)), kernel.decode(points)
    assert (kernel.multiply(points, number(9876543210).tobytes()) == product).all()
    assert (kernel.multiply(decoded, number(9876543210).tobytes()) == product).all()
    expected = summed(scalars, points, product)
    assert kernel.multi_scalar_vartime(scalars, decoded, product) == expected
    assert kernel.multi_scalar_vartime(scalars, points) == expected[:32]


@pytest.mark.parametrize("scalar", NASTY)
def test_agreement_on_nasty_scalars(scalar: int, bytes_of: np.random.Generator) -> None:
    points = elements(11, bytes_of)
    product = sodium(32, "multiply", points, number(scalar))
    assert (kernel.multiply(points, number(scalar).tobytes()) == product).all()
    assert (kernel.multiply(kernel.decode(points), number(scalar).tobytes()) == product).all()
    scalars = number(scalar).reshape(1, 32).repeat(11, axis=0)
    scalars[1::2] = number(kernel.ORDER - scalar)
    assert (kernel.multiply_each(points, scalars) == sodium(32, "multiply", points, scalars)).all()
    assert kernel.invert(number(scalar).tobytes()) == LIBSODIUM.invert(number(scalar).tobytes())
    many = kernel.multiply_base(number(scalar).reshape(1, 32)).repeat(101, axis=0)
    total = 101 * scalar * scalar % kernel.ORDER
    expected = kernel.multiply_base(number(total).reshape(1, 32)).tobytes() if total else bytes(32)
    assert kernel.multi_scalar_vartime(scalars[[0] * 101], many) == expected


@pytest.mark.parametrize("scalar", [0, kernel.ORDER, kernel.ORDER + 1, 2**253, 2**256 - 1])
def test_scalars_out_of_range_are_refused(scalar: int, bytes_of: np.random.Generator) -> None:
    with pytest.raises(InvalidScalar):
        kernel.multiply(elements(3, bytes_of), number(scalar).tobytes())


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_encodings_are_refused_at_every_place(kind: str, bytes_of: np.random.Generator) -> None:
    bad, good = number(INVALID[kind]), elements(513, bytes_of)
    places = [*range(17), *range(248, 265), 511, 512]
    for place in places:
        batch = good[: max(place + 1, 20)].copy()
        batch[place] = bad
        assert refused_at(kernel.backend(), batch[place:]) == 0
        for refuse in (
            lambda batch: kernel.decode(batch),
            lambda batch: kernel.multi_scalar_vartime(number(3).reshape(1, 32).repeat(len(batch), axis=0), batch),
            lambda batch: kernel.multiply(batch[: min(len(batch), 20)], number(3).tobytes()),
        ):
            if len(batch) > 20 and refuse.__code__.co_names[-1] == "tobytes":
                continue  # as many multiplications as that say nothing new
            with pytest.raises(InvalidPoint) as caught:
                refuse(batch)
            assert caught.value.index == place
            assert caught.value.reason == ("identity" if kind == "identity" else "not canonical")


def test_one_bad_element_spoils_no_other(bytes_of: np.random.Generator) -> None:
    """An inversion is shared: what the low-level call leaves beside a refused row is never handed out, so ask again."""
    points = elements(40, bytes_of)
    expected = sodium(32, "multiply", points, number(5))
    for place in (0, 7, 8, 39):
        batch = points.copy()
        batch[place] = 255
        with pytest.raises(InvalidPoint):
            kernel.multiply(batch, number(5).tobytes())
        assert (kernel.multiply(points, number(5).tobytes()) == expected).all()


def test_random_bytes_decode_alike(bytes_of: np.random.Generator) -> None:
    rows = bytes_of.integers(0, 256, (ELEMENTS, 32), np.uint8)
    rows[:, 0] &= 254
    rows[:, 31] &= 127  # canonical and not negative, so that the square root decides
    verdicts = [refused_at(kernel.backend(), rows[index : index + 1]) for index in range(ELEMENTS)]
    assert verdicts == [refused_at(LIBSODIUM, rows[index : index + 1]) for index in range(ELEMENTS)]
    assert {None, 0} == set(verdicts)


@pytest.mark.parametrize("size", [2, 31, 32, 33, 64, 5000])
def test_the_first_repetition_is_named_at_every_size(size: int, bytes_of: np.random.Generator) -> None:
    rows = bytes_of.integers(0, 256, (size, 32), np.uint8)
    rows[:, 2:] = 7  # rows that differ little
    given = [row.tobytes() for row in rows]
    assert repeated_at(rows) == next((index for index, row in enumerate(given) if row in given[:index]), None)
    rows = bytes_of.integers(0, 256, (size, 32), np.uint8)
    assert repeated_at(rows) is None
    rows[size - 1] = rows[size // 2 - 1]
    assert repeated_at(rows) == size - 1


def test_sums_may_be_the_identity(bytes_of: np.random.Generator) -> None:
    points = elements(70, bytes_of)
    both = np.concatenate([points, points])
    for scalar in (1, 7, kernel.ORDER // 3):
        scalars = np.concatenate([number(scalar).reshape(1, 32).repeat(70, axis=0)] * 2)
        scalars[70:] = number(kernel.ORDER - scalar)
        assert kernel.multi_scalar_vartime(scalars, both) == bytes(32)


def test_scalar_arithmetic(bytes_of: np.random.Generator) -> None:
    random = Stream(b"scalars".ljust(32))
    for _ in range(50):
        nonce, challenge, secret = kernel.reduce(np.frombuffer(random(192), np.uint8).reshape(3, 64))
        arguments = nonce.tobytes(), challenge.tobytes(), secret.tobytes()
        assert kernel.respond(*arguments) == LIBSODIUM.respond(*arguments)
        assert kernel.invert(secret.tobytes()) == LIBSODIUM.invert(secret.tobytes())
    edges = np.zeros((4, 64), np.uint8)
    edges[1], edges[2, :32], edges[3, 32:] = 255, number(kernel.ORDER), number(kernel.ORDER)
    assert (kernel.reduce(edges) == sodium(32, "reduce", edges)).all()


@pytest.mark.parametrize("width", [0, 1, 47, 48, 111, 112, 127, 128, 239, 240, 255])
def test_hashes_at_the_borders_of_blocks(width: int, bytes_of: np.random.Generator) -> None:
    rows = bytes_of.integers(0, 256, (19, width), np.uint8)
    lengths = (np.arange(19) * 13 % (width + 1)).astype(np.uint8)
    for values in (Values(rows), Values(rows, lengths)):
        for prefix in (b"", b"x" * 127, b"y" * 128, b"z" * 300):
            expected = [hashlib.sha512(prefix + values[index] + b"end").digest() for index in range(19)]
            assert [row.tobytes() for row in kernel.digests(prefix, values, b"end")] == expected


def test_sha256_of_texts_of_every_length_at_every_address(bytes_of: np.random.Generator) -> None:
    data = bytes_of.bytes(20_000)
    lengths = np.concatenate([np.arange(201), bytes_of.integers(0, 5_000, 300)])
    starts = bytes_of.integers(0, 15_000, len(lengths))
    hashes = kernel.sha256(data, starts, starts + lengths)
    texts = [data[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    assert [row.tobytes() for row in hashes] == [hashlib.sha256(text).digest() for text in texts]
    assert kernel.sha256(b"", np.zeros(0, np.intp), np.zeros(0, np.intp)).shape == (0, 32)
    assert kernel.sha256(data, np.array([20_000]), np.array([20_000])).tobytes() == hashlib.sha256().digest()


@pytest.mark.parametrize(("start", "end"), [(2, 1), (-1, 1), (0, 4), (4, 4), (0, 2**62), (-(2**62), 2**62)])
def test_sha256_reads_nothing_beside_its_data(start: int, end: int, backend: str) -> None:
    starts, ends = np.array([0, start]), np.array([3, end])
    with pytest.raises(IndexError, match="text 1 "):
        kernel.sha256(b"abc", starts, ends)
    for answering in EXTENSION:
        assert answering.sha256(np.empty((2, 32), np.uint8), b"abc", starts, ends) == 1
    with pytest.raises(TypeError):
        kernel.sha256(b"abc", starts, ends[:1])


@pytest.mark.parametrize("count", [0, 1, 2, 5_000])
def test_keys_in_order_and_equal_ones_by_place(count: int, bytes_of: np.random.Generator) -> None:
    wide: npt.NDArray[np.uint64] = bytes_of.integers(0, 2**64, count, np.uint64, endpoint=False)
    near, far, few = wide >> np.uint64(44), wide << np.uint64(50), wide % np.uint64(3)
    for keys in (wide, near, far, few, np.zeros_like(wide), np.sort(wide), np.sort(wide)[::-1]):
        found = kernel.sort_order(keys)
        assert found.dtype == np.intp
        assert found.tolist() == sorted(range(count), key=keys.tolist().__getitem__)


def test_a_backend_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESICA_KERNEL", "abacus")
    kernel.backend.cache_clear()
    with pytest.raises(UnknownKernel, match="abacus") as caught:
        kernel.name()
    assert "libsodium" in caught.value.hint


def test_libsodium_answers_where_the_extension_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VESICA_KERNEL")
    monkeypatch.setitem(sys.modules, "psi._kernel", None)
    kernel.backend.cache_clear()
    assert kernel.name().startswith("libsodium 1.")


def test_the_extension_checks_sizes(backend: str) -> None:
    if backend == "libsodium":
        pytest.skip("the extension's own checks")
    answering = EXTENSION[0]
    rows, short = np.zeros((4, 32), np.uint8), np.zeros((3, 32), np.uint8)
    decoded = np.zeros((4, answering.decoded_bytes), np.uint8)
    for wrong in (
        lambda: answering.multiply(short, rows, rows[0]),
        lambda: answering.multiply(rows, rows, short),
        lambda: answering.decode(decoded, np.zeros(33, np.uint8)),
        lambda: answering.from_uniform(rows, rows),
        lambda: answering.multiply_decoded(rows, short, rows[0]),
        lambda: answering.multiply_decoded(rows, rows, rows[0]),
        lambda: answering.decode(decoded, short),
        lambda: answering.decode(rows, rows),
        lambda: answering.multi_scalar_vartime(rows, rows, (decoded,)),
        lambda: answering.multi_scalar_vartime(rows[:1], rows, (rows,)),
        lambda: answering.multi_scalar_vartime(rows[:2], rows, (decoded, rows)),
        lambda: answering.multi_scalar_vartime(rows[:1], short, (decoded,)),
        lambda: answering.multi_scalar_vartime(rows[:1], rows, (decoded[:, ::2],)),
        lambda: answering.multi_scalar_vartime(rows[:3], rows, (decoded,) * 3),
        lambda: answering.multi_scalar_vartime(rows[:1], np.full((4, 32), 255, np.uint8), (decoded,)),
        lambda: answering.sha512(rows, 4, ((short[0, :31], None),)),
        lambda: answering.sha512(rows, 4, ((rows, np.array([0, 1, 33, 2], np.uint8)),)),
        lambda: answering.sha512(rows, -1, ()),
        lambda: answering.sha256(rows, b"", np.zeros(4, np.int64), np.zeros(3, np.int64)),
        lambda: answering.order(np.zeros(3, np.int64), np.zeros(4, np.uint64)),
        lambda: answering.order(np.zeros(4, np.int64), np.zeros(33, np.uint8)[1:]),  # type: ignore[arg-type]
        lambda: answering.order(np.zeros(4, np.int64), np.zeros(31, np.uint8)),
        lambda: answering.merge(np.zeros(3, np.intp), np.zeros(4, np.intp), rows, rows),
        lambda: answering.merge(np.zeros(4, np.intp), np.zeros(3, np.intp), rows, rows),
        lambda: answering.merge(np.zeros(4, np.intp), np.zeros(33, np.uint8)[1:].view(np.intp), rows, rows),
        lambda: answering.merge(np.zeros(4, np.intp), np.zeros(4, np.intp), rows, rows[:, :16]),
        lambda: answering.merge(np.zeros(4, np.intp), np.zeros(4, np.intp), rows[:, :7], rows[:, :7]),
        lambda: answering.merge(np.zeros(4, np.intp), np.zeros(4, np.intp), rows[:, ::2], rows[:, ::2]),
        lambda: answering.merge(np.zeros(32, np.intp), np.zeros(32, np.intp), rows[0], rows[0]),
        lambda: answering.sha256(rows[0, :31], b"", np.zeros(1, np.int64), np.zeros(1, np.int64)),
        lambda: answering.respond(b"short", b"", b""),
        lambda: answering.first_repeat(rows, b"short"),
        lambda: answering.decode(decoded, np.zeros((4, 64), np.uint8)[:, ::2]),  # not contiguous
    ):
        with pytest.raises(ValueError):
            wrong()
