"""The sender and the receiver of a release, the asker and the answerer of a count, in one process and in memory."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol import estimate, release
from protocol.exchange import Done, Machine, Opened, Opening, Role, Send
from protocol.feed import Definition, SegmentRef
from protocol.messages import Answer, SegmentAnswer
from protocol.receipt import NO_RECEIPT
from protocol.states import Kind
from psi import count, membership, oprf
from psi.hashing import context
from psi.keys import Key
from psi.values import Values

from .meter import Meter, Phase

NAMESPACE = "email_sha256/lc-v1"
SEGMENTS = ("everyone", "half")


def email(number: int) -> str:
    return f"person.{number}@example.com"


class Party:
    def __init__(self, name: str) -> None:
        key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self.sign = key.sign
        self.public = key.public_key().public_bytes_raw()
        self.fingerprint = hashlib.sha256(self.public).digest()


class InProcess:
    """A sender (or asker) and a receiver (or answerer) in memory, with n identities each."""

    def __init__(self, n: int, meter: Meter) -> None:
        self._n, self._meter = n, meter
        self._sender, self._receiver = Party("sender"), Party("receiver")
        self._theirs, self._ours = _people(0, n), _people(n // 2, n)
        self.phases: list[Phase] = []

    def run(self) -> list[Phase]:
        with self._phase("count") as phase:
            phase.wire = self._count()
        with self._phase("evaluate") as phase:
            prf_key = Key.random(os.urandom)
            phase.wire, evaluation = self._evaluate(prf_key)
        with self._phase("release") as phase:
            phase.wire = self._release(prf_key, evaluation)
        return self.phases

    def _count(self) -> int:
        context, direction = self._place("count")
        key = Key.random(os.urandom)
        universe = count.build_universe(context, self._ours, key, os.urandom)
        signed = estimate.commit(universe, context=context, epoch=1, generation=1, made=1, sign=self._receiver.sign)
        asked = self._theirs.take(np.arange(min(self._n, estimate.MAX_ASKED)))
        asker = estimate.CountAsker(
            context=context,
            direction=direction,
            epoch=1,
            values=asked,
            segments=np.stack([np.ones(len(asked), bool), np.arange(len(asked)) % 2 == 0]),
            consented=np.ones(len(asked), bool),
            derive_key=lambda digest: Key.from_seed(digest[:32], b"benchmark"),
            check_universe=lambda _: None,
            maximum=self._n,
            peer_keys=[self._receiver.public],
        )
        found: list[int] = []

        def sanitise(question: estimate.Question) -> Answer:
            found.extend(int(hits) for hits in question.consented_hits)
            small = SegmentAnswer(status="below_minimum")
            return Answer(segments=tuple(small for _ in found), computed_at=1)

        answerer = estimate.CountAnswerer(
            context=context,
            direction=direction,
            epoch=1,
            universe=universe,
            key=key,
            commitment=signed,
            check_asker=lambda digest: None,
            sanitise=sanitise,
        )
        wire = self._drive(Kind.COUNT, {"namespace": NAMESPACE}, asker, answerer)
        assert found[0] == max(0, len(asked) - self._n // 2)
        return wire

    def _evaluate(self, key: Key) -> tuple[int, release.Evaluation]:
        context, direction = self._place("release")
        statement = release.state_key(
            key, context=context, direction=direction, epoch=1, random=os.urandom, sign=self._sender.sign
        )
        receiver = release.EvaluateReceiver(
            context=context,
            direction=direction,
            epoch=1,
            values=self._ours,
            key=Key.random(os.urandom),
            peer_keys=[self._sender.public],
        )
        sender = release.EvaluateSender(key=key, statement=statement, charge=lambda _: None, random=os.urandom)
        return self._drive(Kind.EVALUATE, {"namespace": NAMESPACE}, sender, receiver), receiver.result

    def _release(self, key: Key, evaluation: release.Evaluation) -> int:
        definition = _definition()
        bitmaps = np.where(np.arange(self._n)[:, None] % 2 == 0, 0xC0, 0x80).astype(np.uint8)
        prf = oprf.prf(self._place("release")[0], self._theirs, key)
        records = {NAMESPACE: membership.seal(prf, bitmaps, feed=definition.feed, version=1, revision=1)}
        announced = release.manifest(
            definition,
            records,
            revision=1,
            full=True,
            evaluated={NAMESPACE: self._n},
            publics={NAMESPACE: key.public},
            previous=NO_RECEIPT,
            made=1,
        )
        sender = release.ReleaseSender(
            connection=bytes(16),
            manifest=announced,
            records=records,
            peer_keys=[self._receiver.public],
            sign=self._sender.sign,
        )
        receiver = release.ReleaseReceiver(
            connection=bytes(16),
            definition=definition,
            evaluations={NAMESPACE: release.EvaluationTally(key.public, self._n)},
            last_revision=0,
            previous={NO_RECEIPT},
            peer_keys=[self._sender.public],
            sign=self._receiver.sign,
            most=self._n,
        )
        subject: dict[str, str | bytes | int] = {"feed": definition.feed, "version": 1, "revision": 1}
        wire = self._drive(Kind.RELEASE, subject, sender, receiver)
        assert len(receiver.result.open(NAMESPACE, evaluation.prf[:])[0]) == self._n // 2
        return wire

    def _drive(self, kind: Kind, subject: dict[str, str | bytes | int], client: Role, server: Role) -> int:
        """Run an exchange; return the bytes of its chunks."""
        opening = Opening(
            exchange=bytes(16),
            kind=kind,
            part=client.part,
            connection=bytes(16),
            agreement=bytes(32),
            epoch=1,
            subject=subject,
            nonce=bytes(32),
        )
        opened = Opened(exchange=bytes(16), epoch=1, nonce=bytes(32))
        caller, callee = (Machine(opening, opened, role, {}) for role in (client, server))
        wire = 0
        while not isinstance(action := caller.next(), Done):
            giver, taker = (caller, callee) if isinstance(action, Send) else (callee, caller)
            body = giver.get(action.step, action.chunk)
            wire += len(body)
            taker.put(action.step, action.chunk, body)
            if giver is caller:
                caller.sent(action.step, action.chunk)
        return wire

    def _place(self, protocol: str) -> tuple[bytes, bytes]:
        first, second = self._sender.fingerprint, self._receiver.fingerprint
        where = context(protocol=protocol, from_key=first, to_key=second, connection=bytes(16), namespace=NAMESPACE)
        return where, first + second

    @contextmanager
    def _phase(self, name: str) -> Iterator[Phase]:
        self._meter.reset()
        before = self._meter.read()
        phase = Phase(part="one process", n=self._n, name=name, cpu=0, curve=0, wall=0, wire=0)
        yield phase
        after = self._meter.read()
        phase.cpu, phase.curve, phase.wall = (
            after.cpu - before.cpu,
            after.curve - before.curve,
            after.wall - before.wall,
        )
        phase.peaks = {"both": after.peak}
        self.phases.append(phase)


def _people(first: int, n: int) -> Values:
    digests = [hashlib.sha256(email(number).encode()).digest() for number in range(first, first + n)]
    return Values(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))


def _definition() -> Definition:
    return Definition(
        feed=bytes(range(16)),
        version=1,
        name="benchmark",
        description="",
        segments=tuple(SegmentRef(id=bytes([place]) * 16, name=name) for place, name in enumerate(SEGMENTS)),
        namespaces=(NAMESPACE,),
        restricted_uses=(),
        created=1,
    )
