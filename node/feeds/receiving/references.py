"""What lower rooms ask of the segments that partners share with us: who is in one, its labels, what is restricted."""

from collections.abc import Iterable

from pyroaring import BitMap

from protocol.feed import Definition

from ...access.scope import Scope
from ...errors import NotFound
from ...governance.lineage import Uses
from ...people.snapshots import Snapshot
from ...storage.database import Tx
from . import received_feeds
from .membership_files import rows
from .memberships import Memberships, not_received
from .received import Received


class ReceivedSegments:
    """A kind of reference in rules, "received.PARTNER.SEGMENT", and the port `Incoming` of governance."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

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

    def labels(self, tx: Tx) -> Uses:
        return received_feeds.labels(self._scope, tx)

    def labels_of(self, tx: Tx, name: str) -> Iterable[str]:
        return received_feeds.labels_of(self._scope, tx, *_parts(name))

    def restrictions(self, tx: Tx) -> list[tuple[str, Definition]]:
        return Received(self._scope).restrictions(tx)


def _parts(name: str) -> tuple[str, str]:
    partner, _, segment = name.partition(".")
    return partner, segment
