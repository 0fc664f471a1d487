"""F of identities as the cache of an epoch keeps it: few are found, added or deleted without reading all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from cryptography.exceptions import InvalidTag

from psi.join import match
from psi.values import SLICE, U8, Bools, Indices, Rows, Values, sort_keys

from ..inputs.normalise import MAX_OPAQUE, rule
from ..people.identity_rows import near
from ..storage.cache import Cache, OpenRows
from ..storage.files import let_go
from ..storage.parts import Parts
from ..storage.sorted_files import Block
from ..storage.views import View

PRF_BYTES = 64  # of F of one identity


class KeptPrf:
    """F of identities of one namespace, under a name in a cache: sorted rows (see Parts) by the identities' sort keys."""

    def __init__(self, cache: Cache, name: str, namespace: str) -> None:
        self._parts = Parts(cache, name, key=key_bytes(namespace), columns={"prf": PRF_BYTES})
        if not self._parts.stamp() and cache.has(name):
            self._take_over(cache, name)

    @contextmanager
    def open(self) -> "Iterator[OpenPrf]":
        """Yield what there is, as it is now."""
        with self._parts.open() as view:
            yield OpenPrf(view)

    def stamp(self) -> bytes:
        return self._parts.stamp()

    def add(self, values: Values, prf: Rows, *, public: bytes = b"", absent: bytes | None = None) -> None:
        """Keep F of sorted identities; `public` is the key that made it, `absent` the stamp of what has none of them."""
        self._parts.add(_blocks(values, prf), about=public, absent=absent)

    def retain(self, known: Values, going: Callable[[int], None] = lambda _count: None) -> int:
        """Delete F of all but some sorted identities from disk; return how many went.

        `going` hears of the number before, if it is any.
        """
        return self._parts.retain(partial(among, known), going)

    def found(self) -> None:
        """Note that nothing is missing, whatever was lost."""
        self._parts.found()

    def _take_over(self, cache: Cache, name: str) -> None:
        """Take what a version before kept in one file."""
        try:
            with cache.open(name) as stored:
                if "prf" not in stored.lengths():
                    return
                values = Values.of_arrays(stored.load(only=("rows", "lengths")))
                public = stored.load(only=("public",)).get("public", np.empty(0, np.uint8)).tobytes()
                self.add(values, OpenRows(stored, "prf", len(values)), public=public)
        except FileNotFoundError:
            return
        except InvalidTag:
            cache.drop(name)


class OpenPrf:
    """F of identities as it was when it was opened."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    @property
    def stamp(self) -> bytes:
        """What tells it from any other F under its name; empty where there is none."""
        return self._view.stamp

    @property
    def public(self) -> bytes:
        """The key that made it; empty where there is none."""
        return self._view.about

    @property
    def lost(self) -> int:
        """Of how many identities it could not be read any more."""
        return self._view.lost

    def missing(self, values: Values) -> Bools:
        """Return which of some sorted identities it is not there of."""
        missing = np.ones(len(values), bool)
        for start, part in _slices(values):
            missing[start + self._view.find(sort_keys(part), ())[0]] = False
        return missing

    def has(self, values: Values) -> bool:
        """Return whether it is there of all of some sorted identities."""
        return all(len(self._view.find(sort_keys(part), ())[0]) == len(part) for _, part in _slices(values))

    def find(self, values: Values) -> tuple[Indices, U8]:
        """Return where those of some sorted identities stand that it is there of, ascending, and F, uint8 (n, 64)."""
        found = [(start, *self._view.find(sort_keys(part))) for start, part in _slices(values)]
        if len(found) == 1:
            return found[0][1], found[0][2].columns["prf"]
        places = [np.empty(0, np.intp), *(start + places for start, places, _ in found)]
        prf = np.empty((sum(map(len, places)), PRF_BYTES), np.uint8)
        done = 0
        for _, _, block in found:
            prf[done : done + len(block)] = block.columns["prf"]
            done += len(block)
        return np.concatenate(places), prf

    def blocks(self) -> Iterator[Block]:
        """Yield all of it in the order of the identities' sort keys, some at a time; F is the column "prf"."""
        return self._view.blocks()


def key_bytes(namespace: str) -> int:
    """Return how wide the sort keys of a namespace's identities are."""
    width = rule(namespace).width
    return sort_keys(Values(np.empty((0, width), np.uint8))).shape[1] if width else MAX_OPAQUE + 1


def among(known: Values, keys: U8) -> Bools:
    """Return which sort keys, which ascend, are those of one of some sorted identities."""
    found = np.zeros(len(keys), bool)
    found[match(keys, sort_keys(near(known, keys)))[0]] = True
    return found


def _blocks(values: Values, prf: Rows) -> Iterator[Block]:
    for start, part in _slices(values):
        yield Block(sort_keys(part), {"prf": prf[start : start + SLICE]})


def _slices(values: Values) -> Iterator[tuple[int, Values]]:
    for start in range(0, len(values), SLICE):
        part = values.part(slice(start, start + SLICE))
        yield start, part
        let_go(part.rows)
