"""What lower rooms ask of the segments that partners share with us: who is in one, its labels, what is restricted."""

from collections.abc import Iterable

from pyroaring import BitMap

from ...access.scope import Scope
from ...errors import NotFound
from ...governance.lineage import Place, PlaceKind, Uses
from ...governance.policies import SHARING
from ...governance.ports import Restriction
from ...people.snapshots import Snapshot
from ...segments.references import Picked
from ...storage.database import Tx
from . import received_feeds
from .membership_files import rows
from .memberships import Memberships, not_received
from .received import Received


class ReceivedSegments:
    """A kind of reference in rules, "received.PARTNER.SEGMENT", and the port `Incoming` of governance."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._labels: Uses | None = None

    def members(self, tx: Tx, snapshot: Snapshot, name: str) -> BitMap:
        return Memberships(self._scope).members(*_parts(name), tx)

    def names(self, tx: Tx) -> set[str]:
        return {
            f"{connection.alias}.{row.name}"
            for connection, feed in received_feeds.alive(self._scope, tx)
            for row in rows(tx, feed)
        }

    def stamp(self, tx: Tx) -> tuple[str, ...]:
        return Memberships(self._scope).stamp(tx)

    def missing(self, name: str) -> NotFound:
        return not_received(*_parts(name))

    def labels_at(self, tx: Tx, name: str) -> Iterable[str]:
        if self._labels is None:
            self._labels = received_feeds.labels(self._scope, tx)
        return self._labels.get(Place(kind=PlaceKind.RECEIVED, target=name), ())

    def labels_of(self, tx: Tx, name: str) -> Iterable[str]:
        return received_feeds.labels_of(self._scope, tx, *_parts(name))

    def sees(self, tx: Tx, name: str) -> bool:
        return True

    def restrictions(self, tx: Tx) -> list[Restriction]:
        return [
            Restriction(
                title=f"{partner}'s feed {each.name}",
                unseen_title=f"{partner}, by {Place(kind=PlaceKind.FEED, target=each.name).unseen()}",
                feed=each.name,
                places=tuple(Place(kind=PlaceKind.RECEIVED, target=f"{partner}.{s.name}") for s in each.segments),
                uses=frozenset({SHARING, *each.restricted_uses}),
            )
            for partner, each in Received(self._scope).restrictions(tx)
        ]

    def pick(self, _tx: Tx, _name: str) -> None:
        return None  # rules alone take what was received

    def pickable(self, _tx: Tx) -> list[Picked]:
        return []


def _parts(name: str) -> tuple[str, str]:
    partner, _, segment = name.partition(".")
    return partner, segment
