"""Exchanges that a node answers: room for a few of each partner, one row for each, nothing for whom it does not know."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count as count_from

import pytest
from clock import Clock
from exchanging import Pair, answering_with, count_opening
from sides import HERE

from node.access.scope import Scope
from node.errors import RefusedByPartner, RefusedToPartner
from node.exchanges import handlers, http, quota
from node.exchanges.answering import NodeAnswers
from node.node import Node
from node.partners.connections import Connection
from node.storage.spool import FileSpool
from node.storage.tables import connections
from node.storage.tables import exchanges as rows
from node.transport import paths
from node.transport.client import Peer, PeerClient
from protocol.exchange import Opening, Role
from protocol.states import Kind, Part


def test_a_partner_that_opens_many_loses_the_oldest(pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob keeps two open for Ann: what is given up leaves his disk and memory, and does not come back, nor become done."""
    monkeypatch.setattr(quota, "OPEN_AT_MOST", 2)
    connection = pair.connection(pair.ann)

    with PeerClient(pair.ann.home, Peer(connection.peer_address, pair.bob.key, allowed=HERE)) as client:
        for number in range(1, 4):
            clock.advance(seconds=1)
            http.open_at(client, count_opening(connection, number))
            path = f"{paths.EXCHANGES}/{count_opening(connection, number).exchange.hex()}/commitment/0"
            client.get(path)
        first = f"{paths.EXCHANGES}/{count_opening(connection, 1).exchange.hex()}"
        for _ in range(2):
            with pytest.raises(RefusedByPartner) as refused:
                client.get(f"{first}/universe/0")
            assert refused.value.code == "over"
        with pytest.raises(RefusedByPartner):
            http.open_at(client, count_opening(connection, 1))
        client.get(path)  # the newest goes on
    assert sorted(pair.states(pair.bob)) == ["failed", "open", "open"]
    assert {each.name for each in (pair.bob.home.path / "spool").iterdir()} == {
        count_opening(connection, 2).exchange.hex(),
        count_opening(connection, 3).exchange.hex(),
    }
    assert count_opening(connection, 1).exchange not in pair.answering.in_memory()


def test_of_finished_exchanges_few_messages_stay(pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "OPEN_AT_MOST", 2)
    for _ in range(5):
        clock.advance(seconds=1)
        pair.run()
    assert len(list((pair.bob.home.path / "spool").iterdir())) <= 3


def test_an_exchange_given_up_in_its_last_step_is_not_done(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = NodeAnswers.finished

    def late(self: NodeAnswers, opening: Opening, role: Role) -> None:
        with self._home.database.begin() as tx:
            tx.execute(rows.update().values(state="failed"))
        finished(self, opening, role)

    monkeypatch.setattr(NodeAnswers, "finished", late)
    with pytest.raises(RefusedByPartner) as refused:
        pair.run()
    assert refused.value.code == "over"
    assert pair.states(pair.bob) == ["failed"]


def test_a_refusal_is_told_and_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Role:
        raise RefusedToPartner("budget_spent", "no more today")

    answering_with(monkeypatch, refuse)
    with pytest.raises(RefusedByPartner, match="no more today"):
        pair.run()
    assert pair.denied(pair.ann) == ["budget_spent"]


def test_two_processes_that_are_asked_the_same_begin_one_exchange(
    pair: Pair, clock: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that ends may still work on an opening that its successor is asked again."""
    connection, make = pair.connection(pair.bob), handlers.handler(Kind.COUNT, Part.ANSWERER).answer
    both, made = threading.Barrier(2), count_from(1)

    def together(scope: Scope, row: Connection, opening: Opening) -> Role:
        if next(made) <= 2:
            both.wait(20)  # neither has seen the other's row
        return make(scope, row, opening, None).role

    answering_with(monkeypatch, together)
    opening = count_opening(connection)
    with Node.open(pair.bob.home.path, now=clock) as other, ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(NodeAnswers(node.home).begin, pair.ann.key, opening) for node in (pair.bob, other)]
        (first, machine), (second, after) = (each.result(30) for each in begun)
        assert first == second
        chunk = machine.get("commitment", 0)
        assert after.get("commitment", 0) == chunk  # one key for the spool
    assert pair.states(pair.bob) == ["open"]


@pytest.mark.parametrize("path", ["zz", "00" * 15, "00" * 16, "00" * 16 + "/tags/x", "00" * 16 + "/tags/0", "AA" * 16])
def test_unknown_exchanges_and_odd_paths_are_refused(pair: Pair, path: str) -> None:
    connection = pair.connection(pair.ann)
    with (
        PeerClient(pair.ann.home, Peer(connection.peer_address, pair.bob.key, allowed=HERE)) as client,
        pytest.raises(RefusedByPartner) as refused,
    ):
        client.get(f"{paths.EXCHANGES}/{path}")
    assert refused.value.status in (400, 404)


def test_to_ask_for_a_chunk_that_there_is_not_makes_and_ends_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an exchange, and when it is done."""
    codes: list[str] = []
    written: list[tuple[str, int]] = []
    store, attempt = FileSpool.__setitem__, PeerClient.attempt

    def storing(self: FileSpool, chunk: tuple[str, int], body: bytes) -> None:
        written.append(chunk)
        store(self, chunk, body)

    def odd(client: PeerClient, exchange: str) -> None:
        with pytest.raises(RefusedByPartner) as refused:
            attempt(client, "GET", f"{exchange}/universe/7", b"")
        codes.append(refused.value.code)

    def asking(self: PeerClient, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        exchange = "/".join(path.split("/")[:5])
        if path.endswith("/answer/0"):
            written.clear()
            odd(self, exchange)
            assert written == []
        answer = attempt(self, method, path, body)
        if path.endswith("/answer/0"):
            odd(self, exchange)
        return answer

    monkeypatch.setattr(FileSpool, "__setitem__", storing)
    monkeypatch.setattr(PeerClient, "attempt", asking)
    pair.run()
    assert codes == ["no_such_chunk", "no_such_chunk"]
    assert pair.states(pair.bob) == ["done"]


def test_an_inactive_connection_answers_nothing(pair: Pair) -> None:
    with pair.bob.home.database.begin() as tx:
        tx.execute(connections.update().values(status="disconnected"))
    with pytest.raises(RefusedByPartner) as refused:
        pair.run()
    assert refused.value.code == "unwelcome"
