"""The engine of one machine. Large sets are worked on in buckets, so that little of them is in memory at once.

To sort, rows are put into buckets by their first byte, a piece at a time; then each bucket is sorted in memory. To bring
rows back into an order, they are put into buckets by their places. All that is sorted here is random to begin with (blinded
points, tags), so buckets are of about one size; where a partner chose the rows, they are read in pieces and never collected.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt

from . import count, kernel, membership, oprf, proof
from .engine import Blinded, Revision, blocks
from .errors import DuplicatePoint, InvalidPoint, InvalidTags
from .join import arrange, first_disorder, join_order, match
from .keys import Key
from .membership import TAG_BYTES
from .places import LocalPlace, Memory, Scratch
from .values import SLICE, U8, Bools, Indices, Rows, Values

PIECE = 1 << 18  # rows that are worked on at once; a set of no more is not divided
BUCKETS = 128  # of a set: by the first byte, of which the lowest bit of a point is always zero
PLACE_BYTES = 4  # of the place of a row among others

Places = npt.NDArray[np.uint32]


class LocalEngine:
    """Works with the threads of this machine. Sets of more than a piece are put into what `scratch` returns, else into memory."""

    def __init__(self, scratch: Callable[[], Scratch] = Memory) -> None:
        self._scratch = scratch

    def gather(self, width: int, count: int) -> LocalPlace:
        return LocalPlace(width, self._room(count))

    def blind(self, context: bytes, values: Values, key: Key) -> "LocalBlinded":
        points, places = self.gather(32, len(values)), self.gather(PLACE_BYTES, len(values))
        if len(values) <= PIECE:
            found, order = oprf.blind_sorted(context, values, key)
            points.append(found)
            places.append(_numbered(order))
        else:
            for bucket in self._sorted_points(_blinded(context, values, key), len(values)):
                points.append(bucket[:, :32])
                places.append(bucket[:, 32:])
        return LocalBlinded(points, places)

    def evaluate(self, points: U8, key: Key, random: Callable[[int], bytes]) -> tuple[U8, bytes]:
        decoded = kernel.decode(points)  # for the product and the proof
        evaluated = oprf.evaluate(decoded, key)
        return evaluated, proof.prove(key, decoded, evaluated, random)

    def finish(self, context: bytes, values: Values, key: Key, blinded: Blinded, public: bytes) -> "LocalFinishing":
        assert isinstance(blinded, LocalBlinded)
        return LocalFinishing(context, values, key, blinded, public, self._room(len(values)))

    def seal(self, prf: Rows, bitmaps: U8, *, feed: bytes, version: int, revision: int) -> LocalPlace:
        records = self.gather(TAG_BYTES + bitmaps.shape[1], len(prf))
        if len(prf) <= PIECE:
            records.append(membership.seal(prf, bitmaps, feed=feed, version=version, revision=revision))
            return records
        parts = (slice(start, start + PIECE) for start in range(0, len(prf), PIECE))
        sealed = (
            membership.sealed(prf[part], bitmaps[part], feed=feed, version=version, revision=revision) for part in parts
        )
        for bucket in self._sorted(sealed, len(prf), TAG_BYTES):
            if (disorder := first_disorder(bucket[:, :TAG_BYTES])) is not None:
                raise InvalidTags(f"record {len(records) + disorder[0]} is repeated")
            records.append(bucket)
        return records

    def open(
        self, revisions: Sequence[Revision], prf: Callable[[], Iterable[U8]], count: int, *, feed: bytes, width: int
    ) -> tuple[U8, Bools]:
        for each in revisions:
            membership.check_order(each.records)
        if count <= PIECE:
            kept = list(prf())
            prf = partial(iter, kept)
        bitmaps, opened_by = np.zeros((count, width), np.uint8), np.full(count, -1, np.int16)
        given = [_InOrder(each.records) for each in revisions]
        for number, bucket in enumerate(self._sorted(_tagged(prf(), feed), count, TAG_BYTES, empty=True)):
            tags, places = bucket[:, :TAG_BYTES], _places(bucket[:, TAG_BYTES:])
            for place, records in enumerate(given):
                for part in records.below(number + 1 if count > PIECE else BUCKETS):
                    rows, found = match(part[:, :TAG_BYTES], tags)
                    bitmaps[places[found]] = part[rows, TAG_BYTES:]
                    opened_by[places[found]] = place
        start = 0
        for part in prf():
            here = opened_by[start : start + len(part)]
            for place in np.unique(here[here >= 0]):
                indices, revision = np.flatnonzero(here == place), revisions[place]
                for some in (indices[each : each + SLICE] for each in range(0, len(indices), SLICE)):
                    pads = membership.pads(part[some], width, feed, revision.version, revision.revision)
                    bitmaps[start + some] ^= pads
            start += len(part)
        assert start == count, "F is not what it was"
        return bitmaps, opened_by >= 0

    def build_universe(self, context: bytes, values: Values, key: Key, canaries: U8) -> LocalPlace:
        size = len(values) + len(canaries)
        points = self.gather(32, size)
        nobody = (
            _with_places(kernel.multiply_base(canaries[start : start + PIECE]), len(values) + start)
            for start in range(0, len(canaries), PIECE)
        )
        for bucket in self._sorted_points(chain(_blinded(context, values, key), nobody), size):
            points.append(bucket[:, :32])
        return points

    def tag(self, points: Rows, key: Key, tag_context: bytes) -> LocalPlace:
        tags = self.gather(TAG_BYTES, len(points))
        if len(points) <= PIECE:
            tags.append(count.ask_tags(points[:], key, tag_context))
            return tags
        for bucket in self._sorted(_count_tags(points, key, tag_context), len(points), TAG_BYTES):
            tags.append(bucket)
        return tags

    def _room(self, count: int) -> Scratch:
        return Memory() if count <= PIECE else self._scratch()

    def _sorted_points(self, numbered: Iterable[U8], count: int) -> Iterator[U8]:
        """Yield points with their places, uint8 (m, 32 + 4), sorted. Raises DuplicatePoint."""
        for bucket in self._sorted(numbered, count, 32):
            if (disorder := first_disorder(bucket[:, :32])) is not None:
                raise DuplicatePoint(int(_places(bucket[disorder[0] :, 32:])[0]))
            yield bucket

    def _sorted(self, pieces: Iterable[U8], count: int, width: int, *, empty: bool = False) -> Iterator[U8]:
        """Yield `count` rows sorted by their first `width` bytes: all of few, or a bucket at a time; `empty` ones too."""
        if count <= PIECE:
            few = [each for each in pieces if len(each)]
            if few:
                yield _arranged(few, width)
            return
        buckets = _Buckets(BUCKETS, self._scratch())
        for rows in pieces:
            buckets.put(rows, rows[:, 0] // np.uint8(2))
        for number in range(BUCKETS):
            found = buckets.get(number)
            if found:
                yield _arranged(found, width)
            elif empty:
                yield np.empty((0, width + PLACE_BYTES), np.uint8)


class LocalBlinded:
    """Sorted points, and for each of them the place of its value, uint8 (n, 4), big-endian."""

    def __init__(self, points: LocalPlace, places: LocalPlace) -> None:
        self.points, self.places = points, places


class LocalFinishing:
    """Verifies and unblinds each chunk as it comes, and puts the points into buckets by the places of their values."""

    def __init__(
        self, context: bytes, values: Values, key: Key, blinded: LocalBlinded, public: bytes, scratch: Scratch
    ) -> None:
        self._key, self._blinded, self._public = key, blinded, public
        self._outputs = LocalOutputs(context, values, scratch)
        self._left = len(values)
        self._waiting: list[U8] = []

    def take(self, rows: slice, evaluated: U8, shown: bytes) -> None:
        asked = self._blinded.points[rows]
        if not len(asked) and not len(evaluated):
            return
        decoded = kernel.decode(evaluated)  # for the proof and the product
        proof.verify(self._public, asked, decoded, shown)
        unblinded = oprf.unblind(decoded, self._key)
        self._left -= len(unblinded)
        self._waiting.append(np.concatenate([unblinded, self._blinded.places[rows]], axis=1))
        if sum(map(len, self._waiting)) >= PIECE:
            self._put()

    def outputs(self) -> "LocalOutputs":
        self._put()
        assert not self._left, "not all of the points were taken"
        return self._outputs

    def _put(self) -> None:
        if self._waiting:
            self._outputs.put(np.concatenate(self._waiting))
            self._waiting.clear()


class LocalOutputs:
    """F of values, made where some rows are asked for from their unblinded points, which are in buckets by place."""

    def __init__(self, context: bytes, values: Values, scratch: Scratch) -> None:
        self._context, self._values = context, values
        self._size = max(PIECE, -(-len(values) // BUCKETS))  # values of a bucket
        self._buckets = _Buckets(-(-len(values) // self._size), scratch)
        self._last: tuple[int, U8] = (-1, np.empty((0, 32), np.uint8))  # the bucket that was read last

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: slice | Indices | Bools) -> U8:
        indices: Indices = np.arange(len(self))[rows]
        values = self._values.part(rows) if isinstance(rows, slice) else self._values.take(indices)
        points = np.empty((len(indices), 32), np.uint8)
        numbers = indices // self._size
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            points[here] = np.take(self._bucket(number), indices[here] - number * self._size, axis=0)
        return oprf.finalize(self._context, values, points)

    def put(self, points: U8) -> None:
        """Take unblinded points with the places of their values, uint8 (n, 32 + 4)."""
        self._buckets.put(points, (_places(points[:, 32:]) // self._size).astype(np.uint8))

    def _bucket(self, number: int) -> U8:
        last, points = self._last
        if last != number:
            found = np.concatenate(self._buckets.get(number))
            points = np.empty((min(self._size, len(self) - number * self._size), 32), np.uint8)
            points[_places(found[:, 32:]) - number * self._size] = found[:, :32]
            self._last = number, points
        return points


class _Buckets:
    """Rows of one width, in buckets in a scratch space; those of a bucket stay in the order in which they came."""

    def __init__(self, count: int, scratch: Scratch) -> None:
        self._scratch, self._width = scratch, 0
        self._numbers: list[list[int]] = [[] for _ in range(count)]

    def put(self, rows: U8, buckets: U8) -> None:
        """Put each row into one of the buckets."""
        self._width = rows.shape[1]
        if len(self._numbers) > 1:
            rows = np.take(rows, np.argsort(buckets, kind="stable"), axis=0)
        ends = np.cumsum(np.bincount(buckets, minlength=len(self._numbers)))
        for numbers, start, end in zip(self._numbers, (0, *ends[:-1]), ends, strict=True):
            if start < end:
                numbers.append(self._scratch.put(rows[start:end]))

    def get(self, bucket: int) -> list[U8]:
        return [self._scratch.get(number).reshape(-1, self._width) for number in self._numbers[bucket]]


class _InOrder:
    """Sorted records, read from end to end, those of one bucket after the other."""

    def __init__(self, records: Rows) -> None:
        self._parts = blocks(records, SLICE)
        self._part: U8 = np.empty((0, 1), np.uint8)

    def below(self, bucket: int) -> Iterator[U8]:
        """Yield the records that were not read yet and stand in lower buckets."""
        while True:
            if not len(self._part):
                self._part = next(self._parts, self._part)
            count = int(np.searchsorted(self._part[:, 0] >> 1, bucket))
            if count:
                yield self._part[:count]
            self._part = self._part[count:]
            if not count or len(self._part):
                return


def _arranged(parts: list[U8], width: int) -> U8:
    rows = np.concatenate(parts)
    arrange(rows, join_order(rows[:, :width]))
    return rows


def _blinded(context: bytes, values: Values, key: Key) -> Iterator[U8]:
    """Yield the points of values with their places, uint8 (m, 32 + 4)."""
    for start in range(0, len(values), PIECE):
        part = values.part(slice(start, start + PIECE))
        yield _with_places(kernel.hash_and_multiply(context, part, key.scalar), start)


def _tagged(prf: Iterable[U8], feed: bytes) -> Iterator[U8]:
    """Yield the tags of F with their places, uint8 (m, 16 + 4)."""
    start = 0
    for part in prf:
        for some in blocks(part, PIECE):
            yield _with_places(membership.tags_of(some, feed), start)
            start += len(some)


def _count_tags(points: Rows, key: Key, tag_context: bytes) -> Iterator[U8]:
    """Yield the asker's tags of sorted points. Raises InvalidPoint, DuplicatePoint."""
    last = np.empty((0, 32), np.uint8)
    for start in range(0, len(points), PIECE):
        part = points[start : start + PIECE]
        first = start - len(last)  # of the rows whose index an error names
        try:
            count.check_sorted(np.concatenate([last, part]))
            first = start
            tags = count.tags_of(kernel.multiply(part, key.scalar), tag_context)
        except InvalidPoint as error:
            raise InvalidPoint(first + error.index, error.reason) from error
        except DuplicatePoint as error:
            raise DuplicatePoint(first + error.index) from error
        yield tags
        last = part[-1:]


def _with_places(rows: U8, start: int) -> U8:
    """Return rows with their places, which begin at `start`, beside them."""
    places = _numbered(np.arange(start, start + len(rows)))
    return np.concatenate([rows, places], axis=1)


def _numbered(places: Indices) -> U8:
    """Return places as bytes, uint8 (n, 4)."""
    return places.astype(">u4").view(np.uint8).reshape(-1, PLACE_BYTES)


def _places(numbered: U8) -> Places:
    """Return the places that `_numbered` made bytes of."""
    return np.ascontiguousarray(numbered).view(">u4")[:, 0].astype(np.uint32)


IN_MEMORY = LocalEngine()
