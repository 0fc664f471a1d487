"""Memberships are computed from sealed records that releases brought and from what is known of our own people.

A release is kept sealed until the next full one replaces it; of its records only those of our own people open. So a new
profile of ours, an opt-out, or a removal by the sender takes effect without asking anybody.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np
from pyroaring import BitMap

from protocol.feed import Definition
from protocol.release import Evaluation
from psi import membership
from psi.hashing import length_prefixed, number
from psi.join import match
from psi.values import U8, Bools, sort_keys

from ...access.scope import Scope
from ...exchanges.channels import cache_of
from ...operations.alerts import AlertKind, Alerts
from ...partners import key_epochs
from ...partners.connections import Connection, by_id
from ...people import audiences
from ...people.snapshots import Snapshot
from ...segments import evaluation
from ...storage.cache import Epoch
from ...storage.database import Tx
from ...storage.ids import stored_id
from .. import versions
from ..purges import TakenOut
from ..runs import FULL_AFTER
from . import evaluations, received_feeds
from .changes import Present
from .membership_files import Chain, Membership, MembershipFiles, Sealed, last_version, rows
from .received_feeds import ALIVE, ReceivedFeed

CHANGES_AT_MOST = 2 * FULL_AFTER  # revisions kept of one feed: each that comes opens all before it
JUMP, JUMP_PEOPLE = 0.5, 100  # part of a segment, and at least so many people, that come or go in one run


class Joined(Enum):
    """Whether memberships were computed, and if not, why they stay as they are."""

    JOINED = auto()
    OVER = auto()  # the feed, or the time of its members
    OTHER_EPOCH = auto()  # whose keys are gone, so that the records cannot be opened
    F_LOST = auto()  # what the partner evaluated for us


def keep(scope: Scope, tx: Tx, feed: ReceivedFeed, sealed: Sealed, *, full: bool) -> None:
    """Keep a release: a full one replaces those before, changes are added to them. Then compute the memberships.

    Nothing is kept of a feed that was declined or revoked while it ran. Changes without a record say that the members
    stay: nothing has to be computed.
    """
    feed = received_feeds.read(tx, feed)
    if feed.status not in ALIVE:
        return
    now, lasting = scope.home.now(), received_feeds.why_ended(scope, tx, feed) is None
    if not full and lasting and feed.records and not any(map(len, sealed.records.values())):
        received_feeds.change(scope, tx, feed, last_revision=sealed.revision, refreshed=now)
        _confirm(scope, tx, feed, sealed.revision)
        return
    files = MembershipFiles(scope, feed)
    name = files.write_records(sealed)
    before = [] if full else files.chain()
    names = [name] if full else [*(feed.records or ()), name]
    of_run = received_feeds.definition(tx, feed, sealed.version)
    in_force = received_feeds.definition(tx, feed)
    removed = not versions.only_removes(in_force, of_run)
    # If a version that came during the run removed something, records that have it are used once, now, and not kept: the
    # next release has to be a full one.
    values = {"records": None if removed else names, "epoch": sealed.epoch, "refreshed": now}
    received_feeds.change(scope, tx, feed, last_revision=sealed.revision, **values)
    if full or before:
        _join(scope, tx, received_feeds.read(tx, feed), [*before, sealed])


def join_all(scope: Scope, connection: Connection | None = None) -> None:
    """Compute memberships again from what all partners gave us, or one: people came, or opted out, on our side."""
    with scope.begin() as tx:
        for other, feed in received_feeds.of_project(scope, tx):
            if (connection is None or other.id == connection.id) and (chain := MembershipFiles(scope, feed).chain()):
                _join(scope, tx, feed, chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """Identities of ours whose F has just come, and the salt of the file with F before it was added (see `Cache.salt`)."""

    namespace: str
    evaluation: Evaluation
    before: bytes


def join_new(scope: Scope, connection: Connection, new: New) -> None:
    """Add those of our people whose F has just come to the memberships that a partner gave us.

    That is enough where the members stand as the same records, the same people of ours and F of before gave them. Where
    anything else has changed, they are computed again.
    """
    with scope.begin() as tx:
        for other, feed in received_feeds.of_project(scope, tx):
            if other.id == connection.id and (chain := MembershipFiles(scope, feed).chain()):
                join = _ready(scope, tx, feed, chain)
                if isinstance(join, _Join) and not _add(join, tx, new):
                    _join(scope, tx, feed, chain)


def take_out(scope: Scope, tx: Tx, connection: Connection, feed: ReceivedFeed, taken_out: TakenOut) -> None:
    """Remove the members that came by segments and namespaces which the version in force does not have any more."""
    had, ids = rows(tx, feed), {stored_id(each) for each in taken_out.segments}
    MembershipFiles(scope, feed).drop(tx, [row for row in had if row.segment_id in ids])
    feed = received_feeds.read(tx, feed)
    files = MembershipFiles(scope, feed)
    chain = files.chain()
    joined = bool(chain) and _join(scope, tx, feed, chain) is Joined.JOINED
    if taken_out.namespaces and not joined:
        # who matched by which namespace cannot be computed: the segments are empty until the next release
        files.drop(tx, rows(tx, feed))
    if chain:  # the records have what was taken out; the next release is without it
        received_feeds.change(scope, tx, feed, records=None)
        files.delete(feed.records or ())
    renew(scope, tx, connection, had)


def clear(scope: Scope, tx: Tx, connection: Connection, feed: ReceivedFeed) -> None:
    """Remove everything that a feed gave, once it is declined or revoked."""
    files, gone = MembershipFiles(scope, feed), rows(tx, feed)
    files.drop(tx, gone)
    received_feeds.change(scope, tx, feed, records=None)
    renew(scope, tx, connection, gone)
    files.delete_all()


def renew(scope: Scope, tx: Tx, connection: Connection, gone: Collection[Membership]) -> None:
    """Evaluate our own segments again that read received ones which are gone, and raise an alert where one is empty now."""
    emptied = evaluation.renew(scope, tx, {f"received.{connection.alias}.{row.name}" for row in gone})
    if emptied:
        text = f"{', '.join(emptied)}: nobody is in it any more, since a segment of {connection.alias} is gone"
        Alerts(scope).add(tx, AlertKind.SEGMENT_EMPTIED, text)


def base_of(feed: ReceivedFeed) -> tuple[int, int] | None:
    """Return the version and epoch that changes can be added to; None if nothing is kept, or too many changes are."""
    version = last_version(feed)
    if version is None or feed.epoch is None or len(feed.records or ()) > CHANGES_AT_MOST:
        return None
    return version, feed.epoch


def open_chain(chain: Chain, namespace: str, known: "evaluations.Known", definition: Definition) -> tuple[U8, Bools]:
    """Return the bitmap of each of our identities, uint8 (n, width), and for which of them a record ever opened."""
    count, start = len(known.places_in_snapshot), 0
    bitmaps, opened = np.zeros((count, definition.width), np.uint8), np.zeros(count, bool)
    for sealed in chain:
        membership.check_order(sealed.records[namespace])
    for prf in known.parts():
        tags = membership.tags_of(prf, definition.feed)
        for sealed in chain:
            places, found = membership.open_sorted(
                sealed.records[namespace],
                prf,
                feed=definition.feed,
                version=sealed.version,
                revision=sealed.revision,
                tags=tags,
            )
            bitmaps[start + places], opened[start + places] = found, True
        start += len(prf)
    return bitmaps, opened


def jumped(before: int, after: int) -> bool:
    """Return whether a segment grew or shrank so much in one run that a person should look at it."""
    return abs(after - before) >= max(JUMP * max(before, after), JUMP_PEOPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Join:
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
    def namespaces(self) -> list[str]:
        matched = versions.matched_by(self.in_force, self.connection)
        return [each for each in matched if each in self.chain[-1].records]

    def nobody(self) -> dict[bytes, Present]:
        """Return the segments that the records and the version in force have, by id, without members."""
        given = {segment.id for segment in self.of_run.segments}
        return {
            segment.id: Present(segment_id=stored_id(segment.id), name=segment.name, members=BitMap())
            for segment in self.in_force.segments
            if segment.id in given
        }

    def opened(self, found: dict[bytes, Present], namespace: str, known: "evaluations.Known") -> dict[bytes, Present]:
        """Return segments with those members added for whom the records of one namespace open."""
        bitmaps, _ = open_chain(self.chain, namespace, known, self.of_run)
        more = dict(found)
        for position, segment in enumerate(self.of_run.segments):
            members = np.flatnonzero(bitmaps[:, position // 8] & (0x80 >> position % 8))
            if segment.id in more and len(members):
                who = audiences.holders(self.snapshot, namespace, known.places_in_snapshot[members])
                more[segment.id] = replace(more[segment.id], members=more[segment.id].members | who)
        return more

    def stamp(self, salts: Mapping[str, bytes]) -> bytes:
        """Return a digest of what members are computed from, 32 bytes; `salts` are those of the files with F."""
        parts = [self.in_force.digest(), self.of_run.digest(), number(self.epoch.number), number(len(self.chain))]
        parts += [number(each) for sealed in self.chain for each in (sealed.version, sealed.revision)]
        for namespace in self.namespaces:
            parts += [audiences.stamp(self.snapshot, namespace), salts[namespace]]
        return hashlib.sha256(length_prefixed(*parts)).digest()


def _ready(scope: Scope, tx: Tx, feed: ReceivedFeed, chain: Chain) -> "_Join | Joined":
    """Return what memberships can be computed from now, or why they stay as they are."""
    if feed.status not in ALIVE or received_feeds.why_ended(scope, tx, feed) is not None:
        return Joined.OVER
    connection = by_id(scope, feed.connection_id, tx)
    epoch = key_epochs.running(scope, tx, connection)
    newest = chain[-1]
    if epoch is None or epoch.number != newest.epoch:
        return Joined.OTHER_EPOCH
    return _Join(
        scope=scope,
        feed=feed,
        connection=connection,
        epoch=epoch,
        chain=chain,
        of_run=received_feeds.definition(tx, feed, newest.version),
        in_force=received_feeds.definition(tx, feed),
        snapshot=Snapshot.open(scope, tx),
    )


def _join(scope: Scope, tx: Tx, feed: ReceivedFeed, chain: Chain) -> Joined:
    """Compute the memberships from a full revision and the changes since, today's universe, and the version in force.

    Where they cannot be computed the memberships stay as they are until the next release; those whose time is over stay
    ended.
    """
    join = _ready(scope, tx, feed, chain)
    if isinstance(join, Joined):
        return join
    found, salts = join.nobody(), {}
    for namespace in join.namespaces:
        with evaluations.known(scope, join.connection, join.epoch, namespace, join.snapshot) as known:
            if not known.public and len(known.missing):
                return Joined.F_LOST  # nobody leaves: the next run brings it back
            found, salts[namespace] = join.opened(found, namespace, known), known.salt
    _store(join, tx, list(found.values()), join.stamp(salts))
    return Joined.JOINED


def _add(join: _Join, tx: Tx, new: New) -> bool:
    """Add members by identities whose F is new; return False where the members do not stand as F of before gave them."""
    cache, files = cache_of(join.scope, join.connection, join.epoch), MembershipFiles(join.scope, join.feed)
    salts = {namespace: cache.salt(f"prf {namespace}") for namespace in join.namespaces}
    before, kept = join.stamp({**salts, new.namespace: new.before}), rows(tx, join.feed)
    found, by_segment = join.nobody(), {row.segment_id: row for row in kept}
    if by_segment.keys() != {each.segment_id for each in found.values()}:
        return False
    if not new.before or any(files.changes(row).joined != before for row in kept):
        return False
    if new.namespace not in join.namespaces:
        return True
    found = {key: replace(each, members=files.members(by_segment[each.segment_id])) for key, each in found.items()}
    evaluation = new.evaluation
    values, places = audiences.universe(join.snapshot, new.namespace)
    among, present = match(sort_keys(values), sort_keys(evaluation.values))
    known = evaluations.Known(
        salt=salts[new.namespace],
        places_in_snapshot=places[among],
        public=evaluation.statement.statement.public,
        missing=values.take(among[:0]),
        parts=lambda: iter([evaluation.prf[present]]),
    )
    _store(join, tx, list(join.opened(found, new.namespace, known).values()), join.stamp(salts))
    return True


def _confirm(scope: Scope, tx: Tx, feed: ReceivedFeed, revision: int) -> None:
    """Note that a revision changed nobody: who was realized by the revision before is existing now."""
    files = MembershipFiles(scope, feed)
    for row in rows(tx, feed):
        present = Present(segment_id=row.segment_id, name=row.name, members=files.members(row))
        files.write(tx, row, present, revision=revision, joined=files.changes(row).joined)


def _store(join: _Join, tx: Tx, found: Collection[Present], stamp: bytes) -> None:
    files = MembershipFiles(join.scope, join.feed)
    before = {row.segment_id: row for row in rows(tx, join.feed)}
    for each in found:
        row, size = before.pop(each.segment_id, None), len(each.members)
        if row is not None and jumped(row.size, size):
            who = f"segment {each.name} of {join.connection.alias}"
            text = f"{who} went from {row.size:,} to {size:,} members here"
            Alerts(join.scope).add(tx, AlertKind.OVERLAP_JUMP, text)
        files.write(tx, row, each, revision=join.feed.last_revision, joined=stamp)
    files.drop(tx, before.values())
