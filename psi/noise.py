"""Noise for the counts that a partner is shown, and how wide it makes their intervals.

A count gets discrete Laplace noise, P(z) proportional to exp(-epsilon |z|), drawn with integers only: floating point
would leave patterns from which the true count can be read (Mironov, CCS 2012). The sampler is algorithm 2 of Canonne,
Kamath and Steinke, "The Discrete Gaussian for Differential Privacy" (2020), whose section is named at each step.

Large segments are estimated from a sample, chosen by a key so that asking again asks about the same people.
"""

import hmac
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from math import ceil, isqrt

import numpy as np

from . import kernel
from .hashing import NOISE_LABEL, SAMPLE_LABEL, length_prefixed, number
from .join import join_order, prefixes
from .values import SLICE, Indices, Values

CONFIDENCE = Fraction(19, 20)
NORMAL_QUANTILE = Fraction(49, 25)  # 1.96: 95 % of a normal distribution lie within so many standard deviations

Draw = Callable[[int], bytes]


class Stream:
    """The endless byte stream of one 32-byte seed: HMAC-SHA512(seed, label || 0), then 1, and so on.

    The same seed gives the same bytes, so a question that is asked again gets the same noise.
    """

    __slots__ = ("_blocks", "_rest", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._blocks = 0
        self._rest = b""

    def __call__(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += hmac.digest(self._seed, length_prefixed(NOISE_LABEL, number(self._blocks)), "sha512")
            self._blocks += 1
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def discrete_laplace(epsilon: Fraction, draw: Draw) -> int:
    """Draw an integer z with probability proportional to exp(-epsilon |z|), exactly; `draw` gives uniform bytes."""
    # Algorithm 2 for the scale t/s: a geometric variable of scale t is split into its remainder and its quotient by t.
    s, t = epsilon.as_integer_ratio()
    while True:
        remainder = _below(t, draw)
        if not _bernoulli_exp(Fraction(remainder, t), draw):
            continue
        quotient = 0
        while _bernoulli_exp(Fraction(1), draw):
            quotient += 1
        magnitude = (remainder + t * quotient) // s
        negative = _below(2, draw) == 1
        if negative and magnitude == 0:
            continue  # or zero would come up twice as often
        return -magnitude if negative else magnitude


def quantile(epsilon: Fraction, draws: int, confidence: Fraction = CONFIDENCE) -> int:
    """Return the smallest h such that the sum of one or two independent draws is within -h .. h with `confidence`.

    Computed from the closed forms to 60 digits; equality cannot occur, since exp(-epsilon) is transcendental.
    """
    with localcontext(prec=60):
        p = (-Decimal(epsilon.numerator) / epsilon.denominator).exp()
        allowed = (1 - Decimal(confidence.numerator) / confidence.denominator) / 2
        tail = {1: _tail_of_one, 2: _tail_of_two}[draws]
        high = 1
        while tail(p, high) > allowed:
            high *= 2
        low = -1  # tail(low) > allowed >= tail(high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if tail(p, middle) > allowed else (low, middle)
        return high


def half_width(*, epsilon: Fraction | None, draws: int, size: int, sampled: int, hits: int) -> int:
    """Return h such that the estimate is within h of the truth with 95 % confidence.

    `draws` noise draws (none if `epsilon` is None) were added to the `hits` among `sampled` of a segment's `size`
    values, and the sum was scaled up. If nothing was left out, h is exactly the quantile of the noise. Otherwise the
    hits are hypergeometric; h takes them as normal with variance n p (1-p) (N-n)/(N-1), p = (hits + 2)/(n + 4) so
    that it is not zero at the ends (Agresti and Coull 1998), and adds the two independent errors in quadrature.
    """
    noise = quantile(epsilon, draws) if epsilon is not None else 0
    if sampled >= size:
        return noise
    share = Fraction(min(max(hits, 0), sampled) + 2, sampled + 4)
    variance = sampled * share * (1 - share) * Fraction(size - sampled, size - 1)
    square = Fraction(size, sampled) ** 2 * (noise**2 + NORMAL_QUANTILE**2 * variance)
    return isqrt(ceil(square) - 1) + 1  # the square root, rounded up


def interval(value: int, half_width: int, size: int | None) -> list[int]:
    """Return the ends of an interval around a number of values of a segment, which has `size` of them, if that is known."""
    high = value + half_width
    return [max(0, value - half_width), high if size is None else min(size, high)]


def scale_up(count: int, *, size: int, sampled: int) -> int:
    """Return count * size / sampled, rounded half up: from a sample to its segment."""
    return count if sampled >= size else (2 * count * size + sampled) // (2 * sampled)


def sample(values: Values, key: bytes, limit: int) -> Indices:
    """Return the indices of at most `limit` values, ascending: those whose keyed hashes are lowest.

    The choice depends on the key and on each value alone, so a segment that changes a little keeps most of its
    sample, and nobody without the key can put chosen people into it.
    """
    if len(values) <= limit:
        return np.arange(len(values))
    label = length_prefixed(SAMPLE_LABEL, key)
    lowest, places = np.empty((0, 16), np.uint8), np.empty(0, np.intp)
    for start in range(0, len(values), SLICE):
        hashes = kernel.digests(label, values.part(slice(start, start + SLICE)), size=16)
        here = np.arange(start, start + len(hashes))
        if len(places) == limit:
            low = prefixes(hashes) <= prefixes(lowest[-1:])
            hashes, here = hashes[low], here[low]
        lowest, places = np.concatenate([lowest, hashes]), np.concatenate([places, here])
        order = join_order(lowest)[:limit]
        lowest, places = lowest[order], places[order]
    return np.sort(places)


def _tail_of_one(p: Decimal, h: int) -> Decimal:
    """P(z > h) = p^(h+1) / (1+p), p = exp(-epsilon)."""
    return p ** (h + 1) / (1 + p)


def _tail_of_two(p: Decimal, h: int) -> Decimal:
    """P(z1 + z2 > h), from P(z1 + z2 = k) = ((1-p)/(1+p))^2 p^k (k + (1+p^2)/(1-p^2)) for k >= 0, summed over k > h."""
    ones = p ** (h + 1) / (1 - p)  # sum of p^k
    ks = ones * (h + 1 + p / (1 - p))  # sum of k p^k
    return ((1 - p) / (1 + p)) ** 2 * (ks + ones * (1 + p * p) / (1 - p * p))


def _below(limit: int, draw: Draw) -> int:
    """Draw uniformly from 0 .. limit-1, rejecting what lies above."""
    bits = (limit - 1).bit_length()
    while True:
        number = int.from_bytes(draw((bits + 7) // 8), "big") & ((1 << bits) - 1)
        if number < limit:
            return number


def _bernoulli_exp(gamma: Fraction, draw: Draw) -> bool:
    """Return true with probability exp(-gamma), 0 <= gamma <= 1 (algorithm 1, case gamma <= 1)."""
    k = 1
    while _below(gamma.denominator * k, draw) < gamma.numerator:
        k += 1
    return k % 2 == 1
