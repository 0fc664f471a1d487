"""Terms, offers and the agreement that both sides sign before any data moves: the stricter side wins."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Self

from psi.errors import Remedy

from .connectid import check_address
from .errors import InvalidConnectId, LocalProtocolError, Malformed, RemoteProtocolError
from .wire import Digest, Document, Id, Limit, Message, Moment, Namespace, Number, PublicKey, Short, Signature, Text

AD_HOC = "ad-hoc"  # how both sides of a session without nodes call themselves: it says nothing about who they are
Days = Annotated[int, Limit(1, 3650)]
OFFERED_NAMESPACES = 32  # at most: a request has two such lists in its 16 KiB
Namespaces = Annotated[tuple[Namespace, ...], Limit(0, 64)]  # older agreements have more


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms(Message):
    """What one side insists on. Minimums and the maximum count distinct identities of one side in one
    namespace.

    Each published count spends `epsilon`; None publishes exact counts, which both sides have to want. Everything that one
    organisation may use up is counted in `window_days`: `budget` is the epsilon of its counts, `generations` the universes
    shown, `evaluations` the points evaluated, as a multiple of the universe agreed for it. Keys live for `epoch_days`, and
    their end refills nothing. A window is no shorter than an epoch: budget that a partner lost by cheating comes back only
    when the universes that it probed are gone.
    """

    TYPE: ClassVar[str] = "terms"
    minimum_universe: Number = 1_000
    minimum_segment: Number = 1_000
    minimum_overlap: Number = 1_000
    maximum_universe: Number = 10_000_000
    epsilon: Fraction | None = Fraction(1, 20)
    budget: Fraction = Fraction(2)
    window_days: Days = 30
    generations: Annotated[int, Limit(1, 1000)] = 8
    evaluations: Fraction = Fraction(6, 5)
    epoch_days: Days = 30

    def check(self) -> None:
        if self.window_days < self.epoch_days:
            raise Malformed("terms: window_days is less than epoch_days")

    def as_dict(self) -> Document:
        """Return the fields as JSON can hold them (fractions as text, such as "1/20")."""
        return self.document()

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> Self:
        """Return the defaults with `fields` in their place. Raise LocalProtocolError for a bad name or value."""
        try:
            return cls.from_document({**cls().document(), **fields})
        except Malformed as error:
            raise LocalProtocolError(
                f"these terms cannot be used: {error}",
                hint="see the terms that are set now",
                remedy=Remedy("project.terms"),
            ) from error


def strictest(ours: Terms, theirs: Terms) -> Terms:
    """Return the terms that satisfy both: for each term the side that allows less, so neither weakens a limit of the other.

    The epoch is the shorter one, since keys that live shorter open less. That is safe only because no limit is counted by
    epochs, but in the longer window.
    """
    epsilons = [epsilon for epsilon in (ours.epsilon, theirs.epsilon) if epsilon is not None]
    return Terms(
        minimum_universe=max(ours.minimum_universe, theirs.minimum_universe),
        minimum_segment=max(ours.minimum_segment, theirs.minimum_segment),
        minimum_overlap=max(ours.minimum_overlap, theirs.minimum_overlap),
        maximum_universe=min(ours.maximum_universe, theirs.maximum_universe),
        epsilon=min(epsilons, default=None),
        budget=min(ours.budget, theirs.budget),
        window_days=max(ours.window_days, theirs.window_days),
        generations=min(ours.generations, theirs.generations),
        evaluations=min(ours.evaluations, theirs.evaluations),
        epoch_days=min(ours.epoch_days, theirs.epoch_days),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(Message):
    """What a project says of itself before it is accepted: no identity, count or segment name.

    `address` is HOST:PORT or empty (then the other side is always called by this one).
    """

    TYPE: ClassVar[str] = "offer"
    organisation: Short
    project_name: Short
    key: PublicKey
    project: Id
    address: Annotated[str, Limit(0, 255)]
    proxy: bool
    terms: Terms
    namespaces: Namespaces
    nonce: Digest

    @property
    def is_ad_hoc(self) -> bool:
        """Whether it is from a session without nodes, whose Connect ID is good for one match."""
        return self.organisation == self.project_name == AD_HOC

    def check(self) -> None:
        if len(set(self.namespaces)) != len(self.namespaces):
            raise Malformed("offer: repeated namespaces")
        check_stated_address(self.address, self.TYPE)


def check_stated_address(address: str, type_: str) -> None:
    """Raise Malformed unless the address in a message of a type is HOST:PORT or empty."""
    try:
        if address:
            check_address(address)
    except InvalidConnectId as error:
        raise Malformed(f"{type_}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement(Message):
    """What both signed. Everything that moves later names its digest; a change is a new agreement.

    `requester` and `accepter` are the digests of the two offers, `namespaces` those that both offered under one rule.
    """

    TYPE: ClassVar[str] = "agreement"
    version: Annotated[int, Limit(1, 2**31 - 1)] = 1
    connection: Id
    requester: Digest
    accepter: Digest
    terms: Terms
    namespaces: Namespaces
    made: Moment

    @classmethod
    def merge(cls, requester: Offer, accepter: Offer, *, connection: bytes, made: int, version: int = 1) -> Self:
        """Return the one agreement that follows from two offers: both sides compute the same."""
        return cls(
            version=version,
            connection=connection,
            requester=requester.digest(),
            accepter=accepter.digest(),
            terms=strictest(requester.terms, accepter.terms),
            namespaces=tuple(sorted(set(requester.namespaces) & set(accepter.namespaces))),
            made=made,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal(Message):
    """One side would like to change the agreement with the digest `base`: this is what it offers now."""

    TYPE: ClassVar[str] = "agreement-proposal"
    base: Digest
    offer: Offer
    made: Moment

    def agreement(self, base: Agreement, accepter: Offer) -> Agreement:
        """Return what follows once the other side accepts with its own offer of that moment: the next version."""
        return Agreement.merge(
            self.offer, accepter, connection=base.connection, made=self.made, version=base.version + 1
        )

    def check_follows(self, base: Agreement, *, keys: Collection[bytes], project: bytes) -> None:
        """Raise RemoteProtocolError unless it changes this agreement, and is of the node and project that made it.

        `keys` are those that the node has had.
        """
        if self.base != base.digest():
            raise RemoteProtocolError("agreement", "the proposal changes another agreement than the one in force")
        if self.offer.key not in keys or self.offer.project != project:
            raise RemoteProtocolError("agreement", "the proposal is of another node or project")


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance(Message):
    """The other side accepts the proposal with the digest `proposal`, with its own offer, and signs what follows.

    The offer's nonce is that digest.
    """

    TYPE: ClassVar[str] = "agreement-acceptance"
    proposal: Digest
    offer: Offer
    agreement: Digest
    signature: Signature

    def check(self) -> None:
        if self.offer.nonce != self.proposal:
            raise Malformed("agreement-acceptance: the offer is for another proposal")

    def agreed(self, proposal: Proposal, base: Agreement, *, keys: Collection[bytes], project: bytes) -> Agreement:
        """Return the agreement that both sides have accepted; raises RemoteProtocolError if this does not follow from both."""
        found = proposal.agreement(base, self.offer)
        if self.offer.key not in keys or self.offer.project != project or found.digest() != self.agreement:
            raise RemoteProtocolError("agreement", "what the partner accepted does not follow from both offers")
        found.verify(self.signature, *keys)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Message):
    """The other side refuses the proposal with the digest `proposal`, or does not know it any more."""

    TYPE: ClassVar[str] = "agreement-refusal"
    proposal: Digest
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Message):
    """The agreement in force, for a partner that was restored from a backup, which recognises it by its own signature."""

    TYPE: ClassVar[str] = "agreement-held"
    agreement: Agreement
    requester: Offer
    accepter: Offer
    requester_signature: Signature
    accepter_signature: Signature

    def verify_follows(self) -> None:
        """Raise RemoteProtocolError unless the agreement follows from both offers; who signed it the caller knows."""
        made = self.agreement
        follows = Agreement.merge(
            self.requester, self.accepter, connection=made.connection, made=made.made, version=made.version
        )
        if follows != made:
            raise RemoteProtocolError("agreement", "the agreement does not follow from the offers")


def mismatches(ours: Offer, theirs: Offer) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return (namespace, our rules, their rules) for each namespace that both have, but under no common rule."""
    our_rules, their_rules = _rules(ours), _rules(theirs)
    return [
        (namespace, our_rules[namespace], their_rules[namespace])
        for namespace in sorted(our_rules.keys() & their_rules.keys())
        if not set(our_rules[namespace]) & set(their_rules[namespace])
    ]


def _rules(offer: Offer) -> dict[str, tuple[str, ...]]:
    rules: dict[str, tuple[str, ...]] = {}
    for namespace, _, rule in (name.partition("/") for name in sorted(offer.namespaces)):
        rules[namespace] = (*rules.get(namespace, ()), rule)
    return rules
