"""Both parts of a release: the receiver gets the PRF of its own identities, then opens the records among them."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from psi import membership, oprf, proof
from psi.count import CHUNK_POINTS
from psi.join import SLICE, sort_points
from psi.keys import Key
from psi.membership import TAG_BYTES
from psi.values import U8, Indices, Rows, Values

from .errors import NotReady, RemoteProtocolError
from .exchange import Lazily, Role
from .feed import Definition
from .messages import Blinded, Countersigned, Evaluated, KeyStatement, Manifest, ReceiverReceipt, Records, SignedKey
from .receipt import Receipt, SignedReceipt, Tally
from .states import Kind, Part
from .wire import MAX_PAYLOAD, Message, check_sorted, rows, split

_NO_PROOF = bytes(64)  # stands beside a chunk without points


def state_key(
    key: Key,
    *,
    context: bytes,
    direction: bytes,
    epoch: int,
    random: Callable[[int], bytes],
    sign: Callable[[bytes], bytes],
) -> SignedKey:
    """Return the sender's signed statement of its key s for an epoch; make it once and keep it."""
    shown = proof.prove_key(key, context=context, direction=direction, epoch=epoch, random=random)
    statement = KeyStatement(context=context, epoch=epoch, public=key.public, proof=shown)
    return SignedKey(statement=statement, signature=statement.sign(sign))


class Evaluation(NamedTuple):
    """F of each of `values`: `prf` uint8 (n, 64), under the key that `statement` states."""

    values: Values
    prf: U8
    statement: SignedKey


class EvaluateReceiver(Role):
    """Gets F(y) of its own identities. Learns nothing else; the sender sees how many points there are.

    `values` must not repeat; `key` is r. `pinned` is the public key that the sender stated before in this epoch, if
    any; `blinded`, uint8 (n, 32) in the order of `values`, spares computing H(y)^r again.
    """

    kind = Kind.EVALUATE
    part = Part.RECEIVER

    def __init__(
        self,
        *,
        context: bytes,
        direction: bytes,
        epoch: int,
        values: Values,
        key: Key,
        peer_keys: Sequence[bytes],
        pinned: bytes | None = None,
        blinded: U8 | None = None,
    ) -> None:
        self._context, self._direction, self._epoch = context, direction, epoch
        self._values, self._key, self._peer_keys, self._pinned = values, key, peer_keys, pinned
        self._blinded = blinded
        self._statement: SignedKey | None = None
        self._prf = np.empty((len(values), 64), np.uint8)
        self._complete = False

    @property
    def result(self) -> Evaluation:
        """The PRF values and the key that made them. Raise NotReady before every proof has been checked."""
        if not self._complete or self._statement is None:
            raise NotReady("the evaluation is not complete")
        return Evaluation(self._values, self._prf, self._statement)

    @cached_property
    def _sorted(self) -> tuple[U8, Indices]:
        blinded = self._blinded
        return sort_points(oprf.blind(self._context, self._values, self._key) if blinded is None else blinded)

    def produce(self, step: str) -> Sequence[Message]:
        return [Blinded(points=chunk) for chunk in split(self._sorted[0], CHUNK_POINTS)]

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        match payload:
            case SignedKey():
                self._take_key(payload)
            case Evaluated():
                self._take_points(chunk, payload)

    def complete(self, step: str) -> None:
        if step == "evaluated":
            self._complete = True

    def _take_key(self, signed: SignedKey) -> None:
        statement = signed.statement
        statement.verify(signed.signature, *self._peer_keys)
        if (statement.context, statement.epoch) != (self._context, self._epoch):
            raise RemoteProtocolError("proof", "the sender's key is for another connection, namespace or epoch")
        if self._pinned is not None and statement.public != self._pinned:
            raise RemoteProtocolError("key_changed", "the sender states another key than before in this epoch")
        proof.verify_key(
            statement.public, statement.proof, context=self._context, direction=self._direction, epoch=self._epoch
        )
        self._statement = signed

    def _take_points(self, chunk: int, payload: Evaluated) -> None:
        assert self._statement is not None
        part = slice(chunk * CHUNK_POINTS, (chunk + 1) * CHUNK_POINTS)
        asked, places = self._sorted[0][part], self._sorted[1][part]
        evaluated = rows(payload.points, 32)
        if len(asked) or len(evaluated):
            proof.verify(self._statement.statement.public, asked, evaluated, payload.proof)
            points = oprf.unblind(evaluated, self._key)
            self._prf[places] = oprf.finalize(self._context, self._values.take(places), points)


class EvaluateSender(Role):
    """Raises the receiver's points to s. Learns their number, and within an epoch which are new; no identity.

    `statement` is what `state_key` made of `key`. `charge` refuses points beyond the agreed evaluations; it is called
    with each chunk that comes in, and after a restart again with the same points, which must not count twice.
    """

    kind = Kind.EVALUATE
    part = Part.SENDER

    def __init__(
        self, *, key: Key, statement: SignedKey, charge: Callable[[U8], None], random: Callable[[int], bytes]
    ) -> None:
        self._key, self._statement, self._charge, self._random = key, statement, charge, random
        self._last = np.empty((0, 32), np.uint8)
        self._points = 0

    @property
    def result(self) -> int:
        """The number of points received so far."""
        return self._points

    def produce(self, step: str) -> Sequence[Message]:
        return [self._statement]

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        assert isinstance(payload, Blinded)
        points = rows(payload.points, 32)
        if self._points % CHUNK_POINTS or len(points) > CHUNK_POINTS:  # each chunk costs a row and a file
            raise RemoteProtocolError("points", f"blinded chunk {chunk} comes after one that is not full")
        check_sorted(f"blinded chunk {chunk}", np.concatenate([self._last, points]))
        if len(points):
            self._charge(points)
        self._last = points[-1:] if len(points) else self._last
        self._points += len(points)

    def reply(self, step: str, chunk: int, payload: Message) -> Message:
        assert isinstance(payload, Blinded)
        points = rows(payload.points, 32)
        if not len(points):
            return Evaluated(points=b"", proof=_NO_PROOF)
        evaluated = oprf.evaluate(points, self._key)
        shown = proof.prove(self._key, points, evaluated, self._random)
        return Evaluated(points=evaluated.tobytes(), proof=shown)


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
    for start in range(0, len(records), SLICE):
        digest.update(records[start : start + SLICE].tobytes())
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

        return Lazily(len(places), chunk)

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        assert isinstance(payload, ReceiverReceipt)
        if payload.receipt != self._receipt:
            raise RemoteProtocolError("receipt", "the receiver's receipt says other things than we sent")
        self._receipt.verify(payload.signature, *self._peer_keys)
        self._signature = payload.signature


class EvaluationTally(NamedTuple):
    """What a receiver knows of the evaluations in one namespace: the key s*G behind them, and the points of this epoch.

    `unsure` more were sent in exchanges that did not end: the sender may have counted all of them, some, or none.
    """

    public: bytes
    evaluated: int
    unsure: int = 0


class Released(NamedTuple):
    """What a receiver has after a release: for each namespace all records, sealed as they came, uint8 (n, 16 + width).

    A revision that is not `full` holds changes; an all-zero bitmap takes a member out.
    """

    definition: Definition
    records: dict[str, U8]
    manifest: Manifest
    receipt: SignedReceipt

    def open(self, namespace: str, prf: U8) -> tuple[Indices, U8]:
        """Return which rows of `prf`, uint8 (n, 64), have a record, ascending, and their bitmaps, uint8 (h, width)."""
        announced = self.manifest
        indices, bitmaps = membership.open_records(
            self.records[namespace],
            prf,
            feed=announced.feed,
            version=announced.version,
            revision=announced.revision,
        )
        # Bits of no segment decide nothing: to refuse them would tell the sender which of its records are ours.
        meant = np.packbits(np.arange(8 * announced.width) < len(self.definition.segments))
        return indices, bitmaps & meant


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
    ) -> None:
        self._connection, self._definition, self._evaluations = connection, definition, evaluations
        self._last_revision, self._previous = last_revision, previous
        self._peer_keys, self._sign, self._most = peer_keys, sign, most
        self._check, self._signing = check, signing
        self._manifest: Manifest | None = None
        self._whole: dict[str, U8] = {}
        self._records: dict[str, list[U8]] = {}
        self._expected: dict[str, int] = {}
        self._receipt: SignedReceipt | None = None

    @property
    def result(self) -> Released:
        """The records. Raise NotReady before both sides signed the receipt."""
        if self._receipt is None:
            raise NotReady("the sender has not countersigned the receipt yet")
        return Released(self._definition, self._whole, self._announced, self._receipt)

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
                self._whole[tally.namespace] = self._joined(tally)

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
        self._records = {tally.namespace: [] for tally in manifest.tallies}
        self._expected = {tally.namespace: tally.records for tally in manifest.tallies}

    def _take_records(self, payload: Records) -> None:
        width = TAG_BYTES + self._announced.width
        if payload.namespace not in self._records or len(payload.records) % width:
            raise RemoteProtocolError("records", "records of another width, or of a namespace that was not announced")
        received = self._records[payload.namespace]
        received.append(rows(payload.records, width))
        if sum(map(len, received)) > self._expected[payload.namespace]:
            raise RemoteProtocolError("records", f"{payload.namespace}: more records than the manifest announced")

    def _joined(self, tally: Tally) -> U8:
        namespace, chunks = tally.namespace, self._records.pop(tally.namespace)
        records = np.concatenate(chunks) if chunks else np.empty((0, TAG_BYTES + self._announced.width), np.uint8)
        if (len(records), hashlib.sha256(records.data).digest()) != (tally.records, tally.sha256):
            raise RemoteProtocolError("records", f"{namespace}: the records are not those that the manifest announced")
        membership.check_order(records)
        return records
