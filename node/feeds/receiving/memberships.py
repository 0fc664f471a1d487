"""The memberships that received feeds give our people, and the sealed records that they are computed from.

A release is kept as it came, of which only our own people's records open, until the next whole one replaces it.
Memberships are computed from it and from what we know of our own people, so a new profile of ours, an opt-out, or a
removal by the sender takes effect without asking anybody.

On disk, in data/PROJECT/received/FEED:

    records-VERSION-REVISION.npz        a revision's records by namespace; the feed's row lists them, oldest first
    SEGMENT-REVISION-RANDOM.members     a segment's present members, a roaring bitmap over profile numbers
    SEGMENT-REVISION-RANDOM.changes     who of them is realized, who is realized in the next revision too, who has left, when

Who enters because a revision says so is realized until the next one comes. Who enters between two revisions, because our
own people changed, is late: realized at once, and still in the revision that follows.

What is new is written under a new name and synced, then the caller's transaction lets a row name it. What it replaces stays
for `sweep`; what is taken back is deleted once the transaction is committed. So after a kill there may be files that no row
names, which `sweep` removes, and never a row whose file is gone. The signed word that something was purged leaves only after
a sweep (`node.letters.outbox`).
"""

import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import Connection, Row, delete, insert, select, update

from protocol.feed import Definition
from psi import membership
from psi.values import U8, Bools

from ...errors import Failure, NotFound
from ...partners import key_epochs
from ...people import audiences
from ...people.data import Snapshot
from ...storage.files import explained, write_atomically
from ...storage.tables import memberships, received_feeds
from .. import evaluations, versions
from ..sending.revisions import WHOLE_AFTER
from . import expiry
from .received import ALIVE, NotReceived, not_received

if TYPE_CHECKING:
    from ...project import Project

REALIZED, EXISTING, EXITED = "realized", "existing", "exited"
LATE = "late"  # of the realized, who came after the newest revision: they are realized in the next one too
CHANGES_AT_MOST = 2 * WHOLE_AFTER  # revisions kept of one feed: each that comes opens all before it
JUMP, JUMP_PEOPLE = 0.5, 100  # part of a segment, and at least so many people, that come or go in one run
NOBODY: expiry.Exits = (np.empty(0, np.uint32), np.empty(0, np.int64))

Rows = list[Row[Any]]
Found = list[tuple[str, str, BitMap]]  # name, id and members of a segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """The records of one revision as they are kept: by namespace, uint8 (n, 16 + width), sorted by tag."""

    version: int
    revision: int
    epoch: int
    records: dict[str, U8]


Chain = list[Sealed]  # a whole revision and the changes since, oldest first


class Memberships:
    def __init__(self, project: "Project") -> None:
        self._project, self._node, self._received = project, project.node, project.received

    def members(self, partner: str, segment: str, tx: Connection | None = None) -> BitMap:
        """Return the profile numbers of a received segment's present members, by whichever feed.

        Raises NotReceived also where the time of all of them is over: a rule may keep people out by them.
        """
        if tx is None:
            with self._node.store.read() as reading:
                return self.members(partner, segment, reading)
        found = [
            (feed, row)
            for connection, feed in self._received.alive(tx)
            if connection.alias == partner
            for row in self._rows(tx, feed)
            if row.name == segment
        ]
        if not found:
            raise not_received(partner, segment)
        held = [self._members(feed, row) for feed, row in found if self._ended(tx, feed) is None]
        if not held:
            feed = found[-1][0]
            raise NotReceived(
                f"the memberships of {partner}.{segment} have ended: {self._ended(tx, feed)}",
                hint=f"vesica feed show {feed.name}; the next run of the partner's feed brings them back",
            )
        return BitMap.union(*held)

    def statuses(self, name: str, segment: str, partner: str | None = None) -> dict[str, BitMap]:
        """Return a received segment's profiles by status: realized since the last revision but one, existing, exited."""
        with self._node.store.read() as tx:
            _, feed = self._received.get(name, partner, tx)
            for row in self._rows(tx, feed):
                if row.name == segment:
                    return self._statuses(tx, feed, row)
        raise NotFound(f"feed {name} has no segment {segment!r} here", hint=f"vesica feed show {name}")

    def counts(self, tx: Connection, feed: Row[Any]) -> dict[str, dict[str, int]]:
        """Return how many profiles each segment of a feed has by status; see `statuses`."""
        return {
            row.name: {status: len(found) for status, found in self._statuses(tx, feed, row).items()}
            for row in self._rows(tx, feed)
        }

    def sizes(self, tx: Connection, feed: Row[Any]) -> dict[str, int]:
        """Return how many present members each segment of a feed has."""
        ended = self._ended(tx, feed)
        return {row.name: 0 if ended else row.size for row in self._rows(tx, feed)}

    def segments_received(self, connection_id: str) -> int:
        """Return how many distinct segments a partner gives us."""
        with self._node.store.read() as tx:
            found = {
                row.segment_id
                for connection, feed in self._received.alive(tx)
                if connection.id == connection_id
                for row in self._rows(tx, feed)
            }
        return len(found)

    def stamp(self, tx: Connection, references: Collection[str] | None = None) -> tuple[str, ...]:
        """Return what changes when the members of received segments do: of all, or of those named ("received.acme.vip")."""
        found = []
        for connection, feed in self._received.alive(tx) if references is None or references else ():
            over = self._ended(tx, feed) is not None
            for row in self._rows(tx, feed):
                name = f"received.{connection.alias}.{row.name}"
                if references is None or name in references:
                    found.append(f"{name} {'over' if over else row.file}")
        return tuple(sorted(found))

    def chain(self, feed: Row[Any]) -> Chain:
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

    def versions_kept(self, feed: Row[Any]) -> set[int]:
        """Return the versions of the revisions that are kept of a feed."""
        return {_named(name)[0] for name in feed.records or ()}

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
            self._received.change(tx, feed, last_revision=sealed.revision, refreshed=self._node.now())
            self._rest(tx, feed, sealed.revision)
            return
        arrays = {name.replace("/", "|"): rows for name, rows in sealed.records.items()}
        name = f"records-{sealed.version}-{sealed.revision}.npz"
        write_atomically(self._path(feed, name), _packed(**arrays))
        before = [] if whole else self.chain(feed)
        names = [name] if whole else [*(feed.records or ()), name]
        then = self._received.definition(tx, feed, sealed.version)
        now = self._received.definition(tx, feed, feed.accepted_version)
        removed = not versions.only_removes(now, then)  # something, by a version that came during the run
        values = {"records": None if removed else names, "epoch": sealed.epoch, "refreshed": self._node.now()}
        self._received.change(tx, feed, last_revision=sealed.revision, **values)
        feed = tx.execute(select(received_feeds).where(received_feeds.c.id == feed.id)).one()
        if whole or before:
            self._join(tx, feed, [*before, sealed])

    def join_all(self, connection: Row[Any] | None = None) -> None:
        """Compute memberships anew from what a partner's feeds, or all, gave us: people came, or opted out, on our side."""
        with self._node.store.begin() as tx:
            for other, feed in self._received.rows(tx):
                if (connection is None or other.id == connection.id) and (chain := self.chain(feed)):
                    self._join(tx, feed, chain)

    def take_out(
        self,
        tx: Connection,
        connection: Row[Any],
        feed: Row[Any],
        segments: Collection[bytes],
        namespaces: Collection[str],
    ) -> None:
        """Remove what a feed gave by segments and namespaces that its accepted version does not hold any more."""
        had, ids = self._rows(tx, feed), {each.hex() for each in segments}
        self._drop(tx, feed, [row for row in had if row.segment_id in ids])
        feed = tx.execute(select(received_feeds).where(received_feeds.c.id == feed.id)).one()
        chain = self.chain(feed)
        joined = bool(chain) and self._join(tx, feed, chain)
        if namespaces and not joined:  # who matched by what cannot be told: nobody is in it until the next release
            self._drop(tx, feed, self._rows(tx, feed))
        if chain:
            self._received.change(tx, feed, records=None)  # they hold what was taken out; the next is without it
            self._delete(feed, feed.records)
        self._renew(tx, connection, had)

    def clear(self, tx: Connection, connection: Row[Any], feed: Row[Any]) -> None:
        """Remove everything that a feed gave; the feed is over already."""
        gone = self._rows(tx, feed)
        self._drop(tx, feed, gone)
        self._received.change(tx, feed, records=None)
        self._renew(tx, connection, gone)
        folder = self._folder(feed)
        self._delete(feed, [path.name for path in folder.iterdir()] if folder.is_dir() else [])

    def due(self, tx: Connection, feed: Row[Any]) -> bool:
        """Tell whether `expire` has something to do."""
        return bool(self._over(tx, feed) or self._long_gone(tx, feed))

    def expire(self, tx: Connection, connection: Row[Any], feed: Row[Any]) -> dict[str, Any]:
        """Write down who has left because the time is over, and forget who left long ago; returns what was done."""
        why, over, forgotten = self._ended(tx, feed), self._over(tx, feed), self._long_gone(tx, feed)
        rows = {row.id: row for row in (*over, *forgotten)}.values()
        definition = self._received.definition(tx, feed)
        for row in rows:
            members = BitMap() if row in over else self._members(feed, row)
            at = expiry.ends(definition, feed.refreshed) if row in over else None
            self._write(tx, feed, row, row.revision, row.name, row.segment_id, members, at)
        if over:
            self._renew(tx, connection, over)
            text = f"the members of feed {feed.name} of {connection.alias} have left: {why}"
            self._project.alerts.add(tx, "feed_expired", text)
        return {"expired": [row.name for row in over], "forgotten": [row.name for row in forgotten]}

    def sweep(self, *, feed_id: str | None = None, connection_id: str | None = None) -> None:
        """Remove files of one feed, of a partner's, or of all that no row names any more: what a release replaced, or a
        kill left.

        Whoever writes there holds the transaction, and so do we. Raises Failure in the end where one cannot be removed.
        """
        failure: Failure | None = None
        with self._node.store.begin() as tx:
            for _, feed in self._received.rows(tx):
                if feed_id not in (None, feed.id) or connection_id not in (None, feed.connection_id):
                    continue
                kept = {name for row in self._rows(tx, feed) for name in (row.file, row.changes)}
                kept.update(feed.records or ())
                folder = self._folder(feed)
                try:
                    paths = [path for path in folder.iterdir() if path.name not in kept]
                except FileNotFoundError:
                    continue
                except OSError as error:
                    failure, paths = explained(error, folder), []
                for path in paths:
                    try:
                        path.unlink(missing_ok=True)
                    except OSError as error:
                        failure = explained(error, path)
        if failure is not None:
            raise failure

    def _over(self, tx: Connection, feed: Row[Any]) -> Rows:
        """Return the memberships of a feed whose time is over and that are still written down."""
        return [row for row in self._rows(tx, feed) if row.size] if self._ended(tx, feed) else []

    def _long_gone(self, tx: Connection, feed: Row[Any]) -> Rows:
        """Return the memberships of a feed that list people who left long ago."""
        kept = [(row, self._exits(feed, row)) for row in self._rows(tx, feed)]
        now = self._node.now()
        return [row for row, exits in kept if len(expiry.remembered(exits, now)[0]) < len(exits[0])]

    def _join(self, tx: Connection, feed: Row[Any], chain: Chain) -> bool:
        """Compute the memberships anew from a whole revision and the changes since, today's universe, and the feed's
        accepted version.

        Records of an epoch that is over cannot be opened any more, nor can any where F is lost: the memberships stay until
        the next release. Where their time is over they stay ended. Says whether they were computed.
        """
        connection = self._project.partners.by_id(feed.connection_id, tx)
        epoch = key_epochs.running(self._project, tx, connection)
        newest = chain[-1]
        if feed.status not in ALIVE or epoch is None or epoch.number != newest.epoch or self._ended(tx, feed):
            return False
        then = self._received.definition(tx, feed, newest.version)
        now = self._received.definition(tx, feed, feed.accepted_version)
        snapshot = Snapshot.open(self._project, tx)
        given = {segment.id for segment in then.segments}
        wanted = {segment.id: segment for segment in now.segments if segment.id in given}
        found = {each: BitMap() for each in wanted}
        for namespace in now.namespaces:
            if namespace not in newest.records:
                continue
            with evaluations.known(self._project, connection, epoch, namespace, snapshot) as known:
                if not known.public and len(known.missing):
                    return False  # what the partner evaluated is lost: nobody leaves until the next run brings it back
                bitmaps, _ = open_chain(chain, namespace, known, then)
            for position, segment in enumerate(then.segments):
                members = np.flatnonzero(bitmaps[:, position // 8] & (0x80 >> position % 8))
                if segment.id in wanted and len(members):
                    found[segment.id] |= audiences.holders(snapshot, namespace, known.groups[members])
        self._store(tx, feed, [(wanted[each].name, each.hex(), found[each]) for each in found])
        return True

    def _rest(self, tx: Connection, feed: Row[Any], revision: int) -> None:
        """Note that a revision changed nobody: who was realized by the one before is existing."""
        for row in self._rows(tx, feed):
            self._write(tx, feed, row, revision, row.name, row.segment_id, self._members(feed, row))

    def _store(self, tx: Connection, feed: Row[Any], found: Found) -> None:
        before = {row.segment_id: row for row in self._rows(tx, feed)}
        connection = self._project.partners.by_id(feed.connection_id, tx)
        for name, segment_id, members in found:
            row = before.get(segment_id)
            if row is not None and jumped(row.size, len(members)):
                text = f"segment {name} of {connection.alias} went from {row.size:,} to {len(members):,} members here"
                self._project.alerts.add(tx, "overlap_jump", text)
            self._write(tx, feed, row, feed.last_revision, name, segment_id, members)
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
        """Keep a segment's members, who came since the revision before this one, and who has left, `at` or now.

        Where the revision is the one that is written already its members were computed anew: who came since is added.
        """
        now, old, entered, late = self._node.now(), BitMap(), BitMap(), BitMap()
        if row:
            old, noted = self._members(feed, row), self._changes(feed, row)
            entered, late = BitMap(noted[REALIZED]), BitMap(noted[LATE])
        new = members - old
        if row is None or row.revision < revision:
            entered, late = late | new, BitMap()
        else:
            entered, late = entered | new, late | new
        profiles, when = self._exits(feed, row) if row else NOBODY
        away = ~np.isin(profiles, np.array(members.to_array(), np.uint32))
        left = np.array((old - members).to_array(), np.uint32)
        exits = np.concatenate([profiles[away], left]), np.concatenate([when[away], np.full(len(left), at or now)])
        exited, exited_at = expiry.remembered(exits, now)
        came = {REALIZED: entered & members, LATE: late & members}
        arrays = {name: np.array(found.to_array(), np.uint32) for name, found in came.items()}
        stem = f"{segment_id}-{revision}-{self._node.new_id()[:8]}"
        same = row is not None and members == old and self._path(feed, row.file).exists()
        if not same:  # who reads the members need not look again
            write_atomically(self._path(feed, f"{stem}.members"), members.serialize())
        changes = _packed(**arrays, exited=exited, exited_at=exited_at)
        write_atomically(self._path(feed, f"{stem}.changes"), changes)
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
            self._delete(feed, [row.file, row.changes])

    def _delete(self, feed: Row[Any], names: Iterable[str]) -> None:
        """Delete files of a feed once the transaction that names them no more is committed."""
        for name in names:
            self._node.store.afterwards(partial(self._path(feed, name).unlink, missing_ok=True))

    def _renew(self, tx: Connection, connection: Row[Any], rows: Rows) -> None:
        """Let what was taken from us leave our own segments too."""
        emptied = self._project.segments.renew(tx, {f"received.{connection.alias}.{row.name}" for row in rows})
        if emptied:
            text = f"{', '.join(emptied)}: nobody is in it any more, since a segment of {connection.alias} is gone"
            self._project.alerts.add(tx, "segment_emptied", text)

    def _members(self, feed: Row[Any], row: Row[Any]) -> BitMap:
        """Return a segment's present members; none where they were purged meanwhile."""
        content = self._content(feed, row, "file")
        return BitMap() if content is None else BitMap.deserialize(content)

    def _statuses(self, tx: Connection, feed: Row[Any], row: Row[Any]) -> dict[str, BitMap]:
        exited = BitMap(expiry.remembered(self._exits(feed, row), self._node.now())[0])
        members = self._members(feed, row)
        if self._ended(tx, feed):
            return {REALIZED: BitMap(), EXISTING: BitMap(), EXITED: exited | members}
        realized = BitMap(self._changes(feed, row)[REALIZED])
        return {REALIZED: realized, EXISTING: members - realized, EXITED: exited}

    def _ended(self, tx: Connection, feed: Row[Any]) -> str | None:
        """Return why a feed's memberships have ended, None while they hold."""
        if feed.refreshed is None:
            return None
        return expiry.ended(self._received.definition(tx, feed), feed.refreshed, self._node.now())

    def _exits(self, feed: Row[Any], row: Row[Any]) -> expiry.Exits:
        changes = self._changes(feed, row)
        return changes[EXITED].astype(np.uint32, copy=False), changes["exited_at"].astype(np.int64, copy=False)

    def _changes(self, feed: Row[Any], row: Row[Any]) -> dict[str, npt.NDArray[Any]]:
        content = self._content(feed, row, "changes")
        if content is None:
            return {REALIZED: NOBODY[0], LATE: NOBODY[0], EXITED: NOBODY[0], "exited_at": NOBODY[1]}
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def _content(self, feed: Row[Any], row: Row[Any], column: str) -> bytes | None:
        """Return a file of a membership, the newest where it was replaced since the row was read; None once it is purged."""
        newest: Row[Any] | None = row
        while newest is not None:
            try:
                return self._path(feed, getattr(newest, column)).read_bytes()
            except FileNotFoundError:
                before = newest
                with self._node.store.read() as tx:
                    newest = tx.execute(select(memberships).where(memberships.c.id == row.id)).first()
                if newest is not None and getattr(newest, column) == getattr(before, column):
                    return None
        return None

    def _rows(self, tx: Connection, feed: Row[Any]) -> Rows:
        return list(
            tx.execute(select(memberships).where(memberships.c.feed_id == feed.id).order_by(memberships.c.name))
        )

    def _folder(self, feed: Row[Any]) -> Path:
        return self._project.data_directory / "received" / str(feed.id)

    def _path(self, feed: Row[Any], name: str) -> Path:
        return self._folder(feed) / name


def base_of(feed: Row[Any]) -> tuple[int, int] | None:
    """Return the version and epoch that changes can be added to; None where there is nothing, or far too much already."""
    if not feed.records or len(feed.records) > CHANGES_AT_MOST:
        return None
    return _named(feed.records[-1])[0], feed.epoch


def open_chain(chain: Chain, namespace: str, known: "evaluations.Known", definition: Definition) -> tuple[U8, Bools]:
    """Return the bitmaps that our identities have by now, uint8 (n, width), and for which of them a record ever opened."""
    count, start = len(known.groups), 0
    bitmaps, opened = np.zeros((count, definition.width), np.uint8), np.zeros(count, bool)
    for prf in known.parts():
        tags = membership.tags_of(prf, definition.feed)
        for sealed in chain:
            rows, found = membership.open_records(
                sealed.records[namespace],
                prf,
                feed=definition.feed,
                version=sealed.version,
                revision=sealed.revision,
                tags=tags,
            )
            bitmaps[start + rows], opened[start + rows] = found, True
        start += len(prf)
    return bitmaps, opened


def _packed(**arrays: npt.NDArray[Any]) -> memoryview:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getbuffer()


def jumped(before: int, after: int) -> bool:
    """Tell whether a segment grew or shrank so much in one run that a person should look."""
    return abs(after - before) >= max(JUMP * max(before, after), JUMP_PEOPLE)


def _named(file: str) -> tuple[int, int]:
    """Return the version and revision whose records are in a file."""
    _, version, revision = file.removesuffix(".npz").split("-")
    return int(version), int(revision)
