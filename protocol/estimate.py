"""Both parts of a count (a pre-share estimate): the answerer fixes its universe first, the asker never counts."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from psi import count
from psi.engine import Engine, Gathered, blocks
from psi.errors import DuplicatePoint, InvalidPoint
from psi.hashing import length_prefixed, number
from psi.keys import Key
from psi.local import IN_MEMORY
from psi.values import SLICE, U8, Rows, Values

from .agreement import Terms
from .errors import LocalProtocolError, NotReady, RemoteProtocolError
from .exchange import LazyChunks, Role
from .feed import MAX_SEGMENTS
from .messages import (
    Answer,
    Commitment,
    Questions,
    SignedCommitment,
    Tags,
    UniversePoints,
    flag_bytes,
)
from .states import Kind, Part
from .wire import MAX_PAYLOAD, TAGS_PER_CHUNK, Message, rows, split

MAX_CELLS = 1 << 26  # segments times points of one question: what the answerer unpacks into memory
MAX_ASKED = 65_536  # identities of one segment; larger ones are sampled before they are asked


def most_asked(terms: Terms) -> int:
    """Return how many identities one question may have: as many as a side may have, and at least one whole sample."""
    return max(MAX_ASKED, terms.maximum_universe)


Bits = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Chosen = tuple[Values, Bits, Bits]  # values, segments, consented: see CountAsker


def commit(
    universe: count.Universe, *, context: bytes, epoch: int, generation: int, made: int, sign: Callable[[bytes], bytes]
) -> SignedCommitment:
    """Return the signed commitment to a universe; `context` is that of the count, `made` Unix seconds."""
    commitment = Commitment(
        context=context,
        epoch=epoch,
        generation=generation,
        count=len(universe.points),
        chunks=tuple(count.chunk_digests(universe.points)),
        made=made,
    )
    return SignedCommitment(commitment=commitment, signature=commitment.sign(sign))


@dataclass(frozen=True, kw_only=True)
class Question:
    """What an asker asked, and the true numbers, which only the answerer may see; they are counted when they are read.

    `points` uint8 (n, 32) sorted; `segments` bool (k, n); `consented` bool (n,); hits and `sizes` int64 (k,).
    `universe_digest` is that of the generation it was asked against.
    """

    universe_digest: bytes
    points: U8
    segments: Bits
    consented: Bits
    sizes: Counts
    counted: Callable[[], count.Hits]

    @property
    def consented_hits(self) -> Counts:
        return self._hits.consented

    @property
    def other_hits(self) -> Counts:
        return self._hits.others

    @cached_property
    def _hits(self) -> count.Hits:
        return self.counted()

    @property
    def digest(self) -> bytes:
        """The digest of universe, points, segments and consent (32 bytes): identical questions have the same."""
        flags = _pack_flags(self.segments, self.consented)
        return _sha256(b"vesica/1 question", self.universe_digest, self.points.tobytes(), flags.tobytes())


class CountAsker(Role):
    """Asks how many of its identities the answerer knows. Learns the padded universe size and the sanitised answer.

    `values` (n) are the union of the asked segments, `segments` bool (k, n), `consented` bool (n,). `derive_key` turns
    the universe's digest (64 bytes) into the key a; `check_universe` refuses a generation too many or a changed one. A
    universe of more than `maximum` identities, with their canaries, is refused before any of it is fetched.
    `choose_again` is asked before the questions are made, for the universe may have taken days: it returns others in the
    place of `values`, `segments` and `consented`, or None, or raises.
    """

    kind = Kind.COUNT
    part = Part.ASKER

    def __init__(
        self,
        *,
        context: bytes,
        direction: bytes,
        epoch: int,
        values: Values,
        segments: Bits,
        consented: Bits,
        derive_key: Callable[[bytes], Key],
        check_universe: Callable[[Commitment], None],
        maximum: int,
        peer_keys: Sequence[bytes],
        choose_again: Callable[[], Chosen | None] = lambda: None,
        engine: Engine = IN_MEMORY,
    ) -> None:
        self._choose_again = choose_again
        self._choose((values, segments, consented))
        self._context, self._direction, self._epoch = context, direction, epoch
        self._derive_key, self._check_universe, self._peer_keys = derive_key, check_universe, peer_keys
        self._maximum, self._engine = maximum, engine
        self._commitment: Commitment | None = None
        self._universe: Gathered = engine.gather(32, 0)
        self._answer: Answer | None = None

    def _choose(self, chosen: Chosen) -> None:
        values, segments, consented = chosen
        if not 1 <= len(segments) <= MAX_SEGMENTS or (segments.sum(axis=1) > MAX_ASKED).any():
            raise LocalProtocolError(f"a count asks 1 to {MAX_SEGMENTS} segments of at most {MAX_ASKED} identities")
        self._values, self._segments, self._consented = values, segments, consented

    @property
    def result(self) -> Answer:
        """The sanitised numbers, one entry for each row of `segments`. Raise NotReady before they have come."""
        if self._answer is None:
            raise NotReady("the count is not answered yet")
        return self._answer

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        match payload:
            case SignedCommitment():
                self._take_commitment(payload)
            case UniversePoints():
                self._take_points(chunk, payload)
            case Answer():
                if len(payload.segments) != len(self._segments):
                    raise RemoteProtocolError("answer", "the answer is about another number of segments")
                self._answer = payload

    def complete(self, step: str) -> None:
        if step == "universe" and len(self._universe) != self._committed.count:
            raise RemoteProtocolError("commitment", "the universe has fewer points than its commitment")

    def produce(self, step: str) -> Sequence[Message]:
        digest = self._committed.universe_digest()
        key = self._derive_key(digest)
        if step == "tags":
            return self._tags(key, digest)
        if (chosen := self._choose_again()) is not None:
            self._choose(chosen)
        return self._questions(key)

    @property
    def _committed(self) -> Commitment:
        assert self._commitment is not None
        return self._commitment

    def _take_commitment(self, signed: SignedCommitment) -> None:
        commitment = signed.commitment
        commitment.verify(signed.signature, *self._peer_keys)
        if (commitment.context, commitment.epoch) != (self._context, self._epoch):
            raise RemoteProtocolError("commitment", "the commitment is for another connection, namespace or epoch")
        most = self._maximum + self._maximum // count.VALUES_PER_CANARY + 2 * count.PADDING
        if commitment.count > most:
            raise RemoteProtocolError("commitment", f"the partner shows more than the {self._maximum:,} agreed on")
        self._check_universe(commitment)
        self._commitment = commitment
        self._universe = self._engine.gather(32, commitment.count)

    def _take_points(self, chunk: int, payload: UniversePoints) -> None:
        chunks = self._committed.chunks
        if chunk >= len(chunks) or hashlib.sha512(payload.points).digest() != chunks[chunk]:
            raise RemoteProtocolError("commitment", f"universe chunk {chunk} is not the one committed to")
        self._universe.append(rows(payload.points, 32))

    def _tags(self, key: Key, digest: bytes) -> Sequence[Message]:
        tag_context = count.tag_context(self._context, self._direction, self._epoch, digest)
        with _naming_chunk("universe", count.CHUNK_POINTS):
            tags = self._engine.tag(self._universe, key, tag_context)

        def chunk(number: int) -> Message:
            some = tags[number * TAGS_PER_CHUNK : (number + 1) * TAGS_PER_CHUNK]
            return Tags(public=key.public, tags=some.tobytes())

        return LazyChunks(max(1, -(-len(tags) // TAGS_PER_CHUNK)), chunk)

    def _questions(self, key: Key) -> Sequence[Message]:
        points, permutation = count.ask(self._context, self._values, key)
        flags = _pack_flags(self._segments, self._consented)[permutation]
        size = MAX_PAYLOAD // (32 + flags.shape[1])
        return [
            Questions(segments=len(self._segments), points=some_points, flags=some_flags)
            for some_points, some_flags in zip(split(points, size), split(flags, size), strict=True)
        ]


class UniverseSource(Protocol):
    """What an answerer needs of a universe of its own: see `count.Universe`. The points may be on disk."""

    @property
    def points(self) -> Rows: ...
    @property
    def canaries(self) -> U8: ...


class CountAnswerer(Role):
    """Answers a count. Learns the true numbers, the sizes and the joint histogram of nameless segments, consent, hits.

    `universe` is the generation that `commitment` signs, `key` the key b that it was built with. `check_asker` gets
    SHA-256 over the asker's public key and all of its tags before they are looked at, and refuses a second one to one
    universe: questions under several keys could not be compared, and the same noise over other tags would cancel.
    `sanitise` charges the asker's budget and returns what it may know; it must give the same answer to the same
    Question, which has at most `most` points (see `most_asked`) and `most_segments`.
    """

    kind = Kind.COUNT
    part = Part.ANSWERER
    drawn = frozenset({"universe"})

    def __init__(
        self,
        *,
        context: bytes,
        direction: bytes,
        epoch: int,
        universe: UniverseSource,
        key: Key,
        commitment: SignedCommitment,
        check_asker: Callable[[bytes], None],
        sanitise: Callable[[Question], Answer],
        most: int = MAX_CELLS,
        most_segments: int = MAX_SEGMENTS,
        engine: Engine = IN_MEMORY,
    ) -> None:
        self._most = most
        self._digest = commitment.commitment.universe_digest()
        self._tag_context = count.tag_context(context, direction, epoch, self._digest)
        self._universe, self._key, self._commitment = universe, key, commitment
        self._check_asker, self._sanitise, self._most_segments = check_asker, sanitise, most_segments
        self._public = b""
        self._tags = engine.gather(count.TAG_BYTES, len(universe.points))
        self._points: list[U8] = []
        self._flags: list[U8] = []
        self._asked = 0  # segments
        self._bits: Bits = np.zeros((0, 0), np.bool_)  # of all points, flags unpacked

    def produce(self, step: str) -> Sequence[Message]:
        match step:
            case "commitment":
                return [self._commitment]
            case "universe":
                return self._shown()
        return [self._sanitise(self._question())]

    def _shown(self) -> Sequence[Message]:
        points, size = self._universe.points, count.CHUNK_POINTS

        def chunk(number: int) -> Message:
            return UniversePoints(points=points[number * size : (number + 1) * size].tobytes())

        return LazyChunks(max(1, -(-len(points) // size)), chunk)

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        match payload:
            case Tags():
                if payload.public != (self._public or payload.public):
                    raise RemoteProtocolError("tags", "the asker's key changed between two chunks")
                self._public = payload.public
                self._tags.append(rows(payload.tags, 16))
                if len(self._tags) > len(self._universe.points):
                    raise RemoteProtocolError("tags", "more tags than points")
            case Questions():
                if payload.segments != (self._asked or payload.segments):
                    raise RemoteProtocolError("question", "the number of segments changed between two chunks")
                if payload.segments > self._most_segments:
                    raise RemoteProtocolError("question", f"more than {self._most_segments} segments")
                self._asked = payload.segments
                self._points.append(rows(payload.points, 32))
                self._flags.append(rows(payload.flags, flag_bytes(self._asked)))
                points = sum(map(len, self._points))
                if points > min(MAX_ASKED * self._asked, self._most) or points * self._asked > MAX_CELLS:
                    raise RemoteProtocolError("question", "more segments and identities than one question may hold")

    def complete(self, step: str) -> None:
        if step == "tags":
            self._check_asker(_asker_digest(self._public, self._tags))
            size, canaries = len(self._universe.points), self._universe.canaries
            count.check_tags(self._tags, size, canaries, self._public, self._tag_context)
        else:
            self._bits = np.unpackbits(np.concatenate(self._flags), axis=1).view(np.bool_)
            used, unused = np.split(self._bits, [1 + self._asked], axis=1)
            if unused.any() or not used[:, 1:].any(axis=1).all():
                raise RemoteProtocolError("question", "a point is in no segment, or in one that is not asked")
            if (used[:, 1:].sum(axis=0) > MAX_ASKED).any():
                raise RemoteProtocolError("question", f"a segment of more than {MAX_ASKED} identities")

    def _question(self) -> Question:
        points = np.concatenate(self._points)
        consented, segments = self._bits[:, 0].copy(), self._bits[:, 1 : 1 + self._asked].T.copy()

        def hits() -> count.Hits:
            with _naming_chunk("questions", len(self._points[0])):
                return count.count_hits(points, self._key, self._tags, self._tag_context, segments, consented)

        return Question(
            universe_digest=self._digest,
            points=points,
            segments=segments,
            consented=consented,
            sizes=segments.sum(axis=1, dtype=np.int64),
            counted=hits,
        )


@contextmanager
def _naming_chunk(step: str, size: int) -> Iterator[None]:
    """Turn the index of a bad point of a whole list, in chunks of `size`, into its chunk."""
    try:
        yield
    except (InvalidPoint, DuplicatePoint) as error:
        raise RemoteProtocolError(
            error.code, f"{step} chunk {error.index // size}: {error}", hint=error.hint
        ) from error


def _asker_digest(public: bytes, tags: Rows) -> bytes:
    """Return SHA-256 over an asker's public key and all of its tags, which need not be in memory."""
    digest = hashlib.sha256(length_prefixed(public) + number(len(tags) * count.TAG_BYTES))
    for block in blocks(tags, SLICE):
        digest.update(np.ascontiguousarray(block).data)
    return digest.digest()


def _pack_flags(segments: Bits, consented: Bits) -> U8:
    return np.packbits(np.vstack([consented[None], segments]), axis=0).T.copy()


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(length_prefixed(*parts)).digest()
