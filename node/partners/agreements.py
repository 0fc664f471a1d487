"""Changes of an agreement: one side proposes what it offers now, the other accepts with its own offer, the first confirms.

    proposer -> accepter   agreement.propose   its offer
    accepter -> proposer   agreement.accept    its own offer, and its signature over what follows; or agreement.refuse
    proposer -> accepter   agreement.confirm   the other signature

What follows is the stricter of both offers, so the proposer needs no second look. It is in force at the proposer when it
confirms, at the accepter with the confirmation. Until then the version before is in force, and exchanges may name either. If
both sides accepted the other's proposal, that with the smaller digest holds: both know both.
"""

from dataclasses import dataclass

from sqlalchemy import insert, select

from protocol import handshake
from protocol.agreement import Acceptance, Agreement, Held, Offer, Proposal, Refusal
from protocol.errors import RemoteProtocolError
from protocol.exchange import Opening
from protocol.states import Kind
from protocol.wire import Message
from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import NotAllowed, printable
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import DAY, agreements
from . import handlers
from .connecting import offer
from .connections import Connection, by_id, change, note
from .letters import Letters

KEPT = ("agreement", "agreement_digest", "our_offer", "their_offer", "our_signature", "their_signature")
NONE = {"our_proposal": None, "their_proposal": None, "our_acceptance": None, "void": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change that a person may propose, or accept where the partner has proposed one."""

    proposal: Proposal
    ours: Offer
    agreement: Agreement  # what follows; of a proposal of ours: if the partner offers what it offered last
    theirs: bool  # the partner has proposed it

    def document(self, connection: Connection) -> Document:
        """Return what it changes. The hash is that of the agreement which follows if it is accepted."""
        before, after = connection.agreed, self.agreement
        return {
            "alias": connection.alias,
            "step": "accept" if self.theirs else "propose",
            "version": after.version,
            "agreement": after.digest().hex() if self.theirs else None,
            "terms_before": before.terms.as_dict(),
            "terms": after.terms.as_dict(),
            "our_terms": self.ours.terms.as_dict(),
            "namespaces_before": list(before.namespaces),
            "namespaces": list(after.namespaces),
            "only_ours": [each for each in self.ours.namespaces if each not in after.namespaces],
        }


def possible(scope: Scope, connection: Connection, tx: Tx | None = None) -> Change:
    """Return the change that `agree` makes; raises NotAllowed where there is none, or one is on its way."""
    if connection.our_acceptance is not None:
        raise NotAllowed(
            f"{connection.alias} has not confirmed yet what you accepted",
            hint="fetch its letters",
            remedy=Remedy("node.sync"),
        )
    base = connection.agreed
    if connection.their_proposal is not None:
        proposal = Proposal.decode(connection.their_proposal)
        ours = offer(scope, proposal.digest(), tx)
        found, theirs = proposal.agreement(base, ours), True
    else:
        ours = offer(scope, scope.home.random(32), tx)
        proposal = Proposal(base=connection.agreement_digest, offer=ours, made=scope.home.now())
        found, theirs = proposal.agreement(base, Offer.decode(connection.their_offer)), False
        if connection.our_offer is not None and not _differ(Offer.decode(connection.our_offer), ours):
            raise NotAllowed(
                f"this project offers {connection.alias} what it offered when you agreed",
                hint="set other terms, import identities of another kind, or let the partner propose what it has got",
                remedy=Remedy("project.terms"),
            )
    if not found.namespaces:
        raise NotAllowed(
            f"nothing would be left by which to match with {connection.alias}",
            hint="import identities under the partner's rules first, or end the connection",
            remedy=Remedy("partner.disconnect", {"name": connection.alias}),
        )
    return Change(proposal=proposal, ours=ours, agreement=found, theirs=theirs)


def propose(scope: Scope, tx: Tx, connection: Connection, made: Change) -> None:
    """Send the partner what this project offers now, in place of what was proposed before."""
    note(tx, connection, our_proposal=made.proposal.encode())
    Letters(scope).send(tx, connection.id, "agreement.propose", made.proposal)


def accept(scope: Scope, tx: Tx, connection: Connection, made: Change) -> None:
    """Sign what follows from the partner's proposal and our offer; it is in force once the partner has confirmed."""
    acceptance = Acceptance(
        proposal=made.proposal.digest(),
        offer=made.ours,
        agreement=made.agreement.digest(),
        signature=made.agreement.sign(scope.home.sign),
    )
    note(tx, connection, our_acceptance=acceptance.encode())
    Letters(scope).send(tx, connection.id, "agreement.accept", acceptance)
    _settle(scope, tx, connection)


def refuse(scope: Scope, tx: Tx, connection: Connection, reason: str) -> None:
    """Refuse what the partner has proposed; raises NotAllowed where nothing was."""
    if connection.their_proposal is None or connection.our_acceptance is not None:
        raise nothing_proposed(connection)
    refusal = Refusal(proposal=Proposal.decode(connection.their_proposal).digest(), reason=reason)
    note(tx, connection, their_proposal=None)
    Letters(scope).send(tx, connection.id, "agreement.refuse", refusal)
    _settle(scope, tx, connection)


def nothing_proposed(connection: Connection) -> NotAllowed:
    """Return the refusal to answer a proposal that there is not."""
    return NotAllowed(
        f"{connection.alias} has proposed nothing that waits for you",
        hint="look at what is agreed",
        remedy=Remedy("partner.terms", {"name": connection.alias}),
    )


def proposed(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle agreement.propose: keep it for a person. It takes the place of what the partner proposed before."""
    assert isinstance(message, Proposal)
    if message.base != connection.agreement_digest:  # one of us was restored, and does not know the newest yet
        reason = "it would change another agreement than the one in force"
        Letters(scope).send_once(
            tx, connection.id, "agreement.refuse", Refusal(proposal=message.digest(), reason=reason)
        )
        return
    message.check_follows(connection.agreed, keys=connection.peer_keys, project=connection.peer_project)
    # what we accepted before, the partner had not heard of when it wrote this: it will not confirm it
    note(tx, connection, **_void(connection), their_proposal=message.encode())
    _settle(scope, tx, connection)
    Alerts(scope).add(tx, AlertKind.AGREEMENT_PROPOSED, f"{_about(connection)}: look at it, then accept or decline")


def accepted(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle agreement.accept: what follows from both offers is in force, and the partner gets our signature."""
    assert isinstance(message, Acceptance)
    proposal = None if connection.our_proposal is None else Proposal.decode(connection.our_proposal)
    if proposal is None or proposal.digest() != message.proposal:  # replaced since, or forgotten by a restore
        reason = "this is not what is proposed now"
        Letters(scope).send_once(
            tx, connection.id, "agreement.refuse", Refusal(proposal=message.proposal, reason=reason)
        )
        return
    agreed = message.agreed(proposal, connection.agreed, keys=connection.peer_keys, project=connection.peer_project)
    if not agreed.namespaces:
        raise RemoteProtocolError("agreement", "nothing would be left by which to match")
    if (
        connection.our_acceptance is not None
        and Acceptance.decode(connection.our_acceptance).proposal < message.proposal
    ):
        return  # both accepted: the partner confirms ours of its proposal
    signature = agreed.sign(scope.home.sign)
    _put_in_force(scope, tx, connection, agreed, (proposal.offer, message.offer), (signature, message.signature))
    confirmation = handshake.Accept(agreement=agreed.digest(), signature=signature)
    Letters(scope).send(tx, connection.id, "agreement.confirm", confirmation)


def confirmed(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle agreement.confirm: the partner signed what we accepted, so it is in force here too."""
    assert isinstance(message, handshake.Accept)
    coming = _coming(connection)
    if coming is None:
        raise RemoteProtocolError("out_of_order", "nothing was waiting to be confirmed")
    agreed, proposal, acceptance = coming
    handshake.check_accept(message, agreed, keys=connection.peer_keys)
    offers, signatures = (acceptance.offer, proposal.offer), (acceptance.signature, message.signature)
    _put_in_force(scope, tx, connection, agreed, offers, signatures)


def refused(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle agreement.refuse: the partner does not want what we proposed, or knows no more of what we accepted."""
    assert isinstance(message, Refusal)
    reason = f": {printable(message.reason)}" if message.reason else ""
    if connection.our_proposal is not None and Proposal.decode(connection.our_proposal).digest() == message.proposal:
        note(tx, connection, our_proposal=None)
    elif (
        connection.our_acceptance is not None
        and Acceptance.decode(connection.our_acceptance).proposal == message.proposal
    ):
        note(tx, connection, **_void(connection), their_proposal=None)
    else:
        return
    text = f"{connection.alias} does not change the agreement{reason}; what was agreed before goes on"
    Alerts(scope).add(tx, AlertKind.AGREEMENT_DECLINED, text)


def ended(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Forget the changes that were under way over a connection that has ended."""
    note(tx, connection, **NONE)
    _settle(scope, tx, connection)


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
    """Handle agreement.held, which partners send to a restored node: take over what we signed and forgot."""
    assert isinstance(message, Held)
    if scope.row(tx).restored is None:
        raise RemoteProtocolError("out_of_order", "nothing was restored here")
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
    if agreed.digest() in _void_digests(connection):
        raise RemoteProtocolError("out_of_order", "what was accepted here has come to nothing since")
    if agreed.version > connection.agreed.version:
        _put_in_force(scope, tx, connection, agreed, (ours, theirs), (our_signature, their_signature))


def may_name(tx: Tx, connection: Connection, opening: Opening, now: int) -> bool:
    """Return whether an exchange may go on under the agreement that it was opened with.

    That is the one in force; for a day the one before; and the one that we accepted and the partner may have confirmed. What
    both sides match by in the exchange has to be the same in both.
    """
    if opening.agreement == connection.agreement_digest:
        return True
    query = select(agreements.c.agreement).where(
        agreements.c.connection_id == connection.id,
        agreements.c.agreement_digest == opening.agreement,
        agreements.c.until > now - DAY,
    )
    encoded, coming = tx.scalar(query), _coming(connection)
    other = None if encoded is None else Agreement.decode(encoded)
    if other is None and coming is not None and coming[0].digest() == opening.agreement:
        other = coming[0]
    if other is None:
        return False
    earlier, later = sorted((connection.agreed, other), key=lambda each: each.version)
    if opening.kind is Kind.RELEASE:
        return set(earlier.namespaces) <= set(later.namespaces)
    return opening.subject["namespace"] in set(earlier.namespaces) & set(later.namespaces)


def _coming(connection: Connection) -> tuple[Agreement, Proposal, Acceptance] | None:
    """Return the agreement that we accepted and that waits for the partner's confirmation."""
    if connection.our_acceptance is None or connection.their_proposal is None:
        return None
    proposal, acceptance = Proposal.decode(connection.their_proposal), Acceptance.decode(connection.our_acceptance)
    return proposal.agreement(connection.agreed, acceptance.offer), proposal, acceptance


def _void(connection: Connection) -> dict[str, bytes | None]:
    """Return the columns once what we accepted has come to nothing: the partner has our signature under it for ever."""
    if connection.our_acceptance is None:
        return {}
    digest = Acceptance.decode(connection.our_acceptance).agreement
    return {"our_acceptance": None, "void": (connection.void or b"") + digest}


def _void_digests(connection: Connection) -> list[bytes]:
    joined, size = connection.void or b"", len(connection.agreement_digest)
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def _put_in_force(
    scope: Scope,
    tx: Tx,
    connection: Connection,
    agreed: Agreement,
    offers: tuple[Offer, Offer],
    signatures: tuple[bytes, bytes],
) -> None:
    """Let an agreement take the place of the one before, which is kept. Offers and signatures: ours, theirs."""
    tx.execute(
        insert(agreements).values(
            id=scope.home.new_id(),
            connection_id=connection.id,
            version=connection.agreed.version,
            until=scope.home.now(),
            **{name: getattr(connection, name) for name in KEPT},
        )
    )
    change(
        scope.home,
        tx,
        connection,
        agreement=agreed.encode(),
        agreement_digest=agreed.digest(),
        our_offer=offers[0].encode(),
        their_offer=offers[1].encode(),
        our_signature=signatures[0],
        their_signature=signatures[1],
        **NONE,
    )
    _settle(scope, tx, connection)
    before, after = frozenset(connection.agreed.namespaces), frozenset(agreed.namespaces)
    for hook in handlers.AGREED if before != after else ():
        hook(scope, tx, by_id(scope, connection.id, tx), before - after)
    text = f"version {agreed.version} of the agreement with {connection.alias} is in force: both sides have signed it"
    Alerts(scope).add(tx, AlertKind.AGREEMENT_CHANGED, text)


def _differ(before: Offer, now: Offer) -> bool:
    return (before.terms, set(before.namespaces)) != (now.terms, set(now.namespaces))


def _about(connection: Connection) -> str:
    return f"{connection.alias} proposes to change the agreement"


def _settle(scope: Scope, tx: Tx, connection: Connection) -> None:
    Alerts(scope).settle(tx, AlertKind.AGREEMENT_PROPOSED, _about(connection))
