"""Once a day the members of each feed are computed as a whole: they have to be those that single changes led to."""

from ...access.scope import Scope
from ...exchanges.channels import cache_of
from ...operations.alerts import AlertKind, Alerts
from ...partners import key_epochs
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.tables import DAY
from . import basis, joining, received_feeds, tag_index
from .join import Joined
from .membership_files import MembershipFiles, rows
from .received_feeds import ReceivedFeed


def compare(scope: Scope) -> None:
    """Compute the members of each feed as a whole, where that was not done for a day.

    Where others were kept that is an alert, and those of the whole count.
    """
    with scope.read() as tx:
        feeds = [each for each in received_feeds.alive(scope, tx) if _is_due(scope, tx, *each)]
    for connection, feed in feeds:
        with scope.begin() as tx:
            _compare(scope, tx, connection, received_feeds.read(tx, feed))


def _compare(scope: Scope, tx: Tx, connection: Connection, feed: ReceivedFeed) -> None:
    files = MembershipFiles(scope, feed)
    chain = files.chain()
    if (
        not chain
        or joining.join(scope, tx, feed, chain) is not Joined.JOINED
        or not _is_due(scope, tx, connection, feed)
    ):
        return
    kept = {row.segment_id: files.members(row) for row in rows(tx, feed)}
    if joining.join(scope, tx, feed, chain, again=True) is not Joined.JOINED:
        return
    wrong = [row.name for row in rows(tx, feed) if files.members(row) != kept[row.segment_id]]
    if wrong:
        epoch = key_epochs.running(scope, tx, connection)
        assert epoch is not None
        tag_index.forget(cache_of(scope, connection, epoch), feed.id)
        text = (
            f"{', '.join(wrong)} of {connection.alias}: the members that were kept are not those that follow from all"
        )
        Alerts(scope).add(tx, AlertKind.DECISION_DIFFERS, text)


def _is_due(scope: Scope, tx: Tx, connection: Connection, feed: ReceivedFeed) -> bool:
    epoch = key_epochs.running(scope, tx, connection)
    known = None if epoch is None else basis.load(cache_of(scope, connection, epoch), feed.id)
    return known is not None and scope.home.now() >= known.compared + DAY
