"""Members by their primary identities, of whichever namespace these are: for targets that know no other.

In one list of identities each says of which namespace it is: the place of that in NAMESPACES, from 1 on, is its first
byte. Whose primary identity is of none of them stands there under 0 and the profile's number, and never leaves.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from psi.values import U8, Bools, Indices, Values

from ..inputs.normalise import rule
from ..people import suppressions
from ..people.snapshots import Snapshot
from ..people.suppressions import Suppressions
from .changes import Digests, Entries
from .mapping import Numbers
from .records import PROFILE_ID

PRIMARY = "primary"  # the identity of a destination that gets these
NAMESPACES = ("ecid/digits-v1", "email_sha256/lc-v1", "gaid/uuid-v1", "idfa/uuid-v1")
WIDTH = 1 + max(rule(each).width for each in NAMESPACES)


class OfPeople(Entries, Protocol):
    """Entries that say of which profile each is."""

    @property
    def profiles(self) -> Numbers: ...


class Prefixed:
    """Entries of several namespaces, each with its first byte, in ascending order of these."""

    def __init__(self, groups: Sequence[tuple[int, OfPeople]]) -> None:
        self._groups = groups
        self._starts = np.cumsum([0, *(len(each) for _, each in groups)]).tolist()
        self.profiles: Numbers = np.concatenate([each.profiles for _, each in groups])

    def __len__(self) -> int:
        return len(self.profiles)

    def part(self, start: int, stop: int) -> tuple[Values, U8]:
        """Return consecutive identities and their states, uint8 (n,)."""
        size = max(min(stop, len(self)) - start, 0)
        rows, lengths, states = np.zeros((size, WIDTH), np.uint8), np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for (first, group), begin in zip(self._groups, self._starts, strict=False):
            low, high = max(start, begin), min(start + size, begin + len(group))
            if low < high:
                into = slice(low - start, high - start)
                values, states[into] = group.part(low - begin, high - begin)
                _put(rows[into], first, values)
                lengths[into] = 1 + values.rows.shape[1]
        return Values(rows, lengths), states

    def digests(self, start: int, stop: int) -> Digests:
        parts = [
            group.digests(max(start - begin, 0), max(stop - begin, 0))
            for (_, group), begin in zip(self._groups, self._starts, strict=False)
        ]
        return np.concatenate(parts)


def present(snapshot: Snapshot) -> list[str]:
    """Return the namespaces of which anybody has an identity."""
    return [each for each in NAMESPACES if each in snapshot.namespaces]


def keyed(namespace: str, values: Values) -> Values:
    """Return identities of one of the namespaces as they stand in a list of all."""
    rows = np.zeros((len(values), WIDTH), np.uint8)
    _put(rows, NAMESPACES.index(namespace) + 1, values)
    return Values(rows, np.full(len(values), 1 + values.rows.shape[1], np.uint8))


def split(values: Values) -> list[tuple[str, Indices, Values]]:
    """Return by namespace the places that its identities have in a list, and they themselves."""
    found = []
    for first, name in enumerate(NAMESPACES, 1):
        places = np.flatnonzero(values.rows[:, 0] == first)
        if len(places):
            rows = np.ascontiguousarray(values.rows[places, 1 : 1 + rule(name).width])
            found.append((name, places, Values(rows)))
    return found


def _put(rows: U8, first: int, values: Values) -> None:
    rows[:, 0] = first
    rows[:, 1 : 1 + values.rows.shape[1]] = values.rows


def were_erased(erased: Suppressions, identity: str, values: Values) -> Bools:
    """Return who of those that a destination knows by `identity` was erased, bool (n,)."""
    if identity != PRIMARY:
        return erased.has(suppressions.ID if identity == PROFILE_ID else identity, values)
    found = np.zeros(len(values), bool)
    for namespace, places, own in split(values):
        found[places] = erased.has(namespace, own)
    return found
