"""Erased people at destinations: how many of them are known there still, until the removal has arrived."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from psi.values import Values

from ..access.scope import Scope
from ..people import suppressions
from ..storage.database import Tx
from . import at_target, changes
from .changes import Listed, State
from .primaries import NAMESPACES, PRIMARY, keyed
from .records import PROFILE_ID, activations_of, file_of, stored

Kinds = Mapping[str, Values | npt.NDArray[np.bytes_]]  # sorted, by namespace with its rule, and the ids


def kept(scope: Scope, tx: Tx, kinds: Kinds) -> dict[str, int]:
    """Return by destination how many of some people it has, or may have."""
    found = {}
    for destination in stored(scope, tx):
        values = _sought(destination.identity, kinds)
        if values is None or destination.is_connection:  # its solutions have them
            continue
        sought = Listed(values, np.full(len(values), State.PRESENT, np.uint8))
        names = {name for each in activations_of(tx, destination) for name in (each.file, each.pending) if name}
        found[destination.name] = max(
            (
                int((changes.states_of(at_target.opened(file_of(scope, name)), sought) != State.ABSENT).sum())
                for name in names
            ),
            default=0,
        )
    return found


def _sought(identity: str, kinds: Kinds) -> Values | None:
    """Return people as a destination knows them, sorted; None where it cannot know any."""
    if identity == PRIMARY:
        there = [(each, values) for each in NAMESPACES if isinstance(values := kinds.get(each), Values)]
        return Values.join([keyed(each, values) for each, values in there]) if there else None
    given = kinds.get(suppressions.ID if identity == PROFILE_ID else identity)
    return given if given is None or isinstance(given, Values) else Values.of(sorted(given.tolist()))
