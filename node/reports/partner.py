"""How things stand with one partner: what was agreed, what is used up, what waits, and what each side knows of the other."""

from sqlalchemy import func, select

from ..access.scope import Scope
from ..feeds import versions
from ..feeds.estimates import asking, disclosure
from ..feeds.receiving.memberships import Memberships
from ..partners import audit_heads, preflight
from ..partners.connections import Connection
from ..partners.partners import Partners
from ..storage.database import Tx
from ..storage.records import Document, Documents
from ..storage.tables import DAY, audit, epochs, letters


def listed(scope: Scope) -> Documents:
    """Return a short document of every partner."""
    connections = Partners(scope).rows()
    with scope.read() as tx:
        shared = {connection.id: versions.segments_shared(tx, connection.id) for connection in connections}
    return [
        {**_about(scope, connection), "segments_shared": shared[connection.id], "address": connection.peer_address}
        for connection in connections
    ]


def _about(scope: Scope, connection: Connection) -> Document:
    """Return what both documents have of a partner."""
    agreed = connection.agreed
    return {
        "alias": connection.alias,
        "organisation": connection.peer_organisation,
        "project": connection.peer_project_name,
        "status": connection.status,
        "reason": connection.reason,
        "key": connection.peer_key.hex(),
        "key_changed": connection.key_changed,
        "terms": agreed.terms.as_dict(),
        "namespaces": list(agreed.namespaces),
        "segments_received": Memberships(scope).segments_received(connection.id),
    }


def overview(scope: Scope, alias: str) -> Document:
    """Return everything that is known of a partner, as one document."""
    connection = Partners(scope).get(alias)
    terms = connection.terms
    with scope.read() as tx:
        spent = disclosure.spent_epsilon(scope, tx, connection.peer_key, terms)
        waiting = tx.scalar(
            select(func.count()).where(letters.c.connection_id == connection.id, letters.c.delivered.is_(None))
        )
        contact = tx.scalar(
            select(func.max(audit.c.at)).where(audit.c.project_id == scope.id, audit.c.actor == connection.alias)
        )
        epoch = _epoch(tx, connection, terms.epoch_days)
        shared = versions.segments_shared(tx, connection.id)
    return {
        **_about(scope, connection),
        "address": connection.peer_address or None,
        "since": connection.created,
        "agreement": connection.agreement_digest.hex(),
        "epoch": epoch,
        "their_budget": None
        if terms.epsilon is None
        else {"of": str(terms.budget), "left": str(max(terms.budget - spent, 0))},
        "our_budget": asking.budget(scope, connection),
        "segments_shared": shared,
        "letters_waiting": waiting,
        "last_contact": contact,
        "restored": connection.restored,
        "heads": audit_heads.document(scope, connection),
        "preflight": preflight.document(connection),
    }


def _epoch(tx: Tx, connection: Connection, days: int) -> dict[str, int] | None:
    query = select(epochs.c.number, epochs.c.started).where(
        epochs.c.connection_id == connection.id, epochs.c.ended.is_(None)
    )
    running = tx.execute(query).first()
    return running and {"number": running.number, "ends": running.started + days * DAY}
