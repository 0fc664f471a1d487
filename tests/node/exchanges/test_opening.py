"""Exchanges that a node opens: resumed after a kill, in the partner's key epoch, audited where a side breaks off."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from clock import Clock
from exchanging import Pair

from node.errors import RefusedByPartner
from node.exchanges import handlers, http
from node.exchanges.answering import NodeAnswers
from node.partners import key_epochs
from node.transport.client import PeerClient
from protocol.errors import RemoteProtocolError
from protocol.exchange import Opened, Opening
from protocol.messages import Answer
from protocol.states import Kind, Part


def test_either_side_may_call(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair.run().segments[0].overlap == 60
    pair.answerer = lambda epoch, node=None: Pair.answerer(pair, epoch, pair.ann)  # type: ignore[method-assign]
    pair.asker = lambda epoch, answerer=None: Pair.asker(pair, epoch, pair.ann)  # type: ignore[method-assign]
    answers: list[Answer] = []
    handler = handlers.handler(Kind.COUNT, Part.ASKER)
    kept = replace(handler, finished=lambda _scope, _row, _opening, result: answers.append(result))
    monkeypatch.setitem(handlers.KINDS, (Kind.COUNT, Part.ASKER), lambda: kept)
    assert pair.run(Part.ANSWERER) is None
    assert answers[0].segments[0].overlap == 60
    assert pair.states(pair.ann) == pair.states(pair.bob) == ["done", "done"]
    assert list((pair.ann.home.path / "spool").iterdir()) == []


@pytest.mark.parametrize("step", ["commitment", "universe", "tags", "questions", "answer"])
def test_a_killed_exchange_goes_on_where_it_stopped(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, broken_off: Callable[[str], AbstractContextManager[None]], step: str
) -> None:
    with broken_off(step):
        pair.run(inputs=b"same")
    pair.answering.forget_all()  # Bob is killed too
    paths: list[str] = []
    once = PeerClient.attempt

    def recorded(self: PeerClient, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        paths.append(path)
        return once(self, method, path, body)

    monkeypatch.setattr(PeerClient, "attempt", recorded)
    assert pair.run(inputs=b"same").segments[0].overlap == 60
    assert pair.states(pair.ann) == pair.states(pair.bob) == ["done"]
    fetched = [path.split("/")[-2] for path in paths if path.count("/") == 6]
    assert fetched[0] == step


def test_other_inputs_start_anew(pair: Pair, broken_off: Callable[[str], AbstractContextManager[None]]) -> None:
    with broken_off("questions"):
        pair.run(inputs=b"same")
    assert pair.run(inputs=b"other").segments[0].overlap == 60
    assert sorted(pair.states(pair.ann)) == ["done", "failed"]


def test_an_epoch_behind_follows(pair: Pair, clock: Clock) -> None:
    with pair.bob.home.database.begin() as tx:
        key_epochs.current(pair.bob.project().scope, tx, pair.connection(pair.bob))
        key_epochs.follow(pair.bob.project().scope, tx, pair.connection(pair.bob), 1)
    clock.advance(days=31)
    with pair.bob.home.database.begin() as tx:
        assert key_epochs.current(pair.bob.project().scope, tx, pair.connection(pair.bob)).number == 2
    with pair.ann.home.database.begin() as tx:
        ours = key_epochs.current(pair.ann.project().scope, tx, pair.connection(pair.ann))
    assert ours.number == 1
    clock.advance(days=2)
    assert pair.run().segments[0].overlap == 60
    with pair.ann.home.database.begin() as tx:
        assert key_epochs.current(pair.ann.project().scope, tx, pair.connection(pair.ann)).number == 2


def test_a_partner_that_breaks_the_protocol_is_audited(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    put = PeerClient.put

    def spoiled(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body[:-40] + bytes(40) if "/tags/" in path else body, status=status)

    monkeypatch.setattr(PeerClient, "put", spoiled)
    with pytest.raises(RefusedByPartner):
        pair.run()
    assert len(pair.denied(pair.bob)) == 1
    assert pair.states(pair.ann) == pair.states(pair.bob) == ["failed"]
    assert len(pair.bob.project().alerts.all()) == 1
    assert list((pair.bob.home.path / "spool").iterdir()) == []


def test_a_chunk_sent_again_with_other_bytes_is_refused_and_audited(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = PeerClient.put

    def twice(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body, status=status)
        put(self, path, body, status=status)  # the same again is fine
        put(self, path, body[:-1] + b"\0", status=status)

    monkeypatch.setattr(PeerClient, "put", twice)
    with pytest.raises(RefusedByPartner) as refused:
        pair.run()
    assert refused.value.code == "chunk_changed"
    assert pair.denied(pair.bob) == ["chunk_changed"]


def test_a_partner_that_takes_the_id_of_our_exchange_for_its_own_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = http.open_at

    def stolen(client: PeerClient, opening: Opening) -> Opened:
        NodeAnswers(pair.ann.home).begin(pair.bob.key, replace(opening, part=Part.ANSWERER))
        return ask(client, opening)

    monkeypatch.setattr(http, "open_at", stolen)
    with pytest.raises(RemoteProtocolError, match="under the id of ours"):
        pair.run()
    assert pair.states(pair.ann) == ["failed"]
    assert [alert.kind for alert in pair.ann.project().alerts.all()] == ["exchange.session"]
    monkeypatch.setattr(http, "open_at", ask)
    assert pair.run().segments[0].overlap == 60
