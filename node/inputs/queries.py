"""A SQL query as an input: run on a read-only connection, its rows fetched in batches.

The URL may have a password in it: of the URL only the kind of database gets into messages, the audit log and reprs. Of a
query that fails only the kind of error is named, since a database's own messages quote values.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from psi.errors import Remedy

from ..errors import InvalidInput, spaced
from ..homes import check_input
from .columnar import Row, Table, in_parts
from .expansion import CELL, MOST, Allowance

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import URL

MAX_VALUE = 1 << 18  # bytes of a value of SQLite, which can make one of nothing
STEPS = 1 << 6  # of SQLite's machine, for each byte that an answer may have
_LOOK = 1 << 16  # steps between two looks at their number
_FETCHED = 1 << 12  # rows of PostgreSQL in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A SELECT, and the SQLAlchemy URL of the database that answers it: SQLite or PostgreSQL."""

    sql: str = field(repr=False)
    database: str = field(repr=False)

    def table(self) -> Table:
        """Run the query once for the names of its columns; raises InvalidInput."""
        with self._run() as (result, _):
            header = list(map(str, result.keys()))
        return Table(header=header, total=None, parts=lambda: in_parts(self._rows()))

    def _rows(self) -> Iterator[tuple[Row, int]]:
        with self._run() as (result, allowance):
            for cells in result:
                row = [cell_text(cell) for cell in cells]
                size = sum(len(cell) for cell in row if cell) + CELL * (1 + len(row))
                allowance.add(size)
                yield row, size

    @contextmanager
    def _run(self) -> Iterator[tuple[Any, Allowance]]:
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        engine = _engine(self.database)
        reason = ""
        work = _Work()
        try:
            with engine.connect() as connection:
                allowance = _read_only(connection, work)
                _refuse_nodes(connection)
                options = {"stream_results": True, "max_row_buffer": _FETCHED, "no_parameters": True}
                yield connection.exec_driver_sql(self.sql, execution_options=options), allowance
        except DBAPIError as error:
            reason = work.ended or spaced(type(error.orig).__name__)
        except (SQLAlchemyError, UnicodeError, ValueError) as error:
            reason = spaced(type(error).__name__)
        finally:
            engine.dispose()
        if reason:  # raised here: no cause, no context, nothing of the URL or of a row in a traceback
            raise InvalidInput(
                f"the {engine.dialect.name} database could not answer the query ({reason})",
                hint="it must be one SELECT that runs in the database's own client, as a user who may read the tables",
            )


def given(file: str | None, sql: str | None, database: str | None) -> "str | Query":
    """Return the input that was given: a file, or a query and its database; raises InvalidInput."""
    remedy = Remedy("profile.import", {"sql": "QUERY", "database": "URL"})
    if (file is None) == (sql is None):
        raise InvalidInput(
            "people come from a file or from a query",
            hint='name a file, "-" for standard input, or give a query and its database',
            remedy=remedy,
        )
    if sql is None:
        return file or ""
    if not database:
        raise InvalidInput("a query needs a database", hint="set VESICA_SOURCE_URL, or give the URL", remedy=remedy)
    return Query(sql=sql, database=database)


def _engine(text: str) -> "Engine":
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError
    from sqlalchemy.pool import NullPool

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None:
        raise InvalidInput("that is not a database URL", hint="such as postgresql://reader@db.example.com/crm")
    kind = url.get_backend_name()
    if kind == "sqlite":
        return create_engine(_sqlite(url), poolclass=NullPool)
    if kind not in ("postgresql", "postgres"):
        raise InvalidInput(
            f"a query cannot be run read-only in a {kind[:20]} database",
            hint="use SQLite or PostgreSQL, or export a file, such as CSV",
        )
    try:
        import psycopg  # noqa: F401 - to say what is missing
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "PostgreSQL needs the package psycopg", hint="install it beside Vesica: pip install 'psycopg[binary]'"
        ) from error
    return create_engine(url.set(drivername="postgresql+psycopg"), poolclass=NullPool)


def _sqlite(url: "URL") -> "URL":
    """Return the URL that opens an SQLite file for reading only: one that is not there is not made."""
    if not url.database or url.database == ":memory:":
        raise InvalidInput("the database URL names no file", hint="such as sqlite:///crm.db")
    name = url.database
    if name.startswith("file:"):  # as a URI of SQLite's: what it asks for beside the file does not count
        name = unquote(urlsplit(name).path)
    check_input(name)
    return url.set(drivername="sqlite", database=f"file:{quote(name)}", query={"mode": "ro", "uri": "true"})


def _refuse_nodes(connection: "Connection") -> None:
    """Raise InvalidInput for a node's own database, also a copy of one, where it can be read."""
    if connection.dialect.name == "sqlite":
        query = "SELECT count(*) FROM sqlite_master WHERE name IN {0}"
    else:
        query = (
            "SELECT max(n) FROM (SELECT count(*) AS n FROM information_schema.tables WHERE table_name IN {0} "
            "GROUP BY table_schema) AS found"
        )
    if connection.exec_driver_sql(query.format(_OURS)).scalar() == len(_OURS):
        raise InvalidInput(
            "the database has the tables of a node, which are the node's alone",
            hint="name another database, or a user who may not read them",
        )


_OURS = ("audit", "label_uses", "suppressions")


class _Work:
    """The steps that SQLite has taken for a query."""

    def __init__(self) -> None:
        self.ended = ""
        self._left = 0

    def begin(self, driver: Any, most: int) -> None:
        """Let the query take `most` steps."""
        self._left = most
        driver.set_progress_handler(self._is_over, _LOOK)

    def _is_over(self) -> int:
        self._left -= _LOOK
        if self._left < 0:
            self.ended = "it does not come to an end"
        return int(self._left < 0)


def _read_only(connection: "Connection", work: _Work) -> Allowance:
    """Let the connection only read, and return how much it may answer."""
    noun, hint = "the answer to the query", "ask for less, or export a file"
    if connection.dialect.name != "sqlite":  # a server-side cursor takes one statement, so nobody ends the transaction
        connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        connection.commit()
        return Allowance(MOST, noun=noun, hint=hint)
    connection.exec_driver_sql("PRAGMA query_only = ON")
    file = str(connection.exec_driver_sql("PRAGMA database_list").fetchall()[0][2])
    sizes = (each.stat().st_size for each in (Path(file), Path(f"{file}-wal")) if each.exists())
    allowance = Allowance(sum(sizes), noun=noun, hint=hint)
    driver: Any = connection.connection.driver_connection
    driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
    work.begin(driver, STEPS * allowance.most)
    driver.set_authorizer(_authorize)
    return allowance


def _authorize(action: int, _first: str | None, second: str | None, *_: str | None) -> int:
    """Let a statement read and nothing else: ATTACH and VACUUM INTO write files even from a database that is only read."""
    loads = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() == "load_extension"
    return sqlite3.SQLITE_OK if action in _READING and not loads else sqlite3.SQLITE_DENY


_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)


def cell_text(cell: Any) -> str | None:
    """Return a cell as the text that other inputs would have for it."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell).hex()
    if isinstance(cell, Decimal):
        return format(cell, "f")
    return json.dumps(cell) if isinstance(cell, (list, dict)) else str(cell)
