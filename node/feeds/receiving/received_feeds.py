"""A feed that a partner offers or shares, as its row is typed, and the versions of it that are known here."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import select, update

from protocol.feed import Definition
from protocol.labels import spelled_label
from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed, NotFound
from ...governance.lineage import Place, PlaceKind, Uses
from ...governance.visibility import Visibility
from ...operations.alerts import AlertKind, Alerts
from ...partners.connections import Connection, by_id
from ...storage.database import Tx
from ...storage.records import record
from ...storage.tables import connections, received_feeds
from .. import lifetimes, versions


class ReceivedStatus(StrEnum):
    """How far a feed has come here."""

    PENDING = "pending"  # offered, and not answered yet
    ENABLED = "enabled"
    DISABLED = "disabled"  # paused by us
    DECLINED = "declined"  # by us
    REVOKED = "revoked"  # by the sender, or with the connection


ALIVE = (ReceivedStatus.ENABLED, ReceivedStatus.DISABLED)  # what they gave is kept
OVER = (ReceivedStatus.DECLINED, ReceivedStatus.REVOKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFeed:
    """A feed that came over one connection, as the row of `received_feeds` has it."""

    id: str
    connection_id: str
    name: str
    status: ReceivedStatus
    accepted_version: int | None
    offered_version: int | None  # waits for our answer
    reported: dict[str, int] | None  # our identities by namespace, as they were last sent to the sender
    last_revision: int
    last_receipt: bytes | None
    records: list[str] | None  # the files of the last full revision and of the changes since
    epoch: int | None  # whose keys open them
    refreshed: int | None  # when a run last confirmed the memberships
    reason: str | None
    changed: int
    deleted: int | None = None  # when it left the lists


Pairs = list[tuple[Connection, ReceivedFeed]]  # a feed, and the connection that it came over


def find(tx: Tx, connection_id: str, feed: bytes) -> ReceivedFeed | None:
    """Return the feed that a partner calls `feed`."""
    return _first(tx, versions.received_feed_id(connection_id, feed))


def read(tx: Tx, feed: ReceivedFeed) -> ReceivedFeed:
    """Return a feed as it is now."""
    found = _first(tx, feed.id)
    assert found is not None
    return found


def _first(tx: Tx, feed_id: str) -> ReceivedFeed | None:
    row = tx.execute(select(received_feeds).where(received_feeds.c.id == feed_id)).first()
    return None if row is None else record(ReceivedFeed, row)


def of_connection(tx: Tx, connection_id: str) -> list[ReceivedFeed]:
    """Return all feeds that ever came over a connection."""
    query = select(received_feeds).where(received_feeds.c.connection_id == connection_id)
    return [record(ReceivedFeed, row) for row in tx.execute(query)]


def of_project(scope: Scope, tx: Tx) -> Pairs:
    """Return all feeds that partners ever offered to a project; what changed last comes last."""
    query = (
        select(received_feeds)
        .join(connections, connections.c.id == received_feeds.c.connection_id)
        .where(connections.c.project_id == scope.id)
        .order_by(received_feeds.c.changed)
    )
    feeds = [record(ReceivedFeed, row) for row in tx.execute(query).all()]
    partners = {each: by_id(scope, each, tx) for each in {feed.connection_id for feed in feeds}}
    return [(partners[feed.connection_id], feed) for feed in feeds]


def listed(scope: Scope, tx: Tx) -> Pairs:
    """Return the feeds that people did not delete."""
    return [(connection, feed) for connection, feed in of_project(scope, tx) if feed.deleted is None]


def alive(scope: Scope, tx: Tx) -> Pairs:
    """Return the feeds whose members are kept."""
    return [(connection, feed) for connection, feed in of_project(scope, tx) if feed.status in ALIVE]


def get(
    scope: Scope, tx: Tx, name: str, partner: str | None = None, *, over: bool = False
) -> tuple[Connection, ReceivedFeed]:
    """Return a feed by name, with its connection; the partner is needed where two offer one of that name.

    A partner may have offered several of one name, of which one is not over: that one is returned, or with `over` another.
    Raises NotFound, also where the feed is hidden from the caller.
    """
    named = ((c, f) for c, f in listed(scope, tx) if f.name == name and partner in (None, c.alias))
    found = [(c, f) for c, f in named if not is_hidden(scope, tx, f)]
    live = [(c, f) for c, f in found if f.status not in OVER]
    found = [(c, f) for c, f in found if over and f.status in OVER] or live or found
    if not found:
        raise NotFound(
            f"no partner has offered a feed {name!r}", hint="see what was offered", remedy=Remedy("feed.list")
        )
    if len({connection.id for connection, _ in found}) > 1:
        raise NotAllowed(f"several partners offer a feed {name!r}", hint="name the partner too")
    if len(live) > 1 and not over:
        raise NotAllowed(f"{live[0][0].alias} offers {len(live)} feeds {name!r}", hint="ask it to revoke all but one")
    return found[-1]


def is_hidden(scope: Scope, tx: Tx, feed: ReceivedFeed) -> bool:
    """Return whether a feed is hidden from the caller: it has a segment with a label that they may not see."""
    known = (segment for each in definitions(tx, feed) for segment in each.segments)
    return not Visibility(scope, tx).clears(spelled_label(label) for segment in known for label in segment.labels)


def definition(tx: Tx, feed: ReceivedFeed, version: int | None = None) -> Definition:
    """Return a version of a feed: without a number the one in force, or the offered one where none is accepted."""
    return versions.get(tx, feed.id, version or feed.accepted_version or feed.offered_version)


def definitions(tx: Tx, feed: ReceivedFeed) -> list[Definition]:
    """Return the version of a feed that is in force here, and the one that waits for our answer."""
    in_force = definition(tx, feed)
    return [in_force, definition(tx, feed, feed.offered_version)] if feed.offered_version else [in_force]


def labels(scope: Scope, tx: Tx) -> Uses:
    """Return the senders' labels by segment; added ones count before the version that adds them is accepted."""
    found: Uses = {}
    for connection, feed in alive(scope, tx):
        in_force, *offered = definitions(tx, feed)
        newer = {each.id: each.labels for each_version in offered for each in each_version.segments}
        for segment in in_force.segments:
            place = Place(kind=PlaceKind.RECEIVED, target=f"{connection.alias}.{segment.name}")
            known = {*found.get(place, ()), *map(spelled_label, (*segment.labels, *newer.get(segment.id, ())))}
            found[place] = sorted(known)
    return found


def labels_of(scope: Scope, tx: Tx, partner: str, segment: str) -> set[str]:
    """Return every label that a segment has in the versions that are in force or offered, also of a feed that is over."""
    found: set[str] = set()
    for connection, feed in of_project(scope, tx):
        if connection.alias == partner:
            known = [each for definition in definitions(tx, feed) for each in definition.segments]
            ids = {each.id for each in known if each.name == segment}
            found |= {spelled_label(label) for each in known if each.id in ids for label in each.labels}
    return found


def why_ended(scope: Scope, tx: Tx, feed: ReceivedFeed) -> str | None:
    """Return why a feed's memberships have ended, None while they last."""
    if feed.refreshed is None:
        return None
    return lifetimes.ended(definition(tx, feed), feed.refreshed, scope.home.now())


def change(scope: Scope, tx: Tx, feed: ReceivedFeed, **values: Any) -> None:
    """Change columns of a feed's row, and close the alerts that ask for what the change answers."""
    row = received_feeds.c.id == feed.id
    tx.execute(update(received_feeds).where(row).values(changed=scope.home.now(), **values))
    if not values.keys() & {"status", "offered_version"}:
        return
    alias, alerts = by_id(scope, feed.connection_id, tx).alias, Alerts(scope)
    if "status" in values:
        alerts.settle(tx, AlertKind.FEED_OFFERED, f"{alias} offers feed {feed.name}: ")
    if values.get("status") in OVER or values.get("offered_version", 0) is None:
        alerts.settle(tx, AlertKind.FEED_CHANGED, f"{alias} offers a new version of feed {feed.name}: ")
