"""Key epochs of a connection: one random secret each, wrapped in the store, destroyed with its caches when the epoch ends.

Both nodes number the epochs of a connection alike: the opener of an exchange says its number, the lower side follows. A
partner may move us on once a day at most, and what it has used up is counted by the clock, not by the epoch.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy import ColumnElement, func, insert, or_, select, update

from ..access.scope import Home, Scope
from ..errors import NotAllowed
from ..storage import cache
from ..storage.cache import Epoch
from ..storage.database import Tx
from ..storage.records import Document, record
from ..storage.tables import DAY, connections, epochs
from . import handlers
from .connections import BEGUN, Connection, ConnectionStatus, named

FURTHEST = 1_000  # epochs that a partner may be ahead: nothing honest is, and numbers must not run out


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEpoch:
    """A row of `epochs`."""

    id: str
    connection_id: str
    number: int
    secret: bytes = field(repr=False)  # wrapped; empty once the epoch is over
    started: int
    ended: int | None
    refills: bool


def current(scope: Scope, tx: Tx, connection: Connection) -> Epoch:
    """Return the running epoch, beginning one where there is none or the last one is over."""
    last = next(iter(_newest(tx, connection)), None)
    if last is None:
        return begin(scope, tx, connection, 1)
    if last.ended is not None or _is_over(scope, connection, last):
        return begin(scope, tx, connection, last.number + 1)
    return _opened(scope, connection, last)


def running(scope: Scope, tx: Tx, connection: Connection) -> Epoch | None:
    """Return the epoch that is not over, beginning none."""
    found = _running(scope, tx, connection)
    return None if found is None else _opened(scope, connection, found)


def running_number(scope: Scope, tx: Tx, connection: Connection) -> int:
    """Return the number of the epoch that is not over, 0 where there is none."""
    found = _running(scope, tx, connection)
    return 0 if found is None else found.number


def rotate(scope: Scope, alias: str) -> Document:
    """End a partner's key epoch now: its secret and caches are destroyed, and the next runs compute everything again.

    Memberships stay meanwhile. What the partner has used up counts no more, since we chose this; if the partner ended the
    last epoch and gets a feed of ours, this is our agreement to that. Raises NotAllowed within a day of the last one: the
    partner would not follow.
    """
    detail: Document = {}
    with scope.act("partner.rotate", alias, detail=detail) as tx:
        connection = named(scope, alias, tx, status=ConnectionStatus.ACTIVE)
        ours = current(scope, tx, connection)
        newest, *older = _newest(tx, connection)
        before = older[0] if older else None
        gives, takes = (any(hook(tx, connection) for hook in each) for each in (handlers.GIVES, handlers.TAKES))
        if gives and before is not None and _ended_by_partner(connection, before):
            tx.execute(update(epochs).where(epochs.c.id == before.id).values(refills=True))
            detail |= {"epoch": ours.number, "status": "agreed"}
        elif scope.home.now() < newest.started + DAY:
            raise NotAllowed(
                f"key epoch {ours.number} with {alias} began less than a day ago: the partner would not follow",
                hint="rotate again a day after it began",
            )
        else:
            begun = begin(scope, tx, connection, ours.number + 1, refills=True)
            detail |= {"epoch": begun.number, "status": "begun", "partner_has_to_agree": takes}
    return detail


def follow(scope: Scope, tx: Tx, connection: Connection, epoch_number: int) -> Epoch:
    """Return the partner's epoch, whose number is above ours, by ending ours; refused where that comes too early."""
    ours = current(scope, tx, connection)
    if epoch_number <= ours.number:
        return ours
    newest = _newest(tx, connection)[0]
    if epoch_number > ours.number + FURTHEST:
        raise NotAllowed(
            f"the partner asks for key epoch {epoch_number}, which is far ahead of epoch {ours.number} here",
            hint="ask the partner what happened to its node; to start over, disconnect and connect again",
        )
    if scope.home.now() < newest.started + DAY and not _first_since_restore(scope, tx, newest):
        raise NotAllowed(
            f"the partner asks for key epoch {epoch_number} less than a day after epoch {ours.number} began",
            hint="ask the partner whether it restored a backup; the next epoch can begin a day after the last one",
        )
    return begin(scope, tx, connection, epoch_number)


def begin(scope: Scope, tx: Tx, connection: Connection, epoch_number: int, *, refills: bool = False) -> Epoch:
    """Begin an epoch, ending the one before, whose caches are destroyed.

    `refills`: the end of that one refills what the partner may use up, by our own decision.
    """
    home = scope.home
    _destroy_secret(home, tx, epochs.c.connection_id == connection.id, refills=refills)
    home.database.afterwards(partial(_delete_caches_before, home.path / "cache" / connection.id, epoch_number))
    secret = home.random(32)
    wrapped = home.keys.wrap(secret, _purpose(connection, epoch_number))
    _insert(home, tx, connection.id, epoch_number, secret=wrapped)
    return Epoch(epoch_number, secret)


def end(scope: Scope, tx: Tx, connection: Connection) -> None:
    """End a connection's epoch, beginning none; its caches are destroyed."""
    _destroy_secret(scope.home, tx, epochs.c.connection_id == connection.id)
    scope.home.database.afterwards(lambda: cache.destroy(scope.home.path, connection.id))


def end_all_after_restore(home: Home, tx: Tx, *, days: int) -> None:
    """End every epoch of a home that was restored from a backup made `days` ago.

    The next ones get numbers that partners have most likely not reached: at most one epoch begins in a day.
    """
    _destroy_secret(home, tx)
    now = home.now()
    last = {
        connection_id: int(number)
        for connection_id, number in tx.execute(
            select(epochs.c.connection_id, func.max(epochs.c.number)).group_by(epochs.c.connection_id)
        )
    }
    for connection_id in tx.scalars(select(connections.c.id).where(connections.c.status.in_(BEGUN))).all():
        _insert(home, tx, connection_id, last.get(connection_id, 0) + 1 + days, secret=b"", ended=now)


def _destroy_secret(home: Home, tx: Tx, *conditions: ColumnElement[bool], refills: bool = False) -> None:
    """End the running epochs that meet the conditions, and destroy their secrets."""
    running = update(epochs).where(epochs.c.ended.is_(None), *conditions)
    tx.execute(running.values(secret=b"", ended=home.now(), refills=refills))


def _first_since_restore(scope: Scope, tx: Tx, epoch: StoredEpoch) -> bool:
    """Return whether an epoch is the first since our own restore less than a day ago: its number may be too low.

    The restore itself has left an epoch without a secret (`end_all_after_restore`), which this one follows.
    """
    restored = scope.row(tx).restored
    if restored is None or restored <= scope.home.now() - DAY:
        return False
    since = (epochs.c.connection_id == epoch.connection_id, epochs.c.started >= restored)
    first = tx.scalar(select(func.min(epochs.c.number)).where(*since))
    return first is not None and epoch.number == first + 1


def _ended_by_partner(connection: Connection, epoch: StoredEpoch) -> bool:
    """Return whether an epoch that is over ended before its time, and not by our choice."""
    return epoch.ended is not None and not epoch.refills and epoch.ended < epoch.started + _length(connection) - DAY


def counted_since(scope: Scope, tx: Tx, connection: Connection) -> int:
    """Return the time since when a partner's use of what an epoch allows counts.

    That is the end of the last epoch that ran its length (a day less, for clocks that differ), at most an epoch's
    length ago. An epoch that we chose to end early counts as if it had run its length; one that the partner ended refills
    nothing. Where an organisation has several connections with the project, that of the connection whose epoch ended
    first counts; one that is new has none.
    """
    length = _length(connection)
    earliest = scope.home.now() - length
    query = (
        select(epochs.c.connection_id, epochs.c.started, epochs.c.ended, epochs.c.refills)
        .join(connections, connections.c.id == epochs.c.connection_id)
        .where(
            connections.c.project_id == scope.id,
            connections.c.peer_key == connection.peer_key,
            or_(epochs.c.ended.is_(None), epochs.c.ended > earliest),
        )
    )
    ends: dict[str, int] = {}
    for row in tx.execute(query):
        complete = row.ended is not None and (row.refills or row.ended - row.started >= length - DAY)
        ends[row.connection_id] = max(ends.get(row.connection_id, earliest), row.ended if complete else earliest)
    return min(ends.values(), default=earliest)


def _newest(tx: Tx, connection: Connection) -> Sequence[StoredEpoch]:
    """Return the last two epochs, newest first."""
    query = select(epochs).where(epochs.c.connection_id == connection.id).order_by(epochs.c.number.desc()).limit(2)
    return [record(StoredEpoch, row) for row in tx.execute(query)]


def _running(scope: Scope, tx: Tx, connection: Connection) -> StoredEpoch | None:
    query = select(epochs).where(epochs.c.connection_id == connection.id, epochs.c.ended.is_(None))
    row = tx.execute(query).first()
    found = None if row is None else record(StoredEpoch, row)
    return None if found is None or _is_over(scope, connection, found) else found


def _is_over(scope: Scope, connection: Connection, epoch: StoredEpoch) -> bool:
    return scope.home.now() >= epoch.started + _length(connection)


def _opened(scope: Scope, connection: Connection, epoch: StoredEpoch) -> Epoch:
    return Epoch(epoch.number, scope.home.keys.unwrap(epoch.secret, _purpose(connection, epoch.number)))


def _insert(
    home: Home, tx: Tx, connection_id: str, epoch_number: int, *, secret: bytes, ended: int | None = None
) -> None:
    tx.execute(
        insert(epochs).values(
            id=home.new_id(),
            connection_id=connection_id,
            number=epoch_number,
            secret=secret,
            started=home.now(),
            ended=ended,
        )
    )


def _delete_caches_before(caches: Path, epoch_number: int) -> None:
    """Delete the caches of the epochs before one; that of a later epoch may be in use already."""
    for each in caches.glob("*"):
        if each.name.isdigit() and int(each.name) < epoch_number:
            shutil.rmtree(each, ignore_errors=True)


def remove_leftovers(home: Home) -> None:
    """Delete what a kill left of the caches of epochs that are over, and of partners that are gone."""
    query = select(epochs.c.connection_id, epochs.c.number).where(epochs.c.ended.is_(None))
    caches = home.path / "cache"
    found = list(caches.glob("*/*"))  # listed before the epochs are read: none that begins meanwhile is among them
    with home.read() as tx:
        running = {(row.connection_id, str(row.number)) for row in tx.execute(query)}
    for folder in found:
        if folder.is_dir() and (folder.parent.name, folder.name) not in running:
            shutil.rmtree(folder)


def _length(connection: Connection) -> int:
    return connection.terms.epoch_days * DAY


def _purpose(connection: Connection, epoch_number: int) -> bytes:
    return f"epoch {connection.id} {epoch_number}".encode()
