"""Memberships are computed from sealed records that releases brought and from what is known of our own people.

A release is kept sealed until the next full one replaces it; of its records only those of our own people open. So a new
profile of ours, an opt-out, or a removal by the sender takes effect without asking anybody.
"""

from collections.abc import Collection
from dataclasses import replace
from enum import Enum, auto

import numpy as np
from pyroaring import BitMap

from protocol.feed import Definition
from psi import membership
from psi.values import U8, Bools

from ...access.scope import Scope
from ...operations.alerts import AlertKind, Alerts
from ...partners import key_epochs
from ...partners.connections import Connection, by_id
from ...people import audiences
from ...people.snapshots import Snapshot
from ...segments import evaluation
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
    removed = not versions.only_removes(in_force, of_run)  # by a version that came during the run
    # records that have what was removed are used once, now, and not kept: the next release has to be a full one
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
    for prf in known.parts():
        tags = membership.tags_of(prf, definition.feed)
        for sealed in chain:
            places, found = membership.open_records(
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


def _join(scope: Scope, tx: Tx, feed: ReceivedFeed, chain: Chain) -> Joined:
    """Compute the memberships from a full revision and the changes since, today's universe, and the version in force.

    Where they cannot be computed the memberships stay as they are until the next release; those whose time is over stay
    ended.
    """
    if feed.status not in ALIVE or received_feeds.why_ended(scope, tx, feed) is not None:
        return Joined.OVER
    connection = by_id(scope, feed.connection_id, tx)
    epoch = key_epochs.running(scope, tx, connection)
    newest = chain[-1]
    if epoch is None or epoch.number != newest.epoch:
        return Joined.OTHER_EPOCH
    of_run = received_feeds.definition(tx, feed, newest.version)
    in_force = received_feeds.definition(tx, feed)
    snapshot = Snapshot.open(scope, tx)
    given = {segment.id for segment in of_run.segments}
    found = {
        segment.id: Present(segment_id=stored_id(segment.id), name=segment.name, members=BitMap())
        for segment in in_force.segments
        if segment.id in given
    }
    for namespace in versions.matched_by(in_force, connection):
        if namespace not in newest.records:
            continue
        with evaluations.known(scope, connection, epoch, namespace, snapshot) as known:
            if not known.public and len(known.missing):
                return Joined.F_LOST  # nobody leaves: the next run brings it back
            bitmaps, _ = open_chain(chain, namespace, known, of_run)
        for position, segment in enumerate(of_run.segments):
            members = np.flatnonzero(bitmaps[:, position // 8] & (0x80 >> position % 8))
            if segment.id in found and len(members):
                who = audiences.holders(snapshot, namespace, known.places_in_snapshot[members])
                found[segment.id] = replace(found[segment.id], members=found[segment.id].members | who)
    _store(scope, tx, feed, connection, list(found.values()))
    return Joined.JOINED


def _confirm(scope: Scope, tx: Tx, feed: ReceivedFeed, revision: int) -> None:
    """Note that a revision changed nobody: who was realized by the revision before is existing now."""
    files = MembershipFiles(scope, feed)
    for row in rows(tx, feed):
        present = Present(segment_id=row.segment_id, name=row.name, members=files.members(row))
        files.write(tx, row, present, revision=revision)


def _store(scope: Scope, tx: Tx, feed: ReceivedFeed, connection: Connection, found: Collection[Present]) -> None:
    files, before = MembershipFiles(scope, feed), {row.segment_id: row for row in rows(tx, feed)}
    for each in found:
        row, size = before.pop(each.segment_id, None), len(each.members)
        if row is not None and jumped(row.size, size):
            text = f"segment {each.name} of {connection.alias} went from {row.size:,} to {size:,} members here"
            Alerts(scope).add(tx, AlertKind.OVERLAP_JUMP, text)
        files.write(tx, row, each, revision=feed.last_revision)
    files.drop(tx, before.values())
