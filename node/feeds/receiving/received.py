"""Feeds that partners share with us: offered, enabled, paused, declined, revoked; the partner's labels of them.

What they give is in `node.feeds.receiving.memberships`.
"""

from collections.abc import Mapping
from contextlib import suppress

from sqlalchemy import update

from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from protocol.letters import FeedAccept, FeedNotice
from protocol.wire import Message
from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed, printable
from ...governance.lineage import Place, PlaceKind, place_of, written
from ...governance.visibility import Visibility
from ...operations.alerts import AlertKind, Alerts
from ...partners.connections import Connection, by_id
from ...partners.letters import Letters
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.database import Tx
from ...storage.ids import stored_id
from ...storage.records import Document, Documents
from ...storage.tables import received_feeds as rows
from .. import endings, lifetimes, purges, runs, versions
from . import joining, offers, received_feeds
from .memberships import Memberships, NotReceived, not_received
from .received_feeds import ALIVE, OVER, ReceivedFeed, ReceivedStatus

GROWN = 1.1  # of what was reported: well before the evaluations that terms allow (1.2 times that) are spent


DECLINED = {
    ReceivedStatus.PENDING: ReceivedStatus.DECLINED,
    ReceivedStatus.ENABLED: ReceivedStatus.DECLINED,
    ReceivedStatus.DISABLED: ReceivedStatus.DECLINED,
}
PAUSED = {ReceivedStatus.ENABLED: ReceivedStatus.DISABLED}


class Received:
    """The feeds that partners offer or share with one project."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._home = scope, scope.home

    def all(self) -> Documents:
        """Return what partners have offered us, and what became of it."""
        with self._home.read() as tx:
            return [
                {
                    "partner": connection.alias,
                    "name": feed.name,
                    "status": feed.status.value,
                    "accepted_version": feed.accepted_version,
                    "offered_version": feed.offered_version,
                    "revision": feed.last_revision,
                    "segments": Memberships(self._scope).sizes(tx, feed),
                    "restricted_uses": list(received_feeds.definition(tx, feed).restricted_uses),
                }
                for connection, feed in received_feeds.listed(self._scope, tx)
                if not received_feeds.is_hidden(self._scope, tx, feed)
            ]

    def show(self, name: str, partner: str | None = None) -> Document:
        """Return a received feed: its definition and hash, our state of it, and how many members it gave us."""
        with self._home.read() as tx:
            return self._document(tx, *received_feeds.get(self._scope, tx, name, partner))

    def _document(self, tx: Tx, connection: Connection, feed: ReceivedFeed) -> Document:
        definition = received_feeds.definition(tx, feed)
        return {
            **versions.describe(definition),
            "name": feed.name,
            "partner": connection.alias,
            "status": feed.status.value,
            "reason": feed.reason,
            "accepted_version": feed.accepted_version,
            "offered_version": feed.offered_version,
            "offered": offers.document(self._scope, tx, connection, feed),
            "revision": feed.last_revision,
            "last_receipt": feed.last_receipt.hex() if feed.last_receipt else None,
            "last_run": runs.last(tx, connection.id, feed.id, self._home.now()),
            "members_until": None if feed.refreshed is None else lifetimes.ends(definition, feed.refreshed),
            "members": Memberships(self._scope).sizes(tx, feed),
            "statuses": Memberships(self._scope).counts(tx, feed),
            "runs": [run.shown() for run in runs.recent(tx, feed.id, ours=False)],
        }

    def to_enable(self, name: str, partner: str | None = None) -> Document:
        """Return a feed as `show` does, with the hash of the version that `enable` takes now, as `enables`.

        Refused as `enable` is, where the caller may not or nothing waits.
        """
        self._scope.require("feed.enable", name)
        with self._scope.refusals("feed.enable", name), self._home.read() as tx:
            connection, feed = received_feeds.get(self._scope, tx, name, partner)
            enables = received_feeds.definition(tx, feed, _to_enable(connection, feed)).digest().hex()
            return {**self._document(tx, connection, feed), "enables": enables}

    def enable(self, name: str, partner: str | None = None, *, version: str | None = None) -> None:
        """Take a feed or what a new version of it adds, or resume a paused one; nothing of it is stored before.

        A paused one runs again in the version that it had; what was offered meanwhile has to be enabled separately.
        `version` is the hash of the version that a person was shown: raises NotAllowed if the partner has offered
        another since.
        """
        detail: Document = {}
        with self._scope.act("feed.enable", name, detail=detail) as tx:
            connection, feed = received_feeds.get(self._scope, tx, name, partner)
            definition = received_feeds.definition(tx, feed, _to_enable(connection, feed))
            _check_shown(connection, feed, definition, version)
            detail |= {"version": definition.version, "hash": definition.digest().hex()}
            sizes = self._universes(tx, connection, definition)
            minimum = connection.terms.minimum_universe
            if max(sizes.values(), default=0) < minimum:
                raise NotAllowed(
                    f"this project has fewer than the {minimum:,} identities that the agreement with {connection.alias} asks",
                    hint="import more profiles, or agree on other terms",
                    remedy=Remedy("project.terms"),
                )
            if feed.status is ReceivedStatus.DISABLED:
                received_feeds.change(self._scope, tx, feed, status=ReceivedStatus.ENABLED, reason=None)
            else:
                offers.put_in_force(
                    self._scope, tx, connection, feed, definition, status=ReceivedStatus.ENABLED, reason=None
                )
            self._accept(tx, connection, definition, sizes)
        Letters(self._scope).deliver_soon(connection)

    def request_full_revision(self, feed: ReceivedFeed) -> None:
        """Accept an enabled feed again, so that its next revision is a full one: we lack what changes are added to."""
        with self._home.begin() as tx:
            feed = received_feeds.read(tx, feed)
            definition = received_feeds.definition(tx, feed)
            connection = by_id(self._scope, feed.connection_id, tx)
            self._accept(tx, connection, definition, self._universes(tx, connection, definition))

    def report_growth(self, tx: Tx, connection: Connection, feed: ReceivedFeed) -> bool:
        """Accept an enabled feed again if we have so many more people that the agreed evaluations could run out.

        The sender is alerted to our new size. Returns whether it was accepted again.
        """
        definition = received_feeds.definition(tx, feed)
        sizes = self._universes(tx, connection, definition)
        if all(size <= GROWN * (feed.reported or {}).get(each, 0) for each, size in sizes.items()):
            return False
        self._accept(tx, connection, definition, sizes)
        return True

    def _accept(self, tx: Tx, connection: Connection, definition: Definition, sizes: dict[str, int]) -> None:
        letter = FeedAccept(
            feed=definition.feed, version=definition.version, definition=definition.digest(), universes=sizes
        )
        Letters(self._scope).send(tx, connection.id, "feed.accept", letter)
        mine = rows.c.id == versions.received_feed_id(connection.id, definition.feed)
        tx.execute(update(rows).where(mine).values(reported=sizes))

    def _universes(self, tx: Tx, connection: Connection, definition: Definition) -> dict[str, int]:
        """Return how many of our identities may be matched in each namespace of a feed."""
        snapshot = Snapshot.open(self._scope, tx)
        agreed = versions.matched_by(definition, connection)
        return {each: len(audiences.universe(snapshot, each)[0]) for each in agreed}

    def disable(self, name: str, partner: str | None = None, reason: str = "") -> None:
        """Pause a feed: the next runs are not taken, what came stays."""
        self._answer("feed.disable", name, partner, reason, PAUSED)

    def decline(self, name: str, partner: str | None = None, reason: str = "") -> None:
        """Turn a feed down; what it gave is purged, and the sender sees the reason."""
        self._answer("feed.decline", name, partner, reason, DECLINED)

    def _answer(
        self, kind: str, name: str, partner: str | None, reason: str, moves: Mapping[ReceivedStatus, ReceivedStatus]
    ) -> None:
        with self._scope.act(kind, name) as tx:
            connection, feed = received_feeds.get(self._scope, tx, name, partner)
            status = moves.get(feed.status)
            if status is None:
                raise _not_now(connection, feed)
            received_feeds.change(self._scope, tx, feed, status=status, reason=reason)
            definition = received_feeds.definition(tx, feed)
            notice = FeedNotice(feed=definition.feed, version=definition.version, reason=reason)
            Letters(self._scope).send(tx, connection.id, kind, notice)
            if status is ReceivedStatus.DECLINED:
                joining.clear(self._scope, tx, connection, feed)
        Letters(self._scope).deliver_soon(connection)

    def decline_version(self, name: str, partner: str | None = None, reason: str = "") -> int:
        """Turn down what a new version would add: the accepted one stays in force, and the sender sees the reason.

        Returns the number of the version that is turned down.
        """
        with self._scope.act("feed.decline-version", name) as tx:
            connection, feed = received_feeds.get(self._scope, tx, name, partner)
            if feed.status in OVER:
                raise _not_now(connection, feed)
            if feed.status not in ALIVE or feed.offered_version is None:
                raise NotAllowed(
                    f"no new version of feed {name} waits for an answer",
                    hint="look at it",
                    remedy=Remedy("feed.show", {"name": name}),
                )
            received_feeds.change(self._scope, tx, feed, offered_version=None)
            definition = received_feeds.definition(tx, feed)
            notice = FeedNotice(feed=definition.feed, version=feed.offered_version, reason=reason)
            Letters(self._scope).send(tx, connection.id, "feed.decline-version", notice)
        Letters(self._scope).deliver_soon(connection)
        return feed.offered_version

    def delete(self, name: str, partner: str | None = None) -> None:
        """Take a feed that is over out of the lists, once the sender knows that nothing of it is left here."""
        detail: Document = {}
        with self._scope.act("feed.delete", name, detail=detail) as tx:
            connection, feed = received_feeds.get(self._scope, tx, name, partner, over=True)
            if feed.status not in OVER:
                raise NotAllowed(
                    f"feed {name} cannot be deleted: it is {feed.status}",
                    hint="decline it first; what it gave is purged",
                    remedy=Remedy("feed.decline", {"name": name, "partner": connection.alias}),
                )
            definition = received_feeds.definition(tx, feed)
            out_of_touch = endings.is_out_of_touch(self._scope, connection)
            if not out_of_touch and endings.letter_waits(tx, connection, definition.feed):
                raise endings.not_yet(name, [f"a letter about it has not reached {connection.alias}"])
            received_feeds.change(self._scope, tx, feed, deleted=self._home.now())
            receipt = feed.last_receipt.hex() if feed.last_receipt else None
            detail |= {"partner": connection.alias, "feed": stored_id(definition.feed), "status": feed.status.value}
            detail |= {"last_revision": feed.last_revision, "last_receipt": receipt}

    def restrictions(self, tx: Tx) -> "list[tuple[str, Definition]]":
        """Return the versions that we accepted of the feeds that we take, each with its partner."""
        return [(c.alias, received_feeds.definition(tx, feed)) for c, feed in received_feeds.alive(self._scope, tx)]

    def segments(self) -> Documents:
        """Return the received segments that have members here, with the keys of our own segments, by name."""
        with self._home.read() as tx:
            visibility, memberships = Visibility(self._scope, tx), Memberships(self._scope)
            received = {
                (connection.alias, name)
                for connection, feed in received_feeds.alive(self._scope, tx)
                for name in memberships.sizes(tx, feed)
            }
            found: Documents = []
            for partner, name in sorted(received):
                if not visibility.sees(Place(kind=PlaceKind.RECEIVED, target=f"{partner}.{name}")):
                    continue
                about = dict.fromkeys(("id", "rule", "tree", "evaluated"))
                found.append({**about, "name": f"received.{partner}.{name}", "kind": "received", "size": 0, "uses": []})
                with suppress(NotReceived):  # its time is over
                    found[-1]["size"] = len(memberships.members(partner, name, tx))
        return found

    def segment(self, reference: str) -> Document:
        """Return what we know of a received segment ("received.PARTNER.NAME"): no rule, but what the sender says of it."""
        place = place_of(reference)
        if place is None or place.kind is not PlaceKind.RECEIVED:
            place = Place(kind=PlaceKind.RECEIVED, target=reference)
        partner, _, name = place.target.partition(".")
        with self._home.read() as tx:
            if not Visibility(self._scope, tx).sees(place):
                raise not_received(partner, name)
            members = Memberships(self._scope).members(partner, name, tx)
            giving = [
                d for alias, d in self.restrictions(tx) if alias == partner and name in {s.name for s in d.segments}
            ]
            labels = received_feeds.labels(self._scope, tx).get(place, [])
        return {
            "name": written(place),
            "kind": "received",
            "feeds": [definition.name for definition in giving],
            "size": len(members),
            "labels": labels,
            "restricted_uses": sorted({use for definition in giving for use in definition.restricted_uses}),
        }


def purge(scope: Scope, tx: Tx, connection: Connection, feed: ReceivedFeed, *, reason: str) -> None:
    """Remove everything that a feed gave us, and send the sender a signed statement of it, once."""
    if feed.status is ReceivedStatus.REVOKED:
        return
    received_feeds.change(scope, tx, feed, status=ReceivedStatus.REVOKED, reason=reason)
    joining.clear(scope, tx, connection, feed)
    definition = received_feeds.definition(tx, feed)
    purges.sign(scope, tx, connection, definition.feed, feed.last_revision)


def revoked(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle feed.revoke: purge, and send a signed statement of it."""
    assert isinstance(message, FeedNotice)
    feed = received_feeds.find(tx, connection.id, message.feed)
    if feed is None:
        raise RemoteProtocolError("manifest", "there is no such feed from this partner")
    if feed.status is ReceivedStatus.REVOKED:  # a sender that was set back to a backup has lost our statement
        purges.sign(scope, tx, connection, message.feed, feed.last_revision)
        return
    purge(scope, tx, connection, feed, reason=printable(message.reason))
    if feed.deleted is None:
        Alerts(scope).add(tx, AlertKind.FEED_REVOKED, f"{connection.alias} revoked feed {feed.name}")


def _to_enable(connection: Connection, feed: ReceivedFeed) -> int | None:
    """Return the number of the version that can be enabled now."""
    paused = feed.status is ReceivedStatus.DISABLED
    offered = feed.status is ReceivedStatus.ENABLED and feed.offered_version is not None
    if feed.status is not ReceivedStatus.PENDING and not paused and not offered:
        raise _not_now(connection, feed)
    return feed.accepted_version if paused else feed.offered_version


def _check_shown(connection: Connection, feed: ReceivedFeed, definition: Definition, version: str | None) -> None:
    """Refuse to take anything but the version that a person was shown: a partner may replace it at any moment."""
    if version is not None and version != definition.digest().hex():
        raise NotAllowed(
            f"what {connection.alias} offers as feed {feed.name} is not the version with this hash",
            hint="look at what it offers now",
            remedy=Remedy("feed.show", {"name": feed.name, "partner": connection.alias}),
        )


def _not_now(connection: Connection, feed: ReceivedFeed) -> NotAllowed:
    """Return the refusal of an answer that a feed's state does not allow, with what it does allow."""
    named = {"name": feed.name, "partner": connection.alias}
    match feed.status:
        case ReceivedStatus.REVOKED | ReceivedStatus.DECLINED:
            hint, remedy = (
                f"{connection.alias} can offer it again as a new feed; this one can be deleted",
                "feed.delete",
            )
        case ReceivedStatus.PENDING:
            hint, remedy = "it waits for an answer: take it, or decline it", "feed.enable"
        case ReceivedStatus.DISABLED:
            hint, remedy = "go on with it", "feed.enable"
        case _:
            hint, remedy = "nothing new waits; look at it", "feed.show"
    return NotAllowed(f"feed {feed.name} is {feed.status}", hint=hint, remedy=Remedy(remedy, named))
