"""Letters that a partner has not taken for long: who they are for, and the alert about it."""

from sqlalchemy import func, select

from ..access.audit import date
from ..access.scope import Scope
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.tables import DAY, connections, letters
from .connections import Connection, ConnectionStatus, with_status
from .letters import CORRESPONDING
from .outbox import letters_to


def alert_waiting(scope: Scope) -> None:
    """Raise an alert for each partner that has not taken a letter for a day; it ends when the letter has arrived."""
    with scope.begin() as tx:
        waiting = _waiting(scope, tx)
        for connection in with_status(scope, *CORRESPONDING, tx=tx):
            if connection.id not in waiting:
                Alerts(scope).settle(tx, AlertKind.LETTERS_STUCK, letters_to(connection))
        for connection, since in stuck(scope, tx):
            text = (
                f"{letters_to(connection)}have waited since {date(since)}: it is out of reach, or does not fetch them"
            )
            Alerts(scope).add(tx, AlertKind.LETTERS_STUCK, text)


def stuck(scope: Scope, tx: Tx) -> list[tuple[Connection, int]]:
    """Return the active connections whose partner has not taken a letter for a day, and since when that waits."""
    waiting, now = _waiting(scope, tx), scope.home.now()
    active = with_status(scope, ConnectionStatus.ACTIVE, tx=tx)
    return [(each, waiting[each.id]) for each in active if waiting.get(each.id, now) <= now - DAY]


def _waiting(scope: Scope, tx: Tx) -> dict[str, int]:
    """Return, by connection, when the oldest letter was written that its partner has not taken."""
    oldest = select(letters.c.connection_id, func.min(letters.c.created).label("since"))
    mine = letters.c.connection_id.in_(select(connections.c.id).where(connections.c.project_id == scope.id))
    query = oldest.where(mine, letters.c.delivered.is_(None)).group_by(letters.c.connection_id)
    return {row.connection_id: row.since for row in tx.execute(query)}
