"""What partners answer to the feeds that we send them: letters that change their state of one."""

from collections.abc import Callable

from protocol.errors import RemoteProtocolError
from protocol.letters import FeedAccept, FeedNotice, Purged
from protocol.wire import Message

from ...access.scope import Scope
from ...errors import printable
from ...operations.alerts import AlertKind, Alerts
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.ids import stored_id
from .. import purges, versions
from ..states import RecipientStatus
from . import attempts
from .recipients import change_state, feed_and_recipient


def accepted(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle feed.accept: the partner takes this version, so runs may begin.

    What was taken out since, by letters that crossed this one, is in force too; what was added waits to be accepted.
    """
    assert isinstance(message, FeedAccept)
    feed, recipient = feed_and_recipient(tx, connection, message.feed)
    if not recipient.live:
        return
    if message.version not in recipient.offers:
        raise RemoteProtocolError("manifest", "the partner accepted a version that it was not offered, or went back")
    known = versions.each(tx, feed.id, recipient.offers[recipient.offers.index(message.version) :])
    if message.definition != known[0].digest():
        raise RemoteProtocolError("manifest", "the partner accepted other contents than this version's")
    definition = versions.in_force(known)
    universes = {name: size for name, size in message.universes.items() if name in definition.namespaces}
    declined = (recipient.declined_version or 0) > message.version
    change_state(
        scope,
        tx,
        recipient,
        status=RecipientStatus.ENABLED,
        accepted_version=definition.version,
        offers=[each.version for each in known],
        declined_version=recipient.declined_version if declined else None,
        universes=universes,
        reason=recipient.reason if declined else None,
    )
    enabled, same = recipient.status is RecipientStatus.ENABLED, recipient.accepted_version == definition.version
    grown = enabled and recipient.universes != universes  # then the letter says only that
    if same and not grown:  # it lost what we sent; the first revision of a new version is full anyway
        attempts.request_full_revision(scope, tx, connection, feed.id)
    if enabled and same and not grown:
        return
    sizes = ", ".join(f"{size:,} in {name}" for name, size in sorted(universes.items()))
    news = f"{connection.alias} enabled feed {feed.name}; "
    Alerts(scope).add(tx, AlertKind.FEED_ENABLED, f"{news}it says that it has {sizes}", alike=news)


def noticed(status: RecipientStatus, alert: AlertKind) -> Callable[[Scope, Tx, Connection, Message], None]:
    """Return the handler of feed.decline or feed.disable."""

    def handle(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
        assert isinstance(message, FeedNotice)
        feed, recipient = feed_and_recipient(tx, connection, message.feed)
        if not recipient.live:
            return
        reason = printable(message.reason)
        change_state(scope, tx, recipient, status=status, reason=reason)
        Alerts(scope).add(tx, alert, f"{connection.alias} has feed {feed.name} {status}")

    return handle


declined = noticed(RecipientStatus.DECLINED, AlertKind.FEED_DECLINED)
disabled = noticed(RecipientStatus.DISABLED, AlertKind.FEED_DISABLED)


def version_declined(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle feed.decline-version: the partner does not want what it would add, and the accepted version goes on."""
    assert isinstance(message, FeedNotice)
    feed, recipient = feed_and_recipient(tx, connection, message.feed)
    if not recipient.live:
        return
    if message.version not in recipient.offers:
        raise RemoteProtocolError("manifest", "the partner declined a version that it was not offered")
    change_state(scope, tx, recipient, declined_version=message.version, reason=printable(message.reason))
    text = f"{connection.alias} declined version {message.version} of feed {feed.name}; what it accepted before goes on"
    Alerts(scope).add(tx, AlertKind.FEED_VERSION_DECLINED, text)


def purged(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle feed.purged: keep the partner's signed statement."""
    assert isinstance(message, Purged)
    statement = message.statement
    feed, _ = feed_and_recipient(tx, connection, statement.feed)
    if stored_id(statement.connection) != connection.id:
        raise RemoteProtocolError("signature", "the statement is about another connection")
    statement.verify(message.signature, *connection.peer_keys)
    if not purges.keep(scope, tx, feed.id, connection, message) or feed.deleted is not None:
        return
    what = f"what version {statement.version} took out of feed" if statement.version else "feed"
    Alerts(scope).add(tx, AlertKind.FEED_PURGED, f"{connection.alias} signed that it purged {what} {feed.name}")
