"""Feeds that partners share with us: offered, enabled, paused, declined; and the memberships that came with them.

A release is kept as it came (sealed records, of which only our own people's open) until the next one replaces it.
Memberships are computed from it and from what we know of our own people, so a new profile of ours, an opt-out, or a
removal by the sender takes effect without asking anybody.
"""

import io
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import Connection, Row, delete, insert, select, update

from protocol.agreement import Agreement
from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from protocol.letters import FeedAccept, FeedNotice
from protocol.wire import Message
from psi import membership
from psi.values import U8

from . import access, decisions, epochs, evaluations, expiry, offers, purges, runs, versions
from .contents import WHOLE_AFTER
from .data import Snapshot
from .errors import NotFound, Refused, printable
from .files import write_atomically
from .labels import Kind, Origin, Uses, spelled
from .letters import HANDLERS as LETTERS
from .tables import connections, memberships, received_feeds

if TYPE_CHECKING:
    from .project import Project

REALIZED, EXISTING, EXITED = "realized", "existing", "exited"
ALIVE = ("enabled", "disabled")
GROWN = 1.1  # of what the sender was told: well before the evaluations that terms allow (1.2 times that) are spent
CHANGES_AT_MOST = 2 * WHOLE_AFTER  # revisions kept of one feed: each that comes opens all before it
JUMP, JUMP_PEOPLE = 0.5, 100  # part of a segment, and at least so many people, that come or go in one run
NOBODY: expiry.Exits = (np.empty(0, np.uint32), np.empty(0, np.int64))

Documents = list[dict[str, Any]]
Rows = list[Row[Any]]
Pairs = list[tuple[Row[Any], Row[Any]]]  # a connection, and a feed that came over it
Found = list[tuple[str, str, BitMap]]  # name, id and members of a segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """The records of one revision as they are kept: by namespace, uint8 (n, 16 + width), sorted by tag."""

    version: int
    revision: int
    epoch: int
    records: dict[str, U8]


def base_of(feed: Row[Any]) -> tuple[int, int] | None:
    """Return the version and epoch that changes can be added to; None where there is nothing, or far too much already."""
    if not feed.records or len(feed.records) > CHANGES_AT_MOST:
        return None
    return _named(feed.records[-1])[0], feed.epoch


Chain = list[Sealed]  # a whole revision and the changes since, oldest first


class NotReceived(NotFound):
    """No partner shares that segment, or no longer."""


class Received:
    def __init__(self, project: "Project") -> None:
        self._project, self._node = project, project.node

    def list(self) -> Documents:
        """Return what partners have offered us, and what became of it."""
        with self._node.store.read() as tx:
            return [
                {
                    "partner": connection.alias,
                    "name": feed.name,
                    "status": feed.status,
                    "accepted_version": feed.accepted_version,
                    "offered_version": feed.offered_version,
                    "revision": feed.last_revision,
                    "segments": self._sizes(tx, feed),
                    "restricted_uses": list(self._definition(tx, feed).restricted_uses),
                }
                for connection, feed in self._rows(tx)
                if not self._hidden(tx, feed)
            ]

    def show(self, name: str, partner: str | None = None) -> dict[str, Any]:
        """Return a received feed: its definition and hash, our state of it, and how many members it gave us."""
        with self._node.store.read() as tx:
            connection, feed = self.get(name, partner, tx)
            definition = self._definition(tx, feed)
            return {
                **versions.describe(definition),
                "partner": connection.alias,
                "status": feed.status,
                "reason": feed.reason,
                "accepted_version": feed.accepted_version,
                "offered_version": feed.offered_version,
                "offered": offers.document(self._project, tx, connection, feed),
                "revision": feed.last_revision,
                "last_receipt": feed.last_receipt.hex() if feed.last_receipt else None,
                "last_run": runs.last(tx, connection.id, feed.id, self._node.now()),
                "members_until": None if feed.refreshed is None else expiry.ends(definition, feed.refreshed),
                "members": self._sizes(tx, feed),
                "statuses": {
                    row.name: {status: len(found) for status, found in self._statuses(tx, feed, row).items()}
                    for row in self._memberships(tx, feed)
                },
                "runs": [runs.shown(run) for run in runs.recent(tx, feed.id, ours=False)],
            }

    def enable(self, name: str, partner: str | None = None) -> None:
        """Take a feed or what a new version of it adds, or go on with a paused one; nothing of it is stored before.

        One that was paused goes on with the version that it had: what was offered meanwhile has to be enabled too.
        """
        with self._project.act("feed.enable", name) as tx:
            connection, feed = self.get(name, partner, tx)
            if feed.status not in ("pending", "disabled") and not (feed.status == "enabled" and feed.offered_version):
                raise Refused(f"feed {name} is {feed.status}", hint="vesica feed list")
            version = feed.accepted_version if feed.status == "disabled" else feed.offered_version
            definition = self._definition(tx, feed, version)
            snapshot = Snapshot.open(self._project)
            sizes = {each: len(decisions.universe(snapshot, each)[0]) for each in definition.namespaces}
            minimum = Agreement.decode(connection.agreement).terms.minimum_universe
            if max(sizes.values()) < minimum:
                raise Refused(
                    f"this project has fewer than the {minimum:,} identities that the agreement with {connection.alias} asks",
                    hint="import more profiles, or agree on other terms: vesica project terms",
                )
            if feed.status == "disabled":
                self._set(tx, feed, status="enabled", reason=None)
            else:
                offers.hold(self._project, tx, connection, feed, definition, status="enabled", reason=None)
            self._accept(tx, connection, definition, sizes)
        self._project.letters.deliver_soon(connection)

    def begin_anew(self, feed_id: str) -> None:
        """Accept an enabled feed again, so that its next revision holds everything: we lack what changes are added to."""
        with self._node.store.begin() as tx:
            feed = tx.execute(select(received_feeds).where(received_feeds.c.id == feed_id)).one()
            definition, snapshot = self._definition(tx, feed), Snapshot.open(self._project, tx)
            sizes = {each: len(decisions.universe(snapshot, each)[0]) for each in definition.namespaces}
            self._accept(tx, self._project.partners.by_id(feed.connection_id, tx), definition, sizes)

    def _accept(self, tx: Connection, connection: Row[Any], definition: Definition, sizes: dict[str, int]) -> None:
        letter = FeedAccept(
            feed=definition.feed, version=definition.version, definition=definition.digest(), universes=sizes
        )
        self._project.letters.send(tx, connection.id, "feed.accept", letter)
        mine = received_feeds.c.id == versions.local(connection.id, definition.feed)
        tx.execute(update(received_feeds).where(mine).values(told=sizes))

    def tell_grown(self, tx: Connection, connection: Row[Any], feed: Row[Any]) -> bool:
        """Accept an enabled feed again where we have so many more people that the agreed evaluations could run out.

        Says whether it did. The sender is alerted to our new size.
        """
        definition, snapshot = self._definition(tx, feed), Snapshot.open(self._project, tx)
        sizes = {each: len(decisions.universe(snapshot, each)[0]) for each in definition.namespaces}
        if all(size <= GROWN * (feed.told or {}).get(each, 0) for each, size in sizes.items()):
            return False
        self._accept(tx, connection, definition, sizes)
        return True

    def disable(self, name: str, partner: str | None = None, reason: str = "") -> None:
        """Pause a feed: the next runs are not taken, what came stays."""
        self._notify("feed.disable", name, partner, reason, {"enabled": "disabled"})

    def decline(self, name: str, partner: str | None = None, reason: str = "") -> None:
        """Turn a feed down; what it gave is purged, and the sender sees the reason."""
        self._notify(
            "feed.decline",
            name,
            partner,
            reason,
            {"pending": "declined", "enabled": "declined", "disabled": "declined"},
        )

    def decline_version(self, name: str, partner: str | None = None, reason: str = "") -> None:
        """Turn down what a new version would add: the accepted one goes on, and the sender sees the reason."""
        with self._project.act("feed.decline-version", name) as tx:
            connection, feed = self.get(name, partner, tx)
            if feed.status not in ALIVE or feed.offered_version is None:
                raise Refused(f"no new version of feed {name} waits for an answer", hint=f"vesica feed show {name}")
            self._set(tx, feed, offered_version=None)
            notice = FeedNotice(feed=self._definition(tx, feed).feed, version=feed.offered_version, reason=reason)
            self._project.letters.send(tx, connection.id, "feed.decline-version", notice)
        self._project.letters.deliver_soon(connection)

    def members(self, partner: str, segment: str, tx: Connection | None = None) -> BitMap:
        """Return the profile numbers of a received segment's present members, by whichever feed.

        Raises NotReceived also where the time of all of them is over: a rule may keep people out by them.
        """
        if tx is None:
            with self._node.store.read() as reading:
                return self.members(partner, segment, reading)
        found = [
            (feed, row)
            for connection, feed in self.alive(tx)
            if connection.alias == partner
            for row in self._memberships(tx, feed)
            if row.name == segment
        ]
        if not found:
            raise _not_received(partner, segment)
        held = [self._members(feed, row) for feed, row in found if self._ended(tx, feed) is None]
        if not held:
            feed = found[-1][0]
            raise NotReceived(
                f"the memberships of {partner}.{segment} have ended: {self._ended(tx, feed)}",
                hint=f"vesica feed show {feed.name}; the next run of the partner's feed brings them back",
            )
        return BitMap.union(*held)

    def check_visible(self, tx: Connection, partner: str, segment: str, cleared: frozenset[str]) -> None:
        """Raise NotReceived for a received segment that has a label which is not cleared."""
        for connection, feed in self._rows(tx):
            known = [each for definition in self._definitions(tx, feed) for each in definition.segments]
            ids = {each.id for each in known if (connection.alias, each.name) == (partner, segment)}
            if not access.clears(
                cleared, (spelled(label) for each in known if each.id in ids for label in each.labels)
            ):
                raise _not_received(partner, segment)

    def hides(self, tx: Connection, reference: str) -> bool:
        """Tell whether a received segment ("acme.vip") is not there for whoever acts."""
        cleared = self._node.guard.cleared(tx, self._project.id)
        try:
            if cleared is not None:
                partner, _, segment = reference.partition(".")
                self.check_visible(tx, partner, segment, cleared)
        except NotReceived:
            return True
        return False

    def _hidden(self, tx: Connection, feed: Row[Any]) -> bool:
        """Tell whether a feed is not there for whoever acts: it has a segment with a label that they may not see."""
        cleared = self._project.node.guard.cleared(tx, self._project.id)
        known = (each for definition in self._definitions(tx, feed) for each in definition.segments)
        return not access.clears(cleared, (spelled(label) for each in known for label in each.labels))

    def labels(self, tx: Connection) -> Uses:
        """Return the senders' labels of what we receive; added ones hold before the version that adds them is accepted."""
        found: Uses = {}
        for connection, feed in self._rows(tx):
            if feed.status not in ALIVE:
                continue
            held, *offered = self._definitions(tx, feed)
            newer = {each.id: each.labels for definition in offered for each in definition.segments}
            for segment in held.segments:
                place = Origin(kind=Kind.RECEIVED, target=f"{connection.alias}.{segment.name}")
                labels = {*found.get(place, ()), *map(spelled, (*segment.labels, *newer.get(segment.id, ())))}
                found[place] = sorted(labels)
        return found

    def restrictions(self, tx: Connection) -> "list_[tuple[str, Definition]]":
        """Return the versions that we accepted of the feeds that we take, each with its partner."""
        return [(c.alias, self._definition(tx, feed)) for c, feed in self._rows(tx) if feed.status in ALIVE]

    def segment(self, reference: str) -> dict[str, Any]:
        """Return what we know of a received segment ("received.PARTNER.NAME"): no rule, but the sender's word on it."""
        partner, _, name = reference.removeprefix("received.").partition(".")
        with self._node.store.read() as tx:
            if (cleared := self._node.guard.cleared(tx, self._project.id)) is not None:
                self.check_visible(tx, partner, name, cleared)
            members = self.members(partner, name, tx)
            held = [
                d for alias, d in self.restrictions(tx) if alias == partner and name in {s.name for s in d.segments}
            ]
            labels = self.labels(tx).get(Origin(kind=Kind.RECEIVED, target=f"{partner}.{name}"), [])
        return {
            "name": f"received.{partner}.{name}",
            "kind": "received",
            "feeds": [definition.name for definition in held],
            "size": len(members),
            "labels": labels,
            "restricted_uses": sorted({use for definition in held for use in definition.restricted_uses}),
        }

    def statuses(self, name: str, segment: str, partner: str | None = None) -> dict[str, BitMap]:
        """Return a received segment's profiles by status: realized in the last revision, existing, and exited."""
        with self._node.store.read() as tx:
            _, feed = self.get(name, partner, tx)
            for row in self._memberships(tx, feed):
                if row.name == segment:
                    return self._statuses(tx, feed, row)
        raise NotFound(f"feed {name} has no segment {segment!r} here", hint=f"vesica feed show {name}")

    def segments_received(self, connection_id: str) -> int:
        with self._node.store.read() as tx:
            found = {
                row.segment_id
                for connection, feed in self.alive(tx)
                if connection.id == connection_id
                for row in self._memberships(tx, feed)
            }
        return len(found)

    def standing(self, tx: Connection, references: Collection[str] | None = None) -> tuple[str, ...]:
        """Return what changes when the members of received segments do: of all, or of those named ("received.acme.vip")."""
        found = []
        for connection, feed in self.alive(tx) if references is None or references else ():
            over = self._ended(tx, feed) is not None
            for row in self._memberships(tx, feed):
                name = f"received.{connection.alias}.{row.name}"
                if references is None or name in references:
                    found.append(f"{name} {'over' if over else row.file}")
        return tuple(sorted(found))

    def versions_kept(self, feed: Row[Any]) -> set[int]:
        """Return the versions of the revisions that are kept of a feed."""
        return {_named(name)[0] for name in feed.records or ()}

    def alive(self, tx: Connection) -> Pairs:
        """Return the feeds whose members we hold, with their connections."""
        return [(connection, feed) for connection, feed in self._rows(tx) if feed.status in ALIVE]

    def get(self, name: str, partner: str | None, tx: Connection) -> tuple[Row[Any], Row[Any]]:
        """Return the connection and row of a received feed; the partner is needed where two offer one of that name."""
        named = ((c, f) for c, f in self._rows(tx) if f.name == name and partner in (None, c.alias))
        found = [(c, f) for c, f in named if not self._hidden(tx, f)]
        live = [(c, f) for c, f in found if f.status not in ("declined", "revoked")] or found
        if not live:
            raise NotFound(f"no partner has offered a feed {name!r}", hint="'vesica feed list' shows what was offered")
        if len({connection.id for connection, _ in live}) > 1:
            raise Refused(f"several partners offer a feed {name!r}", hint="name one with --partner")
        return live[-1]

    def keep(self, tx: Connection, feed: Row[Any], sealed: Sealed, *, whole: bool) -> None:
        """Replace what the last release left by this one, or add its changes, and compute the memberships.

        Nothing is kept of a feed that was declined or revoked while it ran. Changes without a record say that the members
        stay: nothing has to be computed.
        """
        feed = tx.execute(select(received_feeds).where(received_feeds.c.id == feed.id)).one()
        if feed.status not in ALIVE:
            return
        held = self._ended(tx, feed) is None
        if not whole and held and feed.records and not any(map(len, sealed.records.values())):
            self._set(tx, feed, last_revision=sealed.revision, refreshed=self._node.now())
            self._rest(tx, feed, sealed.revision)
            return
        content = io.BytesIO()
        arrays: dict[str, Any] = {name.replace("/", "|"): rows for name, rows in sealed.records.items()}
        np.savez(content, **arrays)
        name = f"records-{sealed.version}-{sealed.revision}.npz"
        write_atomically(self._path(feed, name), content.getbuffer())
        before = [] if whole else self._sealed(feed)
        names = [name] if whole else [*(feed.records or ()), name]
        then, now = self._definition(tx, feed, sealed.version), self._definition(tx, feed, feed.accepted_version)
        removed = not versions.only_removes(now, then)  # something, by a version that came during the run
        values = {"records": None if removed else names, "epoch": sealed.epoch, "refreshed": self._node.now()}
        self._set(tx, feed, last_revision=sealed.revision, **values)
        feed = tx.execute(select(received_feeds).where(received_feeds.c.id == feed.id)).one()
        if whole or before:
            self.join(tx, feed, [*before, sealed])

    def join_all(self, connection: Row[Any] | None = None) -> None:
        """Compute memberships anew from what a partner's feeds, or all, gave us: people came, or opted out, on our side."""
        with self._node.store.begin() as tx:
            for other, feed in self._rows(tx):
                if (connection is None or other.id == connection.id) and (chain := self._sealed(feed)):
                    self.join(tx, feed, chain)

    def join(self, tx: Connection, feed: Row[Any], chain: Chain) -> bool:
        """Compute the memberships anew from a whole revision and the changes since, today's universe, and the feed's
        accepted version.

        Records of an epoch that is over cannot be opened any more: the memberships stay until the next release. Where
        their time is over they stay ended. Says whether they were computed.
        """
        connection = self._project.partners.by_id(feed.connection_id, tx)
        epoch = epochs.running(self._project, tx, connection)
        newest = chain[-1]
        if feed.status not in ALIVE or epoch is None or epoch.number != newest.epoch or self._ended(tx, feed):
            return False
        then = self._definition(tx, feed, newest.version)
        now = self._definition(tx, feed, feed.accepted_version)
        snapshot = Snapshot.open(self._project, tx)
        given = {segment.id for segment in then.segments}
        wanted = {segment.id: segment for segment in now.segments if segment.id in given}
        found = {each: BitMap() for each in wanted}
        for namespace in now.namespaces:
            if namespace not in newest.records:
                continue
            known = evaluations.known(self._project, connection, epoch, namespace, snapshot)
            bitmaps, _ = open_chain(chain, namespace, known.prf, then)
            for position, segment in enumerate(then.segments):
                members = np.flatnonzero(bitmaps[:, position // 8] & (0x80 >> position % 8))
                if segment.id in wanted and len(members):
                    found[segment.id] |= decisions.holders(snapshot, namespace, known.groups[members])
        self._store(tx, feed, newest.revision, [(wanted[each].name, each.hex(), found[each]) for each in found])
        return True

    def purge(self, tx: Connection, connection: Row[Any], feed: Row[Any], *, reason: str) -> None:
        """Remove everything that a feed gave us, and tell the sender so, signed."""
        if feed.status == "revoked":
            return
        gone = self._memberships(tx, feed)
        self._drop(tx, feed, gone)
        self._set(tx, feed, status="revoked", reason=reason, records=None)
        self._renew(tx, connection, gone)
        self._node.store.afterwards(partial(shutil.rmtree, self._folder(feed), ignore_errors=True))
        purges.sign(self._project, tx, connection, self._definition(tx, feed).feed, feed.last_revision)

    def _notify(self, kind: str, name: str, partner: str | None, reason: str, moves: dict[str, str]) -> None:
        with self._project.act(kind, name) as tx:
            connection, feed = self.get(name, partner, tx)
            if feed.status not in moves:
                raise Refused(f"feed {name} is {feed.status}", hint="vesica feed list")
            status = moves[feed.status]
            version = feed.accepted_version or feed.offered_version
            self._set(tx, feed, status=status, reason=reason)
            definition = self._definition(tx, feed)
            notice = FeedNotice(feed=definition.feed, version=version, reason=reason)
            self._project.letters.send(tx, connection.id, kind, notice)
            if status == "declined":
                gone = self._memberships(tx, feed)
                self._drop(tx, feed, gone)
                self._set(tx, feed, records=None)
                self._renew(tx, connection, gone)
                self._node.store.afterwards(partial(shutil.rmtree, self._folder(feed), ignore_errors=True))
        self._project.letters.deliver_soon(connection)

    def to_expire(self, tx: Connection, feed: Row[Any]) -> Rows:
        """Return the memberships of a feed whose time is over and that are still written down."""
        return [row for row in self._memberships(tx, feed) if row.size] if self._ended(tx, feed) else []

    def to_forget(self, tx: Connection, feed: Row[Any]) -> Rows:
        """Return the memberships of a feed that list people who left long ago."""
        kept = [(row, self._exits(feed, row)) for row in self._memberships(tx, feed)]
        now = self._node.now()
        return [row for row, exits in kept if len(expiry.remembered(exits, now)[0]) < len(exits[0])]

    def expire(self, tx: Connection, connection: Row[Any], feed: Row[Any]) -> dict[str, Any]:
        """Write down who has left because the time is over, and forget who left long ago; returns what was done."""
        why, over, forgotten = self._ended(tx, feed), self.to_expire(tx, feed), self.to_forget(tx, feed)
        rows = {row.id: row for row in (*over, *forgotten)}.values()
        definition = self._definition(tx, feed)
        for row in rows:
            members = BitMap() if row in over else self._members(feed, row)
            at = expiry.ends(definition, feed.refreshed) if row in over else None
            self._write(tx, feed, row, row.revision, row.name, row.segment_id, members, at)
        if over:
            self._renew(tx, connection, over)
            text = f"the members of feed {feed.name} of {connection.alias} have left: {why}"
            self._project.alerts.add(tx, "feed_expired", text)
        return {"expired": [row.name for row in over], "forgotten": [row.name for row in forgotten]}

    def _rest(self, tx: Connection, feed: Row[Any], revision: int) -> None:
        """Note that a revision changed nobody: who was realized is existing."""
        for row in self._memberships(tx, feed):
            self._write(tx, feed, row, revision, row.name, row.segment_id, self._members(feed, row))

    def _store(self, tx: Connection, feed: Row[Any], revision: int, found: Found) -> None:
        before = {row.segment_id: row for row in self._memberships(tx, feed)}
        connection = self._project.partners.by_id(feed.connection_id, tx)
        for name, segment_id, members in found:
            row = before.get(segment_id)
            if row is not None and jumped(row.size, len(members)):
                text = f"segment {name} of {connection.alias} went from {row.size:,} to {len(members):,} members here"
                self._project.alerts.add(tx, "overlap_jump", text)
            self._write(tx, feed, row, revision, name, segment_id, members)
        gone = [row for segment_id, row in before.items() if segment_id not in {each for _, each, _ in found}]
        self._drop(tx, feed, gone)

    def _write(
        self,
        tx: Connection,
        feed: Row[Any],
        row: Row[Any] | None,
        revision: int,
        name: str,
        segment_id: str,
        members: BitMap,
        at: int | None = None,
    ) -> None:
        """Keep a segment's members, who is new among them, and who has left since they were written last, `at` or now."""
        now = self._node.now()
        old, changes = (self._members(feed, row), io.BytesIO()) if row else (BitMap(), io.BytesIO())
        profiles, when = self._exits(feed, row) if row else NOBODY
        away = ~np.isin(profiles, np.array(members.to_array(), np.uint32))
        left = np.array((old - members).to_array(), np.uint32)
        exits = np.concatenate([profiles[away], left]), np.concatenate([when[away], np.full(len(left), at or now)])
        exited, exited_at = expiry.remembered(exits, now)
        np.savez(changes, realized=np.array((members - old).to_array(), np.uint32), exited=exited, exited_at=exited_at)
        stem = f"{segment_id}-{revision}-{self._node.new_id()[:8]}"
        same = row is not None and members == old and self._path(feed, row.file).exists()
        if not same:  # who reads the members need not look again
            write_atomically(self._path(feed, f"{stem}.members"), members.serialize())
        write_atomically(self._path(feed, f"{stem}.changes"), changes.getvalue())
        values = {
            "name": name,
            "revision": revision,
            "file": row.file if row is not None and same else f"{stem}.members",
            "changes": f"{stem}.changes",
            "size": len(members),
            "changed": now,
        }
        if row:
            tx.execute(update(memberships).where(memberships.c.id == row.id).values(**values))
        else:
            tx.execute(
                insert(memberships).values(id=self._node.new_id(), feed_id=feed.id, segment_id=segment_id, **values)
            )

    def _drop(self, tx: Connection, feed: Row[Any], rows: Rows) -> None:
        for row in rows:
            tx.execute(delete(memberships).where(memberships.c.id == row.id))
            self.delete(feed, [row.file, row.changes])

    def delete(self, feed: Row[Any], names: Iterable[str]) -> None:
        """Delete files of a feed once the transaction that names them no more is committed."""
        for name in names:
            self._node.store.afterwards(partial(self._path(feed, name).unlink, missing_ok=True))

    def _renew(self, tx: Connection, connection: Row[Any], rows: Rows) -> None:
        """Let what was taken from us leave our own segments too."""
        emptied = self._project.segments.renew(tx, {f"received.{connection.alias}.{row.name}" for row in rows})
        if emptied:
            text = f"{', '.join(emptied)}: nobody is in it any more, since a segment of {connection.alias} is gone"
            self._project.alerts.add(tx, "segment_emptied", text)

    def sweep(self, feed_id: str | None = None) -> None:
        """Remove files of one feed, or of all, that no row names any more: what a release replaced, or a kill left.

        Whoever writes there holds the transaction, and so do we.
        """
        with self._node.store.begin() as tx:
            for _, feed in self._rows(tx):
                if feed_id not in (None, feed.id) or not self._folder(feed).is_dir():
                    continue
                kept = {name for row in self._memberships(tx, feed) for name in (row.file, row.changes)}
                kept.update(feed.records or ())
                for path in self._folder(feed).iterdir():
                    if path.name not in kept:
                        path.unlink(missing_ok=True)

    def _members(self, feed: Row[Any], row: Row[Any]) -> BitMap:
        """Return a segment's present members; none where a purge has removed the file meanwhile."""
        path = self._path(feed, row.file)
        return BitMap.deserialize(path.read_bytes()) if path.exists() else BitMap()

    def _statuses(self, tx: Connection, feed: Row[Any], row: Row[Any]) -> dict[str, BitMap]:
        exited = BitMap(expiry.remembered(self._exits(feed, row), self._node.now())[0])
        members = self._members(feed, row)
        if self._ended(tx, feed):
            return {REALIZED: BitMap(), EXISTING: BitMap(), EXITED: exited | members}
        realized = BitMap(self._changes(feed, row)[REALIZED])
        return {REALIZED: realized, EXISTING: members - realized, EXITED: exited}

    def _sizes(self, tx: Connection, feed: Row[Any]) -> dict[str, int]:
        ended = self._ended(tx, feed)
        return {row.name: 0 if ended else row.size for row in self._memberships(tx, feed)}

    def _ended(self, tx: Connection, feed: Row[Any]) -> str | None:
        """Return why a feed's memberships have ended, None while they hold."""
        if feed.refreshed is None:
            return None
        return expiry.ended(self._definition(tx, feed), feed.refreshed, self._node.now())

    def _exits(self, feed: Row[Any], row: Row[Any]) -> expiry.Exits:
        changes = self._changes(feed, row)
        return changes[EXITED].astype(np.uint32, copy=False), changes["exited_at"].astype(np.int64, copy=False)

    def _changes(self, feed: Row[Any], row: Row[Any]) -> dict[str, npt.NDArray[Any]]:
        path = self._path(feed, row.changes)
        if not path.exists():
            return {REALIZED: NOBODY[0], EXITED: NOBODY[0], "exited_at": NOBODY[1]}
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def _sealed(self, feed: Row[Any]) -> Chain:
        """Return the last whole revision and the changes since, oldest first; nothing where one of them is gone."""
        chain: Chain = []
        for name in feed.records or ():
            if not self._path(feed, name).exists():
                return []
            version, revision = _named(name)
            with np.load(self._path(feed, name), allow_pickle=False) as stored:
                records = {key.replace("|", "/"): stored[key] for key in stored.files}
            chain.append(Sealed(version=version, revision=revision, epoch=feed.epoch, records=records))
        return chain

    def _rows(self, tx: Connection) -> Pairs:
        feeds = tx.execute(
            select(received_feeds)
            .join(connections, connections.c.id == received_feeds.c.connection_id)
            .where(connections.c.project_id == self._project.id)
            .order_by(received_feeds.c.changed)
        ).all()
        return [(self._project.partners.by_id(feed.connection_id, tx), feed) for feed in feeds]

    def _memberships(self, tx: Connection, feed: Row[Any]) -> Rows:
        return list(
            tx.execute(select(memberships).where(memberships.c.feed_id == feed.id).order_by(memberships.c.name))
        )

    def _definition(self, tx: Connection, feed: Row[Any], version: int | None = None) -> Definition:
        return versions.get(tx, feed.id, version or feed.accepted_version or feed.offered_version)

    def _definitions(self, tx: Connection, feed: Row[Any]) -> "list_[Definition]":
        """Return the version of a feed that holds here, and the one that is offered meanwhile."""
        held = self._definition(tx, feed)
        return [held, self._definition(tx, feed, feed.offered_version)] if feed.offered_version else [held]

    def _set(self, tx: Connection, feed: Row[Any], **values: Any) -> None:
        tx.execute(
            update(received_feeds).where(received_feeds.c.id == feed.id).values(changed=self._node.now(), **values)
        )

    def _folder(self, feed: Row[Any]) -> Path:
        return self._project.data_directory / "received" / str(feed.id)

    def _path(self, feed: Row[Any], name: str) -> Path:
        return self._folder(feed) / name


list_ = list  # inside the class `list` is the method


def open_chain(chain: Chain, namespace: str, prf: U8, definition: Definition) -> tuple[U8, npt.NDArray[np.bool_]]:
    """Return the bitmaps that our identities have by now, uint8 (n, width), and for which of them a record ever opened."""
    tags = membership.tags_of(prf, definition.feed)
    bitmaps, opened = np.zeros((len(prf), definition.width), np.uint8), np.zeros(len(prf), bool)
    for sealed in chain:
        rows, found = membership.open_records(
            sealed.records[namespace],
            prf,
            feed=definition.feed,
            version=sealed.version,
            revision=sealed.revision,
            tags=tags,
        )
        bitmaps[rows], opened[rows] = found, True
    return bitmaps, opened


def jumped(before: int, after: int) -> bool:
    """Tell whether a segment grew or shrank so much in one run that a person should look."""
    return abs(after - before) >= max(JUMP * max(before, after), JUMP_PEOPLE)


def _named(file: str) -> tuple[int, int]:
    """Return the version and revision whose records are in a file."""
    _, version, revision = file.removesuffix(".npz").split("-")
    return int(version), int(revision)


def revoked(project: "Project", tx: Connection, connection: Row[Any], message: Message) -> None:
    """Handle feed.revoke: purge, and say so, signed."""
    assert isinstance(message, FeedNotice)
    query = select(received_feeds).where(received_feeds.c.id == versions.local(connection.id, message.feed))
    feed = tx.execute(query).first()
    if feed is None:
        raise RemoteProtocolError("manifest", "there is no such feed from this partner")
    reason = printable(message.reason)
    project.received.purge(tx, connection, feed, reason=reason)
    project.alerts.add(tx, "feed_revoked", f"{connection.alias} revoked feed {feed.name}")


def _not_received(partner: str, segment: str) -> NotReceived:
    return NotReceived(f"there is no received segment {partner}.{segment}", hint="'vesica feed list' shows them")


LETTERS["feed.revoke"] = revoked
