"""What a partner takes of a node with the exchanges that it opens: bounded by number, by the hour, in bytes, in memory."""

import gc
from weakref import WeakSet

import pytest
from clock import Clock
from exchanging import Pair, answering_with, count_opening
from sides import HERE

from node.access.scope import Scope
from node.errors import RefusedByPartner, RefusedToPartner
from node.exchanges import http, quota, records
from node.exchanges.answering import NodeAnswers
from node.exchanges.http import MACHINES_PER_CALLER
from node.partners.connections import Connection
from node.transport import paths
from node.transport.client import Peer, PeerClient
from protocol.exchange import Opening, Role


def path(number: int, step: str) -> str:
    return f"{paths.EXCHANGES}/{(bytes([number]) * 16).hex()}/{step}/0"


def spools(pair: Pair) -> list[int]:
    """Return the numbers of the exchanges that have messages on Bob's disk."""
    found = (each for each in (pair.bob.home.path / "spool").iterdir() if any(each.iterdir()))
    return sorted(bytes.fromhex(each.name)[0] for each in found)


def test_a_partner_opens_so_many_an_hour_and_the_next_leave_nothing(
    pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are refused count too: each leaves a row in the audit log."""
    monkeypatch.setattr(quota, "AN_HOUR", 4)

    def refuse(*_: object) -> Role:
        raise RefusedToPartner("budget", "no")

    answers, connection = NodeAnswers(pair.bob.home), pair.connection(pair.ann)
    for number in range(2):
        answers.begin(pair.ann.key, count_opening(connection, number))
    answering_with(monkeypatch, refuse)
    codes = []
    for number in range(2, 6):
        with pytest.raises(RefusedToPartner) as refused:
            answers.begin(pair.ann.key, count_opening(connection, number))
        codes.append(refused.value.code)
    assert codes == ["budget", "budget", "too_many", "too_many"]
    assert pair.denied(pair.bob) == ["budget", "budget"]
    assert len(pair.states(pair.bob)) == 2
    clock.advance(seconds=3600)
    with pytest.raises(RefusedToPartner, match="no"):
        answers.begin(pair.ann.key, count_opening(connection, 9))


def test_the_oldest_give_way_where_the_messages_of_a_partner_take_too_much(
    pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writes 128 KiB; as the next is written there is room for one and a half."""
    connection = pair.connection(pair.ann)

    def write(number: int) -> None:
        spool = quota.ExchangeQuota(pair.bob.home).spool(connection, bytes([number]) * 16)
        spool["questions", 0] = bytes(128 * 1024)

    with PeerClient(pair.ann.home, Peer(connection.peer_address, pair.bob.key, allowed=HERE)) as client:
        monkeypatch.setattr(quota, "BYTES_AT_LEAST", 256 * 1024)
        monkeypatch.setattr(quota, "BYTES_FOR_EACH", 0)
        monkeypatch.setattr(quota, "CHECKED_BYTES", 1)
        pair.run()  # done: its messages go first
        assert len(spools(pair)) == 1
        for number in range(1, 5):
            clock.advance(seconds=1)
            http.open_at(client, count_opening(connection, number))
            client.get(path(number, "commitment"))
            write(number)
        assert spools(pair) == [3, 4]
        assert pair.states(pair.bob) == ["done", "failed", "failed", "open", "open"]
        with pytest.raises(RefusedByPartner) as refused:
            client.get(path(1, "universe"))
        assert refused.value.code == "over"
        client.get(path(3, "universe"))
        monkeypatch.setattr(quota, "BYTES_AT_LEAST", 64 * 1024)
        clock.advance(seconds=1)
        http.open_at(client, count_opening(connection, 5))
        client.get(path(5, "commitment"))
        write(5)
        assert spools(pair) == [5]
        with pytest.raises(RefusedToPartner, match="more room"):
            quota.ExchangeQuota(pair.bob.home).spool(connection, bytes([5]) * 16)["tags", 0] = b"more"


def test_what_a_partner_takes_is_counted_though_machines_rest_and_begin_again(
    pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "BYTES_AT_LEAST", 256 * 1024)
    monkeypatch.setattr(quota, "BYTES_FOR_EACH", 0)
    monkeypatch.setattr(quota, "CHECKED_BYTES", 64 * 1024)
    answers, connection = NodeAnswers(pair.bob.home), pair.connection(pair.ann)
    for number in (1, 2):
        clock.advance(seconds=1)
        answers.begin(pair.ann.key, count_opening(connection, number))
    kept, ids = quota.ExchangeQuota(pair.bob.home), [bytes([number]) * 16 for number in (1, 2)]
    for chunk in range(10):  # 150 KiB, by a spool of its own for each
        kept.spool(connection, ids[chunk % 2])["questions", chunk] = bytes(15 * 1024)
    assert pair.states(pair.bob) == ["open", "open"]

    def write_on() -> None:
        for chunk in range(10, 100):
            kept.spool(connection, ids[1])["questions", chunk] = bytes(15 * 1024)
            assert sum(records.size_of(pair.bob.home, each) for each in ids) <= 256 * 1024

    for _ in range(2):
        with pytest.raises(RefusedToPartner, match="more room"):
            write_on()
    assert pair.states(pair.bob) == ["failed", "open"]


def test_a_message_of_an_exchange_that_is_given_up_meanwhile_is_not_kept(pair: Pair) -> None:
    spool = records.spool_of(pair.bob.home, bytes(16))
    spool["universe", 1] = b"body"
    records.destroy_spool(pair.bob.home, bytes(16))
    with pytest.raises(Exception, match="are gone"):
        spool["universe", 0] = b"body"
    assert list((pair.bob.home.path / "spool").iterdir()) == []


def test_few_machines_of_a_partner_are_in_memory_and_the_others_go_on_from_the_disk(
    pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, many, roles = pair.connection(pair.ann), MACHINES_PER_CALLER + 3, WeakSet[Role]()

    def answer(scope: Scope, connection: Connection, opening: Opening) -> Role:
        role = pair.answerer(opening.epoch)
        roles.add(role)
        return role

    def in_memory() -> int:
        gc.collect()
        return len(roles)

    answering_with(monkeypatch, answer)
    with PeerClient(pair.ann.home, Peer(connection.peer_address, pair.bob.key, allowed=HERE)) as client:
        for step in ("commitment", "universe", "universe"):
            for number in range(1, many + 1):
                clock.advance(seconds=1)
                if step == "commitment":
                    http.open_at(client, count_opening(connection, number))
                client.get(path(number, step))
                assert in_memory() <= MACHINES_PER_CALLER
    assert pair.states(pair.bob) == ["open"] * many
    pair.run()
    assert in_memory() <= MACHINES_PER_CALLER
