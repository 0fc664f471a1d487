"""Erased people of ours in what we share: what was made ready with them is dropped, and the next run takes them out."""

import numpy as np

from psi.values import Values

from ...access.scope import Scope
from ...exchanges.channels import cache_of, namespaces_in
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Epoch
from .. import runs
from . import evaluations, revisions


def sweep(scope: Scope, connection: Connection, epoch: Epoch, snapshot: Snapshot) -> None:
    """Delete identities that nobody has any more, F of them, and the records that were sealed for them.

    Of those in a revision that the partner has, F stays until another one took them out: without it nobody could.
    """
    cache = cache_of(scope, connection, epoch)
    for namespace in namespaces_in(cache):
        evaluations.forget(scope, connection, namespace, epoch, snapshot)
    for run_id in {name.split(" ")[1] for name in cache.names("content ")}:
        _sweep_run(scope, connection, epoch, snapshot, run_id)


def _sweep_run(scope: Scope, connection: Connection, epoch: Epoch, snapshot: Snapshot, run_id: str) -> None:
    cache, touched = cache_of(scope, connection, epoch), False
    for namespace, content in revisions.load(cache, run_id).items():
        kept = audiences.known(snapshot, namespace, content.values)
        if not kept.all():
            touched = True
            prf = evaluations.prf_alone(scope, connection, namespace, epoch, content.values.take(~kept))
            revisions.forget(cache, run_id, namespace, kept, prf)
    if not touched:
        return
    with scope.begin() as tx:
        given_up = runs.give_up(scope, tx, run_id)
    for kind in ("run", "manifest"):
        cache.drop(f"{kind} {run_id}")
    if given_up:
        for name in (*cache.names(f"content {run_id} "), *cache.names(f"gone {run_id} ")):
            cache.drop(name)


def kept(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, values: Values) -> dict[str, int]:
    """Return how many of some sorted identities are in what is kept for a partner: F, and revisions."""
    cache = cache_of(scope, connection, epoch)
    with evaluations.kept(scope, connection, namespace, epoch).open() as have:
        found = [int(np.count_nonzero(~have.missing(values))), 0]
    for run_id in {name.split(" ")[1] for name in cache.names("content ")}:
        content = revisions.load(cache, run_id).get(namespace)
        if content is not None:
            found[1] = max(found[1], audiences.in_both(content.values, values))
    return {"evaluated": found[0], "sent": found[1]}
