"""Exchanges that partners open with us, in either part: answered from the store, also after a restart."""

from collections.abc import Iterable

from protocol.errors import RemoteProtocolError
from protocol.exchange import Machine, Opened, Opening, Repeating, Role
from psi.errors import VesicaError

from ..access.scope import Home, Scope
from ..errors import NotAllowed, NotFound, RefusedToPartner, UnknownCaller
from ..partners import agreements, connections
from ..partners.connections import Connection, ConnectionStatus, active
from ..storage.database import Tx
from ..storage.ids import stored_id
from . import handlers, http, records
from .channels import running_epoch
from .handlers import PreparedRole
from .opening import follow, goes_on
from .quota import ExchangeQuota
from .records import GIVEN_UP, Exchange, ExchangeState, other_part


class NodeAnswers:
    """Answers partners' exchanges from a node's store, with the roles of the table of handlers."""

    def __init__(self, home: Home) -> None:
        self._home, self._quota = home, ExchangeQuota(home)

    def begin(self, caller: bytes, opening: Opening) -> tuple[Opened, Machine]:
        scope, connection = active(self._home, caller, opening.connection)
        with self._home.read() as tx:
            known = records.find(tx, opening.exchange)
            self._check_agreed(tx, connection, opening)
        if known is not None:
            return self._begun(scope, connection, opening, known)
        self._quota.count_opening(connection)
        running = running_epoch(scope, connection).number
        if opening.epoch > running:
            running = follow(scope, connection, opening.epoch)
        if opening.epoch < running:
            raise RefusedToPartner("epoch_behind", "our key epoch is ahead", status=409, detail=running)
        self._quota.make_for_another(connection)
        answer = self._answer(scope, connection, opening)
        exchange = Exchange(
            connection_id=connection.id,
            part=other_part(opening),
            ours=False,
            opening=opening,
            opened=opening.accept(self._home.random),
            inputs=answer.inputs,
        )
        with self._home.begin() as tx:
            known = records.find(tx, opening.exchange)
            if known is None:
                now = connections.by_id(scope, connection.id, tx)
                if now.status is not ConnectionStatus.ACTIVE:
                    raise UnknownCaller("there is no active connection with the caller")
                self._check_agreed(tx, now, opening)
                records.insert_new(self._home, tx, exchange)
                spool = self._quota.spool(connection, opening.exchange)  # within, so that its key is made once
        if known is not None:  # a service that ends while the next one begins was asked the same
            return self._begun(scope, connection, opening, known)
        answer.keep()
        return exchange.opened, Machine(opening, exchange.opened, answer.role, spool)

    def resume(self, caller: bytes, exchange: bytes) -> tuple[Opening, Machine]:
        with self._home.read() as tx:
            known = records.find(tx, exchange)
        if known is None or known.ours:
            raise NotFound("there is no such exchange")
        scope, connection = active(self._home, caller, known.opening.connection)
        return known.opening, self._machine(scope, connection, known)

    def standing(self, caller: bytes, opening: Opening, *, begun: bool) -> bytes:
        scope, connection = active(self._home, caller, opening.connection)
        if begun:
            self._check_goes_on(scope, connection, opening)
        return connection.agreement_digest

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
        records.destroy_spool(self._home, opening.exchange)

    def _check_agreed(self, tx: Tx, connection: Connection, opening: Opening) -> None:
        if not agreements.may_name(tx, connection, opening, self._home.now()):
            raise RefusedToPartner(
                "agreement",
                "the agreement is another one here",
                hint="fetch the partner's letters: it may have changed just now; after a restore both sides tell each other",
                status=409,
            )

    def _begun(self, scope: Scope, connection: Connection, opening: Opening, known: Exchange) -> tuple[Opened, Machine]:
        if known.ours or known.opening != opening or known.connection_id != connection.id:
            raise RemoteProtocolError("session", "this exchange was opened before, with other contents")
        return known.opened, self._machine(scope, connection, known)

    def _answer(self, scope: Scope, connection: Connection, opening: Opening) -> PreparedRole:
        """Return what we answer a new opening with; a refusal is audited."""
        try:
            return _answer(scope, connection, opening, None)
        except (RefusedToPartner, NotAllowed) as error:
            with self._home.begin() as tx:
                records.audit_refusal(scope, tx, connection, opening, error, actor=connection.alias)
            raise

    def _machine(self, scope: Scope, connection: Connection, known: Exchange) -> Machine:
        """Make the machine of an exchange that was begun before; one that is done only repeats its messages."""
        opening = known.opening
        if self.those_over([known.id]):
            raise http.over()
        spool = self._quota.spool(connection, known.id)
        if known.state is ExchangeState.DONE:
            machine = Machine(opening, known.opened, Repeating(opening.kind, other_part(opening)), spool)
            if machine.done:
                return machine
            raise http.over()
        self._check_goes_on(scope, connection, opening)
        role = _answer(scope, connection, opening, known.inputs).role
        try:
            return Machine(opening, known.opened, role, spool)
        except (RemoteProtocolError, RefusedToPartner) as error:  # what came before a restart is looked at only now
            self.failed(opening, error)
            raise

    def _check_goes_on(self, scope: Scope, connection: Connection, opening: Opening) -> None:
        """Give up an exchange of an agreement or a key epoch that is over."""
        with self._home.read() as tx:
            if goes_on(scope, tx, connection, opening):
                return
        with self._home.begin() as tx:
            records.give_up(self._home, tx, opening.exchange, GIVEN_UP)
        records.destroy_spool(self._home, opening.exchange)
        raise http.over()

    def _of(self, opening: Opening) -> tuple[Scope, Connection]:
        found = connections.find(self._home, stored_id(opening.connection))
        assert found is not None  # the exchange was begun over it
        return self._home.scope(found.project_id), found


def _answer(scope: Scope, connection: Connection, opening: Opening, inputs: bytes | None) -> PreparedRole:
    return handlers.handler(opening.kind, other_part(opening)).answer(scope, connection, opening, inputs)
