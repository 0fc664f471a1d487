"""The service's letter carrier, and the routes at which partners leave and fetch letters."""

import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import exists, or_, select

from protocol import wire
from protocol.errors import Malformed
from protocol.letters import Letter
from psi.errors import VesicaError

from .. import log
from ..access.scope import Home
from ..errors import Failure
from ..storage.records import record
from ..storage.tables import connections, letters
from ..transport import paths
from . import handlers
from .connections import Connection
from .details import try_new_address
from .letters import CORRESPONDING, SYNC_SECONDS, Letters, correspondent, receive, worth_calling
from .outbox import delivered, outbox

if TYPE_CHECKING:
    from ..transport.endpoint import Call, Route

PAUSE_SECONDS = 1.0  # between two calls for a partner's letters, where it does not let us wait
POLL_SECONDS = 25
MAX_DIGITS = 18  # of a letter's number
PATIENCE_SECONDS = 15.0  # after a partner could not be reached


def routes(home: Home) -> "list[Route]":
    """Return the routes at which partners leave and fetch letters."""
    from ..transport.endpoint import Route

    def post(call: "Call") -> bytes:
        receive(home, call.caller, Letter.decode(call.body))
        return b""

    def get(call: "Call") -> bytes | None:
        connection = correspondent(home, call.caller, _connection_id(call.query.get("connection")))
        after = call.query.get("after", "")
        if not after.isascii() or not after.isdigit() or len(after) > MAX_DIGITS:
            raise Malformed("letters: expected the number after which they are wanted")
        waiting = outbox(home, connection, after=int(after))
        return wire.pack({"letters": [letter.encode() for letter in waiting]}) if waiting else None

    def acknowledge(call: "Call") -> bytes:
        document = wire.unpack(call.body)
        connection_id, number = _connection_id(document.pop("connection", None)), document.pop("number", None)
        if document:
            raise Malformed("ack: expected connection and number")
        delivered(home, correspondent(home, call.caller, connection_id).id, wire.number(number, "ack.number"))
        return b""

    return [
        Route("POST", paths.LETTERS, post),
        Route("GET", paths.LETTERS, get, heard=lambda act: home.bell.heard(act, letters)),
        Route("POST", f"{paths.LETTERS}/ack", acknowledge),
    ]


def _connection_id(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{32}", value):
        raise Malformed("letters: a connection's id has 32 lower-case hex digits")
    return value


class LetterCarrier:
    """Delivers and fetches letters, at all partners that can be called, while the service runs."""

    def __init__(self, home: Home, stop: threading.Event) -> None:
        self._home, self._stop, self._rung = home, stop, threading.Event()
        self._busy: set[tuple[str, str]] = set()  # what is under way, and the connection
        self._patience: dict[str, float] = {}  # connection -> when to try to deliver again
        self._gone: set[str] = set()  # connections whose partner could not be reached

    def run(self) -> None:
        """Deliver what waits, at once, and have one long poll open with each partner, until `stop` and the bell's ring.

        Each has a thread of its own: a partner that is slow holds up nobody else's letters.
        """
        with self._home.bell.event(letters, connections) as self._rung:
            while True:
                self._rung.clear()
                if self._stop.is_set():
                    return
                seconds = self._home.bell.seconds
                try:
                    for connection, waiting in self._partners():
                        if worth_calling(connection, self._home.now()):
                            self._start("fetch", self._fetch, connection)
                        if waiting:
                            patience = self._patience.get(connection.id, 0.0) - time.monotonic()
                            if patience <= 0:
                                self._start("deliver", self._deliver, connection)
                            else:
                                seconds = min(seconds, patience)
                except Failure as error:
                    log.warning("letters wait", code=error.code)
                    seconds = PAUSE_SECONDS
                except Exception as error:  # its text may name anything; letters must go on
                    log.error("letters failed", kind=type(error).__name__)
                    seconds = PAUSE_SECONDS
                self._rung.wait(seconds)

    def _start(self, what: str, act: Callable[[Connection], None], connection: Connection) -> None:
        """Begin something with a partner, unless the same is under way."""
        doing = (what, connection.id)
        if doing in self._busy:
            return

        def run() -> None:
            try:
                act(connection)
            finally:
                self._busy.discard(doing)
                self._rung.set()  # more may have come meanwhile

        self._busy.add(doing)
        name = f"{what} {connection.alias}"
        threading.Thread(target=self._home.guard.as_itself(run), name=name, daemon=True).start()

    def _partners(self) -> list[tuple[Connection, bool]]:
        waiting = exists().where(letters.c.connection_id == connections.c.id, letters.c.delivered.is_(None))
        query = select(connections, waiting.label("waiting")).where(
            or_(connections.c.peer_address != "", connections.c.moves_to.is_not(None)),
            connections.c.status.in_(CORRESPONDING),
        )
        with self._home.read() as reading:
            return [(record(Connection, row), row.waiting) for row in reading.execute(query)]

    def _deliver(self, connection: Connection) -> None:
        try:
            moved = Letters(self._home.scope(connection.project_id)).deliver(connection)
            waits = not moved and any(waiting and each.id == connection.id for each, waiting in self._partners())
            if not waits or outbox(self._home, connection):
                return  # else one may not leave yet
        except VesicaError as error:
            log.info("letters wait", partner=connection.alias, code=error.code)
        except Exception as error:  # of what this partner sent, most likely; its text may name anything
            log.error("letters failed", partner=connection.alias, kind=type(error).__name__)
        self._patience[connection.id] = time.monotonic() + PATIENCE_SECONDS

    def _fetch(self, connection: Connection) -> None:
        try:
            wait = 0 if connection.id in self._gone else POLL_SECONDS
            scope = self._home.scope(connection.project_id)
            connection = try_new_address(scope, connection, patience=SYNC_SECONDS)
            since = time.monotonic()
            Letters(scope).fetch(connection, wait=wait, stop=self._stop)
            if connection.id in self._gone:
                self._gone.discard(connection.id)
                for hook in handlers.REACHED:
                    hook(self._home, connection)
            self._stop.wait(max(0.0, since + PAUSE_SECONDS - time.monotonic()))
            return
        except VesicaError as error:
            log.info("cannot fetch letters", partner=connection.alias, code=error.code)
        except Exception as error:
            log.error("letters failed", partner=connection.alias, kind=type(error).__name__)
        self._gone.add(connection.id)
        self._stop.wait(PATIENCE_SECONDS)
