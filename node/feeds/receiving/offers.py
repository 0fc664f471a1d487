"""What partners offer us: feeds, and new versions of them.

What a version takes out is in force at once, what it adds waits for our answer.
"""

from itertools import count
from typing import Any

from sqlalchemy import delete, func, insert, select

from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from protocol.letters import FeedVersion
from protocol.wire import Message
from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed
from ...exchanges.records import versions_under_way
from ...operations.alerts import AlertKind, Alerts
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.records import Document
from ...storage.tables import received_feeds as rows
from .. import purges, versions
from ..estimates.records import answered
from ..purges import TakenOut
from . import joining, received_feeds
from .membership_files import versions_kept
from .received_feeds import OVER, ReceivedFeed, ReceivedStatus

# of one partner and not over; each version of one may take a letter's 960 KiB, and rules read them all
FEEDS_AT_MOST = 256
NAME_LENGTH = 63  # characters of a feed's name


def published(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle feed.publish and feed.unshare."""
    assert isinstance(message, FeedVersion)
    offered(scope, tx, connection, message.definition)


def offered(scope: Scope, tx: Tx, connection: Connection, definition: Definition) -> None:
    """Note a feed or version that a partner offers; one that only takes out is in force at once.

    It replaces a version that was offered before and not accepted.
    """
    feed = received_feeds.find(tx, connection.id, definition.feed)
    known = set(connection.agreed.namespaces)
    if feed is not None:  # what it had, a change of the agreement may have taken out; it is not matched by
        known |= set(received_feeds.definition(tx, feed).namespaces)
    if not set(definition.namespaces) <= known:
        raise RemoteProtocolError("manifest", "the feed uses a namespace that was not agreed on")
    if feed is None:
        name = _insert(scope, tx, connection, definition)
        text = f"{connection.alias} offers feed {name}: enable it, or decline it"
        Alerts(scope).add(tx, AlertKind.FEED_OFFERED, text, remedy=_look(connection, name))
        return
    if definition.version <= versions.newest(tx, feed.id) or feed.status in OVER:
        return
    versions.keep(scope, tx, feed.id, definition)
    if feed.offered_version is not None:  # or a partner that offers version after version would fill the store
        versions.forget(tx, feed.id, feed.offered_version)
    accepted = received_feeds.definition(tx, feed) if feed.accepted_version is not None else None
    if accepted is not None and versions.only_removes(accepted, definition):
        put_in_force(scope, tx, connection, feed, definition)
        text = f"{connection.alias} changed feed {feed.name}, and gives nothing new by it"
    else:
        received_feeds.change(scope, tx, feed, offered_version=definition.version)
        text = f"{connection.alias} offers a new version of feed {feed.name}: enable it, or decline it"
    Alerts(scope).add(tx, AlertKind.FEED_CHANGED, text, remedy=_look(connection, feed.name))


def _look(connection: Connection, name: str) -> Remedy:
    return Remedy("feed.show", {"name": name, "partner": connection.alias})


def _insert(scope: Scope, tx: Tx, connection: Connection, definition: Definition) -> str:
    """Add a feed under a name that no other feed of the partner has here, and return that."""
    _make_room(tx, connection)
    name = _free_name(tx, connection, definition.name)
    feed_id = versions.received_feed_id(connection.id, definition.feed)
    versions.keep(scope, tx, feed_id, definition)
    tx.execute(
        insert(rows).values(
            id=feed_id,
            connection_id=connection.id,
            name=name,
            status=ReceivedStatus.PENDING,
            offered_version=definition.version,
            last_revision=0,
            changed=scope.home.now(),
        )
    )
    return name


def _free_name(tx: Tx, connection: Connection, name: str) -> str:
    """Return the name of a new feed: its own, or one with a number while another feed of the partner has that.

    So nobody who names a feed gets another one. A sender that was restored offers a feed again that is still here.
    """
    mine = (rows.c.connection_id == connection.id, rows.c.status.not_in(OVER))
    taken = set(tx.scalars(select(rows.c.name).where(*mine)))
    numbered = (f"{name[: NAME_LENGTH - len(f'-{number}')]}-{number}" for number in count(2))
    return name if name not in taken else next(each for each in numbered if each not in taken)


def _make_room(tx: Tx, connection: Connection) -> None:
    """Refuse one feed too many, and delete the oldest of those that were revoked before they were accepted here."""
    mine = (rows.c.connection_id == connection.id, rows.c.status.not_in(OVER))
    if (tx.scalar(select(func.count()).where(*mine)) or 0) >= FEEDS_AT_MOST:
        raise NotAllowed(
            f"{connection.alias} offers more than {FEEDS_AT_MOST} feeds at once",
            hint="the sender revokes some, or puts more segments into one; the receiver declines some",
        )
    unseen = (rows.c.connection_id == connection.id, rows.c.accepted_version.is_(None))
    oldest = select(rows.c.id).where(*unseen, rows.c.status == ReceivedStatus.REVOKED)
    gone = tx.scalars(oldest.order_by(rows.c.changed.desc()).offset(FEEDS_AT_MOST - 1)).all()
    for feed_id in gone:
        versions.keep_only(tx, feed_id, ())
    tx.execute(delete(rows).where(rows.c.id.in_(gone)))


def put_in_force(
    scope: Scope, tx: Tx, connection: Connection, feed: ReceivedFeed, definition: Definition, **values: Any
) -> None:
    """Put a version in force: what only the one before gave is purged, with a signed statement."""
    before = definition if feed.accepted_version is None else received_feeds.definition(tx, feed)
    left = {segment.id for segment in definition.segments}
    taken_out = TakenOut(
        version=definition.version,
        segments=tuple(segment.id for segment in before.segments if segment.id not in left),
        namespaces=tuple(name for name in before.namespaces if name not in definition.namespaces),
    )
    received_feeds.change(scope, tx, feed, accepted_version=definition.version, offered_version=None, **values)
    _forget(tx, connection, feed, definition)
    if taken_out.segments or taken_out.namespaces:
        joining.take_out(scope, tx, connection, feed, taken_out)
        purges.sign(scope, tx, connection, definition.feed, feed.last_revision, taken_out)


def _forget(tx: Tx, connection: Connection, feed: ReceivedFeed, definition: Definition) -> None:
    """Delete versions that nothing refers to.

    A partner may send the same content under ever new numbers; each must be taken, since both sides have to be at the
    same hash.
    """
    named = {definition.version, *versions_kept(feed)}
    named |= versions_under_way(tx, connection.id, definition.feed)
    versions.keep_only(tx, feed.id, named)


def document(scope: Scope, tx: Tx, connection: Connection, feed: ReceivedFeed) -> Document | None:
    """Return what a version that waits for our answer would change, and the estimates of the namespaces that it adds."""
    if feed.offered_version is None or feed.accepted_version is None:
        return None
    in_force, waiting = received_feeds.definitions(tx, feed)
    changes = versions.difference(in_force, waiting)
    return {
        **changes,
        "estimates": [answered(scope, tx, connection, each) for each in changes["adds"]["namespaces"]],
    }
