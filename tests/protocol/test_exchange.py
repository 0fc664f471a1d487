"""The engine under every real exchange: each message cut, repeated, reordered, dropped, replaced; both sides killed."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, get_type_hints

import msgpack
import numpy as np
import pytest
from fixtures import Random
from hypothesis import given
from hypothesis import strategies as st
from parties import Roles, Transfer, World, drive

from protocol import wire
from protocol.errors import ChunkChanged, LocalProtocolError, NoSuchChunk, NotReady, RemoteProtocolError
from protocol.estimate import CountAsker
from protocol.exchange import Done, Fetch, Machine, Send, Spool, session
from protocol.release import EvaluateReceiver, ReleaseReceiver, ReleaseSender
from protocol.states import PARTS, STEPS, Kind, Part

RUNS = [(kind, client) for kind in Kind for client in PARTS[kind]]


def pair(
    world: World, kind: Kind, client: Part, *, spools: tuple[Spool, Spool] | None = None, nonce: bytes = bytes(32)
) -> tuple[Machine, Machine]:
    other = next(part for part in PARTS[kind] if part != client)
    ours, theirs = spools or ({}, {})
    return (
        world.machine(kind, world.role(client, kind), ours, client=client, nonce=nonce),
        world.machine(kind, world.role(other, kind), theirs, client=client, nonce=nonce),
    )


def repacked(body: bytes, **changes: object) -> bytes:
    return wire.pack({**wire.unpack(body), **changes})


def code(machine: Machine, step: str, chunk: int, body: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        machine.put(step, chunk, body)
    return caught.value.code


def check_results(world: World, kind: Kind, client: Machine, server: Machine) -> None:
    roles = Roles({machine.role.part: machine.role for machine in (client, server)})
    if kind == Kind.COUNT:
        answer = roles.of(CountAsker).result
        assert [(each.overlap, each.consented) for each in answer.segments] == [(8, 4), (6, 3)]
    elif kind == Kind.EVALUATE:
        assert len(roles.of(EvaluateReceiver).result.prf) == 12
    else:
        indices, bitmaps = world.open(roles.of(ReleaseReceiver).result)
        assert indices.tolist() == list(range(8))
        assert bitmaps[:, 0].tolist() == [0x80 >> ((12 + number) % 3) for number in range(8)]
        assert roles.of(ReleaseReceiver).result.receipt == roles.of(ReleaseSender).result


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("kind", "client"), RUNS)
def test_no_bad_transfer_disturbs_an_exchange(world: World, kind: Kind, client: Part) -> None:
    """Before each honest transfer the taker is tried with every bad one, and after it with repetition and change."""
    ours, theirs = pair(world, kind, client)
    past: list[Transfer] = []
    for step, chunk, body, taker in drive(ours, theirs):
        for bad in (b"", body[:1], body[: len(body) // 2], body[:-1], body + b"\0", b"\xc1", msgpack.packb([1])):
            assert code(taker, step, chunk, bad) == "malformed"
        assert code(taker, step, chunk, bytes(wire.MAX_BODY + 1)) == "too_large"
        assert code(taker, step, chunk, repacked(body, v=2)) == "version"
        assert code(taker, step, chunk, repacked(body, v=True)) == "version"
        assert code(taker, step, chunk, repacked(body, session=bytes(32))) == "session"
        assert code(taker, step, chunk, repacked(body, step="answer" if step != "answer" else "tags")) == "step"
        assert code(taker, step, chunk, repacked(body, chunk=chunk + 1)) == "chunk"
        assert code(taker, step, chunk, repacked(body, of=0)) == "malformed"
        assert code(taker, step, chunk, repacked(body, extra=1)) == "malformed"
        assert code(taker, "nonsense", 0, body) == "step"
        of = wire.unpack(body)["of"]
        assert isinstance(of, int)
        assert code(taker, step, of, repacked(body, chunk=of)) == "chunk"
        if chunk + 1 < of:  # reordered within the step, or the one before dropped
            assert code(taker, step, chunk + 1, repacked(body, chunk=chunk + 1)) in ("out_of_order", "chunk")
        for name in STEPS[kind]:  # no step of ours can be put into us
            if name.sender == taker.role.part:
                assert code(taker, name.name, 0, body) == "direction"
        for old_step, old_chunk, old_body, old_taker in past:
            if old_taker is taker:
                taker.put(old_step, old_chunk, old_body)  # repeated: nothing happens
                if (old_step, old_chunk) != (step, chunk):
                    assert code(taker, step, chunk, old_body) in ("step", "chunk")
                with pytest.raises(ChunkChanged):
                    taker.put(old_step, old_chunk, old_body + b"\0")
        past.append((step, chunk, body, taker))
    assert isinstance(ours.next(), Done)
    assert ours.done
    assert theirs.done
    check_results(world, kind, ours, theirs)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", list(Kind))
def test_later_steps_cannot_come_early(world: World, kind: Kind) -> None:
    """Every message but the first is refused by a fresh machine, whichever was dropped before it."""
    client, _ = PARTS[kind]
    machines = pair(world, kind, client)
    transfers = [(step, chunk, body, taker.role.part) for step, chunk, body, taker in drive(*machines)]
    fresh = {machine.role.part: machine for machine in pair(world, kind, client)}
    for step, chunk, body, part in transfers:
        if step != STEPS[kind][0].name:
            assert code(fresh[part], step, chunk, body) == "out_of_order"
    for later in STEPS[kind][1:]:
        if later.sender != STEPS[kind][0].sender or later.replies_to:
            with pytest.raises(NotReady):
                fresh[later.sender].get(later.name, 0)


@pytest.mark.parametrize("kind", [Kind.EVALUATE, Kind.RELEASE])
def test_messages_of_another_session_are_refused(world: World, kind: Kind) -> None:
    first, _ = PARTS[kind]
    elsewhere = pair(world, kind, first, nonce=b"\7" * 32)
    here = {machine.role.part: machine for machine in pair(world, kind, first)}
    for step, chunk, body, taker in drive(*elsewhere):
        assert code(here[taker.role.part], step, chunk, body) == "session"


def test_the_session_binds_every_field_of_the_opening(world: World) -> None:
    opening, opened = world.opening(Kind.RELEASE, Part.SENDER), world.opened()
    changes: dict[str, Any] = {
        "part": Part.RECEIVER,
        "connection": bytes(16),
        "agreement": b"\1" * 32,
        "subject": {**opening.subject, "revision": 8},
        "nonce": b"\2" * 32,
    }
    others = [session(replace(opening, **{name: value}), opened) for name, value in changes.items()]
    others.append(session(opening, replace(opened, nonce=bytes(32))))
    assert len({session(opening, opened), *others}) == len(others) + 1


def test_a_reply_to_another_opening_is_refused(world: World) -> None:
    opening, opened = world.opening(Kind.COUNT, Part.ASKER), world.opened()
    for changes, expected in (({"exchange": bytes(16)}, "session"), ({"epoch": 4}, "epoch")):
        with pytest.raises(RemoteProtocolError) as caught:
            session(opening, replace(opened, **changes))
        assert caught.value.code == expected


def test_an_accepted_opening_has_a_nonce_of_the_server(world: World, random: Random) -> None:
    opening = world.opening(Kind.EVALUATE, Part.RECEIVER)
    first, second = opening.accept(random), opening.accept(random)
    assert (first.exchange, first.epoch) == (opening.exchange, opening.epoch)
    assert len({first.nonce, second.nonce, opening.nonce}) == 3
    assert session(opening, first) != session(opening, second)


@pytest.mark.feature("EX8")
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("kind", "client"), RUNS)
def test_both_sides_killed_between_any_two_transfers_resume(world: World, kind: Kind, client: Part) -> None:
    spools: tuple[Spool, Spool] = ({}, {})
    bodies: dict[tuple[str, int], bytes] = {}
    while True:
        ours, theirs = pair(world, kind, client, spools=spools)
        transfer = next(drive(ours, theirs), None)
        if transfer is None:
            break
        step, chunk, body, taker = transfer
        assert bodies.setdefault((step, chunk), body) == body
        taker.put(step, chunk, body)
        if taker is theirs and len(bodies) % 2:  # killed before it heard that the partner has it: sent again, no harm
            ours.sent(step, chunk)
        elif taker is theirs:
            theirs.put(step, chunk, body)
            ours.sent(step, chunk)
    assert theirs.done
    check_results(world, kind, ours, theirs)


@pytest.mark.usefixtures("small_chunks")
def test_a_step_half_written_to_the_spool_is_made_again(world: World) -> None:
    class Full(dict[tuple[str, int], bytes]):
        def __setitem__(self, key: tuple[str, int], value: bytes) -> None:
            if key == ("tags", 0):
                raise OSError("disk full")
            super().__setitem__(key, value)

    spools: tuple[Spool, Spool] = (Full(), {})
    ours, theirs = pair(world, Kind.COUNT, Part.ASKER, spools=spools)
    with pytest.raises(OSError, match="disk full"):
        list(drive(ours, theirs))
    with pytest.raises(OSError, match="disk full"):
        ours.get("tags", 0)
    spools = (dict(spools[0]), spools[1])
    assert ("tags", 1) in spools[0]
    ours, theirs = pair(world, Kind.COUNT, Part.ASKER, spools=spools)
    assert ours.next() == Send("tags", 0)
    list(drive(ours, theirs))
    check_results(world, Kind.COUNT, ours, theirs)


@pytest.mark.usefixtures("small_chunks")
def test_what_can_be_drawn_again_is_not_kept(world: World) -> None:
    spool: Spool = {}
    ours, theirs = pair(world, Kind.EVALUATE, Part.SENDER, spools=({}, spool))
    bodies = {(step, chunk): body for step, chunk, body, _ in drive(ours, theirs)}
    assert not any(step == "blinded" for step, _ in spool)
    assert theirs.get("blinded", 1) == bodies["blinded", 1]
    theirs.retire()
    with pytest.raises(NoSuchChunk):
        theirs.get("blinded", 1)


@pytest.mark.usefixtures("small_chunks")
def test_what_an_earlier_release_kept_of_a_drawn_step_is_used(world: World) -> None:
    ours, theirs = pair(world, Kind.EVALUATE, Part.RECEIVER)
    bodies = {(step, chunk): body for step, chunk, body, _ in drive(ours, theirs)}
    spools: tuple[Spool, Spool] = ({at: bodies[at] for at in bodies if at[0] in ("key", "blinded")}, {})
    ours, theirs = pair(world, Kind.EVALUATE, Part.RECEIVER, spools=spools)
    theirs.get("key", 0)
    assert {at: body for at, body in bodies.items() if at[0] == "blinded"} == {
        (step, chunk): body for step, chunk, body, _ in drive(ours, theirs) if step == "blinded"
    }
    check_results(world, Kind.EVALUATE, ours, theirs)


def test_a_stored_reply_is_returned_unchanged(world: World) -> None:
    spool: Spool = {}
    ours, theirs = pair(world, Kind.EVALUATE, Part.RECEIVER, spools=({}, spool))
    list(drive(ours, theirs))
    reply = theirs.get("evaluated", 0)
    again = world.machine(Kind.EVALUATE, world.role(Part.SENDER, Kind.EVALUATE), spool, client=Part.RECEIVER)
    assert again.get("evaluated", 0) == reply


def test_a_retired_machine_only_repeats_what_it_said(world: World) -> None:
    ours, theirs = pair(world, Kind.EVALUATE, Part.RECEIVER)
    bodies = {(step, chunk): body for step, chunk, body, _ in drive(ours, theirs)}
    theirs.retire()
    assert theirs.get("evaluated", 0) == bodies["evaluated", 0]
    theirs.put("blinded", 0, bodies["blinded", 0])
    with pytest.raises(ChunkChanged):
        theirs.put("blinded", 0, bodies["blinded", 0] + b"\0")


def test_the_client_is_told_the_same_until_it_happened(world: World) -> None:
    ours, theirs = pair(world, Kind.EVALUATE, Part.RECEIVER)
    assert ours.next() == ours.next() == Fetch("key", 0)
    ours.put("key", 0, theirs.get("key", 0))
    assert ours.next() == Send("blinded", 0)
    ours.get("blinded", 0)
    assert ours.next() == Send("blinded", 0)
    ours.sent("blinded", 0)
    assert ours.next() == Fetch("evaluated", 0)


class Written(dict[tuple[str, int], bytes]):
    """A spool that notes what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[str, int]] = []

    def __setitem__(self, chunk: tuple[str, int], body: bytes) -> None:
        self.written.append(chunk)
        super().__setitem__(chunk, body)


def test_there_is_no_chunk_past_the_last(world: World) -> None:
    """To ask for one makes nothing: a request without a body must not cost a whole universe."""
    spool = Written()
    ours, theirs = pair(world, Kind.EVALUATE, Part.RECEIVER, spools=({}, spool))
    for done in (False, True):
        with pytest.raises(NoSuchChunk):
            theirs.get("key", 1)
        spool.written.clear()
        with pytest.raises(NoSuchChunk):
            theirs.get("key", 1)
        assert spool.written == []
        if not done:
            list(drive(ours, theirs))
            theirs.retire()
    with pytest.raises(NoSuchChunk):
        theirs.get("evaluated", 1)


def test_a_refused_content_ends_the_exchange(world: World) -> None:
    ours, theirs = pair(world, Kind.EVALUATE, Part.RECEIVER)
    body = theirs.get("key", 0)
    evil = repacked(body, signature=bytes(64))
    assert code(ours, "key", 0, evil) == "signature"
    assert code(ours, "key", 0, body) == "signature"
    with pytest.raises(RemoteProtocolError):
        ours.get("blinded", 0)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", [Kind.EVALUATE, Kind.RELEASE])
def test_damaged_chunks_give_the_one_error(world: World, kind: Kind) -> None:
    """Whatever a partner changes in any chunk, the taker goes on or refuses; nothing else can happen."""
    client = PARTS[kind][0]
    transfers = [(*transfer[:3], transfer[3].role.part) for transfer in drive(*pair(world, kind, client))]
    values = st.none() | st.integers(-1, 2**33) | st.text(max_size=9) | st.binary(max_size=99) | st.lists(st.binary())

    @given(st.integers(0, len(transfers) - 1), st.data())
    def damage(number: int, data: st.DataObject) -> None:
        step, chunk, body, part = transfers[number]
        spool = {(step, chunk): body for step, chunk, body, _ in transfers[:number]}
        evil = bytearray(body)
        place = data.draw(st.integers(0, len(body) - 1))
        evil[place : place + 1] = data.draw(st.binary(max_size=2))
        document = wire.unpack(body)
        document[data.draw(st.sampled_from(sorted(document)))] = data.draw(values)
        for hostile in (wire.pack(document), bytes(evil)):
            taker = world.machine(kind, world.role(part, kind), dict(spool), client=client)
            with suppress(RemoteProtocolError):
                taker.put(step, chunk, hostile)

    damage()


def test_a_role_of_another_kind_is_our_own_mistake(world: World) -> None:
    with pytest.raises(LocalProtocolError):
        Machine(world.opening(Kind.COUNT, Part.ASKER), world.opened(), world.evaluate_sender(), {})


def test_payload_fields_never_hide_a_header_field() -> None:
    header = {"v", "session", "step", "chunk", "of"}
    for step in (step for steps in STEPS.values() for step in steps):
        assert not header & set(get_type_hints(step.message)), step.name


@pytest.mark.parametrize("kind", list(Kind))
def test_empty_sets_go_through(world: World, kind: Kind) -> None:
    nobody = world.people()
    none = np.zeros((1, 0), np.bool_)
    changes = {
        Kind.COUNT: {"asker": {"values": nobody, "segments": none, "consented": none[0]}},
        Kind.EVALUATE: {"receiver": {"values": nobody}},
        Kind.RELEASE: {"sender": {"records": np.zeros((0, 17), np.uint8)}},
    }
    roles = world.play(kind, **changes[kind])
    if kind == Kind.RELEASE:
        assert len(world.open(roles.of(ReleaseReceiver).result)[0]) == 0
