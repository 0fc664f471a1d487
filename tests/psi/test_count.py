import numpy as np
import pytest
from fixtures import People, Random

from psi import count, kernel, oprf
from psi.count import Universe
from psi.errors import DuplicatePoint, InvalidPoint, InvalidTags, WrongCount
from psi.join import sort_points
from psi.keys import Key
from psi.noise import Stream

CONTEXT, DIRECTION = b"c" * 32, b"asker".ljust(32) + b"answerer".ljust(32)


@pytest.fixture(scope="module")
def answerer(people: People) -> tuple[Key, Universe]:
    """The persons 0 to 999 are in the universe."""
    key = Key.random(Stream(b"b".ljust(32)))
    return key, count.build_universe(CONTEXT, people(0, 1000), key, Stream(b"d".ljust(32)))


def test_the_count_is_the_plain_join(people: People, random: Random, answerer: tuple[Key, Universe]) -> None:
    answering, universe = answerer
    asking = Key.random(random)
    context = count.tag_context(CONTEXT, DIRECTION, 1, universe.digest)
    tags = count.ask_tags(universe.points[:], asking, context)
    count.check_tags(tags, len(universe.points), universe.canaries, asking.public, context)

    persons = np.arange(700, 1300)
    segments = np.array([persons < 1000, persons >= 1000, persons % 3 == 0, persons < 0])
    consented = persons % 2 == 0
    points, permutation = count.ask(CONTEXT, people(700, 1300), asking)
    hits = count.count_hits(points, answering, tags, context, segments[:, permutation], consented[permutation])
    inside = segments & (persons < 1000)
    assert hits.consented.tolist() == (inside & consented).sum(axis=1).tolist()
    assert hits.others.tolist() == (inside & ~consented).sum(axis=1).tolist()
    assert hits.consented.dtype == np.int64


def test_nobody_asks_and_nobody_is_there(people: People, random: Random) -> None:
    answering, asking = Key.random(random), Key.random(random)
    universe = count.build_universe(CONTEXT, people(0, 0), answering, random)
    assert len(universe.points) == len(universe.canaries) == 4096
    context = count.tag_context(CONTEXT, DIRECTION, 1, universe.digest)
    tags = count.ask_tags(universe.points[:], asking, context)
    points, _ = count.ask(CONTEXT, people(0, 0), asking)
    hits = count.count_hits(points, answering, tags, context, np.zeros((2, 0), np.bool_), np.zeros(0, np.bool_))
    assert hits.consented.tolist() == hits.others.tolist() == [0, 0]


@pytest.mark.parametrize(("size", "points"), [(1, 4096), (4032, 4096), (4033, 8192), (8064, 8192), (8065, 12288)])
def test_the_universe_is_padded_and_one_in_64_is_a_canary(size: int, points: int) -> None:
    assert count.canaries_for(size) == points - size >= max(64, size / 63)


@pytest.mark.parametrize(("size", "points"), [(1, 4096), (4033, 8192)])
def test_a_universe_holds_its_values_and_its_canaries(people: People, random: Random, size: int, points: int) -> None:
    key = Key.random(random)
    universe = count.build_universe(CONTEXT, people(0, size), key, random)
    assert (universe.points[:].shape, universe.size) == ((points, 32), size)
    members = oprf.blind(CONTEXT, people(0, size), key)
    expected = np.concatenate([members, kernel.multiply_base(universe.canaries)])
    assert (universe.points[:] == sort_points(expected)[0]).all()
    assert len(universe.canaries) == points - size


def test_the_digest_fixes_every_point_and_their_number(answerer: tuple[Key, Universe]) -> None:
    points = answerer[1].points[:]
    digest = count.universe_digest(len(points), count.chunk_digests(points))
    assert digest == answerer[1].digest
    changed = points.copy()
    changed[77, 3] ^= 1
    many = np.zeros((count.CHUNK_POINTS + 1, 32), np.uint8)
    assert [len(count.chunk_digests(many[:n])) for n in (0, 1, len(many) - 1, len(many))] == [0, 1, 1, 2]
    others = {count.universe_digest(len(part), count.chunk_digests(part)) for part in (changed, points[:-1], many)}
    assert len(others | {digest}) == 4
    assert count.universe_digest(len(points) + 1, count.chunk_digests(points)) not in others | {digest}


def test_secrets_are_not_printed(answerer: tuple[Key, Universe]) -> None:
    assert "canaries" not in repr(answerer[1])
    assert "size" not in repr(answerer[1])


def test_a_universe_that_an_honest_answerer_would_not_send(answerer: tuple[Key, Universe], random: Random) -> None:
    points, key, context = answerer[1].points[:], Key.random(random), b"context"
    for rows, error in (
        (points[::-1], InvalidPoint),
        (points[[0, 1, 1, 2]], DuplicatePoint),
        (np.concatenate([np.zeros((1, 32), np.uint8), points[:3]]), InvalidPoint),
        (np.concatenate([points[:3], np.full((1, 32), 255, np.uint8)]), InvalidPoint),
    ):
        with pytest.raises(error):
            count.ask_tags(np.ascontiguousarray(rows), key, context)


def test_questions_that_an_honest_asker_would_not_send(
    people: People, random: Random, answerer: tuple[Key, Universe]
) -> None:
    points, _ = count.ask(CONTEXT, people(0, 5), Key.random(random))
    tags, everyone = np.zeros((0, 16), np.uint8), np.ones((1, 5), np.bool_)
    bad = {DuplicatePoint: points[[0, 1, 2, 2, 3]], InvalidPoint: points[[0, 2, 1, 3, 4]], WrongCount: points[:4]}
    for error, rows in bad.items():
        with pytest.raises(error):
            count.count_hits(rows, answerer[0], tags, b"context", everyone, everyone[0])
    with pytest.raises(DuplicatePoint):
        count.ask(CONTEXT, people(0, 5).take(np.array([0, 1, 0])), Key.random(random))


def test_tags_belong_to_one_context_direction_epoch_and_universe(random: Random) -> None:
    base = (CONTEXT, DIRECTION, 1, b"u" * 64)
    others = [
        (b"d" * 32, *base[1:]),
        (CONTEXT, b"d" * 64, 1, b"u" * 64),
        (*base[:2], 2, base[3]),
        (*base[:3], b"v" * 64),
    ]
    assert len({count.tag_context(*parts) for parts in [base, *others]}) == 5


def test_malformed_asker_keys(answerer: tuple[Key, Universe]) -> None:
    _, universe = answerer
    tags = np.zeros((0, 16), np.uint8)
    for public in (bytes(32), b"\1" * 32):
        with pytest.raises(InvalidPoint):
            count.check_tags(tags, 0, universe.canaries, public, b"context")
    with pytest.raises(InvalidTags):
        count.check_tags(tags, 1, universe.canaries, Key(b"\1" * 32).public, b"context")
