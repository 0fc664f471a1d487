"""The agreement in force: how another takes its place, and what the last change changed."""

from sqlalchemy import insert, select

from protocol.agreement import Agreement, Offer
from psi.errors import Remedy

from ..access.scope import Scope
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import agreements
from . import handlers
from .connections import Connection, by_id, change

KEPT = ("agreement", "agreement_digest", "our_offer", "their_offer", "our_signature", "their_signature")
ACCEPTED = ("our_acceptance", "accepted", "confirmation")
NONE = dict.fromkeys(("our_proposal", "their_proposal", *ACCEPTED, "void"))


def put_in_force(
    scope: Scope,
    tx: Tx,
    connection: Connection,
    agreed: Agreement,
    offers: tuple[Offer, Offer],
    signatures: tuple[bytes, bytes],
) -> None:
    """Let an agreement take the place of the one before, which is kept. Offers and signatures: ours, theirs."""
    tx.execute(
        insert(agreements).values(
            id=scope.home.new_id(),
            connection_id=connection.id,
            version=connection.agreed.version,
            until=scope.home.now(),
            **{name: getattr(connection, name) for name in KEPT},
        )
    )
    change(
        scope.home,
        tx,
        connection,
        agreement=agreed.encode(),
        agreement_digest=agreed.digest(),
        our_offer=offers[0].encode(),
        their_offer=offers[1].encode(),
        our_signature=signatures[0],
        their_signature=signatures[1],
        **NONE,
    )
    settle(scope, tx, connection)
    before, after = frozenset(connection.agreed.namespaces), frozenset(agreed.namespaces)
    for hook in handlers.AGREED if before != after else ():
        hook(scope, tx, by_id(scope, connection.id, tx), before - after)
    changed = "; ".join(_differences(connection.agreed, agreed)) or "nothing"
    text = f"version {agreed.version} of the agreement with {connection.alias} is in force; it changes {changed}"
    if agreed.requester == offers[0].digest():  # proposed here: a person saw what follows from the partner's last offer
        seen = Agreement.merge(
            offers[0], Offer.decode(connection.their_offer), connection=agreed.connection, made=agreed.made
        )
        if more := _differences(seen, agreed):
            text += f"; {connection.alias} asked for other terms than those that you saw: {'; '.join(more)}"
    Alerts(scope).add(tx, AlertKind.AGREEMENT_CHANGED, text, remedy=Remedy("partner.terms", named(connection)))


def last_change(connection: Connection, tx: Tx) -> Document | None:
    """Return what the last change of the agreement changed, and when it came into force; None if there was none."""
    query = select(agreements).where(agreements.c.connection_id == connection.id)
    before = tx.execute(query.order_by(agreements.c.version.desc()).limit(1)).first()
    if before is None:
        return None
    agreed = Agreement.decode(before.agreement)
    return {"at": before.until, "terms_before": agreed.terms.as_dict(), "namespaces_before": list(agreed.namespaces)}


def _differences(before: Agreement, after: Agreement) -> list[str]:
    """Return in short what differs between two agreements."""
    old, new = before.terms.as_dict(), after.terms.as_dict()
    found = [
        f"{name.replace('_', ' ')} from {_value(old[name])} to {_value(new[name])}"
        for name in new
        if old[name] != new[name]
    ]
    found += [f"{name} is matched by too" for name in after.namespaces if name not in before.namespaces]
    return found + [f"{name} is matched by no more" for name in before.namespaces if name not in after.namespaces]


def _value(value: object) -> str:
    return "none" if value is None else str(value)


def named(connection: Connection) -> dict[str, str]:
    """Return the arguments of a remedy that is about a partner."""
    return {"name": connection.alias}


def about(connection: Connection) -> str:
    """Return how the alert of a change that waits for a person begins."""
    return f"{connection.alias} proposes to change the agreement"


def settle(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Settle the alert of a change that waited for a person."""
    Alerts(scope).settle(tx, AlertKind.AGREEMENT_PROPOSED, about(connection))
