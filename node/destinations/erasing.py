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
from .records import PROFILE_ID, activations_of, file_of, stored

Kinds = Mapping[str, Values | npt.NDArray[np.bytes_]]  # sorted, by namespace with its rule, and the ids


def kept(scope: Scope, tx: Tx, kinds: Kinds) -> dict[str, int]:
    """Return by destination how many of some people it has, or may have."""
    found = {}
    for destination in stored(scope, tx):
        kind = suppressions.ID if destination.identity == PROFILE_ID else destination.identity
        given = kinds.get(kind)
        if given is None:
            continue
        values = given if isinstance(given, Values) else Values.of(sorted(given.tolist()))
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
