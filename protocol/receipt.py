"""What both sides sign after a release, and what a receiver signs after a purge. Neither holds a number of matches."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from .errors import Malformed
from .feed import MAX_SEGMENTS
from .wire import Digest, Id, Limit, Message, Moment, Namespace, Number, PublicKey, Signature

NO_RECEIPT = bytes(32)  # `previous` of the first receipt of a feed


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally(Message):
    """One namespace of a release: records sent, SHA-256 over them, points evaluated this epoch under key `public`."""

    TYPE: ClassVar[str] = ""
    namespace: Namespace
    records: Number
    sha256: Digest
    evaluated: Number
    public: PublicKey


Tallies = Annotated[tuple[Tally, ...], Limit(1, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(Message):
    """One released data revision. `previous` is the digest of the feed's last receipt: a chain on both nodes."""

    TYPE: ClassVar[str] = "receipt"
    connection: Id
    feed: Id
    version: Number
    revision: Number
    tallies: Tallies
    previous: Digest
    made: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReceipt(Message):
    """A receipt with both signatures, as both nodes keep it."""

    TYPE: ClassVar[str] = "signed-receipt"
    receipt: Receipt
    receiver_signature: Signature
    sender_signature: Signature

    def verify_both(self, *, receiver_key: bytes, sender_key: bytes) -> None:
        """Raise RemoteProtocolError unless both Ed25519 keys signed it."""
        self.receipt.verify(self.receiver_signature, receiver_key)
        self.receipt.verify(self.sender_signature, sender_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeStatement(Message):
    """The receiver's statement that it removed memberships: of what `version` took out, or of the whole feed if that is 0."""

    TYPE: ClassVar[str] = "purge"
    connection: Id
    feed: Id
    version: Number
    revision: Number
    segments: Annotated[tuple[Id, ...], Limit(0, MAX_SEGMENTS)]
    namespaces: Annotated[tuple[Namespace, ...], Limit(0, 64)]
    made: Moment

    def check(self) -> None:
        if bool(self.version) != bool(self.segments or self.namespaces):
            raise Malformed("purge: a version names what it took out, and the whole feed nothing")
