"""Two organisations in memory: keys, their roles in each kind of exchange, drivers for honest and hostile runs."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import psi.count
from protocol import estimate, messages, release, wire
from protocol.errors import NotReady, RemoteProtocolError
from protocol.exchange import Done, Machine, Opened, Opening, Role, Send, Spool
from protocol.feed import Definition, SegmentRef
from protocol.receipt import NO_RECEIPT
from protocol.states import PARTS, Kind, Part
from psi import membership, oprf
from psi.hashing import context
from psi.keys import Key
from psi.values import U8, Indices, Values

Body = dict[str, Any]  # the fields of a chunk, decoded
Lie = Callable[[Body], Body]  # from the fields of a chunk to those that are sent in their place
Transfer = tuple[str, int, bytes, Machine]  # step, chunk, body, and the machine that takes it
R = TypeVar("R", bound=Role)

NAMESPACE = "email_sha256/lc-v1"
CONNECTION = bytes(range(16))
FEED = bytes(range(16, 32))
EPOCH = 3


class Seeded:
    """The same bytes in every run."""

    def __init__(self, seed: str) -> None:
        self._seed, self._count = seed.encode(), 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(self._seed + self._count.to_bytes(8, "big")).digest(size)


class Party:
    """A node's signing key."""

    def __init__(self, name: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self.sign: Callable[[bytes], bytes] = self._key.sign
        self.key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.fingerprint = hashlib.sha256(self.key).digest()


def people(*names: str) -> Values:
    return Values.of([hashlib.sha256(name.encode()).digest() for name in names])


LEFT, RIGHT, MALLORY = Party("left"), Party("right"), Party("mallory")  # asker or receiver; answerer or sender
THEIR_PEOPLE = tuple(f"person{number}@example.com" for number in range(20))
OUR_PEOPLE = tuple(f"person{number}@example.com" for number in range(12, 24))  # 12..19 in common
DEFINITION = Definition(
    feed=FEED,
    version=2,
    name="vip",
    description="",
    segments=tuple(SegmentRef(id=bytes([number]) * 16, name=f"segment{number}") for number in range(3)),
    namespaces=(NAMESPACE,),
    restricted_uses=("analytics",),
    created=1_800_000_000,
)


def place(protocol: str) -> dict[str, Any]:
    """Context and direction of one protocol: a count goes from the asker, a release from the sender."""
    source, target = (LEFT, RIGHT) if protocol == "count" else (RIGHT, LEFT)
    keys = {"from_key": source.fingerprint, "to_key": target.fingerprint}
    where = context(protocol=protocol, connection=CONNECTION, namespace=NAMESPACE, **keys)
    return {"context": where, "direction": source.fingerprint + target.fingerprint}


@dataclass
class World:
    """Everything that both sides know, and makers of their roles; a test changes one thing and sees who notices."""

    universe: psi.count.Universe
    count_key: Key
    blind_key: Key = field(default_factory=lambda: Key.random(Seeded("r")))
    prf_key: Key = field(default_factory=lambda: Key.random(Seeded("s")))
    left: Party = LEFT
    right: Party = RIGHT
    mallory: Party = MALLORY
    people: Callable[..., Values] = people
    definition: Definition = DEFINITION
    connection: bytes = CONNECTION
    namespace: str = NAMESPACE
    epoch: int = EPOCH
    questions: list[estimate.Question] = field(default_factory=list)
    charged: list[int] = field(default_factory=list)

    def opening(self, kind: Kind, part: Part, *, nonce: bytes = bytes(32)) -> Opening:
        about: dict[str, str | bytes | int] = {"namespace": NAMESPACE}
        if kind == Kind.RELEASE:
            about = {"feed": FEED, "version": 2, "revision": 7}
        return Opening(
            exchange=bytes(range(32, 48)),
            kind=kind,
            part=part,
            connection=CONNECTION,
            agreement=bytes(32),
            epoch=EPOCH,
            subject=about,
            nonce=nonce,
        )

    def opened(self) -> Opened:
        return Opened(exchange=bytes(range(32, 48)), epoch=EPOCH, nonce=b"\1" * 32)

    def machine(self, kind: Kind, role: Role, spool: Spool, *, client: Part, nonce: bytes = bytes(32)) -> Machine:
        return Machine(self.opening(kind, client, nonce=nonce), self.opened(), role, spool)

    def role(self, part: Part, kind: Kind, **changes: Any) -> Role:
        make: dict[tuple[Kind, Part], Callable[..., Role]] = {
            (Kind.COUNT, Part.ASKER): self.asker,
            (Kind.COUNT, Part.ANSWERER): self.answerer,
            (Kind.EVALUATE, Part.RECEIVER): self.evaluate_receiver,
            (Kind.EVALUATE, Part.SENDER): self.evaluate_sender,
            (Kind.RELEASE, Part.RECEIVER): self.release_receiver,
            (Kind.RELEASE, Part.SENDER): self.release_sender,
        }
        return make[kind, part](**changes)

    def asker(self, **changes: Any) -> estimate.CountAsker:
        size = len(OUR_PEOPLE)
        arguments: dict[str, Any] = {
            **place("count"),
            "epoch": EPOCH,
            "values": people(*OUR_PEOPLE),
            "segments": np.array([[True] * size, [number < 6 for number in range(size)]]),
            "consented": np.array([number % 2 == 0 for number in range(size)]),
            "derive_key": lambda digest: Key.from_seed(digest[:32], b"test"),
            "check_universe": lambda commitment: None,
            "maximum": 1_000,
            "peer_keys": (RIGHT.key,),
        }
        return estimate.CountAsker(**{**arguments, **changes})

    def commitment(self, **changes: Any) -> messages.SignedCommitment:
        arguments: dict[str, Any] = {
            "context": place("count")["context"],
            "epoch": EPOCH,
            "generation": 1,
            "made": 5,
            "sign": RIGHT.sign,
        }
        return estimate.commit(self.universe, **{**arguments, **changes})

    def answerer(self, **changes: Any) -> estimate.CountAnswerer:
        arguments: dict[str, Any] = {
            **place("count"),
            "epoch": EPOCH,
            "universe": self.universe,
            "key": self.count_key,
            "commitment": self.commitment(),
            "check_asker": lambda digest: None,
            "sanitise": self.sanitise,
        }
        return estimate.CountAnswerer(**{**arguments, **changes})

    def sanitise(self, question: estimate.Question) -> messages.Answer:
        counted = zip(question.consented_hits, question.other_hits, strict=True)
        self.questions.append(question)
        return messages.Answer(
            segments=tuple(
                messages.SegmentAnswer(
                    status="ok",
                    overlap=int(yes + no),
                    consented=int(yes),
                    half_width=0,
                    consented_half_width=0,
                )
                for yes, no in counted
            ),
            computed_at=9,
        )

    def statement(self, key: Key | None = None, **changes: Any) -> messages.SignedKey:
        arguments: dict[str, Any] = {
            **place("release"),
            "epoch": EPOCH,
            "random": Seeded("statement"),
            "sign": RIGHT.sign,
        }
        return release.state_key(key or self.prf_key, **{**arguments, **changes})

    def evaluate_receiver(self, **changes: Any) -> release.EvaluateReceiver:
        arguments: dict[str, Any] = {
            **place("release"),
            "epoch": EPOCH,
            "values": people(*OUR_PEOPLE),
            "key": self.blind_key,
            "peer_keys": (RIGHT.key,),
        }
        return release.EvaluateReceiver(**{**arguments, **changes})

    def evaluate_sender(self, **changes: Any) -> release.EvaluateSender:
        arguments: dict[str, Any] = {
            "key": self.prf_key,
            "statement": self.statement(),
            "charge": lambda points: self.charged.append(len(points)),
            "random": Seeded("proof"),
        }
        return release.EvaluateSender(**{**arguments, **changes})

    def prf(self, values: Values) -> U8:
        return oprf.prf(place("release")["context"], values, self.prf_key)

    def open(self, released: release.Released) -> tuple[Indices, U8]:
        """Return which of our people have a record, and their bitmaps."""
        return released.open(NAMESPACE, self.prf(people(*OUR_PEOPLE)))

    def bitmaps(self) -> U8:
        """Person i is in segment i mod 3."""
        return np.array([[0x80 >> (number % 3)] for number in range(len(THEIR_PEOPLE))], np.uint8)

    def records(self, *, revision: int = 7, version: int = 2, bitmaps: U8 | None = None) -> U8:
        bits = self.bitmaps() if bitmaps is None else bitmaps
        return membership.seal(self.prf(people(*THEIR_PEOPLE)), bits, feed=FEED, version=version, revision=revision)

    def manifest(self, records: U8, **changes: Any) -> messages.Manifest:
        arguments: dict[str, Any] = {
            "revision": 7,
            "full": True,
            "evaluated": {NAMESPACE: 12},
            "publics": {NAMESPACE: self.prf_key.public},
            "previous": NO_RECEIPT,
            "made": 11,
        }
        definition = changes.pop("definition", DEFINITION)
        return release.manifest(definition, {NAMESPACE: records}, **{**arguments, **changes})

    def release_sender(self, **changes: Any) -> release.ReleaseSender:
        records = changes.pop("records", None)
        records = self.records() if records is None else records
        arguments: dict[str, Any] = {
            "connection": CONNECTION,
            "manifest": changes.pop("manifest", None) or self.manifest(records),
            "records": {NAMESPACE: records},
            "peer_keys": (LEFT.key,),
            "sign": RIGHT.sign,
        }
        return release.ReleaseSender(**{**arguments, **changes})

    def release_receiver(self, **changes: Any) -> release.ReleaseReceiver:
        arguments: dict[str, Any] = {
            "connection": CONNECTION,
            "definition": DEFINITION,
            "evaluations": {NAMESPACE: release.EvaluationTally(self.prf_key.public, 12)},
            "last_revision": 6,
            "previous": {NO_RECEIPT},
            "peer_keys": (RIGHT.key,),
            "sign": LEFT.sign,
            "most": 1_000,
        }
        return release.ReleaseReceiver(**{**arguments, **changes})

    def play(self, kind: Kind, **changes: dict[str, Any]) -> "Roles":
        """Run one exchange to its end and return both roles; the named parts get changes."""
        names = sorted(PARTS[kind])
        roles = Roles({part: self.role(part, kind, **changes.get(part.value, {})) for part in names})
        client, server = (self.machine(kind, roles[part], {}, client=names[0]) for part in names)
        for _ in drive(client, server):
            pass
        assert client.done
        assert server.done
        return roles

    def tamper(
        self, kind: Kind, step: str, lie: Lie, *, chunk: int = 0, **parts: dict[str, Any] | Role
    ) -> RemoteProtocolError:
        """Run an exchange, change the fields of one body on its way, and return the error.

        The exchange goes on after the change until somebody notices; then neither side may have a result. A part is
        given as changes, or as the role that plays it.
        """
        names = sorted(PARTS[kind])
        given = {part: parts.get(part.value, {}) for part in names}
        roles = {
            part: each if isinstance(each, Role) else self.role(part, kind, **each) for part, each in given.items()
        }
        client, server = (self.machine(kind, roles[part], {}, client=names[0]) for part in names)
        with pytest.raises(RemoteProtocolError) as caught:  # noqa: PT012 - whichever side notices, wherever
            for name, number, body, taker in drive(client, server):
                if (name, number) == (step, chunk):
                    document = wire.unpack(body)
                    taker.put(name, number, wire.pack({**document, **lie(document)}))
                    if taker is server:
                        client.sent(name, number)
        for role in roles.values():
            if isinstance(role, estimate.CountAsker | release.EvaluateReceiver | release.ReleaseReceiver):
                with pytest.raises(NotReady):
                    _ = role.result
        return caught.value


class Roles(dict[Part, Role]):
    """Both roles of an exchange."""

    def of(self, kind: type[R]) -> R:
        """Return the role of this class."""
        return next(role for role in self.values() if isinstance(role, kind))


def drive(client: Machine, server: Machine) -> Iterator[Transfer]:
    """Drive an exchange honestly: yields each transfer before it happens."""
    while not isinstance(action := client.next(), Done):
        giver, taker = (client, server) if isinstance(action, Send) else (server, client)
        step, chunk = action
        body = giver.get(step, chunk)
        yield step, chunk, body, taker
        if client.next() == action:  # else a test did it
            taker.put(step, chunk, body)
            if giver is client:
                client.sent(step, chunk)


@cache
def universe() -> tuple[psi.count.Universe, Key]:
    """Return a universe of their people and the key that it was built with: made once, it takes a while."""
    key = Key.random(Seeded("b"))
    return psi.count.build_universe(place("count")["context"], people(*THEIR_PEOPLE), key, Seeded("canaries")), key
