import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from fixtures import People, Random
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from psi import kernel, noise
from psi.noise import Stream
from psi.values import Values

EPSILON = Fraction(1, 20)
bounded = settings(max_examples=examples(50), deadline=None)
# What is about numbers alone runs once, whatever the kernel.
without_curve = pytest.mark.parametrize("backend", list(kernel.available())[:1], indirect=True)


def probability(epsilon: Fraction, z: int) -> float:
    p = math.exp(-epsilon)
    return (1 - p) / (1 + p) * p ** abs(z)


def test_a_stream_is_its_seed(random: Random) -> None:
    whole = Stream(bytes(32))(300)
    stream = Stream(bytes(32))
    assert b"".join(stream(size) for size in (0, 1, 63, 64, 65, 107)) == whole
    assert Stream(b"\1" * 32)(300) != whole
    assert 120 < np.frombuffer(whole, np.uint8).mean() < 135


@without_curve
@pytest.mark.parametrize("epsilon", [Fraction(1), Fraction(1, 3), Fraction(5, 2)])
def test_the_distribution_is_discrete_laplace(epsilon: Fraction) -> None:
    """Chi-squared over the values that are frequent enough; the seed is fixed, so this cannot fail by chance."""
    draws, stream = 4000, Stream(b"laplace".ljust(32))
    seen = Counter(noise.discrete_laplace(epsilon, stream) for _ in range(draws))
    cells = [z for z in range(-40, 41) if draws * probability(epsilon, z) >= 5]
    statistic = sum((seen[z] - draws * probability(epsilon, z)) ** 2 / (draws * probability(epsilon, z)) for z in cells)
    assert statistic < len(cells) + 4 * math.sqrt(2 * len(cells))
    assert all(type(z) is int for z in seen)


def test_the_same_seed_gives_the_same_noise() -> None:
    first, second = ([noise.discrete_laplace(EPSILON, Stream(bytes([i]) * 32)) for i in range(20)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 10


def _convolved(one: np.ndarray) -> np.ndarray:
    """Return np.convolve(one, one), by way of its spectrum: to some 1e-16, and in a hundredth of the time."""
    size = 2 * len(one) - 1
    return np.fft.irfft(np.fft.rfft(one, size) ** 2, size)


def test_the_sum_of_two_draws_by_its_spectrum_is_the_plain_one() -> None:
    one = np.array([probability(EPSILON, z) for z in range(-600, 601)])
    assert np.abs(_convolved(one) - np.convolve(one, one)).max() < 1e-15


@without_curve
@bounded
@given(st.fractions(Fraction(1, 200), Fraction(5)), st.sampled_from([1, 2]), st.sampled_from([50, 90, 95, 99]))
def test_quantiles_against_the_summed_probabilities(epsilon: Fraction, draws: int, percent: int) -> None:
    p = math.exp(-epsilon)
    reach = int(30 / epsilon) + 2
    one = (1 - p) / (1 + p) * p ** np.abs(np.arange(-reach, reach + 1.0))
    masses = one if draws == 1 else _convolved(one)
    middle = len(masses) // 2
    h = noise.quantile(epsilon, draws, Fraction(percent, 100))
    inside = masses[middle - h : middle + h + 1].sum()
    assert inside >= percent / 100 - 1e-9
    assert h == 0 or inside - masses[middle - h] - masses[middle + h] < percent / 100 + 1e-9


def test_the_default_terms() -> None:
    """At epsilon 1/20: one count is within 60 of the truth, the overlap, which is the sum of two, within 82."""
    assert (noise.quantile(EPSILON, 1), noise.quantile(EPSILON, 2)) == (60, 82)


def test_without_sampling_the_interval_is_the_noise() -> None:
    for size in (0, 1, 1000):
        assert noise.half_width(epsilon=EPSILON, draws=2, size=size, sampled=size, hits=-40) == noise.quantile(
            EPSILON, 2
        )
        assert noise.half_width(epsilon=None, draws=2, size=size, sampled=size, hits=0) == 0


@without_curve
@bounded
@given(st.integers(2, 10**7), st.data())
def test_sampling_only_widens(size: int, data: st.DataObject) -> None:
    sampled = data.draw(st.integers(1, size - 1))
    hits = data.draw(st.integers(-100, sampled + 100))
    widths = [
        noise.half_width(epsilon=epsilon, draws=2, size=size, sampled=sampled, hits=hits) for epsilon in (None, EPSILON)
    ]
    assert 0 < widths[0] < widths[1]
    assert widths[1] >= noise.quantile(EPSILON, 2) * size // sampled


@without_curve
@pytest.mark.parametrize("epsilon", [None, Fraction(1), EPSILON])
@pytest.mark.parametrize(("size", "sampled", "true"), [(1000, 1000, 400), (5000, 1000, 2500), (5000, 1000, 50)])
def test_the_interval_holds_the_truth(epsilon: Fraction | None, size: int, sampled: int, true: int) -> None:
    generator, stream = np.random.default_rng(3), Stream(b"interval".ljust(32))
    held = 0
    for _ in range(200):
        hits = int(generator.hypergeometric(true, size - true, sampled))
        if epsilon is not None:
            hits += noise.discrete_laplace(epsilon, stream) + noise.discrete_laplace(epsilon, stream)
        estimate = noise.scale_up(hits, size=size, sampled=sampled)
        width = noise.half_width(epsilon=epsilon, draws=2, size=size, sampled=sampled, hits=hits)
        held += abs(estimate - true) <= width
    assert held >= 180


@without_curve
@bounded
@given(st.integers(-1000, 1000), st.integers(1, 1000), st.integers(0, 1000))
def test_scaling_up_rounds_to_the_nearest(count: int, sampled: int, more: int) -> None:
    size = sampled + more
    assert abs(noise.scale_up(count, size=size, sampled=sampled) - Fraction(count * size, sampled)) <= Fraction(1, 2)


def test_a_sample_is_kept_while_the_segment_changes(people: People) -> None:
    before, after = people(0, 2000), people(100, 2100)
    chosen = noise.sample(before, b"key", limit=500)
    assert len(set(chosen.tolist())) == 500 == len(chosen)
    assert (np.diff(chosen) > 0).all()
    again = noise.sample(after, b"key", limit=500) + 100
    stayed = np.intersect1d(chosen[chosen >= 100], again)
    assert len(stayed) > 430
    shuffled = np.random.default_rng(1).permutation(2000)
    assert sorted(shuffled[noise.sample(before.take(shuffled), b"key", limit=500)]) == chosen.tolist()
    assert len(np.intersect1d(noise.sample(before, b"other", limit=500), chosen)) < 200
    assert noise.sample(before, b"key", limit=2000).tolist() == list(range(2000))


@pytest.mark.parametrize("size", [1, 7, 499, 500, 501, 1_999])
def test_a_sample_is_the_same_whatever_number_of_values_is_looked_at_at_once(
    people: People, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    whole = noise.sample(people(0, 2000), b"key", limit=500).tolist()
    monkeypatch.setattr(noise, "SLICE", size)
    assert noise.sample(people(0, 2000), b"key", limit=500).tolist() == whole


def test_a_sample_of_values_of_several_lengths_does_not_depend_on_the_widest() -> None:
    short, wide = Values.of([b"a", b"bb", b"ccc"]), Values.of([b"a", b"bb", b"ccc", b"a longer one"])
    first, *_ = noise.sample(short, b"key", limit=1)
    assert first in noise.sample(wide, b"key", limit=2)
