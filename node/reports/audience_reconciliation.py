"""Why an Audience Manager side counts fewer people in a segment than the platform: each profile under one reason.

platform = counted + namespace + consent + merge + timing, and the first of these reasons, in this order, that a profile
has is its own. Labels and restricted uses stand with consent: they too are why somebody may not leave.
"""

from dataclasses import asdict, dataclass

import numpy as np
from pyroaring import BitMap

from psi.values import SLICE, U8, Bools, Indices

from ..access.scope import Scope
from ..audiencemanager import platform, visitors
from ..audiencemanager.sight import Sight
from ..destinations import at_target, changes, desired, primaries
from ..destinations.changes import State
from ..destinations.desired import Desired
from ..destinations.records import Activation, ActivationStatus, Destination, activations_of, file_of, stored
from ..errors import NotAllowed
from ..people.snapshots import Snapshot
from ..segments import references
from ..storage.database import Tx
from ..storage.records import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """Where the `platform` profiles of a segment are; `leaving` are counted there and no member here: on their way out, or
    there by something else."""

    destination: str
    platform: int
    counted: int
    namespace: int
    consent: int
    merge: int
    timing: int
    leaving: int


def reconcile(scope: Scope, segment: str) -> Document:
    """Return for each Audience Manager side that gets a segment where its people are."""
    scope.require("audience.reconcile", segment)
    with scope.refusals("audience.reconcile", segment), scope.read() as tx:
        if not Sight(scope, tx).whole:
            raise NotAllowed(
                "the numbers are of all people, whether your roles let you see them or not",
                hint="ask somebody whose roles are not limited to labels or data sources",
            )
        picked = references.pick(scope, tx, segment)
        rows = [_reconciled(scope, tx, *each) for each in _getting(scope, tx, segment)]
    return {"segment": picked.name, "sides": [asdict(each) for each in rows]}


def _getting(scope: Scope, tx: Tx, segment: str) -> list[tuple[Destination, Activation]]:
    return [
        (destination, each)
        for destination in stored(scope, tx)
        if destination.is_audience_manager
        for each in activations_of(tx, destination)
        if each.segment == segment and each.status is ActivationStatus.ACTIVE
    ]


def _reconciled(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> Reconciled:
    wanted = desired.decide(scope, tx, destination, activation)
    states = _states(wanted)
    holders = _holders(scope, tx, wanted, activation)
    may = states == State.PRESENT
    profiles = int(holders.sum())
    without = int(holders[states == State.NAMESPACE].sum())
    leaving_profiles = int(holders[may].sum())
    units, there, extra = (
        _here(scope, tx, destination, wanted, may)
        if destination.is_here
        else _elsewhere(scope, activation, wanted, may)
    )
    return Reconciled(
        destination=destination.name,
        platform=profiles,
        counted=there,
        namespace=without,
        consent=profiles - without - leaving_profiles,
        merge=leaving_profiles - units,
        timing=units - there,
        leaving=extra,
    )


def _states(wanted: Desired) -> U8:
    parts = [wanted.entries.part(start, start + SLICE)[1] for start in range(0, len(wanted.entries), SLICE)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _holders(scope: Scope, tx: Tx, wanted: Desired, activation: Activation) -> Indices:
    """Return of how many members of the segment each entry is the primary identity, int64 (n,)."""
    snapshot = Snapshot.open(scope, tx)
    members: Bools = np.zeros(snapshot.profile_count, bool)
    members[snapshot.members(references.pick(scope, tx, activation.segment).id).to_array()] = True
    counts = np.ones(len(wanted.entries), np.int64)
    found = list[Indices]()
    for namespace in primaries.NAMESPACES:
        given, starts = snapshot.identities(namespace), snapshot.starts(namespace)
        rows = np.flatnonzero(members[given.profiles] & snapshot.primary(namespace)) if len(given) else np.arange(0)
        _, times = np.unique(np.searchsorted(starts, rows, side="right"), return_counts=True)
        found.append(times)
    last = int(sum(map(len, found)))
    counts[len(wanted.entries) - last :] = np.concatenate(found) if last else 0
    return counts


def _here(scope: Scope, tx: Tx, destination: Destination, wanted: Desired, may: Bools) -> tuple[int, int, int]:
    """Return how many visitors the members that may leave are, how many of these have the trait, and who else has it."""
    trait = platform.trait_of(scope, tx, destination.id, wanted.segment_id)
    side = visitors.opened(scope)
    having = BitMap() if trait is None else side.members(trait.number, trait.days)
    known, unknown = BitMap(), 0
    for start in range(0, len(may), SLICE):
        values, _ = wanted.entries.part(start, start + SLICE)
        for namespace, _, own in primaries.split(values.take(may[start : start + SLICE])):
            numbers = side.numbers(platform.source_of(namespace), own, make=False)
            there = numbers != visitors.NOBODY
            known |= BitMap(numbers[there])
            unknown += int((~there).sum())
    return len(known) + unknown, len(known & having), len(having - known)


def _elsewhere(scope: Scope, activation: Activation, wanted: Desired, may: Bools) -> tuple[int, int, int]:
    """Return the same of another node's side: by identities, as far as it has confirmed them."""
    there = at_target.opened(None if activation.file is None else file_of(scope, activation.file))
    present = changes.states_of(there, wanted.entries) == State.PRESENT
    held = sum(
        int((there.part(start, start + SLICE)[1] == State.PRESENT).sum()) for start in range(0, len(there), SLICE)
    )
    counted = int((present & may).sum())
    return int(may.sum()), counted, held - counted
