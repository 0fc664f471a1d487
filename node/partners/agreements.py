"""Changes of an agreement: one side proposes what it offers now, the other accepts with its own offer, the first confirms.

    proposer -> accepter   agreement.propose   its offer
    accepter -> proposer   agreement.accept    its own offer, and its signature over what follows; or agreement.refuse
    proposer -> accepter   agreement.confirm   the other signature

What follows is the stricter of both offers, so the proposer needs no second look. It is in force at the proposer when it
confirms, at the accepter with the confirmation. Until then the version before is in force, and exchanges may name either. If
both sides accepted the other's proposal, that with the smaller digest holds: both know both.

Either side takes back what it proposed or accepted, by agreement.refuse. A proposal is accepted and an acceptance confirmed for
so many days. A confirmation that comes later, or of what was taken back, or of weaker terms than the project asks for by then,
waits for a person: the partner had both signatures before it heard of that, or says so.
"""

from dataclasses import dataclass

from sqlalchemy import select

from protocol import handshake
from protocol.agreement import Acceptance, Agreement, Offer, Proposal, Refusal, strictest
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
from .agreements_in_force import ACCEPTED, NONE, about, named, put_in_force, settle
from .connecting import offer
from .connections import Connection, note
from .letters import Letters

OPEN_DAYS = 30  # how long a proposal can be accepted, and an acceptance confirmed


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
            "proposed_terms": self.proposal.offer.terms.as_dict(),
            "namespaces_before": list(before.namespaces),
            "namespaces": list(after.namespaces),
            "only_proposed": [each for each in self.proposal.offer.namespaces if each not in after.namespaces],
            "only_ours": [each for each in self.ours.namespaces if each not in after.namespaces],
        }


def next_change(scope: Scope, connection: Connection, tx: Tx | None = None) -> Change:
    """Return the change that `agree` makes; raises NotAllowed where there is none, or one is on its way."""
    base, now = connection.agreed, scope.home.now()
    signed = _signed(connection)
    if signed is not None and connection.confirmation is not None:
        agreed, proposal, acceptance = signed
        return Change(proposal=proposal, ours=acceptance.offer, agreement=agreed, theirs=True)
    if is_accepted(connection, now):
        raise NotAllowed(
            f"{connection.alias} has not confirmed yet what you accepted",
            hint="fetch its letters, or take back what you accepted",
            remedy=Remedy("node.sync"),
        )
    if connection.their_proposal is not None and signed is None:
        proposal = Proposal.decode(connection.their_proposal)
        ours = offer(scope, proposal.digest(), tx)
        found, theirs = proposal.agreement(base, ours), True
    else:
        ours = offer(scope, scope.home.random(32), tx)
        proposal = Proposal(base=connection.agreement_digest, offer=ours, made=now)
        found, theirs = proposal.agreement(base, Offer.decode(connection.their_offer)), False
        agreed_on = None if connection.our_offer is None else Offer.decode(connection.our_offer)
        if not is_proposed(connection, now) and agreed_on is not None and not _differ(agreed_on, ours):
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
    """Sign what follows from the partner's proposal and our offer; it is in force once the partner has confirmed.

    What it has confirmed late is in force at once.
    """
    if connection.confirmation is not None:
        signed = _signed(connection)
        assert signed is not None
        _, proposal, acceptance = signed
        offers, signatures = (acceptance.offer, proposal.offer), (acceptance.signature, connection.confirmation)
        put_in_force(scope, tx, connection, made.agreement, offers, signatures)
        return
    acceptance = Acceptance(
        proposal=made.proposal.digest(),
        offer=made.ours,
        agreement=made.agreement.digest(),
        signature=made.agreement.sign(scope.home.sign),
    )
    note(tx, connection, our_acceptance=acceptance.encode(), accepted=scope.home.now())
    Letters(scope).send(tx, connection.id, "agreement.accept", acceptance)
    settle(scope, tx, connection)


def decline(scope: Scope, tx: Tx, connection: Connection, reason: str) -> bool:
    """Take back what we accepted, else decline what the partner has proposed, else take back what we proposed.

    Return whether it was the partner's: its proposal, or a confirmation that came late. Raises NotAllowed where nothing is
    under way.
    """
    letters, signed = Letters(scope), _signed(connection)
    if signed is not None and (connection.confirmation is not None or connection.accepted is not None):
        refusal = Refusal(proposal=signed[2].proposal, reason=reason)
        if connection.confirmation is None:  # the partner may have signed it already: its confirmation would say so
            note(tx, connection, accepted=None, void=_with_void(connection))
            letters.send_instead(tx, connection.id, "agreement.accept", "agreement.refuse", refusal)
            if connection.our_proposal is not None:  # whose acceptance may cross that confirmation
                _take_back(scope, tx, connection, reason)
            return False
        note(tx, connection, **_void(connection), their_proposal=None)
        letters.send(tx, connection.id, "agreement.refuse", refusal)
        settle(scope, tx, connection)
        return True
    if connection.their_proposal is not None and signed is None:
        refusal = Refusal(proposal=Proposal.decode(connection.their_proposal).digest(), reason=reason)
        note(tx, connection, their_proposal=None)
        letters.send(tx, connection.id, "agreement.refuse", refusal)
        settle(scope, tx, connection)
        return True
    if connection.our_proposal is None:
        raise nothing_proposed(connection)
    _take_back(scope, tx, connection, reason)
    return False


def _take_back(scope: Scope, tx: Tx, connection: Connection, reason: str) -> None:
    """Take back what we proposed."""
    assert connection.our_proposal is not None
    refusal = Refusal(proposal=Proposal.decode(connection.our_proposal).digest(), reason=reason)
    note(tx, connection, our_proposal=None)
    Letters(scope).send(tx, connection.id, "agreement.refuse", refusal)


def nothing_proposed(connection: Connection) -> NotAllowed:
    """Return what says that there is no proposal to answer."""
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
        refusal = Refusal(proposal=message.digest(), reason=reason)
        Letters(scope).send_newest(tx, connection.id, "agreement.refuse", refusal)
        return
    message.check_follows(connection.agreed, keys=connection.peer_keys, project=connection.peer_project)
    # what we accepted before, the partner had not heard of when it wrote this: it will not confirm it
    note(tx, connection, **_void(connection), their_proposal=message.encode())
    settle(scope, tx, connection)
    text, remedy = (
        f"{about(connection)}: look at it, then accept or decline",
        Remedy("partner.agree", named(connection)),
    )
    Alerts(scope).add(tx, AlertKind.AGREEMENT_PROPOSED, text, remedy=remedy)


def accepted(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle agreement.accept: what follows from both offers is in force, and the partner gets our signature."""
    assert isinstance(message, Acceptance)
    proposal = None if connection.our_proposal is None else Proposal.decode(connection.our_proposal)
    if proposal is None or proposal.digest() != message.proposal:  # replaced since, or forgotten by a restore
        reason = "this is not what is proposed now"
        refusal = Refusal(proposal=message.proposal, reason=reason)
        Letters(scope).send_newest(tx, connection.id, "agreement.refuse", refusal)
        return
    agreed = message.agreed(proposal, connection.agreed, keys=connection.peer_keys, project=connection.peer_project)
    if not agreed.namespaces:
        raise RemoteProtocolError("agreement", "nothing would be left by which to match")
    if too_late := _too_late(scope, tx, proposal.offer, since=proposal.made):
        note(tx, connection, our_proposal=None)
        refusal = Refusal(proposal=message.proposal, reason=f"the side that proposed it {too_late}")
        Letters(scope).send_newest(tx, connection.id, "agreement.refuse", refusal)
        text = f"{connection.alias} accepted what you proposed, but this project {too_late}: propose what it offers now"
        Alerts(scope).add(tx, AlertKind.AGREEMENT_DECLINED, text, remedy=Remedy("partner.agree", named(connection)))
        return
    ours = connection.our_acceptance if is_accepted(connection, scope.home.now()) else None
    if ours is not None and Acceptance.decode(ours).proposal < message.proposal:
        return  # both accepted: the partner confirms ours of its proposal
    signature = agreed.sign(scope.home.sign)
    put_in_force(scope, tx, connection, agreed, (proposal.offer, message.offer), (signature, message.signature))
    confirmation = handshake.Accept(agreement=agreed.digest(), signature=signature)
    Letters(scope).send(tx, connection.id, "agreement.confirm", confirmation)


def confirmed(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle agreement.confirm: the partner signed what we accepted, so it is in force here too, unless it comes too late."""
    assert isinstance(message, handshake.Accept)
    signed = _signed(connection)
    if signed is None:
        raise RemoteProtocolError("out_of_order", "nothing was waiting to be confirmed")
    agreed, proposal, acceptance = signed
    handshake.check_accept(message, agreed, keys=connection.peer_keys)
    late = "took it back"
    if connection.accepted is not None:
        late = _too_late(scope, tx, acceptance.offer, since=connection.accepted)
    if late:
        note(tx, connection, confirmation=message.signature)
        settle(scope, tx, connection)
        text = (
            f"{about(connection)}: it confirms what you accepted, but this project {late}; accept it again, or decline"
        )
        remedy = Remedy("partner.agree", named(connection))
        Alerts(scope).add(tx, AlertKind.AGREEMENT_PROPOSED, text, remedy=remedy)
        return
    offers, signatures = (acceptance.offer, proposal.offer), (acceptance.signature, message.signature)
    put_in_force(scope, tx, connection, agreed, offers, signatures)


def refused(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle agreement.refuse: the partner does not want what we proposed, or takes back what it proposed or accepted."""
    assert isinstance(message, Refusal)
    reason = f": {printable(message.reason)}" if message.reason else ""
    text = f"{connection.alias} does not change the agreement{reason}; what was agreed before goes on"
    signed = _signed(connection)
    if _is(connection.our_proposal, message.proposal):
        note(tx, connection, our_proposal=None)
    elif signed is not None and signed[2].proposal == message.proposal:
        note(tx, connection, **_void(connection), their_proposal=None)
        settle(scope, tx, connection)
    elif _is(connection.their_proposal, message.proposal):
        note(tx, connection, their_proposal=None)
        settle(scope, tx, connection)
    elif Offer.decode(connection.their_offer).nonce == message.proposal:  # it took back what we had confirmed already
        text = (
            f"{connection.alias} does not take part in version {connection.agreed.version} of the agreement, which both "
            f"signed{reason}; nothing can be exchanged until it accepts that again; otherwise disconnect"
        )
    else:
        return
    Alerts(scope).add(tx, AlertKind.AGREEMENT_DECLINED, text)


def ended(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Forget the changes that were under way over a connection that has ended."""
    note(tx, connection, **NONE)
    settle(scope, tx, connection)


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
    encoded, signed = tx.scalar(query), _signed(connection) if is_accepted(connection, now) else None
    other = None if encoded is None else Agreement.decode(encoded)
    if other is None and signed is not None and signed[0].digest() == opening.agreement:
        other = signed[0]
    if other is None:
        return False
    earlier, later = sorted((connection.agreed, other), key=lambda each: each.version)
    if opening.kind is Kind.RELEASE:
        return set(earlier.namespaces) <= set(later.namespaces)
    return opening.subject["namespace"] in set(earlier.namespaces) & set(later.namespaces)


def waits_for_us(connection: Connection) -> bool:
    """Return whether a person may accept or decline: what the partner has proposed, or has confirmed late."""
    new = connection.their_proposal is not None and connection.our_acceptance is None
    return new or connection.confirmation is not None


def is_accepted(connection: Connection, now: int) -> bool:
    """Return whether we accepted a change that the partner may still confirm."""
    return connection.accepted is not None and now < connection.accepted + OPEN_DAYS * DAY


def is_proposed(connection: Connection, now: int) -> bool:
    """Return whether we proposed a change that the partner may still accept."""
    proposal = connection.our_proposal
    return proposal is not None and now < Proposal.decode(proposal).made + OPEN_DAYS * DAY


def _too_late(scope: Scope, tx: Tx, offered: Offer, *, since: int) -> str:
    """Return why what this project offered then is not to come into force without a person; empty if it is."""
    if scope.home.now() >= since + OPEN_DAYS * DAY:
        return f"has offered it over {OPEN_DAYS} days ago"
    wanted = offer(scope, offered.nonce, tx).terms
    return "asks for stricter terms now" if strictest(wanted, offered.terms) != offered.terms else ""


def _is(proposal: bytes | None, digest: bytes) -> bool:
    return proposal is not None and Proposal.decode(proposal).digest() == digest


def _signed(connection: Connection) -> tuple[Agreement, Proposal, Acceptance] | None:
    """Return the agreement that we accepted and that is not in force, also one that we took back."""
    if connection.our_acceptance is None or connection.their_proposal is None:
        return None
    proposal, acceptance = Proposal.decode(connection.their_proposal), Acceptance.decode(connection.our_acceptance)
    return proposal.agreement(connection.agreed, acceptance.offer), proposal, acceptance


def _void(connection: Connection) -> dict[str, bytes | None]:
    """Return the columns once what we accepted has come to nothing."""
    if connection.our_acceptance is None:
        return {}
    return {**dict.fromkeys(ACCEPTED), "void": _with_void(connection)}


def _with_void(connection: Connection) -> bytes:
    """Return the digests of what came to nothing, with what we accepted: the partner has our signature under it for ever."""
    assert connection.our_acceptance is not None
    digest = Acceptance.decode(connection.our_acceptance).agreement
    return (connection.void or b"") + (b"" if digest in void_digests(connection) else digest)


def void_digests(connection: Connection) -> list[bytes]:
    """Return the digests of what we accepted, and what came to nothing, since the agreement in force."""
    joined, size = connection.void or b"", len(connection.agreement_digest)
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def _differ(before: Offer, now: Offer) -> bool:
    return (before.terms, set(before.namespaces)) != (now.terms, set(now.namespaces))
