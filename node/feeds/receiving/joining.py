"""Memberships are computed from sealed records that releases brought and from what is known of our own people.

A release is kept sealed until the next full one replaces it; of its records only those of our own people open. So a new
profile of ours, an opt-out, or a removal by the sender takes effect without asking anybody.

Members are decided again for those whom a change concerns. Where it cannot be said who that is, and once a day to compare,
they are computed as a whole.
"""

from collections.abc import Collection
from contextlib import suppress
from functools import partial

from ...access.scope import Scope
from ...errors import Failure
from ...exchanges.channels import cache_of
from ...operations.alerts import AlertKind, Alerts
from ...partners import key_epochs
from ...partners.connections import Connection
from ...segments import evaluation
from ...storage.database import Tx
from ...storage.ids import stored_id
from .. import versions
from ..purges import TakenOut
from ..runs import FULL_AFTER
from . import affected, basis, received_feeds, tag_index
from .affected import New
from .basis import Basis
from .changes import Present
from .join import Join, Joined, Members, ready, whole
from .membership_files import Chain, Membership, MembershipFiles, Sealed, last_version, rows
from .received_feeds import ALIVE, ReceivedFeed

CHANGES_AT_MOST = 2 * FULL_AFTER  # revisions kept of one feed: who is decided again is looked for in each
JUMP, JUMP_PEOPLE = 0.5, 100  # part of a segment, and at least so many people, that come or go in one run


def keep(scope: Scope, tx: Tx, feed: ReceivedFeed, sealed: Sealed, *, full: bool) -> None:
    """Keep a release: a full one replaces those before, changes are added to them. Then compute the memberships.

    Nothing is kept of a feed that was declined or revoked while it ran. Changes without a record say that the sender's
    members stay.
    """
    feed = received_feeds.read(tx, feed)
    if feed.status not in ALIVE:
        return
    now, lasting = scope.home.now(), received_feeds.why_ended(scope, tx, feed) is None
    if not full and lasting and feed.records and not any(map(len, sealed.records.values())):
        received_feeds.change(scope, tx, feed, last_revision=sealed.revision, refreshed=now)
        feed = received_feeds.read(tx, feed)
        chain = MembershipFiles(scope, feed).chain()
        if not chain or join(scope, tx, feed, chain) is not Joined.JOINED:
            _confirm(scope, tx, feed, sealed.revision)
        return
    files = MembershipFiles(scope, feed)
    sealed = files.write_records(sealed)
    before = [] if full else files.chain()
    names = [sealed.name] if full else [*(feed.records or ()), sealed.name]
    of_run = received_feeds.definition(tx, feed, sealed.version)
    in_force = received_feeds.definition(tx, feed)
    removed = not versions.only_removes(in_force, of_run)
    # If a version that came during the run removed something, records that have it are used once, now, and not kept: the
    # next release has to be a full one.
    values = {"records": None if removed else names, "epoch": sealed.epoch, "refreshed": now}
    received_feeds.change(scope, tx, feed, last_revision=sealed.revision, **values)
    if full or before:
        join(scope, tx, received_feeds.read(tx, feed), [*before, sealed])


def join_all(scope: Scope, connection: Connection | None = None) -> None:
    """Compute memberships again from what all partners gave us, or one: people came, or opted out, on our side."""
    with scope.begin() as tx:
        for other, feed in received_feeds.of_project(scope, tx):
            if (connection is None or other.id == connection.id) and (chain := MembershipFiles(scope, feed).chain()):
                join(scope, tx, feed, chain)


def join_new(scope: Scope, connection: Connection, new: New) -> None:
    """Add those of our people whose F has just come to the memberships that a partner gave us."""
    with scope.begin() as tx:
        for other, feed in received_feeds.of_project(scope, tx):
            if other.id == connection.id and (chain := MembershipFiles(scope, feed).chain()):
                join(scope, tx, feed, chain, new)


def take_out(scope: Scope, tx: Tx, connection: Connection, feed: ReceivedFeed, taken_out: TakenOut) -> None:
    """Remove the members that came by segments and namespaces which the version in force does not have any more."""
    had, ids = rows(tx, feed), {stored_id(each) for each in taken_out.segments}
    MembershipFiles(scope, feed).drop(tx, [row for row in had if row.segment_id in ids])
    feed = received_feeds.read(tx, feed)
    files = MembershipFiles(scope, feed)
    chain = files.chain()
    joined = bool(chain) and join(scope, tx, feed, chain) is Joined.JOINED
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
    epoch = key_epochs.running(scope, tx, connection)
    if epoch is not None:
        cache = cache_of(scope, connection, epoch)
        scope.home.database.afterwards(partial(basis.forget, cache, feed.id))
        scope.home.database.afterwards(partial(tag_index.forget, cache, feed.id))


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


def jumped(before: int, after: int) -> bool:
    """Return whether a segment grew or shrank so much in one run that a person should look at it."""
    return abs(after - before) >= max(JUMP * max(before, after), JUMP_PEOPLE)


def join(
    scope: Scope, tx: Tx, feed: ReceivedFeed, chain: Chain, new: New | None = None, *, again: bool = False
) -> Joined:
    """Bring the memberships up to date with a full revision and the changes since, our people, and the version in force.

    `again`: as a whole, whatever is known. Where they cannot be computed the memberships stay as they are until the next
    release; those whose time is over stay ended.
    """
    now = ready(scope, tx, feed, chain)
    if isinstance(now, Joined):
        return now
    known, kept = basis.load(now.cache, feed.id), rows(tx, feed)
    found = None if known is None or again else _decided(now, tx, known, kept, new)
    compared = scope.home.now() if found is None or known is None else known.compared
    if new is not None:
        now.tags(new.namespace).add(new.values, new.prf, before=new.before, after=new.after)
    if found is None:
        found = whole(now, partial(_had, known, kept))
        if found is None:
            return Joined.F_LOST
        with suppress(Failure):  # the next look-up makes it
            for namespace in now.namespaces:
                now.tags(namespace).cover()
    members, evaluated = found
    after = Basis(
        definitions=now.definitions,
        records=[sealed.name for sealed in chain],
        people=now.people(),
        evaluated=evaluated,
        members=_store(now, tx, kept, members),
        compared=compared,
    )
    if after != known:
        after.save(now.cache, feed.id)
    return Joined.JOINED


def _had(known: Basis | None, kept: Collection[Membership], namespace: str) -> bool:
    """Return whether members were computed from F of a namespace; of what no basis tells, members may have been."""
    return any(row.size for row in kept) if known is None else bool(known.evaluated.get(namespace))


def _decided(
    join: Join, tx: Tx, known: Basis, kept: Collection[Membership], new: New | None
) -> tuple[Members, dict[str, bytes]] | None:
    """Return what `whole` does by deciding again whom changes concern since a basis; None where that cannot be said."""
    profiles = affected.by_all(join, tx, known, kept, new)
    if profiles is None:
        return None
    files, by_id = MembershipFiles(join.scope, join.feed), {row.segment_id: row for row in kept}
    before = {segment: files.members(by_id[stored_id(segment)]) for segment in join.segments}
    came = {new.namespace: new.after} if new is not None and new.namespace in join.namespaces else {}
    evaluated = {**known.evaluated, **came}
    decided = affected.decide(join, profiles) if profiles else join.nobody()
    if decided is None:
        return None
    if any(join.evaluated(namespace).stamp() != stamp for namespace, stamp in evaluated.items()):
        return None  # some of F was damaged, or more has come
    return {segment: (members - profiles) | decided[segment] for segment, members in before.items()}, evaluated


def _confirm(scope: Scope, tx: Tx, feed: ReceivedFeed, revision: int) -> None:
    """Note that a revision changed nobody: who was realized by the revision before is existing now."""
    files = MembershipFiles(scope, feed)
    for row in rows(tx, feed):
        files.write(
            tx, row, Present(segment_id=row.segment_id, name=row.name, members=files.members(row)), revision=revision
        )


def _store(join: Join, tx: Tx, kept: Collection[Membership], members: Members) -> dict[str, str]:
    """Keep who is in each segment now, and return the names of the files of the members, by the segment's id."""
    files, before, named = MembershipFiles(join.scope, join.feed), {row.segment_id: row for row in kept}, {}
    for segment, name in join.segments.items():
        present = Present(segment_id=stored_id(segment), name=name, members=members[segment])
        row, size = before.pop(present.segment_id, None), len(present.members)
        if row is not None and jumped(row.size, size):
            who = f"segment {name} of {join.connection.alias}"
            text = f"{who} went from {row.size:,} to {size:,} members here"
            Alerts(join.scope).add(tx, AlertKind.OVERLAP_JUMP, text)
        named[present.segment_id] = files.write(tx, row, present, revision=join.feed.last_revision)
    files.drop(tx, before.values())
    return named
