"""Key epochs of a connection: one random secret each, wrapped in the store, destroyed with its caches when the epoch ends.

Both nodes count epochs of a connection together: the opener of an exchange says its number, the lower side follows. A
partner may pull us forward once a day at most, and what it has used up is counted by the wall clock, not by the epoch.
"""

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, insert, or_, select, update

from protocol.agreement import Agreement

from ..errors import Refused
from ..storage.tables import DAY, connections, epochs, feed_partners, received_feeds

if TYPE_CHECKING:
    from ..node import Node
    from ..project import Project

FURTHEST = 1_000  # epochs that a partner may be ahead: nothing honest is, and numbers must not run out


@dataclass(frozen=True, slots=True)
class Epoch:
    number: int
    secret: bytes = field(repr=False)


def current(project: "Project", tx: Connection, connection: Row[Any]) -> Epoch:
    """Return the running epoch, beginning one where there is none or the last one is over."""
    row = tx.execute(
        select(epochs).where(epochs.c.connection_id == connection.id).order_by(epochs.c.number.desc()).limit(1)
    ).first()
    now = project.node.now()
    if row is None:
        return _begin(project, tx, connection, 1)
    if row.ended is not None or now >= row.started + _length(connection):
        return _begin(project, tx, connection, row.number + 1)
    return Epoch(row.number, project.node.secrets.unwrap(row.secret, _purpose(connection, row.number)))


def running(project: "Project", tx: Connection, connection: Row[Any]) -> Epoch | None:
    """Return the epoch that is not over, beginning none."""
    row = _running(project, tx, connection)
    if row is None:
        return None
    return Epoch(row.number, project.node.secrets.unwrap(row.secret, _purpose(connection, row.number)))


def running_number(project: "Project", tx: Connection, connection: Row[Any]) -> int:
    """Return the number of the epoch that is not over, 0 where there is none."""
    row = _running(project, tx, connection)
    return 0 if row is None else int(row.number)


def rotate(project: "Project", alias: str) -> dict[str, Any]:
    """End a partner's key epoch now: its secret and caches are destroyed, and the next runs make everything anew.

    Memberships stay meanwhile. What the partner may use up begins anew, since we chose it; where the partner ended the
    last epoch and gets a feed of ours, this is our agreement to that. Refused within a day of the last one, when the
    partner would not follow.
    """
    detail: dict[str, Any] = {}
    with project.act("partner.rotate", alias, detail=detail) as tx:
        connection = project.partners.get(alias, tx, status="active")
        ours = current(project, tx, connection)
        mine = epochs.c.connection_id == connection.id
        rows = tx.execute(select(epochs).where(mine).order_by(epochs.c.number.desc()).limit(2)).all()
        before = rows[1] if len(rows) > 1 else None
        theirs = before is not None and not before.refills and before.ended < before.started + _length(connection) - DAY
        gives, takes = (
            tx.execute(
                select(table.c.id).where(table.c.connection_id == connection.id, table.c.status == "enabled")
            ).first()
            for table in (feed_partners, received_feeds)
        )
        if theirs and gives and before is not None:
            tx.execute(update(epochs).where(epochs.c.id == before.id).values(refills=True))
            detail |= {"epoch": ours.number, "status": "agreed"}
        elif project.node.now() < rows[0].started + DAY:
            raise Refused(
                f"key epoch {ours.number} with {alias} began less than a day ago: the partner would not follow",
                hint="rotate again a day after it began",
            )
        else:
            number = _begin(project, tx, connection, ours.number + 1, refills=True).number
            detail |= {"epoch": number, "status": "begun", "partner_has_to_agree": takes is not None}
    return detail


def follow(project: "Project", tx: Connection, connection: Row[Any], number: int) -> Epoch:
    """Return the partner's epoch `number`, which is above ours, by ending ours; refused where that comes too early."""
    ours = current(project, tx, connection)
    if number <= ours.number:
        return ours
    row = tx.execute(
        select(epochs).where(epochs.c.connection_id == connection.id, epochs.c.number == ours.number)
    ).one()
    if number > ours.number + FURTHEST:
        raise Refused(
            f"the partner asks for key epoch {number}, which is far ahead of epoch {ours.number} here",
            hint="ask the partner what happened to its node; to begin anew, disconnect and connect again",
        )
    if project.node.now() < row.started + DAY and not _first_since_restore(project, tx, row):
        raise Refused(
            f"the partner asks for key epoch {number} less than a day after epoch {ours.number} began",
            hint="ask the partner whether it restored a backup; the next epoch can begin a day after the last one",
        )
    return _begin(project, tx, connection, number)


def _first_since_restore(project: "Project", tx: Connection, row: Row[Any]) -> bool:
    """Tell whether an epoch is the first since our own restore, of less than a day ago: its number may be too low.

    The restore itself has left an epoch without a secret (`node.restoring`), which this one follows.
    """
    restored = project.row(tx).restored
    if restored is None or restored <= project.node.now() - DAY:
        return False
    since = (epochs.c.connection_id == row.connection_id, epochs.c.started >= restored)
    first = tx.scalar(select(func.min(epochs.c.number)).where(*since))
    return first is not None and bool(row.number == first + 1)


def counted_since(project: "Project", tx: Connection, connection: Row[Any]) -> int:
    """Return the time since when a partner's use of what an epoch allows counts.

    That is the end of the last epoch that ran its length (a day less, for clocks that differ), at most an epoch's
    length ago. An epoch that was ended early by our own word counts as whole; one that the partner ended refills
    nothing. Where an organisation has several connections with the project, that of the connection whose epoch ended
    first counts; one that is new has none.
    """
    length = _length(connection)
    earliest = project.node.now() - length
    query = (
        select(epochs.c.connection_id, epochs.c.started, epochs.c.ended, epochs.c.refills)
        .join(connections, connections.c.id == epochs.c.connection_id)
        .where(
            connections.c.project_id == project.id,
            connections.c.peer_key == connection.peer_key,
            or_(epochs.c.ended.is_(None), epochs.c.ended > earliest),
        )
    )
    ends: dict[str, int] = {}
    for row in tx.execute(query):
        whole = row.ended is not None and (row.refills or row.ended - row.started >= length - DAY)
        ends[row.connection_id] = max(ends.get(row.connection_id, earliest), row.ended if whole else earliest)
    return min(ends.values(), default=earliest)


def _running(project: "Project", tx: Connection, connection: Row[Any]) -> Row[Any] | None:
    row = tx.execute(select(epochs).where(epochs.c.connection_id == connection.id, epochs.c.ended.is_(None))).first()
    return None if row is None or project.node.now() >= row.started + _length(connection) else row


def _begin(project: "Project", tx: Connection, connection: Row[Any], number: int, *, refills: bool = False) -> Epoch:
    now = project.node.now()
    tx.execute(
        update(epochs)
        .where(epochs.c.connection_id == connection.id, epochs.c.ended.is_(None))
        .values(secret=b"", ended=now, refills=refills)
    )
    project.node.store.afterwards(partial(_forget, project.node.home / "cache" / connection.id, number))
    secret = project.node.random(32)
    tx.execute(
        insert(epochs).values(
            id=project.node.new_id(),
            connection_id=connection.id,
            number=number,
            secret=project.node.secrets.wrap(secret, _purpose(connection, number)),
            started=now,
            ended=None,
        )
    )
    return Epoch(number, secret)


def _forget(caches: Path, number: int) -> None:
    """Delete the caches of the epochs before one: the next may be at work on its own."""
    for each in caches.glob("*"):
        if each.name.isdigit() and int(each.name) < number:
            shutil.rmtree(each, ignore_errors=True)


def remove_leftovers(node: "Node") -> None:
    """Delete what a kill left of the caches of epochs that are over, and of partners that are gone."""
    query = select(epochs.c.connection_id, epochs.c.number).where(epochs.c.ended.is_(None))
    caches = node.home / "cache"
    found = list(caches.glob("*/*"))  # before the epochs: who begins one meanwhile is among them
    with node.store.read() as tx:
        running = {(row.connection_id, str(row.number)) for row in tx.execute(query)}
    for folder in found:
        if folder.is_dir() and (folder.parent.name, folder.name) not in running:
            shutil.rmtree(folder)


def _length(connection: Row[Any]) -> int:
    return Agreement.decode(connection.agreement).terms.epoch_days * DAY


def _purpose(connection: Row[Any], number: int) -> bytes:
    return f"epoch {connection.id} {number}".encode()
