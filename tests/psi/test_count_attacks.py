"""What a partner that lies gets out of the count. Each test states it, and docs/lying-partner.md.

The answerer B holds the persons 0 to 4,031, with 64 canaries: the smallest share that there can be, one point in 64.
The asker A asks about persons of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np
import pytest
from fixtures import People, Random

from psi import count, kernel
from psi.errors import DuplicatePoint, InvalidTags
from psi.hashing import context as psi_context
from psi.join import match, sort_points
from psi.keys import Key, Purpose, random_scalars
from psi.noise import Stream
from psi.values import U8, Values

pytestmark = pytest.mark.feature("ES8")

CONTEXT, DIRECTION = b"c" * 32, b"asker".ljust(32) + b"answerer".ljust(32)


@dataclass
class Session:
    """A count as far as the tags: both keys, the universe, and the honest tags."""

    answering: Key
    asking: Key
    universe: count.Universe
    context: bytes
    tags: U8

    def check(self, tags: U8) -> None:
        count.check_tags(tags, len(self.universe.points), self.universe.canaries, self.asking.public, self.context)

    def hits(self, points: U8, tags: U8) -> int:
        everyone = np.ones((1, len(points)), np.bool_)
        return int(count.count_hits(points, self.answering, tags, self.context, everyone, everyone[0]).consented[0])

    def tag(self, points: U8) -> U8:
        return kernel.digests(self.context, points, size=count.TAG_BYTES)

    def is_canary(self) -> np.ndarray:
        """Which points stand for nobody: what A does not know."""
        canaries = kernel.multiply_base(self.universe.canaries)
        mask = np.zeros(len(self.universe.points), np.bool_)
        mask[match(self.universe.points[:], canaries)[0]] = True
        return mask


@pytest.fixture(scope="module")
def session(people: People) -> Session:
    random = Stream(b"session".ljust(32))
    answering, asking = Key.random(random), Key.random(random)
    universe = count.build_universe(CONTEXT, people(0, 4032), answering, random)
    context = count.tag_context(CONTEXT, DIRECTION, 1, universe.digest)
    return Session(answering, asking, universe, context, count.ask_tags(universe.points[:], asking, context))


def swap(session: Session, dropped: np.ndarray, forged: U8) -> U8:
    """Return the tags of the universe without the dropped points' ones, and the forged ones instead, sorted."""
    kept = session.tag(kernel.multiply(session.universe.points[:][~dropped], session.asking.scalar))
    return sort_points(np.concatenate([kept, forged]))[0]


# The asker lies


def amplified(session: Session, people: Callable[..., Values], person: int, times: int) -> tuple[U8, U8, U8]:
    """A marks one point, which it guesses to be the person's: many questions, each answered by its own tag.

    Returns the questions H(x)^(a_i), the tags of P^(a_i), and P.
    """
    scalars = random_scalars(times, Stream(b"amplify".ljust(32)))
    element = kernel.hash_to_group(CONTEXT, people(person, person + 1))
    target = kernel.multiply(element, session.answering.scalar)  # a lucky guess among all points
    return (
        sort_points(kernel.multiply_each(element, scalars))[0],
        session.tag(kernel.multiply_each(target, scalars)),
        target,
    )


def test_amplification_would_lift_one_person_over_noise_and_floor(session: Session, people: People) -> None:
    """Without canaries: 1,000 hits for one person, so A reads from a noised count whether the person is there."""
    questions, forged, target = amplified(session, people, person=5, times=1000)
    dropped = np.zeros(len(session.universe.points), np.bool_)
    dropped[np.flatnonzero(~session.is_canary())[:1000]] = True  # what A cannot do: avoid the canaries
    dropped[match(session.universe.points[:], target)[0]] = True
    tags = swap(session, dropped, forged[: dropped.sum()])
    session.check(tags)
    assert session.hits(questions, tags) >= 999


@pytest.mark.parametrize("times", [400, 1000])
def test_amplification_is_caught_by_the_canaries(session: Session, people: People, times: int) -> None:
    """A gets nothing, and B gets an alert: the tags to make room for the forged ones hit canaries."""
    _, forged, _ = amplified(session, people, person=5, times=times)
    generator = np.random.default_rng(times)
    for _ in range(5):
        dropped = np.zeros(len(session.universe.points), np.bool_)
        dropped[generator.permutation(len(dropped))[:times]] = True
        with pytest.raises(InvalidTags, match="canary"):
            session.check(swap(session, dropped, forged))


def test_how_much_amplification_passes() -> None:
    """A that forges t tags passes with chance (63/64)^t at most, at every size of universe.

    65 forged tags pass with 36 %, 300 with 1 %, 1,000 with 2e-7, each try at the price of an alert. A count's noise has
    a standard deviation of 28 at epsilon 1/20: what passes often tells less than a few honest questions.
    """
    for size in (1, 1000, 4032, 100_000, 1_000_000):
        total = size + count.canaries_for(size)
        for forged in (65, 300, 1000):
            passes = comb(size, forged) / comb(total, forged)
            assert passes <= (63 / 64) ** forged
    assert (63 / 64) ** 65 < 0.36
    assert (63 / 64) ** 300 < 0.01
    assert (63 / 64) ** 1000 < 2e-7


def test_tags_from_few_points(session: Session) -> None:
    """A tags 64 points under 64 keys each, to spread its questions thin: refused, A gets nothing."""
    few = session.universe.points[:64]
    spread = [kernel.multiply(few, Key.random(Stream(bytes([i]) * 32)).scalar) for i in range(64)]
    with pytest.raises(InvalidTags, match="canary"):
        session.check(sort_points(session.tag(np.concatenate(spread)))[0])


def test_the_same_tag_several_times(session: Session) -> None:
    """A repeats tags, to have one point counted often: refused, A gets nothing."""
    repeated = session.tags.copy()
    repeated[1000:1010] = repeated[1000]
    with pytest.raises(InvalidTags, match="repeated"):
        session.check(repeated)


@pytest.mark.parametrize("change", ["one less", "one more", "none"])
def test_another_number_of_tags(session: Session, change: str) -> None:
    """A leaves out or adds tags: refused, A gets nothing."""
    tags = {
        "one less": session.tags[1:],
        "one more": np.concatenate([session.tags, session.tags[-1:] + 1]),
        "none": session.tags[:0],
    }
    with pytest.raises(InvalidTags, match="tags for 4096 points"):
        session.check(tags[change])


def test_a_missing_canary(session: Session) -> None:
    """A tags every point but one and invents that one's tag: refused if it was a canary."""
    dropped = np.zeros(len(session.universe.points), np.bool_)
    dropped[np.flatnonzero(session.is_canary())[0]] = True
    with pytest.raises(InvalidTags, match="canary"):
        session.check(swap(session, dropped, np.full((1, 16), 7, np.uint8)))


def test_tags_under_another_key_than_stated(session: Session, random: Random) -> None:
    """A states a*G and tags with a': refused, A gets nothing."""
    with pytest.raises(InvalidTags, match="canary"):
        session.check(count.ask_tags(session.universe.points[:], Key.random(random), session.context))


def test_tags_sorted_chunk_by_chunk(session: Session) -> None:
    """Tags that keep to the order of chunks would show B which chunk of its own rows each hit came from: refused."""
    halves = [count.ask_tags(part, session.asking, session.context) for part in np.split(session.universe.points[:], 2)]
    with pytest.raises(InvalidTags, match="out of order"):
        session.check(np.concatenate(halves))


def test_padding_with_known_members(session: Session, people: People) -> None:
    """A adds 999 known members to one target: the floor is passed, and the target is the last unit of the true count.

    What A gets is that unit under the noise. This is why there is noise and a budget: a floor alone is no defence.
    """
    with_member, _ = count.ask(CONTEXT, people(0, 1000), session.asking)
    with_stranger, _ = count.ask(
        CONTEXT, Values(np.concatenate([people(0, 999).rows, people(5000, 5001).rows])), session.asking
    )
    assert len(with_stranger) == len(with_member)
    assert session.hits(with_member, session.tags) - session.hits(with_stranger, session.tags) == 1


def test_questions_without_the_key_do_not_hit(session: Session, people: People, random: Random) -> None:
    """A asks under other keys than the one it tagged with, or sends B's own points back: no hit."""
    others, _ = count.ask(CONTEXT, people(0, 50), Key.random(random))
    assert session.hits(others, session.tags) == 0
    assert session.hits(session.universe.points[:50], session.tags) == 0


def test_relaying_to_another_connection(session: Session, people: People) -> None:
    """A asks B what a third party asks A, to let B answer about the third party's people: no hit."""
    namespaces = {"connection": b"1" * 16}, {"connection": b"2" * 16}
    here, there = (
        psi_context(protocol="count", from_key=b"a" * 32, to_key=b"b" * 32, namespace="email_sha256/lc-v1", **which)
        for which in namespaces
    )
    assert here != there
    relayed, _ = count.ask(there, people(0, 50), session.asking)
    assert session.hits(relayed, session.tags) == 0


# The answerer lies


def test_the_same_point_twice(session: Session, random: Random) -> None:
    """B repeats an element, to have it counted twice: the asker refuses the universe."""
    points = session.universe.points[:].copy()
    points[10] = points[9]
    with pytest.raises(DuplicatePoint):
        count.ask_tags(points, session.asking, session.context)


def test_many_keys_tell_the_answerer_names(session: Session, people: People, random: Random) -> None:
    """B blinds each target with a key of its own. The asker cannot see it, and B LEARNS WHICH TARGETS ARE ASKED ABOUT.

    No proof prevents this, since what is inside a point is hidden. It is limited by what A asks at all: segments
    allowed for this partner, at most 65,536 identities of each, and no new universe more often than the terms allow.
    """
    keys = [Key.random(random) for _ in range(20)]
    targets = [kernel.hash_and_multiply(CONTEXT, people(i, i + 1), key.scalar) for i, key in enumerate(keys)]
    universe, _ = sort_points(np.concatenate(targets))
    tags = count.ask_tags(universe, session.asking, session.context)  # nothing to notice
    questions, _ = count.ask(CONTEXT, people(10, 60), session.asking)
    learned = [
        i for i, key in enumerate(keys) if len(match(tags, session.tag(kernel.multiply(questions, key.scalar)))[0])
    ]
    assert learned == list(range(10, 20))


def test_one_target_and_junk(session: Session, people: People, random: Random) -> None:
    """B fills its universe with one target and 4,095 points of nobody: its count is whether A ASKS ABOUT THE TARGET."""
    universe = count.build_universe(CONTEXT, people(5, 6), session.answering, random)
    context = count.tag_context(CONTEXT, DIRECTION, 1, universe.digest)
    tags = count.ask_tags(universe.points[:], session.asking, context)
    everyone = np.ones((1, 50), np.bool_)
    for first, expected in ((0, 1), (6, 0)):
        questions, _ = count.ask(CONTEXT, people(first, first + 50), session.asking)
        hits = count.count_hits(questions, session.answering, tags, context, everyone, everyone[0])
        assert hits.consented.tolist() == [expected]


def test_one_target_under_many_keys(session: Session, people: People, random: Random) -> None:
    """B repeats one target under different keys, which are different points: accepted, and worth one bit, as above.

    Under its own key each question is one point, so the target counts once, however often it is in the universe.
    """
    element = kernel.hash_to_group(CONTEXT, people(5, 6))
    scalars = np.concatenate(
        [np.frombuffer(session.answering.scalar, np.uint8).reshape(1, 32), random_scalars(99, random)]
    )
    universe, _ = sort_points(kernel.multiply_each(element, scalars))
    tags = count.ask_tags(universe, session.asking, session.context)
    questions, _ = count.ask(CONTEXT, people(0, 50), session.asking)
    assert session.hits(questions, tags) == 1


def test_a_changed_universe_meets_another_key(people: People) -> None:
    """B changes a chunk after it has seen questions: A's key follows the digest, so both runs share no point."""
    seen = []
    for digest in (b"1" * 64, b"2" * 64):
        asking = Key.derive(
            b"s" * 32,
            connection=b"",
            direction=DIRECTION,
            namespace="n",
            epoch=1,
            purpose=Purpose.COUNT_ASK,
            extra=digest,
        )
        questions, _ = count.ask(CONTEXT, people(0, 50), asking)
        seen.append({row.tobytes() for row in questions})
    assert not seen[0] & seen[1]


def test_canaries_look_like_people(session: Session) -> None:
    """A that could tell canaries from people could amplify unseen: to A both are uniform elements, mixed and sorted."""
    mask = session.is_canary()
    assert mask.sum() == 64
    assert 0.4 < np.flatnonzero(mask).mean() / len(mask) < 0.6
