"""data/PROJECT/audience/audience.db: whom the Audience Manager side knows, who has which trait, and which signals came.

A SQLite file (WAL) of its owner alone, made with the first visitor. One transaction writes at a time, of whatever thread
or process; deleted rows become zeros. Nothing of it is in the control rows, and the two databases commit one after the
other: whoever writes both does the control rows first and can do the rest again, and inside a transaction of this file
control rows are only read.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from ..errors import DiskFull, Failure, StoreBusy, StoreUnavailable
from ..storage.database import BUSY_SECONDS
from ..storage.files import make_directory, make_private

PLACE = ("audience", "audience.db")  # in the directory of a project
VERSION = 1
_APPLICATION = 0x56534341  # "VSCA", in the file's header
_CACHE = 32_768  # KiB of pages that the writer keeps in memory
_READER_CACHE = 4_096
_READERS = 4  # connections that wait for the next one who reads
_LOG_BYTES = 1 << 26  # to which the log is cut after a large transaction
_PATIENCE_SECONDS = 2  # of what can be done later
_SCHEMA = (
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE ids (source INTEGER NOT NULL, value BLOB NOT NULL, visitor INTEGER NOT NULL, number INTEGER NOT NULL,"
    " PRIMARY KEY (source, value)) WITHOUT ROWID",
    "CREATE INDEX ids_visitor ON ids (visitor, number)",
    # Of traits that the platform says the members of: Roaring bitmaps of the numbers of the ids that are in it.
    "CREATE TABLE holders (trait INTEGER PRIMARY KEY, ids BLOB NOT NULL)",
    # Roaring bitmaps of visitors; of those who realised the trait more than once on that day uint32 numbers, then counts.
    "CREATE TABLE realisations (trait INTEGER NOT NULL, day INTEGER NOT NULL, visitors BLOB NOT NULL, counts BLOB,"
    " PRIMARY KEY (trait, day))",
    # The pairs of one call, without those that are not kept.
    "CREATE TABLE signals (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, source INTEGER NOT NULL,"
    " pairs TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL)",
    "CREATE INDEX signals_last ON signals (last)",
    "CREATE TABLE signal_days (signal INTEGER NOT NULL, day INTEGER NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (signal, day)) WITHOUT ROWID",
    "CREATE TABLE signal_keys (key TEXT NOT NULL, value TEXT NOT NULL, signal INTEGER NOT NULL,"
    " PRIMARY KEY (key, value, signal)) WITHOUT ROWID",
    "CREATE INDEX signal_keys_signal ON signal_keys (signal)",
)


class AudienceFile:
    """The database of one project. `begin()` is a writing transaction, `read()` a consistent look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.RLock()
        self._depth = 0
        self._writer: sqlite3.Connection | None = None
        self._owner = 0  # the thread that writes
        self._readers: list[sqlite3.Connection] = []

    @contextmanager
    def begin(self) -> Iterator[sqlite3.Connection]:
        """Open the one writing transaction, or go on with this thread's: commit at the end, roll back on an exception.

        Raises StoreBusy where another process writes for too long, StoreUnavailable for a file that cannot be used.
        """
        with self._writing, explained(self.path):
            if self._depth:
                assert self._writer is not None
                yield self._writer
                return
            writer = self._writer = self._writer or self._made()
            writer.execute("BEGIN IMMEDIATE")
            self._depth, self._owner = 1, threading.get_ident()
            try:
                yield writer
                writer.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    writer.execute("ROLLBACK")
                raise
            finally:
                self._depth = self._owner = 0

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Look at one state, or at what this thread's transaction has made of it; before the first visitor all is empty."""
        if self._owner == threading.get_ident():
            with self.begin() as writer:
                yield writer
            return
        with explained(self.path):
            reader = self._waiting() or self._reader()
            try:
                reader.execute("BEGIN")
                yield reader
                reader.execute("COMMIT")
            except BaseException:
                reader.close()
                raise
            if len(self._readers) < _READERS and reader.execute("PRAGMA database_list").fetchone()[2]:
                self._readers.append(reader)
            else:
                reader.close()

    def overwrite_deleted(self) -> bool:
        """Let nothing of what was deleted stay in the file's log; return whether that was done.

        It cannot be, for now, while somebody reads an older state.
        """
        if not self.path.exists():
            return True
        with self._writing, explained(self.path):
            while reader := self._waiting():
                reader.close()
            writer = self._writer = self._writer or self._made()
            writer.execute(f"PRAGMA busy_timeout = {_PATIENCE_SECONDS * 1000}")
            try:
                return bool(writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
            except sqlite3.OperationalError:
                return False
            finally:
                writer.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")

    def copy(self, target: Path) -> bool:
        """Write a consistent copy to a new file, also while others write; return whether there is anything to copy."""
        if not self.path.exists():
            return False
        make_directory(target.parent)
        _own(target)
        with (
            explained(self.path),
            closing(self._connected(self.path, _READER_CACHE)) as source,
            closing(sqlite3.connect(target)) as copied,
        ):
            source.backup(copied, pages=-1)
        return True

    def close(self) -> None:
        """Close what is open; the last one to do so takes the log into the file."""
        with self._writing:
            for each in (*self._readers, *filter(None, [self._writer])):
                with suppress(sqlite3.Error):
                    each.close()
            self._readers.clear()
            self._writer = None

    def _made(self) -> sqlite3.Connection:
        """Open the file to write, and make it where it is missing."""
        make_directory(self.path.parent)
        _own(self.path)
        writer = self._connected(self.path, _CACHE)
        try:
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA synchronous = FULL")  # a commit is on disk when it returns
            writer.execute("PRAGMA secure_delete = ON")  # zeros over deleted rows
            writer.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            if not _version(writer, self.path):
                writer.execute("BEGIN IMMEDIATE")
                if not _version(writer, self.path):
                    _create(writer)
                writer.execute("COMMIT")
        except BaseException:
            writer.close()
            raise
        return writer

    def _waiting(self) -> sqlite3.Connection | None:
        """Return a connection that waits for who reads; other threads may take them at the same time."""
        try:
            return self._readers.pop()
        except IndexError:
            return None

    def _reader(self) -> sqlite3.Connection:
        if self.path.exists():
            reader = self._connected(self.path, _READER_CACHE)
            try:
                if _version(reader, self.path):
                    reader.execute("PRAGMA query_only = ON")
                    return reader
            except BaseException:
                reader.close()
                raise
            reader.close()
        empty = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _create(empty)
        return empty

    @staticmethod
    def _connected(path: Path, cache: int) -> sqlite3.Connection:
        found = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        found.execute(f"PRAGMA cache_size = -{cache}")
        return found


def check(path: Path) -> None:
    """Raise StoreUnavailable unless a file has the tables of this version and no others, and pages that are whole.

    It may come from a backup that was written to do harm: a trigger or a view of it would run here.
    """
    with explained(path), closing(sqlite3.connect(path)) as found, closing(sqlite3.connect(":memory:")) as made:
        _create(made)
        query = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
        same = found.execute(query).fetchall() == made.execute(query).fetchall()
        if not _version(found, path) or not same or found.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
            raise damaged(path)


def damaged(path: Path) -> StoreUnavailable:
    return StoreUnavailable(
        f"{path} is damaged",
        hint="restore the home from the last backup, or move the file away: visitors are known anew then",
    )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in plain words what SQLite says of a file; a mistake in a statement of ours goes on up as it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = error.sqlite_errorname if hasattr(error, "sqlite_errorname") else ""
        found = _failure(path, name)
        if found is None:
            raise
        raise found from error


def _failure(path: Path, name: str) -> Failure | None:
    if name.startswith("SQLITE_FULL"):
        return DiskFull(f"no space left for {path}", hint="make room and run the command again")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreBusy(f"another act had {path} for {BUSY_SECONDS} seconds", hint="try again")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return damaged(path)
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return StoreUnavailable(
            f"cannot use {path}", hint="check that the file and its directory are yours, and the disk"
        )
    return None


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a file, 0 for one that nothing was put into; raises StoreUnavailable for one of another kind."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreUnavailable(
            f"{path} was written by a newer version", hint="install that version, or restore a backup of this one"
        )
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if version and application != _APPLICATION:
        raise damaged(path)
    return int(version)


def _create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _own(path: Path) -> None:
    """Make a file its owner's alone before there is anything in it; what SQLite puts beside it is like it."""
    with suppress(OSError):  # the first statement says it in words
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        make_private(path)
