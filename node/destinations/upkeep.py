"""What is kept of destinations for a while: counts, batches that failed, and files that a kill left."""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.spool import destroy
from ..storage.tables import DAY, activations, batches, destinations
from ..storage.temporary import is_old
from . import counts, latency, rotation
from .records import EXPERIENCE_CLOUD, FOLDER, RESTORED, SPOOL, BatchState, DestinationStatus, stored

KEPT_SECONDS = 30 * DAY  # a batch that failed
A_SECOND = 100  # messages: more than a destination sends in one
MOST_MORE = 10**8  # of a column that has 32 bits
COUNTED_SECONDS = 365 * DAY  # the counts of an hour


def forget_old(scope: Scope) -> None:
    """Delete what is too old, and files that no row names."""
    now = scope.home.now()
    with scope.begin() as tx:
        for each in stored(scope, tx):
            old = (batches.c.destination_id == each.id, batches.c.changed < now - KEPT_SECONDS)
            tx.execute(batches.delete().where(*old, batches.c.state == BatchState.FAILED))
            counts.forget(tx, each.id, now - COUNTED_SECONDS)
            latency.forget(tx, each.id, now - COUNTED_SECONDS)
        rotation.wipe_old(scope, tx)
        named = set(_named(scope, tx))
    directory = scope.data_directory / FOLDER
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name not in named and is_old(path):  # a new one may be of a revision that is being planned
            _remove(path)


def disable_restored(tx: Tx) -> int:
    """Let nothing leave a restored home by itself: its rows may be old, or written to do harm. Return of how many."""
    sends = (destinations.c.kind != EXPERIENCE_CLOUD) | destinations.c.part_of.is_not(None)
    disabled = {"status": DestinationStatus.DISABLED, "reason": RESTORED}
    return tx.execute(destinations.update().where(sends).values(**disabled)).rowcount


def number_afresh(tx: Tx, passed: int) -> None:
    """Have messages of a restored home come after all that were sent since its backup, `passed` seconds ago: targets tell by
    the number what is newest of a person."""
    more = min(passed * A_SECOND, MOST_MORE)
    tx.execute(destinations.update().values(messages=destinations.c.messages + more))


def _named(scope: Scope, tx: Tx) -> Iterator[str]:
    columns = (activations.c.id, activations.c.file, activations.c.pending)
    mine = destinations.c.project_id == scope.id
    query = select(*columns).join(destinations, destinations.c.id == activations.c.destination_id).where(mine)
    for row in tx.execute(query):
        yield f"{row.id}{SPOOL}"
        yield from filter(None, (row.file, row.pending))


def _remove(path: Path) -> None:
    if path.is_dir():
        destroy(path)
    else:
        path.unlink(missing_ok=True)
