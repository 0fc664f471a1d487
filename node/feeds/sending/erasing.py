"""Erased people of ours in what we share: what was made ready with them is dropped, and the next run takes them out."""

from contextlib import suppress

import numpy as np

from psi.values import Values

from ...access.scope import Scope
from ...errors import Failure
from ...exchanges.channels import cache_of, namespaces_in
from ...partners.connections import Connection
from ...people.snapshots import Snapshot
from ...storage.cache import Cache, Epoch
from .. import runs
from . import evaluations, kept_content, revisions


def sweep(scope: Scope, connection: Connection, epoch: Epoch, snapshot: Snapshot) -> None:
    """Delete identities that nobody has any more, F of them, and the records that were sealed for them.

    Of those in a revision that the partner has, F stays until another one took them out: without it nobody could.
    """
    cache = cache_of(scope, connection, epoch)
    for namespace in namespaces_in(cache):
        evaluations.forget(scope, connection, namespace, epoch, snapshot)
    for run_id in _runs_in(cache):
        _sweep_run(scope, connection, epoch, snapshot, run_id)


def _sweep_run(scope: Scope, connection: Connection, epoch: Epoch, snapshot: Snapshot, run_id: str) -> None:
    cache, touched = cache_of(scope, connection, epoch), False
    for namespace, content in kept_content.kept(cache, run_id).items():
        known = snapshot.distinct(namespace)[0]
        try:
            with content.open() as have:
                erased = have.outside(known)
        except Failure:  # it is empty from now on, so the next revision is a full one
            touched = True
            continue
        if len(erased):
            touched = True
            prf = evaluations.prf_alone(scope, connection, namespace, epoch, erased)
            revisions.keep_gone(cache, run_id, namespace, prf)
        content.retain(known)
    if not touched:
        return
    with scope.begin() as tx:
        given_up = runs.give_up(scope, tx, run_id)
    for kind in revisions.KINDS if given_up else ("run", "manifest"):
        for name in cache.names(f"{kind} {run_id}"):
            cache.drop(name)


def kept(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, values: Values) -> dict[str, int]:
    """Return how many of some sorted identities are in what is kept for a partner: F, and revisions."""
    cache = cache_of(scope, connection, epoch)
    with evaluations.kept(scope, connection, namespace, epoch).open() as have:
        found = [int(np.count_nonzero(~have.missing(values))), 0]
    for run_id in _runs_in(cache):
        content = kept_content.kept(cache, run_id).get(namespace)
        if content is not None:
            with suppress(Failure), content.open() as had:  # what cannot be read is nothing from now on
                found[1] = max(found[1], len(had.find(values).values))
    return {"evaluated": found[0], "sent": found[1]}


def _runs_in(cache: Cache) -> set[str]:
    return {name.split(" ")[1] for name in cache.names("content ")}
