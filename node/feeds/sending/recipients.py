"""The partners of our feeds: each one's state of a feed, which edits, answers and runs change."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, insert, select, update

from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed
from ...partners.connections import Connection, ConnectionStatus, by_id
from ...storage.database import Tx
from ...storage.ids import stored_id, wire_id
from ...storage.records import record
from ...storage.tables import feed_partners, feeds
from .. import versions
from ..states import CURRENT, LIVE, FeedStatus, RecipientStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """One of our feeds, as the row of `feeds` has it."""

    id: str
    project_id: str
    name: str
    status: FeedStatus
    version: int  # the newest
    revision: int  # the last data revision handed out
    created: int
    changed: int
    deleted: int | None = None  # when it left the lists

    @property
    def wire_id(self) -> bytes:
        """The id as messages have it."""
        return wire_id(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a run depends on: while it is the same as at the last attempt, a run would bring nothing new."""

    generation: int  # of the project's data
    model: str | None  # of consent
    version: int | None  # of the feed, as the partner accepted it
    epoch: int  # of keys; 0: none is running
    rules: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One partner's state of one of our feeds, as the row of `feed_partners` has it."""

    id: str
    feed_id: str
    connection_id: str
    status: RecipientStatus
    accepted_version: int | None
    offers: list[int]  # versions that were sent to it, from the one that it accepted last on
    declined_version: int | None
    reason: str | None
    last_revision: int
    last_receipt: bytes | None
    full: bool  # the next revision has to be full
    full_since: int | None  # when the partner asked for that
    full_before: int  # how often it asked before, less than a day apart
    tried: Basis | None  # what the last attempt of a run depended on
    tries: int
    failure: str | None
    next_attempt: int | None
    ran: int | None
    requested: int | None  # when the partner asked for a run
    requests: int  # runs that it asked for since it last had somebody new
    universes: dict[str, int] | None
    changed: int

    @property
    def live(self) -> bool:
        """Whether the partner has the feed, or may take it."""
        return self.status in LIVE


Pairs = list[tuple[Connection, Recipient]]  # a connection, and its state of a feed


def feed_of(tx: Tx, feed_id: str) -> Feed:
    """Return one of our feeds by id."""
    return record(Feed, tx.execute(select(feeds).where(feeds.c.id == feed_id)).one())


def read(row: Row[Any]) -> Recipient:
    """Return a row of `feed_partners`."""
    return record(Recipient, row)


def find(tx: Tx, connection_id: str, feed_id: str) -> Recipient | None:
    """Return a partner's state of one of our feeds, if it goes there or went there."""
    mine = (feed_partners.c.feed_id == feed_id, feed_partners.c.connection_id == connection_id)
    row = tx.execute(select(feed_partners).where(*mine)).first()
    return None if row is None else read(row)


def get(tx: Tx, connection_id: str, feed_id: str) -> Recipient:
    """Return a partner's state of a feed that is known to go there."""
    found = find(tx, connection_id, feed_id)
    assert found is not None
    return found


def feed_and_recipient(tx: Tx, connection: Connection, feed: bytes) -> tuple[Feed, Recipient]:
    """Return our feed that a partner speaks of and the partner's state of it; raises RemoteProtocolError for any other."""
    found = find(tx, connection.id, stored_id(feed))
    if found is None or found.status is RecipientStatus.DRAFT:
        raise RemoteProtocolError("manifest", "there is no such feed for this partner")
    return feed_of(tx, found.feed_id), found


def partners_of(scope: Scope, tx: Tx, feed: Feed) -> Pairs:
    """Return the connections that a feed goes to or went to, each with its state of it, by alias."""
    rows = tx.execute(select(feed_partners).where(feed_partners.c.feed_id == feed.id)).all()
    pairs = [(by_id(scope, row.connection_id, tx), read(row)) for row in rows]
    return sorted(pairs, key=lambda pair: pair[0].alias)


def check_not_revoked(tx: Tx, feed: Feed) -> None:
    """Raise NotAllowed for an act on a feed that has ended."""
    if feed.status is FeedStatus.REVOKED:
        hint = "a new one may have the same segments; this one can only be looked at, and deleted"
        raise NotAllowed(f"feed {feed.name} was revoked", hint=hint, remedy=_anew(tx, feed, []))


def check_current(tx: Tx, feed: Feed, pairs: Pairs) -> None:
    """Raise NotAllowed for a feed that has ended, or if none of these partners to which it went has it any more."""
    check_not_revoked(tx, feed)
    if pairs and not any(recipient.status in CURRENT for _, recipient in pairs):
        raise gone(tx, feed, pairs)


def gone(tx: Tx, feed: Feed, pairs: Pairs) -> NotAllowed:
    """Return the refusal of an act on partners that have a feed no more: each is offered it again by a new one alone."""
    active = [connection.alias for connection, _ in pairs if connection.status is ConnectionStatus.ACTIVE]
    states = ", ".join(f"{connection.alias}: {_how(connection, recipient)}" for connection, recipient in pairs)
    return NotAllowed(
        f"feed {feed.name} does not go there any more ({states})",
        hint="such a partner is offered it again as a new feed",
        remedy=_anew(tx, feed, active),
    )


def _how(connection: Connection, recipient: Recipient) -> str:
    if connection.status is not ConnectionStatus.ACTIVE:
        return connection.status.value
    return "taken back" if recipient.status is RecipientStatus.REVOKED else recipient.status.value


def _anew(tx: Tx, feed: Feed, partners: list[str]) -> Remedy:
    definition = versions.get(tx, feed.id, feed.version)
    segments, namespaces = [each.name for each in definition.segments], list(definition.namespaces)
    return Remedy("feed.create", {"segments": segments, "namespaces": namespaces, "partners": partners})


def next_revision(tx: Tx, feed_id: str) -> int:
    """Hand out the next data revision of a feed; no number is handed out twice."""
    revision = feed_of(tx, feed_id).revision + 1
    tx.execute(update(feeds).where(feeds.c.id == feed_id).values(revision=revision))
    return revision


def live_feeds(tx: Tx) -> set[str]:
    """Return the ids of the feeds that a partner has, or may take."""
    return set(tx.scalars(select(feed_partners.c.feed_id).where(feed_partners.c.status.in_(LIVE))))


def in_force(tx: Tx, recipient: Recipient) -> Definition:
    """Return the version in force at a partner, or that would be if it accepted the first one that it was offered."""
    return versions.in_force(versions.each(tx, recipient.feed_id, recipient.offers))


def add_partner(scope: Scope, tx: Tx, feed_id: str, connection: Connection) -> None:
    """Let a feed go to one more partner, which is offered it when it is published."""
    tx.execute(
        insert(feed_partners).values(
            id=scope.home.new_id(),
            feed_id=feed_id,
            connection_id=connection.id,
            status=RecipientStatus.DRAFT,
            last_revision=0,
            changed=scope.home.now(),
        )
    )


def change_state(scope: Scope, tx: Tx, recipient: Recipient, **values: Any) -> None:
    """Change a partner's state of a feed, and when that was."""
    set_state(tx, recipient, changed=scope.home.now(), **values)


def set_state(tx: Tx, recipient: Recipient, **values: Any) -> None:
    """Set what an attempt of a run leaves behind; the time of the partner's own last change stays."""
    tx.execute(update(feed_partners).where(feed_partners.c.id == recipient.id).values(**values))


def change_feed(scope: Scope, tx: Tx, feed_id: str, **values: Any) -> None:
    """Change one of our feeds, and when that was."""
    tx.execute(update(feeds).where(feeds.c.id == feed_id).values(changed=scope.home.now(), **values))
