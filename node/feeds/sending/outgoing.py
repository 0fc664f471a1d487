"""What lower rooms ask of the feeds that we share: which segments leave with them, and that partners get new labels."""

from collections.abc import Iterable

from sqlalchemy import select

from protocol.feed import Definition
from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed
from ...governance.lineage import Lineage, Place, PlaceKind
from ...governance.visibility import Visibility
from ...partners.connections import Connection
from ...partners.letters import Letters
from ...storage.database import Tx
from ...storage.records import record
from ...storage.tables import feeds
from .. import versions
from ..states import FeedStatus
from . import edits, recipients
from .feeds import Feeds
from .recipients import Feed


class OutgoingFeeds:
    """The port `Outgoing` of governance."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._feeds = scope, Feeds(scope)
        self._versions: dict[tuple[str, int], Definition] = {}  # they never change
        self._waiting: list[Connection] = []

    def published(self, tx: Tx) -> list[Definition]:
        live = recipients.live_feeds(tx)
        return [
            definition
            for feed, definition in self._current(tx)
            if feed.status is FeedStatus.PUBLISHED and feed.id in live
        ]

    def definition(self, tx: Tx, name: str) -> Definition:
        return self._feeds.definition(self._feeds.get(name, tx), tx)

    def segments_of(self, tx: Tx, name: str) -> Iterable[str]:
        query = select(feeds.c.id, feeds.c.version).where(feeds.c.project_id == self._scope.id, feeds.c.name == name)
        feed = tx.execute(query).first()
        return () if feed is None else [each.name for each in versions.get(tx, feed.id, feed.version).segments]

    def relabel(self, tx: Tx, lineage: Lineage) -> list[str]:
        names = []
        for feed, before in self._current(tx):
            waiting = edits.relabel(self._scope, tx, feed, before, lineage)
            if waiting is not None:
                self._waiting += waiting
                names.append(feed.name)
        return names

    def deliver(self) -> None:
        for connection in self._waiting:
            Letters(self._scope).deliver_soon(connection)
        self._waiting = []

    def _current(self, tx: Tx) -> list[tuple[Feed, Definition]]:
        """Return our feeds that are not revoked, each with its newest version."""
        query = select(feeds).where(feeds.c.project_id == self._scope.id, feeds.c.status != FeedStatus.REVOKED)
        found = [record(Feed, row) for row in tx.execute(query.order_by(feeds.c.name)).all()]
        for feed in found:
            if (feed.id, feed.version) not in self._versions:
                self._versions[feed.id, feed.version] = versions.get(tx, feed.id, feed.version)
        return [(feed, self._versions[feed.id, feed.version]) for feed in found]


def check_not_shared(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise NotAllowed if a feed of ours has a segment."""
    names = versions.sharing(tx, scope.id, segment)
    if not names:
        return
    visibility = Visibility(scope, tx)
    shown = [name for name in names if visibility.sees(Place(kind=PlaceKind.FEED, target=name))]
    if not shown:
        raise NotAllowed(
            f"segment {segment} is shared by a feed that you may not see", hint="ask somebody who may to take it out"
        )
    mine = (feeds.c.project_id == scope.id, feeds.c.name == shown[0])
    published = tx.scalar(select(feeds.c.status).where(*mine)) != FeedStatus.DRAFT
    if published and OutgoingFeeds(scope).segments_of(tx, shown[0]) == [segment]:
        raise NotAllowed(
            f"segment {segment} is all that feed {shown[0]} shares",
            hint="end that first",
            remedy=Remedy("feed.revoke", {"name": shown[0]}),
        )
    raise NotAllowed(
        f"segment {segment} is shared by feed {', '.join(shown)}",
        hint="take it out first",
        remedy=Remedy("feed.edit", {"name": shown[0], "remove_segment": segment}),
    )
