"""Whoever is no partner leaves no row and takes no lock: proof comes first, and what came before acceptance is bounded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from clock import Clock

from node.adhoc.session import Party
from node.errors import RefusedToPartner, UnknownCaller
from node.exchanges.answering import NodeAnswers
from node.node import Node
from node.partners import connecting, letters
from node.partners.connections import Connection, ConnectionStatus, change, named, note
from node.partners.letters import receive
from node.partners.outbox import delivered, outbox
from node.partners.rates import Rate
from node.service import Doorkeeper
from node.storage.database import Database
from node.transport import paths
from protocol import handshake
from protocol.connectid import ConnectId
from protocol.errors import RemoteProtocolError
from protocol.exchange import Opening
from protocol.letters import Disconnect, FeedNotice, Letter
from protocol.states import Kind, Part
from psi.errors import VesicaError


@pytest.fixture
def connect_id(node: Node) -> ConnectId:
    """The Connect ID of a node that can be called."""
    node.set(address="node.example:8470")
    return node.project().partners.connect_id()


@contextmanager
def no_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail where a transaction that could write begins."""

    def refuse(_: Database) -> Any:
        raise AssertionError("the write lock was taken")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "begin", refuse)
        yield


def rows(node: Node) -> int:
    return len(node.audit.entries())


class Requester:
    """Somebody with a Connect ID, or with the project id of one only."""

    def __init__(self, connect_id: ConnectId, *, secret: bool = True) -> None:
        self.party = Party()
        self.connect_id = connect_id if secret else replace(connect_id, secret=bytes(16))
        self.hello = handshake.hello(self.connect_id, key=self.party.key, nonce=self.party.random(32))

    def request(self, node: Node, **changes: Any) -> bytes:
        scope = node.project().scope
        theirs = connecting.offer(scope, handshake.offer_nonce(self.hello, secret=self.connect_id.secret))
        ours = replace(theirs, key=self.party.key, project=self.party.random(16), nonce=bytes(32), address="")
        message = handshake.request(
            self.connect_id,
            self.hello,
            replace(ours, organisation="Globe"),
            theirs,
            connection=self.party.random(16),
            made=node.home.now(),
            sign=self.party.sign,
        )
        return replace(message, **changes).encode()

    def send(self, node: Node, body: bytes) -> bytes:
        return connecting.answer(node.home, self.party.key, body)


def test_who_knows_a_project_id_only_leaves_nothing(
    node: Node, connect_id: ConnectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Requester(connect_id, secret=False)
    known = Requester(connect_id)
    bodies = [
        (stranger, stranger.hello.encode()),
        (stranger, stranger.request(node)),
        (known, known.request(node, proof=bytes(32))),
        (known, known.request(node, signature=bytes(64))),
    ]
    before = rows(node)
    with no_writes(monkeypatch):
        for who, body in bodies:
            with pytest.raises(RemoteProtocolError):
                who.send(node, body)
    assert rows(node) == before
    assert node.project().partners.rows() == []


def test_the_same_request_again_and_one_beside_it_leave_nothing(
    node: Node, connect_id: ConnectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Requester(connect_id)
    body = known.request(node)
    known.send(node, body)
    before = rows(node)
    with no_writes(monkeypatch):
        assert known.send(node, body) == b""
        other = Requester(connect_id)
        with pytest.raises(RemoteProtocolError):
            other.send(node, body)
    assert rows(node) == before


@pytest.mark.feature("CN2")
def test_requests_that_wait_or_were_turned_down_today_are_bounded(
    node: Node, connect_id: ConnectId, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "REQUESTS", 2)
    for _ in range(2):
        one = Requester(connect_id)
        one.send(node, one.request(node))
    partners = node.project().partners
    partners.decline("globe")
    third = Requester(connect_id)
    before = rows(node)
    with no_writes(monkeypatch), pytest.raises(RefusedToPartner) as refused:
        third.send(node, third.request(node))
    assert refused.value.code == "too_many"
    assert rows(node) == before
    partners.accept("globe-2")  # what was accepted counts no more
    third.send(node, third.request(node))
    clock.advance(days=2)
    assert partners.get("globe-3").status is ConnectionStatus.REQUESTED
    fourth = Requester(connect_id)
    fourth.send(node, fourth.request(node))


def in_state(node: Node, connection: Connection, status: ConnectionStatus) -> Connection:
    with node.home.database.begin() as tx:
        change(node.home, tx, connection, status=status)
    return named(node.project().scope, connection.alias)


NOTICE = FeedNotice(feed=bytes(16), version=1, reason="")


@pytest.mark.parametrize("status", ["requested", "declined", "disconnected", "pending"])
def test_letters_of_who_is_no_partner_are_dropped_without_a_row(
    status: str, node: Node, requested: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = in_state(node, requested, ConnectionStatus(status))
    monkeypatch.setattr(letters, "RATE_WHILE_INACTIVE", Rate(burst=20, seconds=1e9))
    before = rows(node)
    for number in range(1, 21):
        letter = Letter.of("feed.decline", NOTICE, connection=row.wire_id, number=number)
        receive(node.home, row.peer_key, letter)
    late = Letter.of("feed.decline", NOTICE, connection=row.wire_id, number=21)
    with no_writes(monkeypatch), pytest.raises(RefusedToPartner) as refused:
        receive(node.home, row.peer_key, late)
    assert refused.value.code == "too_many"
    assert rows(node) == before
    assert named(node.project().scope, "globe").letters_received == 20  # so that one that matters may follow


@pytest.mark.parametrize("status", list(ConnectionStatus))
def test_who_was_a_partner_has_no_more_room_at_the_door_than_a_stranger(
    status: ConnectionStatus, node: Node, requested: Connection
) -> None:
    row = in_state(node, requested, status)
    with node.home.database.begin() as tx:
        note(tx, row, our_signature=bytes(64))
    over = status in (ConnectionStatus.DECLINED, ConnectionStatus.DISCONNECTED, ConnectionStatus.FAILED)
    assert Doorkeeper(node.home)(row.peer_key, paths.LETTERS) is not over


def test_letters_that_were_confirmed_are_confirmed_again_without_a_lock(
    node: Node, requested: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.project().partners.decline("globe")
    delivered(node.home, requested.id, 1)
    assert outbox(node.home, requested) == []
    with no_writes(monkeypatch):
        delivered(node.home, requested.id, 1)
        delivered(node.home, requested.id, 10**6)


def test_a_request_can_be_taken_back(node: Node, requested: Connection) -> None:
    end = Letter.of("connect.disconnect", Disconnect(reason="no"), connection=requested.wire_id, number=1)
    receive(node.home, requested.peer_key, end)
    assert named(node.project().scope, "globe").status is ConnectionStatus.DISCONNECTED


def test_exchanges_of_who_is_no_partner_leave_nothing(
    node: Node, requested: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(node)
    answers = NodeAnswers(node.home)
    with no_writes(monkeypatch):
        for connection, caller in ((requested.wire_id, requested.peer_key), (bytes(16), b"s" * 32)):
            opening = Opening(
                exchange=bytes(16),
                kind=Kind.COUNT,
                part=Part.ASKER,
                connection=connection,
                agreement=requested.agreement_digest,
                epoch=1,
                subject={"namespace": "email_sha256/lc-v1"},
                nonce=bytes(32),
            )
            with pytest.raises(UnknownCaller):
                answers.begin(caller, opening)
            with pytest.raises(VesicaError):
                answers.resume(caller, bytes(16))
    assert rows(node) == before


def test_another_key_in_a_partners_place_is_written_down_once_a_day(
    node: Node, active: Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = Letter.of("connect.disconnect", Disconnect(reason=""), connection=active.wire_id, number=1)
    with pytest.raises(UnknownCaller):
        receive(node.home, b"w" * 32, letter)
    before = rows(node)
    with no_writes(monkeypatch):
        for _ in range(3):
            with pytest.raises(UnknownCaller):
                receive(node.home, b"w" * 32, letter)
    assert rows(node) == before
    clock.advance(days=1)
    with pytest.raises(UnknownCaller):
        receive(node.home, b"w" * 32, letter)
    assert rows(node) == before + 1


def test_a_rate_gives_back_with_time() -> None:
    time = 0.0
    rate = Rate(burst=2, seconds=10.0, now=lambda: time)
    assert [rate.allows("a") for _ in range(3)] == [True, True, False]
    assert rate.allows("b")
    time = 10.0
    assert [rate.allows("a") for _ in range(2)] == [True, False]
