"""What a run may release, and why the rest stays: a pure decision on a pinned snapshot."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from protocol.feed import Definition
from psi.hashing import length_prefixed

from ...access.scope import Scope
from ...consent.consent_policies import ConsentPolicies
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...segments.segments import Segments
from ...storage.cache import Epoch
from .. import versions


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

    def digest(self, definition: Definition, epoch: Epoch) -> bytes:
        """Return a digest of what a run releases, 32 bytes: where it is the same as at the last run, nothing has changed."""
        parts = [definition.digest(), str(epoch.number).encode()]
        for namespace, audience in sorted(self.audiences.items()):
            parts += [namespace.encode(), audience.values.digest(), audience.segments.tobytes()]
        return hashlib.sha256(length_prefixed(*parts)).digest()

    @property
    def sent(self) -> int:
        """How many identities a run releases."""
        return sum(len(audience.values) for audience in self.audiences.values())


def select_members(
    scope: Scope, connection: Connection, definition: Definition, snapshot: Snapshot, model: str
) -> Selection:
    """Decide what may leave with a version of a feed to a partner."""
    names = [segment.name for segment in definition.segments]
    members = [Segments(scope).all_members(name, snapshot) for name in names]
    qualified = ConsentPolicies(scope).qualified(names, snapshot)
    found = {
        each: audiences.audience(snapshot, each, members, model=model, qualified=qualified)
        for each in versions.matched_by(definition, connection)
    }
    return choose(found, names, minimum=max(1, connection.terms.minimum_segment))


def choose(found: Mapping[str, audiences.Audience], names: Sequence[str], *, minimum: int) -> Selection:
    """Choose from the members of segments, by namespace, those that may leave: all their profiles may be shared and meet
    the segment's consent policies, and the segment has `minimum` such members in one of the namespaces.
    """
    may = {namespace: audience.shareable() for namespace, audience in found.items()}
    large = np.zeros(len(names), bool)
    for allowed in may.values():
        large |= allowed.segments.sum(axis=1) >= minimum
    chosen = {}
    for namespace, allowed in may.items():
        kept = replace(allowed, segments=allowed.segments & large[:, None])
        chosen[namespace] = kept.take(np.asarray(kept.segments.any(axis=0)))
    return Selection(
        audiences=chosen,
        considered=sum(len(audience.values) for audience in found.values()),
        unconsented=sum(len(found[each].values) - len(allowed.values) for each, allowed in may.items()),
        small=sum(len(allowed.values) - len(chosen[each].values) for each, allowed in may.items()),
        small_segments=sorted(name for name, fits in zip(names, large, strict=True) if not fits),
    )
