"""What an answerer that lies gets from a real node; each test says it in figures, and docs/lying-partner.md.

Acme asks; globe answers with universes of its making, and acme's node is as it always is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from attacks import Attack, values
from clock import Clock
from sides import EMAIL, Pair, Person

from node.access.audit import Result
from node.access.scope import Scope
from node.exchanges import handlers
from node.exchanges.channels import Channel, epoch_of
from node.partners.connections import Connection
from node.transport.client import PeerClient
from protocol.errors import RemoteProtocolError
from protocol.estimate import CountAnswerer, commit
from protocol.exchange import Opening
from protocol.messages import Answer, SegmentAnswer, Tags, UniversePoints
from protocol.states import Kind, Part
from protocol.wire import Message
from psi import count, kernel
from psi.join import first_disorder, match, sort_points
from psi.keys import Key, random_scalars
from psi.values import U8

pytestmark = pytest.mark.feature("ES8")


class Answerer(CountAnswerer):
    """Answers from points of the attacker's making, and keeps what it sees."""

    def __init__(self, world: "Lying", channel: Channel, universe: U8, generation: int) -> None:
        node = world.globe.node
        points = count.Universe(points=universe, canaries=np.empty((0, 32), np.uint8), size=len(universe))
        signed = commit(
            points,
            context=channel.context,
            epoch=channel.epoch.number,
            generation=generation,
            made=node.home.now(),
            sign=node.home.sign,
        )
        self.universe, self.key, self.tags = universe, world.key, list[U8]()
        self.tag_context = count.tag_context(
            channel.context, channel.direction, channel.epoch.number, signed.commitment.universe_digest()
        )
        super().__init__(
            context=channel.context,
            direction=channel.direction,
            epoch=channel.epoch.number,
            universe=points,
            key=world.key,
            commitment=signed,
            check_asker=lambda digest: None,
            sanitise=self.answered,
        )

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        if isinstance(payload, Tags):
            self.tags.append(np.frombuffer(payload.tags, np.uint8).reshape(-1, count.TAG_BYTES))
        super().receive(step, chunk, payload)

    def answered(self, question: Any) -> Answer:
        self.question = question
        absurd = SegmentAnswer(status="ok", overlap=10**9, consented=10**9, half_width=0, consented_half_width=0)
        return Answer(segments=(absurd,) * len(question.segments), computed_at=10**10)


@dataclass
class Lying:
    """Globe answers acme's real node with universes of its making."""

    pair: Any
    monkeypatch: pytest.MonkeyPatch
    key: Key
    role: Answerer | None = None
    generation: int = 0

    @property
    def globe(self) -> Any:
        return self.pair.globe

    def asked(self, make: Callable[[bytes], U8]) -> Answerer:
        """Let acme estimate its segment while globe answers with the points that `make` returns for the context."""
        self.generation += 1

        def lie(scope: Scope, connection: Connection, opening: Opening, _: bytes | None) -> handlers.PreparedRole:
            epoch = epoch_of(scope, connection, opening.epoch)
            channel = Channel.of(scope, connection, epoch, EMAIL, protocol="count", outward=False)
            self.role = Answerer(self, channel, make(channel.context), self.generation)
            return handlers.PreparedRole(self.role)

        lying = replace(handlers.handler(Kind.COUNT, Part.ANSWERER), answer=lie)
        self.monkeypatch.setitem(handlers.KINDS, (Kind.COUNT, Part.ANSWERER), lambda: lying)
        feeds = self.pair.acme.project.feeds
        if not feeds.all():
            feeds.create("f", segments=["all"], namespaces=[EMAIL], partners=["globe"])
        (self.row,) = feeds.estimate("f")
        assert self.role is not None
        return self.role

    def alerts(self) -> list[str]:
        return [each.kind for each in self.pair.acme.project.alerts.all() if each.kind.startswith("exchange")]


@pytest.fixture
def lying(attack: Callable[..., Attack], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lying]:
    def prepare(**terms: Any) -> Lying:
        world = attack(**{"epsilon": "none", **terms})
        return Lying(world.pair, monkeypatch, Key.random(lambda size: bytes(range(64))))

    return prepare


def keys(amount: int) -> list[Key]:
    return [Key.from_seed(number.to_bytes(32), b"hostile") for number in range(amount)]


def named(context: bytes, targets: Sequence[int], under: Sequence[Key]) -> U8:
    points = [
        kernel.hash_and_multiply(context, values([target]), key.scalar)
        for target, key in zip(targets, under, strict=True)
    ]
    return sort_points(np.concatenate(points))[0]


def learned(role: Answerer, targets: Sequence[int], under: Sequence[Key]) -> list[int]:
    """Return the targets about which the answerer knows that it was asked about them."""

    def tags(key: Key) -> U8:
        return kernel.digests(role.tag_context, kernel.multiply(role.question.points, key.scalar), size=count.TAG_BYTES)

    return [
        target
        for target, key in zip(targets, under, strict=True)
        if len(match(role.tags[0], sort_points(tags(key))[0])[0])
    ]


def test_many_keys_tell_a_lying_answerer_names(lying: Callable[..., Lying], clock: Clock) -> None:
    """The answerer LEARNS, of each person it has a key for, whether it is asked about: 12 of 30 targets here, all right.

    No proof prevents it. At most it is all persons in the segments asked (65,536 of each, the same ones all epoch),
    with segment and consent bit, from one universe a day and 8 an epoch. Not among them: segments that nobody asks
    about, and, where the project says so, people without consent. The tags say nothing of chunks.
    """
    world, targets, under = lying(acme=range(20), out=range(8)), range(30), keys(30)
    world.pair.acme.project.leave_out("unconsented")
    role = world.asked(lambda context: named(context, targets, under))
    assert learned(role, targets, under) == list(range(8, 20))
    assert first_disorder(role.tags[0]) is None
    world.asked(lambda context: named(context, targets, under))  # the same universe again: the same tags
    with pytest.raises(RemoteProtocolError, match="within a day"):
        world.asked(lambda context: named(context, range(30, 60), under))
    assert world.alerts() == ["exchange.commitment"]


def test_one_target_and_junk(lying: Callable[..., Lying]) -> None:
    """The answerer learns one bit of the one target, exactly, whatever the floor says: it counts before the noise.

    Terms bind what the asker is told, not what a lying answerer sees.
    """
    world = lying(acme=range(20), minimum_overlap=1_000)
    junk = kernel.multiply_base(random_scalars(127, lambda size: np.random.default_rng(5).bytes(size)))
    role = world.asked(
        lambda context: sort_points(
            np.concatenate([junk, kernel.hash_and_multiply(context, values([5]), world.key.scalar)])
        )[0]
    )
    assert role.question.consented_hits.tolist() == [1]


def test_a_repeated_element_in_the_universe(lying: Callable[..., Lying]) -> None:
    """A point twice, to count a person twice: the asker refuses before it tags, raises an alert, and asks nothing."""
    world = lying()
    with pytest.raises(RemoteProtocolError) as refused:
        world.asked(lambda context: sort_points(np.repeat(named(context, [1, 2], keys(2)), 2, axis=0))[0])
    assert refused.value.code == "duplicate_point"
    assert world.role is not None
    assert world.role.tags == []
    assert world.alerts() == ["exchange.duplicate_point"]


def test_a_universe_other_than_the_committed_one(lying: Callable[..., Lying], monkeypatch: pytest.MonkeyPatch) -> None:
    """Points changed after the commitment: refused. The asker's key hangs on the commitment, so nothing was to gain."""
    world, produce = lying(), Answerer.produce

    def switched(self: Answerer, step: str) -> Sequence[Message]:
        if step == "universe":
            return [UniversePoints(points=sort_points(kernel.multiply(self.universe, self.key.scalar))[0].tobytes())]
        return produce(self, step)

    monkeypatch.setattr(Answerer, "produce", switched)
    with pytest.raises(RemoteProtocolError) as refused:
        world.asked(lambda context: named(context, range(3), keys(3)))
    assert refused.value.code == "commitment"
    assert world.alerts() == ["exchange.commitment"]


def test_another_universe_under_the_same_number(lying: Callable[..., Lying], clock: Clock) -> None:
    """Two universes called the same, to show more than are allowed: the asker refuses the second, for good."""
    world = lying()
    world.asked(lambda context: named(context, range(3), keys(3)))
    world.generation, clock.now = 0, clock.now + 2 * 86_400
    with pytest.raises(RemoteProtocolError, match="under the same number"):
        world.asked(lambda context: named(context, range(3, 6), keys(3)))


def test_an_absurd_number(lying: Callable[..., Lying]) -> None:
    """The answerer can tell any number; it is shown as at most the segment itself. The asker sees that it cannot check."""
    world = lying(acme=range(20))
    world.asked(lambda context: named(context, range(3), keys(3)))
    assert (world.row["overlap"], world.row["consented"]) == (20, 20)


def test_a_lying_answerer_that_calls_cannot_change_its_universe(
    quiet_receiver: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answerer without an address puts its universe, and puts it again with other points: refused and audited."""
    pair, put = quiet_receiver, PeerClient.put
    acme, globe = ([person(f"p{n}", f"person{n}@example.com") for n in range(30)] for _ in range(2))
    pair.prepare(acme, globe, {"all": [f"p{n}" for n in range(30)]})
    feeds = pair.acme.project.feeds
    feeds.create("f", segments=["all"], namespaces=[EMAIL], partners=["globe"])
    feeds.estimate("f")

    def changed(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body, status=status)
        if "/universe/" in path:
            put(self, path, body[:-1] + bytes([body[-1] ^ 1]), status=status)

    monkeypatch.setattr(PeerClient, "put", changed)
    pair.post()
    assert feeds.estimates("f") == []
    assert [each["detail"]["error"]["code"] for each in pair.acme.acts("exchange.count", Result.DENY)] == [
        "chunk_changed"
    ]
