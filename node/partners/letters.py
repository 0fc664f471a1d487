"""Letters: what one node tells the other outside exchanges. They wait in the outbox until the partner has them.

Whoever has the other's address calls: it delivers its own letters and fetches the partner's. A letter's number makes
both idempotent; its handler runs in the transaction that counts it as received.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, exists, insert, select, update

from protocol import wire
from protocol.errors import Malformed, RemoteProtocolError
from protocol.letters import Letter
from protocol.wire import Message
from psi.errors import VesicaError

from .. import log
from ..errors import Failure, PeerUnreachable, Refusal, Unwelcome, WrongPeerKey
from ..exchanges.exchanges import calling, check_caller, register
from ..feeds.sending import attempts
from ..storage.tables import connections, letters

if TYPE_CHECKING:
    from ..node import Node
    from ..project import Project
    from ..transport.endpoint import Call, Route

PATH = "/vesica/1/letters"
BATCH_BYTES = wire.MAX_PAYLOAD // 2  # letters fetched at once
DELIVER_SECONDS = 1.0
POLL_SECONDS = 25
PATIENCE_SECONDS = 15.0  # after a partner could not be reached
SYNC_SECONDS = 3.0  # how long a command waits for a partner that is gone, before it goes on with its own work
RESTORED = "connect.restored"  # the kind that may leave numbers out: who sends it has forgotten them
RESTORED_SECONDS = 3_600  # between two of them, since each lets our letters go out again
ENDED_SECONDS = 7 * 86_400  # how long a disconnected partner is asked for its last letters
CORRESPONDING = ("pending", "requested", "active", "declined", "disconnected")  # also those that hear of the end

Handler = Callable[["Project", Connection, Row[Any], Message], None]
HANDLERS: dict[str, Handler] = {}  # by kind of letter; `exchanges.register` fills it


class Letters:
    """The letters of one project's connections."""

    def __init__(self, project: "Project") -> None:
        self._project, self._node = project, project.node

    def send(self, tx: Connection, connection_id: str, kind: str, message: Message) -> None:
        """Put a letter into the outbox, in the caller's transaction; it leaves with the next `deliver`."""
        number = (
            1 + tx.execute(select(connections.c.letters_sent).where(connections.c.id == connection_id)).scalar_one()
        )
        letter = Letter.of(kind, message, connection=bytes.fromhex(connection_id), number=number)
        tx.execute(update(connections).where(connections.c.id == connection_id).values(letters_sent=number))
        tx.execute(
            insert(letters).values(
                id=self._node.new_id(),
                connection_id=connection_id,
                number=number,
                kind=kind,
                body=letter.body,
                created=self._node.now(),
            )
        )

    def send_once(self, tx: Connection, connection_id: str, kind: str, message: Message) -> None:
        """Put a letter into the outbox unless the same one waits there for the partner."""
        waiting = (letters.c.connection_id == connection_id, letters.c.delivered.is_(None))
        same = select(letters.c.id).where(*waiting, letters.c.kind == kind, letters.c.body == message.encode())
        if tx.execute(same).first() is None:
            self.send(tx, connection_id, kind, message)

    def deliver(self, connection: Row[Any], *, patience: float | None = None) -> int:
        """Hand the partner every letter that waits for it, and return how many; raises PeerUnreachable and the like.

        `patience` is for how many seconds it may be out of reach.
        """
        waiting = outbox(self._node, connection.id) if connection.peer_address else []
        if waiting:
            with calling(self._project, connection, patience=patience) as client:
                for letter in waiting:
                    client.post(PATH, letter.encode())
                    delivered(self._node, connection.id, letter.number)
        return len(waiting)

    def fetch(self, connection: Row[Any], *, wait: int = 0, patience: float | None = None) -> int:
        """Take the letters that the partner has for us, waiting up to `wait` seconds for one; return how many."""
        with calling(self._project, connection, patience=patience) as client:
            body = client.get(f"{PATH}?connection={connection.id}&wait={wait}")
            if not body:
                return 0
            bundle = wire.unpack(body).get("letters")
            if not isinstance(bundle, list) or not all(isinstance(each, bytes) for each in bundle):
                raise Malformed("letters: expected a list of letters")
            for each in bundle:
                letter = Letter.decode(each)
                if letter.connection.hex() != connection.id:
                    raise RemoteProtocolError("session", "the letter is of another connection")
                receive(self._node, connection.peer_key, letter)
            acknowledged = {"connection": connection.id, "number": letter.number if bundle else 0}
            client.post(f"{PATH}/ack", wire.pack(acknowledged))
            return len(bundle)

    def sync(self, connection: Row[Any]) -> None:
        """Deliver and fetch, if the partner can be called; one that cannot, or that refuses, holds nobody else up."""
        reached = self.deliver_soon(connection) and worth_calling(connection, self._node.now())
        if reached and self._forgiving(self.fetch, connection):
            self.deliver_soon(connection)  # what the partner's letters made us answer

    def deliver_soon(self, connection: Row[Any]) -> bool:
        """Try to deliver now; what fails waits in the outbox for the next command or the service.

        Says whether the partner, and nobody else, can be reached.
        """
        return self._forgiving(self.deliver, connection)

    def _forgiving(self, act: Callable[..., int], connection: Row[Any]) -> bool:
        """Let a partner's failure pass, and say whether it can be reached; failures of this machine are raised."""
        try:
            act(connection, patience=SYNC_SECONDS)
        except VesicaError as error:
            if isinstance(error, Failure) and not isinstance(error, PeerUnreachable):
                raise
            log.info("letters wait", partner=connection.alias, code=error.code)
            return not isinstance(error, PeerUnreachable | WrongPeerKey)
        return True


def worth_calling(connection: Row[Any], now: int) -> bool:
    """Tell whether a partner may have letters for us: also for a while after the end, the word that it purged."""
    if not connection.peer_address:
        return False
    recently = now - connection.changed < ENDED_SECONDS
    return connection.status in ("pending", "active") or (connection.status == "disconnected" and recently)


def outbox(node: "Node", connection_id: str) -> list[Letter]:
    """Return the letters that the partner has not confirmed, oldest first, as many as fit into one answer."""
    query = (
        select(letters)
        .where(letters.c.connection_id == connection_id, letters.c.delivered.is_(None))
        .order_by(letters.c.number)
    )
    waiting: list[Letter] = []
    with node.store.read() as reading:
        rows = reading.execute(query).all()
    purged = not any(row.kind == "feed.purged" for row in rows) or _purged(node, connection_id)
    for row in rows:
        if waiting and sum(len(letter.body) for letter in waiting) + len(row.body) > BATCH_BYTES:
            break
        if row.kind == "feed.purged" and not purged:
            break
        waiting.append(Letter(connection=bytes.fromhex(connection_id), number=row.number, kind=row.kind, body=row.body))
    return waiting


def _purged(node: "Node", connection_id: str) -> bool:
    """Remove what a kill may have left of the files that a purge statement says are gone; says whether they are."""
    with node.store.read() as tx:
        project_id = tx.scalar(select(connections.c.project_id).where(connections.c.id == connection_id))
    try:
        for project in node.all_projects():
            if project.id == project_id:
                project.memberships.sweep(connection_id=connection_id)
    except Failure as error:
        log.warning("the word of a purge waits", code=error.code)
        return False
    return True


def delivered(node: "Node", connection_id: str, number: int) -> None:
    """Note that the partner has our letters up to `number`."""
    with node.store.begin() as tx:
        tx.execute(
            update(letters)
            .where(letters.c.connection_id == connection_id, letters.c.number <= number, letters.c.delivered.is_(None))
            .values(delivered=node.now())
        )


def receive(node: "Node", caller: bytes, letter: Letter) -> None:
    """Handle a partner's letter once: one that came before is ignored, one that comes too early is refused."""
    register()
    row = _connection(node, caller, letter.connection.hex())
    project = node.project_by_id(row.project_id)
    if letter.number <= row.letters_received:
        return
    message = letter.open()
    handler = HANDLERS.get(letter.kind)
    if handler is None:
        raise RemoteProtocolError("type", f"letters of kind {letter.kind} are not understood here")
    if letter.kind == RESTORED and row.restored is not None and node.now() - row.restored < RESTORED_SECONDS:
        raise Refusal("too_soon", "you were restored a moment ago", hint="the letter is taken in an hour", status=409)
    if letter.number != row.letters_received + 1 and letter.kind != RESTORED:
        raise RemoteProtocolError("out_of_order", f"letter {letter.number} came after letter {row.letters_received}")
    try:
        with project.act(f"letter.{letter.kind}", row.alias, actor=row.alias) as tx:
            if _count(tx, letter):
                row = tx.execute(select(connections).where(connections.c.id == row.id)).one()
                _check_status(letter.kind, row.status)
                handler(project, tx, row, message)
    except Failure:
        raise
    except VesicaError as error:  # it crossed one of ours, or makes no sense: audited, and not to be sent for ever
        log.warning("letter refused", kind=letter.kind, partner=row.alias, code=error.code)
        with node.store.begin() as tx:
            _count(tx, letter)


def _check_status(kind: str, status: str) -> None:
    """Refuse what came before both accepted or after the end, but for the word that memberships are gone."""
    over = status == "disconnected" and kind == "feed.purged"
    if not (kind.startswith("connect.") or status == "active" or over):
        raise RemoteProtocolError("out_of_order", f"{kind} came over a connection that is {status}")


def _count(tx: Connection, letter: Letter) -> bool:
    """Count a letter as received; False if another process was faster."""
    before = connections.c.letters_received
    counted = tx.execute(
        update(connections)
        .where(connections.c.id == letter.connection.hex())
        .where(before < letter.number if letter.kind == RESTORED else before == letter.number - 1)
        .values(letters_received=letter.number)
    )
    return counted.rowcount == 1


def routes(node: "Node") -> "list[Route]":
    """Return the endpoints of the letter box."""
    from ..transport.endpoint import Route

    def post(call: "Call") -> bytes:
        receive(node, call.caller, Letter.decode(call.body))
        return b""

    def get(call: "Call") -> bytes | None:
        row = _connection(node, call.caller, call.query.get("connection", ""))
        waiting = outbox(node, row.id)
        return wire.pack({"letters": [letter.encode() for letter in waiting]}) if waiting else None

    def acknowledge(call: "Call") -> bytes:
        document = wire.unpack(call.body)
        connection_id, number = document.get("connection"), document.get("number")
        if not isinstance(connection_id, str) or not isinstance(number, int) or len(document) != 2:
            raise Malformed("ack: expected connection and number")
        delivered(node, _connection(node, call.caller, connection_id).id, number)
        return b""

    return [Route("POST", PATH, post), Route("GET", PATH, get), Route("POST", PATH + "/ack", acknowledge)]


def _connection(node: "Node", caller: bytes, connection_id: str) -> Row[Any]:
    with node.store.read() as reading:
        row = reading.execute(select(connections).where(connections.c.id == connection_id)).first()
    check_caller(node, row, caller)
    if row is None or row.status not in CORRESPONDING:
        raise Unwelcome("there is no connection with the caller")
    return row


class Post:
    """Keeps in touch with all partners that can be called, while the service runs."""

    def __init__(self, node: "Node", stop: threading.Event) -> None:
        self._node, self._stop = node, stop
        self._fetching: set[str] = set()
        self._patience: dict[str, float] = {}  # connection -> when to try to deliver again
        self._gone: set[str] = set()  # connections whose partner could not be reached

    def run(self) -> None:
        """Deliver what waits, every second, and have one long poll open with each partner, until `stop`."""
        while not self._stop.wait(DELIVER_SECONDS):
            try:
                for row in self._partners():
                    if worth_calling(row, self._node.now()) and row.id not in self._fetching:
                        self._fetching.add(row.id)
                        threading.Thread(
                            target=self._fetch, args=(row,), name=f"fetch {row.alias}", daemon=True
                        ).start()
                    if row.waiting and self._patience.get(row.id, 0.0) < time.monotonic():
                        self._deliver(row)
            except Failure as error:
                log.warning("the post waits", code=error.code)

    def _partners(self) -> list[Row[Any]]:
        waiting = exists().where(letters.c.connection_id == connections.c.id, letters.c.delivered.is_(None))
        query = select(connections, waiting.label("waiting")).where(
            connections.c.peer_address != "", connections.c.status.in_(CORRESPONDING)
        )
        with self._node.store.read() as reading:
            return list(reading.execute(query))

    def _deliver(self, row: Row[Any]) -> None:
        try:
            if not Letters(self._node.project_by_id(row.project_id)).deliver(row):
                self._patience[row.id] = time.monotonic() + PATIENCE_SECONDS  # one is held back
        except VesicaError as error:
            log.info("letters wait", partner=row.alias, code=error.code)
            self._patience[row.id] = time.monotonic() + PATIENCE_SECONDS

    def _fetch(self, row: Row[Any]) -> None:
        try:
            wait = 0 if row.id in self._gone else POLL_SECONDS
            Letters(self._node.project_by_id(row.project_id)).fetch(row, wait=wait)
            if row.id in self._gone:
                self._gone.discard(row.id)
                attempts.reachable(self._node, row.id)
        except VesicaError as error:
            log.info("cannot fetch letters", partner=row.alias, code=error.code)
            self._gone.add(row.id)
            self._stop.wait(PATIENCE_SECONDS)
        finally:
            self._fetching.discard(row.id)
