"""Both parts of a release: the sender's records reach the receiver, which opens those of its own identities."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from psi import membership
from psi.engine import Engine, Gathered, Revision, blocks
from psi.local import IN_MEMORY
from psi.membership import TAG_BYTES
from psi.values import SLICE, U8, Indices, Rows

from .errors import NotReady, RemoteProtocolError
from .evaluation import EvaluateReceiver, EvaluateSender, Evaluation, EvaluationTally, state_key
from .exchange import LazyChunks, Role
from .feed import Definition
from .messages import Countersigned, Manifest, ReceiverReceipt, Records
from .receipt import Receipt, SignedReceipt, Tally
from .states import Kind, Part
from .wire import MAX_PAYLOAD, Message, rows

__all__ = [  # a release begins with evaluations: their parts are found here too
    "EvaluateReceiver",
    "EvaluateSender",
    "Evaluation",
    "EvaluationTally",
    "ReleaseReceiver",
    "ReleaseSender",
    "Released",
    "manifest",
    "state_key",
]


def manifest(
    definition: Definition,
    records: Mapping[str, Rows],
    *,
    revision: int,
    full: bool,
    evaluated: Mapping[str, int],
    publics: Mapping[str, bytes],
    previous: bytes,
    made: int,
    changed: int | None = None,
) -> Manifest:
    """Return what announces the sealed `records` of each namespace.

    `evaluated` counts the points of this epoch, `publics` are the keys s*G, `previous` is the last receipt's digest,
    `changed` is when the data changed, if it did.
    """
    tallies = tuple(
        Tally(
            namespace=namespace,
            records=len(sealed),
            sha256=_digest(sealed),
            evaluated=evaluated[namespace],
            public=publics[namespace],
        )
        for namespace, sealed in sorted(records.items())
    )
    return Manifest(
        feed=definition.feed,
        version=definition.version,
        definition=definition.digest(),
        revision=revision,
        full=full,
        width=definition.width,
        tallies=tallies,
        previous=previous,
        changed=changed,
        made=made,
    )


def _digest(records: Rows) -> bytes:
    digest = hashlib.sha256()
    for block in blocks(records, SLICE):
        digest.update(np.ascontiguousarray(block).data)
    return digest.digest()


class ReleaseSender(Role):
    """Sends the sealed records of one data revision. Learns that they arrived; nothing about matches.

    `records` are what `membership.seal` returned for each namespace of the manifest, uint8 (n, 16 + width); they may be
    on disk. `check` may refuse before the first of them leaves, since the receiver may have waited.
    """

    kind = Kind.RELEASE
    part = Part.SENDER

    def __init__(
        self,
        *,
        connection: bytes,
        manifest: Manifest,
        records: Mapping[str, Rows],
        peer_keys: Sequence[bytes],
        sign: Callable[[bytes], bytes],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._manifest, self._records, self._check = manifest, records, check
        self._receipt = manifest.receipt(connection)
        self._peer_keys, self._sign = peer_keys, sign
        self._signature: bytes | None = None

    @property
    def result(self) -> SignedReceipt:
        """The receipt with both signatures. Raise NotReady before the receiver signed."""
        if self._signature is None:
            raise NotReady("the receiver has not signed the receipt yet")
        ours = self._receipt.sign(self._sign)
        return SignedReceipt(receipt=self._receipt, receiver_signature=self._signature, sender_signature=ours)

    def produce(self, step: str) -> Sequence[Message]:
        match step:
            case "manifest":
                return [self._manifest]
            case "records":
                self._check()
                return self._chunks()
        return [Countersigned(signature=self.result.sender_signature)]

    def _chunks(self) -> Sequence[Message]:
        size = MAX_PAYLOAD // (TAG_BYTES + self._manifest.width)
        places = [
            (tally.namespace, start)
            for tally in self._manifest.tallies
            for start in range(0, max(1, tally.records), size)
        ]

        def chunk(number: int) -> Message:
            namespace, start = places[number]
            return Records(namespace=namespace, records=self._records[namespace][start : start + size].tobytes())

        return LazyChunks(len(places), chunk)

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        assert isinstance(payload, ReceiverReceipt)
        if payload.receipt != self._receipt:
            raise RemoteProtocolError("receipt", "the receiver's receipt says other things than we sent")
        self._receipt.verify(payload.signature, *self._peer_keys)
        self._signature = payload.signature


class Released(NamedTuple):
    """What a receiver has after a release: for each namespace all records, sealed as they came, uint8 (n, 16 + width).

    A revision that is not `full` holds changes; an all-zero bitmap takes a member out.
    """

    definition: Definition
    records: Mapping[str, Rows]
    manifest: Manifest
    receipt: SignedReceipt
    engine: Engine

    def open(self, namespace: str, prf: Rows) -> tuple[Indices, U8]:
        """Return which rows of `prf`, uint8 (n, 64), have a record, ascending, and their bitmaps, uint8 (h, width)."""
        announced = self.manifest
        revision = Revision(records=self.records[namespace], version=announced.version, revision=announced.revision)
        bitmaps, opened = self.engine.open(
            [revision], lambda: blocks(prf, SLICE), len(prf), feed=announced.feed, width=announced.width
        )
        # Bits of no segment decide nothing: to refuse them would tell the sender which of its records are ours.
        meant = np.packbits(np.arange(8 * announced.width) < len(self.definition.segments))
        return np.flatnonzero(opened), bitmaps[opened] & meant


class ReleaseReceiver(Role):
    """Takes the records of a feed, which only F of its own identities opens. Learns how many there are.

    `definition` is the accepted feed version, `evaluations` covers exactly the namespaces that were evaluated for it.
    `previous` are the digests that the next receipt may follow: of the last receipt, and of any that we signed since.
    `most` bounds the records of a namespace. `check` gets each manifest that passed all other checks, and may refuse it;
    `signing` gets each receipt before our signature of it leaves.
    """

    kind = Kind.RELEASE
    part = Part.RECEIVER

    def __init__(
        self,
        *,
        connection: bytes,
        definition: Definition,
        evaluations: Mapping[str, EvaluationTally],
        last_revision: int,
        previous: Collection[bytes],
        peer_keys: Sequence[bytes],
        sign: Callable[[bytes], bytes],
        most: int,
        check: Callable[[Manifest], None] = lambda _: None,
        signing: Callable[[Receipt], None] = lambda _: None,
        engine: Engine = IN_MEMORY,
    ) -> None:
        self._connection, self._definition, self._evaluations = connection, definition, evaluations
        self._last_revision, self._previous = last_revision, previous
        self._peer_keys, self._sign, self._most = peer_keys, sign, most
        self._check, self._signing, self._engine = check, signing, engine
        self._manifest: Manifest | None = None
        self._records: dict[str, Gathered] = {}
        self._expected: dict[str, int] = {}
        self._receipt: SignedReceipt | None = None

    @property
    def result(self) -> Released:
        """The records. Raise NotReady before both sides signed the receipt."""
        if self._receipt is None:
            raise NotReady("the sender has not countersigned the receipt yet")
        return Released(self._definition, self._records, self._announced, self._receipt, self._engine)

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        match payload:
            case Manifest():
                self._take_manifest(payload)
            case Records():
                self._take_records(payload)
            case Countersigned():
                receipt = self._announced.receipt(self._connection)
                receipt.verify(payload.signature, *self._peer_keys)
                ours = receipt.sign(self._sign)
                self._receipt = SignedReceipt(
                    receipt=receipt, receiver_signature=ours, sender_signature=payload.signature
                )

    def complete(self, step: str) -> None:
        if step == "records":
            for tally in self._announced.tallies:
                self._check_records(tally, self._records[tally.namespace])

    def produce(self, step: str) -> Sequence[Message]:
        receipt = self._announced.receipt(self._connection)
        self._signing(receipt)
        return [ReceiverReceipt(receipt=receipt, signature=receipt.sign(self._sign))]

    @property
    def _announced(self) -> Manifest:
        assert self._manifest is not None
        return self._manifest

    def _take_manifest(self, manifest: Manifest) -> None:
        accepted = self._definition
        if (manifest.feed, manifest.version, manifest.definition, manifest.width) != (
            accepted.feed,
            accepted.version,
            accepted.digest(),
            accepted.width,
        ):
            raise RemoteProtocolError("manifest", "the release is of another feed or version than the accepted one")
        if manifest.revision <= self._last_revision:
            raise RemoteProtocolError(
                "revision", f"data revision {manifest.revision} is not above {self._last_revision}, the last one taken"
            )
        if {tally.namespace for tally in manifest.tallies} != self._evaluations.keys():
            raise RemoteProtocolError("manifest", "the release covers other namespaces than were evaluated")
        for tally in manifest.tallies:
            if tally.records > self._most:
                raise RemoteProtocolError(
                    "records", f"{tally.namespace}: more records than the {self._most:,} agreed on"
                )
            known = self._evaluations[tally.namespace]
            if tally.public != known.public:
                raise RemoteProtocolError("key_changed", f"{tally.namespace}: the records were made with another key")
            if not known.evaluated <= tally.evaluated <= known.evaluated + known.unsure:
                raise RemoteProtocolError("receipt", f"{tally.namespace}: the sides count different evaluations")
        if manifest.previous not in self._previous:
            raise RemoteProtocolError("receipt", "the release does not follow the last receipt that we know")
        self._check(manifest)
        self._manifest = manifest
        width = TAG_BYTES + manifest.width
        self._records = {each.namespace: self._engine.gather(width, each.records) for each in manifest.tallies}
        self._expected = {tally.namespace: tally.records for tally in manifest.tallies}

    def _take_records(self, payload: Records) -> None:
        width = TAG_BYTES + self._announced.width
        if payload.namespace not in self._records or len(payload.records) % width:
            raise RemoteProtocolError("records", "records of another width, or of a namespace that was not announced")
        received = self._records[payload.namespace]
        received.append(rows(payload.records, width))
        if len(received) > self._expected[payload.namespace]:
            raise RemoteProtocolError("records", f"{payload.namespace}: more records than the manifest announced")

    def _check_records(self, tally: Tally, records: Rows) -> None:
        if (len(records), _digest(records)) != (tally.records, tally.sha256):
            raise RemoteProtocolError(
                "records", f"{tally.namespace}: the records are not those that the manifest announced"
            )
        membership.check_order(records)
