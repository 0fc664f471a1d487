"""Exchanges and letters between two nodes over their endpoints: resumed after a kill, in order, once, audited."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count as count_from
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, Row, insert, select

from node.errors import PeerRefused, PeerUnreachable, Refusal, WrongPeerKey
from node.exchanges import exchanges, http
from node.exchanges.exchanges import NodeAnswers, run_exchange
from node.exchanges.http import Answering
from node.node import Node
from node.partners import key_epochs, letters
from node.service import Doorkeeper
from node.storage.tables import connections
from node.storage.tables import exchanges as rows
from node.transport import client as client_module
from node.transport import tls
from node.transport.client import PeerClient
from node.transport.endpoint import address_of, application, bind, server
from protocol.agreement import Agreement, Terms
from protocol.errors import RemoteProtocolError
from protocol.estimate import CountAnswerer, CountAsker, Question, commit
from protocol.exchange import Opened, Opening, Role
from protocol.letters import Disconnect, Letter
from protocol.messages import Answer, SegmentAnswer
from protocol.states import Kind, Part
from protocol.wire import Message
from psi import count
from psi.keys import Key
from psi.values import Values

NAMESPACE = "email_sha256/lc-v1"
SUBJECT: dict[str, str | bytes | int] = {"namespace": NAMESPACE}
CONTEXT = bytes(32)
DIRECTION = bytes(64)


def values(first: int, last: int) -> Values:
    return Values.of([number.to_bytes(32, "big") for number in range(first, last)])


@dataclass
class Pair:
    """Ann asks, Bob answers; Bob listens."""

    ann: Node
    bob: Node
    answering: Answering
    heard: list[Message]

    def connection(self, node: Node) -> Row[Any]:
        with node.store.read() as tx:
            return tx.execute(select(connections)).one()

    def run(self, part: Part = Part.ASKER, **options: Any) -> Any:
        role = self.asker if part is Part.ASKER else self.answerer
        return run_exchange(self.ann.project(), self.connection(self.ann), SUBJECT, Kind.COUNT, part, role, **options)

    def asker(self, epoch: int) -> Role:
        asked = values(0, 100)
        return CountAsker(
            context=CONTEXT,
            direction=DIRECTION,
            epoch=epoch,
            values=asked,
            segments=np.ones((1, len(asked)), np.bool_),
            consented=np.ones(len(asked), np.bool_),
            derive_key=lambda digest: Key.from_seed(digest[:32], b"ann"),
            check_universe=lambda commitment: None,
            peer_key=self.bob.key,
        )

    def answerer(self, epoch: int, node: Node | None = None) -> Role:
        key = Key.from_seed(bytes(32), b"bob")
        universe = count.build_universe(
            CONTEXT, values(40, 500), key, lambda size: hashlib.shake_256(b"bob").digest(size)
        )
        return CountAnswerer(
            context=CONTEXT,
            direction=DIRECTION,
            epoch=epoch,
            universe=universe,
            key=key,
            commitment=commit(
                universe, context=CONTEXT, epoch=epoch, generation=1, made=0, sign=(node or self.bob).sign
            ),
            check_asker=lambda public: None,
            sanitise=exact,
        )

    def states(self, node: Node) -> list[str]:
        with node.store.read() as tx:
            return list(tx.scalars(select(rows.c.state).order_by(rows.c.created, rows.c.id)))

    def denied(self, node: Node) -> list[str]:
        return [entry.detail["error"]["code"] for entry in node.audit.list(result="deny")]


def exact(question: Question) -> Answer:
    hits = int(question.consented_hits[0])
    told = SegmentAnswer(status="ok", overlap=hits, consented=hits, half_width=0, consented_half_width=0)
    return Answer(segments=(told,), computed_at=0)


def connect(ours: Node, theirs: Node, address: str) -> None:
    agreement = Agreement(
        connection=b"c" * 16, requester=bytes(32), accepter=bytes(32), terms=Terms(), namespaces=(NAMESPACE,), made=1
    )
    with ours.store.begin() as tx:
        tx.execute(
            insert(connections).values(
                id=agreement.connection.hex(),
                project_id=ours.project().id,
                alias="peer",
                status="active",
                peer_key=theirs.key,
                peer_project=bytes(16),
                peer_project_name="default",
                peer_organisation="Peer",
                peer_address=address,
                proxy=False,
                their_offer=b"",
                agreement=agreement.encode(),
                agreement_digest=agreement.digest(),
                letters_sent=0,
                letters_received=0,
                created=0,
                changed=0,
            )
        )


@pytest.fixture
def pair(tmp_path: Path, clock: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    exchanges.register()  # fills the real tables before they are replaced
    monkeypatch.setattr(exchanges, "register", lambda: None)
    monkeypatch.setattr(letters, "register", lambda: None)
    with Node.create(tmp_path / "ann", "Ann", now=clock) as ann, Node.create(tmp_path / "bob", "Bob", now=clock) as bob:
        answering = Answering(NodeAnswers(bob))
        made = Pair(ann, bob, answering, [])

        def answer(project: Any, connection: Row[Any], opening: Opening) -> tuple[Opened, Role]:
            role = made.asker(opening.epoch) if opening.part is Part.ANSWERER else made.answerer(opening.epoch)
            return Opened(exchange=opening.exchange, epoch=opening.epoch, nonce=bob.random(32)), role

        def hear(project: Any, tx: Connection, row: Row[Any], message: Message) -> None:
            made.heard.append(message)

        monkeypatch.setattr(exchanges, "ROLES", {Kind.COUNT: answer})
        monkeypatch.setattr(exchanges, "FINISHED", {})
        monkeypatch.setattr(letters, "HANDLERS", {"connect.disconnect": hear})
        bound = bind("127.0.0.1:0")
        connect(ann, bob, address_of(bound))
        connect(bob, ann, "")
        routes = [*answering.routes(), *letters.routes(bob)]
        context = tls.server_context(bob.secrets.signing_key, clock())
        running = server(application(bob, routes, Doorkeeper(bob)), context)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        yield made
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_either_side_may_call(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair.run().segments[0].overlap == 60
    pair.answerer = lambda epoch, node=None: Pair.answerer(pair, epoch, pair.ann)  # type: ignore[method-assign]
    asker = pair.asker
    pair.asker = lambda epoch: swap(asker(epoch), pair.ann.key)  # type: ignore[method-assign]
    answers: list[Role] = []
    monkeypatch.setattr(
        exchanges, "FINISHED", {Kind.COUNT: lambda _project, _row, _opening, role: answers.append(role)}
    )
    assert pair.run(Part.ANSWERER) is None
    assert answers[0].result.segments[0].overlap == 60  # type: ignore[attr-defined]
    assert pair.states(pair.ann) == pair.states(pair.bob) == ["done", "done"]
    assert list((pair.ann.home / "spool").iterdir()) == []


def swap(role: Any, key: bytes) -> Role:
    role._peer_key = key
    return role


@pytest.mark.parametrize("step", ["commitment", "universe", "tags", "questions", "answer"])
def test_a_killed_exchange_goes_on_where_it_stopped(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, broken_off: Any, step: str
) -> None:
    with broken_off(step):
        pair.run(inputs=b"same")
    pair.answering._live.clear()  # Bob is killed too
    paths: list[str] = []
    once = PeerClient._once

    def recorded(self: PeerClient, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        paths.append(path)
        return once(self, method, path, body)

    monkeypatch.setattr(PeerClient, "_once", recorded)
    assert pair.run(inputs=b"same").segments[0].overlap == 60
    assert pair.states(pair.ann) == pair.states(pair.bob) == ["done"]
    fetched = [path.split("/")[-2] for path in paths if path.count("/") == 6]
    assert fetched[0] == step


def test_other_inputs_start_anew(pair: Pair, broken_off: Any) -> None:
    with broken_off("questions"):
        pair.run(inputs=b"same")
    assert pair.run(inputs=b"other").segments[0].overlap == 60
    assert sorted(pair.states(pair.ann)) == ["done", "failed"]


def count_opening(connection: Row[Any], number: int = 0) -> Opening:
    return Opening(
        exchange=bytes([number]) * 16,
        kind=Kind.COUNT,
        part=Part.ASKER,
        connection=bytes.fromhex(connection.id),
        agreement=connection.agreement_digest,
        epoch=1,
        subject=SUBJECT,
        nonce=bytes(32),
    )


def test_a_partner_that_opens_many_loses_the_oldest(pair: Pair, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob keeps two open for Ann: what is given up leaves his disk and memory, and does not come back, nor become done."""
    monkeypatch.setattr(exchanges, "OPEN_AT_MOST", 2)
    connection = pair.connection(pair.ann)

    with PeerClient(pair.ann, connection.peer_address, pair.bob.key) as client:
        for number in range(1, 4):
            clock.advance(seconds=1)
            http.open_at(client, count_opening(connection, number))
            path = f"{http.PATH}/{count_opening(connection, number).exchange.hex()}/commitment/0"
            client.get(path)
        first = f"{http.PATH}/{count_opening(connection, 1).exchange.hex()}"
        for _ in range(2):
            with pytest.raises(PeerRefused) as refused:
                client.get(f"{first}/universe/0")
            assert refused.value.code == "over"
        with pytest.raises(PeerRefused):
            http.open_at(client, count_opening(connection, 1))
        client.get(path)  # the newest goes on
    assert sorted(pair.states(pair.bob)) == ["failed", "open", "open"]
    assert {each.name for each in (pair.bob.home / "spool").iterdir()} == {
        count_opening(connection, 2).exchange.hex(),
        count_opening(connection, 3).exchange.hex(),
    }
    assert count_opening(connection, 1).exchange not in pair.answering._live


def test_of_finished_exchanges_few_messages_stay(pair: Pair, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "OPEN_AT_MOST", 2)
    for _ in range(5):
        clock.advance(seconds=1)
        pair.run()
    assert len(list((pair.bob.home / "spool").iterdir())) <= 3


def test_an_exchange_given_up_in_its_last_step_is_not_done(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = NodeAnswers.finished

    def late(self: NodeAnswers, opening: Opening, role: Role) -> None:
        with self._node.store.begin() as tx:
            tx.execute(rows.update().values(state="failed"))
        finished(self, opening, role)

    monkeypatch.setattr(NodeAnswers, "finished", late)
    with pytest.raises(PeerRefused) as refused:
        pair.run()
    assert refused.value.code == "over"
    assert pair.states(pair.bob) == ["failed"]


def test_an_epoch_behind_follows(pair: Pair, clock: Any) -> None:
    with pair.bob.store.begin() as tx:
        key_epochs.current(pair.bob.project(), tx, pair.connection(pair.bob))
        key_epochs.follow(pair.bob.project(), tx, pair.connection(pair.bob), 1)
    clock.advance(days=31)
    with pair.bob.store.begin() as tx:
        assert key_epochs.current(pair.bob.project(), tx, pair.connection(pair.bob)).number == 2
    with pair.ann.store.begin() as tx:
        ours = key_epochs.current(pair.ann.project(), tx, pair.connection(pair.ann))
    assert ours.number == 1
    clock.advance(days=2)
    assert pair.run().segments[0].overlap == 60
    with pair.ann.store.begin() as tx:
        assert key_epochs.current(pair.ann.project(), tx, pair.connection(pair.ann)).number == 2


def test_a_partner_that_breaks_the_protocol_is_audited(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    put = PeerClient.put

    def spoiled(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body[:-40] + bytes(40) if "/tags/" in path else body, status=status)

    monkeypatch.setattr(PeerClient, "put", spoiled)
    with pytest.raises(PeerRefused):
        pair.run()
    assert len(pair.denied(pair.bob)) == 1
    assert pair.states(pair.ann) == pair.states(pair.bob) == ["failed"]
    assert len(pair.bob.project().alerts.list()) == 1
    assert list((pair.bob.home / "spool").iterdir()) == []


def test_a_chunk_sent_again_with_other_bytes_is_refused_and_audited(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = PeerClient.put

    def twice(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body, status=status)
        put(self, path, body, status=status)  # the same again is fine
        put(self, path, body[:-1] + b"\0", status=status)

    monkeypatch.setattr(PeerClient, "put", twice)
    with pytest.raises(PeerRefused) as refused:
        pair.run()
    assert refused.value.code == "chunk_changed"
    assert pair.denied(pair.bob) == ["chunk_changed"]


def test_a_refusal_is_told_and_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> tuple[Opened, Role]:
        raise Refusal("budget_spent", "no more today")

    monkeypatch.setattr(exchanges, "ROLES", {Kind.COUNT: refuse})
    with pytest.raises(PeerRefused, match="no more today"):
        pair.run()
    assert pair.denied(pair.ann) == ["budget_spent"]


def test_two_processes_that_are_asked_the_same_begin_one_exchange(
    pair: Pair, clock: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that ends may still work on an opening that its successor is asked again."""
    connection, make = pair.connection(pair.bob), exchanges.ROLES[Kind.COUNT]
    both, made = threading.Barrier(2), count_from(1)

    def together(project: Any, row: Row[Any], opening: Opening) -> tuple[Opened, Role]:
        if next(made) <= 2:
            both.wait(20)  # neither has seen the other's row
        return make(project, row, opening)

    monkeypatch.setattr(exchanges, "ROLES", {Kind.COUNT: together})
    opening = count_opening(connection)
    with Node.open(pair.bob.home, now=clock) as other, ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(NodeAnswers(node).begin, pair.ann.key, opening) for node in (pair.bob, other)]
        (first, machine), (second, after) = (each.result(30) for each in begun)
        assert first == second
        chunk = machine.get("commitment", 0)
        assert after.get("commitment", 0) == chunk  # one key for the spool
    assert pair.states(pair.bob) == ["open"]


def test_a_partner_that_takes_the_id_of_our_exchange_for_its_own_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = exchanges.open_at

    def stolen(client: PeerClient, opening: Opening) -> Opened:
        NodeAnswers(pair.ann).begin(pair.bob.key, replace(opening, part=Part.ANSWERER))
        return ask(client, opening)

    monkeypatch.setattr(exchanges, "open_at", stolen)
    with pytest.raises(RemoteProtocolError, match="under the id of ours"):
        pair.run()
    assert pair.states(pair.ann) == ["failed"]
    assert [alert.kind for alert in pair.ann.project().alerts.list()] == ["exchange.session"]
    monkeypatch.setattr(exchanges, "open_at", ask)
    assert pair.run().segments[0].overlap == 60


@pytest.mark.parametrize("path", ["zz", "00" * 15, "00" * 16, "00" * 16 + "/tags/x", "00" * 16 + "/tags/0", "AA" * 16])
def test_unknown_exchanges_and_odd_paths_are_refused(pair: Pair, path: str) -> None:
    connection = pair.connection(pair.ann)
    with PeerClient(pair.ann, connection.peer_address, pair.bob.key) as client, pytest.raises(PeerRefused) as refused:
        client.get(f"{http.PATH}/{path}")
    assert refused.value.status in (400, 404)


def test_an_inactive_connection_answers_nothing(pair: Pair) -> None:
    with pair.bob.store.begin() as tx:
        tx.execute(connections.update().values(status="disconnected"))
    with pytest.raises(PeerRefused) as refused:
        pair.run()
    assert refused.value.code == "unwelcome"


@pytest.mark.feature("CN7")
def test_a_changed_key_blocks_traffic_and_alerts_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with pair.ann.store.begin() as tx:
        tx.execute(connections.update().values(peer_key=b"k" * 32))
    post(pair, pair.ann, "secret")
    for _ in range(2):
        with pytest.raises(WrongPeerKey):
            pair.run()
        with pytest.raises(WrongPeerKey):
            pair.ann.project().letters.deliver(pair.connection(pair.ann))
    assert reasons(pair) == []
    assert pair.states(pair.bob) == []
    assert [alert.kind for alert in pair.ann.project().alerts.list()] == ["key_changed"]
    assert pair.denied(pair.ann) == ["wrong_key"]
    assert pair.connection(pair.ann).key_changed is not None
    with pair.ann.store.begin() as tx:
        tx.execute(connections.update().values(peer_key=pair.bob.key))
    pair.ann.project().letters.deliver(pair.connection(pair.ann))
    assert pair.connection(pair.ann).key_changed is None  # its own key is back
    assert reasons(pair) == ["secret"]


def post(pair: Pair, sender: Node, *reasons: str) -> None:
    with sender.store.begin() as tx:
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
    with PeerClient(pair.ann, connection.peer_address, pair.bob.key) as client:
        client.post(letters.PATH, letter.encode())
        early = Letter.of("connect.disconnect", Disconnect(reason="five"), connection=b"c" * 16, number=5)
        with pytest.raises(PeerRefused) as refused:
            client.post(letters.PATH, early.encode())
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
    with pair.ann.store.begin() as tx:
        tx.execute(connections.update().values(peer_address="127.0.0.1:1"))
    gone = pair.connection(pair.ann)
    with pytest.raises(PeerUnreachable):
        ann.deliver(gone)
    ann.deliver_soon(gone)
    assert ann.deliver(connection) == 1
    assert reasons(pair) == ["one"]


def test_a_letter_that_is_refused_does_not_block_the_next(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    hear = letters.HANDLERS["connect.disconnect"]

    def picky(project: Any, tx: Connection, row: Row[Any], message: Message) -> None:
        if isinstance(message, Disconnect) and message.reason == "bad":
            raise Refusal("bad", "this makes no sense")
        hear(project, tx, row, message)

    monkeypatch.setattr(letters, "HANDLERS", {"connect.disconnect": picky})
    post(pair, pair.ann, "bad", "good")
    assert pair.ann.project().letters.deliver(pair.connection(pair.ann)) == 2
    assert reasons(pair) == ["good"]
    assert pair.denied(pair.bob) == ["bad"]
