"""A connection with a partner: its row as it is typed, how it is found, and who may speak for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, select, update

from protocol.agreement import Agreement, Terms
from psi.errors import Remedy, VesicaError

from ..access.audit import Result
from ..access.scope import Home, Scope
from ..errors import NotAllowed, NotFound, UnknownCaller, WrongPeerKey
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.ids import stored_id, wire_id
from ..storage.records import Document, record
from ..storage.tables import connections

if TYPE_CHECKING:
    from ..transport.client import PeerClient


class ConnectionStatus(StrEnum):
    """How far a connection has come."""

    PENDING = "pending"  # we asked, and wait for the partner
    REQUESTED = "requested"  # the partner asked, and waits for us
    ACTIVE = "active"
    DECLINED = "declined"
    DISCONNECTED = "disconnected"
    FAILED = "failed"


BEGUN = (ConnectionStatus.PENDING, ConnectionStatus.REQUESTED, ConnectionStatus.ACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One of our projects and one of a partner's, as the row of `connections` has it."""

    id: str
    project_id: str
    alias: str
    status: ConnectionStatus
    peer_key: bytes
    peer_project: bytes
    peer_project_name: str
    peer_organisation: str
    peer_address: str  # empty: they call us
    proxy: bool
    agreement: bytes
    agreement_digest: bytes
    their_offer: bytes
    our_signature: bytes | None
    their_signature: bytes | None
    letters_sent: int
    letters_received: int
    reason: str | None
    key_changed: int | None
    budget: Document | None
    preflight: Document | None
    restored: int | None
    head_sent: int | None
    heads_kept: bytes | None
    created: int
    changed: int

    @property
    def wire_id(self) -> bytes:
        """The id as messages have it."""
        return wire_id(self.id)

    @property
    def agreed(self) -> Agreement:
        """What both sides agreed on."""
        return Agreement.decode(self.agreement)

    @property
    def terms(self) -> Terms:
        return self.agreed.terms


def find(home: Home, connection_id: str, tx: Tx | None = None) -> Connection | None:
    """Return a connection of any project by id."""
    return _first(home, select(connections).where(connections.c.id == connection_id), tx)


def by_id(scope: Scope, connection_id: str, tx: Tx | None = None) -> Connection:
    """Return a connection of the project; raises NotFound."""
    found = find(scope.home, connection_id, tx)
    if found is None or found.project_id != scope.id:
        raise NotFound("there is no such connection")
    return found


def named(scope: Scope, alias: str, tx: Tx | None = None, *, status: ConnectionStatus | None = None) -> Connection:
    """Return the newest connection under an alias; raises NotFound, or NotAllowed unless it has the `status`."""
    query = (
        select(connections)
        .where(connections.c.project_id == scope.id, connections.c.alias == alias)
        .order_by(connections.c.created.desc())
    )
    found = _first(scope.home, query, tx)
    if found is None:
        raise NotFound(f"there is no partner {alias!r}", hint="look at the partners", remedy=Remedy("partner.list"))
    if status is not None and found.status is not status:
        hint, remedy = next_step(found)
        raise NotAllowed(f"partner {alias} is {found.status}, not {status}", hint=hint, remedy=remedy)
    return found


def next_step(connection: Connection) -> tuple[str, Remedy | None]:
    """Return what a person can do about a connection that is not active: the words, and the act if there is one."""
    match connection.status:
        case ConnectionStatus.REQUESTED:
            return "decline it, or accept it", Remedy("partner.accept", {"name": connection.alias})
        case ConnectionStatus.PENDING:
            return "wait until the partner accepts, and fetch its answer", Remedy("node.sync")
        case ConnectionStatus.DECLINED:
            return "ask the partner for a new Connect ID if it has changed its mind", None
        case ConnectionStatus.DISCONNECTED:
            return "connect again with a new Connect ID", None
        case ConnectionStatus.FAILED:
            return "ask again", Remedy("partner.request")
        case ConnectionStatus.ACTIVE:
            return "", None


def change(home: Home, tx: Tx, connection: Connection, **values: Any) -> None:
    """Change columns of a connection, and note when."""
    tx.execute(update(connections).where(connections.c.id == connection.id).values(changed=home.now(), **values))


def note(tx: Tx, connection: Connection, **values: Any) -> None:
    """Set what is known of a connection beside its status: budgets, heads, when its partner was restored."""
    tx.execute(update(connections).where(connections.c.id == connection.id).values(**values))


def with_status(scope: Scope, *statuses: ConnectionStatus, tx: Tx | None = None) -> list[Connection]:
    """Return the project's connections that have one of the statuses, or all of them, by alias."""
    query = select(connections).where(connections.c.project_id == scope.id).order_by(connections.c.alias)
    if statuses:
        query = query.where(connections.c.status.in_(statuses))
    with scope.read(tx) as tx:
        return [record(Connection, row) for row in tx.execute(query)]


def _first(home: Home, query: Select[Any], tx: Tx | None) -> Connection | None:
    with home.read(tx) as tx:
        row = tx.execute(query).first()
    return None if row is None else record(Connection, row)


@contextmanager
def calling(scope: Scope, connection: Connection, *, patience: float | None = None) -> "Iterator[PeerClient]":
    """Yield a client for a partner. Another key at its address ends it with WrongPeerKey, an audit row and an alert.

    Once the partner's own key answers again, only the alert stays.
    """
    from ..transport.client import PeerClient  # HTTP and TLS: 0.1 s that most commands do without

    scope.home.guard.known()
    address, key, proxy = connection.peer_address, connection.peer_key, connection.proxy
    try:
        with PeerClient(scope.home, address, key, proxy=proxy, patience=patience) as client:
            yield client
        if connection.key_changed is not None:
            with scope.begin() as tx:  # unless another key was seen since
                seen = (connections.c.id == connection.id, connections.c.key_changed == connection.key_changed)
                tx.execute(update(connections).where(*seen).values(key_changed=None))
    except WrongPeerKey as error:
        _key_changed(scope, connection, "partner.call", "answers", error)
        raise


def check_caller(home: Home, connection: Connection | None, caller: bytes) -> None:
    """Raise UnknownCaller unless a connection is with the caller, and an alert where the caller has another key.

    Only the two sides know a connection's id, so no stranger can raise the alert.
    """
    if connection is None or connection.peer_key != caller:
        error = UnknownCaller("there is no connection with the caller")
        if connection is not None and connection.status in BEGUN:
            _key_changed(home.scope(connection.project_id), connection, "partner.called", "calls", error)
        raise error


def _key_changed(scope: Scope, connection: Connection, act: str, does: str, error: VesicaError) -> None:
    """Raise an alert and leave an audit row, once a day for a connection."""
    home = scope.home
    blocked = "nothing is exchanged until its own key is back; if it changed, disconnect and take a new Connect ID"
    with home.begin() as tx:
        note(tx, connection, key_changed=home.now())
        if Alerts(scope).add(tx, AlertKind.KEY_CHANGED, f"{connection.alias} {does} with another key: {blocked}"):
            reason = {"code": error.code, "message": str(error)}
            home.audit.record(
                tx, act, connection.alias, project_id=scope.id, result=Result.DENY, detail={"error": reason}
            )


def active(home: Home, caller: bytes, connection_id: bytes) -> tuple[Scope, Connection]:
    """Return the connection's project and the connection; raises UnknownCaller unless it is active and the caller's."""
    connection = find(home, stored_id(connection_id))
    check_caller(home, connection, caller)
    if connection is None or connection.status is not ConnectionStatus.ACTIVE:
        raise UnknownCaller("there is no active connection with the caller")
    return home.scope(connection.project_id), connection
