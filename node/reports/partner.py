"""How things stand with one partner: what was agreed, what is used up, what waits, and what each side knows of the other."""

from sqlalchemy import func, select

from protocol.agreement import Offer

from ..access.audit import ActorKind
from ..access.scope import Scope
from ..exchanges.records import ExchangeState
from ..feeds import versions
from ..feeds.estimates import asking, disclosure
from ..feeds.receiving.memberships import Memberships
from ..governance.policies import SHARING
from ..governance.visibility import Visibility
from ..partners import agreements, audit_heads, preflight
from ..partners.agreements_in_force import last_change
from ..partners.connections import Connection
from ..partners.partners import Partners
from ..storage.database import Tx
from ..storage.records import Document, Documents
from ..storage.tables import DAY, audit, epochs, exchanges, letters


def listed(scope: Scope) -> Documents:
    """Return a short document of every partner."""
    connections = Partners(scope).rows()
    with scope.read() as tx:
        visibility = Visibility(scope, tx)
        shared = {connection.id: _shared(tx, visibility, connection) for connection in connections}
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


def agreed(scope: Scope, alias: str) -> Document:
    """Return what is agreed with a partner, or asked for."""
    connection = Partners(scope).get(alias)
    about = _about(scope, connection)
    names = ("alias", "organisation", "project", "status", "key", "terms", "namespaces")
    with scope.read() as tx:
        changed = last_change(connection, tx)
    ours = connection.our_offer
    return {
        **{name: about[name] for name in names},
        "version": connection.agreed.version,
        "agreement": connection.agreement_digest.hex(),
        "made": connection.agreed.made,
        "our_terms": None if ours is None else Offer.decode(ours).terms.as_dict(),
        "last_change": changed,
        "change": _change(scope, connection),
    }


def _change(scope: Scope, connection: Connection) -> Document | None:
    """Return the change of an agreement that is under way, None if there is none."""
    now = scope.home.now()
    if agreements.waits_for_us(connection):
        return agreements.next_change(scope, connection).document(connection)
    if agreements.is_accepted(connection, now):
        return {"step": "confirm"}
    return {"step": "wait"} if agreements.is_proposed(connection, now) else None


def overview(scope: Scope, alias: str) -> Document:
    """Return everything that is known of a partner, as one document."""
    connection = Partners(scope).get(alias)
    terms = connection.terms
    with scope.read() as tx:
        spent = disclosure.spent_epsilon(scope, tx, connection)
        waiting = tx.scalar(
            select(func.count()).where(letters.c.connection_id == connection.id, letters.c.delivered.is_(None))
        )
        contact = tx.scalar(
            select(func.max(audit.c.at)).where(
                audit.c.project_id == scope.id,
                audit.c.actor == connection.alias,
                # of rows of an older release only letters: a user may have the same name
                (audit.c.actor_kind == ActorKind.PARTNER)
                | audit.c.actor_kind.is_(None) & audit.c.act.startswith("letter."),
            )
        )
        delivered = select(func.max(letters.c.delivered)).where(letters.c.connection_id == connection.id)
        over = (exchanges.c.connection_id == connection.id, exchanges.c.state == ExchangeState.DONE)
        contacts = [contact, tx.scalar(delivered), tx.scalar(select(func.max(exchanges.c.changed)).where(*over))]
        epoch = _epoch(tx, connection, terms.epoch_days)
        shared = _shared(tx, Visibility(scope, tx), connection)
    return {
        **_about(scope, connection),
        "address": connection.peer_address or None,
        "since": connection.created,
        "agreement": connection.agreement_digest.hex(),
        "epoch": epoch,
        "their_budget": None if terms.epsilon is None else asking.budget_document(terms, spent),
        "our_budget": asking.budget(scope, connection),
        "segments_shared": shared,
        "letters_waiting": waiting,
        "last_contact": max(filter(None, contacts), default=None),
        "restored": connection.restored,
        "heads": audit_heads.document(scope, connection),
        "preflight": preflight.document(connection),
    }


def _shared(tx: Tx, visibility: Visibility, connection: Connection) -> int:
    """Return how many segments that the caller may see are shared with a partner."""
    return sum(visibility.sees_use([name], SHARING) for name in versions.segments_shared(tx, connection.id))


def _epoch(tx: Tx, connection: Connection, days: int) -> dict[str, int] | None:
    query = select(epochs.c.number, epochs.c.started).where(
        epochs.c.connection_id == connection.id, epochs.c.ended.is_(None)
    )
    running = tx.execute(query).first()
    return running and {"number": running.number, "ends": running.started + days * DAY}
