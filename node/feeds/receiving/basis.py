"""What the members of a received feed were computed from, kept beside F in the epoch's cache.

A basis is a statement that stays true: members in these files are what these records, these people of ours and this F of
them gave. Files are named at random, so what a kill or a broken-off transaction leaves fits nothing: then members are
computed as a whole.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import msgpack
import numpy as np
from pyroaring import BitMap

from ...storage.cache import Cache

FORMAT = 1  # counts up when members are computed in another way


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What members were computed from, each part named by a digest, or by names that nothing else ever has.

    `waiting` are the profiles that have to be decided again all the same, a roaring bitmap.
    """

    definitions: bytes  # of the version of the records, and of the one in force
    records: list[str]  # the files of the chain, oldest first
    people: Mapping[str, bytes]  # ours by namespace, see `audiences.stamp`
    evaluated: Mapping[str, bytes]  # the stamp of their F, by namespace
    members: Mapping[str, str]  # the file of each segment's members, by its id
    compared: int  # when they were last computed as a whole
    waiting: bytes = BitMap().serialize()
    format: int = FORMAT

    @property
    def waits(self) -> BitMap:
        return BitMap.deserialize(self.waiting)

    def save(self, cache: Cache, feed_id: str) -> None:
        content = msgpack.packb(asdict(self))
        cache.save(_name(feed_id), basis=np.frombuffer(content, np.uint8))


def load(cache: Cache, feed_id: str) -> Basis | None:
    """Return what a feed's members were computed from in this epoch; None where nothing is known."""
    stored = cache.load(_name(feed_id))
    if stored is None:
        return None
    known = msgpack.unpackb(stored["basis"].tobytes())
    if known.get("format") != FORMAT or known.keys() != {each.name for each in fields(Basis)}:
        return None
    return Basis(**known)


def forget(cache: Cache, feed_id: str) -> None:
    cache.drop(_name(feed_id))


def _name(feed_id: str) -> str:
    return f"basis {feed_id}"
