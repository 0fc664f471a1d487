"""From a name to a published feed: the steps of a draft, and the offer to each partner."""

from dataclasses import dataclass

from protocol.feed import Definition
from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed
from ...governance.governance import Governance
from ...partners.connections import Connection, ConnectionStatus
from ...storage.database import Tx
from ...storage.records import Document
from .. import prerequisites, versions
from ..states import CURRENT, FeedStatus, RecipientStatus
from . import edits, recipients
from .parts import check_agreed, check_sizes
from .recipients import Feed, Pairs, Recipient


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One of the steps to a published feed, and the act that completes it."""

    name: str
    complete: bool
    remedy: Remedy

    def document(self) -> Document:
        return {"name": self.name, "complete": self.complete, "remedy": self.remedy.document()}


def steps(definition: Definition, *, partners: int, published: bool) -> list[Step]:
    """Return the four steps of a feed; the last one can be taken when the others are complete."""
    name = definition.name
    return [
        Step(
            name="configure",
            complete=bool(definition.namespaces),
            remedy=Remedy("feed.edit", {"name": name, "add_namespace": "NAME"}),
        ),
        Step(
            name="segments",
            complete=bool(definition.segments),
            remedy=Remedy("feed.edit", {"name": name, "add_segment": "NAME"}),
        ),
        Step(name="share", complete=partners > 0, remedy=Remedy("feed.edit", {"name": name, "add_partner": "NAME"})),
        Step(name="review", complete=published, remedy=Remedy("feed.publish", {"name": name})),
    ]


def goes_to(pairs: Pairs) -> int:
    """Return how many partners a feed goes to, or will once it is published."""
    return sum(recipient.status in CURRENT for _, recipient in pairs)


def publish(scope: Scope, tx: Tx, feed: Feed) -> list[Connection]:
    """Offer a feed's newest version to the partners that were not offered it yet, and return them.

    Raises NotAllowed if there are none.
    """
    scope.check_not_on_hold(tx)
    prerequisites.check(scope, tx)
    definition, pairs = versions.get(tx, feed.id, feed.version), recipients.partners_of(scope, tx, feed)
    recipients.check_current(tx, feed, pairs)
    for step in steps(definition, partners=goes_to(pairs), published=True):
        if not step.complete:
            raise NotAllowed(f"feed {feed.name} is not complete: {step.name}", hint="complete it", remedy=step.remedy)
    Governance(scope).check_feed(definition, tx)
    offered = []
    refused: NotAllowed | None = None
    for connection, recipient in pairs:
        if recipient.status not in CURRENT or definition.version in recipient.offers:
            continue
        if waits := _waits_for(scope, tx, connection, recipient, definition):
            refused = refused or edits.not_estimated(feed.name, connection, waits)
            continue
        _offer(scope, tx, connection, recipient, definition)
        offered.append(connection)
    if not offered:
        raise refused or NotAllowed(
            f"feed {feed.name} is published already",
            hint="look at it",
            remedy=Remedy("feed.show", {"name": feed.name}),
        )
    recipients.change_feed(scope, tx, feed.id, status=FeedStatus.PUBLISHED)
    return offered


def _waits_for(scope: Scope, tx: Tx, connection: Connection, recipient: Recipient, definition: Definition) -> list[str]:
    """Return the namespaces that keep a version from being offered; raises NotAllowed for a partner that is not active."""
    if connection.status is not ConnectionStatus.ACTIVE:
        raise NotAllowed(
            f"partner {connection.alias} is {connection.status}",
            hint="look at the partners",
            remedy=Remedy("partner.list"),
        )
    if recipient.status is RecipientStatus.DRAFT:
        for namespace in definition.namespaces:  # the agreement may have changed since
            check_agreed(connection, namespace)
        return []
    return edits.waits_for(scope, tx, connection, recipients.in_force(tx, recipient), definition)


def _offer(scope: Scope, tx: Tx, connection: Connection, recipient: Recipient, definition: Definition) -> None:
    """Offer a version to a partner, unless something that it adds there is too small."""
    first = recipient.status is RecipientStatus.DRAFT
    fresh = definition.segments
    if not first:
        fresh = tuple(versions.new_segments(recipients.in_force(tx, recipient), definition))
    check_sizes(scope, tx, definition.name, fresh, connection)
    edits.offer(scope, tx, connection, recipient, definition)
    if first:
        recipients.change_state(scope, tx, recipient, status=RecipientStatus.PENDING)
