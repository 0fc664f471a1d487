"""What partners answer to the feeds that we send them: letters that change their state of one."""

from collections.abc import Callable

from protocol.errors import RemoteProtocolError
from protocol.letters import FeedAccept, FeedNotice, Purged
from protocol.receipt import PurgeStatement
from protocol.wire import Message

from ...access.scope import Scope
from ...errors import printable
from ...operations.alerts import AlertKind, Alerts
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.ids import stored_id
from .. import purges, runs, versions
from ..states import RecipientStatus
from . import attempts
from .recipients import Recipient, change_state, feed_and_recipient


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
    feed, recipient = feed_and_recipient(tx, connection, statement.feed)
    if stored_id(statement.connection) != connection.id:
        raise RemoteProtocolError("signature", "the statement is about another connection")
    statement.verify(message.signature, *connection.peer_keys)
    if purges.is_kept(tx, feed.id, connection.id, statement.version):
        return
    _check_true(tx, connection, recipient, statement)
    purges.keep(scope, tx, feed.id, connection, message)
    if feed.deleted is not None:
        return
    what = f"what version {statement.version} took out of feed" if statement.version else "feed"
    Alerts(scope).add(tx, AlertKind.FEED_PURGED, f"{connection.alias} signed that it purged {what} {feed.name}")


def _check_true(tx: Tx, connection: Connection, recipient: Recipient, statement: PurgeStatement) -> None:
    """Raise RemoteProtocolError for a statement that is not about what is gone: only the first one is kept."""
    if not statement.version:
        if recipient.live:
            raise RemoteProtocolError("out_of_order", "the partner has purged a feed that goes on")
        behind = statement.revision < recipient.last_revision
        if behind and connection.restored is None:  # set back to a backup it knows no later one
            raise RemoteProtocolError("revision", "the statement is about an earlier revision than the last one")
        return
    version = versions.get(tx, recipient.feed_id, statement.version)
    before = runs.last_sent(tx, connection.id, recipient.feed_id, before=statement.version)
    if before is None:
        return
    had = versions.get(tx, recipient.feed_id, before.version)
    gone = {each.id for each in had.segments} - {each.id for each in version.segments}
    names = set(had.namespaces) - set(version.namespaces)
    said = [statement, *purges.between(tx, recipient.feed_id, connection.id, before.version, statement.version)]
    if not gone <= {each for one in said for each in one.segments}:
        raise RemoteProtocolError("manifest", "the statement leaves out a segment that the version took out")
    if not names <= {each for one in said for each in one.namespaces}:
        raise RemoteProtocolError("manifest", "the statement leaves out a namespace that the version took out")
