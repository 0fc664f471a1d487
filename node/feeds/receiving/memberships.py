"""What received feeds say of our people: who is in which segment of which partner, who came lately, who has left."""

from enum import StrEnum

from pyroaring import BitMap

from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotFound
from ...governance.lineage import Place, PlaceKind
from ...governance.visibility import Visibility
from ...operations.alerts import AlertKind, Alerts
from ...partners.connections import Connection
from ...segments.references import Gone
from ...storage.database import Tx
from ...storage.records import Document
from .. import lifetimes
from . import joining, received_feeds
from .changes import Present
from .membership_files import Membership, MembershipFiles, rows
from .received_feeds import ReceivedFeed


class MemberStatus(StrEnum):
    """How a profile stands to a received segment."""

    REALIZED = "realized"  # came with the newest revision, or after it
    EXISTING = "existing"
    EXITED = "exited"  # in the last 30 days


class NotReceived(Gone):
    """No partner shares that segment, or no longer."""


class Memberships:
    """The memberships of one project's people in received segments."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._home = scope, scope.home

    def members(self, partner: str, segment: str, tx: Tx | None = None) -> BitMap:
        """Return the profile numbers of a received segment's present members, by whichever feed.

        Raises NotReceived also if the time of all of them is over: a rule that keeps people out by them must not run.
        """
        with self._home.read(tx) as tx:
            found = [
                (feed, row)
                for connection, feed in received_feeds.alive(self._scope, tx)
                if connection.alias == partner
                for row in rows(tx, feed)
                if row.name == segment
            ]
            if not found:
                raise not_received(partner, segment)
            lasting = [self._files(feed).members(row) for feed, row in found if self._why_ended(tx, feed) is None]
            if not lasting:
                feed = found[-1][0]
                raise NotReceived(
                    f"the memberships of {partner}.{segment} have ended: {self._why_ended(tx, feed)}",
                    hint="the next run of the partner's feed brings them back; look at it",
                    remedy=Remedy("feed.show", {"name": feed.name}),
                )
            return BitMap.union(*lasting)

    def statuses(self, name: str, segment: str, partner: str | None = None) -> dict[MemberStatus, BitMap]:
        """Return a received segment's profiles by how they stand to it; see MemberStatus."""
        with self._home.read() as tx:
            _, feed = received_feeds.get(self._scope, tx, name, partner)
            for row in rows(tx, feed):
                if row.name == segment:
                    return self._statuses(tx, feed, row)
        raise NotFound(
            f"feed {name} has no segment {segment!r} here",
            hint="see its segments",
            remedy=Remedy("feed.show", {"name": name}),
        )

    def counts(self, tx: Tx, feed: ReceivedFeed) -> dict[str, dict[str, int]]:
        """Return how many profiles each segment of a feed has by status; see `statuses`."""
        return {
            row.name: {status.value: len(found) for status, found in self._statuses(tx, feed, row).items()}
            for row in rows(tx, feed)
        }

    def sizes(self, tx: Tx, feed: ReceivedFeed) -> dict[str, int]:
        """Return how many present members each segment of a feed has."""
        ended = self._why_ended(tx, feed)
        return {row.name: 0 if ended else row.size for row in rows(tx, feed)}

    def segments_received(self, connection_id: str) -> int:
        """Return how many distinct segments a partner gives us, of those that the caller may see."""
        with self._home.read() as tx:
            visibility = Visibility(self._scope, tx)
            found = {
                row.segment_id
                for connection, feed in received_feeds.alive(self._scope, tx)
                if connection.id == connection_id
                for row in rows(tx, feed)
                if visibility.sees(Place(kind=PlaceKind.RECEIVED, target=f"{connection.alias}.{row.name}"))
            }
        return len(found)

    def stamp(self, tx: Tx) -> tuple[str, ...]:
        """Return a stamp of the received segments: it differs once their members do."""
        found = []
        for connection, feed in received_feeds.alive(self._scope, tx):
            over = self._why_ended(tx, feed) is not None
            found += [
                f"received.{connection.alias}.{row.name} {'over' if over else row.file}" for row in rows(tx, feed)
            ]
        return tuple(sorted(found))

    def due(self, tx: Tx, feed: ReceivedFeed) -> bool:
        """Return whether `expire` has something to do."""
        return bool(self._over(tx, feed) or self._long_gone(tx, feed))

    def expire(self, tx: Tx, connection: Connection, feed: ReceivedFeed) -> Document:
        """Write down who has left because the time is over, and forget who left long ago; return what was done."""
        why, over, forgotten = self._why_ended(tx, feed), self._over(tx, feed), self._long_gone(tx, feed)
        files, definition = self._files(feed), received_feeds.definition(tx, feed)
        for row in {row.id: row for row in (*over, *forgotten)}.values():
            ends = lifetimes.ends(definition, feed.refreshed) if row in over and feed.refreshed is not None else None
            members = BitMap() if row in over else files.members(row)
            present = Present(segment_id=row.segment_id, name=row.name, members=members)
            files.write(tx, row, present, revision=row.revision, left_at=ends)
        if over:
            joining.renew(self._scope, tx, connection, over)
            text = f"the members of feed {feed.name} of {connection.alias} have left: {why}"
            Alerts(self._scope).add(tx, AlertKind.FEED_EXPIRED, text)
        return {"expired": [row.name for row in over], "forgotten": [row.name for row in forgotten]}

    def _over(self, tx: Tx, feed: ReceivedFeed) -> list[Membership]:
        """Return the memberships of a feed whose time is over and that are still written down."""
        return [row for row in rows(tx, feed) if row.size] if self._why_ended(tx, feed) else []

    def _long_gone(self, tx: Tx, feed: ReceivedFeed) -> list[Membership]:
        """Return the memberships of a feed that list people who left long ago."""
        files, now = self._files(feed), self._home.now()
        listed = [(row, files.changes(row).exits) for row in rows(tx, feed)]
        return [row for row, exits in listed if len(exits.remembered(now)) < len(exits)]

    def _statuses(self, tx: Tx, feed: ReceivedFeed, row: Membership) -> dict[MemberStatus, BitMap]:
        files = self._files(feed)
        changes, members = files.changes(row), files.members(row)
        exited = BitMap(changes.exits.remembered(self._home.now()).profiles)
        if self._why_ended(tx, feed):
            return {
                MemberStatus.REALIZED: BitMap(),
                MemberStatus.EXISTING: BitMap(),
                MemberStatus.EXITED: exited | members,
            }
        realized = changes.realized
        return {MemberStatus.REALIZED: realized, MemberStatus.EXISTING: members - realized, MemberStatus.EXITED: exited}

    def _why_ended(self, tx: Tx, feed: ReceivedFeed) -> str | None:
        return received_feeds.why_ended(self._scope, tx, feed)

    def _files(self, feed: ReceivedFeed) -> MembershipFiles:
        return MembershipFiles(self._scope, feed)


def not_received(partner: str, segment: str) -> NotReceived:
    """Return the refusal of a segment that no partner shares, or that the caller may not see."""
    return NotReceived(
        f"there is no received segment {partner}.{segment}", hint="see what partners share", remedy=Remedy("feed.list")
    )
