"""What lower rooms ask of the segments that other projects share with one: who is in one, its labels, what is restricted."""

from collections.abc import Iterable

from pyroaring import BitMap

from ...access.scope import Scope
from ...errors import NotFound
from ...governance.lineage import Lineage, Place, PlaceKind, place_of
from ...governance.ports import Restriction
from ...people.snapshots import Snapshot
from ...segments.references import Picked
from ...storage.database import Tx
from . import shares
from .shares import Share


class SharedSegments:
    """A kind of reference in rules, "shared.PROJECT.SEGMENT", and the port `Incoming` of governance."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._labels: dict[str, list[str]] = {}

    def members(self, tx: Tx, snapshot: Snapshot, name: str) -> BitMap:
        return snapshot.members(shares.get(self._scope, tx, name).id)

    def names(self, tx: Tx) -> list[str]:
        return [each.target for each in shares.used_by(self._scope, tx)]

    def pick(self, tx: Tx, name: str) -> Picked | None:
        place = place_of(name)
        if place is None or place.kind is not PlaceKind.SHARED:
            return None
        return _picked(shares.get(self._scope, tx, place.target))

    def pickable(self, tx: Tx) -> list[Picked]:
        found = shares.used_by(self._scope, tx)
        return [_picked(each) for each in found if shares.why_not(self._scope.home, tx, each) is None]

    def stamp(self, tx: Tx) -> list[tuple[str, str, str | None]]:
        return [(each.target, each.id, each.basis) for each in shares.used_by(self._scope, tx)]

    def missing(self, name: str) -> NotFound:
        return shares.not_shared(name)

    def labels_at(self, tx: Tx, name: str) -> Iterable[str]:
        if name not in self._labels:
            share = shares.find(self._scope, tx, name)
            self._labels[name] = [] if share is None else labels(self._scope, tx, share)
        return self._labels[name]

    def labels_of(self, tx: Tx, name: str) -> Iterable[str]:
        return self.labels_at(tx, name)

    def sees(self, tx: Tx, name: str) -> bool:
        return True

    def restrictions(self, tx: Tx) -> list[Restriction]:
        return [
            Restriction(
                title=f"the project of {each.reference}",
                unseen_title="another project",
                feed=None,
                places=(Place(kind=PlaceKind.SHARED, target=each.target),),
                uses=frozenset(restricted(self._scope, tx, each)),
            )
            for each in shares.used_by(self._scope, tx)
        ]


def labels(scope: Scope, tx: Tx, share: Share) -> list[str]:
    """Return the labels that a segment has in its own project, put there or inherited."""
    return sorted(Lineage(share.source_scope(scope.home), tx).labels(PlaceKind.SEGMENT, share.segment))


def restricted(scope: Scope, tx: Tx, share: Share) -> set[str]:
    """Return the uses that are restricted of a segment, by its project or by those from whose segments it is made there."""
    source = share.source_scope(scope.home)
    below = Lineage(source, tx).shared_in(Place(kind=PlaceKind.SEGMENT, target=share.segment))
    made_of = (each for each in shares.used_by(source, tx) if each.target in below)
    return {*share.restricted_uses}.union(*(restricted(source, tx, each) for each in made_of))


def _picked(share: Share) -> Picked:
    return Picked(id=share.id, name=share.reference, kind="shared", size=share.size, evaluated=share.evaluated)
