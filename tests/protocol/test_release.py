"""Evaluation and release: who learns what, and every lie that the other can tell inside a well-formed message."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parties import Body, Lie, World

from protocol import release
from protocol.errors import RemoteProtocolError
from protocol.messages import Blinded
from protocol.receipt import NO_RECEIPT, Receipt
from protocol.release import EvaluateReceiver, EvaluateSender, ReleaseReceiver, ReleaseSender
from protocol.states import Kind
from psi import oprf
from psi.errors import VesicaError
from psi.hashing import context
from psi.keys import Key
from psi.values import U8

pytestmark = pytest.mark.usefixtures("small_chunks")


def points(data: bytes, width: int = 32) -> U8:
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def test_the_receiver_gets_the_senders_prf_in_its_own_order(world: World) -> None:
    ours = world.people("b@x.com", "a@x.com", *[f"{number}@x.com" for number in range(9)])
    roles = world.play(Kind.EVALUATE, receiver={"values": ours})
    prf = roles.of(EvaluateReceiver).result.prf
    assert (prf[:] == world.prf(ours)).all()
    assert (prf[3:7] == world.prf(ours)[3:7]).all()
    assert (prf[np.array([8, 0])] == world.prf(ours)[[8, 0]]).all()
    assert roles.of(EvaluateSender).result == len(ours)
    assert world.charged == [5, 5, 1]


class OnDisk:
    """Records that are read some at a time; notes how many at most."""

    def __init__(self, rows: U8) -> None:
        self.rows, self.most = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> U8:
        found = self.rows[rows]
        self.most = max(self.most, len(found))
        return found


def test_records_leave_a_chunk_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be on disk: neither what announces them nor what sends them reads more at once."""
    monkeypatch.setattr(release, "SLICE", 2)
    records = world.records()
    stored = OnDisk(records)
    sender = world.release_sender(records=stored)
    assert stored.most == 2
    monkeypatch.setattr(release, "MAX_PAYLOAD", 3 * records.shape[1])
    chunks = sender.produce("records")
    assert stored.most == 2
    assert b"".join(chunk.document()["records"] for chunk in chunks) == records.tobytes()  # type: ignore[misc]
    assert (stored.most, len(chunks)) == (3, -(-len(records) // 3))


@pytest.mark.feature("EX9")
@pytest.mark.parametrize("chunk", [0, 2])
def test_one_element_under_another_key_is_caught(world: World, chunk: int) -> None:
    def lie(document: Body) -> Body:
        other = Key.random(lambda size: b"\5" * size)
        evaluated = points(document["points"]).copy()
        evaluated[-1] = oprf.evaluate(evaluated[-1:], other)[0]
        return {"points": evaluated.tobytes()}

    error = world.tamper(Kind.EVALUATE, "evaluated", lie, chunk=chunk)
    assert error.code == "invalid_proof"
    assert str(error).startswith(f"evaluated chunk {chunk}: ")


@pytest.mark.feature("EX9")
def test_a_sender_that_uses_another_key_than_it_stated_is_caught(world: World) -> None:
    assert world.tamper(Kind.EVALUATE, "none", dict, sender={"key": Key.random(lambda size: b"\5" * size)}).code == (
        "invalid_proof"
    )


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (lambda document: {"points": document["points"][32:]}, "wrong_count"),
        (lambda document: {"points": points(document["points"])[::-1].tobytes()}, "invalid_proof"),
        (lambda document: {"points": bytes(32) + document["points"][32:]}, "invalid_point"),
        (lambda document: {"points": b"\xff" * 32 + document["points"][32:]}, "invalid_point"),
        (lambda document: {"points": document["points"][:32] * 2 + document["points"][64:]}, "invalid_proof"),
        (lambda document: {"proof": bytes(64)}, "invalid_proof"),
        (lambda document: {"proof": b"\xff" * 64}, "invalid_proof"),
        (lambda document: {"points": document["points"][:-1]}, "malformed"),
        (lambda document: {"points": None}, "malformed"),
        (lambda document: {"proof": b""}, "malformed"),
        (lambda document: {"of": 2}, "chunk"),
    ],
)
def test_evaluations_that_no_honest_sender_sends_are_refused(world: World, lie: Lie, code: str) -> None:
    assert world.tamper(Kind.EVALUATE, "evaluated", lie).code == code


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (lambda document: {"points": document["points"][:-32] + b"\xff" * 32}, "invalid_point"),
        (lambda document: {"points": bytes(32) + document["points"][32:]}, "points"),
        (lambda document: {"points": document["points"][:32] * 2 + document["points"][64:]}, "points"),
        (lambda document: {"points": points(document["points"])[::-1].tobytes()}, "points"),
    ],
)
def test_blinded_points_that_no_honest_receiver_sends_are_refused(world: World, lie: Lie, code: str) -> None:
    error = world.tamper(Kind.EVALUATE, "blinded", lie, chunk=1 if code == "points" else 2)
    assert error.code == code
    assert " chunk " in str(error)


def test_blinded_points_repeated_in_a_later_chunk_are_refused(world: World) -> None:
    sender, receiver = world.evaluate_sender(), world.evaluate_receiver()
    first, second, *_ = receiver.produce("blinded")
    assert isinstance(first, Blinded)
    assert isinstance(second, Blinded)
    sender.receive("blinded", 0, first)
    repeated = replace(second, points=first.points[-32:] + second.points[32:])
    with pytest.raises(RemoteProtocolError) as caught:
        sender.receive("blinded", 1, repeated)
    assert caught.value.code == "points"


def test_evaluations_beyond_the_limit_are_refused_before_any_is_made(world: World) -> None:
    class Spent(VesicaError):
        code = "evaluations"

    def charge(some: U8) -> None:
        if len(some) > 4:
            raise Spent("the evaluations of this epoch are spent")

    with pytest.raises(Spent):
        world.play(Kind.EVALUATE, sender={"charge": charge})


def test_the_key_must_be_signed_by_the_sender_for_this_place(world: World) -> None:
    other_context = context(
        protocol="release",
        from_key=world.left.fingerprint,
        to_key=world.right.fingerprint,
        connection=world.connection,
        namespace=world.namespace,
    )
    lies = {
        "signature": world.statement(sign=world.mallory.sign),
        "proof": world.statement(context=other_context),
        "invalid_proof": world.statement(direction=bytes(64)),
    }
    for code, statement in lies.items():
        assert world.tamper(Kind.EVALUATE, "none", dict, sender={"statement": statement}).code == code
    assert world.tamper(Kind.EVALUATE, "none", dict, sender={"statement": world.statement(epoch=4)}).code == "proof"
    honest = world.statement()
    other = Key.random(lambda size: b"\6" * size).public
    stolen = replace(honest.statement, public=other)
    signed = replace(honest, statement=stolen, signature=stolen.sign(world.right.sign))
    assert world.tamper(Kind.EVALUATE, "none", dict, sender={"statement": signed}).code == "invalid_proof"


def test_a_key_that_changed_within_the_epoch_is_refused(world: World) -> None:
    assert world.tamper(Kind.EVALUATE, "none", dict, receiver={"pinned": bytes(32)}).code == "key_changed"
    world.play(Kind.EVALUATE, receiver={"pinned": world.prf_key.public})


@pytest.mark.feature("EX3")
def test_the_receiver_learns_its_members_and_both_sign_one_receipt(world: World) -> None:
    roles = world.play(Kind.RELEASE)
    released = roles.of(ReleaseReceiver).result
    indices, bitmaps = world.open(released)
    assert indices.tolist() == list(range(8))
    assert (bitmaps == world.bitmaps()[12:20]).all()
    assert (released.records[world.namespace][:] == world.records()).all()
    receipt = roles.of(ReleaseSender).result
    assert receipt == released.receipt
    receipt.verify_both(receiver_key=world.left.key, sender_key=world.right.key)
    (tally,) = receipt.receipt.tallies
    assert (tally.records, tally.evaluated, tally.public) == (20, 12, world.prf_key.public)


@pytest.mark.feature("EX11")
def test_receipts_chain_and_a_gap_is_refused(world: World) -> None:
    first = world.play(Kind.RELEASE).of(ReleaseSender).result.receipt.digest()
    records = world.records(revision=8)
    following = {"records": records, "manifest": world.manifest(records, revision=8, previous=first)}
    accepted = {"last_revision": 7, "previous": {first}}
    world.play(Kind.RELEASE, sender=dict(following), receiver=accepted)
    error = world.tamper(Kind.RELEASE, "none", dict, sender=dict(following), receiver={"last_revision": 7})
    assert error.code == "receipt"


def test_a_receipt_is_told_of_before_it_is_signed(world: World) -> None:
    told: list[Receipt] = []

    def sign(data: bytes) -> bytes:
        assert len(told) == 1
        return world.left.sign(data)

    roles = world.play(Kind.RELEASE, receiver={"sign": sign, "signing": told.append})
    assert told == [roles.of(ReleaseSender).result.receipt]


@pytest.mark.feature("EX11")
def test_sides_that_count_differently_do_not_sign(world: World) -> None:
    records = world.records()
    manifest = world.manifest(records, evaluated={world.namespace: 13})
    assert world.tamper(Kind.RELEASE, "none", dict, sender={"manifest": manifest}).code == "receipt"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"revision": 6}, "revision"),
        ({"revision": 0}, "revision"),
        ({"feed": bytes(16)}, "manifest"),
        ({"version": 3}, "manifest"),
        ({"definition": bytes(32)}, "manifest"),
        ({"width": 2}, "manifest"),
        ({"width": 65}, "malformed"),
        ({"previous": b"\1" * 32}, "receipt"),
        ({"tallies": []}, "malformed"),
    ],
)
def test_a_release_of_something_else_is_refused(world: World, changes: dict[str, Any], code: str) -> None:
    assert world.tamper(Kind.RELEASE, "manifest", lambda document: changes).code == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"namespace": "phone_sha256/e164-v1"}, "manifest"),
        ({"public": bytes(32)}, "key_changed"),
        ({"records": 19}, "records"),
        ({"sha256": bytes(32)}, "records"),
    ],
)
def test_a_tally_that_does_not_hold_is_refused(world: World, changes: dict[str, Any], code: str) -> None:
    def lie(document: Body) -> Body:
        return {"tallies": [{**document["tallies"][0], **changes}]}

    assert world.tamper(Kind.RELEASE, "manifest", lie).code == code


def test_repeated_namespaces_are_refused(world: World) -> None:
    assert (
        world.tamper(Kind.RELEASE, "manifest", lambda document: {"tallies": document["tallies"] * 2}).code
        == "malformed"
    )


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (lambda document: {"records": document["records"][:-1]}, "records"),
        (lambda document: {"records": document["records"][:-17]}, "records"),
        (lambda document: {"records": bytes(17) + document["records"][17:]}, "records"),
        (lambda document: {"namespace": "phone_sha256/e164-v1"}, "records"),
        (lambda document: {"namespace": "../etc"}, "malformed"),
    ],
)
def test_records_other_than_announced_are_refused(world: World, lie: Lie, code: str) -> None:
    assert world.tamper(Kind.RELEASE, "records", lie).code == code


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda records: records[::-1], id="unsorted"),
        pytest.param(lambda records: records[[0, *range(len(records))]], id="repeated"),
    ],
)
def test_records_with_bad_tags_are_refused(world: World, forge: Callable[[U8], U8]) -> None:
    records = np.ascontiguousarray(forge(world.records()))
    assert world.tamper(Kind.RELEASE, "none", dict, sender={"records": records}).code == "invalid_tags"


def test_bits_of_segments_that_the_feed_does_not_have_are_dropped_in_silence(world: World) -> None:
    """A refusal would be an oracle: only records of the receiver's own people open, so it would name them."""
    roles = world.play(Kind.RELEASE, sender={"records": world.records(bitmaps=np.full((20, 1), 0xFF, np.uint8))})
    _, bitmaps = world.open(roles.of(ReleaseReceiver).result)
    segments = 3
    assert len(bitmaps)
    assert (np.unpackbits(bitmaps, axis=1) == (np.arange(8) < segments)).all()


def test_a_receipt_about_something_else_is_not_countersigned(world: World) -> None:
    def lie(document: Body) -> Body:
        return {"receipt": {**document["receipt"], "revision": 8}}

    assert world.tamper(Kind.RELEASE, "receipt", lie).code == "receipt"
    assert world.tamper(Kind.RELEASE, "none", dict, receiver={"sign": world.mallory.sign}).code == "signature"


def test_a_wrong_countersignature_is_refused(world: World) -> None:
    assert world.tamper(Kind.RELEASE, "countersigned", lambda document: {"signature": bytes(64)}).code == "signature"


def test_the_manifest_says_what_is_sent(world: World) -> None:
    records = world.records()
    (tally,) = world.manifest(records).tallies
    assert tally.sha256 == hashlib.sha256(records.tobytes()).digest()
    assert world.manifest(records).previous == NO_RECEIPT
