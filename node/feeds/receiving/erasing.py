"""Erased people of ours in what partners share with us: no membership names them, nothing evaluated for them stays."""

import numpy as np
from cryptography.exceptions import InvalidTag
from pyroaring import BitMap

from psi.values import Bools, Values

from ...access.scope import Scope
from ...exchanges.channels import Picked, blocks_of, cache_of, namespaces_in
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Cache, Epoch, OpenRows
from ...storage.database import Tx
from . import evaluations, received_feeds
from .membership_files import Membership, MembershipFiles, rows


def take_out(scope: Scope, tx: Tx, profiles: BitMap) -> None:
    """Take profiles out of all memberships."""
    for _, feed in received_feeds.of_project(scope, tx):
        for row in rows(tx, feed):
            MembershipFiles(scope, feed).take_out(tx, row, profiles)


def holding(scope: Scope, tx: Tx, profiles: BitMap) -> list[str]:
    """Return the received segments whose files name one of some profiles ("acme.vip")."""
    return sorted(
        f"{connection.alias}.{row.name}"
        for connection, feed in received_feeds.of_project(scope, tx)
        for row in rows(tx, feed)
        if _names(MembershipFiles(scope, feed), row, profiles)
    )


def _names(files: MembershipFiles, row: Membership, profiles: BitMap) -> bool:
    changes = files.changes(row)
    exited = BitMap(changes.exits.profiles)
    return bool(profiles & (files.members(row) | changes.realized | changes.late | exited))


def sweep(scope: Scope, connection: Connection, epoch: Epoch, snapshot: Snapshot) -> None:
    """Delete F of identities that nobody has any more, and that we ever asked for it.

    How many they were stays: the sender has counted them, and a manifest may say so.
    """
    cache = cache_of(scope, connection, epoch)
    for namespace in namespaces_in(cache):
        for name in evaluations.files(cache, namespace):
            stored = cache.load(name, only=("rows", "lengths"))
            kept = None if stored is None else audiences.known(snapshot, namespace, Values.of_arrays(stored))
            if kept is None or kept.all():
                continue
            evaluations.forget(cache, namespace, int((~kept).sum()))
            _keep(cache, namespace, name, kept)


def evaluated(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, values: Values) -> int:
    """Return how many of some sorted identities were evaluated for us, or asked for."""
    cache, most = cache_of(scope, connection, epoch), 0
    for name in evaluations.files(cache, namespace):
        stored = cache.load(name, only=("rows", "lengths"))
        if stored is not None:
            most = max(most, audiences.in_both(Values.of_arrays(stored), values))
    return most


def _keep(cache: Cache, namespace: str, name: str, kept: Bools) -> None:
    try:
        with cache.open(name) as stored:
            values = Values.of_arrays(stored.load(only=("rows", "lengths"))).take(kept)
            if "prf" in stored.lengths():
                prf = Picked(OpenRows(stored, "prf", len(kept)), np.flatnonzero(kept))
                public = stored.load(only=("public",))["public"]
                cache.save(name, **values.arrays(), prf=blocks_of(prf), public=public)
                return
    except (FileNotFoundError, InvalidTag):
        return
    if len(values):
        cache.save(evaluations.asked_file(namespace, values.digest()), **values.arrays())
    cache.drop(name)
