"""The files of what a received feed gave, in data/PROJECT/received/FEED:

    records-VERSION-REVISION-RANDOM.npz a revision's records by namespace; the feed's row lists them, oldest first
    SEGMENT-REVISION-RANDOM.members     a segment's present members, a roaring bitmap over profile numbers
    SEGMENT-REVISION-RANDOM.changes     who of them is realized, who is realized in the next revision too, who has left, when

What is new is written under a new name and synced, then the caller's transaction lets a row name it. What it replaces stays
for `sweep`; what is taken back is deleted once the transaction is committed. So after a kill there may be files that no row
names, which `sweep` removes, and never a row whose file is gone. The signed statement of a purge leaves only after a sweep.
"""

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from pyroaring import BitMap
from sqlalchemy import delete, insert, select, update

from psi.values import U8, Rows

from ...access.scope import Scope
from ...errors import Failure
from ...storage import row_files
from ...storage.database import Tx
from ...storage.files import below, failure_of, write_atomically
from ...storage.records import record
from ...storage.tables import memberships
from .changes import NO_CHANGES, Changes, Present
from .received_feeds import ReceivedFeed, of_project


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One segment of a received feed, as the row of `memberships` has it."""

    id: str
    feed_id: str
    segment_id: str  # the sender's
    name: str
    revision: int
    file: str  # of the present members
    changes: str  # the file of who came and who left
    size: int
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """The records of one revision as they are kept: by namespace, uint8 (n, 16 + width), sorted by tag."""

    version: int
    revision: int
    epoch: int
    records: Mapping[str, Rows]
    name: str = ""  # of the file, which is named at random: other records never have it


Chain = list[Sealed]  # a full revision and the changes since, oldest first


def rows(tx: Tx, feed: ReceivedFeed) -> list[Membership]:
    """Return what a feed gave, a row for each segment, by name."""
    query = select(memberships).where(memberships.c.feed_id == feed.id).order_by(memberships.c.name)
    return [record(Membership, row) for row in tx.execute(query)]


class MembershipFiles:
    """What one received feed gave: its rows of `memberships` and their files."""

    def __init__(self, scope: Scope, feed: ReceivedFeed) -> None:
        self._home, self._feed = scope.home, feed
        self.folder = below(scope.data_directory, "received", feed.id)

    def members(self, row: Membership) -> BitMap:
        """Return a segment's present members; none where they were purged meanwhile."""
        content = self._content(row, "file")
        return BitMap() if content is None else BitMap.deserialize(content)

    def changes(self, row: Membership) -> Changes:
        """Return who of a segment came lately and who has left; nobody where they were purged meanwhile."""
        content = self._content(row, "changes")
        return NO_CHANGES if content is None else Changes.unpack(content)

    def write(
        self,
        tx: Tx,
        row: Membership | None,
        present: Present,
        *,
        revision: int,
        left_at: int | None = None,
    ) -> str:
        """Keep who is in a segment at a revision, in place of `row`; who has left did so at `left_at`, or now.

        If the row is of the same revision, the members were only computed again: who is realized stays so. A file that would
        say what the one before says is not written: who reads it need not look again. Returns the name of the members' file.
        """
        now = self._home.now()
        before, noted = (self.members(row), self.changes(row)) if row else (BitMap(), NO_CHANGES)
        revised = row is None or row.revision < revision
        changes = noted.after_members(before, present.members, revised=revised, at=left_at or now, now=now)
        stem = f"{present.segment_id}-{revision}-{self._home.new_id()[:8]}"
        file, change_file = f"{stem}.members", f"{stem}.changes"
        if row is not None and present.members == before and self.has(row.file):
            file = row.file
        else:
            write_atomically(below(self.folder, file), present.members.serialize())
        if row is not None and changes.equals(noted) and self.has(row.changes):
            change_file = row.changes
        else:
            write_atomically(below(self.folder, change_file), changes.packed())
        values = {
            "name": present.name,
            "revision": revision,
            "file": file,
            "changes": change_file,
            "size": len(present.members),
            "changed": now,
        }
        if row:
            tx.execute(update(memberships).where(memberships.c.id == row.id).values(**values))
        else:
            about = {"id": self._home.new_id(), "feed_id": self._feed.id, "segment_id": present.segment_id}
            tx.execute(insert(memberships).values(**about, **values))
        return file

    def has(self, name: str) -> bool:
        return below(self.folder, name).exists()

    def take_out(self, tx: Tx, row: Membership, profiles: BitMap) -> None:
        """Forget that profiles ever were in a segment. The old files go at the commit."""
        members, changes = self.members(row), self.changes(row)
        if not profiles & (members | changes.realized | changes.late | BitMap(changes.exits.profiles)):
            return
        stem = f"{row.segment_id}-{row.revision}-{self._home.new_id()[:8]}"
        write_atomically(self.folder / f"{stem}.members", (members - profiles).serialize())
        write_atomically(self.folder / f"{stem}.changes", changes.without(profiles).packed())
        values = {"file": f"{stem}.members", "changes": f"{stem}.changes", "size": len(members - profiles)}
        tx.execute(update(memberships).where(memberships.c.id == row.id).values(**values))
        self.delete([row.file, row.changes])

    def drop(self, tx: Tx, gone: Iterable[Membership]) -> None:
        """Remove rows, and their files once the transaction is committed."""
        for row in gone:
            tx.execute(delete(memberships).where(memberships.c.id == row.id))
            self.delete([row.file, row.changes])

    def delete(self, names: Iterable[str]) -> None:
        """Delete files once the transaction that names them no more is committed."""
        for name in names:
            self._home.database.afterwards(partial(below(self.folder, name).unlink, missing_ok=True))

    def delete_all(self) -> None:
        """Delete every file of the feed once the transaction is committed."""
        self.delete([path.name for path in self.folder.iterdir()] if self.folder.is_dir() else [])

    def write_records(self, sealed: Sealed) -> Sealed:
        """Keep a revision's records, and return them as their file has them, with its name."""
        name = f"records-{sealed.version}-{sealed.revision}-{self._home.new_id()[:8]}.npz"
        records = {_swapped(each): rows for each, rows in sealed.records.items()}
        write_atomically(self.folder / name, row_files.packed(records))
        return replace(sealed, name=name, records=_records(self.folder / name))

    def chain(self) -> Chain:
        """Return the last full revision and the changes since, oldest first; nothing where one of them is gone or damaged.

        The files are mapped: of them only what is looked at is read.
        """
        chain: Chain = []
        for name in self._feed.records or ():
            path = below(self.folder, name)
            if not path.exists():
                return []
            version, revision = _named(name)
            try:
                records = _records(path)
            except (BadZipFile, OSError, ValueError, AssertionError, struct.error):
                return []  # damaged: as if it were gone
            assert self._feed.epoch is not None
            chain.append(Sealed(version=version, revision=revision, epoch=self._feed.epoch, records=records, name=name))
        return chain

    def unnamed(self, tx: Tx) -> list[Path]:
        """Return the files that no row names."""
        kept = {name for row in rows(tx, self._feed) for name in (row.file, row.changes)}
        kept.update(self._feed.records or ())
        try:
            return [path for path in self.folder.iterdir() if path.name not in kept]
        except FileNotFoundError:
            return []

    def _content(self, row: Membership, column: str) -> bytes | None:
        """Return a file of a membership, the newest if it was replaced since the row was read; None once it is purged."""
        newest: Membership | None = row
        while newest is not None:
            name: str = getattr(newest, column)
            try:
                return below(self.folder, name).read_bytes()
            except FileNotFoundError:
                with self._home.read() as tx:
                    found = tx.execute(select(memberships).where(memberships.c.id == row.id)).first()
                newest = None if found is None else record(Membership, found)
                if newest is not None and getattr(newest, column) == name:
                    return None
        return None


def last_version(feed: ReceivedFeed) -> int | None:
    """Return the version of the newest revision that is kept of a feed."""
    return _named(feed.records[-1])[0] if feed.records else None


def versions_kept(feed: ReceivedFeed) -> set[int]:
    """Return the versions of the revisions that are kept of a feed."""
    return {_named(name)[0] for name in feed.records or ()}


def sweep(scope: Scope, *, feed_id: str | None = None, connection_id: str | None = None) -> None:
    """Remove files of one feed, of a partner's, or of all that no row names any more: what a release replaced, or a kill
    left.

    No file is written meanwhile: that takes the transaction which this has. Raises Failure in the end if a file cannot be
    removed.
    """
    failure: Failure | None = None
    with scope.begin() as tx:
        for _, feed in of_project(scope, tx):
            if feed_id not in (None, feed.id) or connection_id not in (None, feed.connection_id):
                continue
            files = MembershipFiles(scope, feed)
            try:
                unnamed = files.unnamed(tx)
            except OSError as error:
                failure, unnamed = failure_of(error, files.folder), []
            for path in unnamed:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    failure = failure_of(error, path)
    if failure is not None:
        raise failure


def _records(path: Path) -> dict[str, Rows]:
    """Return the records of a file by namespace, mapped."""
    return {each.replace("|", "/"): rows for each, rows in _mapped(path).items()}


def _swapped(namespace: str) -> str:
    """Return a namespace as the name of an array, which has no "/"."""
    return namespace.replace("/", "|")


def _mapped(path: Path) -> dict[str, U8]:
    """Return the arrays of a file, by name, each mapped where it lies: they are stored as they are."""
    arrays = {}
    with ZipFile(path) as stored, path.open("rb") as file:
        for member in stored.infolist():
            file.seek(member.header_offset + 26)
            lengths = struct.unpack("<HH", file.read(4))  # of the name and of what else stands before the array
            file.seek(sum(lengths), 1)
            assert np.lib.format.read_magic(file) == (1, 0)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            array = np.memmap(path, kind, "r", file.tell(), shape) if math.prod(shape) else np.zeros(shape, kind)
            arrays[member.filename.removesuffix(".npy")] = np.asarray(array)
    return arrays


def _named(file: str) -> tuple[int, int]:
    """Return the version and revision whose records are in a file; those of before have no part named at random."""
    _, version, revision, *_ = file.removesuffix(".npz").split("-")
    return int(version), int(revision)
