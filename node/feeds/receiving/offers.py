"""What partners offer us: feeds, and new versions of them. What a version takes out holds at once, what it adds waits."""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from protocol.agreement import Agreement
from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from protocol.letters import FeedVersion
from protocol.messages import Answer
from protocol.wire import Message

from ...errors import Refused
from ...exchanges.exchanges import versions_under_way
from ...partners.letters import HANDLERS as LETTERS
from ...storage.tables import DAY, answers, feed_versions, received_feeds
from .. import purges, versions
from ..sending.edits import ESTIMATE_DAYS

if TYPE_CHECKING:
    from ...project import Project

OVER = ("declined", "revoked")
FEEDS_AT_MOST = (
    256  # of one partner and not over; each version of one may take a letter's 960 KiB, and rules read them all
)


def offered(project: "Project", tx: Connection, connection: Row[Any], definition: Definition) -> None:
    """Take note of a feed or version that a partner offers; one that only takes out holds at once.

    It replaces a version that was offered before and that nobody accepted.
    """
    agreed = Agreement.decode(connection.agreement).namespaces
    if not set(definition.namespaces) <= set(agreed):
        raise RemoteProtocolError("manifest", "the feed uses a namespace that was not agreed on")
    feed_id = versions.local(connection.id, definition.feed)
    feed = tx.execute(select(received_feeds).where(received_feeds.c.id == feed_id)).first()
    if feed is None:
        _make_room(tx, connection)
        versions.keep(project, tx, feed_id, definition)
        tx.execute(
            insert(received_feeds).values(
                id=feed_id,
                connection_id=connection.id,
                name=definition.name,
                status="pending",
                offered_version=definition.version,
                last_revision=0,
                changed=project.node.now(),
            )
        )
        project.alerts.add(
            tx,
            "feed_offered",
            f"{connection.alias} offers feed {definition.name}: vesica feed enable {definition.name}",
        )
        return
    newest = tx.scalar(select(func.max(feed_versions.c.version)).where(feed_versions.c.feed_id == feed_id)) or 0
    if definition.version <= newest or feed.status in OVER:
        return
    versions.keep(project, tx, feed_id, definition)
    if feed.offered_version is not None:  # or a partner that keeps changing its mind would fill the store
        tx.execute(
            delete(feed_versions).where(
                feed_versions.c.feed_id == feed_id, feed_versions.c.version == feed.offered_version
            )
        )
    accepted = feed.accepted_version and versions.get(tx, feed_id, feed.accepted_version)
    if accepted and versions.only_removes(accepted, definition):
        hold(project, tx, connection, feed, definition)
        text = f"{connection.alias} changed feed {feed.name}, and gives nothing new by it: vesica feed show {feed.name}"
    else:
        project.received.change(tx, feed, offered_version=definition.version)
        text = f"{connection.alias} offers a new version of feed {feed.name}: vesica feed show {feed.name}"
    project.alerts.add(tx, "feed_changed", text)


def _make_room(tx: Connection, connection: Row[Any]) -> None:
    """Refuse one feed too many, and forget the oldest of those that were taken back before anybody here accepted them."""
    mine = (received_feeds.c.connection_id == connection.id, received_feeds.c.status.not_in(OVER))
    if (tx.scalar(select(func.count()).where(*mine)) or 0) >= FEEDS_AT_MOST:
        raise Refused(
            f"{connection.alias} offers more than {FEEDS_AT_MOST} feeds at once",
            hint="the sender revokes some, or puts more segments into one; the receiver declines some: vesica feed decline",
        )
    unseen = (received_feeds.c.connection_id == connection.id, received_feeds.c.accepted_version.is_(None))
    oldest = select(received_feeds.c.id).where(*unseen, received_feeds.c.status == "revoked")
    gone = tx.scalars(oldest.order_by(received_feeds.c.changed.desc()).offset(FEEDS_AT_MOST - 1)).all()
    tx.execute(delete(feed_versions).where(feed_versions.c.feed_id.in_(gone)))
    tx.execute(delete(received_feeds).where(received_feeds.c.id.in_(gone)))


def _forget(project: "Project", tx: Connection, connection: Row[Any], feed: Row[Any], definition: Definition) -> None:
    """Delete the versions that nothing names since another one holds: it may hold the same, and come again and again.

    It must not be ignored for that: the sender goes on from it, and both have to be at the same hash.
    """
    named = {definition.version, *project.memberships.versions_kept(feed)}
    named |= versions_under_way(tx, connection.id, definition.feed)
    tx.execute(delete(feed_versions).where(feed_versions.c.feed_id == feed.id, feed_versions.c.version.not_in(named)))


def hold(
    project: "Project", tx: Connection, connection: Row[Any], feed: Row[Any], definition: Definition, **values: Any
) -> None:
    """Let a version hold from now on: what the one before gave, and it does not, is purged, and the sender told so."""
    before = versions.get(tx, feed.id, feed.accepted_version) if feed.accepted_version is not None else definition
    left = {segment.id for segment in definition.segments}
    gone = tuple(segment.id for segment in before.segments if segment.id not in left)
    fewer = tuple(name for name in before.namespaces if name not in definition.namespaces)
    project.received.change(tx, feed, accepted_version=definition.version, offered_version=None, **values)
    _forget(project, tx, connection, feed, definition)
    if not gone and not fewer:
        return
    project.memberships.take_out(tx, connection, feed, gone, fewer)
    purges.sign(
        project,
        tx,
        connection,
        definition.feed,
        feed.last_revision,
        version=definition.version,
        segments=gone,
        namespaces=fewer,
    )


def document(project: "Project", tx: Connection, connection: Row[Any], feed: Row[Any]) -> dict[str, Any] | None:
    """Return what a version that waits for our word would change, and the estimates of the namespaces that it adds."""
    if feed.offered_version is None or feed.accepted_version is None:
        return None
    accepted = versions.get(tx, feed.id, feed.accepted_version)
    changes = versions.difference(accepted, versions.get(tx, feed.id, feed.offered_version))
    return {
        **changes,
        "estimates": [_estimate(project, tx, connection, each) for each in changes["adds"]["namespaces"]],
    }


def _estimate(project: "Project", tx: Connection, connection: Row[Any], namespace: str) -> dict[str, Any]:
    """Return what we last answered a partner about a namespace; which segment is which, its question did not say."""
    query = select(answers).where(
        answers.c.connection_id == connection.id, answers.c.points.startswith(f"question {namespace} ", autoescape=True)
    )
    row = tx.execute(query.order_by(answers.c.at.desc()).limit(1)).first()
    known: dict[str, Any] = {"namespace": namespace, "status": "none", "computed_at": None, "segments": []}
    if row is None:
        return known
    if project.node.now() - row.at > ESTIMATE_DAYS * DAY:
        return {**known, "status": "expired", "computed_at": row.at}
    segments = [
        {
            "status": each.status,
            "overlap": each.overlap,
            "consented": each.consented,
            "half_width": each.half_width,
            "consented_half_width": each.consented_half_width,
        }
        for each in Answer.decode(row.answer).segments
    ]
    return {**known, "status": "ok", "computed_at": row.at, "segments": segments}


def published(project: "Project", tx: Connection, connection: Row[Any], message: Message) -> None:
    """Handle feed.publish and feed.unshare."""
    assert isinstance(message, FeedVersion)
    offered(project, tx, connection, message.definition)


LETTERS["feed.publish"] = published
LETTERS["feed.unshare"] = published
