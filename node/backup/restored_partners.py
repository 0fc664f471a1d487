"""After a restore from a backup: its partners send it again what it forgot, proved by its own signature."""

from dataclasses import replace

from sqlalchemy import func, select, update

from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from protocol.letters import Disconnect, FeedNotice, FeedReport, Restored
from protocol.receipt import SignedReceipt
from protocol.wire import Message
from psi.errors import Remedy

from ..access.audit import date
from ..access.scope import Scope
from ..feeds import versions
from ..feeds.receiving import received_feeds
from ..feeds.receiving.received_feeds import ALIVE
from ..feeds.sending import attempts, recipients
from ..feeds.sending.recipients import Recipient
from ..feeds.states import FeedStatus, RecipientStatus
from ..operations.alerts import AlertKind, Alerts
from ..partners import held_agreements
from ..partners.connections import Connection, ConnectionStatus, note
from ..partners.key_epochs import FURTHEST
from ..partners.letters import Letters
from ..partners.outbox import send_again
from ..storage.database import Tx
from ..storage.ids import stored_id
from ..storage.tables import feed_partners, feed_versions, feeds, runs

CORRECTED_AT_MOST = 16  # new versions of a feed since a restore, before partners can't cause another


def restored(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle connect.restored: send our letters again, and report what we have of each feed, or that all is over."""
    assert isinstance(message, Restored)
    note(tx, connection, restored=scope.home.now())
    send_again(scope, tx, connection, after=message.received)
    if connection.status is ConnectionStatus.DISCONNECTED:
        # If the partner ended it, it had no letter of ours about that, and has forgotten it now.
        Letters(scope).send_once(tx, connection.id, "connect.disconnect", Disconnect(reason=connection.reason or ""))
        return
    text = f"{connection.alias} was restored from a backup of {date(min(message.made, scope.home.now()))}"
    Alerts(scope).add(
        tx,
        AlertKind.RESTORED,
        f"{text}; once you know that this is true, allow it to evaluate its people again",
        remedy=Remedy("partner.allow", {"name": connection.alias}),
    )
    if connection.status is not ConnectionStatus.ACTIVE:
        return
    held_agreements.report(scope, tx, connection)
    ours = select(feed_partners).where(
        feed_partners.c.connection_id == connection.id, feed_partners.c.status != RecipientStatus.DRAFT
    )
    for recipient in map(recipients.read, tx.execute(ours).all()):
        feed = recipients.feed_of(tx, recipient.feed_id)
        if recipient.live:
            attempts.request_full_revision(scope, tx, connection, feed.id)
            _report(scope, tx, connection, recipients.in_force(tx, recipient), feed.id, ours=True)
        else:  # it may have again what it once purged
            notice = FeedNotice(feed=feed.wire_id, version=feed.version, reason=recipient.reason or recipient.status)
            Letters(scope).send(tx, connection.id, "feed.revoke", notice)
    for received in received_feeds.of_connection(tx, connection.id):
        if received.status in ALIVE and received.accepted_version is not None:
            _report(scope, tx, connection, received_feeds.definition(tx, received), received.id, ours=False)


def _report(scope: Scope, tx: Tx, connection: Connection, definition: Definition, feed_id: str, *, ours: bool) -> None:
    query = select(runs.c.receipt).where(
        runs.c.connection_id == connection.id,
        runs.c.feed_id == feed_id,
        runs.c.ours == ours,
        runs.c.receipt.is_not(None),
    )
    receipt = tx.scalar(query.order_by(runs.c.revision.desc()).limit(1))
    signed = None if receipt is None else SignedReceipt.decode(receipt)
    Letters(scope).send(tx, connection.id, "feed.held", FeedReport(definition=definition, receipt=signed))


def reported(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle feed.held, which partners send to a restored node: take over the last receipt and the accepted version."""
    assert isinstance(message, FeedReport)
    if scope.row(tx).restored is None:
        raise RemoteProtocolError("out_of_order", "nothing was restored here")
    feed, receipt = message.definition.feed, message.receipt
    recipient = recipients.find(tx, connection.id, stored_id(feed))
    if receipt is not None:
        ours, theirs = scope.home.keys.publics, connection.peer_keys
        receiver, sender = (theirs, ours) if recipient is not None else (ours, theirs)
        receipt.receipt.verify(receipt.receiver_signature, *receiver)
        receipt.receipt.verify(receipt.sender_signature, *sender)
        if (receipt.receipt.connection, receipt.receipt.feed) != (connection.wire_id, feed):
            raise RemoteProtocolError("receipt", "the receipt is of another connection or feed")
    if recipient is not None:
        _reported_by_receiver(scope, tx, connection, recipient, message)
    else:
        _reported_by_sender(scope, tx, connection, message)


def _reported_by_receiver(
    scope: Scope, tx: Tx, connection: Connection, recipient: Recipient, message: FeedReport
) -> None:
    signed = message.receipt
    if signed is not None and signed.receipt.revision > recipient.last_revision:
        receipt = signed.receipt
        recipients.change_state(scope, tx, recipient, last_revision=receipt.revision, last_receipt=receipt.digest())
        behind = (feeds.c.id == recipient.feed_id, feeds.c.revision < signed.receipt.revision)
        tx.execute(update(feeds).where(*behind).values(revision=signed.receipt.revision))
    feed = recipients.feed_of(tx, recipient.feed_id)
    ours, theirs = versions.get(tx, feed.id, feed.version), message.definition
    if feed.status is FeedStatus.REVOKED or theirs.version < ours.version or theirs == ours:
        return
    made = (feed_versions.c.feed_id == feed.id, feed_versions.c.created >= scope.row(tx).restored)
    often = tx.scalar(select(func.count()).where(*made)) or 0
    if theirs.version > ours.version + FURTHEST or often >= CORRECTED_AT_MOST:
        raise RemoteProtocolError("manifest", "the partner speaks of a version that no edit can have made")
    after = replace(ours, version=theirs.version + 1, created=scope.home.now())
    versions.keep(scope, tx, feed.id, after)
    recipients.change_feed(scope, tx, feed.id, version=after.version)
    lost = f"{connection.alias} has version {theirs.version} of feed {feed.name}, which was made after the backup"
    Alerts(scope).add(
        tx, AlertKind.FEED_VERSION_LOST, f"{lost}: nothing is released to it until you have made that edit again"
    )


def _reported_by_sender(scope: Scope, tx: Tx, connection: Connection, message: FeedReport) -> None:
    feed = received_feeds.find(tx, connection.id, message.definition.feed)
    signed = message.receipt
    if feed is None:
        raise RemoteProtocolError("manifest", "there is no such feed between us")
    if signed is not None and signed.receipt.revision > feed.last_revision:
        received_feeds.change(
            scope, tx, feed, last_revision=signed.receipt.revision, last_receipt=signed.receipt.digest(), records=None
        )
