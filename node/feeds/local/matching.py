"""Which people of a project are among the members of a segment of another project: a plain join inside one node."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from psi.join import match
from psi.values import Bools, sort_keys

from ...people import audiences
from ...people.identity_rows import begins
from ...people.snapshots import Snapshot


def holders(
    theirs: Snapshot, members: BitMap, ours: Snapshot, namespaces: Iterable[str], *, model: str | None = None
) -> BitMap:
    """Return the profiles of `ours` that have an identity which one of `members`, profiles of `theirs`, has too.

    `namespaces` are without rule ids: identities match under the same rule alone. With a consent `model` only identities
    count that may be shared: every profile of `theirs` that has one may be.
    """
    chosen, found = _mask(members, theirs.profile_count), BitMap()
    for namespace in _common(theirs, ours, namespaces):
        found |= _holders(theirs, chosen, ours, namespace, model)
    return found - ours.erased


def _common(theirs: Snapshot, ours: Snapshot, wanted: Iterable[str]) -> list[str]:
    names = set(wanted)
    return [each for each in ours.namespaces if each in theirs.namespaces and each.partition("/")[0] in names]


def _mask(profiles: BitMap, count: int) -> Bools:
    mask = np.zeros(count, bool)
    mask[audiences.numbers(profiles)] = True
    return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """Who was found the last time, in what `theirs` was `then`, and the profiles that differ since, there and here."""

    found: BitMap
    then: Snapshot
    touched: BitMap
    touched_here: BitMap


def renewed(last: Last, theirs: Snapshot, members: BitMap, ours: Snapshot, namespaces: Iterable[str]) -> BitMap:
    """Return what `holders` does, from who was found the last time: only who can be concerned is looked at again."""
    wanted, then = list(namespaces), last.then
    known = last.touched & BitMap(range(then.profile_count))
    concerned = holders(then, known, ours, wanted) | holders(theirs, last.touched, ours, wanted) | last.touched_here
    return (last.found - concerned) | _among(theirs, members, ours, wanted, concerned)


def _among(theirs: Snapshot, members: BitMap, ours: Snapshot, wanted: Iterable[str], concerned: BitMap) -> BitMap:
    """Return those of a few profiles of `ours` that `holders` finds."""
    chosen, few = _mask(members, theirs.profile_count), _mask(concerned, ours.profile_count)
    found = BitMap()
    for namespace in _common(theirs, ours, wanted):
        own, there = ours.rows(namespace), theirs.rows(namespace)
        rows = np.flatnonzero(few[own.profiles])
        values = own.values.take(rows)
        first = begins(values)
        here, places = match(sort_keys(values.take(first)), sort_keys(there.values))
        held = np.zeros(int(first.sum()), bool)
        held[here[chosen[there.profiles[places]]]] = True
        found |= BitMap(own.profiles[rows[held[np.cumsum(first) - 1]]])
    return found - ours.erased


def _holders(theirs: Snapshot, chosen: Bools, ours: Snapshot, namespace: str, model: str | None) -> BitMap:
    if model is None:
        rows = theirs.rows(namespace)
        values = rows.values.take(chosen[rows.profiles])
        values = values.take(begins(values))
    else:
        given, (values, starts) = theirs.identities(namespace), theirs.distinct(namespace)
        held = np.logical_or.reduceat(chosen[given.profiles], starts)
        values = values.take(held & audiences.consented(theirs, namespace, model))
    own = ours.rows(namespace)
    _, places = match(sort_keys(values), sort_keys(own.values))
    return BitMap(own.profiles[places])
