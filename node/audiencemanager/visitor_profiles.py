"""Which profiles visitors are: those that have an id of theirs as an identity, byte for byte under the same rule."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from psi.join import match, order_of
from psi.values import Values, sort_keys

from ..access.scope import Scope
from ..inputs.normalise import rule
from ..people.identity_rows import begins
from ..people.snapshots import Snapshot
from ..storage.database import Tx
from . import sources
from .visitors import U32, opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Some visitors that a project has `profiles` for: `known` are the visitors, `ids` counts all that the visitors have."""

    profiles: BitMap
    known: BitMap
    ids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitorIds:
    """The ids that visitors have of one data source: `visitors` is uint32 (n,), whose each value is."""

    namespace: str
    visitors: U32
    values: Values


def ids_of(scope: Scope, tx: Tx, visitors: BitMap) -> Iterator[VisitorIds]:
    """Yield the ids of visitors by data source: of those whose ids people have."""
    there = opened(scope)
    if not visitors:
        return
    for source in sources.stored(scope, tx):
        if source.namespace is not None:
            numbers, values = there.ids(visitors, source.number)
            if len(values):
                values = _as_stored(source.namespace, values)
                yield VisitorIds(namespace=source.namespace, visitors=numbers, values=values)


def _as_stored(namespace: str, values: Values) -> Values:
    """Return values as people have them: texts have a length each, also where all have the same one."""
    if rule(namespace).width or values.lengths is not None:
        return values
    return Values(values.rows, np.full(len(values), values.rows.shape[1], np.uint8))


def joined(scope: Scope, tx: Tx, snapshot: Snapshot, visitors: BitMap) -> Joined:
    """Return which profiles of a snapshot some visitors are."""
    profiles, known, count = BitMap(), BitMap(), 0
    for each in ids_of(scope, tx, visitors):
        count += len(each.values)
        if each.namespace not in snapshot.namespaces:
            continue
        own = snapshot.rows(each.namespace)
        order = order_of(each.values)
        first = begins(each.values, by=order)
        distinct = each.values.take(order[first])
        left, right = match(sort_keys(distinct), sort_keys(own.values))
        profiles |= BitMap(own.profiles[right])
        held = np.zeros(len(distinct), bool)
        held[left] = True
        known |= BitMap(each.visitors[order[held[np.cumsum(first) - 1]]])
    return Joined(profiles=profiles - snapshot.erased, known=known, ids=count)
