"""Who has a trait now, and how often people realised traits: what rules of segments ask for."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from ..access.scope import Scope
from ..storage.database import Tx
from . import signals
from .records import TraitKind
from .trait_cache import cached
from .visitors import U32, opened


class TraitMembers:
    """The members of the traits of a project as they are now; a trait of a folder has those of all traits below."""

    def __init__(self, scope: Scope, tx: Tx) -> None:
        self._visitors = opened(scope)
        self._cache = cached(scope, tx)

    def of(self, number: int) -> BitMap:
        """Return who has a trait; nobody has one that does not exist."""
        below = self._cache.below(number)
        return BitMap.union(BitMap(), *(self._visitors.members(each, self._days(each)) for each in below))

    def frequency(self, numbers: Sequence[int], days: int | None) -> tuple[U32, npt.NDArray[np.int64]]:
        """Return who realised any of some traits at most `days` days ago (0: today; None: ever), and how often.

        What has expired does not count.
        """
        since = 0 if days is None else self._visitors.today - days
        below = {each for number in numbers for each in self._cache.below(number)}
        return self._visitors.frequency(
            {each: max(since, self._visitors.first_day(self._days(each))) for each in below}
        )

    def _days(self, number: int) -> int:
        return self._cache.traits[number].days


def held_now(scope: Scope, tx: Tx, visitor: int) -> list[int]:
    """Return the traits that a visitor has, in ascending order, those of folders too."""
    cache, visitors = cached(scope, tx), opened(scope)
    found = {
        trait
        for trait, day in visitors.held(visitor)
        if trait in cache.traits and day >= visitors.first_day(cache.traits[trait].days)
    }
    of_folders = [each for each in cache.traits.values() if each.kind is TraitKind.FOLDER]
    return sorted(found | {each.number for each in of_folders if not found.isdisjoint(cache.below(each.number))})


def drop_expired(scope: Scope) -> None:
    """Drop what has expired, traits that are no more, and signals that were not seen for long."""
    visitors = opened(scope)
    if not visitors.file.path.exists():
        return
    with visitors.begin() as writing:
        with scope.home.read() as tx:
            days = {each.number: each.days for each in cached(scope, tx).traits.values()}
        visitors.drop_expired(days)
        signals.forget(writing, visitors.today)
