"""Terms, offers and the agreement that both sides sign before any data moves: the stricter side wins."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Self

from psi.errors import Remedy

from .connectid import check_address
from .errors import InvalidConnectId, LocalProtocolError, Malformed
from .wire import Digest, Document, Id, Limit, Message, Moment, Namespace, Number, PublicKey, Short

Days = Annotated[int, Limit(1, 3650)]
Namespaces = Annotated[tuple[Namespace, ...], Limit(0, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms(Message):
    """What one side insists on. Minimums and the maximum count distinct identities of one side in one
    namespace.

    Each published count spends `epsilon`; None publishes exact counts, which both sides have to want. `budget` is what
    one partner may spend in `window_days`. `generations` limits the universes shown in an epoch; `evaluations` limits
    the points evaluated in an epoch, as a multiple of the universe agreed for it. A window is no shorter than an epoch:
    budget that a partner lost by cheating comes back only when the universes that it probed are gone.
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
    """Return the terms that satisfy both."""
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

    def check(self) -> None:
        if len(set(self.namespaces)) != len(self.namespaces):
            raise Malformed("offer: repeated namespaces")
        try:
            if self.address:
                check_address(self.address)
        except InvalidConnectId as error:
            raise Malformed(f"offer: {error}") from error


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
