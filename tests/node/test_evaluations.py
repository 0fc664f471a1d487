"""F(x) within what was agreed: at most 1.2 times the universe, proven point by point; and the epochs of its keys."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from node.errors import PeerRefused, Refusal, Refused
from node.exchanges.exchanges import run_exchange
from node.feeds import evaluations
from node.operations.jobs import no_progress
from node.partners import key_epochs
from node.people.data import Snapshot
from node.storage.tables import epochs as epoch_rows
from node.storage.tables import ledger, memberships, runs
from protocol.release import EvaluateReceiver, EvaluateSender
from protocol.states import Kind, Part
from psi import count, kernel, oprf
from psi.errors import VesicaError
from psi.keys import Key

EMAIL = "email_sha256/lc-v1"
DAY = key_epochs.DAY


@pytest.fixture(autouse=True)
def _small_universes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "PADDING", 128)


def people(person: Any, side: str, numbers: Sequence[int]) -> list[Any]:
    return [person(f"{side}{number}", f"person{number}@example.com") for number in numbers]


def shared(pair: Any, person: Any, **terms: Any) -> None:
    """Let globe have enabled acme's feed "f" of the segment "all", by e-mail: 10 of 20 and 20 people are the same."""
    segments = {"all": [f"a{n}" for n in range(20)]}
    pair.prepare(people(person, "a", range(20)), people(person, "g", range(10, 30)), segments, **terms)
    pair.share("f", ["all"], [EMAIL])


def sync(pair: Any) -> str:
    (run,) = pair.acme.project.feeds.sync("f")
    return str(run["status"])


def charged(side: Any) -> int:
    with side.node.store.read() as tx:
        return tx.scalar(select(func.sum(ledger.c.amount)).where(ledger.c.kind == "evaluations")) or 0


def number_of(side: Any, partner: str) -> int:
    """Return the number of the epoch that runs on one side, without beginning another."""
    connection = side.project.partners.get(partner)
    with side.node.store.read() as tx:
        return tx.scalar(select(func.max(epoch_rows.c.number)).where(epoch_rows.c.connection_id == connection.id))


def ask_for(pair: Any, numbers: Sequence[int]) -> None:
    """Let globe ask acme for F of any persons, as a receiver that has its own idea of its universe."""
    from hashlib import sha256

    from psi.values import Values

    project = pair.globe.project
    connection = project.partners.get("acme")

    def role(number: int) -> EvaluateReceiver:
        epoch = evaluations.epoch_of(project, connection, number)
        channel = evaluations.Channel.of(project, connection, epoch, EMAIL, protocol="release", outward=False)
        return EvaluateReceiver(
            context=channel.context,
            direction=channel.direction,
            epoch=number,
            values=Values.of([sha256(f"person{each}@example.com".encode()).digest() for each in numbers]),
            key=channel.key(evaluations.Purpose.RELEASE_BLIND),
            peer_key=connection.peer_key,
        )

    run_exchange(project, connection, {"namespace": EMAIL}, Kind.EVALUATE, Part.RECEIVER, role)


def spent_out(pair: Any, numbers: Sequence[int]) -> None:
    with pytest.raises(PeerRefused) as refused:
        ask_for(pair, numbers)
    assert refused.value.code == "evaluations_spent"


# The budget of evaluations


def test_a_receiver_may_ask_for_a_fifth_more_than_its_universe(
    pair_type: Any, tmp_path: Any, clock: Any, person: Any
) -> None:
    """20 were agreed: 24 are answered, the 25th is not, after a restart neither, and repeated points are free."""
    pair = pair_type(tmp_path, clock)
    with pair.globe.serving():
        with pair.acme.serving():
            shared(pair, person)
            sync(pair)
            assert charged(pair.acme) == 20
            ask_for(pair, range(10, 30))  # all known: free
            ask_for(pair, [*range(10, 30), 100, 101, 102])
            assert charged(pair.acme) == 23
            spent_out(pair, [103, 104])
        pair.acme.node.close()
        pair.acme.open()
        with pair.acme.serving():
            spent_out(pair, [103, 104])
            ask_for(pair, [100, 103])
            spent_out(pair, [104])
            assert charged(pair.acme) == 24
            denied = pair.acme.acts("exchange.evaluate", "deny")
            assert {entry["detail"]["error"]["code"] for entry in denied} == {"evaluations_spent"}
            clock.advance(days=30)  # the epoch is over, and so is its budget
            ask_for(pair, range(100, 124))
            spent_out(pair, [124])


def test_an_epoch_that_the_partner_ends_early_refills_nothing(pair: Any, person: Any, clock: Any) -> None:
    shared(pair, person)
    sync(pair)
    clock.advance(days=2)
    connection = pair.globe.project.partners.get("acme")
    with pair.globe.node.store.begin() as tx:
        key_epochs.follow(pair.globe.project, tx, connection, 2)
    spent_out(pair, range(10, 30))  # new keys, so all 20 are new points, and 4 are left
    assert number_of(pair.acme, "globe") == 2
    assert charged(pair.acme) == 20


def test_an_epoch_that_ends_by_the_clock_allows_everything_anew(pair: Any, person: Any, clock: Any) -> None:
    """The universe was evaluated late in the old epoch: the new one must not wait until that is 30 days ago."""
    pair.prepare(
        people(person, "a", range(20)), people(person, "g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]}
    )
    pair.acme.project.feeds.create("f", segments=["all"], namespaces=[EMAIL], partners=["globe"])
    pair.acme.project.feeds.estimate("f")  # epoch 1 begins
    clock.advance(days=25)
    pair.acme.project.feeds.publish("f")
    pair.post()
    pair.globe.project.received.enable("f")
    pair.post()
    assert sync(pair) == "done"
    clock.advance(days=5)
    assert sync(pair) == "done"
    assert (number_of(pair.acme, "globe"), charged(pair.acme)) == (2, 40)


def test_without_an_enabled_feed_nothing_is_evaluated(pair: Any, person: Any) -> None:
    pair.prepare(people(person, "a", range(20)), people(person, "g", range(20)), {"all": ["a1"]})
    with pytest.raises(PeerRefused) as refused:
        ask_for(pair, range(3))
    assert refused.value.code == "no_feed"


def test_a_sender_that_calls_refuses_and_says_so_too(pair: Any, person: Any) -> None:
    shared(pair, person)
    sync(pair)
    pair.globe.people(people(person, "g", range(40, 45)), "more")
    with pytest.raises(Refusal, match="4 are left"):
        sync(pair)
    (denied,) = pair.acme.acts("exchange.evaluate", "deny")
    assert denied["detail"]["error"]["code"] == "evaluations_spent"
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


# Proofs


@pytest.mark.feature("EX9")
@pytest.mark.parametrize("sender_calls", [True, False])
def test_another_key_for_one_element_is_caught_and_nothing_is_stored(
    pair: Any, person: Any, monkeypatch: pytest.MonkeyPatch, sender_calls: bool
) -> None:
    """A sender that marks one person: the receiver stores nothing, says so, and has an alert; then all goes well."""
    shared(pair, person)
    reply, other = EvaluateSender.reply, Key.random(lambda size: bytes(range(size)))

    def marked(self: EvaluateSender, step: str, chunk: int, payload: Any) -> Any:
        made = reply(self, step, chunk, payload)
        points = np.frombuffer(made.points, np.uint8).reshape(-1, 32).copy()
        points[7] = kernel.multiply(points[7:8], other.scalar)[0]
        return type(made)(points=points.tobytes(), proof=made.proof)

    def run() -> None:
        if sender_calls:
            sync(pair)
        else:
            project, connection = pair.globe.project, pair.globe.project.partners.get("acme")
            evaluations.run(project, connection, EMAIL, Part.RECEIVER, no_progress, Snapshot.open(project))

    with monkeypatch.context() as patched:
        patched.setattr(EvaluateSender, "reply", marked)
        with pytest.raises(VesicaError, match="stated key"):
            run()
    assert list((pair.globe.node.home / "cache").rglob("prf *")) == []
    with pair.globe.node.store.read() as tx:
        assert list(tx.execute(select(memberships))) == list(tx.execute(select(runs))) == []
    (denied,) = pair.globe.acts("exchange.evaluate", "deny")
    assert denied["detail"]["error"]["code"] == "invalid_proof"
    (alert,) = [each for each in pair.globe.project.alerts.list() if each.kind.startswith("exchange")]
    assert (alert.kind, "acme" in alert.text) == ("exchange.invalid_proof", True)
    run()
    sync(pair)
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


@pytest.mark.feature("EX9")
def test_a_sender_that_changes_its_stated_key_is_caught(pair: Any, person: Any) -> None:
    shared(pair, person)
    sync(pair)
    for file in (pair.acme.node.home / "cache").rglob("statement *"):
        file.unlink()
    channel_key = evaluations.Channel.key
    pair.globe.people(people(person, "g", range(5, 10)), "more")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            evaluations.Channel,
            "key",
            lambda self, purpose, extra=b"": channel_key(
                self, purpose, b"another" if purpose is evaluations.Purpose.RELEASE_PRF else extra
            ),
        )
        with pytest.raises(PeerRefused):
            sync(pair)
    assert "exchange.key_changed" in [each.kind for each in pair.globe.project.alerts.list()]
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


# What was asked and not answered


@pytest.mark.feature("EX8")
def test_points_of_an_abandoned_evaluation_do_not_stop_releases(pair: Any, person: Any, broken_off: Any) -> None:
    """Globe asks, is killed, and one of its people opts out: acme has counted a point that globe never got."""
    shared(pair, person)
    project, connection = pair.globe.project, pair.globe.project.partners.get("acme")
    with broken_off("evaluated"):
        evaluations.run(project, connection, EMAIL, Part.RECEIVER, no_progress, Snapshot.open(project))
    assert charged(pair.acme) == 20
    pair.globe.project.consent.set("g15", "n")
    assert sync(pair) == "done"
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)} - {"g15"}
    assert charged(pair.acme) == 20
    pair.globe.people(people(person, "g", [5]), "more")
    assert pair.acme.project.feeds.sync("f")
    assert "g5" in pair.globe.members("acme", "all")


@pytest.mark.feature("EX8")
def test_an_evaluation_goes_on_with_what_it_began_with(
    pair_type: Any, tmp_path: Any, clock: Any, person: Any, broken_off: Any
) -> None:
    """Acme calls and is killed; globe is killed too and gets more people; the exchange goes on, and nobody is accused."""
    pair = pair_type(tmp_path, clock)
    with pair.acme.serving():
        with pair.globe.serving():
            shared(pair, person)
            with broken_off("evaluated"):
                sync(pair)
        pair.globe.node.close()
        pair.globe.open()
        pair.globe.people(people(person, "g", range(7, 10)), "more")
        with pair.globe.serving():
            sync(pair)
            sync(pair)
            assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(7, 20)}
            assert [each for each in pair.globe.project.alerts.list() if each.kind.startswith("exchange")] == []


# Epochs


def test_an_epoch_ends_by_the_clock_with_its_keys_and_caches(pair: Any, person: Any, clock: Any) -> None:
    shared(pair, person)
    sync(pair)
    folder = pair.acme.node.home / "cache" / pair.acme.project.partners.get("globe").id
    assert [each.name for each in folder.iterdir()] == ["1"]
    clock.advance(days=29)
    assert sync(pair) == "done"  # only that nothing has changed
    clock.advance(days=1)
    assert sync(pair) == "done"  # the same members, sealed under new keys
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}
    assert pair.globe.project.received.show("f")["revision"] == 3
    for side in (pair.acme, pair.globe):
        assert [each.name for each in (side.node.home / "cache" / folder.name).iterdir()] == ["2"]
        with side.node.store.read() as tx:
            first, second = tx.execute(select(epoch_rows).order_by(epoch_rows.c.number)).all()
        assert (first.secret, first.ended is None) == (b"", False)
        assert len(second.secret) > 32


def test_a_partner_behind_is_told_the_epoch_and_follows(pair: Any, person: Any, clock: Any) -> None:
    """The receiver has ended the epoch; the sender, whose clock has not, opens in the old one and follows."""
    shared(pair, person, evaluations="5/2")
    sync(pair)
    clock.advance(days=2)
    with pair.globe.node.store.begin() as tx:
        key_epochs.follow(pair.globe.project, tx, pair.globe.project.partners.get("acme"), 7)
    assert number_of(pair.acme, "globe") == 1
    assert sync(pair) == "done"
    assert number_of(pair.acme, "globe") == 7
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


def test_a_partner_cannot_pull_us_forward_within_a_day_or_out_of_sight(pair: Any, person: Any, clock: Any) -> None:
    shared(pair, person)
    sync(pair)
    project, connection = pair.acme.project, pair.acme.project.partners.get("globe")
    for days, number in ((0, 2), (2, 2_000), (0, 2**63 - 1)):
        clock.advance(days=days)
        with pytest.raises(Refused), pair.acme.node.store.begin() as tx:
            key_epochs.follow(project, tx, connection, number)
        assert number_of(pair.acme, "globe") == 1


def test_a_partner_that_opens_too_far_ahead_is_refused(pair: Any, person: Any, clock: Any) -> None:
    shared(pair, person)
    sync(pair)
    project, connection = pair.globe.project, pair.globe.project.partners.get("acme")
    with pair.globe.node.store.begin() as tx:
        key_epochs._begin(project, tx, connection, 2)
    with pytest.raises(PeerRefused):
        ask_for(pair, range(10, 12))
    assert number_of(pair.acme, "globe") == 1
    assert (pair.acme.node.home / "cache" / connection.id / "1").is_dir()


@pytest.mark.feature("EX7")
def test_every_key_is_fresh_for_connection_direction_namespace_epoch_and_purpose(pair: Any, person: Any) -> None:
    """One identity, blinded in every way that differs in one thing, gives as many points."""
    from hashlib import sha256

    from node.partners.key_epochs import Epoch
    from psi.keys import Purpose
    from psi.values import Values

    shared(pair, person)
    project, connection = pair.acme.project, pair.acme.project.partners.get("globe")

    class Other:
        id, peer_key = "0" * 32, connection.peer_key

    identity, points = Values.of([sha256(b"person").digest()]), set()
    secret = bytes(32)  # even if two epochs had the same one
    ways = [
        (which, Epoch(number, secret), namespace, protocol, outward, purpose)
        for which in (connection, Other)
        for number in (1, 2)
        for namespace in (EMAIL, "phone_sha256/e164-v1")
        for protocol in ("count", "release")
        for outward in (True, False)
        for purpose in Purpose
    ]
    for which, epoch, namespace, protocol, outward, purpose in ways:
        channel = evaluations.Channel.of(project, which, epoch, namespace, protocol=protocol, outward=outward)
        points.add(oprf.blind(channel.context, identity, channel.key(purpose)).tobytes())
    assert len(points) == len(ways) == 128
