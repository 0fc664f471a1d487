"""What happens to our feeds when a connection ends, or when a partner may evaluate its universe once more."""

from sqlalchemy import select, update

from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.tables import feed_partners
from .. import ledger
from ..states import CURRENT, LIVE, RecipientStatus
from . import recipients


def ended(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Take every feed from a partner whose connection has ended."""
    mine = (feed_partners.c.connection_id == connection.id, feed_partners.c.status.in_(CURRENT))
    values = {"status": RecipientStatus.REVOKED, "reason": "disconnected", "changed": scope.home.now()}
    tx.execute(update(feed_partners).where(*mine).values(**values))


def namespaces_changed(scope: Scope, tx: Tx, connection: Connection, gone: frozenset[str]) -> None:
    """Let the next revisions to a partner be full ones: changes cannot be added to records of other namespaces."""
    query = select(feed_partners.c.feed_id).where(
        feed_partners.c.connection_id == connection.id, feed_partners.c.status.in_(LIVE)
    )
    for feed_id in tx.scalars(query).all():
        recipients.set_state(tx, recipients.get(tx, connection.id, feed_id), full=True)


def allowed(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Let what a partner has evaluated count no more; raises NotAllowed if it gets no feed of ours."""
    alias = connection.alias
    evaluating = feed_partners.c.status.in_((RecipientStatus.ENABLED, RecipientStatus.DISABLED))
    mine = (feed_partners.c.connection_id == connection.id, evaluating)
    if tx.execute(select(feed_partners.c.id).where(*mine)).first() is None:
        raise NotAllowed(
            f"partner {alias} has enabled no feed of ours, so it evaluates nothing here",
            hint=f"if {alias} shares with us, {alias} itself allows us",
            remedy=Remedy("partner.allow"),
        )
    ledger.add(scope, tx, connection, ledger.Entry(kind=ledger.LedgerKind.ALLOWED, amount=0))
