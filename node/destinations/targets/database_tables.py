"""A table in a database as a destination: it mirrors who is in which segment, by segment and identity.

A message is one transaction of upserts and deletes, so one that comes twice changes nothing. The password is the secret; of
what a database says only its kind of error is told, since its own messages quote values.
"""

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgpack
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, NoSuchTableError, SQLAlchemyError

from ...errors import AddressNotAllowed, InvalidInput
from ...storage.records import Document
from ...transport.addresses import AllowedAddresses
from ..changes import Act
from ..kinds import Batch, Delivered, Gone, Later, Message, Outcome, Refused, Setting, Settings
from . import identity_texts
from .databases import checked_url, connected, is_sqlite, outcome_of, until
from .https import AUTHORITIES, allowed_addresses, checked_authorities

if TYPE_CHECKING:
    from ...access.scope import Home

KEY = ("segment", "identity")
COLUMNS = (*KEY, "namespace", "at")
LONGEST_NAME = 63  # bytes, as PostgreSQL has it
LONGEST_SECRET = 1_000
NUL = "\u2400"  # stands for a character that PostgreSQL cannot have in a text
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class _Table:
    text = "a table in a PostgreSQL or SQLite database that mirrors who is in which segment"
    settings = (
        Setting(
            name="url",
            text="such as postgresql://vesica@db.example.com/crm or sqlite:////srv/crm.db; the password is the secret",
            needed=True,
        ),
        Setting(name="table", text="the table; it is made if it is missing", needed=True),
        Setting(name="schema", text="the schema of the table in PostgreSQL; the user's own unless given"),
        AUTHORITIES,
    )
    limit = 10_000
    reserved_fields = COLUMNS

    def checked(self, settings: Settings) -> dict[str, str]:
        url = checked_url(settings["url"])
        kept = {"url": url.render_as_string(hide_password=False), "table": settings["table"]}
        if settings.get("schema"):
            kept["schema"] = settings["schema"]
        for each in ("table", "schema"):
            if each in kept and not _NAME.fullmatch(kept[each]):
                raise InvalidInput(
                    f"{kept[each][:80]!r} is no name of a {each}",
                    hint="use letters, digits and _, beginning with a letter, 63 at most",
                )
        if is_sqlite(url) and (settings.get("schema") or settings.get("authorities")):
            raise InvalidInput("an SQLite file has neither a schema nor a certificate", hint="leave it out")
        return kept | checked_authorities(settings)

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        if given is None:
            return None
        password = given.strip(b"\r\n")
        try:
            usable = 0 < len(password.decode()) <= LONGEST_SECRET and b"\0" not in password
        except UnicodeDecodeError:
            usable = False
        if not usable:
            raise InvalidInput("that is no password of a database", hint="give it as one line of text")
        return password

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> "TableTarget":
        return TableTarget(settings, allowed_addresses(home), None if secret is None else secret.decode())


TABLE = _Table()


class _OtherTable(Exception):
    """The table has other columns, or another key, than it should."""


class TableTarget:
    """An open database: connected with the first message, until one fails."""

    def __init__(self, settings: Settings, allowed: AllowedAddresses, password: str | None = None) -> None:
        self._url, self._settings, self._allowed = make_url(settings["url"]), settings, allowed
        self._password = password
        self._connection: sa.Connection | None = None
        self._ready: set[str] | None = None  # the columns that the table is known to have

    def check(self, now: int) -> Outcome:
        return self._tried(lambda tx: self._table(tx, []))

    def encode(self, batch: Batch) -> bytes:
        texts = [_held(each) for each in identity_texts.texts(batch.values, batch.identity)]
        adds = [place for place, act in enumerate(batch.acts.tolist()) if act == Act.ADD]
        removes = [place for place, act in enumerate(batch.acts.tolist()) if act == Act.REMOVE]
        body: bytes = msgpack.packb(
            {
                "segment": batch.segment,
                "namespace": identity_texts.namespace(batch.identity),
                "at": batch.at,
                "add": [texts[place] for place in adds],
                "remove": [texts[place] for place in removes],
                "attributes": {
                    name: [_held(cells[place]) for place in adds] for name, cells in batch.attributes.items()
                },
            }
        )
        return body

    def send(self, message: Message) -> Outcome:
        return self._tried(lambda tx: self._apply(tx, msgpack.unpackb(message.body)))

    def close(self) -> None:
        connection, self._connection, self._ready = self._connection, None, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def _apply(self, tx: sa.Connection, body: Document) -> None:
        fields: dict[str, list[str | None]] = body["attributes"]
        table = self._table(tx, list(fields))
        segment = body["segment"]
        common = {
            "segment": segment,
            "namespace": body["namespace"],
            "at": datetime.fromtimestamp(body["at"], UTC),
        }
        adds = [
            {**common, "identity": identity, **{name: texts[place] for name, texts in fields.items()}}
            for place, identity in enumerate(body["add"])
        ]
        if body["remove"]:
            mine = (table.c.segment == segment, table.c.identity == sa.bindparam("removed"))
            tx.execute(table.delete().where(*mine), [{"removed": each} for each in body["remove"]])
        if adds:
            insert = (sqlite_insert if tx.dialect.name == "sqlite" else postgres_insert)(table)
            changed = {name: insert.excluded[name] for name in adds[0] if name not in KEY}
            tx.execute(insert.on_conflict_do_update(index_elements=list(KEY), set_=changed), adds)

    def _table(self, tx: sa.Connection, fields: list[str]) -> sa.Table:
        """Return the table, made if it is missing; raises _OtherTable for one that cannot hold what is said."""
        if not set(fields).isdisjoint(COLUMNS) or any(len(each.encode()) > LONGEST_NAME for each in fields):
            raise _OtherTable
        table = sa.Table(
            self._settings["table"],
            sa.MetaData(),
            *(sa.Column(name, sa.Text, primary_key=True) for name in KEY),
            sa.Column("namespace", sa.Text, nullable=False),
            sa.Column("at", sa.DateTime(timezone=True), nullable=False),
            *(sa.Column(name, sa.Text) for name in fields),
            schema=self._settings.get("schema"),
        )
        if self._ready is None:
            self._ready = self._made(tx, table)
        for name in fields:
            if name not in self._ready:
                self._add(tx, table, name)
        return table

    def _made(self, tx: sa.Connection, table: sa.Table) -> set[str]:
        """Make the table if it is missing; return the names of its columns."""
        found = sa.inspect(tx)
        try:
            there = found.get_columns(table.name, table.schema)
            key = found.get_pk_constraint(table.name, table.schema)["constrained_columns"]
        except NoSuchTableError:
            table.create(tx)
            return set(table.c.keys())
        names = {each["name"] for each in there}
        foreign = [each for each in there if each["name"] not in COLUMNS]
        if set(key) != set(KEY) or not names.issuperset(COLUMNS):
            raise _OtherTable
        if any(not each["nullable"] and each["default"] is None for each in foreign):
            raise _OtherTable
        return names

    def _add(self, tx: sa.Connection, table: sa.Table, name: str) -> None:
        """Add the column of an attribute that was mapped later."""
        quoted = tx.dialect.identifier_preparer
        tx.execute(sa.text(f"ALTER TABLE {quoted.format_table(table)} ADD COLUMN {quoted.quote(name)} TEXT"))
        assert self._ready is not None
        self._ready.add(name)

    def _tried(self, work: Callable[[sa.Connection], object]) -> Outcome:
        """Do something in one transaction, and return how it ended."""
        late = threading.Event()
        try:
            connection = self._connected()
            with until(connection, late), connection.begin():
                work(connection)
            return Delivered()
        except AddressNotAllowed:
            outcome: Outcome = Refused("address", setup=True)
        except ModuleNotFoundError:
            outcome = Gone("package")
        except _OtherTable:
            outcome = Gone("columns")
        except InvalidInput:  # the file has become a link into a home
            outcome = Later("folder")
        except DBAPIError as error:
            outcome = Later("timeout") if late.is_set() else outcome_of(error)
        except (SQLAlchemyError, OSError, UnicodeError, ValueError) as error:
            outcome = Refused("data") if isinstance(error, UnicodeError) else Later("connection")
        self.close()
        return outcome

    def _connected(self) -> sa.Connection:
        if self._connection is None:
            self._connection = connected(
                self._url, self._allowed, password=self._password, authorities=self._settings.get("authorities")
            )
        return self._connection


def _held(text: str | None) -> str | None:
    """Return a text as every database can hold it."""
    return None if text is None else text.replace("\0", NUL)
