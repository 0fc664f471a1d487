"""When a feed that is over may leave the lists: once nothing is to be told about it any more.

Its row, versions, runs and signed statements stay. So a letter that comes late, a partner that was restored, and what
counts against a limit meet the feed as it was.
"""

from sqlalchemy import select

from protocol.letters import FeedAccept, FeedNotice, FeedReport, FeedVersion, Letter, Purged
from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import NotAllowed
from ..partners.connections import Connection, ConnectionStatus
from ..partners.letters import ENDED_SECONDS
from ..storage.database import Tx
from ..storage.tables import letters


def is_out_of_touch(scope: Scope, connection: Connection) -> bool:
    """Return whether a connection ended so long ago that nothing is expected over it."""
    ended = connection.status is ConnectionStatus.DISCONNECTED
    return ended and scope.home.now() - connection.changed >= ENDED_SECONDS


def letter_waits(tx: Tx, connection: Connection, feed: bytes) -> bool:
    """Return whether a letter about a feed has not reached a partner."""
    waiting = (letters.c.connection_id == connection.id, letters.c.delivered.is_(None), letters.c.kind.like("feed.%"))
    rows = tx.execute(select(letters.c.number, letters.c.kind, letters.c.body).where(*waiting))
    opened = (Letter(connection=connection.wire_id, number=row.number, kind=row.kind, body=row.body) for row in rows)
    return any(_speaks_of(letter) == feed for letter in opened)


def not_yet(name: str, missing: list[str]) -> NotAllowed:
    """Return the refusal to delete a feed about which something is still to be told."""
    return NotAllowed(
        f"feed {name} cannot be deleted yet: {'; '.join(missing)}",
        hint="exchange letters with partners, and try again",
        remedy=Remedy("node.sync"),
    )


def _speaks_of(letter: Letter) -> bytes | None:
    match letter.open():
        case FeedVersion(definition=about) | FeedReport(definition=about) | Purged(statement=about):
            return about.feed
        case FeedAccept(feed=feed) | FeedNotice(feed=feed):
            return feed
    return None
