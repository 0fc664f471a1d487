"""The count: how many of the asker's values are in the answerer's universe, and nothing about which.

    answerer B, universe Y, key b                        asker A, values X, key a
    build_universe: H(y)^b and canaries d*G, sorted --->
                                                    <--- ask_tags: a*G, and tag(P^a) of every point P, sorted
    check_tags: count, order, every canary's tag
                                                    <--- ask: H(x)^a, sorted, with A's segments as bitmaps
    count_hits: which tag(H(x)^ab) are among the tags

A does not count. It sees B's points, and never which of its own values hit: a side that counts could mark its own
points with different keys and read names out of the number. B counts, and sees the hits of pseudonyms H(x)^a
that it cannot link to its own rows: the tags come back in the order of their bytes over the whole universe.

B's canaries are points like any other whose tags only an honest A gets right: B knows their discrete logarithms d, and
d*(a*G) is the point that A must have tagged. If A swaps tags, to have one point answered many times, it destroys the
tags of the points that it swaps, and it cannot tell which of them are canaries.

There is no such check of a B that lies about its universe, since its points hide what they are made of. SECURITY.md
says what such a B learns; tests/psi/test_count_attacks.py shows it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from . import kernel, oprf
from .errors import DuplicatePoint, InvalidPoint, InvalidTags, WrongCount
from .hashing import COUNT_LABEL, UNIVERSE_LABEL, length_prefixed, number
from .join import first_disorder, match, sort_points
from .keys import Key, random_scalars
from .values import SLICE, U8, Bools, Indices, Rows, Values

if TYPE_CHECKING:
    from .engine import Engine

TAG_BYTES = 16
CHUNK_POINTS = 30_720  # 960 KiB of points: proxies stop at 1 MiB a body
PADDING = 4096  # the asker sees the universe's size in multiples of this
MIN_CANARIES = 64
VALUES_PER_CANARY = 63  # one point in 64: t swapped tags pass with chance (63/64)^t at most, however large the universe

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Universe:
    """The answerer's side of one generation: what it sends, and what it keeps.

    `points` are sent, uint8 (m, 32), sorted, m a multiple of 4,096, and need not be in memory; `canaries` are the secret
    scalars of those of them that stand for nobody, uint8 (c, 32); `size` is the number of the others, and is secret too.
    """

    points: Rows
    canaries: U8 = field(repr=False)
    size: int = field(repr=False)

    @property
    def digest(self) -> bytes:
        """The commitment to the points, 64 bytes."""
        return universe_digest(len(self.points), chunk_digests(self.points))


class Hits(NamedTuple):
    """Per segment, how many of its values hit: with the asker's consent bit, and without; both int64 (k,)."""

    consented: Counts
    others: Counts


def build_universe(
    context: bytes, values: Values, key: Key, random: Callable[[int], bytes], engine: "Engine | None" = None
) -> Universe:
    """Blind the answerer's values, add canaries up to the next multiple of 4,096, and sort: in memory, or by an engine.

    There are at least 64 canaries, and at least one for every 63 values. Raises DuplicatePoint for a repeated value.
    """
    canaries = random_scalars(canaries_for(len(values)), random)
    if engine is not None:
        points = engine.build_universe(context, values, key, canaries)
        return Universe(points=points, canaries=canaries, size=len(values))
    both = np.concatenate([oprf.blind(context, values, key), kernel.multiply_base(canaries)])
    return Universe(points=sort_points(both)[0], canaries=canaries, size=len(values))


def canaries_for(size: int) -> int:
    """Return how many canaries a universe of `size` values gets: enough of them, and up to a multiple of 4,096 points."""
    least = size + max(MIN_CANARIES, -(-size // VALUES_PER_CANARY))
    return -(-least // PADDING) * PADDING - size


def chunk_digests(points: Rows) -> list[bytes]:
    """Return the SHA-512 of each chunk of 30,720 points, in order."""
    starts = range(0, len(points), CHUNK_POINTS)
    return [hashlib.sha512(points[start : start + CHUNK_POINTS].tobytes()).digest() for start in starts]


def universe_digest(count: int, digests: Sequence[bytes]) -> bytes:
    """Return the digest that fixes a universe before any question: of its number of points and its chunk digests."""
    return hashlib.sha512(length_prefixed(UNIVERSE_LABEL, number(count), *digests)).digest()


def tag_context(context: bytes, direction: bytes, epoch: int, digest: bytes) -> bytes:
    """Return what is hashed before the point in each tag: tags of one universe mean nothing for another."""
    return length_prefixed(COUNT_LABEL, context, direction, number(epoch), digest) + number(32)


def ask_tags(points: U8, key: Key, tag_context: bytes) -> U8:
    """Return the asker's tags of the answerer's whole universe, uint8 (m, 16), sorted.

    The universe must be sorted and hold no point twice: raises InvalidPoint, DuplicatePoint. `key` has to be derived
    from the universe's digest, so that a changed universe meets another key.
    """
    check_sorted(points)
    return sort_points(tags_of(kernel.multiply(points, key.scalar), tag_context))[0]


def check_tags(tags: Rows, count: int, canaries: U8, asker_public: bytes, tag_context: bytes) -> None:
    """Refuse tags unless there is one for each of the universe's `count` points, all under one key of the asker.

    Raises InvalidTags for a wrong number of tags, for unsorted or repeated ones, and where a canary's tag is missing
    (which an honest asker cannot cause). Raises InvalidPoint for an `asker_public` that is no element.
    """
    if len(tags) != count:
        raise InvalidTags(f"{len(tags)} tags for {count} points")
    for start in range(0, len(tags) - 1, SLICE):
        disorder = first_disorder(tags[start : start + SLICE + 1])
        if disorder is not None:
            raise InvalidTags(f"tag {start + disorder[0]} is {'repeated' if disorder[1] else 'out of order'}")
    asker = np.frombuffer(asker_public, np.uint8).reshape(1, -1)
    expected = tags_of(kernel.multiply_each(asker, canaries), tag_context)
    if not _present(tags, expected).all():
        raise InvalidTags("a canary's tag is missing: the asker did not tag every point with its one key")


def ask(context: bytes, values: Values, key: Key) -> tuple[U8, Indices]:
    """Return the asker's blinded values, sorted, and the permutation that brings its bitmaps into the same order.

    Raises DuplicatePoint for a repeated value.
    """
    return sort_points(oprf.blind(context, values, key))


def count_hits(points: U8, key: Key, tags: Rows, tag_context: bytes, segments: Bools, consented: Bools) -> Hits:
    """Count, for each segment, the asker's points that are in the answerer's universe.

    `points` is uint8 (n, 32), sorted; `tags` have passed `check_tags`; `segments` is bool (k, n) and `consented`
    bool (n,), columns in the order of the points. The numbers are exact: only the answerer may see them before they are
    sanitised. Raises InvalidPoint, DuplicatePoint, WrongCount.
    """
    if segments.shape[1:] != points.shape[:1] or consented.shape != points.shape[:1]:
        raise WrongCount("bits in a segment's bitmap", expected=len(points), got=segments.shape[-1])
    check_sorted(points)
    hit = _present(tags, tags_of(kernel.multiply(points, key.scalar), tag_context))
    return Hits(*(np.count_nonzero(segments & hit & who, axis=1).astype(np.int64) for who in (consented, ~consented)))


def tags_of(points: U8, tag_context: bytes) -> U8:
    """Return the tag of each point, uint8 (n, 16)."""
    return kernel.digests(tag_context, points, size=TAG_BYTES)


def _present(tags: Rows, wanted: U8) -> Bools:
    """Return which of the wanted tags are among sorted ones, of which some at a time are in memory."""
    arranged, order = sort_points(wanted)
    present = np.zeros(len(wanted), np.bool_)
    for start in range(0, len(tags), SLICE):
        present[order[match(tags[start : start + SLICE], arranged)[1]]] = True
    return present


def check_sorted(points: U8) -> None:
    """Raise InvalidPoint unless the points are sorted by encoding, DuplicatePoint where one is repeated."""
    disorder = first_disorder(points)
    if disorder is not None:
        index, equal = disorder
        raise DuplicatePoint(index) if equal else InvalidPoint(index, "out of order")
