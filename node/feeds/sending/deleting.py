"""Feeds of ours that are over, and go from the lists: when they may, and what stays of them."""

from itertools import count

from sqlalchemy import delete as delete_rows
from sqlalchemy import select

from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.records import Document
from ...storage.tables import feed_partners, feeds
from .. import endings, purges, versions
from ..states import FeedStatus, RecipientStatus
from . import recipients
from .recipients import Feed, Recipient


def delete(scope: Scope, tx: Tx, feed: Feed) -> Document:
    """Take a feed out of the lists, and return what the audit log keeps of it: above all what partners signed.

    Of one that no partner was ever offered nothing stays. Raises NotAllowed while a partner has it or may take it, or has
    not heard of its end, or not signed that it purged it.
    """
    scope.check_not_on_hold(tx)  # partners may have what a restored node does not know of
    pairs = recipients.partners_of(scope, tx, feed)
    if live := [connection.alias for connection, recipient in pairs if recipient.live]:
        raise NotAllowed(
            f"feed {feed.name} cannot be deleted: {', '.join(live)} has it, or may take it",
            hint="end it first",
            remedy=Remedy("feed.revoke", {"name": feed.name}),
        )
    told = [(connection, recipient) for connection, recipient in pairs if _was_offered(recipient)]
    missing = [what for pair in told if (what := _missing(scope, tx, feed, *pair)) is not None]
    if missing:
        raise endings.not_yet(feed.name, missing)
    kept: Document = {
        "feed": feed.id,
        "version": feed.version,
        "hash": versions.get(tx, feed.id, feed.version).digest().hex(),
        "partners": {connection.alias: _kept(tx, feed, connection, recipient) for connection, recipient in told},
    }
    offered = [recipient.id for _, recipient in told]
    mine = feed_partners.c.feed_id == feed.id
    tx.execute(delete_rows(feed_partners).where(mine, feed_partners.c.id.not_in(offered)))
    if told:
        aside = free_name(tx, feed, "deleted")
        recipients.change_feed(scope, tx, feed.id, name=aside, status=FeedStatus.REVOKED, deleted=scope.home.now())
    else:
        versions.keep_only(tx, feed.id, ())
        tx.execute(delete_rows(feeds).where(feeds.c.id == feed.id))
    return kept


def free_name(tx: Tx, feed: Feed, word: str) -> str:
    """Return a numbered name for a feed that makes room for another."""
    names = (f"{feed.name[:50]}-{word}-{number}" for number in count(1))
    mine = feeds.c.project_id == feed.project_id
    return next(each for each in names if tx.scalar(select(feeds.c.id).where(mine, feeds.c.name == each)) is None)


def _was_offered(recipient: Recipient) -> bool:
    return bool(recipient.offers) or recipient.last_revision > 0


def _missing(scope: Scope, tx: Tx, feed: Feed, connection: Connection, recipient: Recipient) -> str | None:
    """Return what is still to come between us and a partner about a feed that it has no more."""
    if endings.is_out_of_touch(scope, connection):
        return None
    if endings.letter_waits(tx, connection, feed.wire_id):
        return f"a letter about it has not reached {connection.alias}"
    if recipient.status is RecipientStatus.REVOKED and not purges.is_kept(tx, feed.id, connection.id):
        return f"{connection.alias} has not signed that it purged it"
    return None


def _kept(tx: Tx, feed: Feed, connection: Connection, recipient: Recipient) -> Document:
    return {
        "status": recipient.status.value,
        "last_revision": recipient.last_revision,
        "last_receipt": recipient.last_receipt.hex() if recipient.last_receipt else None,
        "purges": purges.documents(tx, feed.id, connection.id),
    }
