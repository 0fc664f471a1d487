"""Both parts of an evaluation: the receiver gets the PRF of its own identities, and the sender does not see them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from psi import proof
from psi.count import CHUNK_POINTS
from psi.engine import Blinded as BlindedPoints
from psi.engine import Engine, Finishing, Outputs
from psi.keys import Key
from psi.local import IN_MEMORY
from psi.values import U8, Values

from .errors import NotReady, RemoteProtocolError
from .exchange import LazyChunks, Role
from .messages import Blinded, Evaluated, KeyStatement, SignedKey
from .states import Kind, Part
from .wire import Message, check_sorted, rows

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
    """F of each of `values`, under the key that `statement` states."""

    values: Values
    prf: Outputs
    statement: SignedKey


class EvaluateReceiver(Role):
    """Gets F(y) of its own identities. Learns nothing else; the sender sees how many points there are.

    `values` must not repeat; `key` is r. `pinned` is the public key that the sender stated before in this epoch, if
    any.
    """

    kind = Kind.EVALUATE
    part = Part.RECEIVER
    drawn = frozenset({"blinded"})

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
        engine: Engine = IN_MEMORY,
    ) -> None:
        self._context, self._direction, self._epoch = context, direction, epoch
        self._values, self._key, self._peer_keys, self._pinned = values, key, peer_keys, pinned
        self._engine = engine
        self._statement: SignedKey | None = None
        self._blinded_points: BlindedPoints | None = None
        self._finishing: Finishing | None = None
        self._outputs: Outputs | None = None

    @property
    def result(self) -> Evaluation:
        """The PRF values and the key that made them. Raise NotReady before every proof has been checked."""
        if self._outputs is None or self._statement is None:
            raise NotReady("the evaluation is not complete")
        return Evaluation(self._values, self._outputs, self._statement)

    @property
    def _blinded(self) -> BlindedPoints:
        if self._blinded_points is None:
            self._blinded_points = self._engine.blind(self._context, self._values, self._key)
        return self._blinded_points

    def produce(self, step: str) -> Sequence[Message]:
        points = self._blinded.points

        def chunk(number: int) -> Message:
            return Blinded(points=points[_chunk(number)].tobytes())

        return LazyChunks(max(1, -(-len(points) // CHUNK_POINTS)), chunk)

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        match payload:
            case SignedKey():
                self._take_key(payload)
            case Evaluated():
                self._take_points(chunk, payload)

    def complete(self, step: str) -> None:
        if step == "evaluated":
            assert self._finishing is not None
            self._outputs = self._finishing.outputs()

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
        if self._finishing is None:
            assert self._statement is not None
            public = self._statement.statement.public
            self._finishing = self._engine.finish(self._context, self._values, self._key, self._blinded, public)
        self._finishing.take(_chunk(chunk), rows(payload.points, 32), payload.proof)


class EvaluateSender(Role):
    """Raises the receiver's points to s. Learns their number, and within an epoch which are new; no identity.

    `statement` is what `state_key` made of `key`. `charge` refuses points beyond the agreed evaluations; it is called
    with each chunk that comes in, and after a restart again with the same points, which must not count twice.
    """

    kind = Kind.EVALUATE
    part = Part.SENDER

    def __init__(
        self,
        *,
        key: Key,
        statement: SignedKey,
        charge: Callable[[U8], None],
        random: Callable[[int], bytes],
        engine: Engine = IN_MEMORY,
    ) -> None:
        self._key, self._statement, self._charge, self._random = key, statement, charge, random
        self._engine = engine
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
        evaluated, shown = self._engine.evaluate(points, self._key, self._random)
        return Evaluated(points=evaluated.tobytes(), proof=shown)


def _chunk(number: int) -> slice:
    """Return which points are in a chunk."""
    return slice(number * CHUNK_POINTS, (number + 1) * CHUNK_POINTS)


class EvaluationTally(NamedTuple):
    """What a receiver knows of the evaluations in one namespace: the key s*G behind them, and the points of this epoch.

    `unsure` more were sent in exchanges that did not end: the sender may have counted all of them, some, or none.
    """

    public: bytes
    evaluated: int
    unsure: int = 0
