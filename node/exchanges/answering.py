"""Exchanges that partners open with us, in either part: answered from the store, also after a restart."""

from collections.abc import Iterable

from protocol.errors import RemoteProtocolError
from protocol.exchange import Machine, Opened, Opening, Role
from psi.errors import VesicaError

from ..access.audit import Result
from ..access.scope import Home, Scope
from ..errors import NotAllowed, NotFound, RefusedToPartner
from ..partners import connections
from ..partners.connections import Connection, active
from ..storage.ids import stored_id
from . import handlers, http, records
from .channels import running_epoch
from .opening import follow
from .records import REPLACED, Exchange, ExchangeState, other_part, spool_of

OPEN_AT_MOST = 16  # exchanges of one connection; honest partners need far fewer at once


class NodeAnswers:
    """Answers partners' exchanges from a node's store, with the roles of the table of handlers."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def begin(self, caller: bytes, opening: Opening) -> tuple[Opened, Machine]:
        scope, connection = active(self._home, caller, opening.connection)
        if opening.agreement != connection.agreement_digest:
            raise RefusedToPartner(
                "agreement",
                "the agreement is another one now",
                hint="disconnect and connect again, so that both sides have the same one",
                status=409,
            )
        with self._home.read() as tx:
            known = records.find(tx, opening.exchange)
        if known is not None:
            return self._begun(scope, connection, opening, known)
        running = running_epoch(scope, connection).number
        if opening.epoch > running:
            running = follow(scope, connection, opening.epoch)
        if opening.epoch < running:
            raise RefusedToPartner("epoch_behind", "our key epoch is ahead", status=409, detail=running)
        self._make_room(connection)
        role = self._role(scope, connection, opening)
        exchange = Exchange(
            connection_id=connection.id,
            part=other_part(opening),
            ours=False,
            opening=opening,
            opened=opening.accept(self._home.random),
        )
        with self._home.begin() as tx:
            known = records.find(tx, opening.exchange)
            if known is None:
                records.insert_new(self._home, tx, exchange)
                spool = spool_of(self._home, opening.exchange)  # within, so that its key is made once
        if known is not None:  # a service that ends while the next one begins was asked the same
            return self._begun(scope, connection, opening, known)
        return exchange.opened, Machine(opening, exchange.opened, role, spool)

    def resume(self, caller: bytes, exchange: bytes) -> tuple[Opening, Machine]:
        with self._home.read() as tx:
            known = records.find(tx, exchange)
        if known is None or known.ours:
            raise NotFound("there is no such exchange")
        scope, connection = active(self._home, caller, known.opening.connection)
        return known.opening, self._machine(scope, connection, known)

    def those_over(self, exchange_ids: Iterable[bytes]) -> set[bytes]:
        with self._home.read() as tx:
            return records.those_over(self._home, tx, list(exchange_ids))

    def finished(self, opening: Opening, role: Role) -> None:
        scope, connection = self._of(opening)
        with self._home.read() as tx:
            known = records.find(tx, opening.exchange)
        assert known is not None
        if known.state is ExchangeState.FAILED:
            raise http.over()
        if known.state is ExchangeState.DONE:
            return  # the caller lost our last answer
        result = getattr(role, "result", None)  # an answerer has none
        handlers.handler(opening.kind, role.part).finished(scope, connection, opening, result)
        records.close(scope, connection, opening, actor=connection.alias)

    def failed(self, opening: Opening, error: VesicaError) -> None:
        scope, connection = self._of(opening)
        records.close_failed(scope, connection, opening, error, other_part(opening), actor=connection.alias)
        spool_of(self._home, opening.exchange).destroy()

    def _begun(self, scope: Scope, connection: Connection, opening: Opening, known: Exchange) -> tuple[Opened, Machine]:
        if known.ours or known.opening != opening or known.connection_id != connection.id:
            raise RemoteProtocolError("session", "this exchange was opened before, with other contents")
        return known.opened, self._machine(scope, connection, known)

    def _role(self, scope: Scope, connection: Connection, opening: Opening) -> Role:
        """Return the role with which we answer a new opening; a refusal is audited."""
        try:
            return _answer(scope, connection, opening)
        except (RefusedToPartner, NotAllowed) as error:
            with self._home.begin() as tx:
                self._home.audit.record(
                    tx,
                    f"exchange.{opening.kind.value}",
                    connection.alias,
                    project_id=scope.id,
                    result=Result.DENY,
                    detail={"error": {"code": error.code, "message": str(error)}},
                    actor=connection.alias,
                )
            raise

    def _machine(self, scope: Scope, connection: Connection, known: Exchange) -> Machine:
        """Make the machine of an exchange that was begun before; one that is done only repeats its messages."""
        opening = known.opening
        if known.state is not ExchangeState.FAILED:
            role = _answer(scope, connection, opening)
            try:
                machine = Machine(opening, known.opened, role, spool_of(self._home, known.id))
            except (RemoteProtocolError, RefusedToPartner) as error:  # what came before a restart is looked at only now
                self.failed(opening, error)
                raise
            if known.state is ExchangeState.OPEN or machine.done:
                return machine
        raise http.over()

    def _make_room(self, connection: Connection) -> None:
        """Give up the oldest of a partner's open exchanges if it has many, and delete the messages of old ones that are done.

        Each keeps a universe on our disk.
        """
        with self._home.begin() as tx:
            over = records.theirs(tx, connection, ExchangeState.OPEN, newest=OPEN_AT_MOST - 1)
            done = records.theirs(tx, connection, ExchangeState.DONE, newest=OPEN_AT_MOST, at_most=OPEN_AT_MOST)
            for exchange in over:
                records.give_up(self._home, tx, exchange, REPLACED)
        for exchange in (*over, *done):
            spool_of(self._home, exchange).destroy()

    def _of(self, opening: Opening) -> tuple[Scope, Connection]:
        found = connections.find(self._home, stored_id(opening.connection))
        assert found is not None  # the exchange was begun over it
        return self._home.scope(found.project_id), found


def _answer(scope: Scope, connection: Connection, opening: Opening) -> Role:
    return handlers.handler(opening.kind, other_part(opening)).answer(scope, connection, opening)
