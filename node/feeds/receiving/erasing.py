"""Erased people of ours in what partners share with us: no membership names them, nothing evaluated for them stays."""

from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from pyroaring import BitMap

from psi.values import Values

from ...access.scope import Scope
from ...errors import Failure
from ...exchanges.channels import cache_of, namespaces_in
from ...partners import key_epochs
from ...partners.connections import Connection
from ...people import audiences, snapshots
from ...people.snapshots import Snapshot
from ...people.touched import touched_since
from ...storage.cache import Cache, Epoch
from ...storage.database import Tx
from . import affected, basis, evaluations, joining, received_feeds, tag_index
from .basis import Basis
from .membership_files import Membership, MembershipFiles, rows
from .received_feeds import ReceivedFeed


def take_out(scope: Scope, tx: Tx, profiles: BitMap) -> None:
    """Take profiles out of all memberships, before the generation is published that has them no more."""
    base = Snapshot.open(scope, tx)
    for connection, feed in received_feeds.of_project(scope, tx):
        epoch = key_epochs.running(scope, tx, connection)
        cache = None if epoch is None else cache_of(scope, connection, epoch)
        known = None if cache is None else basis.load(cache, feed.id)
        if known is not None and known.members != {row.segment_id: row.file for row in rows(tx, feed)}:
            known = None  # it says nothing of the members that there are
        concerned = None if known is None else affected.by_people(scope, tx, known, base)
        for row in rows(tx, feed):
            MembershipFiles(scope, feed).take_out(tx, row, profiles)
        if cache is not None and known is not None and concerned is not None:
            waiting = known.waits | concerned | affected.sharing(profiles, known.people, base, base)
            members = {row.segment_id: row.file for row in rows(tx, feed)}
            known = replace(known, members=members, waiting=waiting.serialize())
            after = partial(_keep_waiting, scope, cache, feed, known, base.generation, profiles)
            scope.home.database.afterwards(after)


def _keep_waiting(
    scope: Scope, cache: Cache, feed: ReceivedFeed, known: Basis, generation: int, profiles: BitMap
) -> None:
    """Note who has to be decided again since an erasure: the generation that could say who had what is gone.

    `known` is what members are computed from but for the people, who are those of the generation after `generation`. Nothing
    is noted where that may have changed others too.
    """
    with scope.read() as tx, suppress(Failure):
        after = next((each for each in snapshots.kept(scope, tx) if each.generation == generation + 1), None)
        touched = None if after is None else touched_since(after, generation)
        if after is not None and touched is not None and touched <= profiles:
            people = {namespace: audiences.stamp(after, namespace) for namespace in known.people}
            replace(known, people=people).save(cache, feed.id)


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
    """Delete F of identities that nobody has any more, and that we ever asked for it. Then decide again about whom an erasure
    concerns.

    How many they were stays: the sender has counted them, and a manifest may say so.
    """
    cache = cache_of(scope, connection, epoch)
    for namespace in namespaces_in(cache):
        forget, stored = (
            partial(evaluations.forget, cache, namespace),
            evaluations.kept(scope, connection, epoch, namespace),
        )
        with scope.begin() as tx:
            with stored.open() as have:
                before, count = have.stamp, len(have)
            gone = stored.retain(Snapshot.open(scope, tx).distinct(namespace)[0], forget)
            with stored.open() as have:
                after, left = have.stamp, len(have)
            tag_index.forget_stale(cache, namespace, after)
            if after != before and left + gone == count:  # nothing has come meanwhile
                _note_swept(tx, connection, cache, namespace, before, after)
        for name in cache.names(evaluations.asked_file(namespace)):
            _sweep_asked(cache, namespace, name, snapshot)
    joining.join_all(scope, connection)


def _note_swept(tx: Tx, connection: Connection, cache: Cache, namespace: str, before: bytes, after: bytes) -> None:
    """Note that members which were computed from F of before follow from what is left too: nobody has what went."""
    for feed in received_feeds.of_connection(tx, connection.id):
        known = basis.load(cache, feed.id)
        if known is not None and known.evaluated.get(namespace) == before:
            replace(known, evaluated={**known.evaluated, namespace: after}).save(cache, feed.id)


def _sweep_asked(cache: Cache, namespace: str, name: str, snapshot: Snapshot) -> None:
    stored = cache.load(name)
    if stored is None:
        return
    values = Values.of_arrays(stored)
    kept = audiences.known(snapshot, namespace, values)
    if not kept.all():
        evaluations.forget(cache, namespace, int((~kept).sum()))
        left = values.take(kept)
        if len(left):
            cache.save(evaluations.asked_file(namespace, left.digest()), **left.arrays())
        cache.drop(name)


def evaluated(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, values: Values) -> int:
    """Return how many of some sorted identities were evaluated for us, or asked for."""
    cache = cache_of(scope, connection, epoch)
    with evaluations.kept(scope, connection, epoch, namespace).open() as have:
        most = int(np.count_nonzero(~have.missing(values)))
    for name in cache.names(evaluations.asked_file(namespace)):
        stored = cache.load(name, only=("rows", "lengths"))
        if stored is not None:
            most = max(most, audiences.in_both(Values.of_arrays(stored), values))
    return most
