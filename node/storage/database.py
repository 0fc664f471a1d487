"""The control rows' database: SQLite (WAL) by default, PostgreSQL by URL; one writer at a time on both."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Insert, UpdateBase, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from psi.errors import Remedy

from .. import log
from ..errors import DiskFull, Failure, InvalidInput, StoreBusy, StoreUnavailable
from .files import make_private
from .migrations import HEAD, upgrade

Tx = Connection  # what a transaction, or a consistent look, sees and changes the rows through

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('vesica'), hashtext(current_schema()))"
BUSY_SECONDS = 30  # how long an act waits for another one's transaction
_BESIDE = 1 << 16  # bytes of room, below which one that cannot be opened may be for want of it
_PATIENCE_SECONDS = (
    2  # of what makes others wait, and can be done later; PostgreSQL takes 1 to send its own cleaning away
)
_NEXT = "SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)"
_WAITS = (0, 0.1, 0.3, 0.6)  # seconds before each try: most snapshots are let go of in moments


class Database:
    """The database of one node. `begin()` is a writing transaction, `read()` a consistent look."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.committed: Callable[[Collection[str]], object] = lambda _tables: (
            None
        )  # called with the tables that changed
        self._thread = threading.local()
        event.listen(engine, "after_execute", self._note_change)

    @classmethod
    def open(cls, database: str | Path) -> "Database":
        """Open a SQLite file or a database URL, and bring its tables up to date."""
        opened = cls(_engine(database))
        with opened._explained():
            if opened._revision() != HEAD:
                with opened.begin() as tx:
                    upgrade(tx)
        return opened

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        """Open the one writing transaction: commit at the end, roll back on an exception.

        Others wait for it up to BUSY_SECONDS, then StoreBusy; what is read inside cannot change before the commit. It
        does not nest: pass the transaction on.
        """
        if getattr(self._thread, "writing", False):
            raise RuntimeError("a transaction is open in this thread: pass it on")
        self._thread.writing, self._thread.afterwards, self._thread.changed = True, [], set[str]()
        try:
            with self._explained(), self.engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text(_LOCK))
                yield connection
        finally:
            self._thread.writing = False
        for act in self._thread.afterwards:
            try:
                act()
            except OSError as error:  # the transaction stands
                log.warning("a file stays behind", reason=str(error))
        if self._thread.changed:
            self.committed(self._thread.changed)

    def afterwards(self, act: Callable[[], object]) -> None:
        """Do something once this thread's transaction is committed, as to delete files that no row names any more.

        A rollback forgets it, and so does a kill or an OSError: `Node.sweep` finds the files that are left.
        """
        if not getattr(self._thread, "writing", False):
            raise RuntimeError("no transaction is open in this thread")
        self._thread.afterwards.append(act)

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """Look at one state of the database, without waiting for a writer; nothing is kept of what is written here."""
        with self._explained(), self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection.execution_options(vesica_read=True)

    def overwrite_deleted(self, table: str) -> bool:
        """Let nothing stay in the database's files of what was deleted in a table; return whether that was done.

        It cannot be, for now, while somebody reads an older state: on PostgreSQL of any schema of the same database.
        """
        if self.engine.dialect.name == "sqlite":  # deleted rows are zeros; its log has what was there before
            with closing(self.engine.raw_connection()) as pooled:
                cursor = pooled.cursor()
                cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE_SECONDS * 1000}")
                try:
                    return bool(cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
                except sqlite3.OperationalError:
                    return False
                finally:
                    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"SET lock_timeout = '{_PATIENCE_SECONDS}s'"))
            try:
                next_one = connection.execute(text(_NEXT)).scalar_one()
                return any(_rewrite(connection, table, next_one, after=wait) for wait in _WAITS)
            except DBAPIError:
                return False
            finally:
                connection.execute(text("RESET lock_timeout"))

    def close(self) -> None:
        self.engine.dispose()

    def _note_change(self, _connection: Any, statement: Any, *arguments: Any) -> None:
        """Note which table a statement of this thread's transaction has changed, if any row."""
        if not isinstance(statement, UpdateBase) or not getattr(self._thread, "writing", False):
            return
        if isinstance(statement, Insert) or arguments[-1].rowcount:
            self._thread.changed.add(statement.table.description)

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return revision

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeout as error:
            raise StoreBusy("too many acts wait for the database", hint="try again in a moment") from error
        except DBAPIError as error:
            explained = _explain(error, self.engine)
            if explained is None:
                raise
            raise explained from error


def _rewrite(connection: Connection, table: str, until: int, *, after: float) -> bool:
    """Give a table of PostgreSQL a new file, and return whether all is out that was deleted before transaction `until`.

    VACUUM FULL copies deleted rows too that a snapshot somewhere may still see. It notes the transaction before which it
    left out whatever was deleted (relfrozenxid), which any role can read, as it cannot who has which snapshot.
    """
    time.sleep(after)
    connection.execute(text(f"VACUUM FULL {table}"))
    query = "SELECT CAST(CAST(relfrozenxid AS text) AS bigint) FROM pg_class WHERE oid = CAST(:name AS regclass)"
    left_out: int = connection.execute(text(query), {"name": table}).scalar_one()
    return (left_out - until) % (1 << 32) < 1 << 31  # transaction numbers go round


def _engine(database: str | Path) -> Engine:
    if isinstance(database, Path):
        return _sqlite(f"sqlite:///{database}")
    try:
        url = make_url(database)
        if url.get_backend_name() == "sqlite":
            return _sqlite(database)
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+psycopg")
        if url.drivername != "postgresql+psycopg":
            raise InvalidInput(f"no database of kind {url.drivername!r}", hint="use postgresql://USER@HOST/NAME")
        return create_engine(
            url,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "options": _options(url.query.get("options"))},
        )
    except (ArgumentError, NoSuchModuleError) as error:
        raise InvalidInput("that is not a database URL", hint="use postgresql://USER@HOST/NAME") from error
    except ModuleNotFoundError as error:
        raise Failure(
            "PostgreSQL needs the package psycopg", hint="install it beside Vesica: pip install 'psycopg[binary]'"
        ) from error


def _options(given: Any) -> str:
    return f"{given if isinstance(given, str) else ''} -clock_timeout={BUSY_SECONDS}s".strip()


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
    _own(engine.url.database)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN is neither immediate nor there for DDL
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on disk when it returns
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # zeros over deleted rows

    @event.listens_for(engine, "begin")
    def _begin(tx: Tx) -> None:
        reading = tx.get_execution_options().get("vesica_read", False)
        tx.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _own(file: str | None) -> None:
    """Make a SQLite file its owner's alone before there is anything in it; what SQLite puts beside it is like it."""
    if not file or file == ":memory:" or file.startswith("file:"):
        return
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return  # the first statement says it in words
    for each in (file, f"{file}-wal", f"{file}-shm"):
        make_private(Path(each))


def _is_full(file: Path) -> bool:
    """Return whether what SQLite puts beside a file has no room: 32 KiB, also for a command that only reads."""
    try:
        found = os.statvfs(file.absolute().parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _BESIDE


def _explain(error: DBAPIError, engine: Engine) -> Failure | None:
    """Return the plain words for what a database says of itself; None for a mistake in our own statement."""
    cause = error.orig
    state = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""
    where = engine.url.set(query={}).render_as_string(hide_password=True)  # the query may have a password too
    if (
        state.startswith("SQLITE_FULL")
        or state == "53100"
        or (state.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR")) and _is_full(Path(engine.url.database or "")))
    ):
        return DiskFull(f"no space left for the database {where}", hint="make room and run the command again")
    if state.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state == "55P03":
        return StoreBusy(
            f"another act had the database for {BUSY_SECONDS} seconds",
            hint="try again, or see what runs",
            remedy=Remedy("job.list"),
        )
    if state.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreUnavailable(f"the database {where} is damaged", hint="restore the home from a backup")
    if state.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_PERM")):
        return StoreUnavailable(f"cannot open the database {where} for writing", hint="check that the file is yours")
    if (
        error.connection_invalidated
        or state.startswith(("08", "57P", "28", "3D"))
        or (not state and engine.dialect.name == "postgresql" and type(error).__name__ == "OperationalError")
    ):
        return StoreUnavailable(f"cannot reach the database {where}", hint="check that it runs and takes our user")
    return None


def is_committed(tx: Tx) -> bool:
    """Return whether all that a transaction sees is committed: it only reads."""
    return bool(tx.get_execution_options().get("vesica_read"))
