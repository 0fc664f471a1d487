"""Where people are in a home: every place that can have them, looked at before they are erased and after."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import func, select

from psi.values import Values

from ..access.scope import Scope
from ..audiencemanager import erasing as visitors
from ..audiencemanager.visitors import opened
from ..destinations import erasing as destinations
from ..feeds.estimates import erasing as estimates
from ..feeds.local import shares
from ..feeds.receiving import erasing as receiving
from ..feeds.sending import erasing as sending
from ..partners import connections, key_epochs
from ..people import known_lines, suppressions
from ..people.named import with_attributes
from ..people.snapshots import Snapshot
from ..segments.records import stored
from ..storage.database import Tx
from ..storage.records import Documents
from ..storage.tables import manifests


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What people are known by: their profiles' numbers and ids, and the identities that nobody else has, sorted.

    It is kept in memory, for as long as a command runs.
    """

    profiles: BitMap
    kinds: Mapping[str, Values | npt.NDArray[np.bytes_]]

    @classmethod
    def of(cls, snapshot: Snapshot, profiles: BitMap) -> "Traces":
        gone = np.zeros(snapshot.profile_count, bool)
        gone[profiles.to_array()] = True
        kinds: dict[str, Values | npt.NDArray[np.bytes_]] = {}
        if profiles:
            kinds[suppressions.ID] = np.asarray(snapshot.profile_ids[gone])
        for namespace in snapshot.namespaces:
            given = snapshot.identities(namespace)
            values, starts = snapshot.distinct(namespace)
            alone = np.logical_and.reduceat(gone[given.profiles], starts) if len(starts) else np.zeros(0, bool)
            if alone.any():
                kinds[namespace] = values.take(alone)
        return cls(profiles=profiles, kinds=kinds)

    @property
    def identities(self) -> dict[str, Values]:
        return {kind: values for kind, values in self.kinds.items() if isinstance(values, Values)}


def places(scope: Scope, tx: Tx, traces: Traces) -> Documents:
    """Return each place with how much of the people it has now."""
    return [{"place": place, "found": found} for place, found in _places(scope, tx, traces)]


def _places(scope: Scope, tx: Tx, traces: Traces) -> Iterator[tuple[str, int]]:
    snapshot = Snapshot.open(scope, tx)
    gone = np.zeros(max(snapshot.profile_count, max(traces.profiles, default=-1) + 1), bool)
    gone[traces.profiles.to_array()] = True
    ids = traces.kinds.get(suppressions.ID)
    yield "profile ids", 0 if ids is None else int((snapshot.numbers(np.asarray(ids)) >= 0).sum())
    yield "consent", sum(int(gone[each].sum()) for each in _said(snapshot))
    for namespace in snapshot.namespaces:
        yield f"identities {namespace}", int(gone[snapshot.rows(namespace).profiles].sum())
    for dataset in snapshot.attributes:
        yield f"attributes {dataset}", int(gone[with_attributes(snapshot, dataset)].sum())
    for dataset in snapshot.content.known_lines:
        yield f"lines of {dataset}", known_lines.found(snapshot, dataset, traces.profiles)
    for segment in stored(scope, tx):
        yield f"segment {segment.name}", len(snapshot.members(segment.id) & traces.profiles)
    reached = scope.home.guard.reached(tx)
    for share in (each for each in shares.used_by(scope, tx) if reached.sees(each.target)):
        yield f"segment {share.reference}", len(snapshot.members(share.id) & traces.profiles)
    older = select(func.count()).where(manifests.c.project_id == scope.id, manifests.c.generation < snapshot.generation)
    yield "older generations", tx.scalar(older) or 0
    for name in receiving.holding(scope, tx, traces.profiles):
        yield f"received {name}", 1
    for name, found in destinations.kept(scope, tx, traces.kinds).items():
        yield f"destination {name}", found
    if opened(scope).file.path.exists():
        yield "visitors", len(visitors.find(scope, tx, traces.kinds))
    yield from _kept_for_partners(scope, tx, traces)


def _said(snapshot: Snapshot) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the numbers of profiles that said something, for all of them and in each namespace."""
    yield np.flatnonzero(snapshot.profile_consent)
    for name in snapshot.content.noted:
        yield snapshot.noted(name)["profile"].astype(np.intp)


def _kept_for_partners(scope: Scope, tx: Tx, traces: Traces) -> Iterator[tuple[str, int]]:
    for connection in connections.with_status(scope, tx=tx):
        epoch = key_epochs.running(scope, tx, connection)
        if epoch is None:
            continue
        for namespace, values in traces.identities.items():
            about = f"{connection.alias} {namespace}"
            yield f"evaluated by {about}", receiving.evaluated(scope, connection, epoch, namespace, values)
            for word, found in sending.kept(scope, connection, epoch, namespace, values).items():
                yield f"{word} for {about}", found
            yield f"universes for {about}", estimates.shown(scope, connection, epoch, namespace)
