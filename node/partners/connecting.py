"""How a connection begins and ends: what strangers send to the connect endpoint, and letters about the connection itself."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select, update

from protocol import handshake, wire
from protocol.agreement import OFFERED_NAMESPACES, Agreement, Offer, Terms, mismatches
from protocol.errors import RemoteProtocolError
from protocol.letters import Disconnect
from protocol.wire import Message
from psi.errors import Remedy

from ..access.scope import Home, NothingDone, Scope
from ..errors import AlreadyExists, InvalidInput, NotAllowed, NotFound, RefusedToPartner, check_name, printable
from ..operations.alerts import AlertKind, Alerts
from ..people.datasets import namespaces
from ..storage.database import Tx
from ..storage.ids import stored_id
from ..storage.records import record
from ..storage.tables import DAY, connections
from ..storage.tables import users as users_table
from . import handlers, key_changes, key_epochs
from .connections import BEGUN, Connection, ConnectionStatus, by_id, change, find, next_step, note
from .outbox import letters_to

if TYPE_CHECKING:
    from ..transport.endpoint import Call, Route

CONNECT = b"connect"  # the purpose under which the Connect ID's secret is wrapped
STALE = "this Connect ID is not (or no longer) valid"
REQUESTS = 32  # that wait for an answer, or came within a day and were not accepted: each leaves rows
HELLO_BYTES = 300  # a longer body is a request, which has two offers in it


def routes(home: Home) -> "list[Route]":
    """Return the route by which a caller with a Connect ID asks who we are and requests a connection."""
    from ..transport import paths
    from ..transport.endpoint import Route

    def connect(call: "Call") -> bytes:
        return answer(home, call.caller, call.body)

    return [Route("POST", paths.CONNECT, connect, wire.MAX_BODY_OF_STRANGERS)]


def answer(home: Home, caller: bytes, body: bytes) -> bytes:
    """Answer what a stranger sends to the connect endpoint: a Hello or a Request."""
    kind = handshake.Hello if len(body) < HELLO_BYTES else handshake.Request
    message: Message = kind.decode(body)
    hello = message.hello if isinstance(message, handshake.Request) else message
    assert isinstance(hello, handshake.Hello)
    if hello.key != caller:
        raise RemoteProtocolError("agreement", "the request was signed by another key than the one it speaks for")
    try:
        scope = home.scope(stored_id(hello.project))
    except NotFound:
        raise RemoteProtocolError("connect_id_proof", STALE) from None
    if isinstance(message, handshake.Request):
        answer_request(scope, message)
        return b""
    return answer_hello(scope, hello).encode()


def answer_hello(scope: Scope, hello: handshake.Hello) -> handshake.Reply:
    """Show who we are to a caller that proves to have our Connect ID; nothing is stored."""
    secret = _secret(scope, hello)
    return handshake.reply(hello, offer(scope, handshake.offer_nonce(hello, secret=secret)), secret=secret)


def answer_request(scope: Scope, request: handshake.Request) -> None:
    """Store a request for a person to accept or decline, and raise an alert. The same request again changes nothing.

    Everything is looked at before the transaction begins: who cannot prove to have the Connect ID, or asks too often,
    leaves no row and takes no lock.
    """
    secret = _secret(scope, request.hello)
    ours = offer(scope, handshake.offer_nonce(request.hello, secret=secret))
    agreement = handshake.check_request(request, ours, secret=secret)
    key_changes.check_requester(scope, request.offer.key)
    with scope.read() as reading:
        if not _is_new(scope, reading, agreement, request.offer):
            return
    fingerprint = request.hello.key.hex()[:16]
    with scope.act("partner.requested", request.offer.organisation, actor=f"key {fingerprint}") as tx:
        if not _is_new(scope, tx, agreement, request.offer):
            raise NothingDone
        alias = store(scope, tx, request.offer, agreement, request.signature)
        note(tx, by_id(scope, stored_id(agreement.connection), tx), our_offer=ours.encode())
        text = _asks(request.offer.organisation, alias)
        for name, our_rules, their_rules in mismatches(ours, request.offer):
            text += f"; {name} will not match: {', '.join(our_rules)} here, {', '.join(their_rules)} there"
        Alerts(scope).add(tx, AlertKind.CONNECTION_REQUEST, text, remedy=Remedy("partner.accept", {"name": alias}))


def _is_new(scope: Scope, tx: Tx, agreement: Agreement, theirs: Offer) -> bool:
    """Return whether a request has not been stored yet; raises for one that cannot be, or where too many were made."""
    known = find(scope.home, stored_id(agreement.connection), tx)
    if known is not None and known.agreement == agreement.encode():
        return False
    if known is not None:
        raise RemoteProtocolError("agreement", "this connection id is taken")
    _check_new(scope, tx, theirs)
    today = connections.c.created > scope.home.now() - DAY
    unanswered = connections.c.status == ConnectionStatus.REQUESTED
    mine = (connections.c.project_id == scope.id, connections.c.our_signature.is_(None), unanswered | today)
    if tx.execute(select(func.count()).select_from(connections).where(*mine)).scalar_one() >= REQUESTS:
        raise RefusedToPartner(
            "too_many",
            "many requests to connect wait for an answer here, or were made today",
            hint="ask the partner to answer them, or try again tomorrow",
            status=409,
        )
    return True


def settle_request(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Close the alert of a request that has been answered; the name in it is that of then."""
    asked = Offer.decode(connection.their_offer)
    Alerts(scope).settle(tx, AlertKind.CONNECTION_REQUEST, _asks(asked.organisation, connection.alias))


def offer(scope: Scope, nonce: bytes, tx: Tx | None = None) -> Offer:
    """Return who we are and on what terms the project connects, now or as the given transaction sees it."""
    config, names = scope.home.config, namespaces(scope, tx)
    if len(names) > OFFERED_NAMESPACES:
        raise NotAllowed(
            f"a project offers at most {OFFERED_NAMESPACES} namespaces, and this one has {len(names)}",
            hint="erase the columns of identities that nobody matches by",
        )
    return Offer(
        organisation=config.organisation,
        project_name=scope.name,
        key=scope.home.key,
        project=scope.wire_id,
        address=config.address,
        proxy=config.proxy,
        terms=Terms.from_dict(scope.row(tx).terms),
        namespaces=tuple(names),
        nonce=nonce,
    )


def store(
    scope: Scope, tx: Tx, theirs: Offer, agreement: Agreement, signature: bytes, *, alias: str | None = None
) -> str:
    """Store a connection that one side has asked for and signed, and return its alias; raises AlreadyExists.

    It is Pending if we asked (then the accepter's offer is theirs), and Requested if they did.
    """
    _check_new(scope, tx, theirs)
    alias, now = _free_alias(scope, tx, alias, theirs), scope.home.now()
    asked = agreement.accepter == theirs.digest()
    tx.execute(
        insert(connections).values(
            id=stored_id(agreement.connection),
            project_id=scope.id,
            alias=alias,
            status=ConnectionStatus.PENDING if asked else ConnectionStatus.REQUESTED,
            peer_key=theirs.key,
            our_key=scope.home.key,
            announced_key=scope.home.key,
            peer_project=theirs.project,
            peer_project_name=printable(theirs.project_name)[:63],
            peer_organisation=printable(theirs.organisation),
            peer_address=theirs.address,
            proxy=theirs.proxy,
            their_offer=theirs.encode(),
            agreement=agreement.encode(),
            agreement_digest=agreement.digest(),
            our_signature=signature if asked else None,
            their_signature=None if asked else signature,
            letters_sent=0,
            letters_received=0,
            created=now,
            changed=now,
        )
    )
    return alias


def accepted(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle connect.accept: the partner countersigned what we signed."""
    assert isinstance(message, handshake.Accept)
    if connection.status is not ConnectionStatus.PENDING:
        raise RemoteProtocolError("out_of_order", "nothing was waiting to be accepted")
    handshake.check_accept(message, connection.agreed, keys=connection.peer_keys)
    change(scope.home, tx, connection, status=ConnectionStatus.ACTIVE, their_signature=message.signature)
    text = f"{connection.peer_organisation} accepted: partner {connection.alias} is active"
    Alerts(scope).add(tx, AlertKind.CONNECTION_ACCEPTED, text)


def declined(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle connect.decline."""
    assert isinstance(message, handshake.Decline)
    if connection.status is not ConnectionStatus.PENDING or message.agreement != connection.agreement_digest:
        raise RemoteProtocolError("out_of_order", "nothing was waiting to be declined")
    change(scope.home, tx, connection, status=ConnectionStatus.DECLINED, reason=printable(message.reason))
    Alerts(scope).add(tx, AlertKind.CONNECTION_DECLINED, f"{connection.peer_organisation} declined")


def disconnected(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle connect.disconnect."""
    assert isinstance(message, Disconnect)
    if connection.status not in BEGUN:
        return
    end(scope, tx, connection, printable(message.reason))
    text = f"{connection.peer_organisation} ended the connection {connection.alias}"
    Alerts(scope).add(tx, AlertKind.DISCONNECTED, text)


def end(scope: Scope, tx: Tx, connection: Connection, reason: str) -> None:
    """Stop everything that goes over a connection, and remove what came over it."""
    change(scope.home, tx, connection, status=ConnectionStatus.DISCONNECTED, reason=reason)
    for hook in handlers.ENDED:
        hook(scope, tx, connection)
    Alerts(scope).settle(tx, AlertKind.LETTERS_STUCK, letters_to(connection))
    key_epochs.end(scope, tx, connection)


def _secret(scope: Scope, hello: handshake.Hello) -> bytes:
    row = scope.row()
    if row.connect_secret is None or scope.home.now() >= (row.connect_expires or 0):
        raise RemoteProtocolError("connect_id_proof", STALE)
    secret = scope.home.keys.unwrap(row.connect_secret, CONNECT)
    handshake.check_hello(hello, key=scope.home.key, secret=secret)
    return secret


def _check_new(scope: Scope, tx: Tx, theirs: Offer) -> None:
    if key_changes.is_replaced(tx, theirs.key):  # whoever has it would get all budgets anew
        raise NotAllowed(
            "a partner has replaced that key by another one: somebody else has it, or the partner runs from an old backup",
            hint="ask the partner, by a way that you trust, for a Connect ID with its newest key",
        )
    known = tx.execute(
        select(connections).where(
            connections.c.project_id == scope.id,
            connections.c.peer_key == theirs.key,
            connections.c.peer_project == theirs.project,
            connections.c.status.in_(BEGUN),
        )
    ).first()
    if known is not None:
        connection = record(Connection, known)
        hint, remedy = next_step(connection)
        if connection.status is ConnectionStatus.ACTIVE:
            hint, remedy = "it is connected already; look at it", Remedy("partner.show", {"name": connection.alias})
        raise AlreadyExists(
            f"that project is partner {connection.alias} already ({connection.status})", hint=hint, remedy=remedy
        )


def _free_alias(scope: Scope, tx: Tx, given: str | None, theirs: Offer) -> str:
    """Return a free alias: the one asked for, or one made of the organisation's name.

    The alias of a connection that is over is free: for any partner if we name it, else only for the same key. So nobody
    gets another's alias, and with it the place in our rules, by taking its name. A user's name is never free.
    """
    query = select(connections).where(connections.c.project_id == scope.id)
    known = {row.alias: record(Connection, row) for row in tx.execute(query)}
    users = set(tx.scalars(select(users_table.c.name)))
    stem = re.sub(r"[^a-z0-9]+", "-", theirs.organisation.lower()).strip("-")[:50] or "partner"
    if given is not None:
        check_name(given, "partner")
        if "." in given:
            raise InvalidInput(
                f"a partner's name has no dot, which {given!r} has",
                hint="rules name what it shares as received.PARTNER.SEGMENT",
            )
        if given in known and known[given].status in BEGUN:
            raise AlreadyExists(f"there is a partner {given!r} already", hint="choose another name for it")
        if given in users:
            raise AlreadyExists(
                f"there is a user {given!r}: the audit log would have two actors of that name",
                hint="choose another name for the partner",
            )
    alias = given or next(
        name
        for name in _numbered(stem)
        if name not in users
        and (name not in known or (known[name].status not in BEGUN and known[name].peer_key == theirs.key))
    )
    if alias in known:
        aside = next(name for name in _numbered(f"{alias[:50]}-ended") if name not in known)
        tx.execute(update(connections).where(connections.c.id == known[alias].id).values(alias=aside))
    return alias


def _asks(organisation: str, alias: str) -> str:
    return f"{printable(organisation)} asks to connect, as partner {alias}: accept or decline"


def _numbered(stem: str) -> Iterable[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1
