"""What a run may release, and why the rest stays: a pure decision on a pinned snapshot."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Row

from protocol.agreement import Agreement
from protocol.feed import Definition
from psi.hashing import length_prefixed

from ...partners.key_epochs import Epoch
from ...people import audiences
from ...people.data import Snapshot

if TYPE_CHECKING:
    from ...project import Project


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a run may release: by namespace, the identities and their bitmaps; and why the others stay.

    Numbers are distinct identities of members, one namespace after the other: considered = sent + unconsented + small.
    Whoever meets the consent policies of none of their segments is among the unconsented.
    """

    audiences: dict[str, audiences.Audience]
    considered: int
    unconsented: int
    small: int
    small_segments: list[str]

    def digest(self, definition: Definition, epoch: Epoch) -> bytes:
        """Return what tells whether anything changed since the last run (32 bytes)."""
        parts = [definition.digest(), str(epoch.number).encode()]
        for namespace, audience in sorted(self.audiences.items()):
            parts += [namespace.encode(), audience.values.digest(), audience.segments.tobytes()]
        return hashlib.sha256(length_prefixed(*parts)).digest()

    def report(self) -> dict[str, Any]:
        sent = sum(len(audience.values) for audience in self.audiences.values())
        return {
            "considered": self.considered,
            "without_consent": self.unconsented,
            "in_small_segments_only": self.small,
            "sent": sent,
            "small_segments": self.small_segments,
        }


def select_members(
    project: "Project", connection: Row[Any], definition: Definition, snapshot: Snapshot, model: str
) -> Selection:
    """Decide what may leave: members whose every holder may be shared and meets the segment's consent policies, of
    segments that are large enough."""
    minimum = max(1, Agreement.decode(connection.agreement).terms.minimum_segment)
    names = [segment.name for segment in definition.segments]
    members = [project.segments.members(name, snapshot) for name in names]
    chosen: dict[str, audiences.Audience] = {}
    considered, unconsented, small = 0, 0, 0
    too_small = set(names)
    qualified = project.consent_policies.qualified(names, snapshot)
    found = {
        each: audiences.audience(snapshot, each, members, model=model, qualified=qualified)
        for each in definition.namespaces
    }
    may = {namespace: audience.shareable() for namespace, audience in found.items()}
    for allowed in may.values():
        sizes = allowed.segments.sum(axis=1)
        too_small -= {name for name, size in zip(names, sizes, strict=True) if size >= minimum}
    keep = np.array([name not in too_small for name in names], bool)
    for namespace, audience in found.items():
        allowed = may[namespace]
        large = audiences.Audience(
            values=allowed.values, segments=allowed.segments & keep[:, None], consented=allowed.consented
        )
        sent = large.take(np.asarray(large.segments.any(axis=0)))
        chosen[namespace] = sent
        considered += len(audience.values)
        unconsented += len(audience.values) - len(allowed.values)
        small += len(allowed.values) - len(sent.values)
    return Selection(
        audiences=chosen,
        considered=considered,
        unconsented=unconsented,
        small=small,
        small_segments=sorted(too_small),
    )
