"""What a partner that lies gets from a real node, in both roles; each test says it in figures, and docs/lying-partner.md.

Globe answers and knows the persons 0 to 895: 960 points of people and 64 canaries, padded to 128 here instead of 4,096.
Acme asks. Whoever attacks holds its own node's keys and speaks to the other's endpoint; the other is as it always is.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import KNOWN, Asker, Attack
from clock import Clock
from sides import EMAIL, HERE, PHONE, Pair, Person
from sqlalchemy import select

from node.errors import RefusedByPartner, StoreBusy
from node.feeds.estimates import disclosure
from node.storage.tables import exchanges
from node.transport import paths
from node.transport.client import Peer, PeerClient
from protocol.agreement import Terms
from protocol.messages import Answer, Questions, SignedCommitment, UniversePoints
from protocol.wire import Message
from psi import kernel
from psi.errors import VesicaError
from psi.join import match, sort_points
from psi.keys import Key, random_scalars
from psi.values import U8

pytestmark = pytest.mark.feature("ES8")

# The asker lies about tags


class Amplifier(Asker):
    """Makes room for 100 forged tags, under each of which one universe point counts once more."""

    def forge(self) -> list[U8]:
        tags, generator = self.honest_tags(), np.random.default_rng(7)
        target, dropped = generator.permutation(len(tags))[:1], generator.permutation(len(tags))[:100]
        scalars = random_scalars(100, lambda size: generator.bytes(size))
        forged = self.tag(kernel.multiply_each(self.universe[target], scalars))
        return [sort_points(np.concatenate([np.delete(tags, dropped, axis=0), forged]))[0]]


def test_amplification(attack: Callable[..., Attack]) -> None:
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


def test_repeated_tags(attack: Callable[..., Attack]) -> None:
    """One point tagged ten times, to count tenfold: the asker gets nothing, an alert is raised, counts are closed."""
    world = attack()
    assert world.refused(range(20), kind=Repeater) == "invalid_tags"
    world.caught("invalid_tags")


class Chunker(Asker):
    def forge(self) -> list[U8]:
        return [sort_points(part)[0] for part in np.array_split(self.honest_tags(), 4)]


def test_tags_sorted_chunk_by_chunk(attack: Callable[..., Attack]) -> None:
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


def test_repeated_elements(attack: Callable[..., Attack]) -> None:
    """One person fifty times in a question, to lift it over noise and floor: the asker gets nothing, and an alert."""
    world = attack()
    assert world.refused(range(20), kind=Doubler) == "duplicate_point"
    world.caught("duplicate_point")


def test_a_changed_resend(attack: Callable[..., Attack], monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions changed after the tags were checked, or tags after the questions: refused and audited, no number."""
    world, put = attack(), PeerClient.put

    def changed(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body, status=status)
        put(self, path, body, status=status)  # the same once more is fine
        put(self, path, body[:-1] + bytes([body[-1] ^ 1]), status=status)

    monkeypatch.setattr(PeerClient, "put", changed)
    assert world.refused(range(20)) == "chunk_changed"
    world.caught("chunk_changed")


def test_relaying_to_another_connection(attack: Callable[..., Attack]) -> None:
    """Points that were made for one connection hit nobody on another: 0 of 20 persons that globe all knows.

    So nobody can have its questions answered by a node that somebody else is connected with.
    """
    world = attack(epsilon="none")
    key = Key.random(lambda size: bytes(range(64)))
    assert world.ask(range(20), key=key).segments[0].overlap == 20
    assert world.role is not None
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


def test_averaging_by_repeating_a_question(attack: Callable[..., Attack]) -> None:
    """The asker gets the same noise each time, for 0.05 of its budget of 2 in all: nothing to average."""
    world = attack()
    first = world.ask(range(500))
    assert [numbers(world.ask(range(500))) for _ in range(3)] == [numbers(first)] * 3
    assert world.spent == 50


def test_averaging_by_permuting_repeating_or_joining_segments(attack: Callable[..., Attack]) -> None:
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


def test_averaging_by_flipping_consent_bits(attack: Callable[..., Attack]) -> None:
    """Each other pattern of consent bits has fresh noise and costs 0.05: 40 looks in 30 days, as with any question."""
    world = attack(budget="3/20")
    asked = range(750, 1250)  # half of them are known, so that no limit cuts the noise off
    told = [numbers(world.ask(asked, without_consent=range(750, 750 + flipped))) for flipped in range(3)]
    assert len({str(each) for each in told}) > 1
    assert world.spent == 150
    assert world.refused(asked, without_consent=range(750, 753)) == "budget"


def test_averaging_over_namespaces(attack: Callable[..., Attack]) -> None:
    """Namespaces share one budget: with 0.1, one question by e-mail and one by phone, and no third one in either."""
    world = attack(budget="1/10")
    world.ask(range(100))
    world.ask(range(100), namespace=PHONE)
    for namespace in (EMAIL, PHONE):
        assert world.refused(range(200, 300), namespace=namespace) == "budget"
    assert world.spent == 100


def test_differencing(attack: Callable[..., Attack]) -> None:
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


def test_padding_with_known_members(attack: Callable[..., Attack]) -> None:
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
            disclosure.sanitise(499 + there, 0, size=10**6, terms=terms, seeds=(f"{trial} {look}".encode(), b"o"))
            for look in range(40)
        ]
        shown = [each.consented for each in looks if each.consented is not None]
        assert len(shown) == 40
        right += (np.mean(shown) >= 499.5 + 0.5) == bool(there)  # half a step of the rounding is in it
    assert right / 400 < 0.62


def test_a_fresh_key(attack: Callable[..., Attack]) -> None:
    """Two questions that differ by one person, under two keys, so that nothing can be compared: refused.

    Without noise the difference would be the person. It closes nothing: a node that was set back to a copy gets here too.
    """
    world = attack(epsilon="none")
    world.ask(range(500))
    assert world.refused(range(501), key=Key.random(lambda size: bytes([9]) * size)) == "another_key"
    world.ask(range(600, 700))


class OneMore(Amplifier):
    """Tags one point twice over, and leaves another out: too few for a canary to be among them as a rule."""

    def forge(self) -> list[U8]:
        tags = sort_points(self.honest_tags())[0]
        scalar = random_scalars(1, lambda size: bytes([7]) * size)
        forged = self.tag(kernel.multiply_each(self.universe[:1], scalar))
        return [sort_points(np.concatenate([tags[1:], forged]))[0]]


def test_other_tags_of_one_universe(attack: Callable[..., Attack]) -> None:
    """The same segments in another order would get the same noise over other tags, and it would cancel: refused.

    The tags are not even looked at: whoever asks learns nothing of the canaries, and may go on with the tags of before.
    """
    world = attack()
    world.ask(range(100), segments=[range(40), range(100)])
    assert world.refused(range(100), segments=[range(100), range(40)], kind=OneMore) == "another_key"
    world.ask(range(100), segments=[range(100), range(40)])


def universe(world: Attack) -> U8:
    """Return the points of the universe about which was asked last."""
    assert world.role is not None
    return world.role.universe


def test_canaries_do_not_show_between_two_universes(
    attack: Callable[..., Attack], clock: Clock, person: type[Person]
) -> None:
    """Points that two universes shared would be persons': the asker could swap their tags, and no canary's."""
    world = attack()
    world.ask(range(20))
    before = universe(world)
    clock.advance(days=1, seconds=1)
    world.globe.people([person("new", "new@example.com")], dataset="more")
    world.ask(range(20))
    assert len(match(before, universe(world))[0]) == 0


def test_wrong_tags_that_a_restart_looks_at(attack: Callable[..., Attack], monkeypatch: pytest.MonkeyPatch) -> None:
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
    with world.globe.node.home.database.read() as tx:
        (exchange,) = tx.scalars(select(exchanges.c.id).where(exchanges.c.state == "open")).all()
    with PeerClient(
        world.acme.node.home, Peer(world.connection.peer_address, world.globe.node.key, allowed=HERE)
    ) as client:
        with pytest.raises(RefusedByPartner) as refused:
            client.get(f"{paths.EXCHANGES}/{exchange}/answer/0")
        assert refused.value.code == "invalid_tags"
    assert world.refused(range(100)) == "budget"


def test_as_many_questions_as_can_be_compared(attack: Callable[..., Attack], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise there is no budget: the asker gets as many answers from one universe as a new question is compared with."""
    monkeypatch.setattr(disclosure, "COMPARED", 3)
    world = attack(epsilon="none")
    for start in range(0, 300, 100):
        world.ask(range(start, start + 100))
    assert world.refused(range(300, 400)) == "budget"
    world.ask(range(100))  # known
    assert world.refused(range(101)) == "budget"  # what it differs from is not even looked at


def test_the_budget_is_not_refilled(pair_type: type[Pair], tmp_path: Path, clock: Clock, person: type[Person]) -> None:
    """Spent is spent for 30 days: a restart, a new key epoch, a reconnection and a new Connect ID give the asker 0 more."""
    pair = pair_type(tmp_path, clock)
    world = Attack(pair)
    fresh = iter(range(100, 800, 60))

    def refused() -> None:
        start = next(fresh)
        assert world.refused(range(start, start + 60)) == "budget"

    with pair.acme.serving():
        with pair.globe.serving():
            acme, globe = (
                [person(f"p{n}", f"person{n}@example.com") for n in numbers] for numbers in (range(20), KNOWN)
            )
            terms: dict[str, Any] = {"epsilon": "1/20", "budget": "1/20", "epoch_days": 2, "window_days": 30}
            pair.prepare(acme, globe, {"all": ["p1"]}, **terms)
            world.ask(range(60))
            refused()
        pair.globe.node.close()
        pair.globe.open()
        with pair.globe.serving():
            refused()
            clock.advance(days=3)
            refused()
            assert world.role is not None
            assert world.role.epoch == 2
            pair.acme.project.partners.disconnect("globe")
            pair.post()
            reconnect(world)
            refused()
            clock.advance(days=27)
            world.ask(range(60))
    assert world.spent == 100


def test_the_asker_never_sees_an_unsanitised_number(
    attack: Callable[..., Attack], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    (commitment, shown, _) = world.role.seen
    assert isinstance(commitment, SignedCommitment)
    assert isinstance(shown, UniversePoints)
    assert len(shown.points) // 32 == commitment.commitment.count == 1024  # 896 people
