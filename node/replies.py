"""What partners answer to the feeds that we send them: letters that change their state of one."""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select

from protocol.errors import RemoteProtocolError
from protocol.letters import FeedAccept, FeedNotice, Purged
from protocol.wire import Message

from . import versions
from .errors import printable
from .feeds import GOING
from .letters import HANDLERS as LETTERS
from .releases import begin_anew
from .tables import feed_partners, feeds

if TYPE_CHECKING:
    from .project import Project


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
    """Handle feed.accept: the partner takes this version, so runs may begin; a removal that crossed it holds anyway."""
    assert isinstance(message, FeedAccept)
    feed, state = state_of(tx, row, message.feed)
    definition = project.feeds.definition(feed, tx)
    if state.status not in GOING:
        return
    taken = versions.get(tx, feed.id, message.version)
    if message.definition != taken.digest():
        raise RemoteProtocolError("manifest", "the partner accepted other words than this version's")
    if not versions.only_removes(taken, definition):
        return  # it crossed with a version that adds something, which is on its way and has to be accepted too
    universes = {name: size for name, size in message.universes.items() if name in definition.namespaces}
    project.feeds._set_state(
        tx, state, status="enabled", accepted_version=definition.version, universes=universes, reason=None
    )
    begin_anew(tx, row, feed.id)  # also one that has lost what we gave
    if (state.status, state.universes) == ("enabled", universes):
        return
    sizes = ", ".join(f"{size:,} in {name}" for name, size in sorted(universes.items()))
    project.alerts.add(tx, "feed_enabled", f"{row.alias} enabled feed {feed.name}; it says that it has {sizes}")


def noticed(status: str) -> Any:
    """Return the handler of feed.decline or feed.disable."""

    def handle(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
        assert isinstance(message, FeedNotice)
        feed, state = state_of(tx, row, message.feed)
        if state.status not in GOING:
            return
        reason = printable(message.reason)
        project.feeds._set_state(tx, state, status=status, reason=reason)
        project.alerts.add(tx, f"feed_{status}", f"{row.alias} has feed {feed.name} {status}")

    return handle


def purged(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle feed.purged: keep the partner's signed statement."""
    assert isinstance(message, Purged)
    statement = message.statement
    feed, state = state_of(tx, row, statement.feed)
    if statement.connection.hex() != row.id:
        raise RemoteProtocolError("signature", "the statement is about another connection")
    statement.verify(message.signature, row.peer_key)
    project.feeds._set_state(tx, state, purge_statement=message.encode())
    what = f"{len(statement.segments)} of the segments of feed" if statement.segments else "feed"
    project.alerts.add(tx, "feed_purged", f"{row.alias} signed that it purged {what} {feed.name}")


LETTERS["feed.accept"] = accepted
LETTERS["feed.decline"] = noticed("declined")
LETTERS["feed.disable"] = noticed("disabled")
LETTERS["feed.purged"] = purged
