"""What is left of erased people after they are out of the newest generation, and how it goes: at once, and after a kill.

No row says who was erased. What is kept for partners is compared with the people that there are now: an identity that
nobody has any more goes. So a sweep can be begun again at any time. A second one comes an hour later, for what a process
wrote that had begun before.
"""

from sqlalchemy import delete, insert, select, update

from .. import log
from ..access.scope import Scope
from ..audiencemanager import erasing as visitors
from ..exchanges import records
from ..feeds.estimates import erasing as estimates
from ..feeds.receiving import erasing as receiving
from ..feeds.receiving import membership_files
from ..feeds.sending import erasing as sending
from ..partners import connections, key_epochs
from ..partners.connections import Connection
from ..people import drafts
from ..people.snapshots import Snapshot
from ..storage.database import Tx
from ..storage.tables import erasures, manifests
from ..storage.temporary import remove_leftovers

AGAIN_SECONDS = 3_600


def note(scope: Scope, tx: Tx) -> None:
    """Note, in the transaction that erased people, that there is something to sweep."""
    tx.execute(insert(erasures).values(id=scope.home.new_id(), project_id=scope.id, at=scope.home.now()))


def finish(scope: Scope) -> None:
    """Sweep where that has not been done since an erasure, or an hour later once more."""
    now = scope.home.now()
    mine = erasures.c.project_id == scope.id
    again = erasures.c.swept.is_not(None) & (erasures.c.at <= now - AGAIN_SECONDS)
    with scope.read() as tx:
        found = tx.execute(
            select(erasures.c.id, erasures.c.swept).where(mine, erasures.c.swept.is_(None) | again)
        ).all()
    if not found:
        return
    sweep(scope)
    if not (visitors.sweep(scope) and scope.home.database.overwrite_deleted(manifests.name)):
        log.warning("erased people are swept again: somebody reads older rows", project=scope.name)
        return
    with scope.begin() as tx:
        for row in found:
            if row.swept is None:
                tx.execute(update(erasures).where(erasures.c.id == row.id).values(swept=now))
            else:
                tx.execute(delete(erasures).where(erasures.c.id == row.id))
    log.info("erased people are swept", project=scope.name)


def sweep(scope: Scope) -> None:
    """Delete whatever has people who are not in the newest generation; each step can be done again."""
    drafts.remove_leftovers(scope)
    membership_files.sweep(scope)
    for connection in connections.with_status(scope):
        _end_exchanges(scope, connection)
        _sweep_caches(scope, connection)
    key_epochs.remove_leftovers(scope.home)
    remove_leftovers(scope.home.path)


def _end_exchanges(scope: Scope, connection: Connection) -> None:
    """Give up what may have been begun with erased people, and delete its messages: partners begin again."""
    with scope.begin() as tx:
        ended = records.end_all(scope, tx, connection, before=scope.home.now() + 1)
    for exchange in ended:
        records.spool_of(scope.home, exchange).destroy()


def _sweep_caches(scope: Scope, connection: Connection) -> None:
    with scope.begin() as tx:
        epoch = key_epochs.running(scope, tx, connection)
        if epoch is None:
            key_epochs.end(scope, tx, connection)  # its time is over: nobody needs what is kept for it
            return
    snapshot = Snapshot.open(scope)
    for room in (receiving, sending, estimates):
        room.sweep(scope, connection, epoch, snapshot)
