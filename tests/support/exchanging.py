"""Two nodes that run exchanges with roles of the test's: Ann asks, Bob answers and listens."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select

from node.access.audit import Result
from node.access.scope import Scope
from node.exchanges import handlers
from node.exchanges.answering import NodeAnswers
from node.exchanges.http import MACHINES_PER_CALLER, Answering
from node.exchanges.opening import Plan, run_exchange
from node.node import Node
from node.partners import connecting, delivery
from node.partners import handlers as letter_handlers
from node.partners.connections import Connection, with_status
from node.service import Doorkeeper
from node.storage.database import Tx
from node.storage.tables import connections
from node.storage.tables import exchanges as rows
from node.transport import tls
from node.transport.endpoint import application
from node.transport.server import address_of, bind, server
from protocol.agreement import Agreement, Terms
from protocol.estimate import CountAnswerer, CountAsker, Question, commit
from protocol.exchange import Opening, Role
from protocol.messages import Answer, SegmentAnswer
from protocol.states import PARTS, Kind, Part
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

    def connection(self, node: Node) -> Connection:
        (connection,) = with_status(node.project().scope)
        return connection

    def run(self, part: Part = Part.ASKER, **options: Any) -> Any:
        role = self.asker if part is Part.ASKER else self.answerer
        plan = Plan(kind=Kind.COUNT, part=part, subject=SUBJECT, role=role, **options)
        return run_exchange(self.ann.project().scope, self.connection(self.ann), plan)

    def asker(self, epoch: int, answerer: Node | None = None) -> CountAsker:
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
            maximum=1_000,
            peer_keys=((answerer or self.bob).key,),
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
                universe, context=CONTEXT, epoch=epoch, generation=1, made=0, sign=(node or self.bob).home.sign
            ),
            check_asker=lambda digest: None,
            sanitise=exact,
        )

    def states(self, node: Node) -> list[str]:
        with node.home.database.read() as tx:
            return list(tx.scalars(select(rows.c.state).order_by(rows.c.created, rows.c.id)))

    def denied(self, node: Node) -> list[str]:
        return [entry.detail["error"]["code"] for entry in node.audit.entries(result=Result.DENY)]


def count_opening(connection: Connection, number: int = 0) -> Opening:
    """Return what opens a count that Ann asks for: the exchange whose id is 16 times the number."""
    return Opening(
        exchange=bytes([number]) * 16,
        kind=Kind.COUNT,
        part=Part.ASKER,
        connection=connection.wire_id,
        agreement=connection.agreement_digest,
        epoch=1,
        subject=SUBJECT,
        nonce=bytes(32),
    )


def exact(question: Question) -> Answer:
    hits = int(question.consented_hits[0])
    told = SegmentAnswer(status="ok", overlap=hits, consented=hits, half_width=0, consented_half_width=0)
    return Answer(segments=(told,), computed_at=0)


def connect(ours: Node, theirs: Node, address: str) -> None:
    agreement = Agreement(
        connection=b"c" * 16, requester=bytes(32), accepter=bytes(32), terms=Terms(), namespaces=(NAMESPACE,), made=1
    )
    with ours.home.database.begin() as tx:
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
                chosen_address=address,
                our_signature=bytes(64),
                proxy=False,
                their_offer=connecting.offer(theirs.project().scope, bytes(32)).encode(),
                agreement=agreement.encode(),
                agreement_digest=agreement.digest(),
                letters_sent=0,
                letters_received=0,
                created=0,
                changed=0,
            )
        )


def answering_with(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Scope, Connection, Opening], Role]) -> None:
    """Let both parts of a count be answered by a role of the test's."""
    handler = handlers.Handler(
        answer=lambda scope, connection, opening, _: handlers.PreparedRole(answer(scope, connection, opening))
    )
    monkeypatch.setattr(handlers, "KINDS", {(Kind.COUNT, part): lambda: handler for part in PARTS[Kind.COUNT]})


@contextmanager
def two_nodes(path: Path, clock: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """Yield two connected nodes of which one listens; both parts of a count have roles of the test's."""
    with Node.create(path / "ann", "Ann", now=clock) as ann, Node.create(path / "bob", "Bob", now=clock) as bob:
        answering = Answering(NodeAnswers(bob.home), machines=MACHINES_PER_CALLER)
        made = Pair(ann, bob, answering, [])

        def answer(scope: Scope, connection: Connection, opening: Opening) -> Role:
            return made.asker(opening.epoch) if opening.part is Part.ANSWERER else made.answerer(opening.epoch)

        def hear(scope: Scope, tx: Tx, row: Connection, message: Message) -> None:
            made.heard.append(message)

        answering_with(monkeypatch, answer)
        monkeypatch.setattr(letter_handlers, "HANDLERS", {"connect.disconnect": hear})
        bound = bind("127.0.0.1:0")
        connect(ann, bob, address_of(bound))
        connect(bob, ann, "")
        routes = [*answering.routes(), *delivery.routes(bob.home)]
        context = tls.server_context(bob.home.keys.signing_key, clock())
        running = server(application(bob.home, routes, Doorkeeper(bob.home)), context)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        yield made
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
