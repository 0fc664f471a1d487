"""The members of a received feed, computed as a whole: every record that is kept against everybody here."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from pyroaring import BitMap

from protocol.feed import Definition
from psi.engine import Revision
from psi.hashing import length_prefixed
from psi.values import U8, Bools

from ...access.scope import Scope
from ...compute.engines import engine_of
from ...exchanges.channels import cache_of
from ...exchanges.kept_prf import KeptPrf
from ...partners import key_epochs
from ...partners.connections import Connection, by_id
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Cache, Epoch
from ...storage.database import Tx
from ...storage.row_files import Passing
from .. import versions
from . import evaluations, received_feeds
from .membership_files import Chain
from .received_feeds import ALIVE, ReceivedFeed
from .tag_index import TagIndex

Members = Mapping[bytes, BitMap]  # by segment, as the sender calls it


class Joined(Enum):
    """Whether memberships were computed, and if not, why they stay as they are."""

    JOINED = auto()
    OVER = auto()  # the feed, or the time of its members
    OTHER_EPOCH = auto()  # whose keys are gone, so that the records cannot be opened
    F_LOST = auto()  # what the partner evaluated for us


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """What memberships of a feed are computed from, the people of ours as `snapshot` has them."""

    scope: Scope
    feed: ReceivedFeed
    connection: Connection
    epoch: Epoch
    chain: Chain
    of_run: Definition
    in_force: Definition
    snapshot: Snapshot

    @property
    def cache(self) -> Cache:
        return cache_of(self.scope, self.connection, self.epoch)

    @property
    def namespaces(self) -> list[str]:
        matched = versions.matched_by(self.in_force, self.connection)
        return [each for each in matched if each in self.chain[-1].records]

    @property
    def segments(self) -> dict[bytes, str]:
        """The names of the segments that both the records and the version in force have, by id."""
        given = {segment.id for segment in self.of_run.segments}
        return {segment.id: segment.name for segment in self.in_force.segments if segment.id in given}

    @property
    def definitions(self) -> bytes:
        """A digest of what the records and our agreement to them say, 32 bytes: while it is the same, they mean the same."""
        parts = [self.of_run.digest(), self.in_force.digest(), *map(str.encode, self.namespaces)]
        return hashlib.sha256(length_prefixed(*parts)).digest()

    def people(self) -> dict[str, bytes]:
        """Return the stamps of our people, by namespace."""
        return {each: audiences.stamp(self.snapshot, each) for each in self.namespaces}

    def tags(self, namespace: str) -> TagIndex:
        return TagIndex(self.cache, self.feed.id, self.of_run.feed, namespace, self.evaluated(namespace))

    def evaluated(self, namespace: str) -> KeptPrf:
        """Return F of our identities, as far as it has come."""
        return evaluations.kept(self.scope, self.connection, self.epoch, namespace)

    def nobody(self) -> dict[bytes, BitMap]:
        return {each: BitMap() for each in self.segments}

    def positions(self) -> dict[bytes, int]:
        """Return where each segment stands in the bitmaps of the records."""
        segments = self.segments
        return {each.id: place for place, each in enumerate(self.of_run.segments) if each.id in segments}


def ready(scope: Scope, tx: Tx, feed: ReceivedFeed, chain: Chain) -> "Join | Joined":
    """Return what memberships can be computed from now, or why they stay as they are."""
    if feed.status not in ALIVE or received_feeds.why_ended(scope, tx, feed) is not None:
        return Joined.OVER
    connection = by_id(scope, feed.connection_id, tx)
    epoch = key_epochs.running(scope, tx, connection)
    newest = chain[-1]
    if epoch is None or epoch.number != newest.epoch:
        return Joined.OTHER_EPOCH
    return Join(
        scope=scope,
        feed=feed,
        connection=connection,
        epoch=epoch,
        chain=chain,
        of_run=received_feeds.definition(tx, feed, newest.version),
        in_force=received_feeds.definition(tx, feed),
        snapshot=Snapshot.open(scope, tx),
    )


def has(bitmaps: U8, position: int) -> Bools:
    """Return which bitmaps, uint8 (n, width), have a segment."""
    return np.asarray(bitmaps[:, position // 8] & (0x80 >> position % 8) != 0)


def open_chain(
    scope: Scope, chain: Chain, namespace: str, known: "evaluations.Known", definition: Definition
) -> tuple[U8, Bools]:
    """Return the bitmap of each of our identities, uint8 (n, width), and for which of them a record ever opened."""
    revisions = [
        Revision(records=Passing(each.records[namespace]), version=each.version, revision=each.revision)
        for each in chain
    ]
    count = int(np.count_nonzero(known.in_snapshot))
    return engine_of(scope.home).open(revisions, known.parts, count, feed=definition.feed, width=definition.width)


def whole(join: Join, had: Callable[[str], bool]) -> "tuple[Members, dict[str, bytes]] | None":
    """Return the members of each segment, and the stamps of F that they were computed from, by namespace.

    None where F is lost of a namespace in which we had some: nobody leaves, and the next run brings it back.
    """
    found, stamps, positions = join.nobody(), dict[str, bytes](), join.positions()
    for namespace in join.namespaces:
        with evaluations.known(join.scope, join.connection, join.epoch, namespace, join.snapshot) as known:
            if len(known.missing) and (known.lost or (not known.public and had(namespace))):
                return None
            bitmaps, _ = open_chain(join.scope, join.chain, namespace, known, join.of_run)
            stamps[namespace] = known.stamp
            for segment, position in positions.items():
                members = has(bitmaps, position)
                if members.any():
                    wanted = audiences.within(known.in_snapshot, members)
                    found[segment] |= audiences.holders(join.snapshot, namespace, wanted)
    return found, stamps
