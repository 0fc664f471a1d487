"""What data revisions contain, as the cache of a key epoch keeps it: few identities are looked up, or changed, without reading
all.

The content of a run is sorted rows (see Parts) by the identities' sort keys; that of the next run begins with the same
files. Beside it is SHA-256 of each bucket of rows. The row of the run has a digest of all of them: where what is kept does
not fit it, nothing goes on from it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np

from protocol.feed import Definition
from psi.hashing import length_prefixed
from psi.values import SLICE, U8, Values, of_sort_keys, sort_keys

from ...errors import Failure
from ...exchanges.kept_prf import among, key_bytes
from ...inputs.normalise import rule
from ...storage.cache import Cache, Epoch
from ...storage.parts import Parts
from ...storage.sorted_files import BUCKETS, Block, buckets_of
from ...storage.views import View
from .revisions import Content, Contents

DIGEST = 32  # bytes
Digests = Mapping[str, U8]  # by namespace, of each bucket of its rows, uint8 (BUCKETS, 32)


class KeptContent:
    """The content of one run in one namespace; its bitmaps have `width` bytes."""

    def __init__(self, cache: Cache, run_id: str, namespace: str, width: int) -> None:
        self.namespace, self._cache, self._width = namespace, cache, width
        self._name, self._digests = f"content {run_id} {namespace}", f"digests {run_id} {namespace}"
        columns = {"bitmap": width}
        kind = f"content {namespace}"
        self._parts = Parts(cache, self._name, key=key_bytes(namespace), columns=columns, empty="bitmap", kind=kind)

    @contextmanager
    def open(self) -> "Iterator[OpenContent]":
        """Yield what there is, as it is now; its methods raise Failure where a file is damaged: then there is nothing."""
        with self._parts.open() as view:
            yield OpenContent(view, self.namespace, self._width)

    def save(self, content: Content, digests: U8) -> None:
        """Keep a whole content with the digests of its buckets."""
        self._parts.put(_blocks(content))
        self._cache.save(self._digests, digests=digests)

    def follow(self, last: "KeptContent", changes: Content, digests: U8) -> None:
        """Keep what another run has with some changes, and the digests of the buckets afterwards; raises Failure."""
        self._parts.begin_with(last._parts)
        self._parts.put(_blocks(changes))
        self._cache.save(self._digests, digests=digests)

    def digests(self) -> U8 | None:
        """Return the digests of the buckets, None where they are not there."""
        stored = self._cache.load(self._digests)
        return None if stored is None else stored["digests"].astype(np.uint8, copy=False)

    def retain(self, known: Values) -> None:
        """Delete all but some sorted identities from disk; digests of what had others fit no more, and go first."""
        self._parts.retain(partial(among, known), lambda _count: self._cache.drop(self._digests))


class OpenContent:
    """The content of a run in one namespace, as it was when it was opened."""

    def __init__(self, view: View, namespace: str, width: int) -> None:
        self._view, self._namespace, self._width = view, namespace, width

    def __len__(self) -> int:
        return len(self._view)

    def find(self, values: Values) -> Content:
        """Return those of some sorted identities that are in it."""
        found = self._view.find(sort_keys(values))[1]
        return self._content([found])

    def whole(self, changes: Content | None = None) -> Content:
        """Return all of it, or what it is with changes."""
        over = () if changes is None else _blocks(changes)
        return self._content([*self._view.blocks(over=over)])

    def outside(self, known: Values) -> Values:
        """Return the identities in it that are not among some sorted ones."""
        keys = [block.keys[~among(known, block.keys)] for block in self._view.blocks(keys_only=True)]
        return self._content(
            [Block(each, {"bitmap": np.empty((len(each), self._width), np.uint8)}) for each in keys]
        ).values

    def digests(self, before: U8, changes: Content) -> U8:
        """Return the digests of the buckets after some changes, where they are known before them."""
        touched = np.zeros(BUCKETS, bool)
        touched[buckets_of(sort_keys(changes.values))] = True
        digests = np.where(touched[:, None], np.uint8(0), before)
        if touched.any():
            _hash(self._view.blocks(within=touched, over=_blocks(changes)), digests)
        return digests

    def _content(self, blocks: list[Block]) -> Content:
        width, bitmaps = rule(self._namespace).width, [np.empty((0, self._width), np.uint8)]
        values = (of_sort_keys(block.keys, width) for block in blocks)
        return Content(
            values=Values.join([nothing(self._namespace), *values]),
            bitmaps=np.concatenate([*bitmaps, *(block.columns["bitmap"] for block in blocks)]),
        )


def kept(cache: Cache, run_id: str) -> dict[str, KeptContent]:
    """Return what there is of the content of a run, by namespace; nothing if it was deleted."""
    found = {}
    for name in cache.names(f"content {run_id} "):
        _, _, namespace, *part = name.split(" ")
        if part:
            continue
        shape = Parts.shape_of(cache, name)
        each = _taken_over(cache, run_id, namespace) if shape is None else None
        if shape is not None:
            each = KeptContent(cache, run_id, namespace, shape.columns["bitmap"])
        if each is not None:
            found[namespace] = each
    return found


def whole(cache: Cache, run_id: str) -> Contents:
    """Return all of a run's content; what cannot be read is left out."""
    found = {}
    for namespace, each in kept(cache, run_id).items():
        with suppress(Failure), each.open() as content:
            found[namespace] = content.whole()
    return found


def nothing(namespace: str) -> Values:
    """Return no identity of a namespace."""
    return of_sort_keys(np.empty((0, key_bytes(namespace)), np.uint8), rule(namespace).width)


def in_order(contents: Contents) -> Digests:
    """Return the digests of the buckets of a whole content."""
    found = {}
    for namespace, content in contents.items():
        found[namespace] = np.zeros((BUCKETS, DIGEST), np.uint8)
        _hash(_blocks(content), found[namespace])
    return found


def digest(digests: Digests, definition: Definition, epoch: Epoch) -> bytes:
    """Return a digest of what a run releases, 32 bytes: where it is the same as at the last run, nothing has changed."""
    parts = [definition.digest(), str(epoch.number).encode()]
    for namespace, each in sorted(digests.items()):
        parts += [namespace.encode(), hashlib.sha256(each.tobytes()).digest()]
    return hashlib.sha256(length_prefixed(*parts)).digest()


def _taken_over(cache: Cache, run_id: str, namespace: str) -> KeptContent | None:
    """Return what a version before kept in one file, after it has become rows; it has no digests."""
    name = f"content {run_id} {namespace}"
    stored = cache.load(name)
    if stored is None or "bitmaps" not in stored:
        return None
    bitmaps = stored["bitmaps"].astype(np.uint8, copy=False)
    each = KeptContent(cache, run_id, namespace, bitmaps.shape[1])
    each._parts.put(_blocks(Content(values=Values.of_arrays(stored), bitmaps=bitmaps)))
    return each


def _hash(blocks: Iterable[Block], digests: U8) -> None:
    """Set the digests of the buckets that some blocks have rows of, all rows of each."""
    number, found = -1, hashlib.sha256()
    for block in blocks:
        rows = np.concatenate([block.keys, block.columns["bitmap"]], axis=1)
        buckets = buckets_of(block.keys)
        edges = np.flatnonzero(buckets[1:] != buckets[:-1]) + 1
        for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(rows)], strict=True):
            if buckets[start] != number:
                if number >= 0:
                    digests[number] = np.frombuffer(found.digest(), np.uint8)
                number, found = int(buckets[start]), hashlib.sha256()
            found.update(rows[start:end].data)
    if number >= 0:
        digests[number] = np.frombuffer(found.digest(), np.uint8)


def _blocks(content: Content) -> Iterator[Block]:
    for start in range(0, len(content.values), SLICE):
        part = slice(start, start + SLICE)
        yield Block(sort_keys(content.values.part(part)), {"bitmap": content.bitmaps[part]})
