"""The tags that records about our own people have in one feed, sorted, so that new records are looked up and nothing else is.

Runs of so many identities each are kept, so that a run can be sorted in memory: a look-up goes through all of them. Beside
them stands which F they are the tags of; where that is another one by now, the index is made again.
"""

from dataclasses import astuple, dataclass

import msgpack
import numpy as np

from psi import membership
from psi.join import join_order
from psi.membership import TAG_BYTES
from psi.values import SLICE, U8, Rows, Values, sort_keys

from ...exchanges.kept_prf import KeptPrf
from ...storage.cache import Cache
from ...storage.parts import Parts
from ...storage.sorted_files import Block

RUN = 1 << 19  # identities: sorting them takes some 50 MB
CUSTOM = 256  # bytes of the sort keys of identities whose lengths differ


@dataclass(frozen=True, slots=True)
class _Noted:
    """What an index is: the stamp of the F that it has the tags of, the width of the identities, the stamps of its runs."""

    of: bytes = b""
    width: int = 0
    runs: tuple[bytes, ...] = ()


class TagIndex:
    """The tags of all F that we have in a namespace in a feed, which the sender calls `feed`, and whose they are.

    Whoever uses it is the only one that writes in the database.
    """

    def __init__(self, cache: Cache, feed_id: str, feed: bytes, namespace: str, prf: KeptPrf) -> None:
        self._cache, self._feed, self._prf = cache, feed, prf
        self._name = f"tags {namespace} {feed_id}"

    def find(self, tags: U8) -> Values | None:
        """Return the identities of ours whose tag is among some, uint8 (n, 16), which ascend; they are sorted.

        None where a file turns out to be damaged.
        """
        self.cover()
        noted, found = _noted(self._cache, self._name), list[U8]()
        for number in range(len(noted.runs)):
            with self._run(number, noted.width).open() as rows:
                found.append(rows.find(tags, ("value",))[1].columns["value"])
                if rows.lost:
                    return None
        if not self._is_whole(noted):
            return None
        keys = np.concatenate([each for each in found if len(each)] or [np.empty((0, TAG_BYTES), np.uint8)])
        return _values_of(keys[join_order(keys)])

    def cover(self) -> None:
        """Make the index again unless it is that of all F that we have now."""
        noted = _noted(self._cache, self._name)
        if noted.of != self._prf.stamp() or not self._is_whole(noted):
            self._make()

    def _is_whole(self, noted: _Noted) -> bool:
        stamps = (self._run(number, noted.width).stamp() for number in range(len(noted.runs)))
        return noted.runs == tuple(stamps)

    def add(self, values: Values, prf: Rows, *, before: bytes, after: bytes) -> None:
        """Add identities whose F, rows of 64 bytes, came between two stamps of F, as nothing else did."""
        noted, keys = _noted(self._cache, self._name), sort_keys(values)
        if not len(values) or not noted.runs or noted.of != before or noted.width != keys.shape[1]:
            return  # the next look-up makes it
        number = len(noted.runs) - 1
        with self._run(number, noted.width).open() as rows:
            number += len(rows) >= RUN
        tags = [membership.tags_of(prf[start : start + SLICE], self._feed) for start in range(0, len(prf), SLICE)]
        stamp = self._write(number, keys, np.concatenate(tags))
        self._note(_Noted(after, noted.width, (*noted.runs[:number], stamp)))

    def _make(self) -> None:
        _drop(self._cache, self._name)
        runs, keys, tags = list[bytes](), list[U8](), list[U8]()
        with self._prf.open() as have:
            of = have.stamp
            for block in have.blocks():
                keys.append(block.keys)
                tags.append(membership.tags_of(block.columns["prf"], self._feed))
                if sum(map(len, keys)) >= RUN:
                    runs.append(self._write(len(runs), np.concatenate(keys), np.concatenate(tags)))
                    keys, tags = [keys[-1][:0]], [tags[-1][:0]]
        if sum(map(len, keys)):
            runs.append(self._write(len(runs), np.concatenate(keys), np.concatenate(tags)))
        self._note(_Noted(of, keys[0].shape[1] if keys else 0, tuple(runs)))

    def _write(self, number: int, keys: U8, tags: U8) -> bytes:
        """Add identities to a run, and return its stamp."""
        order = join_order(tags)
        places = (order[start : start + SLICE] for start in range(0, len(order), SLICE))
        run = self._run(number, keys.shape[1])
        run.add(Block(np.take(tags, each, axis=0), {"value": np.take(keys, each, axis=0)}) for each in places)
        return run.stamp()

    def _run(self, number: int, width: int) -> Parts:
        return Parts(self._cache, f"{self._name} {number}", key=TAG_BYTES, columns={"value": width})

    def _note(self, noted: _Noted) -> None:
        self._cache.save(self._name, index=np.frombuffer(msgpack.packb(astuple(noted)), np.uint8))


def forget(cache: Cache, feed_id: str) -> None:
    """Delete a feed's indexes."""
    for name in {" ".join(each.split(" ")[:3]) for each in cache.names("tags ")}:
        if name.endswith(f" {feed_id}"):
            _drop(cache, name)


def forget_stale(cache: Cache, namespace: str, stamp: bytes) -> None:
    """Delete the indexes of a namespace that are not of F of a stamp: they may have whom it has no more."""
    for name in {" ".join(each.split(" ")[:3]) for each in cache.names(f"tags {namespace} ")}:
        if _noted(cache, name).of != stamp:
            _drop(cache, name)


def _noted(cache: Cache, name: str) -> _Noted:
    stored = cache.load(name)
    if stored is None:
        return _Noted()
    of, width, runs = msgpack.unpackb(stored["index"].tobytes())
    return _Noted(of, width, tuple(runs))


def _drop(cache: Cache, beginning: str) -> None:
    for name in cache.names(beginning):
        cache.drop(name)


def _values_of(keys: U8) -> Values:
    """Return the identities that have some sort keys."""
    return Values(keys[:, :-1], keys[:, -1]) if keys.shape[1] == CUSTOM else Values(keys)
