"""The traits of a project as calls need them, kept in memory until they change."""

import gc
import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

from ..access.scope import Scope
from ..storage.database import Tx, is_committed
from . import folders, numbers, traits
from .records import TOP, BriefTrait, TraitKind
from .trait_index import TraitIndex


class TraitCache:
    """The traits of one project in one state, and the index of their rules.

    Who uses the index has the writing transaction of audience.db: it is one, and follows the state that asks for it.
    """

    def __init__(self, kept: "_Kept", revision: int, traits: dict[int, BriefTrait], parents: dict[int, int]) -> None:
        self._kept = kept
        self._parents = parents  # of folders
        self.revision = revision
        self.traits = traits

    @cached_property
    def of_source(self) -> dict[int, tuple[int, ...]]:
        """The traits of each data source."""
        found = defaultdict(list)
        for number, trait in self.traits.items():
            found[trait.source].append(number)
        return {source: tuple(numbers) for source, numbers in found.items()}

    @property
    def index(self) -> TraitIndex:
        return self._kept.index_of(self.traits)

    def reads(self, key: str) -> bool:
        """Return whether the rule of a trait reads a key."""
        return self.index.reads(key)

    def realisable(self, given: Sequence[int]) -> tuple[int, ...]:
        """Return those traits that are there and can be realised: one of a folder has what the folder's traits have."""
        there = (each for each in dict.fromkeys(given) if each in self.traits)
        return tuple(each for each in there if self.traits[each].kind is not TraitKind.FOLDER)

    def counts_once(self, number: int) -> bool:
        return self.traits[number].kind is TraitKind.ON_BOARDED

    def below(self, number: int) -> list[int]:
        """Return the traits that make up one: itself, or those of its folder and of the folders below."""
        trait = self.traits.get(number)
        if trait is None:
            return []
        if trait.kind is not TraitKind.FOLDER:
            return [number]
        inside = {each for each in {TOP, *self._parents} if each == trait.folder or trait.folder in self._above(each)}
        return [
            each.number for each in self.traits.values() if each.folder in inside and each.kind is not TraitKind.FOLDER
        ]

    def _above(self, folder: int) -> list[int]:
        """Return the folders that a folder is in."""
        found: list[int] = []
        while folder != TOP and folder in self._parents and folder not in found:
            folder = self._parents[folder]
            found.append(folder)
        return found


class _Kept:
    """The newest state that a process has seen of the traits of a project."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = TraitCache(self, -1, {}, {})
        self._index, self._indexed = TraitIndex(), dict[int, BriefTrait]()

    def at(self, scope: Scope, tx: Tx) -> TraitCache:
        """Return the state that a transaction sees: what has changed alone is read."""
        newest, revision = self._newest, numbers.revision(scope, tx)
        if revision == newest.revision:
            return newest
        known = newest if revision > newest.revision else TraitCache(self, -1, {}, {})
        found = traits.changed(scope, tx, known.traits, known.revision)
        parents = {each.number: each.parent for each in folders.stored(scope, tx)}
        made = TraitCache(self, revision, found, parents)
        with self._lock:
            if is_committed(tx) and revision > self._newest.revision:
                self._newest = made
        return made

    def index_of(self, now: dict[int, BriefTrait]) -> TraitIndex:
        """Return the index of the rules of some traits."""
        if now is not self._indexed:
            with _uncollected():
                for number, before in self._indexed.items():
                    after = now.get(number)
                    if after is not before and (after is None or after.tree != before.tree):
                        self._index.remove(number)
                for number, each in now.items():
                    known = self._indexed.get(number)
                    if each is not known and (known is None or known.tree != each.tree):
                        tree = json.loads(each.tree or "null")
                        if tree is not None:
                            self._index.add(number, tree)
            self._indexed = now
        return self._index

    def close(self) -> None:
        """Nothing is open."""


def cached(scope: Scope, tx: Tx) -> TraitCache:
    """Return the traits of a project as a transaction sees them."""
    return scope.home.kept(("traits", scope.id), _Kept).at(scope, tx)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make many objects that stay: to look again and again which of them can go would take half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
