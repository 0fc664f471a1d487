"""The release: records that only the holder of F(x) can find and open.

    tag = SHA-512(TAG_LABEL, F(x), feed)[:16]        record = tag || bitmap XOR pad
    pad = SHA-512(PAD_LABEL, F(x), feed, version, data revision)[:w]

F(x) is 64 bytes of the keyed function in `psi.oprf`. Without it a record looks like random bytes; to the receiver, so
does every record of a value that is not its own. An all-zero bitmap, which takes a member out, looks like any other. A
pad is used once, since the data revision only grows. Tags stay the same within a feed and epoch: a receiver that keeps
two revisions sees which records came and went, not whose they are. Two feeds share no tag.
"""

import numpy as np

from . import kernel
from .errors import InvalidTags
from .hashing import PAD_LABEL, TAG_LABEL, length_prefixed, number
from .join import arrange, first_disorder, join_order, match
from .values import SLICE, U8, Indices, Rows

TAG_BYTES = 16
MAX_BITMAP_BYTES = 64  # 512 segments, one SHA-512 pad


def seal(prf: Rows, bitmaps: U8, *, feed: bytes, version: int, revision: int) -> U8:
    """Return one record for each F(x), uint8 (n, 16 + w), sorted by tag.

    `prf` is uint8 (n, 64) without repetition, which is read some rows at a time; `bitmaps` uint8 (n, w), w from 1 to 64.
    Raises InvalidTags if an F(x) occurs twice: the identity would get two records.
    """
    records = np.empty((len(prf), TAG_BYTES + bitmaps.shape[1]), np.uint8)
    for start in range(0, len(prf), SLICE):
        part = slice(start, start + SLICE)
        records[part] = sealed(prf[part], bitmaps[part], feed=feed, version=version, revision=revision)
    arrange(records, join_order(records[:, :TAG_BYTES]))
    check_order(records)
    return records


def sealed(prf: U8, bitmaps: U8, *, feed: bytes, version: int, revision: int) -> U8:
    """Return the records of `seal` in the order of `prf`: they may not leave before they are sorted."""
    padded = bitmaps ^ pads(prf, bitmaps.shape[1], feed, version, revision)
    return np.concatenate([tags_of(prf, feed), padded], axis=1)


def open_records(
    records: Rows, prf: U8, *, feed: bytes, version: int, revision: int, tags: U8 | None = None
) -> tuple[Indices, U8]:
    """Return which rows of `prf` have a record, and their bitmaps: indices (h,), ascending, and uint8 (h, w).

    `records` is one data revision, complete, uint8 (m, 16 + w); `tags` are those of `prf`, where they are at hand.
    Raises InvalidTags unless the records are sorted by tag and no tag occurs twice. The receiver learns the bitmaps of
    its own values, and how many records there are.
    """
    records = records[:]
    width = records.shape[1] - TAG_BYTES
    if not 1 <= width <= MAX_BITMAP_BYTES:
        raise InvalidTags(f"a record has {records.shape[1]} bytes")
    check_order(records)
    return open_sorted(records, prf, feed=feed, version=version, revision=revision, tags=tags)


def open_sorted(
    records: Rows, prf: U8, *, feed: bytes, version: int, revision: int, tags: U8 | None = None
) -> tuple[Indices, U8]:
    """Return what `open_records` does of records that it, or `check_order`, has found sorted before."""
    records = records[:]
    width = records.shape[1] - TAG_BYTES
    rows, indices = match(records[:, :TAG_BYTES], tags_of(prf, feed) if tags is None else tags)
    bitmaps = records[rows, TAG_BYTES:]
    for start in range(0, len(indices), SLICE):
        part = slice(start, start + SLICE)
        bitmaps[part] ^= pads(prf[indices[part]], width, feed, version, revision)
    return indices, bitmaps


def tags_of(prf: U8, feed: bytes) -> U8:
    """Return the tag of each F(x) in a feed, uint8 (n, 16): the same in all its revisions."""
    return kernel.digests(length_prefixed(TAG_LABEL) + number(64), prf, length_prefixed(feed), TAG_BYTES)


def pads(prf: U8, width: int, feed: bytes, version: int, revision: int) -> U8:
    """Return what hides the bitmap of each F(x) in one revision, uint8 (n, width)."""
    suffix = length_prefixed(feed, number(version), number(revision))
    return kernel.digests(length_prefixed(PAD_LABEL) + number(64), prf, suffix, width)


def check_order(records: Rows) -> None:
    """Raise InvalidTags unless the records, uint8 (n, 16 + w), are sorted by tag and no tag occurs twice."""
    for start in range(0, len(records) - 1, SLICE):
        disorder = first_disorder(records[start : start + SLICE + 1][:, :TAG_BYTES])
        if disorder is not None:
            raise InvalidTags(f"record {start + disorder[0]} is {'repeated' if disorder[1] else 'out of order'}")
