"""When received memberships end by themselves: past the feed's end, or when no run has confirmed them for too long.

The clock decides, whoever looks and whenever: upkeep only writes down what has come about already.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Row

from protocol.feed import MAX_DAYS, Definition

from ...errors import InvalidInput
from ...storage.tables import DAY

if TYPE_CHECKING:
    from ...project import Project

EXITED_DAYS = 30  # who left is listed for so long, then forgotten
STALE_DAYS = 2  # without a run of what should run daily, somebody should look

Exits = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]  # profiles that left, and when


def check(membership_days: int, valid_until: int | None, now: int) -> None:
    """Raise InvalidInput where a feed could have no members."""
    if not 1 <= membership_days <= MAX_DAYS:
        raise InvalidInput(f"members stay 1 to {MAX_DAYS:,} days without a run", hint="--membership-days 30")
    if valid_until is not None and valid_until <= now:
        raise InvalidInput("the feed would have ended already", hint="--valid-until takes a day to come: 2030-12-31")


def ends(definition: Definition, refreshed: int) -> int:
    """Return when memberships end, unless a run confirms them before."""
    unconfirmed = refreshed + definition.membership_days * DAY
    return unconfirmed if definition.valid_until is None else min(unconfirmed, definition.valid_until)


def ended(definition: Definition, refreshed: int, now: int) -> str | None:
    """Return why memberships have ended, None while they hold."""
    if definition.valid_until is not None and now >= definition.valid_until:
        return "the feed was valid until then"
    if now >= ends(definition, refreshed):
        return f"no run confirmed them for {definition.membership_days} days"
    return None


def remembered(exits: Exits, now: int) -> Exits:
    """Return those who left in the last 30 days."""
    profiles, at = exits
    kept = at > now - EXITED_DAYS * DAY
    return profiles[kept], at[kept]


def stale(definition: Definition, refreshed: int, now: int) -> bool:
    """Tell whether a feed that runs daily has missed more than one run."""
    return now >= refreshed + STALE_DAYS * DAY and ended(definition, refreshed, now) is None


def apply(project: "Project") -> None:
    """Let members leave whose time is over, forget who left long ago, and raise an alert where a feed is stale."""
    node, received, memberships = project.node, project.received, project.memberships
    with node.store.read() as tx:
        feeds = [(connection, feed) for connection, feed in received.alive(tx) if feed.refreshed is not None]
        due = [(connection, feed) for connection, feed in feeds if memberships.due(tx, feed)]
    for connection, feed in due:
        detail: dict[str, Any] = {}
        with project.act("feed.expire", feed.name, detail=detail) as tx:
            detail |= memberships.expire(tx, connection, feed)
    for connection, feed in feeds:
        with node.store.read() as tx:
            late = feed.status == "enabled" and stale(received.definition(tx, feed), feed.refreshed, node.now())
        if late:
            _tell(project, connection, feed)


def _tell(project: "Project", connection: Row[Any], feed: Row[Any]) -> None:
    days = (project.node.now() - feed.refreshed) // DAY
    with project.node.store.begin() as tx:
        text = f"feed {feed.name} of {connection.alias} is stale: no run for {days} days"
        project.alerts.add(tx, "feed_stale", text)
