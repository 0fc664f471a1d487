"""A partner that keeps an exchange open while the connection or the people change gets what is in force when it goes on."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pytest
from attacks import KNOWN, NOISY, Asker, Attack
from clock import Clock
from evaluating import charged, shared, sync
from sides import EMAIL, Pair, Person

from node.errors import RefusedByPartner, RefusedToPartner
from node.exchanges import answering, http
from node.exchanges.channels import Channel, epoch_of
from node.exchanges.opening import Plan, run_exchange
from node.partners.connections import change
from node.people.consent import LeftOut
from node.transport.client import PeerClient
from protocol.release import EvaluateReceiver
from protocol.states import Kind, Part
from protocol.wire import Message
from psi.keys import Purpose
from psi.values import Values

pytestmark = pytest.mark.usefixtures("small_universes")


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the side that calls go on whatever has changed, as an attacker would."""
    drive = http.drive
    monkeypatch.setattr(
        http, "drive", lambda client, machine, exchange, progress, _: drive(client, machine, exchange, progress)
    )


def asked(pair: Pair, person: type[Person], **terms: Any) -> Attack:
    def people(side: str, numbers: Sequence[int]) -> list[Any]:
        return [person(f"{side}{n}", f"person{n}@example.com") for n in numbers]

    pair.prepare(people("a", range(20)), people("g", KNOWN), {"all": ["a1"]}, **{**NOISY, "budget": "2", **terms})
    return Attack(pair)


def pausing(act: Callable[[], None]) -> type[Asker]:
    """Return an asker that does something after it was shown the universe, before it asks."""

    class Pausing(Asker):
        paused = False

        def produce(self, step: str) -> Sequence[Message]:
            if not Pausing.paused:
                Pausing.paused = True
                act()
            return super().produce(step)

    return Pausing


def agree_on_noise(pair: Pair) -> None:
    pair.globe.project.set_terms(epsilon="1/20")
    pair.globe.project.partners.propose("acme")
    pair.post()
    pair.acme.project.partners.agree("globe")
    pair.post()
    pair.post()


@pytest.mark.usefixtures("liar")
def test_a_question_that_waits_is_not_answered_under_terms_that_are_over(
    pair: Pair, person: type[Person], clock: Clock
) -> None:
    def act() -> None:
        agree_on_noise(pair)
        clock.advance(days=2)

    assert asked(pair, person, epsilon="none").refused(range(100), kind=pausing(act)) == "over"


@pytest.mark.usefixtures("liar")
def test_a_question_of_yesterday_is_answered_under_the_terms_of_today(pair: Pair, person: type[Person]) -> None:
    """The exchange may go on for a day, with noise and for a charge."""
    attack = asked(pair, person, epsilon="none")
    answer = attack.ask(range(100), kind=pausing(lambda: agree_on_noise(pair)))
    half_width = answer.segments[0].half_width
    assert half_width is not None
    assert half_width > 0
    assert attack.spent == 50


@pytest.mark.usefixtures("liar")
def test_people_who_opt_out_leave_a_question_that_waits(pair: Pair, person: type[Person], clock: Clock) -> None:
    def opt_out() -> None:
        pair.globe.people([person(f"g{n}", f"person{n}@example.com", share="n") for n in range(90)], "optouts")

    def act() -> None:
        opt_out()
        clock.advance(days=18)

    attack = asked(pair, person, epsilon="none")
    assert attack.refused(range(100), kind=pausing(act)) == "over"
    assert attack.ask(range(100)).segments[0].overlap == 10


@pytest.mark.usefixtures("liar")
def test_a_question_that_waits_is_answered_where_nobody_changed(pair: Pair, person: type[Person], clock: Clock) -> None:
    answer = asked(pair, person, epsilon="none").ask(range(100), kind=pausing(lambda: clock.advance(days=18)))
    assert answer.segments[0].overlap == 100


@pytest.mark.usefixtures("liar")
@pytest.mark.parametrize("next_begins", [False, True])
def test_nothing_is_evaluated_in_an_epoch_that_is_over(
    pair: Pair, person: type[Person], clock: Clock, next_begins: bool
) -> None:
    def act() -> None:
        clock.advance(days=40)
        if next_begins:
            sync(pair)

    shared(pair, person)
    sync(pair)
    before = charged(pair.acme)
    with pytest.raises(RefusedByPartner) as refused:
        evaluate(pair, act)
    assert refused.value.code == "over"
    assert charged(pair.acme) == before * (2 if next_begins else 1)


def test_a_connection_that_has_ended_answers_no_open_exchange(pair: Pair, person: type[Person]) -> None:
    def act() -> None:
        with pair.globe.node.home.begin() as tx:
            connection = pair.globe.project.partners.get("acme")
            change(pair.globe.node.home, tx, connection, status="disconnected")

    assert asked(pair, person).refused(range(100), kind=pausing(act)) == "unwelcome"


def test_who_calls_does_not_go_on_in_an_epoch_that_is_over(
    pair: Pair, person: type[Person], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the partner would."""
    monkeypatch.setattr(answering, "goes_on", lambda *_: True)
    shared(pair, person)
    sync(pair)
    with pytest.raises(RefusedToPartner, match="over"):
        evaluate(pair, lambda: clock.advance(days=40))


def evaluate(pair: Pair, act: Callable[[], None]) -> None:
    """Let globe ask acme for F of three people, and do something in the middle."""
    project = pair.globe.project
    connection = project.partners.get("acme")

    class Pausing(EvaluateReceiver):
        def produce(self, step: str) -> Sequence[Message]:
            act()
            return super().produce(step)

    def role(number: int) -> EvaluateReceiver:
        channel = Channel.of(
            project.scope,
            connection,
            epoch_of(project.scope, connection, number),
            EMAIL,
            protocol="release",
            outward=False,
        )
        return Pausing(
            context=channel.context,
            direction=channel.direction,
            epoch=number,
            values=Values.of(sorted(sha256(f"person{each}@example.com".encode()).digest() for each in range(200, 203))),
            key=channel.key(Purpose.RELEASE_BLIND),
            peer_keys=connection.peer_keys,
        )

    plan = Plan(kind=Kind.EVALUATE, part=Part.RECEIVER, subject={"namespace": EMAIL}, role=role)
    run_exchange(project.scope, connection, plan)


def opted_out(pair: Pair, person: type[Person]) -> None:
    """Let 20 of acme's 30 people opt out."""
    pair.acme.people([person(f"a{n}", f"person{n}@example.com", share="n") for n in range(20)], "optouts")


def slow(monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[], None]) -> list[bool]:
    """Let something happen while a partner that we call makes us wait for this step."""
    once, done = PeerClient.attempt, list[bool]()

    def attempt(self: PeerClient, method: str, path: str, body: bytes) -> Any:
        if f"/{step}/0" in path and not done:
            done.append(True)
            act()
        return once(self, method, path, body)

    monkeypatch.setattr(PeerClient, "attempt", attempt)
    return done


@pytest.fixture
def called(pair: Pair, person: type[Person]) -> Pair:
    """Acme, with a0 to a29 in a segment, and globe, which knows them all."""
    ours = [person(f"a{n}", f"person{n}@example.com") for n in range(30)]
    theirs = [person(f"g{n}", f"person{n}@example.com") for n in range(40)]
    pair.prepare(ours, theirs, {"all": [f"a{n}" for n in range(30)]})
    return pair


def test_who_opts_out_while_a_universe_is_fetched_is_not_asked_about(
    called: Pair, person: type[Person], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    called.acme.project.leave_out(LeftOut.OPTED_OUT.value)

    def act() -> None:
        clock.advance(days=9)
        opted_out(called, person)

    waited = slow(monkeypatch, "universe", act)
    called.acme.project.feeds.create("f", segments=["all"], namespaces=[EMAIL], partners=["globe"])
    (row,) = called.acme.project.feeds.estimate("f")
    assert (waited, row["sampled"], row["overlap"]) == ([True], 10, 10)


def test_who_opts_out_while_a_release_waits_is_not_released(
    called: Pair, person: type[Person], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    called.share("f", ["all"], [EMAIL])

    def act() -> None:
        clock.advance(days=9)
        opted_out(called, person)

    waited = slow(monkeypatch, "manifest", act)
    (run,) = called.acme.project.feeds.sync("f")
    assert (waited, run["status"], len(called.globe.members("acme", "all"))) == ([True], "done", 10)
