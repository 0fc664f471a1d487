"""The rows of exchanges, ours and partners', and the spools with their messages.

Both sides keep every message in a spool until the exchange is over, so that a killed process can resume it.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from protocol import wire
from protocol.errors import RemoteProtocolError
from protocol.exchange import Opened, Opening
from protocol.states import PARTS, Kind, Part
from psi.errors import VesicaError

from ..access.audit import Result
from ..access.scope import Home, Scope
from ..operations.alerts import Alerts
from ..partners.connections import Connection
from ..storage.database import Tx
from ..storage.ids import stored_id, wire_id
from ..storage.spool import FileSpool, Growing, destroy, directory_size
from ..storage.tables import DAY, exchanges
from ..storage.temporary import is_old
from . import handlers

KEPT_SECONDS = 3600  # a finished exchange's messages stay for a partner that lost the last answer
ABANDONED_SECONDS = 7 * DAY  # an open exchange that old is not resumed

# Why an exchange is over although nothing went wrong in it
REPLACED = {"code": "replaced"}  # by a newer one
GIVEN_UP = {"code": "given_up"}  # it has what may not leave any more
ABANDONED = {"code": "abandoned"}  # nobody resumed it
DISCONNECTED = {"code": "disconnected"}
ERASED = {"code": "erased"}  # people that it may have were erased


class ExchangeState(StrEnum):
    """How far an exchange has come."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One exchange with a partner, as its row has it."""

    connection_id: str
    part: Part  # ours
    ours: bool  # opened here, not by the partner
    state: ExchangeState = ExchangeState.OPEN
    opening: Opening
    opened: Opened
    inputs: bytes = b""  # a digest of what our role works on

    @property
    def id(self) -> bytes:
        return self.opening.exchange


def insert_new(home: Home, tx: Tx, exchange: Exchange) -> None:
    opening, now = exchange.opening, home.now()
    packed = {"opening": opening.encode(), "opened": exchange.opened.encode(), "inputs": exchange.inputs}
    tx.execute(
        insert(exchanges).values(
            id=stored_id(exchange.id),
            connection_id=exchange.connection_id,
            kind=opening.kind.value,
            part=exchange.part.value,
            ours=exchange.ours,
            opened=wire.pack(packed),
            state=exchange.state.value,
            created=now,
            changed=now,
        )
    )


def find(tx: Tx, exchange_id: bytes) -> Exchange | None:
    row = tx.execute(select(exchanges).where(exchanges.c.id == stored_id(exchange_id))).first()
    return None if row is None else _exchange(row)


def ours_open(tx: Tx, connection: Connection, kind: Kind, part: Part) -> list[Exchange]:
    """Return the open exchanges of a kind that we opened over a connection as `part`, newest first."""
    query = select(exchanges).where(
        exchanges.c.connection_id == connection.id,
        exchanges.c.kind == kind.value,
        exchanges.c.part == part.value,
        exchanges.c.ours,
        exchanges.c.state == ExchangeState.OPEN.value,
    )
    return [_exchange(row) for row in tx.execute(query.order_by(exchanges.c.created.desc()))]


def theirs(
    tx: Tx, connection: Connection, state: ExchangeState, *, newest: int, at_most: int | None = None
) -> list[bytes]:
    """Return the ids of a partner's exchanges in a state, newest first, without the `newest` ones, `at_most` so many."""
    query = select(exchanges.c.id).where(
        exchanges.c.connection_id == connection.id, ~exchanges.c.ours, exchanges.c.state == state.value
    )
    found = tx.scalars(query.order_by(exchanges.c.created.desc()).offset(newest).limit(at_most))
    return [wire_id(each) for each in found]


def inputs_in_use(tx: Tx, connection: Connection, kind: Kind, part: Part) -> set[bytes]:
    """Return the digests of what we work on as `part` in exchanges of a kind that may go on, or were just done."""
    query = select(exchanges).where(
        exchanges.c.connection_id == connection.id,
        exchanges.c.kind == kind.value,
        exchanges.c.part == part.value,
        exchanges.c.state != ExchangeState.FAILED.value,
    )
    return {_exchange(row).inputs for row in tx.execute(query)}


def give_up(home: Home, tx: Tx, exchange_id: bytes, error: Mapping[str, str]) -> None:
    """End an open exchange although nothing went wrong in it."""
    mine = (exchanges.c.id == stored_id(exchange_id), exchanges.c.state == ExchangeState.OPEN.value)
    tx.execute(
        update(exchanges).where(*mine).values(state=ExchangeState.FAILED.value, error=dict(error), changed=home.now())
    )


def give_up_releases(home: Home, tx: Tx, feed_id: str) -> None:
    """End the open releases of one of our feeds: they contain what may not leave any more."""
    query = select(exchanges).where(
        exchanges.c.kind == Kind.RELEASE.value, exchanges.c.state == ExchangeState.OPEN.value
    )
    for each in map(_exchange, tx.execute(query.where(exchanges.c.part == Part.SENDER.value)).all()):
        if each.opening.subject["feed"] == wire_id(feed_id):
            give_up(home, tx, each.id, GIVEN_UP)


def end_all(scope: Scope, tx: Tx, connection: Connection, *, before: int) -> list[bytes]:
    """Give up the open exchanges over a connection that began before a time, and return all of them whose messages go."""
    mine = (exchanges.c.connection_id == connection.id, exchanges.c.created < before)
    is_open = exchanges.c.state == ExchangeState.OPEN.value
    values = {"state": ExchangeState.FAILED.value, "error": ERASED, "changed": scope.home.now()}
    tx.execute(update(exchanges).where(*mine, is_open).values(**values))
    return [wire_id(each) for each in tx.scalars(select(exchanges.c.id).where(*mine))]


def ended(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Give up the exchanges over a connection that has ended."""
    mine = (exchanges.c.connection_id == connection.id, exchanges.c.state == ExchangeState.OPEN.value)
    values = {"state": ExchangeState.FAILED.value, "error": DISCONNECTED, "changed": scope.home.now()}
    tx.execute(update(exchanges).where(*mine).values(**values))


def namespaces_changed(scope: Scope, tx: Tx, connection: Connection, gone: frozenset[str]) -> None:
    """Give up what is open over a connection and would match by namespaces that are agreed on no more."""
    query = select(exchanges).where(
        exchanges.c.connection_id == connection.id, exchanges.c.state == ExchangeState.OPEN.value
    )
    for each in map(_exchange, tx.execute(query).all()):
        if gone and (each.opening.kind is Kind.RELEASE or each.opening.subject["namespace"] in gone):
            give_up(scope.home, tx, each.id, REPLACED)


def versions_under_way(tx: Tx, connection_id: str, feed: bytes) -> set[int]:
    """Return the versions of a feed that open releases over a connection are of."""
    query = select(exchanges).where(
        exchanges.c.connection_id == connection_id,
        exchanges.c.kind == Kind.RELEASE.value,
        exchanges.c.state == ExchangeState.OPEN.value,
    )
    subjects = [_exchange(row).opening.subject for row in tx.execute(query)]
    return {int(subject["version"]) for subject in subjects if subject["feed"] == feed}


def those_over(home: Home, tx: Tx, exchange_ids: list[bytes]) -> set[bytes]:
    """Return those of these exchanges that are over: they failed, are forgotten, or are done and their messages are gone."""
    wanted = [stored_id(each) for each in exchange_ids]
    rows = tx.execute(select(exchanges.c.id, exchanges.c.state).where(exchanges.c.id.in_(wanted)))
    states, spools = {row.id: row.state for row in rows}, home.path / "spool"
    alive = {
        each
        for each, state in states.items()
        if state == ExchangeState.OPEN.value or (state == ExchangeState.DONE.value and (spools / each).exists())
    }
    return {wire_id(each) for each in wanted if each not in alive}


def close(scope: Scope, connection: Connection, opening: Opening, *, actor: str | None = None) -> None:
    """Close an exchange that is done, with an audit row."""
    detail = {"exchange": stored_id(opening.exchange)}
    mine = (exchanges.c.id == stored_id(opening.exchange), exchanges.c.state == ExchangeState.OPEN.value)
    with scope.act(f"exchange.{opening.kind.value}", connection.alias, actor=actor, detail=detail) as tx:
        tx.execute(update(exchanges).where(*mine).values(state=ExchangeState.DONE.value, changed=scope.home.now()))


def audit_refusal(
    scope: Scope, tx: Tx, connection: Connection, opening: Opening, error: VesicaError, *, actor: str | None
) -> None:
    """Leave an audit row that an exchange was refused, or broke off."""
    scope.home.audit.record(
        tx,
        f"exchange.{opening.kind.value}",
        connection.alias,
        project_id=scope.id,
        result=Result.DENY,
        detail={"exchange": stored_id(opening.exchange), "error": _reason(error)},
        actor=actor,
    )


def _reason(error: VesicaError) -> dict[str, str]:
    return {"code": error.code, "message": str(error)}


def close_failed(
    scope: Scope,
    connection: Connection,
    opening: Opening,
    error: VesicaError,
    part: Part,
    *,
    actor: str | None = None,
) -> None:
    """Close an exchange that cannot go on, with an audit row, and an alert if the partner broke the protocol.

    `part` is ours.
    """
    home, reason = scope.home, _reason(error)
    mine = (exchanges.c.id == stored_id(opening.exchange), exchanges.c.state != ExchangeState.DONE.value)
    with home.begin() as tx:
        tx.execute(
            update(exchanges).where(*mine).values(state=ExchangeState.FAILED.value, error=reason, changed=home.now())
        )
        audit_refusal(scope, tx, connection, opening, error, actor=actor)
        handlers.handler(opening.kind, part).failed(scope, tx, connection, error)
        if isinstance(error, RemoteProtocolError):
            broke = f"{connection.alias} broke the protocol: "
            Alerts(scope).add_broken(tx, error.code, f"{broke}{error}", alike=broke)


def other_part(opening: Opening) -> Part:
    """Return the part of the side that answers an opening."""
    first, second = PARTS[opening.kind]
    return second if opening.part is first else first


def spool_of(home: Home, exchange_id: bytes, growing: Growing | None = None) -> FileSpool:
    return FileSpool(home.path / "spool" / stored_id(exchange_id), home.keys, home.random, growing)


def size_of(home: Home, exchange_id: bytes) -> int:
    """Return the bytes that the messages of an exchange take on disk, without beginning a spool for it."""
    return directory_size(home.path / "spool" / stored_id(exchange_id))


def destroy_spool(home: Home, exchange_id: bytes) -> None:
    """Delete the messages of an exchange, if there are any."""
    destroy(home.path / "spool" / stored_id(exchange_id))


def forget_old(home: Home) -> None:
    """Delete the rows and messages of exchanges that ended an hour ago, or that nobody resumed for a week.

    Spools without an exchange are from openings that a kill or a refusal cut short.
    """
    directories = list((home.path / "spool").glob("*"))
    now = home.now()
    with home.begin() as tx:
        tx.execute(
            update(exchanges)
            .where(exchanges.c.state == ExchangeState.OPEN.value, exchanges.c.created < now - ABANDONED_SECONDS)
            .values(state=ExchangeState.FAILED.value, error=ABANDONED, changed=now - KEPT_SECONDS - 1)
        )
        kept = (exchanges.c.state == ExchangeState.OPEN.value) | (exchanges.c.changed >= now - KEPT_SECONDS)
        alive, known = set(tx.scalars(select(exchanges.c.id).where(kept))), set(tx.scalars(select(exchanges.c.id)))
        tx.execute(delete(exchanges).where(~kept))
    for directory in directories:
        if directory.name in known - alive or (directory.name not in known and is_old(directory)):
            shutil.rmtree(directory, ignore_errors=True)


def _exchange(row: Row[Any]) -> Exchange:
    document = wire.unpack(row.opened)
    opening, opened, inputs = document["opening"], document["opened"], document["inputs"]
    assert isinstance(opening, bytes)
    assert isinstance(opened, bytes)
    assert isinstance(inputs, bytes)
    return Exchange(
        connection_id=row.connection_id,
        part=Part(row.part),
        ours=row.ours,
        state=ExchangeState(row.state),
        opening=Opening.decode(opening),
        opened=Opened.decode(opened),
        inputs=inputs,
    )
