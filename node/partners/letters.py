"""Letters: what one node sends the other outside exchanges. They wait in the outbox until the partner has them.

The side that has the other's address calls: it delivers its own letters and fetches the partner's. A letter's number
makes both idempotent; its handler runs in the transaction that counts it as received.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select, update

from protocol import wire
from protocol.errors import Malformed, RemoteProtocolError
from protocol.letters import Letter
from protocol.wire import Message
from psi.errors import VesicaError

from .. import log
from ..access.scope import Home, NothingDone, Scope
from ..errors import (
    AddressNotAllowed,
    Failure,
    PeerUnreachable,
    RefusedByPartner,
    RefusedToPartner,
    UnknownCaller,
    WrongPeerKey,
)
from ..storage.database import Tx
from ..storage.files import below
from ..storage.ids import stored_id, wire_id
from ..storage.locks import serving
from ..storage.tables import DAY, connections, letters
from ..transport import paths
from . import handlers
from .connections import Connection, ConnectionStatus, by_id, calling, check_caller, find, with_status
from .details import try_new_address
from .outbox import RESTORED, delivered, outbox, send_again
from .rates import Rate

if TYPE_CHECKING:
    from ..transport.client import PeerClient

SYNC_SECONDS = 3.0  # how long a command waits for a partner that is gone, before it goes on with its own work
OUT_OF_ORDER = "out_of_order"  # the code of a letter before which others are missing
RESTORED_SECONDS = 3_600  # between two of them, since each lets our letters go out again
ENDED_SECONDS = 7 * DAY  # how long a disconnected partner is asked for its last letters
FETCHED_SECONDS = 3_600  # after that people are reminded to fetch, where no service does
KINDS_WHILE_INACTIVE = {  # those that mean something over a connection that is not active
    ConnectionStatus.PENDING: ("connect.accept", "connect.decline", "connect.details", "connect.disconnect", RESTORED),
    ConnectionStatus.REQUESTED: ("connect.details", "connect.disconnect", RESTORED),
    ConnectionStatus.DISCONNECTED: ("feed.purged", RESTORED),  # the statement that memberships are gone may come later
}
RATE_WHILE_INACTIVE = Rate(burst=256, seconds=10.0)  # letters of one connection that is not active: each is a write
RATE_WHILE_ACTIVE = Rate(burst=1_200, seconds=3.0)  # of one that is: each is a row of the audit log
CORRESPONDING = (  # also those that are over: the partner gets a letter about the end
    ConnectionStatus.PENDING,
    ConnectionStatus.REQUESTED,
    ConnectionStatus.ACTIVE,
    ConnectionStatus.DECLINED,
    ConnectionStatus.DISCONNECTED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """How many letters went to and came from a partner, and whether it could be reached."""

    delivered: int = 0
    fetched: int = 0
    reached: bool = True


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

    def send_newest(self, tx: Tx, connection_id: str, kind: str, message: Message) -> None:
        """Put a letter into the outbox, in place of one of its kind that waits there: only the newest matters."""
        waiting = (letters.c.connection_id == connection_id, letters.c.delivered.is_(None), letters.c.kind == kind)
        replaced = tx.execute(update(letters).where(*waiting).values(body=message.encode()))
        if not replaced.rowcount:
            self.send(tx, connection_id, kind, message)

    def send_instead(self, tx: Tx, connection_id: str, of: str, kind: str, message: Message) -> None:
        """Put a letter into the outbox, in place of the last one of another kind if that waits there."""
        waiting = (letters.c.connection_id == connection_id, letters.c.delivered.is_(None), letters.c.kind == of)
        last = tx.scalar(select(func.max(letters.c.number)).where(*waiting))
        if last is None:
            self.send(tx, connection_id, kind, message)
        else:
            tx.execute(
                update(letters).where(*waiting, letters.c.number == last).values(kind=kind, body=message.encode())
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
        if not waiting:
            return 0
        count = 0
        with calling(self._scope, connection, patience=patience) as client:
            while waiting:
                for letter in waiting:
                    self._post(client, connection, letter)
                count += len(waiting)
                waiting = outbox(self._home, connection)
        return count

    def _post(self, client: "PeerClient", connection: Connection, letter: Letter) -> None:
        try:
            client.post(paths.LETTERS, letter.encode())
        except RefusedByPartner as error:
            if error.code == OUT_OF_ORDER and error.detail is not None:
                self._note_missing(connection, error.detail)
            raise
        delivered(self._home, connection.id, letter.number)

    def _note_missing(self, connection: Connection, last: int) -> None:
        """Let the letters after the last one that a partner has leave once more, with an alert where they are gone."""
        with self._scope.begin() as tx:
            send_again(self._scope, tx, connection, after=last)

    def fetch(
        self,
        connection: Connection,
        *,
        wait: int = 0,
        patience: float | None = None,
        stop: threading.Event | None = None,
    ) -> int:
        """Take the letters that the partner has for us, waiting up to `wait` seconds for one; return how many.

        Once `stop` is set none is taken: the partner keeps them.
        """
        with calling(self._scope, connection, patience=patience) as client:
            last = by_id(self._scope, connection.id).letters_received
            body = client.get(f"{paths.LETTERS}?connection={connection.id}&wait={wait}&after={last}")
            self._note_fetched()
            if not body:
                return 0
            bundle = wire.unpack(body).get("letters")
            if not isinstance(bundle, list) or not all(isinstance(each, bytes) for each in bundle):
                raise Malformed("letters: expected a list of letters")
            for each in bundle:
                letter = Letter.decode(each)
                if stop is not None and stop.is_set():
                    return 0
                if stored_id(letter.connection) != connection.id:
                    raise RemoteProtocolError("session", "the letter is of another connection")
                receive(self._home, client.peer_key, letter)
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
        return below(self._home.path / "fetched", self._scope.id)

    def _note_fetched(self) -> None:
        """Note the time as that of a file: it is only shown to people."""
        now = self._home.now()
        with suppress(OSError):
            self._fetched.parent.mkdir(mode=0o700, exist_ok=True)
            self._fetched.touch(mode=0o600)
            os.utime(self._fetched, (now, now))

    def sync_all(self) -> dict[str, Synced]:
        """Deliver to and fetch from every partner that can be called; return by alias what came of it."""
        return {row.alias: self.sync(row) for row in with_status(self._scope, *CORRESPONDING)}

    def sync(self, connection: Connection) -> Synced:
        """Deliver and fetch, if the partner can be called.

        A partner that is out of reach, refuses or sends what nobody foresaw does not keep the others waiting.
        """
        self._home.guard.known()
        moved = self._forgiving(self._try_new_address, connection)
        connection = by_id(self._scope, connection.id) if moved else connection
        delivered = self._forgiving(self.deliver, connection)
        if delivered is None or not (connection.peer_address and worth_calling(connection, self._home.now())):
            return Synced(delivered=delivered or 0, reached=delivered is not None)
        fetched = self._forgiving(self.fetch, connection)
        if fetched is None:
            return Synced(delivered=delivered, reached=False)
        answered = self._forgiving(self.deliver, connection)  # handlers of the partner's letters may have answered
        return Synced(delivered=delivered + (answered or 0), fetched=fetched, reached=answered is not None)

    def _try_new_address(self, connection: Connection, *, patience: float) -> int:
        return int(try_new_address(self._scope, connection, patience=patience) != connection)

    def deliver_soon(self, connection: Connection) -> None:
        """Try to deliver now. What fails waits in the outbox, and `Home.undelivered` says so to the caller."""
        self._forgiving(self.deliver, connection)

    def _forgiving(self, act: Callable[..., int], connection: Connection) -> int | None:
        """Let a partner's failure pass; failures of this machine are raised.

        Returns how many letters went, None if the partner itself cannot be reached.
        """
        self._home.guard.known()
        try:
            moved = act(connection, patience=SYNC_SECONDS)
        except VesicaError as error:
            if isinstance(error, Failure) and not isinstance(error, PeerUnreachable):
                raise
            log.info("letters wait", partner=connection.alias, code=error.code)
            self._home.undelivered[connection.alias] = str(error)
            return None if isinstance(error, PeerUnreachable | WrongPeerKey | AddressNotAllowed) else 0
        except Exception as error:  # what this partner sent, most likely; its text may name anything
            log.error("letters failed", partner=connection.alias, kind=type(error).__name__)
            self._home.undelivered[connection.alias] = f"internal error ({type(error).__name__})"
            return 0
        self._home.undelivered.pop(connection.alias, None)
        return moved


def worth_calling(connection: Connection, now: int) -> bool:
    """Return whether a partner may have letters for us; after the end, for a while, the statement of its purge."""
    if not connection.peer_address and connection.moves_to is None:
        return False
    recently = now - connection.changed < ENDED_SECONDS
    return connection.status in (ConnectionStatus.PENDING, ConnectionStatus.ACTIVE) or (
        connection.status is ConnectionStatus.DISCONNECTED and recently
    )


def correspondent(home: Home, caller: bytes, connection_id: str) -> Connection:
    """Return a connection over which letters pass, for its partner; raises UnknownCaller for anybody else."""
    connection = find(home, connection_id)
    check_caller(home, connection, caller)
    if connection is None or connection.status not in CORRESPONDING:
        raise UnknownCaller("there is no connection with the caller")
    return connection


def receive(home: Home, caller: bytes, letter: Letter) -> None:
    """Handle a partner's letter once: ignore it if it came before, refuse it if one before it is missing."""
    connection = correspondent(home, caller, stored_id(letter.connection))
    scope = home.scope(connection.project_id)
    if letter.number <= connection.letters_received:
        return
    rate = RATE_WHILE_ACTIVE if connection.status is ConnectionStatus.ACTIVE else RATE_WHILE_INACTIVE
    if not rate.allows(connection.id):
        raise RefusedToPartner(
            "too_many", f"many letters came over a connection that is {connection.status}", status=409
        )
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
        raise RefusedToPartner(
            OUT_OF_ORDER,
            f"letter {letter.number} came after letter {connection.letters_received}",
            hint="those between come again by themselves",
            status=409,
            detail=connection.letters_received,
        )
    if not _is_meant(letter.kind, connection.status):  # it crossed one of ours, or comes from who was never accepted
        with home.begin() as tx:
            _count(tx, letter)  # or it would come for ever; no row says so, since nothing was done
        return
    try:
        with scope.act(f"letter.{letter.kind}", connection.alias, actor=connection.alias) as tx:
            if _count(tx, letter):
                connection = by_id(scope, connection.id, tx)
                if not _is_meant(letter.kind, connection.status):
                    raise NothingDone
                handler(scope, tx, connection, message)
    except Failure:
        raise
    except VesicaError as error:  # it crossed one of ours, or makes no sense; it is counted, or it would come for ever
        log.warning("letter refused", kind=letter.kind, partner=connection.alias, code=error.code)
        with home.begin() as tx:
            _count(tx, letter)


def _is_meant(kind: str, status: ConnectionStatus) -> bool:
    """Return whether a letter means anything in this state; before both accepted and after the end most do not."""
    return status is ConnectionStatus.ACTIVE or kind in KINDS_WHILE_INACTIVE.get(status, ())


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
