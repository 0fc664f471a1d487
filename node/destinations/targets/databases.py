"""Databases that a destination names: PostgreSQL at an address that was checked, and SQLite files outside every home.

Nothing of the node's own account is used to sign in: no password file, no certificate, no ticket.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from ...errors import InvalidInput
from ...homes import check_input
from ...storage.records import Document
from ...transport.addresses import AllowedAddresses, is_private, joined
from ..kinds import Gone, Later, Outcome, Refused

CONNECT_SECONDS = 10
BUSY_SECONDS = 5  # for which another program may lock a file
TIMEOUT_SECONDS = 60.0  # for all of one message
STEPS = 100_000  # of SQLite between two looks at the clock
MOST_ADDRESSES = 2  # of one name that are tried
MOST_BYTES = 1 << 25  # that a database says to one message
LOOK_SECONDS = 0.02  # between two looks at how many those are
_AT, _TCP_INFO = 128, 136  # bytes of struct tcp_info: where tcpi_bytes_received begins and ends
_TLS = ("disable", "require", "verify-ca", "verify-full")
_NOWHERE = f"{os.devnull}/none"  # a file that there cannot be


def checked_url(text: str) -> URL:
    """Return the URL of a database; raises InvalidInput for one with a password, or a file in a home."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _no_url() from None  # its text has the URL, which may have a password
    if url.password is not None:
        raise InvalidInput(
            "the address of a database has no password in it",
            hint="everybody who sees the destination sees it: give the password as the destination's secret",
        )
    if url.drivername == "sqlite":
        name = url.database or ""
        if not name or name == ":memory:" or name.startswith("file:") or url.query or url.host or "\0" in name:
            raise InvalidInput("that is no SQLite file", hint="it reads sqlite:////srv/crm.db, with nothing after it")
        path = Path(name).absolute()
        check_input(path)
        if not path.parent.is_dir():
            raise InvalidInput(
                f"there is no folder {path.parent}", hint="make it, for the account that runs the node to write"
            )
        return url.set(database=str(path))
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise _no_url()
    plain = text.isascii() and text.isprintable() and " " not in text
    if not plain or not url.host or "," in url.host or not url.username or not url.database:
        raise _no_url()
    if find_spec("psycopg") is None:
        raise InvalidInput(
            "PostgreSQL needs the package psycopg", hint="install it beside Vesica: pip install 'vesica[postgres]'"
        )
    if set(url.query) - {"sslmode"} or url.query.get("sslmode", "require") not in _TLS:
        raise InvalidInput(
            "the address of a database has a parameter that is not understood",
            hint=f"the only one is sslmode: {', '.join(_TLS)}; disable is for private addresses",
        )
    return url.set(drivername="postgresql")


def _no_url() -> InvalidInput:
    return InvalidInput(
        "that is no address of a database", hint="it reads postgresql://USER@HOST/DATABASE or sqlite:////FOLDER/FILE"
    )


def is_sqlite(url: URL) -> bool:
    return url.drivername == "sqlite"


def connected(
    url: URL, allowed: AllowedAddresses, *, password: str | None = None, authorities: str | None = None
) -> sa.Connection:
    """Return a connection to a database.

    Raises AddressNotAllowed, InvalidInput for a file that is in a home now, ModuleNotFoundError where psycopg is missing,
    OSError where a name or folder is not there, and what SQLAlchemy raises.
    """
    if is_sqlite(url):
        return _sqlite(url).connect()
    engine = _postgres(url, allowed, password, authorities)
    with ExitStack() as stack:

        @sa.event.listens_for(engine, "do_connect")
        def _connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
            driver = dialect.connect(*arguments, **options)
            stack.enter_context(_cut_off(driver, threading.Event()))  # SQLAlchemy asks it several things at once
            return driver

        return engine.connect()


@contextmanager
def until(connection: sa.Connection, late: threading.Event) -> Iterator[None]:
    """End what is done with a database after TIMEOUT_SECONDS, or once MOST_BYTES came of it: a server could take one byte
    at a time, or send a row that never ends, which the driver keeps in memory."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name != "sqlite":
        with _cut_off(driver, late):
            yield
        return
    end = time.monotonic() + TIMEOUT_SECONDS

    def is_over() -> bool:
        if time.monotonic() > end:
            late.set()
        return late.is_set()

    driver.set_progress_handler(is_over, STEPS)  # a trigger of the file's owner may do what it likes
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


@contextmanager
def _cut_off(driver: Any, late: threading.Event) -> Iterator[None]:
    server, done = socket.socket(fileno=os.dup(driver.pgconn.socket)), threading.Event()
    end, most = time.monotonic() + TIMEOUT_SECONDS, _received(server) + MOST_BYTES

    def watch() -> None:
        while not done.wait(LOOK_SECONDS):
            if time.monotonic() > end or _received(server) > most:
                late.set()
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        server.close()


def _received(server: socket.socket) -> int:
    """Return how many bytes came by a connection so far, 0 where the system does not say (it is Linux that does)."""
    try:
        return int.from_bytes(server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO)[_AT:], sys.byteorder)
    except (OSError, AttributeError):
        return 0


def _postgres(url: URL, allowed: AllowedAddresses, password: str | None, authorities: str | None) -> sa.Engine:
    import psycopg  # noqa: F401 - an extra

    host, port = url.host or "", url.port or 5432
    found = [each for each, _ in allowed.resolve(joined(host, port))][:MOST_ADDRESSES]
    usual = "verify-full" if authorities else "prefer" if all(map(is_private, found)) else "require"
    mode = str(url.query.get("sslmode", usual))
    if mode == "disable" and not all(map(is_private, found)):
        mode = "require"
    options: Document = {
        "host": ",".join([host] * len(found)),
        "hostaddr": ",".join(found),  # what was checked, and nothing that the name means a moment later
        "port": port,
        "sslmode": mode,
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "vesica",
        "gssencmode": "disable",
        "passfile": _NOWHERE,
        "sslcert": _NOWHERE,
        "sslkey": _NOWHERE,
        "prepare_threshold": None,  # a pool between us may give each transaction another connection
    }
    if authorities:
        options["sslrootcert"] = authorities
    url = URL.create("postgresql+psycopg", url.username, password or "", database=url.database)
    return sa.create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=options)


def _sqlite(url: URL) -> sa.Engine:
    """Open an SQLite file; one that is missing is made for the node's account alone."""
    path = url.database or ""
    check_input(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = sa.create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN leaves out what makes a table
        connection.execute("PRAGMA trusted_schema = OFF")

    @sa.event.listens_for(engine, "begin")
    def _begin(tx: sa.Connection) -> None:
        tx.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def outcome_of(error: DBAPIError) -> Outcome:
    """Return what an error of a database means, by its class alone."""
    cause: Any = error.orig
    state = str(getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or "")
    for beginning, outcome in _STATES.items():
        if state.startswith(beginning):
            return outcome
    if state:
        return Later("connection")
    said = str(cause).lower()  # read here, and shown nowhere: a connection that was refused has no state
    return next((outcome for word, outcome in _WORDS.items() if word in said), Later("connection"))


_STATES: dict[str, Outcome] = {  # the first that a state begins with
    "28": Gone("login"),
    "3D": Gone("login"),
    "42501": Gone("privilege"),
    "25006": Later("privilege"),
    "3F": Gone("columns"),
    "42": Gone("columns"),
    "22": Refused("data"),
    "23": Refused("data"),
    "53100": Later("full"),
    "57014": Later("timeout"),
    "55P03": Later("locked"),
    "SQLITE_FULL": Later("full"),
    "SQLITE_BUSY": Later("locked"),
    "SQLITE_LOCKED": Later("locked"),
    "SQLITE_CANTOPEN": Later("folder"),
    "SQLITE_READONLY": Later("folder"),
    "SQLITE_PERM": Later("folder"),
    "SQLITE_IOERR": Later("folder"),
    "SQLITE_NOTADB": Gone("damaged"),
    "SQLITE_CORRUPT": Gone("damaged"),
    "SQLITE_CONSTRAINT": Refused("data"),
    "SQLITE_MISMATCH": Refused("data"),
    "SQLITE_ERROR": Gone("columns"),
}
_WORDS: dict[str, Outcome] = {
    "authentication failed": Gone("login"),
    "no password supplied": Gone("login"),
    "pg_hba.conf": Gone("login"),
    "does not exist": Gone("login"),
    "ssl": Later("tls", setup=True),
    "certificate": Later("tls", setup=True),
    "timeout": Later("timeout"),
}
