"""How things stand with one partner: what was agreed, what is used up, what waits, and what each side knows of the other."""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, select

from protocol.agreement import Agreement

from ..feeds.estimates import disclosure, matching
from ..partners import audit_heads, preflight
from ..storage.tables import DAY, audit, epochs, letters

if TYPE_CHECKING:
    from ..project import Project


def overview(project: "Project", row: Row[Any]) -> dict[str, Any]:
    """Return everything that is known of a partner, as one document."""
    agreement = Agreement.decode(row.agreement)
    terms = agreement.terms
    with project.node.store.read() as tx:
        spent = disclosure.spent_epsilon(project, tx, row.peer_key, terms)
        waiting = tx.scalar(
            select(func.count()).where(letters.c.connection_id == row.id, letters.c.delivered.is_(None))
        )
        contact = tx.scalar(
            select(func.max(audit.c.at)).where(audit.c.project_id == project.id, audit.c.actor == row.alias)
        )
        epoch = _epoch(tx, row, terms.epoch_days)
    return {
        "alias": row.alias,
        "organisation": row.peer_organisation,
        "project": row.peer_project_name,
        "status": row.status,
        "reason": row.reason,
        "key": row.peer_key.hex(),
        "key_changed": row.key_changed,
        "address": row.peer_address or None,
        "since": row.created,
        "agreement": row.agreement_digest.hex(),
        "terms": terms.as_dict(),
        "namespaces": list(agreement.namespaces),
        "epoch": epoch,
        "their_budget": None
        if terms.epsilon is None
        else {"of": str(terms.budget), "left": str(max(terms.budget - spent, 0))},
        "our_budget": matching.budget(project, row),
        "segments_shared": project.feeds.segments_shared(row.id),
        "segments_received": project.memberships.segments_received(row.id),
        "letters_waiting": waiting,
        "last_contact": contact,
        "restored": row.restored,
        "heads": audit_heads.document(project, row),
        "preflight": preflight.document(row),
    }


def _epoch(tx: Connection, row: Row[Any], days: int) -> dict[str, int] | None:
    query = select(epochs.c.number, epochs.c.started).where(epochs.c.connection_id == row.id, epochs.c.ended.is_(None))
    running = tx.execute(query).first()
    return running and {"number": running.number, "ends": running.started + days * DAY}
