"""Changes of keys: our own, of which partners are told, and theirs, which we follow without a new connection.

A change is a statement that both keys sign (protocol.keychange). Whoever replaced its key shows all its changes: to the
partners that it calls, before anything else, and to those that call it and find another key than the pinned one. So it
needs the old key no more, and a partner that was down for weeks follows several changes at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sqlalchemy import or_, select, update

from protocol.errors import RemoteProtocolError
from protocol.keychange import KeyChanges
from protocol.wire import MAX_BODY_OF_STRANGERS

from ..access.audit import Result
from ..access.scope import Home, Scope
from ..errors import NotAllowed, PeerUnreachable, RefusedByPartner, RefusedToPartner, UnknownCaller
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.locks import service_lock
from ..storage.records import Document, record
from ..storage.tables import DAY, connections
from ..storage.temporary import remove_leftovers
from ..transport import paths
from . import handlers
from .connections import BEGUN, OLD, Connection, check_caller, note

if TYPE_CHECKING:
    from ..transport.client import PeerClient
    from ..transport.endpoint import Call, Route

KEYS_AT_MOST = 1_000  # of a partner in one connection: they are read with its row


def rotate(home: Home) -> Document:
    """Give the node a new signing key, while no service runs; partners follow when one of both sides calls the other.

    Connect IDs end, since they name the key. A kill leaves the old key in force, or the new one with the statement about it.
    """
    home.guard.require("node.rotate-key", "node", None)
    with service_lock(home.path) as holder:
        if holder is not None:
            with home.refusals("node.rotate-key", "node"):
                raise NotAllowed(
                    f"a service is running on this home (pid {holder}), and works under the old key",
                    hint=f"stop it, replace the key, start it again: kill {holder}",
                )
        old, made = home.key, home.now()
        detail: Document = {"old": old.hex()}
        with home.act("node.rotate-key", "node", detail=detail) as tx:
            signed, put_in_force = home.keys.replacement(made)
            detail["new"] = signed.change.new.hex()
            for name in ("our_key", "announced_key"):  # of connections that are older than these columns
                column = connections.c[name]
                tx.execute(update(connections).where(column.is_(None)).values({name: old}))
            for scope in home.all_scopes(tx):
                scope.change(tx, connect_secret=None, connect_expires=None)
        with home.refusals("node.rotate-key", "node"):
            put_in_force()
        remove_leftovers(home.path)
    return {"old": old.hex(), "key": home.key.hex()}


def announce(home: Home, connection: Connection, client: "PeerClient") -> None:
    """Show a partner how our key changed, if it may not know that."""
    if connection.announced_key in (None, home.key):
        return
    client.post(paths.KEYS, home.keys.changes.encode())
    with home.begin() as tx:
        note(tx, connection, announced_key=home.key)


def check_not_retired(home: Home, caller: bytes) -> None:
    """Refuse a key that a partner has replaced, with an alert wherever it has."""
    query = select(connections).where(connections.c.replaced_keys.is_not(None), connections.c.status.in_(BEGUN))
    with home.read() as reading:
        changed = [record(Connection, row) for row in reading.execute(query) if caller in row.replaced_keys]
    refused = None
    for connection in changed:
        if caller in connection.peer_keys:
            try:
                check_caller(home, connection, caller)
            except RefusedToPartner as error:
                refused = error
    if refused is not None:
        raise refused


def is_replaced(tx: Tx, key: bytes) -> bool:
    """Return whether a partner of any project has replaced a key, also one whose connection is over."""
    olds = tx.scalars(select(connections.c.replaced_keys).where(connections.c.replaced_keys.is_not(None)))
    return any(key in each for each in olds)


def check_requester(scope: Scope, key: bytes) -> None:
    """Refuse a request to connect under a key that was replaced, with an alert: it would have all budgets anew."""
    with scope.read() as reading:
        if not is_replaced(reading, key):
            return
    error = RefusedToPartner("key_retired", "this key has been replaced by another one", hint=OLD)
    text = (
        "a request to connect came under a key that a partner has replaced: somebody else has that, or the partner "
        "runs from an old backup"
    )
    with scope.begin() as tx:
        if Alerts(scope).add(tx, AlertKind.KEY_CHANGED, text):
            detail = {"error": {"code": error.code, "message": str(error)}}
            by = f"key {key.hex()[:16]}"
            scope.home.audit.record(
                tx, "partner.requested", by, project_id=scope.id, result=Result.DENY, detail=detail, actor=by
            )
    raise error


def not_known(scope: Scope, connection: Connection, error: RefusedByPartner) -> None:
    """Note that a partner does not know our key: it may have been restored, or we were, from a backup before the change."""
    home = scope.home
    if error.code == "unwelcome" and len(home.keys.publics) > 1:
        with home.begin() as tx:
            note(tx, connection, announced_key=home.keys.publics[0])
    if error.code == "key_retired":
        text = f"{connection.alias} knows a newer key of this node: this home is from a backup made before that"
        with home.begin() as tx:
            Alerts(scope).add(
                tx, AlertKind.KEY_CHANGED, f"{text}; restore a newer one, or replace the key and connect again"
            )


def successor(home: Home, connection: Connection, answer: bytes) -> bytes | None:
    """Return the key that replaced a partner's, by what it answered when it was asked; None if nothing proves one."""
    with suppress(RemoteProtocolError), _later():
        changes = KeyChanges.decode(answer, most=MAX_BODY_OF_STRANGERS).after(connection.peer_key)
        follow(home, changes)
        return changes.keys[-1] if changes.keys else None
    return None


@contextmanager
def _later() -> Iterator[None]:
    """Say that a partner cannot be reached yet, where its key changes too often."""
    try:
        yield
    except RefusedToPartner as error:
        raise PeerUnreachable(f"the partner has another key: {error}", hint=error.hint) from error


def routes(home: Home) -> "list[Route]":
    """Return the routes by which partners show how their keys changed, and ask how ours did."""
    from ..transport.endpoint import Route

    def post(call: "Call") -> bytes:
        changes = KeyChanges.decode(call.body, most=MAX_BODY_OF_STRANGERS)
        if changes.keys[-1:] != [call.caller] or not follow(home, changes):
            raise UnknownCaller("there is no connection with the caller")
        return b""

    def get(call: "Call") -> bytes | None:
        changes = home.keys.changes.after(_key(call.query.get("of", "")))
        return changes.encode() if changes.changes else None

    return [Route("POST", paths.KEYS, post), Route("GET", paths.KEYS, get, unsigned=True)]


def follow(home: Home, changes: KeyChanges) -> bool:
    """Pin the key to which changes lead, in every connection whose partner had one of the replaced ones.

    Returns whether some partner has the new key now. Everything stays: what the partner used up is counted under the new
    key. Raises RemoteProtocolError for a change that one of its keys did not sign, RefusedToPartner where the partner
    replaced its key within a day, and an alert where the key was replaced by another one before: then somebody else has the
    old one.
    """
    keys = changes.keys
    with home.read() as reading:
        if not _concerned(reading, keys):
            return False
    for each in changes.changes:
        each.verify_both()
    if keys[-1] in home.keys.publics:
        raise RemoteProtocolError("signature", "the new key is one of ours")
    with home.begin() as tx:
        concerned = _concerned(tx, keys)
        moved = [each for each in concerned if _leads_on(each, changes)]
        for connection in moved:
            _check_rate(home, connection, changes.after(connection.peer_key))
            _pin(home, tx, connection, changes.after(connection.peer_key))
        for old in {each.peer_key for each in moved}:
            for hook in handlers.KEY_REPLACED:
                hook(tx, old, keys[-1])
        for connection in concerned:
            leads_back = connection.peer_key in keys[:-1]
            if connection not in moved and (leads_back or keys[-1] not in connection.peer_keys):
                _contradicted(home, tx, connection)
        return any(each in moved or each.peer_key == keys[-1] for each in concerned)


def _concerned(tx: Tx, keys: list[bytes]) -> list[Connection]:
    """Return the connections whose partner has or had one of these keys."""
    query = select(connections).where(or_(connections.c.peer_key.in_(keys), connections.c.replaced_keys.is_not(None)))
    found = [record(Connection, row) for row in tx.execute(query)]
    return [each for each in found if not {*each.peer_keys}.isdisjoint(keys)]


def _leads_on(connection: Connection, changes: KeyChanges) -> bool:
    """Return whether changes lead from a partner's key to keys that it has never had."""
    later = changes.after(connection.peer_key).keys[1:]
    return bool(later) and {*later}.isdisjoint(connection.peer_keys)


def _check_rate(home: Home, connection: Connection, changes: KeyChanges) -> None:
    """Refuse changes that come too soon after the last, or are too many: each leaves an alert and a key for good."""
    if len(connection.peer_keys) + len(changes.changes) > KEYS_AT_MOST:
        raise RefusedToPartner(
            "too_many",
            f"a partner may replace its key {KEYS_AT_MOST:,} times",
            hint="disconnect, and connect again with a new Connect ID",
            status=409,
        )
    if connection.key_replaced is not None and home.now() - connection.key_replaced < DAY:
        raise RefusedToPartner(
            "too_many",
            "the key was replaced less than a day after the last time",
            hint="the change is taken when a day has passed",
            status=409,
        )


def _pin(home: Home, tx: Tx, connection: Connection, changes: KeyChanges) -> None:
    before = KeyChanges() if connection.peer_changes is None else KeyChanges.decode(connection.peer_changes)
    new = changes.keys[-1]
    kept, first = before.and_then(changes).encode(), connection.first_peer_key
    olds = b"".join((*connection.peer_keys, *changes.keys[1:-1]))
    note(tx, connection, peer_key=new, first_key=first, peer_changes=kept, key_changed=None)
    note(tx, connection, replaced_keys=olds, key_replaced=home.now())
    if connection.status not in BEGUN:
        return
    scope = Scope(home, connection.project_id, "")
    alerts, alias = Alerts(scope), connection.alias
    for does in ("answers", "calls"):
        alerts.settle(tx, AlertKind.KEY_CHANGED, f"{alias} {does} with another key")
    text = f"{alias} has replaced its key, as its old key confirms: the new one begins {new.hex()[:16]}"
    alerts.add(tx, AlertKind.KEY_REPLACED, text)
    detail = {"old": connection.peer_key.hex(), "new": new.hex()}
    home.audit.record(tx, "partner.rotated-key", alias, project_id=scope.id, detail=detail, actor=alias)


def _contradicted(home: Home, tx: Tx, connection: Connection) -> None:
    if connection.status not in BEGUN:
        return
    scope, alias = Scope(home, connection.project_id, ""), connection.alias
    text = (
        f"two keys say that they replaced one of {alias}: somebody else has the old one; ask {alias} which is its own"
    )
    if Alerts(scope).add(tx, AlertKind.KEY_CHANGED, text):
        error = RemoteProtocolError("signature", "the key was replaced by another one before")
        detail = {"error": {"code": error.code, "message": str(error)}}
        home.audit.record(
            tx, "partner.rotated-key", alias, project_id=scope.id, result=Result.DENY, detail=detail, actor=alias
        )


def _key(text: str) -> bytes:
    with suppress(ValueError):
        return bytes.fromhex(text)
    return b""
