"""How a node is called and reached: partners are told by a letter; a new address counts once the pinned key answers there."""

from sqlalchemy import null

from protocol.letters import NodeDetails
from protocol.wire import Message
from psi.errors import VesicaError

from .. import log
from ..access.scope import Home, Scope
from ..errors import Failure, PeerUnreachable, printable
from ..operations.alerts import AlertKind, Alerts
from ..storage.config import Config
from ..storage.database import Tx
from .connections import (
    BEGUN,
    Connection,
    ConnectionStatus,
    allowed_addresses,
    at_new_address,
    by_id,
    note,
    probe,
    with_status,
)


def of(config: Config) -> NodeDetails:
    """Return what partners know of a node's settings."""
    return NodeDetails(organisation=config.organisation, address=config.address, proxy=config.proxy)


def announce(home: Home, tx: Tx, details: NodeDetails) -> list[str]:
    """Tell every partner, in the transaction of the act that changes the details; returns their aliases."""
    from .letters import Letters

    told = []
    for scope in home.all_scopes(tx):
        for connection in with_status(scope, *BEGUN, tx=tx):
            Letters(scope).send(tx, connection.id, "connect.details", details)
            told.append(connection.alias)
    return told


def received(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle connect.details: note the name, and the address as one to try."""
    assert isinstance(message, NodeDetails)
    if message.address:
        allowed_addresses(scope.home, connection).check(message.address)
    organisation = printable(message.organisation)
    if organisation != connection.peer_organisation:
        note(tx, connection, peer_organisation=organisation)
        text = f"{connection.alias} calls itself {organisation} now"
        Alerts(scope).add(tx, AlertKind.ORGANISATION_RENAMED, text, alike=f"{connection.alias} calls itself ")
    if not message.address:
        _move(scope, tx, connection, "", proxy=False)
    elif (message.address, message.proxy) == (connection.peer_address, connection.proxy):
        note(tx, connection, moves_to=null())
    else:
        note(tx, connection, moves_to={"address": message.address, "proxy": message.proxy})


def try_new_address(scope: Scope, connection: Connection, *, patience: float | None = None) -> Connection:
    """Return a connection with its partner's new address, if there is one and the partner's key answers there.

    Else it stays as it is, and the new address is tried again another time.
    """
    if connection.moves_to is None or connection.status is ConnectionStatus.REQUESTED:  # nobody has accepted it yet
        return connection
    moved = at_new_address(connection)
    try:
        probe(scope, moved, patience=patience)
    except VesicaError as error:
        if isinstance(error, Failure) and not isinstance(error, PeerUnreachable):
            raise
        log.info("a new address does not answer", partner=connection.alias, code=error.code)
        return connection
    with scope.begin() as tx:
        now = by_id(scope, connection.id, tx)
        if now.moves_to == connection.moves_to:
            _move(scope, tx, now, moved.peer_address, proxy=moved.proxy)
        return by_id(scope, connection.id, tx)


def _move(scope: Scope, tx: Tx, connection: Connection, address: str, *, proxy: bool) -> None:
    note(tx, connection, peer_address=address, proxy=proxy, moves_to=null())
    alias, where = connection.alias, f"is reached at {address}" if address else "is not called any more: it calls us"
    Alerts(scope).add(tx, AlertKind.ADDRESS_CHANGED, f"{alias} {where}", alike=f"{alias} is ")
    detail = {"address": address, "before": connection.peer_address}
    scope.home.audit.record(tx, "partner.moved", alias, project_id=scope.id, detail=detail, actor=alias)
