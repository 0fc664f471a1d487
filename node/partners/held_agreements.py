"""Agreements that a restored node has forgotten: the partner shows it the one in force, with both signatures."""

from sqlalchemy import select

from protocol.agreement import Held, Offer
from protocol.errors import RemoteProtocolError
from protocol.wire import Message

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.tables import agreements
from .agreements import void_digests
from .agreements_in_force import put_in_force
from .connections import Connection
from .letters import Letters


def report(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Send a partner that was restored the agreement in force, unless it is the first one."""
    agreed, ours, theirs = connection.agreed, connection.our_offer, Offer.decode(connection.their_offer)
    if agreed.version == 1 or ours is None or connection.our_signature is None or connection.their_signature is None:
        return
    sides = [(Offer.decode(ours), connection.our_signature), (theirs, connection.their_signature)]
    if agreed.requester != sides[0][0].digest():
        sides.reverse()
    (requester, first), (accepter, second) = sides
    held = Held(
        agreement=agreed,
        requester=requester,
        accepter=accepter,
        requester_signature=first,
        accepter_signature=second,
    )
    Letters(scope).send(tx, connection.id, "agreement.held", held)


def held(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle agreement.held, which partners send to a restored node: take over what we signed and forgot.

    The partner may have several of them. It chooses one, and none once both agreed anew.
    """
    assert isinstance(message, Held)
    restored = scope.row(tx).restored
    if restored is None:
        raise RemoteProtocolError("out_of_order", "nothing was restored here")
    since = select(agreements.c.id).where(agreements.c.connection_id == connection.id, agreements.c.until >= restored)
    if tx.execute(since).first() is not None:
        raise RemoteProtocolError("out_of_order", "another agreement has come into force since the restore")
    our_keys, their_keys = scope.home.keys.publics, connection.peer_keys
    agreed, sides = message.agreement, [(message.requester, message.requester_signature)]
    sides.append((message.accepter, message.accepter_signature))
    if message.requester.key not in our_keys:
        sides.reverse()
    (ours, our_signature), (theirs, their_signature) = sides
    message.verify_follows()
    agreed.verify(our_signature, *our_keys)
    agreed.verify(their_signature, *their_keys)
    places = (agreed.connection, ours.project, theirs.project)
    here = (connection.wire_id, scope.wire_id, connection.peer_project)
    if places != here or ours.key not in our_keys or theirs.key not in their_keys:
        raise RemoteProtocolError("agreement", "the agreement is of another connection")
    if agreed.digest() in void_digests(connection):
        raise RemoteProtocolError("out_of_order", "what was accepted here has come to nothing since")
    if agreed.version > connection.agreed.version:
        put_in_force(scope, tx, connection, agreed, (ours, theirs), (our_signature, their_signature))
