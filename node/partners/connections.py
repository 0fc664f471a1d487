"""A connection with a partner: its row as it is typed, how it is found, and who may speak for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import ScalarSelect, Select, select, update

from protocol.agreement import Agreement, Terms
from psi.errors import Remedy, VesicaError

from ..access.audit import Result
from ..access.scope import Home, Scope
from ..errors import NotAllowed, NotFound, RefusedByPartner, RefusedToPartner, UnknownCaller, WrongPeerKey
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.ids import stored_id, wire_id
from ..storage.records import Document, record
from ..storage.tables import DAY, connections
from ..transport import paths
from ..transport.addresses import AllowedAddresses

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

BLOCKED = "nothing is exchanged until its own key is back; if it lost that, disconnect and take a new Connect ID"
OLD = "a node from a backup that is older than its key needs a newer backup, or another key and new connections"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What we have spent on estimates with a partner in the window, by its word: thousandths of epsilon."""

    spent: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How the normalisers of both sides compared, and what of that is under way."""

    status: str  # asked, same, different
    set: int
    at: int
    difference: Document | None
    waiting: bool = False  # for the partner's answer
    answered: int = 0  # when we last answered the partner's question


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One of our projects and one of a partner's, as the row of `connections` has it."""

    id: str
    project_id: str
    alias: str
    status: ConnectionStatus
    peer_key: bytes
    first_key: bytes | None
    peer_changes: bytes | None
    replaced_keys: bytes | None
    key_replaced: int | None
    our_key: bytes | None
    announced_key: bytes | None
    peer_project: bytes
    peer_project_name: str
    peer_organisation: str
    peer_address: str  # empty: they call us
    proxy: bool
    moves_to: Document | None
    chosen_address: str  # of the Connect ID that our operator entered; empty: they asked us
    agreement: bytes
    agreement_digest: bytes
    their_offer: bytes
    our_offer: bytes | None
    our_signature: bytes | None
    their_signature: bytes | None
    our_proposal: bytes | None
    their_proposal: bytes | None
    our_acceptance: bytes | None
    accepted: int | None
    confirmation: bytes | None
    void: bytes | None
    letters_sent: int
    letters_received: int
    reason: str | None
    key_changed: int | None
    budget: Spent | None
    preflight: Compared | None
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
    def first_peer_key(self) -> bytes:
        """The partner's key when both agreed: what is computed for the connection is bound to it for good."""
        return self.first_key or self.peer_key

    @property
    def peer_keys(self) -> tuple[bytes, ...]:
        """All keys that the partner has had in this connection: what it signed under one of them is its own."""
        olds = self.replaced_keys or b""
        return (*(olds[start : start + 32] for start in range(0, len(olds), 32)), self.peer_key)

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


def is_named(tx: Tx, name: str) -> bool:
    """Return whether a connection that is not over has a name, in any project."""
    mine = (connections.c.alias == name, connections.c.status.in_(BEGUN))
    return tx.execute(select(connections.c.id).where(*mine)).first() is not None


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


def at_new_address(connection: Connection) -> Connection:
    """Return a connection as it is once its partner has moved."""
    assert connection.moves_to is not None
    return replace(connection, peer_address=connection.moves_to["address"], proxy=connection.moves_to["proxy"])


def peer_keys(scope: Scope, connection: Connection) -> tuple[bytes, ...]:
    """Return all keys that the partner has had until now: the last call may have shown a new one."""
    return by_id(scope, connection.id).peer_keys


def present_key(connection: Connection) -> ScalarSelect[bytes]:
    """Return the key that a partner has when a statement runs: what a row in memory says may be replaced by then.

    It stands for the organisation wherever use is counted, since all that is counted follows it to its new key.
    """
    mine = connections.alias()
    return select(mine.c.peer_key).where(mine.c.id == connection.id).scalar_subquery()


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


def allowed_addresses(home: Home, connection: Connection) -> AllowedAddresses:
    """Return which addresses may be called for a connection: those that its partner names and our operator allows."""
    config = home.config
    return AllowedAddresses.of(config.address, private=config.private_addresses, chosen=connection.chosen_address)


@contextmanager
def calling(scope: Scope, connection: Connection, *, patience: float | None = None) -> "Iterator[PeerClient]":
    """Yield a client for a partner. Another key at its address ends it with WrongPeerKey, an audit row and an alert.

    Once the partner's own key answers again, only the alert stays.
    """
    from ..transport.client import Peer, PeerClient  # HTTP and TLS: 0.1 s that most commands do without
    from . import key_changes

    scope.home.guard.known()
    peer = Peer(
        connection.peer_address,
        connection.peer_key,
        allowed_addresses(scope.home, connection),
        proxy=connection.proxy,
        successor=partial(key_changes.successor, scope.home, connection),
    )
    try:
        with PeerClient(scope.home, peer, patience=patience) as client:
            key_changes.announce(scope.home, connection, client)
            yield client
        if connection.key_changed is not None:
            with scope.begin() as tx:  # unless another key was seen since
                seen = (connections.c.id == connection.id, connections.c.key_changed == connection.key_changed)
                tx.execute(update(connections).where(*seen).values(key_changed=None))
    except WrongPeerKey as error:
        _key_changed(scope, connection, "partner.call", f"answers with another key: {BLOCKED}", error)
        raise
    except RefusedByPartner as error:
        key_changes.not_known(scope, connection, error)
        raise


def probe(scope: Scope, connection: Connection, *, patience: float | None = None) -> None:
    """Call a partner for nothing but its signed answer; raises what `calling` raises."""
    last = by_id(scope, connection.id).letters_received
    with calling(scope, connection, patience=patience) as client:
        client.get(f"{paths.LETTERS}?connection={connection.id}&wait=0&after={last}")


def check_caller(home: Home, connection: Connection | None, caller: bytes) -> None:
    """Raise UnknownCaller unless a connection is with the caller, and an alert where the caller has another key.

    Only the two sides know a connection's id, so no stranger can raise the alert.
    """
    if connection is not None and connection.peer_key == caller:
        return
    error: VesicaError = UnknownCaller("there is no connection with the caller")
    says = f"calls with another key: {BLOCKED}"
    if connection is not None and caller in connection.peer_keys:
        error = RefusedToPartner("key_retired", "this key has been replaced by another one", hint=OLD)
        says = "calls with a key that it has replaced: somebody else has that, or the partner runs from an old backup"
    if connection is not None and connection.status in BEGUN:
        _key_changed(home.scope(connection.project_id), connection, "partner.called", says, error)
    raise error


def _key_changed(scope: Scope, connection: Connection, act: str, says: str, error: VesicaError) -> None:
    """Raise an alert and leave an audit row, once a day for a connection."""
    home = scope.home
    if connection.key_changed is not None and home.now() - connection.key_changed < DAY:
        return  # it is known: a caller with a wrong key takes no lock each time
    with home.begin() as tx:
        note(tx, connection, key_changed=home.now())
        if Alerts(scope).add(tx, AlertKind.KEY_CHANGED, f"{connection.alias} {says}"):
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
