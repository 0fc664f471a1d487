"""Letters: what one node tells the other outside exchanges. Numbered per connection, delivered in order, never lost."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from .agreement import Acceptance, Held, Proposal, Refusal, check_stated_address
from .errors import Malformed
from .feed import Definition
from .handshake import Accept, Decline
from .heads import SignedHead, SignedHeads
from .receipt import PurgeStatement, SignedReceipt
from .states import Kind, Subject, check_subject
from .wire import MAX_PAYLOAD, Digest, Id, Limit, Message, Moment, Namespace, Number, Short, Signature, Text

Results = Annotated[tuple[Annotated[bytes, Limit(0, 64)], ...], Limit(0, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(Message):
    """The connection ends: feeds stop, memberships are purged on both sides."""

    TYPE: ClassVar[str] = "disconnect"
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDetails(Message):
    """How this node is called and reached from now on. `address` is HOST:PORT, or empty: then it calls the other side."""

    TYPE: ClassVar[str] = "node-details"
    organisation: Short
    address: Annotated[str, Limit(0, 255)]
    proxy: bool

    def check(self) -> None:
        check_stated_address(self.address, self.TYPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedVersion(Message):
    """A new feed, or a new version of one (a removal takes effect at once, an addition when accepted)."""

    TYPE: ClassVar[str] = "feed-version"
    definition: Definition


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedAccept(Message):
    """The receiver accepts the version whose digest is `definition`.

    `universes` are the numbers of its identities in each namespace: the limit of evaluations is a multiple of them.
    """

    TYPE: ClassVar[str] = "feed-accept"
    feed: Id
    version: Number
    definition: Digest
    universes: Annotated[dict[Namespace, Number], Limit(0, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedNotice(Message):
    """The receiver declines or pauses a feed or declines a version, or the sender revokes it, with a reason for people."""

    TYPE: ClassVar[str] = "feed-notice"
    feed: Id
    version: Number
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged(Message):
    """The receiver's signed statement that memberships are gone."""

    TYPE: ClassVar[str] = "purged"
    statement: PurgeStatement
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted(Message):
    """A node that cannot call asks the other to open this exchange."""

    TYPE: ClassVar[str] = "wanted"
    kind: Kind
    subject: Subject

    def check(self) -> None:
        check_subject(self.kind, self.subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored(Message):
    """This node was restored from a backup: it has the partner's letters up to `received`, and its own letters go on
    from the number of this one, which may be far above the last."""

    TYPE: ClassVar[str] = "restored"
    received: Number
    made: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedReport(Message):
    """What a node has of a feed, for a partner that was restored from a backup: the accepted version and the last
    receipt, which the partner recognises by its own signature."""

    TYPE: ClassVar[str] = "feed-held"
    definition: Definition
    receipt: SignedReceipt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight(Message):
    """What a node's normaliser makes of the test identities of one set: one result each, empty for what is dropped.

    The identities are fixed in the code of both sides: nobody can let the other hash what it chooses.
    """

    TYPE: ClassVar[str] = "preflight"
    set: Number
    results: Annotated[dict[Namespace, Results], Limit(0, 64)]


KINDS: dict[str, type[Message]] = {
    "connect.accept": Accept,
    "connect.decline": Decline,
    "connect.details": NodeDetails,
    "connect.disconnect": Disconnect,
    "connect.restored": Restored,
    "agreement.propose": Proposal,
    "agreement.accept": Acceptance,
    "agreement.confirm": Accept,
    "agreement.refuse": Refusal,
    "agreement.held": Held,
    "feed.publish": FeedVersion,
    "feed.accept": FeedAccept,
    "feed.decline": FeedNotice,
    "feed.decline-version": FeedNotice,
    "feed.disable": FeedNotice,
    "feed.revoke": FeedNotice,
    "feed.unshare": FeedVersion,
    "feed.purged": Purged,
    "feed.held": FeedReport,
    "exchange.wanted": Wanted,
    "preflight.ask": Preflight,
    "preflight.answer": Preflight,
    "audit.head": SignedHead,
    "audit.held": SignedHeads,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter(Message):
    """One letter: `number` counts from 1 in each direction of a connection, `body` is a message of its kind."""

    TYPE: ClassVar[str] = "letter"
    connection: Id
    number: Annotated[int, Limit(1, 2**63 - 1)]
    kind: Short
    body: Annotated[bytes, Limit(0, MAX_PAYLOAD)]

    @classmethod
    def of(cls, kind: str, message: Message, *, connection: bytes, number: int) -> Self:
        """Return a letter that holds `message`, which must be of the class that KINDS names for `kind`."""
        assert isinstance(message, KINDS[kind])
        return cls(connection=connection, number=number, kind=kind, body=message.encode())

    def open(self) -> Message:
        """Return the message inside. Raise RemoteProtocolError if it is not of the letter's kind."""
        return KINDS[self.kind].decode(self.body)

    def check(self) -> None:
        if self.kind not in KINDS:
            raise Malformed("letter: unknown kind")
