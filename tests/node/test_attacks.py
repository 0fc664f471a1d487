"""What a partner that lies gets from a real node, in both roles; each test says it in figures, SECURITY.md has the table.

Globe answers and knows the persons 0 to 895: 960 points of people and 64 canaries, padded to 128 here instead of 4,096.
Acme asks. Whoever attacks holds its own node's keys and speaks to the other's endpoint; the other is as it always is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from node.errors import PeerRefused, StoreBusy
from node.exchanges.exchanges import run_exchange
from node.exchanges.http import PATH
from node.feeds.estimates import disclosure, matching
from node.feeds.evaluations import Channel, epoch_of
from node.storage.tables import exchanges, ledger
from node.transport.client import PeerClient
from protocol.agreement import Terms
from protocol.errors import RemoteProtocolError
from protocol.estimate import CountAnswerer, CountAsker, commit
from protocol.messages import Answer, Questions, SegmentAnswer, Tags
from protocol.states import Kind, Part
from protocol.wire import Message
from psi import count, kernel
from psi.errors import VesicaError
from psi.join import first_disorder, match, sort_points
from psi.keys import Key, Purpose, random_scalars
from psi.values import U8, Values

pytestmark = pytest.mark.feature("ES8")

EMAIL, PHONE = "email_sha256/lc-v1", "phone_sha256/e164-v1"
NOISY = {"epsilon": "1/20", "epoch_days": 60, "window_days": 60}
KNOWN = range(896)  # to globe


@pytest.fixture(autouse=True)
def _small_universes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "PADDING", 128)


def values(numbers: Sequence[int]) -> Values:
    return Values.of([sha256(f"person{number}@example.com".encode()).digest() for number in numbers])


class Asker(CountAsker):
    """Asks about whoever the attacker likes, in what segments and under what key it likes."""

    def __init__(
        self,
        attack: "Attack",
        epoch: int,
        numbers: Sequence[int],
        *,
        segments: Sequence[Sequence[int]] | None = None,
        without_consent: Sequence[int] = (),
        key: Key | None = None,
        namespace: str = EMAIL,
    ) -> None:
        project, connection = attack.acme.project, attack.connection
        channel = Channel.of(
            project, connection, epoch_of(project, connection, epoch), namespace, protocol="count", outward=True
        )
        self.seen: list[Message] = []
        rows = [list(numbers)] if segments is None else segments
        super().__init__(
            context=channel.context,
            direction=channel.direction,
            epoch=epoch,
            values=values(numbers),
            segments=np.array([[number in set(row) for number in numbers] for row in rows], np.bool_),
            consented=np.array([number not in set(without_consent) for number in numbers], np.bool_),
            derive_key=lambda digest: key or channel.key(Purpose.COUNT_ASK, digest),
            check_universe=lambda commitment: None,
            peer_key=connection.peer_key,
        )

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        self.seen.append(payload)
        super().receive(step, chunk, payload)

    @property
    def digest(self) -> bytes:
        return self._committed.universe_digest()

    def tag(self, points: U8) -> U8:
        context = count.tag_context(self._context, self._direction, self._epoch, self.digest)
        return kernel.digests(context, points, size=count.TAG_BYTES)

    def honest_tags(self) -> U8:
        """Return the tag of each point of the universe, in the universe's order."""
        return self.tag(kernel.multiply(self._universe[0], self._derive_key(self.digest).scalar))

    def produce(self, step: str) -> Sequence[Message]:
        forged = self.forge() if step == "tags" else None
        if forged is None:
            return super().produce(step)
        public = self._derive_key(self.digest).public
        return [Tags(public=public, tags=each.tobytes()) for each in forged]

    def forge(self) -> list[U8] | None:
        """Return the chunks of tags that are sent instead of the honest ones."""
        return None


@dataclass
class Attack:
    """Two connected nodes, of which one attacks the other."""

    pair: Any
    role: Asker | None = None

    @property
    def acme(self) -> Any:
        return self.pair.acme

    @property
    def globe(self) -> Any:
        return self.pair.globe

    @property
    def connection(self) -> Any:
        (row,) = self.acme.project.partners.rows("active")
        return row

    def ask(self, *arguments: Any, kind: type[Asker] = Asker, namespace: str = EMAIL, **options: Any) -> Answer:
        """Let acme ask as an attacker would."""

        def role(epoch: int) -> Asker:
            self.role = kind(self, epoch, *arguments, namespace=namespace, **options)
            return self.role

        subject: dict[str, str | bytes | int] = {"namespace": namespace}
        return run_exchange(self.acme.project, self.connection, subject, Kind.COUNT, Part.ASKER, role)

    def refused(self, *arguments: Any, **options: Any) -> str:
        """Let acme ask, and return the code with which globe refuses."""
        with pytest.raises(PeerRefused) as refused:
            self.ask(*arguments, **options)
        assert self.role is not None
        assert not any(isinstance(each, Answer) for each in self.role.seen)
        return refused.value.code

    def caught(self, code: str) -> None:
        """Check that globe charged nothing, and that it has the refusal in its audit log, and an alert."""
        assert self.spent == 0
        assert [each["detail"]["error"]["code"] for each in self.globe.acts("exchange.count", "deny")] == [code]
        assert [each.kind for each in self.globe.project.alerts.list() if each.kind.startswith("exchange")] == [
            f"exchange.{code}"
        ]

    @property
    def spent(self) -> int:
        """The thousandths of epsilon in globe's ledger."""
        with self.globe.node.store.read() as tx:
            return tx.scalar(select(func.sum(ledger.c.amount)).where(ledger.c.kind == "epsilon_millis")) or 0


@pytest.fixture
def attack(pair: Any, person: Any) -> Callable[..., Attack]:
    """Return what prepares both nodes on some terms."""

    def prepare(acme: Sequence[int] = range(20), out: Sequence[int] = (), **terms: Any) -> Attack:
        def people(side: str, numbers: Sequence[int]) -> list[Any]:
            return [
                person(
                    f"{side}{n}", f"person{n}@example.com", f"+44740000{n:04}", "n" if side == "a" and n in out else ""
                )
                for n in numbers
            ]

        pair.prepare(
            people("a", acme), people("g", KNOWN), {"all": [f"a{n}" for n in acme]}, **{**NOISY, "budget": "2", **terms}
        )
        return Attack(pair)

    return prepare


# The asker lies about tags


class Amplifier(Asker):
    """Makes room for 100 forged tags, under each of which one universe point counts once more."""

    def forge(self) -> list[U8]:
        tags, generator = self.honest_tags(), np.random.default_rng(7)
        target, dropped = generator.permutation(len(tags))[:1], generator.permutation(len(tags))[:100]
        scalars = random_scalars(100, lambda size: generator.bytes(size))
        forged = self.tag(kernel.multiply_each(self._universe[0][target], scalars))
        return [sort_points(np.concatenate([np.delete(tags, dropped, axis=0), forged]))[0]]


def test_amplification(attack: Any) -> None:
    """The asker gets nothing: 100 swapped tags pass with chance (15/16)^100 = 0.2 % here, (63/64)^100 = 21 % at scale.

    300 pass with 1 %, 1,000 with 2e-7. A try that fails costs an alert, and all counts of the window: there is no second one.
    """
    world = attack()
    assert world.refused(range(20), kind=Amplifier) == "invalid_tags"
    world.caught("invalid_tags")
    assert world.refused(range(100)) == "budget"


class Repeater(Asker):
    def forge(self) -> list[U8]:
        tags = sort_points(self.honest_tags())[0]
        tags[100:110] = tags[100]
        return [tags]


def test_repeated_tags(attack: Any) -> None:
    """One point tagged ten times, to count tenfold: the asker gets nothing, an alert is raised, counts are closed."""
    world = attack()
    assert world.refused(range(20), kind=Repeater) == "invalid_tags"
    world.caught("invalid_tags")


class Chunker(Asker):
    def forge(self) -> list[U8]:
        return [sort_points(part)[0] for part in np.array_split(self.honest_tags(), 4)]


def test_tags_sorted_chunk_by_chunk(attack: Any) -> None:
    """Refused. An honest asker's tags say nothing of chunks either (see the lying answerers): it would learn, of each
    hit, in which 30,720 points of its own universe it is."""
    world = attack()
    assert world.refused(range(20), kind=Chunker) == "invalid_tags"
    world.caught("invalid_tags")


class Doubler(Asker):
    """Asks about one person several times."""

    def produce(self, step: str) -> Sequence[Message]:
        made = super().produce(step)
        if step == "tags":
            return made
        (asked,) = made
        assert isinstance(asked, Questions)
        return [Questions(segments=1, points=asked.points[:32] * 50 + asked.points[32:], flags=b"\xc0" * 69)]


def test_repeated_elements(attack: Any) -> None:
    """One person fifty times in a question, to lift it over noise and floor: the asker gets nothing, and an alert."""
    world = attack()
    assert world.refused(range(20), kind=Doubler) == "duplicate_point"
    world.caught("duplicate_point")


def test_a_changed_resend(attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions changed after the tags were checked, or tags after the questions: refused and audited, no number."""
    world, put = attack(), PeerClient.put

    def changed(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body, status=status)
        put(self, path, body, status=status)  # the same once more is fine
        put(self, path, body[:-1] + bytes([body[-1] ^ 1]), status=status)

    monkeypatch.setattr(PeerClient, "put", changed)
    assert world.refused(range(20)) == "chunk_changed"
    world.caught("chunk_changed")


def test_relaying_to_another_connection(attack: Any) -> None:
    """Points that were made for one connection hit nobody on another: 0 of 20 persons that globe all knows.

    So nobody can have its questions answered by a node that somebody else is connected with.
    """
    world = attack(epsilon="none")
    key = Key.random(lambda size: bytes(range(64)))
    assert world.ask(range(20), key=key).segments[0].overlap == 20
    recorded = world.role.produce("questions")
    assert world.acme.project.partners.get("globe").id == world.connection.id
    world.acme.project.partners.disconnect("globe")
    world.pair.post()
    reconnect(world)

    class Relay(Asker):
        def produce(self, step: str) -> Sequence[Message]:
            return recorded if step == "questions" else super().produce(step)

    assert world.ask(range(20), kind=Relay, key=key).segments[0].status == "below_minimum"
    assert world.ask(range(20), key=key).segments[0].overlap == 20


def reconnect(world: Attack) -> None:
    """Connect again, through a new Connect ID."""
    text = world.globe.project.partners.connect_id(regenerate=True).encode()
    partners = world.acme.project.partners
    partners.request(partners.look_up(text), alias=f"globe{len(partners.rows())}")
    (row,) = world.globe.project.partners.rows("requested")
    world.globe.project.partners.accept(row.alias)
    world.pair.post()


# The asker wants more than one noised number


def numbers(answer: Answer) -> list[tuple[str, int | None, int | None]]:
    return [(each.status, each.overlap, each.consented) for each in answer.segments]


def test_averaging_by_repeating_a_question(attack: Any) -> None:
    """The asker gets the same noise each time, for 0.05 of its budget of 2 in all: nothing to average."""
    world = attack()
    first = world.ask(range(500))
    assert [numbers(world.ask(range(500))) for _ in range(3)] == [numbers(first)] * 3
    assert world.spent == 50


def test_averaging_by_permuting_repeating_or_joining_segments(attack: Any) -> None:
    """The same set has the same noise wherever it stands, and is charged again: 0.05, 0.05, then 0.1 for the set twice.

    The asker gets what it had, for 0.2 of its budget of 2.
    """
    world = attack()
    one, other = range(400), range(400, 900)
    first = numbers(world.ask(range(900), segments=[one, other]))
    assert world.spent == 50
    assert numbers(world.ask(range(900), segments=[other, one])) == first[::-1]
    assert numbers(world.ask(range(400), segments=[one, one])) == [first[0], first[0]]
    assert world.spent == 200


def test_averaging_by_splitting_into_segments() -> None:
    """Ten parts of a set cost what the set costs, but their sum has the noise of all ten: sd 126 in place of 40.

    The standard deviation of one overlap is 40 at epsilon 1/20. Splitting makes the sum worse by the root of ten.
    """
    terms = Terms(minimum_overlap=0, minimum_segment=0)

    def error(run: int, parts: int) -> int:
        told = [
            disclosure.sanitise(
                500, 500, size=10**6, terms=terms, seeds=(f"{run} {part} c".encode(), f"{run} {part} o".encode())
            ).overlap
            for part in range(parts)
        ]
        return sum(each or 0 for each in told) - 1_000 * parts

    whole, split = (np.std([error(run, parts) for run in range(200)]) for parts in (1, 10))
    assert 30 < whole < 50
    assert 100 < split < 155


def test_averaging_by_flipping_consent_bits(attack: Any) -> None:
    """Each other pattern of consent bits has fresh noise and costs 0.05: 40 looks in 30 days, as with any question."""
    world = attack(budget="3/20")
    asked = range(750, 1250)  # half of them are known, so that no limit cuts the noise off
    told = [numbers(world.ask(asked, without_consent=range(750, 750 + flipped))) for flipped in range(3)]
    assert len({str(each) for each in told}) > 1
    assert world.spent == 150
    assert world.refused(asked, without_consent=range(750, 753)) == "budget"


def test_averaging_over_namespaces(attack: Any) -> None:
    """Namespaces share one budget: with 0.1, one question by e-mail and one by phone, and no third one in either."""
    world = attack(budget="1/10")
    world.ask(range(100))
    world.ask(range(100), namespace=PHONE)
    for namespace in (EMAIL, PHONE):
        assert world.refused(range(200, 300), namespace=namespace) == "budget"
    assert world.spent == 100


def test_differencing(attack: Any) -> None:
    """A set that differs from one asked before by 1 to 49 persons is refused, and costs nothing; 50 are answered.

    Hygiene: what two answers that differ by one person tell is bounded by epsilon, 0.1 for both, refused or not.
    """
    world = attack()
    world.ask(range(500))
    for asked in (range(499), range(501), range(1, 501), range(475, -1, -1), range(549)):
        assert world.refused(asked) == "differencing", asked
    assert world.refused([*range(499), *range(600, 800)], segments=[range(600, 800), range(499)]) == "differencing"
    assert world.spent == 50
    world.ask(range(550))
    world.ask(range(600, 800))  # nobody in common
    assert world.spent == 150


def test_padding_with_known_members(attack: Any) -> None:
    """499 known members and one target: the floor is no obstacle, and the target is one unit of the true count.

    The asker gets that unit under noise. Other padding gets it fresh noise and past the refusal of small differences,
    but each look costs 0.05: after 5 on a budget of 1/4 there are no more. With the 40 looks of a whole default budget,
    best used, it guesses a person right in 54 to 55 of 100 cases, and never in more than 88 (e^2 / (1 + e^2)), in 30
    days.
    """
    world = attack(budget="1/4")
    for look in range(5):
        world.ask([0, *range(1 + 60 * look, 500 + 60 * look)])
    assert world.refused([0, *range(301, 800)]) == "budget"

    terms, right = Terms(minimum_overlap=0, minimum_segment=0), 0
    for trial in range(400):
        there = trial % 2
        looks = [
            disclosure.sanitise(
                499 + there, 0, size=10**6, terms=terms, seeds=(f"{trial} {look}".encode(), b"o")
            ).consented
            for look in range(40)
        ]
        right += (np.mean(looks) >= 499.5 + 0.5) == bool(there)  # half a step of the rounding is in it
    assert right / 400 < 0.62


def test_a_fresh_key(attack: Any) -> None:
    """Two questions that differ by one person, under two keys, so that nothing can be compared: refused.

    Without noise the difference would be the person. It closes nothing: a node that was set back to a copy gets here too.
    """
    world = attack(epsilon="none")
    world.ask(range(500))
    assert world.refused(range(501), key=Key.random(lambda size: bytes([9]) * size)) == "another_key"
    world.ask(range(600, 700))


def test_canaries_do_not_show_between_two_universes(attack: Any, clock: Any, person: Any) -> None:
    """Points that two universes shared would be persons': the asker could swap their tags, and no canary's."""
    world = attack()
    world.ask(range(20))
    before = world.role._universe[0]
    clock.advance(days=1, seconds=1)
    world.globe.people([person("new", "new@example.com")], dataset="more")
    world.ask(range(20))
    assert len(match(before, world.role._universe[0])[0]) == 0


def test_wrong_tags_that_a_restart_looks_at(attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store was busy as the tags came in, and they are looked at only later: they close the counts all the same."""
    world, check, calls = attack(), disclosure.Sanitiser.check_asker, []

    def busy(self: Any, public: bytes) -> None:
        calls.append(public)
        if len(calls) == 1:
            raise StoreBusy("the store is busy", hint="try again")
        check(self, public)

    monkeypatch.setattr(disclosure.Sanitiser, "check_asker", busy)
    with pytest.raises(VesicaError):
        world.ask(range(20), kind=Amplifier)
    with world.globe.node.store.read() as tx:
        (exchange,) = tx.scalars(select(exchanges.c.id).where(exchanges.c.state == "open")).all()
    with PeerClient(world.acme.node, world.connection.peer_address, world.globe.node.key) as client:
        with pytest.raises(PeerRefused) as refused:
            client.get(f"{PATH}/{exchange}/answer/0")
        assert refused.value.code == "invalid_tags"
    assert world.refused(range(100)) == "budget"


def test_as_many_questions_as_can_be_compared(attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise there is no budget: the asker gets as many answers from one universe as a new question is compared with."""
    monkeypatch.setattr(disclosure, "COMPARED", 3)
    world = attack(epsilon="none")
    for start in range(0, 300, 100):
        world.ask(range(start, start + 100))
    assert world.refused(range(300, 400)) == "budget"
    world.ask(range(100))  # known
    assert world.refused(range(101)) == "differencing"


def test_the_budget_is_not_refilled(pair_type: Any, tmp_path: Any, clock: Any, person: Any) -> None:
    """Spent is spent for 30 days: a restart, a new key epoch, a reconnection and a new Connect ID give the asker 0 more."""
    pair = pair_type(tmp_path, clock)
    world = Attack(pair)
    fresh = iter(range(100, 800, 60))

    def refused() -> None:
        start = next(fresh)
        assert world.refused(range(start, start + 60)) == "budget"

    with pair.acme.serving():
        with pair.globe.serving():
            people = [[person(f"p{n}", f"person{n}@example.com") for n in numbers] for numbers in (range(20), KNOWN)]
            terms = {"epsilon": "1/20", "budget": "1/20", "epoch_days": 2, "window_days": 30}
            pair.prepare(*people, {"all": ["p1"]}, **terms)
            world.ask(range(60))
            refused()
        pair.globe.node.close()
        pair.globe.open()
        with pair.globe.serving():
            refused()
            clock.advance(days=3)
            refused()
            assert world.role is not None
            assert world.role._epoch == 2
            pair.acme.project.partners.disconnect("globe")
            pair.post()
            reconnect(world)
            refused()
            clock.advance(days=27)
            world.ask(range(60))
    assert world.spent == 100


def test_the_asker_never_sees_an_unsanitised_number(attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the asker is sent: the commitment, the padded universe, and the numbers that came out of the sanitiser."""
    world, told, sanitise = attack(), [], disclosure.sanitise

    def spied(*arguments: Any, **options: Any) -> Any:
        told.append((arguments, sanitise(*arguments, **options)))
        return told[-1][1]

    monkeypatch.setattr(disclosure, "sanitise", spied)
    answer = world.ask(range(500), without_consent=range(100))
    assert world.role is not None
    assert [each.TYPE for each in world.role.seen] == ["signed-commitment", "universe", "answer"]
    assert [(true, list(answer.segments)) for true, _ in told] == [((400, 100), [told[0][1]])]
    (commitment, universe, _) = world.role.seen
    assert len(universe.points) // 32 == commitment.commitment.count == 1024  # 896 people


# The answerer lies


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
            made=node.now(),
            sign=node.sign,
        )
        super().__init__(
            context=channel.context,
            direction=channel.direction,
            epoch=channel.epoch.number,
            universe=points,
            key=world.key,
            commitment=signed,
            check_asker=lambda public: None,
            sanitise=self.answered,
        )

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

        def lie(project: Any, connection: Any, channel: Channel, _: Any) -> Answerer:
            self.role = Answerer(self, channel, make(channel.context), self.generation)
            return self.role

        self.monkeypatch.setattr(matching, "_answerer", lie)
        feeds = self.pair.acme.project.feeds
        if not feeds.list():
            feeds.create("f", segments=["all"], namespaces=[EMAIL], partners=["globe"])
        (self.row,) = feeds.estimate("f")
        assert self.role is not None
        return self.role

    def alerts(self) -> list[str]:
        return [each.kind for each in self.pair.acme.project.alerts.list() if each.kind.startswith("exchange")]


@pytest.fixture
def lying(attack: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lying]:
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
        return kernel.digests(role._tag_context, kernel.multiply(role.question.points, key.scalar), size=16)

    return [
        target
        for target, key in zip(targets, under, strict=True)
        if len(match(role._tags[0], sort_points(tags(key))[0])[0])
    ]


def test_many_keys_tell_a_lying_answerer_names(lying: Any, clock: Any) -> None:
    """The answerer LEARNS, of each person it has a key for, whether it is asked about: 12 of 30 targets here, all right.

    No proof prevents it. At most it is all persons in the segments asked (65,536 of each, the same ones all epoch),
    with segment and consent bit, from one universe a day and 8 an epoch. Not among them: segments that nobody asks
    about, and, where the project says so, people without consent. The tags say nothing of chunks.
    """
    world, targets, under = lying(acme=range(20), out=range(8)), range(30), keys(30)
    world.pair.acme.project.set_hide_unconsented(True)
    role = world.asked(lambda context: named(context, targets, under))
    assert learned(role, targets, under) == list(range(8, 20))
    assert first_disorder(role._tags[0]) is None
    world.asked(lambda context: named(context, targets, under))  # the same universe again: the same tags
    with pytest.raises(RemoteProtocolError, match="within a day"):
        world.asked(lambda context: named(context, range(30, 60), under))
    assert world.alerts() == ["exchange.commitment"]


def test_one_target_and_junk(lying: Any) -> None:
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


def test_a_repeated_element_in_the_universe(lying: Any) -> None:
    """A point twice, to count a person twice: the asker refuses before it tags, raises an alert, and asks nothing."""
    world = lying()
    with pytest.raises(RemoteProtocolError) as refused:
        world.asked(lambda context: sort_points(np.repeat(named(context, [1, 2], keys(2)), 2, axis=0))[0])
    assert refused.value.code == "duplicate_point"
    assert world.role is not None
    assert world.role._tags == world.role._points == []
    assert world.alerts() == ["exchange.duplicate_point"]


def test_a_universe_other_than_the_committed_one(lying: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points changed after the commitment: refused. The asker's key hangs on the commitment, so nothing was to gain."""
    world, produce = lying(), Answerer.produce

    def switched(self: Answerer, step: str) -> Sequence[Message]:
        if step == "universe":
            self._universe = count.Universe(
                points=sort_points(kernel.multiply(self._universe.points, self._key.scalar))[0],
                canaries=self._universe.canaries,
                size=self._universe.size,
            )
        return produce(self, step)

    monkeypatch.setattr(Answerer, "produce", switched)
    with pytest.raises(RemoteProtocolError) as refused:
        world.asked(lambda context: named(context, range(3), keys(3)))
    assert refused.value.code == "commitment"
    assert world.alerts() == ["exchange.commitment"]


def test_another_universe_under_the_same_number(lying: Any, clock: Any) -> None:
    """Two universes called the same, to show more than are allowed: the asker refuses the second, for good."""
    world = lying()
    world.asked(lambda context: named(context, range(3), keys(3)))
    world.generation, clock.now = 0, clock.now + 2 * 86_400
    with pytest.raises(RemoteProtocolError, match="under the same number"):
        world.asked(lambda context: named(context, range(3, 6), keys(3)))


def test_an_absurd_number(lying: Any) -> None:
    """The answerer can tell any number; it is shown as at most the segment itself. The asker sees that it cannot check."""
    world = lying(acme=range(20))
    world.asked(lambda context: named(context, range(3), keys(3)))
    assert (world.row["overlap"], world.row["consented"]) == (20, 20)


def test_a_lying_answerer_that_calls_cannot_change_its_universe(
    quiet_receiver: Any, person: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answerer without an address puts its universe, and puts it again with other points: refused and audited."""
    pair, put = quiet_receiver, PeerClient.put
    people = [[person(f"p{n}", f"person{n}@example.com") for n in range(30)] for _ in range(2)]
    pair.prepare(*people, {"all": [f"p{n}" for n in range(30)]})
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
    assert [each["detail"]["error"]["code"] for each in pair.acme.acts("exchange.count", "deny")] == ["chunk_changed"]
