"""The engine of one machine gives the same bytes as the functions on whole arrays, however a set is divided."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fixtures import People, Random

from psi import count, kernel, local, membership, oprf, proof
from psi.engine import Revision, blocks
from psi.errors import DuplicatePoint, InvalidPoint, InvalidProof, InvalidTags
from psi.join import join_order, sort_points
from psi.keys import Key
from psi.local import LocalEngine
from psi.places import LocalPlace, Memory
from psi.values import U8, Rows, Values

CONTEXT, FEED = b"c" * 32, b"f" * 16
RUN: dict[str, Any] = {"feed": FEED, "version": 2, "revision": 5}
PIECE = 40
SIZES = [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("PIECE", PIECE), ("SLICE", 16)):
        monkeypatch.setattr(local, name, size)
    for module in (count, membership):
        monkeypatch.setattr(module, "SLICE", 16)


def sha256(rows: Rows) -> str:
    return hashlib.sha256(rows[:].tobytes()).hexdigest()


def prf(start: int, stop: int) -> U8:
    """Stand for F of persons, uint8 (n, 64)."""
    return kernel.digests(b"F", np.arange(start, stop, dtype=">u8").view(np.uint8).reshape(-1, 8))


def bitmaps(n: int, width: int) -> U8:
    return np.random.default_rng(n).integers(0, 256, (n, width), np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_an_evaluation_is_that_of_the_whole_set(people: People, random: Random, size: int) -> None:
    engine, values = LocalEngine(), people(0, size)
    ours, theirs = Key.random(random), Key.random(random)
    blinded = engine.blind(CONTEXT, values, ours)
    assert sha256(blinded.points) == sha256(oprf.blind_sorted(CONTEXT, values, ours)[0])
    finishing = engine.finish(CONTEXT, values, ours, blinded, theirs.public)
    for start in range(0, size, 17):
        rows = slice(start, start + 17)
        finishing.take(rows, *engine.evaluate(blinded.points[rows], theirs, random))
    outputs, expected = finishing.outputs(), oprf.prf(CONTEXT, values, theirs)
    assert len(outputs) == size
    assert sha256(outputs) == sha256(expected)
    assert (outputs[5:90] == expected[5:90]).all()
    chosen = np.arange(size)[::-3]
    assert (outputs[chosen] == expected[chosen]).all()
    mask = np.arange(size) % 5 == 1
    assert (outputs[mask] == expected[mask]).all()


def test_a_chunk_under_another_key_is_refused(people: People, random: Random) -> None:
    engine, values = LocalEngine(), people(0, 60)
    ours, theirs = Key.random(random), Key.random(random)
    blinded = engine.blind(CONTEXT, values, ours)
    finishing = engine.finish(CONTEXT, values, ours, blinded, theirs.public)
    evaluated, shown = engine.evaluate(blinded.points[:30], Key.random(random), random)
    with pytest.raises(InvalidProof):
        finishing.take(slice(0, 30), evaluated, shown)


@pytest.mark.parametrize("size", [PIECE, 4 * PIECE])
def test_a_repeated_value_is_named_as_in_the_whole_set(people: People, random: Random, size: int) -> None:
    values, key = people(0, size), Key.random(random)
    repeated = Values(values.rows[[*range(size - 1), 3]])
    with pytest.raises(DuplicatePoint) as whole:
        oprf.blind_sorted(CONTEXT, repeated, key)
    with pytest.raises(DuplicatePoint) as found:
        LocalEngine().blind(CONTEXT, repeated, key)
    assert found.value.index == whole.value.index == size - 1


@pytest.mark.parametrize("width", [1, 3, 64])
@pytest.mark.parametrize("size", SIZES)
def test_a_release_is_sealed_as_the_whole_set(size: int, width: int) -> None:
    given, bits = prf(0, size), bitmaps(size, width)
    sealed = LocalEngine().seal(given, bits, **RUN)
    assert sha256(sealed) == sha256(membership.seal(given, bits, **RUN))
    assert sealed[:0].shape == (0, 16 + width)


@pytest.mark.parametrize("size", [PIECE, 4 * PIECE])
def test_a_repeated_person_is_refused_as_in_the_whole_set(size: int) -> None:
    given = prf(0, size)
    given[-1] = given[7]
    said = []
    for seal in (membership.seal, LocalEngine().seal):
        with pytest.raises(InvalidTags) as error:
            seal(given, bitmaps(size, 1), **RUN)
        said.append(str(error.value))
    assert said[0] == said[1]


def opened_whole(revisions: list[Revision], mine: U8, width: int) -> tuple[U8, U8]:
    found, opened = np.zeros((len(mine), width), np.uint8), np.zeros(len(mine), bool)
    for each in revisions:
        indices, bits = membership.open_records(
            each.records, mine, feed=FEED, version=each.version, revision=each.revision
        )
        found[indices], opened[indices] = bits, True
    return found, opened


def parts_of(mine: U8) -> Callable[[], Any]:
    return lambda: blocks(mine, 33)


@pytest.mark.parametrize("theirs", [0, 1, 30, 5 * PIECE])
@pytest.mark.parametrize("ours", SIZES)
def test_a_chain_opens_as_the_whole_set(ours: int, theirs: int) -> None:
    """A full revision and two of changes: the last one with a record decides."""
    chain = []
    for revision, (start, stop) in enumerate([(20, 20 + theirs), (30, 45), (40, 41)]):
        records = membership.seal(prf(start, stop), bitmaps(stop - start, 2), feed=FEED, version=1, revision=revision)
        chain.append(Revision(records=records, version=1, revision=revision))
    expected, opens = opened_whole(chain, prf(0, ours), 2)
    found, opened = LocalEngine().open(chain, parts_of(prf(0, ours)), ours, feed=FEED, width=2)
    assert (sha256(found), opened.tolist()) == (sha256(expected), opens.tolist())


@pytest.mark.parametrize("first", [0, 1, 128, 255])
def test_records_that_crowd_into_one_bucket_open_all_the_same(first: int) -> None:
    honest = membership.seal(prf(0, 150), bitmaps(150, 1), **RUN)
    crowd = np.random.default_rng(1).integers(0, 256, (300, 17), np.uint8)
    crowd[:, 0] = first
    both = np.concatenate([honest, crowd])
    records = both[join_order(both[:, :16])]
    mine = prf(100, 250)
    revision = Revision(records=records, version=2, revision=5)
    expected, opens = opened_whole([revision], mine, 1)
    found, opened = LocalEngine().open([revision], parts_of(mine), len(mine), feed=FEED, width=1)
    assert opens.sum() == 50
    assert (sha256(found), opened.tolist()) == (sha256(expected), opens.tolist())


@pytest.mark.parametrize("at", [1, 15, 16, 17, 90])
@pytest.mark.parametrize("ours", [10, 3 * PIECE])
def test_records_out_of_order_are_refused(at: int, ours: int) -> None:
    records = membership.seal(prf(0, 100), bitmaps(100, 1), **RUN)
    records[[at, at + 1]] = records[[at + 1, at]]
    with pytest.raises(InvalidTags, match=f"record {at + 1} is out of order"):
        LocalEngine().open(
            [Revision(records=records, version=2, revision=5)], parts_of(prf(0, ours)), ours, feed=FEED, width=1
        )


@pytest.mark.parametrize("first", [range(256), range(2), range(254, 256), [77]], ids=len)
@pytest.mark.parametrize("size", SIZES)
def test_rows_are_sorted_whatever_they_begin_with(size: int, first: Any) -> None:
    rows = np.random.default_rng(size).integers(0, 256, (size, 21), np.uint8)
    rows[:, 0] = np.random.default_rng(1).choice(list(first), size)
    found = [np.empty((0, 21), np.uint8), *LocalEngine()._sorted(blocks(rows, 9), size, 16)]
    assert sha256(np.concatenate(found)) == sha256(rows[join_order(rows[:, :16])])


@pytest.mark.parametrize("size", [0, 5, 300])
def test_a_universe_and_its_tags_are_those_of_the_whole_set(people: People, random: Random, size: int) -> None:
    engine, values = LocalEngine(), people(0, size)
    answering, asking = Key.random(random), Key.random(random)
    canaries = kernel.reduce(np.frombuffer(random(64 * 70), np.uint8).reshape(70, 64))
    points = np.concatenate([oprf.blind(CONTEXT, values, answering), kernel.multiply_base(canaries)])
    universe = engine.build_universe(CONTEXT, values, answering, canaries)
    assert sha256(universe) == sha256(sort_points(points)[0])
    tags = engine.tag(universe, asking, b"tags")
    assert sha256(tags) == sha256(count.ask_tags(universe[:], asking, b"tags"))
    count.check_tags(tags, size + 70, canaries, asking.public, b"tags")
    with pytest.raises(InvalidTags):
        count.check_tags(tags[:-1], size + 69, kernel.reduce(np.ones((1, 64), np.uint8)), asking.public, b"tags")


@pytest.mark.parametrize("at", [0, 39, 40, 41, 99])
def test_a_bad_point_of_a_universe_is_named_by_its_place_in_the_whole(people: People, random: Random, at: int) -> None:
    key = Key.random(random)
    universe = LocalEngine().blind(CONTEXT, people(0, 100), key).points[:]
    bad = universe.copy()
    bad[at, 0] |= 1  # not canonical, and in order
    with pytest.raises(InvalidPoint) as error:
        LocalEngine().tag(bad, key, b"tags")
    assert error.value.index == at
    with pytest.raises(DuplicatePoint) as repeated:
        LocalEngine().tag(np.insert(universe, at, universe[at], axis=0), key, b"tags")
    assert repeated.value.index == at + 1


def test_a_manifest_names_the_parts_of_a_place() -> None:
    sealed, start = LocalEngine().seal(prf(0, 500), bitmaps(500, 1), **RUN), 0
    assert len(sealed.manifest) > 100
    for part in sealed.manifest:
        rows = sealed[start : start + part.rows]
        assert (part.first, part.last, part.sha256.hex()) == (rows[0].tobytes(), rows[-1].tobytes(), sha256(rows))
        start += part.rows
    assert start == 500


def test_a_place_gives_the_rows_that_were_put_into_it() -> None:
    rows = bitmaps(100, 3)
    place = LocalPlace(3, Memory())
    for block in blocks(rows, 13):
        place.append(block)
        place.append(block[:0])
    for start, stop in [(0, 100), (0, 13), (12, 14), (13, 26), (50, 50), (60, 40), (99, 200), (-5, 100)]:
        assert (place[start:stop] == rows[start:stop]).all()
    assert len(place) == 100


def test_a_proof_covers_what_an_engine_evaluates(people: People, random: Random) -> None:
    key = Key.random(random)
    points = oprf.blind(CONTEXT, people(0, 9), Key.random(random))
    evaluated, shown = LocalEngine().evaluate(points, key, random)
    proof.verify(key.public, points, evaluated, shown)
