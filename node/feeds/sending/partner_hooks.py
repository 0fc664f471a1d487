"""What happens to our feeds when a connection ends, or when a partner may evaluate its universe once more."""

from sqlalchemy import select, update

from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.tables import feed_partners
from .. import ledger
from ..states import CURRENT, RecipientStatus


def ended(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Take every feed from a partner whose connection has ended."""
    mine = (feed_partners.c.connection_id == connection.id, feed_partners.c.status.in_(CURRENT))
    values = {"status": RecipientStatus.REVOKED, "reason": "disconnected", "changed": scope.home.now()}
    tx.execute(update(feed_partners).where(*mine).values(**values))


def allowed(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Let what a partner has evaluated count no more; raises NotAllowed if it gets no feed of ours."""
    alias = connection.alias
    if not _has(tx, connection, RecipientStatus.ENABLED, RecipientStatus.DISABLED):
        raise NotAllowed(
            f"partner {alias} has enabled no feed of ours, so it evaluates nothing here",
            hint=f"if {alias} shares with us, {alias} itself allows us",
            remedy=Remedy("partner.allow"),
        )
    ledger.add(scope, tx, ledger.Entry(peer_key=connection.peer_key, kind=ledger.LedgerKind.ALLOWED, amount=0))


def gives(tx: Tx, connection: Connection) -> bool:
    """Return whether a feed of ours runs to a partner."""
    return _has(tx, connection, RecipientStatus.ENABLED)


def _has(tx: Tx, connection: Connection, *statuses: RecipientStatus) -> bool:
    mine = (feed_partners.c.connection_id == connection.id, feed_partners.c.status.in_(statuses))
    return tx.execute(select(feed_partners.c.id).where(*mine)).first() is not None
