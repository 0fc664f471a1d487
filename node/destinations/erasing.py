"""Erased people at destinations: how many of them are known there still, until the removal has arrived."""

import numpy as np

from psi.values import SLICE, Values

from ..access.scope import Scope
from ..people import suppressions
from ..people.suppressions import Kinds, Suppressions
from ..storage.database import Tx
from . import at_target, changes, primaries
from .changes import Entries, Listed, State
from .primaries import NAMESPACES, PRIMARY, keyed
from .records import PROFILE_ID, SENDING, Destination, activations_of, file_of, stored


def kept(scope: Scope, tx: Tx, kinds: Kinds) -> dict[str, int]:
    """Return by destination how many of some people it has, or may have."""
    found = {}
    for destination in stored(scope, tx):
        values = _sought(destination.identity, kinds)
        if values is None or destination.is_connection:  # its solutions have them
            continue
        sought = Listed(values, np.full(len(values), State.PRESENT, np.uint8))
        names = {name for each in activations_of(tx, destination) for name in (each.file, each.pending) if name}
        name = destination.name if destination.status in SENDING else f"{destination.name} ({destination.status})"
        found[name] = max(
            (
                int((changes.states_of(at_target.opened(file_of(scope, name)), sought) != State.ABSENT).sum())
                for name in names
            ),
            default=0,
        )
    return found


def waiting(scope: Scope, tx: Tx, destination: Destination) -> int:
    """Return how many erased people a destination still has, or may have, that cannot be removed there now."""
    if destination.status in SENDING or destination.is_connection:
        return 0
    erased, names = Suppressions.read(scope), {each.file for each in activations_of(tx, destination) if each.file}
    return max(
        (_erased(erased, destination.identity, at_target.opened(file_of(scope, name))) for name in names), default=0
    )


def _erased(erased: Suppressions, identity: str, entries: Entries) -> int:
    found = 0
    for start in range(0, len(entries), SLICE):
        values, states = entries.part(start, start + SLICE)
        found += int(primaries.were_erased(erased, identity, values.take(changes.may_be_there(states))).sum())
    return found


def _sought(identity: str, kinds: Kinds) -> Values | None:
    """Return people as a destination knows them, sorted; None where it cannot know any."""
    if identity == PRIMARY:
        there = [(each, values) for each in NAMESPACES if isinstance(values := kinds.get(each), Values)]
        return Values.join([keyed(each, values) for each, values in there]) if there else None
    given = kinds.get(suppressions.ID if identity == PROFILE_ID else identity)
    return given if given is None or isinstance(given, Values) else Values.of(sorted(given.tolist()))
