"""What partners answer to the feeds that we send them: letters that change their state of one."""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select

from protocol.errors import RemoteProtocolError
from protocol.letters import FeedAccept, FeedNotice, Purged
from protocol.wire import Message

from ...errors import printable
from ...partners.letters import HANDLERS as LETTERS
from ...storage.tables import feed_partners, feeds
from .. import purges, versions
from . import attempts
from .edits import GOING

if TYPE_CHECKING:
    from ...project import Project


def state_of(tx: Connection, row: Row[Any], feed: bytes) -> tuple[Row[Any], Row[Any]]:
    """Return our feed that a partner speaks of and the partner's state of it; raises RemoteProtocolError for any other."""
    query = (
        select(feed_partners)
        .join(feeds, feeds.c.id == feed_partners.c.feed_id)
        .where(feed_partners.c.feed_id == feed.hex(), feed_partners.c.connection_id == row.id)
    )
    state = tx.execute(query).first()
    if state is None or state.status == "draft":
        raise RemoteProtocolError("manifest", "there is no such feed for this partner")
    return tx.execute(select(feeds).where(feeds.c.id == feed.hex())).one(), state


def accepted(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle feed.accept: the partner takes this version, so runs may begin.

    What was taken out since, by letters that crossed this one, holds anyway; what was added since waits for its own word.
    """
    assert isinstance(message, FeedAccept)
    feed, state = state_of(tx, row, message.feed)
    if state.status not in GOING:
        return
    if message.version not in state.offers:
        raise RemoteProtocolError("manifest", "the partner accepted a version that it was not offered, or went back")
    known = versions.each(tx, feed.id, state.offers[state.offers.index(message.version) :])
    if message.definition != known[0].digest():
        raise RemoteProtocolError("manifest", "the partner accepted other words than this version's")
    definition = versions.holding(known)
    universes = {name: size for name, size in message.universes.items() if name in definition.namespaces}
    declined = (state.declined_version or 0) > message.version
    project.feeds.change_state(
        tx,
        state,
        status="enabled",
        accepted_version=definition.version,
        offers=[each.version for each in known],
        declined_version=state.declined_version if declined else None,
        universes=universes,
        reason=state.reason if declined else None,
    )
    grown = state.status == "enabled" and state.universes != universes  # which is all that such a letter says
    if (
        state.accepted_version == definition.version and not grown
    ):  # it may have lost what we gave; a new version is whole
        attempts.begin_anew(project, tx, row, feed.id)
    if (state.status, state.universes, state.accepted_version) == ("enabled", universes, definition.version):
        return
    sizes = ", ".join(f"{size:,} in {name}" for name, size in sorted(universes.items()))
    enabled = f"{row.alias} enabled feed {feed.name}; "
    project.alerts.add(tx, "feed_enabled", f"{enabled}it says that it has {sizes}", alike=enabled)


def noticed(status: str) -> Any:
    """Return the handler of feed.decline or feed.disable."""

    def handle(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
        assert isinstance(message, FeedNotice)
        feed, state = state_of(tx, row, message.feed)
        if state.status not in GOING:
            return
        reason = printable(message.reason)
        project.feeds.change_state(tx, state, status=status, reason=reason)
        project.alerts.add(tx, f"feed_{status}", f"{row.alias} has feed {feed.name} {status}")

    return handle


def version_declined(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle feed.decline-version: what it would add is not wanted, and what the partner accepted before goes on."""
    assert isinstance(message, FeedNotice)
    feed, state = state_of(tx, row, message.feed)
    if state.status not in GOING:
        return
    if message.version not in state.offers:
        raise RemoteProtocolError("manifest", "the partner declined a version that it was not offered")
    project.feeds.change_state(tx, state, declined_version=message.version, reason=printable(message.reason))
    text = f"{row.alias} declined version {message.version} of feed {feed.name}; what it accepted before goes on"
    project.alerts.add(tx, "feed_version_declined", text)


def purged(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle feed.purged: keep the partner's signed statement."""
    assert isinstance(message, Purged)
    statement = message.statement
    feed, _ = state_of(tx, row, statement.feed)
    if statement.connection.hex() != row.id:
        raise RemoteProtocolError("signature", "the statement is about another connection")
    statement.verify(message.signature, row.peer_key)
    if not purges.keep(project, tx, feed, row, message):
        return
    what = f"what version {statement.version} took out of feed" if statement.version else "feed"
    project.alerts.add(tx, "feed_purged", f"{row.alias} signed that it purged {what} {feed.name}")


LETTERS["feed.accept"] = accepted
LETTERS["feed.decline"] = noticed("declined")
LETTERS["feed.decline-version"] = version_declined
LETTERS["feed.disable"] = noticed("disabled")
LETTERS["feed.purged"] = purged
