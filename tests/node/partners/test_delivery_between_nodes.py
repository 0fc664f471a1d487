"""Letters between two nodes: in order, once, and none to another key than the partner's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from exchanging import Pair, two_nodes
from sides import HERE

from node.access.scope import Scope
from node.errors import PeerUnreachable, RefusedByPartner, RefusedToPartner, WrongPeerKey
from node.node import Node
from node.partners import delivery
from node.partners import handlers as letter_handlers
from node.partners.connections import Connection
from node.storage.database import Tx
from node.storage.tables import connections
from node.transport import client as client_module
from node.transport import paths
from node.transport.client import Peer, PeerClient
from protocol import wire
from protocol.letters import Disconnect, Letter
from protocol.wire import Message


@pytest.fixture
def pair(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    with two_nodes(tmp_path, clock, monkeypatch) as made:
        yield made


@pytest.mark.feature("CN7")
def test_a_changed_key_blocks_traffic_and_alerts_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with pair.ann.home.database.begin() as tx:
        tx.execute(connections.update().values(peer_key=b"k" * 32))
    post(pair, pair.ann, "secret")
    for _ in range(2):
        with pytest.raises(WrongPeerKey):
            pair.run()
        with pytest.raises(WrongPeerKey):
            pair.ann.project().letters.deliver(pair.connection(pair.ann))
    assert reasons(pair) == []
    assert pair.states(pair.bob) == []
    assert [alert.kind for alert in pair.ann.project().alerts.all()] == ["key_changed"]
    assert pair.denied(pair.ann) == ["wrong_key"]
    assert pair.connection(pair.ann).key_changed is not None
    with pair.ann.home.database.begin() as tx:
        tx.execute(connections.update().values(peer_key=pair.bob.key))
    pair.ann.project().letters.deliver(pair.connection(pair.ann))
    assert pair.connection(pair.ann).key_changed is None  # its own key is back
    assert reasons(pair) == ["secret"]


def post(pair: Pair, sender: Node, *reasons: str) -> None:
    with sender.home.database.begin() as tx:
        for reason in reasons:
            sender.project().letters.send(tx, (b"c" * 16).hex(), "connect.disconnect", Disconnect(reason=reason))


def reasons(pair: Pair) -> list[str]:
    return [message.reason for message in pair.heard if isinstance(message, Disconnect)]


def test_letters_are_delivered_in_order_and_once(pair: Pair) -> None:
    post(pair, pair.ann, "one", "two")
    ann, connection = pair.ann.project().letters, pair.connection(pair.ann)
    assert ann.deliver(connection) == 2
    assert ann.deliver(connection) == 0
    letter = Letter.of("connect.disconnect", Disconnect(reason="one"), connection=b"c" * 16, number=1)
    with PeerClient(pair.ann.home, Peer(connection.peer_address, pair.bob.key, allowed=HERE)) as client:
        client.post(paths.LETTERS, letter.encode())
        early = Letter.of("connect.disconnect", Disconnect(reason="five"), connection=b"c" * 16, number=5)
        with pytest.raises(RefusedByPartner) as refused:
            client.post(paths.LETTERS, early.encode())
    assert refused.value.code == "out_of_order"
    assert reasons(pair) == ["one", "two"]


def test_a_node_without_address_is_fetched_from(pair: Pair) -> None:
    ann, connection = pair.ann.project().letters, pair.connection(pair.ann)
    assert ann.fetch(connection) == 0
    post(pair, pair.bob, "one", "two")
    assert ann.fetch(connection) == 2
    assert ann.fetch(connection) == 0
    assert reasons(pair) == ["one", "two"]


def test_what_cannot_be_delivered_waits(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    post(pair, pair.ann, "one")
    ann, connection = pair.ann.project().letters, pair.connection(pair.ann)
    monkeypatch.setattr(client_module, "RETRY_SECONDS", 0.2)
    with pair.ann.home.database.begin() as tx:
        tx.execute(connections.update().values(peer_address="127.0.0.1:1", chosen_address="127.0.0.1:1"))
    gone = pair.connection(pair.ann)
    with pytest.raises(PeerUnreachable):
        ann.deliver(gone)
    ann.deliver_soon(gone)
    assert ann.deliver(connection) == 1
    assert reasons(pair) == ["one"]


def test_a_letter_that_is_refused_does_not_block_the_next(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    hear = letter_handlers.HANDLERS["connect.disconnect"]

    def picky(scope: Scope, tx: Tx, row: Connection, message: Message) -> None:
        if isinstance(message, Disconnect) and message.reason == "bad":
            raise RefusedToPartner("bad", "this makes no sense")
        hear(scope, tx, row, message)

    monkeypatch.setattr(letter_handlers, "HANDLERS", {"connect.disconnect": picky})
    post(pair, pair.ann, "bad", "good")
    assert pair.ann.project().letters.deliver(pair.connection(pair.ann)) == 2
    assert reasons(pair) == ["good"]
    assert pair.denied(pair.bob) == ["bad"]


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, -1, True, "1", None])
def test_a_number_that_is_none_confirms_no_letter(number: object, pair: Pair) -> None:
    post(pair, pair.bob, "one")
    connection = pair.connection(pair.ann)
    with (
        PeerClient(pair.ann.home, Peer(connection.peer_address, pair.bob.key, allowed=HERE)) as client,
        pytest.raises(RefusedByPartner) as refused,
    ):
        client.post(f"{paths.LETTERS}/ack", wire.pack({"connection": connection.id, "number": number}))
    assert refused.value.code == "malformed"
    assert pair.ann.project().letters.fetch(connection) == 1


@pytest.mark.parametrize("detail", [2**63, 2**64 - 1, -1, True, "1"])
def test_a_number_in_a_refusal_that_is_none_is_not_looked_at(
    detail: Any, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RefusedToPartner("out_of_order", "no", status=409, detail=detail)

    post(pair, pair.ann, "one")
    ann, connection = pair.ann.project().letters, pair.connection(pair.ann)
    with monkeypatch.context() as lying:
        lying.setattr(delivery, "receive", refuse)
        with pytest.raises(RefusedByPartner) as refused:
            ann.deliver(connection)
    assert (refused.value.code, refused.value.detail) == ("out_of_order", None)
    assert ann.deliver(connection) == 1
