"""Erased people of ours in estimates: universes that have them are dropped, and what is being asked about them."""

from ...access.scope import Scope
from ...exchanges.channels import cache_of, namespaces_in
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Epoch
from . import callers, universes


def sweep(scope: Scope, connection: Connection, epoch: Epoch, snapshot: Snapshot) -> None:
    """Delete universes of ours that are not of exactly the people of a snapshot, and the samples of questions.

    A universe has points that say nothing of whose they are, so one that somebody was taken out of cannot be told from
    one that has them. The next is shown a day after the last.
    """
    cache = cache_of(scope, connection, epoch)
    for namespace in namespaces_in(cache):
        people = audiences.universe(snapshot, namespace)[0].digest()
        for name in universes.files(cache, namespace):
            stored = cache.load(name, only=("people",))
            if stored is None or stored["people"].tobytes() != people:
                cache.drop(name)
    for name in callers.files(cache):
        cache.drop(name)


def shown(scope: Scope, connection: Connection, epoch: Epoch, namespace: str) -> int:
    """Return how many universes of ours are kept."""
    return len(universes.files(cache_of(scope, connection, epoch), namespace))
