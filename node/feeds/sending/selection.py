"""What a run may release, and why the rest stays: a pure decision on a pinned snapshot."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from protocol.feed import Definition
from psi.values import Bools

from ...access.scope import Scope
from ...consent import consent_policies
from ...consent.consent_policies import ConsentPolicies
from ...governance.labels import Labels
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...people.touched import SomeIdentities
from ...segments import evaluation
from ...segments.segments import Segments
from ...storage.database import Tx
from .. import versions

FORMAT = 2  # counts up when another selection is made from the same, or what is kept of it changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a run may release: by namespace, the identities and their bitmaps; and why the others stay.

    Numbers are distinct identities of members, one namespace after the other: considered = sent + unconsented + small.
    Who meets the consent policies of none of their segments is among the unconsented.
    """

    audiences: dict[str, audiences.Audience]
    considered: int
    unconsented: int
    small: int
    small_segments: list[str]
    allowed: Mapping[str, list[int]] = field(default_factory=dict)
    """By namespace, in each segment, how many identities may leave if it is large enough."""

    @property
    def sent(self) -> int:
        """How many identities a run releases."""
        return sum(len(audience.values) for audience in self.audiences.values())


def inputs(
    scope: Scope, connection: Connection, definition: Definition, snapshot: Snapshot, model: str, *, tx: Tx
) -> str:
    """Return a digest of all that `select_members` decides from, and the rules before it: while it is the same, evaluating
    the rules again and selecting again would end as before.

    Files of a snapshot never change, so their names stand for them. The clock is in none of it, but for received members
    whose time is over: these have another stamp.
    """
    people = sorted(replace(snapshot.content, touched=()).document().items())
    found = [beside(scope, connection, definition, model, tx=tx), people]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def beside(scope: Scope, connection: Connection, definition: Definition, model: str, *, tx: Tx) -> str:
    """Return a digest of what `inputs` has beside the people themselves."""
    names = [segment.name for segment in definition.segments]
    found = [
        FORMAT,
        definition.digest().hex(),
        sorted(versions.matched_by(definition, connection)),
        connection.terms.minimum_segment,
        model,
        evaluation.read_by_rules(scope, tx),
        consent_policies.stored(scope, tx),
        [sorted(Labels(scope).labels_of_segment(name, tx)) for name in names],
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def select_members(
    scope: Scope,
    connection: Connection,
    definition: Definition,
    snapshot: Snapshot,
    model: str,
    *,
    tx: Tx | None = None,
) -> Selection:
    """Decide what may leave with a version of a feed to a partner."""
    names = [segment.name for segment in definition.segments]
    members = [Segments(scope).all_members(name, snapshot, tx) for name in names]
    qualified = ConsentPolicies(scope).qualified(names, snapshot, tx=tx)
    everyone = {
        each: audiences.members_in(snapshot, each, members, model=model, qualified=qualified)
        for each in versions.matched_by(definition, connection)
    }
    found = {name: audience.take(np.asarray(audience.segments.any(axis=0))) for name, audience in everyone.items()}
    return choose(found, names, minimum=minimum_of(connection))


def minimum_of(connection: Connection) -> int:
    """Return how many identities that may leave a segment has to have."""
    return max(1, connection.terms.minimum_segment)


def found_in(
    scope: Scope, some: SomeIdentities, names: Sequence[str], model: str, *, tx: Tx
) -> dict[str, audiences.Audience]:
    """Return the members of segments by namespace, of some identities of a generation and by all of their holders."""
    members = [Segments(scope).all_members(name, some, tx) for name in names]
    qualified = ConsentPolicies(scope).qualified(names, some, only=some.holders, tx=tx)
    return {
        each: audiences.audience(some, each, members, model=model, qualified=qualified) for each in sorted(some.places)
    }


def choose(found: Mapping[str, audiences.Audience], names: Sequence[str], *, minimum: int) -> Selection:
    """Choose from the members of segments, by namespace, those that may leave: all their profiles may be shared and meet
    the segment's consent policies, and the segment has `minimum` such members in one of the namespaces.
    """
    counts = {namespace: counted(audience) for namespace, audience in found.items()}
    return replace(
        keep_large(found, names, enough(counts, minimum) if counts else np.zeros(len(names), bool)), allowed=counts
    )


def counted(audience: audiences.Audience) -> list[int]:
    """Return how many identities may leave with each segment."""
    return [int(each) for each in audience.allowed().sum(axis=1)]


def enough(counts: Mapping[str, list[int]], minimum: int) -> Bools:
    """Return which segments have so many identities that may leave, in one of the namespaces."""
    return np.asarray((np.array([*counts.values()]) >= minimum).any(axis=0))


def keep_large(found: Mapping[str, audiences.Audience], names: Sequence[str], large: Bools) -> Selection:
    """Choose as `choose` does, where it is known which segments are large enough."""
    chosen, allowed_somewhere = {}, 0
    for namespace, audience in found.items():
        allowed = audience.allowed()
        allowed_somewhere += int(allowed.any(axis=0).sum())
        kept = replace(audience, segments=allowed & large[:, None], qualified=None)
        chosen[namespace] = kept.take(np.asarray(kept.segments.any(axis=0)))
    considered, sent = (sum(len(each.values) for each in group.values()) for group in (found, chosen))
    return Selection(
        audiences=chosen,
        considered=considered,
        unconsented=considered - allowed_somewhere,
        small=allowed_somewhere - sent,
        small_segments=sorted(name for name, fits in zip(names, large, strict=True) if not fits),
    )
