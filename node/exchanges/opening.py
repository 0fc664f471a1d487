"""Exchanges that we open with a partner, in either part: new ones, and those that are resumed after a kill."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from protocol.errors import RemoteProtocolError
from protocol.exchange import Machine, Opening, Role
from protocol.states import Kind, Part
from psi.errors import Remedy

from .. import log
from ..access.scope import Scope
from ..errors import NotAllowed, RefusedByPartner, RefusedToPartner
from ..operations.jobs import Progress, no_progress
from ..partners import agreements, connections, key_epochs
from ..partners.connections import Connection, ConnectionStatus, calling
from ..storage.database import Tx
from ..storage.ids import stored_id
from . import http
from .channels import running_epoch
from .handlers import Subject
from .records import (
    REPLACED,
    Exchange,
    close,
    close_failed,
    destroy_spool,
    find,
    give_up,
    insert_new,
    ours_open,
    spool_of,
)

if TYPE_CHECKING:
    from ..transport.client import PeerClient

EPOCH_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an exchange that we open is to be.

    `role` makes our role for the number of a key epoch; `inputs` is a digest of what the role works on: an exchange of
    other inputs is not resumed. `keep` is given the number of the epoch and the result before the exchange is closed, and
    again if a kill came in between.
    """

    kind: Kind
    part: Part  # ours
    subject: Subject
    role: Callable[[int], Role]
    inputs: bytes = b""
    keep: Callable[[int, Any], None] | None = None


def run_exchange(scope: Scope, connection: Connection, plan: Plan, progress: Progress = no_progress) -> Any:
    """Open an exchange with a partner, or resume an open one of the same subject and inputs; return the result.

    Raises PeerUnreachable (run again: it resumes), RefusedByPartner, and RemoteProtocolError where the partner broke the
    protocol (audited, with an alert).
    """
    connection = connections.by_id(scope, connection.id)
    check_active(connection)
    progress(f"calling {connection.alias}", 0, 1)  # it may take a while to find out that nobody answers
    with calling(scope, connection) as client:
        exchange = _resumable(scope, connection, plan, client) or _begin(scope, connection, plan, client)
        progress(f"calling {connection.alias}", 1, 1)
        opening, spool = exchange.opening, spool_of(scope.home, exchange.id)
        try:
            role = plan.role(opening.epoch)
            machine, check = Machine(opening, exchange.opened, role, spool), partial(_check, scope, opening)
            http.drive(client, machine, opening.exchange, progress, check)
        except (RemoteProtocolError, RefusedByPartner, RefusedToPartner) as error:
            close_failed(scope, connection, opening, error, plan.part)
            spool.destroy()
            raise
    result = getattr(role, "result", None)  # an answerer has none
    if plan.keep is not None:
        plan.keep(opening.epoch, result)
    close(scope, connection, opening)
    spool.destroy()
    return result


def check_active(connection: Connection) -> None:
    """Refuse an exchange over a connection that is not active."""
    if connection.status is not ConnectionStatus.ACTIVE:
        raise NotAllowed(
            f"partner {connection.alias} is {connection.status}",
            hint="the list of partners has them all",
            remedy=Remedy("partner.list"),
        )


def goes_on(scope: Scope, tx: Tx, connection: Connection, opening: Opening) -> bool:
    """Return whether an exchange that has begun may go on: under its agreement, and in its key epoch."""
    running = key_epochs.running_number(scope, tx, connection)
    return opening.epoch == running and agreements.may_name(tx, connection, opening, scope.home.now())


def _check(scope: Scope, opening: Opening) -> None:
    """Refuse to go on with an exchange of ours where the connection has changed: a partner may be slow for days."""
    with scope.read() as tx:
        connection = connections.by_id(scope, stored_id(opening.connection), tx)
        active = connection.status is ConnectionStatus.ACTIVE
        if not active or not goes_on(scope, tx, connection, opening):
            raise http.over()


def _resumable(scope: Scope, connection: Connection, plan: Plan, client: "PeerClient") -> Exchange | None:
    """Return the open exchange of this plan, if the partner still has it; close those that cannot be resumed."""
    home, epoch_number = scope.home, running_epoch(scope, connection).number
    with home.read() as tx:
        found = ours_open(tx, connection, plan.kind, plan.part)
        agreed = {each.id for each in found if agreements.may_name(tx, connection, each.opening, home.now())}
    for each in found:
        opening = each.opening
        same = opening.subject == plan.subject
        if not same and (plan.kind is not Kind.RELEASE or opening.subject["feed"] != plan.subject["feed"]):
            continue
        current = opening.epoch == epoch_number and each.id in agreed
        if same and current and each.inputs == plan.inputs:
            try:
                if http.open_at(client, opening) == each.opened:
                    return each
            except RefusedByPartner as error:
                log.info("an open exchange begins again", code=error.code)
        with home.begin() as tx:
            give_up(home, tx, each.id, REPLACED)
        destroy_spool(home, each.id)
    return None


def _begin(scope: Scope, connection: Connection, plan: Plan, client: "PeerClient") -> Exchange:
    home = scope.home
    for _ in range(EPOCH_TRIES):
        opening = Opening(
            exchange=home.random(16),
            kind=plan.kind,
            part=plan.part,
            connection=connection.wire_id,
            agreement=connection.agreement_digest,
            epoch=running_epoch(scope, connection).number,
            subject=dict(plan.subject),
            nonce=home.random(32),
        )
        try:
            opened = http.open_at(client, opening)
        except RefusedByPartner as error:
            if error.code != "epoch_behind" or error.detail is None:
                close_failed(scope, connection, opening, error, plan.part)
                raise
            follow(scope, connection, error.detail)
            continue
        exchange = Exchange(
            connection_id=connection.id,
            part=plan.part,
            ours=True,
            opening=opening,
            opened=opened,
            inputs=plan.inputs,
        )
        with home.begin() as tx:
            taken = find(tx, exchange.id) is not None
            if not taken:
                now = connections.by_id(scope, connection.id, tx)
                check_active(now)
                if not agreements.may_name(tx, now, opening, home.now()):
                    raise RefusedToPartner("agreement", "the agreement has changed just now", hint="run it again")
                insert_new(home, tx, exchange)
        if taken:  # nobody but the partner knows the id
            stolen = RemoteProtocolError("session", "the partner opened an exchange of its own under the id of ours")
            close_failed(scope, connection, opening, stolen, plan.part)
            raise stolen
        return exchange
    raise RemoteProtocolError("epoch", "the partner asks for another key epoch each time")


def follow(scope: Scope, connection: Connection, epoch_number: int) -> int:
    """Take the partner's key epoch, which is ahead; return the number of ours then. Raises RefusedToPartner."""
    detail = {"epoch": epoch_number}
    try:
        with scope.act("partner.rotated", connection.alias, actor=connection.alias, detail=detail) as tx:
            return key_epochs.follow(scope, tx, connection, epoch_number).number
    except NotAllowed as error:
        raise RefusedToPartner("epoch_too_soon", str(error), hint=error.hint, status=409) from error
