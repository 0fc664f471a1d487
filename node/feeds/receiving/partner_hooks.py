"""What happens to what a partner shares with us when the connection ends, and before it hears that we have purged."""

from ... import log
from ...access.scope import Home, Scope
from ...errors import Failure
from ...partners.connections import Connection
from ...storage.database import Tx
from ..purges import TakenOut
from . import joining, membership_files, received_feeds
from .received import purge
from .received_feeds import ALIVE, ReceivedStatus


def ended(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Purge everything that came over a connection that has ended."""
    for feed in received_feeds.of_connection(tx, connection.id):
        purge(scope, tx, connection, feed, reason="disconnected")


def namespaces_changed(scope: Scope, tx: Tx, connection: Connection, gone: frozenset[str]) -> None:
    """Remove the members that came by namespaces which are agreed on no more, and by those alone."""
    for feed in received_feeds.of_connection(tx, connection.id):
        if feed.status not in ALIVE or feed.accepted_version is None:
            continue
        definition = received_feeds.definition(tx, feed)
        namespaces = tuple(each for each in definition.namespaces if each in gone)
        if namespaces:
            taken_out = TakenOut(version=definition.version, segments=(), namespaces=namespaces)
            joining.take_out(scope, tx, connection, feed, taken_out)


def files_are_gone(home: Home, connection: Connection) -> bool:
    """Remove what a kill may have left of the files that a purge statement says are gone; return whether they are."""
    try:
        membership_files.sweep(home.scope(connection.project_id), connection_id=connection.id)
    except Failure as error:
        log.warning("a purge statement waits", code=error.code)
        return False
    return True


def takes(tx: Tx, connection: Connection) -> bool:
    """Return whether a feed of a partner's runs to us."""
    return any(feed.status is ReceivedStatus.ENABLED for feed in received_feeds.of_connection(tx, connection.id))
