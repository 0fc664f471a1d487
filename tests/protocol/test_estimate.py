"""The count: what each side gets, and every lie that the other can tell inside a well-formed message."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parties import RIGHT, Body, Lie, World

from protocol.agreement import Terms
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.estimate import CountAsker, Question, most_asked
from protocol.messages import Answer, Commitment, SignedCommitment
from protocol.states import Kind
from psi import count
from psi.count import Universe
from psi.errors import VesicaError
from psi.values import U8

pytestmark = pytest.mark.usefixtures("small_chunks")


def points(data: bytes, width: int = 32) -> U8:
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def test_the_answerer_sees_the_true_numbers_and_the_asker_what_was_sanitised(world: World) -> None:
    roles = world.play(Kind.COUNT)
    (question,) = world.questions
    assert question.sizes.tolist() == [12, 6]
    assert question.consented_hits.tolist() == [4, 3]
    assert question.other_hits.tolist() == [4, 3]
    assert [(each.overlap, each.consented) for each in roles.of(CountAsker).result.segments] == [(8, 4), (6, 3)]


def test_an_identical_question_has_one_digest(world: World) -> None:
    for _ in range(2):
        world.play(Kind.COUNT)
    segments = np.array([[number < 6 for number in range(12)], [True] * 12])
    world.play(Kind.COUNT, asker={"segments": segments})
    first, again, swapped = world.questions
    assert first.digest == again.digest != swapped.digest


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"context": bytes(32)}, "commitment"),
        ({"epoch": 4}, "commitment"),
        ({"made": 6, "sign": bytes}, "signature"),
    ],
)
def test_a_commitment_for_elsewhere_or_by_another_is_refused(world: World, changes: dict[str, Any], code: str) -> None:
    if "sign" in changes:
        changes = {**changes, "sign": world.mallory.sign}
    lie = {"commitment": world.commitment(**changes)}
    assert world.tamper(Kind.COUNT, "none", dict, answerer=lie).code == code


def test_a_generation_that_the_asker_does_not_want_ends_the_count(world: World) -> None:
    def refuse(commitment: Commitment) -> None:
        raise RemoteProtocolError("commitment", f"generation {commitment.generation} is one too many")

    assert world.tamper(Kind.COUNT, "none", dict, asker={"check_universe": refuse}).code == "commitment"


def test_a_universe_larger_than_agreed_is_refused_before_any_of_it_is_fetched(world: World) -> None:
    true = world.commitment().commitment
    commitment = replace(true, count=6 * count.CHUNK_POINTS + 1_000, chunks=true.chunks[:1] * 7)
    signed = SignedCommitment(commitment=commitment, signature=commitment.sign(RIGHT.sign))
    assert world.tamper(Kind.COUNT, "none", dict, answerer={"commitment": signed}).code == "commitment"
    asker = world.asker()
    with pytest.raises(RemoteProtocolError, match="more than the 1,000 agreed"):
        asker.receive("commitment", 0, signed)
    world.asker().receive("commitment", 0, world.commitment())


def test_a_question_of_more_segments_than_are_answered_is_refused(world: World) -> None:
    assert world.tamper(Kind.COUNT, "none", dict, answerer={"most_segments": 1}).code == "question"


def test_a_universe_other_than_the_committed_one_is_refused(world: World) -> None:
    def change(document: Body) -> Body:
        return {"points": document["points"][:-32] + bytes(32)}

    def shorten(document: Body) -> Body:
        return {"points": document["points"][:-32]}

    for lie in (change, shorten):
        error = world.tamper(Kind.COUNT, "universe", lie, chunk=1)
        assert (error.code, str(error)) == ("commitment", "universe chunk 1 is not the one committed to")
    assert world.tamper(Kind.COUNT, "universe", lambda document: {"of": 2}).code == "chunk"


@pytest.mark.feature("ES8")
@pytest.mark.parametrize(
    ("index", "row", "code"),
    [
        (2000, b"\xff" * 32, "invalid_point"),  # not canonical, in chunk 1
        (0, bytes(32), "invalid_point"),  # the identity
        (2000, None, "duplicate_point"),
    ],
)
def test_bad_points_in_a_universe_are_named_by_chunk(world: World, index: int, row: bytes | None, code: str) -> None:
    evil = world.universe.points[:].copy()
    evil[index] = evil[index - 1] if row is None else np.frombuffer(row, np.uint8)
    if code == "invalid_point":
        evil = evil[np.lexsort(evil.T[::-1])]
    world.universe = Universe(points=evil, canaries=world.universe.canaries, size=world.universe.size)
    error = world.tamper(Kind.COUNT, "none", dict)
    assert error.code == code
    where = {0: 0, 2000: 2 if row else 1}[index]
    assert str(error).startswith(f"universe chunk {where}: ")


def swap(tags: U8) -> bytes:
    """Give the last point another's tag: amplification, were it not for the canaries."""
    forged = {tags[number].tobytes() for number in range(len(tags) - 40)}
    forged |= {hashlib.sha256(bytes([number])).digest()[:16] for number in range(40)}
    return b"".join(sorted(forged))


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda tags: tags[:-1].tobytes(), id="too few"),
        pytest.param(lambda tags: tags[[0, *range(len(tags) - 1)]].tobytes(), id="repeated"),
        pytest.param(lambda tags: tags[::-1].tobytes(), id="unsorted"),
        pytest.param(swap, id="canaries missing"),
    ],
)
@pytest.mark.feature("ES8")
def test_tags_that_no_honest_asker_sends_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, lie: Callable[[U8], bytes]
) -> None:
    monkeypatch.setattr("protocol.estimate.TAGS_PER_CHUNK", 4096)
    error = world.tamper(Kind.COUNT, "tags", lambda document: {"tags": lie(points(document["tags"], 16))})
    assert error.code == "invalid_tags"
    assert world.questions == []


def test_more_tags_than_points_are_refused_at_once(world: World) -> None:
    error = world.tamper(Kind.COUNT, "tags", lambda document: {"tags": document["tags"] * 2})
    assert error.code == "tags"


@pytest.mark.feature("ES8")
def test_two_askers_keys_are_refused(world: World) -> None:
    assert world.tamper(Kind.COUNT, "tags", lambda document: {"public": bytes(32)}, chunk=1).code == "tags"


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (lambda document: {"points": bytes(32) + document["points"][32:]}, "invalid_point"),
        (lambda document: {"points": document["points"][:32] * 2 + document["points"][64:]}, "duplicate_point"),
        (lambda document: {"points": points(document["points"])[::-1].tobytes()}, "invalid_point"),
        (lambda document: {"points": document["points"] + bytes(32), "flags": document["flags"] + b"\1"}, "question"),
        (lambda document: {"flags": b"\x80" + document["flags"][1:]}, "question"),
        (lambda document: {"flags": document["flags"][1:]}, "malformed"),
        (lambda document: {"segments": 0}, "malformed"),
        (lambda document: {"segments": 3}, "question"),
    ],
)
def test_questions_that_no_honest_asker_sends_are_refused(world: World, lie: Lie, code: str) -> None:
    assert world.tamper(Kind.COUNT, "questions", lie).code == code
    assert world.questions == []


def test_a_question_has_so_many_points_as_were_agreed_on(world: World) -> None:
    world.play(Kind.COUNT, answerer={"most": 12})
    assert world.tamper(Kind.COUNT, "none", dict, answerer={"most": 11}).code == "question"
    assert most_asked(Terms(maximum_universe=1_000)) == 65_536  # a whole sample of one segment
    assert most_asked(Terms(maximum_universe=70_000)) == 70_000


def test_an_answer_about_other_segments_is_refused(world: World) -> None:
    assert world.tamper(Kind.COUNT, "answer", lambda document: {"segments": document["segments"][:1]}).code == "answer"


def test_an_answer_has_numbers_exactly_when_it_says_ok(world: World) -> None:
    def lie(document: Body) -> Body:
        return {"segments": [{**document["segments"][0], "status": "below_minimum"}, document["segments"][1]]}

    assert world.tamper(Kind.COUNT, "answer", lie).code == "malformed"


def test_a_refusal_of_ours_ends_the_count_as_it_is(world: World) -> None:
    class Spent(VesicaError):
        code = "budget"

    def refuse(question: Question) -> Answer:
        raise Spent("the budget of this window is spent")

    with pytest.raises(Spent):
        world.play(Kind.COUNT, answerer={"sanitise": refuse})


def test_a_segment_too_large_is_never_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.estimate.MAX_ASKED", 11)
    with pytest.raises(LocalProtocolError):
        world.asker()


def test_a_segment_too_large_is_never_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = world.asker()
    monkeypatch.setattr("protocol.estimate.MAX_ASKED", 11)
    assert world.tamper(Kind.COUNT, "none", dict, asker=real).code == "question"
