"""Letters: what one node sends the other outside exchanges. They wait in the outbox until the partner has them.

The side that has the other's address calls: it delivers its own letters and fetches the partner's. A letter's number
makes both idempotent; its handler runs in the transaction that counts it as received.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import insert, select, update

from protocol import wire
from protocol.errors import Malformed, RemoteProtocolError
from protocol.letters import Letter
from protocol.wire import Message
from psi.errors import VesicaError

from .. import log
from ..access.scope import Home, Scope
from ..errors import Failure, PeerUnreachable, RefusedToPartner, UnknownCaller, WrongPeerKey
from ..storage.database import Tx
from ..storage.ids import stored_id, wire_id
from ..storage.locks import serving
from ..storage.tables import DAY, connections, letters
from ..transport import paths
from . import handlers
from .connections import Connection, ConnectionStatus, by_id, calling, check_caller, find, with_status

BATCH_BYTES = wire.MAX_PAYLOAD // 2  # letters fetched at once
SYNC_SECONDS = 3.0  # how long a command waits for a partner that is gone, before it goes on with its own work
RESTORED = "connect.restored"  # the kind that may skip numbers: its sender has forgotten which it used
RESTORED_SECONDS = 3_600  # between two of them, since each lets our letters go out again
ENDED_SECONDS = 7 * DAY  # how long a disconnected partner is asked for its last letters
FETCHED_SECONDS = 3_600  # after that people are reminded to fetch, where no service does
CORRESPONDING = (  # also those that are over: the partner gets a letter about the end
    ConnectionStatus.PENDING,
    ConnectionStatus.REQUESTED,
    ConnectionStatus.ACTIVE,
    ConnectionStatus.DECLINED,
    ConnectionStatus.DISCONNECTED,
)


class Letters:
    """The letters of one project's connections."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._home = scope, scope.home

    def send(self, tx: Tx, connection_id: str, kind: str, message: Message) -> None:
        """Put a letter into the outbox, in the caller's transaction; it leaves with the next `deliver`."""
        number = (
            1 + tx.execute(select(connections.c.letters_sent).where(connections.c.id == connection_id)).scalar_one()
        )
        letter = Letter.of(kind, message, connection=wire_id(connection_id), number=number)
        tx.execute(update(connections).where(connections.c.id == connection_id).values(letters_sent=number))
        tx.execute(
            insert(letters).values(
                id=self._home.new_id(),
                connection_id=connection_id,
                number=number,
                kind=kind,
                body=letter.body,
                created=self._home.now(),
            )
        )

    def send_once(self, tx: Tx, connection_id: str, kind: str, message: Message) -> None:
        """Put a letter into the outbox unless the same one waits there already."""
        waiting = (letters.c.connection_id == connection_id, letters.c.delivered.is_(None))
        same = select(letters.c.id).where(*waiting, letters.c.kind == kind, letters.c.body == message.encode())
        if tx.execute(same).first() is None:
            self.send(tx, connection_id, kind, message)

    def deliver(self, connection: Connection, *, patience: float | None = None) -> int:
        """Hand the partner every letter that waits for it, and return how many.

        Raises PeerUnreachable after `patience` seconds out of reach, and what else `calling` raises.
        """
        waiting = outbox(self._home, connection) if connection.peer_address else []
        if waiting:
            with calling(self._scope, connection, patience=patience) as client:
                for letter in waiting:
                    client.post(paths.LETTERS, letter.encode())
                    delivered(self._home, connection.id, letter.number)
        return len(waiting)

    def fetch(self, connection: Connection, *, wait: int = 0, patience: float | None = None) -> int:
        """Take the letters that the partner has for us, waiting up to `wait` seconds for one; return how many."""
        with calling(self._scope, connection, patience=patience) as client:
            body = client.get(f"{paths.LETTERS}?connection={connection.id}&wait={wait}")
            self._note_fetched()
            if not body:
                return 0
            bundle = wire.unpack(body).get("letters")
            if not isinstance(bundle, list) or not all(isinstance(each, bytes) for each in bundle):
                raise Malformed("letters: expected a list of letters")
            for each in bundle:
                letter = Letter.decode(each)
                if stored_id(letter.connection) != connection.id:
                    raise RemoteProtocolError("session", "the letter is of another connection")
                receive(self._home, connection.peer_key, letter)
            acknowledged = {"connection": connection.id, "number": letter.number if bundle else 0}
            client.post(f"{paths.LETTERS}/ack", wire.pack(acknowledged))
            return len(bundle)

    def last_fetched(self) -> int | None:
        """Return when letters were last fetched from a partner; None if never, or not since a restore."""
        self._home.guard.known()
        try:
            return int(self._fetched.stat().st_mtime)
        except OSError:
            return None

    def overdue(self) -> bool:
        """Return whether there is a partner to call, no service that does, and nothing was fetched for an hour."""
        now = self._home.now()
        called = any(worth_calling(row, now) for row in with_status(self._scope, *CORRESPONDING))
        long_ago = now - (self.last_fetched() or 0) > FETCHED_SECONDS
        return called and long_ago and not serving(self._home.path)

    @property
    def _fetched(self) -> Path:
        return self._home.path / "fetched" / self._scope.id

    def _note_fetched(self) -> None:
        """Note the time as that of a file: it is only shown to people."""
        now = self._home.now()
        with suppress(OSError):
            self._fetched.parent.mkdir(mode=0o700, exist_ok=True)
            self._fetched.touch(mode=0o600)
            os.utime(self._fetched, (now, now))

    def sync_all(self) -> list[str]:
        """Deliver to and fetch from every partner that can be called; return the aliases of those out of reach."""
        return [row.alias for row in with_status(self._scope, *CORRESPONDING) if not self.sync(row)]

    def sync(self, connection: Connection) -> bool:
        """Deliver and fetch, if the partner can be called; return False if it is out of reach.

        A partner that is out of reach, or that refuses, does not keep the others waiting.
        """
        if not self.deliver_soon(connection):
            return False
        if not worth_calling(connection, self._home.now()):
            return True
        # delivered again, since handlers of the partner's letters may have answered
        return self._forgiving(self.fetch, connection) and self.deliver_soon(connection)

    def deliver_soon(self, connection: Connection) -> bool:
        """Try to deliver now, and return whether the partner itself can be reached.

        What fails waits in the outbox for the next sync or the service.
        """
        return self._forgiving(self.deliver, connection)

    def _forgiving(self, act: Callable[..., int], connection: Connection) -> bool:
        """Let a partner's failure pass, and return whether it can be reached; failures of this machine are raised."""
        self._home.guard.known()
        try:
            act(connection, patience=SYNC_SECONDS)
        except VesicaError as error:
            if isinstance(error, Failure) and not isinstance(error, PeerUnreachable):
                raise
            log.info("letters wait", partner=connection.alias, code=error.code)
            return not isinstance(error, PeerUnreachable | WrongPeerKey)
        return True


def worth_calling(connection: Connection, now: int) -> bool:
    """Return whether a partner may have letters for us; after the end, for a while, the statement of its purge."""
    if not connection.peer_address:
        return False
    recently = now - connection.changed < ENDED_SECONDS
    return connection.status in (ConnectionStatus.PENDING, ConnectionStatus.ACTIVE) or (
        connection.status is ConnectionStatus.DISCONNECTED and recently
    )


def outbox(home: Home, connection: Connection) -> list[Letter]:
    """Return the letters that the partner has not confirmed, oldest first, as many as fit into one answer.

    One that may not leave yet keeps back those after it.
    """
    query = (
        select(letters)
        .where(letters.c.connection_id == connection.id, letters.c.delivered.is_(None))
        .order_by(letters.c.number)
    )
    with home.read() as reading:
        rows = reading.execute(query).all()
    waiting: list[Letter] = []
    may_leave: dict[str, bool] = {}
    for row in rows:
        if waiting and sum(len(letter.body) for letter in waiting) + len(row.body) > BATCH_BYTES:
            break
        if row.kind in handlers.MAY_LEAVE and row.kind not in may_leave:
            may_leave[row.kind] = handlers.MAY_LEAVE[row.kind](home, connection)
        if not may_leave.get(row.kind, True):
            break
        waiting.append(Letter(connection=connection.wire_id, number=row.number, kind=row.kind, body=row.body))
    return waiting


def send_again(tx: Tx, connection: Connection, *, after: int) -> None:
    """Let the letters after a number leave once more: the partner has lost them."""
    lost = (letters.c.connection_id == connection.id, letters.c.number > after)
    tx.execute(update(letters).where(*lost).values(delivered=None))


def correspondent(home: Home, caller: bytes, connection_id: str) -> Connection:
    """Return a connection over which letters pass, for its partner; raises UnknownCaller for anybody else."""
    connection = find(home, connection_id)
    check_caller(home, connection, caller)
    if connection is None or connection.status not in CORRESPONDING:
        raise UnknownCaller("there is no connection with the caller")
    return connection


def delivered(home: Home, connection_id: str, number: int) -> None:
    """Note that the partner has our letters up to `number`."""
    with home.begin() as tx:
        tx.execute(
            update(letters)
            .where(letters.c.connection_id == connection_id, letters.c.number <= number, letters.c.delivered.is_(None))
            .values(delivered=home.now())
        )


def receive(home: Home, caller: bytes, letter: Letter) -> None:
    """Handle a partner's letter once: ignore it if it came before, refuse it if one before it is missing."""
    connection = correspondent(home, caller, stored_id(letter.connection))
    scope = home.scope(connection.project_id)
    if letter.number <= connection.letters_received:
        return
    message = letter.open()
    handler = handlers.HANDLERS.get(letter.kind)
    if handler is None:
        raise RemoteProtocolError("type", f"letters of kind {letter.kind} are not understood here")
    if (
        letter.kind == RESTORED
        and connection.restored is not None
        and home.now() - connection.restored < RESTORED_SECONDS
    ):
        raise RefusedToPartner(
            "too_soon", "you were restored a moment ago", hint="the letter is taken in an hour", status=409
        )
    if letter.number != connection.letters_received + 1 and letter.kind != RESTORED:
        raise RemoteProtocolError(
            "out_of_order", f"letter {letter.number} came after letter {connection.letters_received}"
        )
    try:
        with scope.act(f"letter.{letter.kind}", connection.alias, actor=connection.alias) as tx:
            if _count(tx, letter):
                connection = by_id(scope, connection.id, tx)
                _check_status(letter.kind, connection.status)
                handler(scope, tx, connection, message)
    except Failure:
        raise
    except VesicaError as error:  # it crossed one of ours, or makes no sense; it is counted, or it would come for ever
        log.warning("letter refused", kind=letter.kind, partner=connection.alias, code=error.code)
        with home.begin() as tx:
            _count(tx, letter)


def _check_status(kind: str, status: ConnectionStatus) -> None:
    """Refuse letters before both accepted or after the end; the statement that memberships are gone may come later."""
    over = status is ConnectionStatus.DISCONNECTED and kind == "feed.purged"
    if not (kind.startswith("connect.") or status is ConnectionStatus.ACTIVE or over):
        raise RemoteProtocolError("out_of_order", f"{kind} came over a connection that is {status}")


def _count(tx: Tx, letter: Letter) -> bool:
    """Count a letter as received, and return whether it was: another process may have been faster."""
    before = connections.c.letters_received
    counted = tx.execute(
        update(connections)
        .where(connections.c.id == stored_id(letter.connection))
        .where(before < letter.number if letter.kind == RESTORED else before == letter.number - 1)
        .values(letters_received=letter.number)
    )
    return counted.rowcount == 1
