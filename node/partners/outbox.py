"""The outbox: letters that wait until the partner has them, and are kept for a while after that."""

from sqlalchemy import delete, func, select, update

from protocol import wire
from protocol.letters import Letter

from ..access.scope import Home, Scope
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.tables import DAY, letters
from . import handlers
from .connections import Connection

BATCH_BYTES = wire.MAX_PAYLOAD // 2  # letters that go together
BATCH_LETTERS = 256  # at most, however short they are
KEPT_DAYS = 90  # after a partner has got a letter: one that is set back to a backup gets it again
RESTORED = "connect.restored"  # the kind that may skip numbers: its sender has forgotten which it used


def outbox(home: Home, connection: Connection, *, after: int | None = None) -> list[Letter]:
    """Return the letters that the partner has not confirmed, or those after a number, oldest first, as many as fit into
    one answer.

    One that may not leave yet keeps back those after it. Only a partner that fetches knows what it has: a process of its
    that ended may have confirmed more.
    """
    lacking = letters.c.delivered.is_(None) if after is None else letters.c.number > after
    query = (
        select(letters.c.number, letters.c.kind, func.length(letters.c.body).label("size"))
        .where(letters.c.connection_id == connection.id, lacking)
        .order_by(letters.c.number)
        .limit(BATCH_LETTERS)
    )
    with home.read() as reading:
        rows = reading.execute(query).all()
    numbers: list[int] = []
    size, may_leave = 0, dict[str, bool]()
    for row in rows:
        size += row.size
        if row.kind in handlers.MAY_LEAVE and row.kind not in may_leave:
            may_leave[row.kind] = handlers.MAY_LEAVE[row.kind](home, connection)
        if not may_leave.get(row.kind, True) or (numbers and size > BATCH_BYTES):
            break
        numbers.append(row.number)
    if not numbers:
        return []
    query = select(letters.c.number, letters.c.kind, letters.c.body).where(
        letters.c.connection_id == connection.id, letters.c.number.between(numbers[0], numbers[-1])
    )
    with home.read() as reading:
        return [
            Letter(connection=connection.wire_id, number=row.number, kind=row.kind, body=row.body)
            for row in reading.execute(query.order_by(letters.c.number))
        ]


def delivered(home: Home, connection_id: str, number: int) -> None:
    """Note that the partner has our letters up to `number`; to say so again takes no lock."""
    had = (letters.c.connection_id == connection_id, letters.c.number <= number, letters.c.delivered.is_(None))
    with home.read() as reading:
        if reading.execute(select(letters.c.id).where(*had).limit(1)).first() is None:
            return
    with home.begin() as tx:
        tx.execute(update(letters).where(*had).values(delivered=home.now()))


def send_again(scope: Scope, tx: Tx, connection: Connection, *, after: int) -> bool:
    """Let the letters after a number leave once more: the partner has lost them. Where the next is gone, raise an alert.

    Return whether it is there, or none was sent after that number.
    """
    mine = (letters.c.connection_id == connection.id, letters.c.number > after)
    tx.execute(update(letters).where(*mine).values(delivered=None))
    query = select(letters.c.number, letters.c.kind).where(*mine).order_by(letters.c.number)
    first = tx.execute(query.limit(1)).first()
    if first is not None and (first.number == after + 1 or first.kind == RESTORED):
        return True
    if first is None and after >= connection.letters_sent:
        return True
    begun = letters_to(connection)
    text = (
        f"{begun}are stuck: the last that it has is number {after}, and the next is not here any more; "
        "disconnect and connect again"
    )
    Alerts(scope).add(tx, AlertKind.LETTERS_STUCK, text, alike=begun)
    return False


def letters_to(connection: Connection) -> str:
    """Return how the alerts of letters to a partner begin."""
    return f"letters to {connection.alias} "


def forget_old(home: Home) -> None:
    """Delete the letters that partners have had for so long that no backup of theirs is expected to lack them."""
    with home.begin() as tx:
        tx.execute(delete(letters).where(letters.c.delivered < home.now() - KEPT_DAYS * DAY))
