"""Key epochs of a connection: one random secret each, wrapped in the store, destroyed with its caches when the epoch ends.

Both nodes number the epochs of a connection alike: the opener of an exchange says its number, the lower side follows. A
partner may move us on once a day at most, and what it has used up is counted by the clock, not by the epoch.
"""

from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import ColumnElement, func, insert, select, update

from ..access.audit import date
from ..access.scope import Home, Scope
from ..errors import NotAllowed
from ..storage import cache
from ..storage.cache import Epoch
from ..storage.database import Tx
from ..storage.records import Document, record
from ..storage.tables import DAY, connections, epochs
from . import handlers
from .connections import BEGUN, Connection, ConnectionStatus, by_id, named

FURTHEST = 1_000  # epochs that a partner may be ahead: nothing honest is, and numbers must not run out


class TooSoon(NotAllowed):
    """The partner asks for another key epoch before its time."""

    code = "epoch_too_soon"

    def __init__(self, until: int) -> None:
        super().__init__(
            f"the last key epoch began less than a day ago here; the next can begin after {date(until)}",
            hint="runs go on by themselves then, and before that once the side that was restored has said so by letter",
        )


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
    last = _newest(tx, connection)
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

    Memberships stay meanwhile. What the partner has used up counts no more, since we chose this. Raises NotAllowed within a
    day of the last one: the partner would not follow.
    """
    detail: Document = {}
    with scope.act("partner.rotate", alias, detail=detail) as tx:
        connection = named(scope, alias, tx, status=ConnectionStatus.ACTIVE)
        ours = current(scope, tx, connection)
        newest = _newest(tx, connection)
        assert newest is not None
        if scope.home.now() < newest.started + DAY:
            raise NotAllowed(
                f"key epoch {ours.number} with {alias} began less than a day ago: the partner would not follow",
                hint="rotate again a day after it began",
            )
        begun = begin(scope, tx, connection, ours.number + 1, refills=True)
        takes = any(hook(tx, connection) for hook in handlers.TAKES)
        detail |= {"ended": ours.number, "epoch": begun.number, "partner_has_to_allow": takes}
    return detail


def follow(scope: Scope, tx: Tx, connection: Connection, epoch_number: int) -> Epoch:
    """Return the partner's epoch, whose number is above ours, by ending ours; refused where that comes too early.

    A partner that was restored has lost its keys, and what it has to take back must not wait for a day.
    """
    ours = current(scope, tx, connection)
    if epoch_number <= ours.number:
        return ours
    newest = _newest(tx, connection)
    assert newest is not None
    if epoch_number > ours.number + FURTHEST:
        raise NotAllowed(
            f"the partner asks for key epoch {epoch_number}, which is far ahead of epoch {ours.number} here",
            hint="ask the partner what happened to its node; to start over, disconnect and connect again",
        )
    restored = _first_since_restore(scope, tx, newest) or _partner_restored(scope, tx, connection, newest)
    if scope.home.now() < newest.started + DAY and not restored:
        raise TooSoon(newest.started + DAY)
    return begin(scope, tx, connection, epoch_number)


def begin(scope: Scope, tx: Tx, connection: Connection, epoch_number: int, *, refills: bool = False) -> Epoch:
    """Begin an epoch, ending the one before, whose caches are destroyed.

    `refills`: the end of that one refills what the partner may use up, by our own decision.
    """
    home = scope.home
    _destroy_secret(home, tx, epochs.c.connection_id == connection.id, refills=refills)
    home.database.afterwards(partial(_destroy_caches, home, connection, before=epoch_number))
    secret = home.random(32)
    wrapped = home.keys.wrap(secret, _purpose(connection, epoch_number))
    _insert(home, tx, connection.id, epoch_number, secret=wrapped)
    return Epoch(epoch_number, secret)


def end(scope: Scope, tx: Tx, connection: Connection) -> None:
    """End a connection's epoch, beginning none; its caches are destroyed."""
    _destroy_secret(scope.home, tx, epochs.c.connection_id == connection.id)
    scope.home.database.afterwards(partial(_destroy_caches, scope.home, connection))


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


def _partner_restored(scope: Scope, tx: Tx, connection: Connection, epoch: StoredEpoch) -> bool:
    """Return whether the partner said since an epoch began that it was restored; it may say so once an hour."""
    said = by_id(scope, connection.id, tx).restored
    return said is not None and said >= epoch.started


def _newest(tx: Tx, connection: Connection) -> StoredEpoch | None:
    query = select(epochs).where(epochs.c.connection_id == connection.id).order_by(epochs.c.number.desc()).limit(1)
    row = tx.execute(query).first()
    return None if row is None else record(StoredEpoch, row)


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


def _destroy_caches(home: Home, connection: Connection, before: int | None = None) -> None:
    """Delete a connection's caches, or those of the epochs before one; that of a later epoch may be in use already."""
    found = cache.folders(home.path, connection.id)
    cache.destroy(each for each in found if before is None or each.epoch < before)


def remove_leftovers(home: Home) -> None:
    """Delete what a kill left of the caches of epochs that are over, and of partners that are gone."""
    query = select(epochs.c.connection_id, epochs.c.number).where(epochs.c.ended.is_(None))
    found = cache.folders(home.path)  # listed before the epochs are read: none that begins meanwhile is among them
    with home.read() as tx:
        running = {(row.connection_id, row.number) for row in tx.execute(query)}
    cache.destroy(each for each in found if (each.connection_id, each.epoch) not in running)


def _length(connection: Connection) -> int:
    return connection.terms.epoch_days * DAY


def _purpose(connection: Connection, epoch_number: int) -> bytes:
    return f"epoch {connection.id} {epoch_number}".encode()
