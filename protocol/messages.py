"""The payloads of the exchanges' steps, one class a step; `states.STEPS` says who sends which when."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from psi.count import CHUNK_POINTS, universe_digest

from .errors import Malformed
from .feed import MAX_SEGMENTS
from .receipt import Receipt, Tallies
from .wire import (
    MAX_PAYLOAD,
    Digest,
    Id,
    Limit,
    Message,
    Moment,
    Namespace,
    Number,
    Points,
    PublicKey,
    Signature,
)

MAX_CHUNKS = 14_000  # so that a commitment names every chunk of a universe within one body
Sha512 = Annotated[bytes, Limit(64, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment(Message):
    """The answerer's commitment to one whole universe generation, before any question: it cannot choose it afterwards.

    `context` binds both keys, the connection and the namespace. `count` points, canaries among them, in chunks of
    CHUNK_POINTS whose SHA-512 are `chunks`.
    """

    TYPE: ClassVar[str] = "commitment"
    context: Digest
    epoch: Number
    generation: Number
    count: Annotated[int, Limit(1, MAX_CHUNKS * CHUNK_POINTS)]
    chunks: Annotated[tuple[Sha512, ...], Limit(1, MAX_CHUNKS)]
    made: Moment

    def check(self) -> None:
        if len(self.chunks) != -(-self.count // CHUNK_POINTS):
            raise Malformed("commitment: the number of chunks does not fit the count")

    def universe_digest(self) -> bytes:
        """Return the digest (64 bytes) that the asker's key and every tag are bound to."""
        return universe_digest(self.count, self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCommitment(Message):
    """commitment: the answerer's, signed with its node key."""

    TYPE: ClassVar[str] = "signed-commitment"
    commitment: Commitment
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class UniversePoints(Message):
    """universe: H(y)^b and canaries, sorted. The asker learns their padded number."""

    TYPE: ClassVar[str] = "universe"
    points: Points


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags(Message):
    """tags: a*G, and a 16-byte tag of each universe point times a, sorted over the whole universe."""

    TYPE: ClassVar[str] = "tags"
    public: PublicKey
    tags: Annotated[bytes, Limit(0, MAX_PAYLOAD, multiple=16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions(Message):
    """questions: H(x)^a, sorted, and for each a row of bits: consented, then one for each of `segments`.

    The answerer learns sizes and the joint histogram of nameless segments, consent and hits.
    """

    TYPE: ClassVar[str] = "questions"
    segments: Annotated[int, Limit(1, MAX_SEGMENTS)]
    points: Points
    flags: Annotated[bytes, Limit(0, MAX_PAYLOAD)]

    def check(self) -> None:
        if len(self.flags) != len(self.points) // 32 * flag_bytes(self.segments):
            raise Malformed("questions: the flags do not fit the points")


def flag_bytes(segments: int) -> int:
    """Return the bytes of one row of bits in Questions."""
    return -(-(1 + segments) // 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentAnswer(Message):
    """Sanitised numbers of one segment: with status "ok" all four, else none. Half widths are of 95 % intervals."""

    TYPE: ClassVar[str] = ""
    status: Annotated[str, Limit(2, 13, pattern="ok|below_minimum|refused")]
    overlap: Number | None = None
    consented: Number | None = None
    half_width: Number | None = None
    consented_half_width: Number | None = None

    def check(self) -> None:
        numbers = (self.overlap, self.consented, self.half_width, self.consented_half_width)
        if any((number is not None) != (self.status == "ok") for number in numbers):
            raise Malformed("answer: the numbers do not fit the status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Message):
    """answer: one entry for each asked segment, in the order of the question's bits; `computed_at` in Unix seconds.

    `budget_spent` is what the asker's project has spent in the window, this answer included, in thousandths of
    epsilon: only the answerer's ledger knows it. None where nothing is charged.
    """

    TYPE: ClassVar[str] = "answer"
    segments: Annotated[tuple[SegmentAnswer, ...], Limit(1, MAX_SEGMENTS)]
    computed_at: Moment
    budget_spent: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatement(Message):
    """The sender's statement of its key s of one epoch: `public` is s*G, `proof` shows that it knows s."""

    TYPE: ClassVar[str] = "key-statement"
    context: Digest
    epoch: Number
    public: PublicKey
    proof: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedKey(Message):
    """key: the sender's statement, signed with its node key before it sees any point."""

    TYPE: ClassVar[str] = "signed-key"
    statement: KeyStatement
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Blinded(Message):
    """blinded: H(y)^r, sorted. The sender learns their number and, within an epoch, which are new."""

    TYPE: ClassVar[str] = "blinded"
    points: Points


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Message):
    """evaluated: H(y)^rs in the order of the blinded chunk, and the proof that s did it."""

    TYPE: ClassVar[str] = "evaluated"
    points: Points
    proof: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Message):
    """manifest: what the release will send. `width` bytes of bitmap a record; a revision that is not `full` holds changes.

    `definition` is the digest of the accepted feed version, `previous` that of the feed's last receipt. `changed` is when
    the sender's data changed; None means that nothing changed, and the revision says that the last one is still right.
    """

    TYPE: ClassVar[str] = "manifest"
    feed: Id
    version: Number
    definition: Digest
    revision: Number
    full: bool
    width: Annotated[int, Limit(1, MAX_SEGMENTS // 8)]
    tallies: Tallies
    previous: Digest
    changed: Moment | None = None
    made: Moment

    def receipt(self, connection: bytes) -> Receipt:
        """Return the one receipt that both sides sign for this release."""
        return Receipt(
            connection=connection,
            feed=self.feed,
            version=self.version,
            revision=self.revision,
            tallies=self.tallies,
            previous=self.previous,
            made=self.made,
        )

    def check(self) -> None:
        namespaces = [tally.namespace for tally in self.tallies]
        if namespaces != sorted(set(namespaces)):
            raise Malformed("manifest: the namespaces are not sorted, or one is repeated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Records(Message):
    """records: tag and encrypted bitmap each, sorted over the namespace; a chunk never spans two namespaces."""

    TYPE: ClassVar[str] = "records"
    namespace: Namespace
    records: Annotated[bytes, Limit(0, MAX_PAYLOAD)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverReceipt(Message):
    """receipt: the receiver's, signed. It says nothing about matches."""

    TYPE: ClassVar[str] = "receiver-receipt"
    receipt: Receipt
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Countersigned(Message):
    """countersigned: the sender's signature over the same receipt."""

    TYPE: ClassVar[str] = "countersigned"
    signature: Signature
