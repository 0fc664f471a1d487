"""Going on with a partner that was restored from a backup: what it forgot it gets again, by what it signed itself."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, select, update

from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from protocol.letters import Disconnect, FeedHeld, FeedNotice, Restored
from protocol.receipt import SignedReceipt
from protocol.wire import Message

from ..access.audit import date
from ..feeds import versions
from ..feeds.receiving.received import ALIVE
from ..feeds.sending import attempts, edits
from ..feeds.sending.edits import GOING
from ..partners.key_epochs import FURTHEST
from ..partners.letters import HANDLERS as LETTERS
from ..storage.tables import connections, feed_partners, feed_versions, feeds, letters, received_feeds, runs

if TYPE_CHECKING:
    from ..project import Project

CORRECTED_AT_MOST = 16  # new versions of a feed since a restore, before partners can't cause another


def restored(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle connect.restored: our letters come again, and we say what we hold of each feed between us, or that it is over."""
    assert isinstance(message, Restored)
    tx.execute(update(connections).where(connections.c.id == row.id).values(restored=project.node.now()))
    lost = (letters.c.connection_id == row.id, letters.c.number > message.received)
    tx.execute(update(letters).where(*lost).values(delivered=None))
    if row.status == "disconnected":  # its own word, perhaps: then no letter of ours says so
        project.letters.send_once(tx, row.id, "connect.disconnect", Disconnect(reason=row.reason or ""))
        return
    text = f"{row.alias} was restored from a backup of {date(min(message.made, project.node.now()))}"
    hint = f"once you know that it is true, let it evaluate anew: vesica partner allow {row.alias}"
    project.alerts.add(tx, "restored", f"{text}; {hint}")
    if row.status != "active":
        return
    ours = select(feed_partners).where(feed_partners.c.connection_id == row.id, feed_partners.c.status != "draft")
    for state in tx.execute(ours).all():
        feed = tx.execute(select(feeds).where(feeds.c.id == state.feed_id)).one()
        if state.status in GOING:
            attempts.begin_anew(project, tx, row, feed.id)
            _tell(project, tx, row, edits.holds(tx, state), feed.id, ours=True)
        else:  # it may have again what it once purged
            notice = FeedNotice(feed=bytes.fromhex(feed.id), version=feed.version, reason=state.reason or state.status)
            project.letters.send(tx, row.id, "feed.revoke", notice)
    theirs = select(received_feeds).where(
        received_feeds.c.connection_id == row.id,
        received_feeds.c.status.in_(ALIVE),
        received_feeds.c.accepted_version.is_not(None),
    )
    for feed in tx.execute(theirs).all():
        _tell(project, tx, row, versions.get(tx, feed.id, feed.accepted_version), feed.id, ours=False)


def _tell(
    project: "Project", tx: Connection, row: Row[Any], definition: Definition, feed_id: str, *, ours: bool
) -> None:
    query = select(runs.c.receipt).where(
        runs.c.connection_id == row.id, runs.c.feed_id == feed_id, runs.c.ours == ours, runs.c.receipt.is_not(None)
    )
    receipt = tx.scalar(query.order_by(runs.c.revision.desc()).limit(1))
    signed = None if receipt is None else SignedReceipt.decode(receipt)
    project.letters.send(tx, row.id, "feed.held", FeedHeld(definition=definition, receipt=signed))


def held(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle feed.held: go on from the receipt that we signed and forgot, and from the version that was accepted."""
    assert isinstance(message, FeedHeld)
    if project.row(tx).restored is None:
        raise RemoteProtocolError("out_of_order", "nothing was restored here")
    feed, receipt = message.definition.feed, message.receipt
    state = tx.execute(attempts.state_query(row.id, feed.hex())).first()
    if receipt is not None:
        keys = (row.peer_key, project.node.key) if state is not None else (project.node.key, row.peer_key)
        receipt.verify_both(receiver_key=keys[0], sender_key=keys[1])
        if (receipt.receipt.connection.hex(), receipt.receipt.feed) != (row.id, feed):
            raise RemoteProtocolError("receipt", "the receipt is of another connection or feed")
    if state is not None:
        _held_by_receiver(project, tx, row, state, message)
    else:
        _held_by_sender(project, tx, row, message)


def _held_by_receiver(project: "Project", tx: Connection, row: Row[Any], state: Row[Any], message: FeedHeld) -> None:
    signed = message.receipt
    if signed is not None and signed.receipt.revision > state.last_revision:
        values = {"last_revision": signed.receipt.revision, "last_receipt": signed.receipt.digest()}
        project.feeds.change_state(tx, state, **values)
        behind = (feeds.c.id == state.feed_id, feeds.c.revision < signed.receipt.revision)
        tx.execute(update(feeds).where(*behind).values(revision=signed.receipt.revision))
    feed = tx.execute(select(feeds).where(feeds.c.id == state.feed_id)).one()
    ours, theirs = project.feeds.definition(feed, tx), message.definition
    if feed.status == "revoked" or theirs.version < ours.version or theirs == ours:
        return
    made = (feed_versions.c.feed_id == feed.id, feed_versions.c.created >= project.row(tx).restored)
    often = tx.scalar(select(func.count()).where(*made)) or 0
    if theirs.version > ours.version + FURTHEST or often >= CORRECTED_AT_MOST:
        raise RemoteProtocolError("manifest", "the partner speaks of a version that no edit can have made")
    after = replace(ours, version=theirs.version + 1, created=project.node.now())
    versions.keep(project, tx, feed.id, after)
    project.feeds.change(tx, feed, version=after.version)
    lost = f"{row.alias} has version {theirs.version} of feed {feed.name}, which was made after the backup"
    text = f"{lost}: nothing is released to it until you have made that edit again (vesica feed edit {feed.name})"
    project.alerts.add(tx, "feed_version_lost", text)


def _held_by_sender(project: "Project", tx: Connection, row: Row[Any], message: FeedHeld) -> None:
    query = select(received_feeds).where(received_feeds.c.id == versions.local(row.id, message.definition.feed))
    feed = tx.execute(query).first()
    signed = message.receipt
    if feed is None:
        raise RemoteProtocolError("manifest", "there is no such feed between us")
    if signed is not None and signed.receipt.revision > feed.last_revision:
        project.received.change(
            tx, feed, last_revision=signed.receipt.revision, last_receipt=signed.receipt.digest(), records=None
        )


LETTERS["connect.restored"] = restored
LETTERS["feed.held"] = held
