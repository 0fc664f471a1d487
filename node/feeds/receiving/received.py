"""Feeds that partners share with us: offered, enabled, paused, declined, revoked; the partner's labels of them.

What they give is in `node.memberships`.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select, update

from protocol.agreement import Agreement
from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from protocol.letters import FeedAccept, FeedNotice
from protocol.wire import Message

from ...access import permissions
from ...errors import NotFound, Refused, printable
from ...governance.labels import Kind, Origin, Uses, spelled
from ...partners.letters import HANDLERS as LETTERS
from ...people import audiences
from ...people.data import Snapshot
from ...storage.tables import connections, received_feeds
from .. import purges, runs, versions
from . import expiry, offers

if TYPE_CHECKING:
    from ...project import Project

ALIVE = ("enabled", "disabled")
GROWN = 1.1  # of what the sender was told: well before the evaluations that terms allow (1.2 times that) are spent

Documents = list[dict[str, Any]]
Pairs = list[tuple[Row[Any], Row[Any]]]  # a connection, and a feed that came over it


class NotReceived(NotFound):
    """No partner shares that segment, or no longer."""


class Received:
    def __init__(self, project: "Project") -> None:
        self._project, self._node = project, project.node

    def list(self) -> Documents:
        """Return what partners have offered us, and what became of it."""
        with self._node.store.read() as tx:
            return [
                {
                    "partner": connection.alias,
                    "name": feed.name,
                    "status": feed.status,
                    "accepted_version": feed.accepted_version,
                    "offered_version": feed.offered_version,
                    "revision": feed.last_revision,
                    "segments": self._project.memberships.sizes(tx, feed),
                    "restricted_uses": list(self.definition(tx, feed).restricted_uses),
                }
                for connection, feed in self.rows(tx)
                if not self._hidden(tx, feed)
            ]

    def show(self, name: str, partner: str | None = None) -> dict[str, Any]:
        """Return a received feed: its definition and hash, our state of it, and how many members it gave us."""
        with self._node.store.read() as tx:
            connection, feed = self.get(name, partner, tx)
            definition = self.definition(tx, feed)
            return {
                **versions.describe(definition),
                "partner": connection.alias,
                "status": feed.status,
                "reason": feed.reason,
                "accepted_version": feed.accepted_version,
                "offered_version": feed.offered_version,
                "offered": offers.document(self._project, tx, connection, feed),
                "revision": feed.last_revision,
                "last_receipt": feed.last_receipt.hex() if feed.last_receipt else None,
                "last_run": runs.last(tx, connection.id, feed.id, self._node.now()),
                "members_until": None if feed.refreshed is None else expiry.ends(definition, feed.refreshed),
                "members": self._project.memberships.sizes(tx, feed),
                "statuses": self._project.memberships.counts(tx, feed),
                "runs": [runs.shown(run) for run in runs.recent(tx, feed.id, ours=False)],
            }

    def enable(self, name: str, partner: str | None = None) -> None:
        """Take a feed or what a new version of it adds, or go on with a paused one; nothing of it is stored before.

        One that was paused goes on with the version that it had: what was offered meanwhile has to be enabled too.
        """
        with self._project.act("feed.enable", name) as tx:
            connection, feed = self.get(name, partner, tx)
            if feed.status not in ("pending", "disabled") and not (feed.status == "enabled" and feed.offered_version):
                raise Refused(f"feed {name} is {feed.status}", hint="vesica feed list")
            version = feed.accepted_version if feed.status == "disabled" else feed.offered_version
            definition = self.definition(tx, feed, version)
            sizes = _universes(definition, Snapshot.open(self._project))
            minimum = Agreement.decode(connection.agreement).terms.minimum_universe
            if max(sizes.values()) < minimum:
                raise Refused(
                    f"this project has fewer than the {minimum:,} identities that the agreement with {connection.alias} asks",
                    hint="import more profiles, or agree on other terms: vesica project terms",
                )
            if feed.status == "disabled":
                self.change(tx, feed, status="enabled", reason=None)
            else:
                offers.hold(self._project, tx, connection, feed, definition, status="enabled", reason=None)
            self._accept(tx, connection, definition, sizes)
        self._project.letters.deliver_soon(connection)

    def begin_anew(self, feed_id: str) -> None:
        """Accept an enabled feed again, so that its next revision holds everything: we lack what changes are added to."""
        with self._node.store.begin() as tx:
            feed = tx.execute(select(received_feeds).where(received_feeds.c.id == feed_id)).one()
            definition = self.definition(tx, feed)
            sizes = _universes(definition, Snapshot.open(self._project, tx))
            self._accept(tx, self._project.partners.by_id(feed.connection_id, tx), definition, sizes)

    def _accept(self, tx: Connection, connection: Row[Any], definition: Definition, sizes: dict[str, int]) -> None:
        letter = FeedAccept(
            feed=definition.feed, version=definition.version, definition=definition.digest(), universes=sizes
        )
        self._project.letters.send(tx, connection.id, "feed.accept", letter)
        mine = received_feeds.c.id == versions.local(connection.id, definition.feed)
        tx.execute(update(received_feeds).where(mine).values(told=sizes))

    def tell_grown(self, tx: Connection, connection: Row[Any], feed: Row[Any]) -> bool:
        """Accept an enabled feed again where we have so many more people that the agreed evaluations could run out.

        Says whether it did. The sender is alerted to our new size.
        """
        definition = self.definition(tx, feed)
        sizes = _universes(definition, Snapshot.open(self._project, tx))
        if all(size <= GROWN * (feed.told or {}).get(each, 0) for each, size in sizes.items()):
            return False
        self._accept(tx, connection, definition, sizes)
        return True

    def disable(self, name: str, partner: str | None = None, reason: str = "") -> None:
        """Pause a feed: the next runs are not taken, what came stays."""
        self._notify("feed.disable", name, partner, reason, {"enabled": "disabled"})

    def decline(self, name: str, partner: str | None = None, reason: str = "") -> None:
        """Turn a feed down; what it gave is purged, and the sender sees the reason."""
        self._notify(
            "feed.decline",
            name,
            partner,
            reason,
            {"pending": "declined", "enabled": "declined", "disabled": "declined"},
        )

    def decline_version(self, name: str, partner: str | None = None, reason: str = "") -> int:
        """Turn down what a new version would add: the accepted one goes on, and the sender sees the reason.

        Returns the number of the version that is turned down.
        """
        with self._project.act("feed.decline-version", name) as tx:
            connection, feed = self.get(name, partner, tx)
            if feed.status not in ALIVE or feed.offered_version is None:
                raise Refused(f"no new version of feed {name} waits for an answer", hint=f"vesica feed show {name}")
            self.change(tx, feed, offered_version=None)
            notice = FeedNotice(feed=self.definition(tx, feed).feed, version=feed.offered_version, reason=reason)
            self._project.letters.send(tx, connection.id, "feed.decline-version", notice)
        self._project.letters.deliver_soon(connection)
        return int(feed.offered_version)

    def check_visible(self, tx: Connection, partner: str, segment: str, cleared: frozenset[str]) -> None:
        """Raise NotReceived for a received segment that has a label which is not cleared."""
        for connection, feed in self.rows(tx):
            known = [each for definition in self._definitions(tx, feed) for each in definition.segments]
            ids = {each.id for each in known if (connection.alias, each.name) == (partner, segment)}
            if not permissions.clears(
                cleared, (spelled(label) for each in known if each.id in ids for label in each.labels)
            ):
                raise not_received(partner, segment)

    def hides(self, tx: Connection, reference: str) -> bool:
        """Tell whether a received segment ("acme.vip") is not there for whoever acts."""
        cleared = self._node.guard.cleared(tx, self._project.id)
        try:
            if cleared is not None:
                partner, _, segment = reference.partition(".")
                self.check_visible(tx, partner, segment, cleared)
        except NotReceived:
            return True
        return False

    def _hidden(self, tx: Connection, feed: Row[Any]) -> bool:
        """Tell whether a feed is not there for whoever acts: it has a segment with a label that they may not see."""
        cleared = self._project.node.guard.cleared(tx, self._project.id)
        known = (each for definition in self._definitions(tx, feed) for each in definition.segments)
        return not permissions.clears(cleared, (spelled(label) for each in known for label in each.labels))

    def labels(self, tx: Connection) -> Uses:
        """Return the senders' labels of what we receive; added ones hold before the version that adds them is accepted."""
        found: Uses = {}
        for connection, feed in self.rows(tx):
            if feed.status not in ALIVE:
                continue
            held, *offered = self._definitions(tx, feed)
            newer = {each.id: each.labels for definition in offered for each in definition.segments}
            for segment in held.segments:
                place = Origin(kind=Kind.RECEIVED, target=f"{connection.alias}.{segment.name}")
                labels = {*found.get(place, ()), *map(spelled, (*segment.labels, *newer.get(segment.id, ())))}
                found[place] = sorted(labels)
        return found

    def restrictions(self, tx: Connection) -> "list_[tuple[str, Definition]]":
        """Return the versions that we accepted of the feeds that we take, each with its partner."""
        return [(c.alias, self.definition(tx, feed)) for c, feed in self.rows(tx) if feed.status in ALIVE]

    def segments(self) -> Documents:
        """Return the received segments whose members we hold, with the keys of our own segments, by name."""
        with self._node.store.read() as tx:
            cleared, memberships = self._node.guard.cleared(tx, self._project.id), self._project.memberships
            held = {
                (connection.alias, name) for connection, feed in self.alive(tx) for name in memberships.sizes(tx, feed)
            }
            found: Documents = []
            for partner, name in sorted(held):
                with suppress(NotReceived):  # it is hidden from whoever acts
                    if cleared is not None:
                        self.check_visible(tx, partner, name, cleared)
                    about = dict.fromkeys(("id", "rule", "tree", "evaluated"))
                    found.append(
                        {**about, "name": f"received.{partner}.{name}", "kind": "received", "size": 0, "uses": []}
                    )
                    found[-1]["size"] = len(memberships.members(partner, name, tx))  # none where its time is over
        return found

    def segment(self, reference: str) -> dict[str, Any]:
        """Return what we know of a received segment ("received.PARTNER.NAME"): no rule, but the sender's word on it."""
        partner, _, name = reference.removeprefix("received.").partition(".")
        with self._node.store.read() as tx:
            if (cleared := self._node.guard.cleared(tx, self._project.id)) is not None:
                self.check_visible(tx, partner, name, cleared)
            members = self._project.memberships.members(partner, name, tx)
            held = [
                d for alias, d in self.restrictions(tx) if alias == partner and name in {s.name for s in d.segments}
            ]
            labels = self.labels(tx).get(Origin(kind=Kind.RECEIVED, target=f"{partner}.{name}"), [])
        return {
            "name": f"received.{partner}.{name}",
            "kind": "received",
            "feeds": [definition.name for definition in held],
            "size": len(members),
            "labels": labels,
            "restricted_uses": sorted({use for definition in held for use in definition.restricted_uses}),
        }

    def alive(self, tx: Connection) -> Pairs:
        """Return the feeds whose members we hold, with their connections."""
        return [(connection, feed) for connection, feed in self.rows(tx) if feed.status in ALIVE]

    def get(self, name: str, partner: str | None, tx: Connection) -> tuple[Row[Any], Row[Any]]:
        """Return the connection and row of a received feed; the partner is needed where two offer one of that name."""
        named = ((c, f) for c, f in self.rows(tx) if f.name == name and partner in (None, c.alias))
        found = [(c, f) for c, f in named if not self._hidden(tx, f)]
        live = [(c, f) for c, f in found if f.status not in ("declined", "revoked")] or found
        if not live:
            raise NotFound(f"no partner has offered a feed {name!r}", hint="'vesica feed list' shows what was offered")
        if len({connection.id for connection, _ in live}) > 1:
            raise Refused(f"several partners offer a feed {name!r}", hint="name one with --partner")
        return live[-1]

    def purge(self, tx: Connection, connection: Row[Any], feed: Row[Any], *, reason: str) -> None:
        """Remove everything that a feed gave us, and tell the sender so, signed."""
        if feed.status == "revoked":
            return
        self.change(tx, feed, status="revoked", reason=reason)
        self._project.memberships.clear(tx, connection, feed)
        purges.sign(self._project, tx, connection, self.definition(tx, feed).feed, feed.last_revision)

    def _notify(self, kind: str, name: str, partner: str | None, reason: str, moves: dict[str, str]) -> None:
        with self._project.act(kind, name) as tx:
            connection, feed = self.get(name, partner, tx)
            if feed.status not in moves:
                raise Refused(f"feed {name} is {feed.status}", hint="vesica feed list")
            status = moves[feed.status]
            version = feed.accepted_version or feed.offered_version
            self.change(tx, feed, status=status, reason=reason)
            definition = self.definition(tx, feed)
            notice = FeedNotice(feed=definition.feed, version=version, reason=reason)
            self._project.letters.send(tx, connection.id, kind, notice)
            if status == "declined":
                self._project.memberships.clear(tx, connection, feed)
        self._project.letters.deliver_soon(connection)

    def rows(self, tx: Connection) -> Pairs:
        """Return all feeds that partners ever offered, with their connections."""
        feeds = tx.execute(
            select(received_feeds)
            .join(connections, connections.c.id == received_feeds.c.connection_id)
            .where(connections.c.project_id == self._project.id)
            .order_by(received_feeds.c.changed)
        ).all()
        return [(self._project.partners.by_id(feed.connection_id, tx), feed) for feed in feeds]

    def definition(self, tx: Connection, feed: Row[Any], version: int | None = None) -> Definition:
        """Return a version of a feed: without a number the accepted one, or the offered one where none is accepted."""
        return versions.get(tx, feed.id, version or feed.accepted_version or feed.offered_version)

    def _definitions(self, tx: Connection, feed: Row[Any]) -> "list_[Definition]":
        """Return the version of a feed that holds here, and the one that is offered meanwhile."""
        held = self.definition(tx, feed)
        return [held, self.definition(tx, feed, feed.offered_version)] if feed.offered_version else [held]

    def change(self, tx: Connection, feed: Row[Any], **values: Any) -> None:
        tx.execute(
            update(received_feeds).where(received_feeds.c.id == feed.id).values(changed=self._node.now(), **values)
        )
        if "status" in values or "offered_version" in values:
            self._settle(tx, feed, values)

    def _settle(self, tx: Connection, feed: Row[Any], values: dict[str, Any]) -> None:
        """Close the alerts that ask for what a change of a feed answers."""
        alias, alerts = self._project.partners.by_id(feed.connection_id, tx).alias, self._project.alerts
        if "status" in values:
            alerts.settle(tx, "feed_offered", f"{alias} offers feed {feed.name}: ")
        if values.get("status") in offers.OVER or values.get("offered_version", 0) is None:
            alerts.settle(tx, "feed_changed", f"{alias} offers a new version of feed {feed.name}: ")


list_ = list  # inside the class `list` is the method


def revoked(project: "Project", tx: Connection, connection: Row[Any], message: Message) -> None:
    """Handle feed.revoke: purge, and say so, signed."""
    assert isinstance(message, FeedNotice)
    query = select(received_feeds).where(received_feeds.c.id == versions.local(connection.id, message.feed))
    feed = tx.execute(query).first()
    if feed is None:
        raise RemoteProtocolError("manifest", "there is no such feed from this partner")
    reason = printable(message.reason)
    project.received.purge(tx, connection, feed, reason=reason)
    project.alerts.add(tx, "feed_revoked", f"{connection.alias} revoked feed {feed.name}")


def _universes(definition: Definition, snapshot: Snapshot) -> dict[str, int]:
    """Return how many of our identities may be matched in each namespace of a feed."""
    return {each: len(audiences.universe(snapshot, each)[0]) for each in definition.namespaces}


def not_received(partner: str, segment: str) -> NotReceived:
    return NotReceived(f"there is no received segment {partner}.{segment}", hint="'vesica feed list' shows them")


LETTERS["feed.revoke"] = revoked
