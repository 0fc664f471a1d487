"""When received memberships end by themselves: past the feed's end, or when no run has confirmed them for too long.

The clock decides, at any time and for every reader; upkeep only writes it down.
"""

from protocol.feed import Definition

from ...access.scope import Scope
from ...operations.alerts import AlertKind, Alerts
from ...storage.records import Document
from ...storage.tables import DAY
from .. import lifetimes
from . import received_feeds
from .memberships import Memberships
from .received_feeds import ReceivedStatus

STALE_DAYS = 2  # without a run of what should run daily, somebody should look


def stale(definition: Definition, refreshed: int, now: int) -> bool:
    """Return whether a feed that runs daily has missed more than one run."""
    return now >= refreshed + STALE_DAYS * DAY and lifetimes.ended(definition, refreshed, now) is None


def apply(scope: Scope) -> None:
    """Let members leave whose time is over, forget who left long ago, and raise an alert where a feed is stale."""
    home, memberships = scope.home, Memberships(scope)
    with home.read() as tx:
        feeds = [(connection, feed) for connection, feed in received_feeds.alive(scope, tx) if feed.refreshed]
        due = [(connection, feed) for connection, feed in feeds if memberships.due(tx, feed)]
    for connection, feed in due:
        detail: Document = {}
        with scope.act("feed.expire", feed.name, detail=detail) as tx:
            detail |= memberships.expire(tx, connection, feed)
    for connection, feed in feeds:
        if feed.status is not ReceivedStatus.ENABLED or feed.refreshed is None:
            continue
        with home.read() as tx:
            definition = received_feeds.definition(tx, feed)
        if stale(definition, feed.refreshed, home.now()):
            days = (home.now() - feed.refreshed) // DAY
            with home.begin() as tx:
                text = f"feed {feed.name} of {connection.alias} is stale: no run for {days} days"
                Alerts(scope).add(tx, AlertKind.FEED_STALE, text)
