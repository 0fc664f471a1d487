"""The evaluations that a receiver may ask for: at most 1.2 times its universe in an epoch."""

import os
from pathlib import Path

import pytest
from clock import Clock
from evaluating import ask_for, charged, number_of, people, shared, spent_out, sync
from sides import EMAIL, Pair, Person
from sqlalchemy import func, select

from node.access.audit import Result
from node.errors import RefusedByPartner, RefusedToPartner
from node.feeds.sending import charged as charged_points
from node.feeds.sending import evaluations
from node.feeds.sending.charged import Charged
from node.partners import key_epochs
from node.storage.tables import ledger
from protocol.errors import RemoteProtocolError
from protocol.messages import Blinded
from psi import kernel
from psi.keys import random_scalars

pytestmark = pytest.mark.usefixtures("small_universes")


def test_a_receiver_may_ask_for_a_fifth_more_than_its_universe(
    pair_type: type[Pair], tmp_path: Path, clock: Clock, person: type[Person]
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
            denied = pair.acme.acts("exchange.evaluate", Result.DENY)
            assert {entry["detail"]["error"]["code"] for entry in denied} == {"evaluations_spent"}
            clock.advance(days=30)  # the epoch is over, and so is its budget
            ask_for(pair, range(100, 124))
            spent_out(pair, [124])


def test_an_epoch_that_the_partner_ends_early_refills_nothing(pair: Pair, person: type[Person], clock: Clock) -> None:
    shared(pair, person)
    sync(pair)
    clock.advance(days=2)
    connection = pair.globe.project.partners.get("acme")
    with pair.globe.node.home.database.begin() as tx:
        key_epochs.follow(pair.globe.project.scope, tx, connection, 2)
    spent_out(pair, range(10, 30))  # new keys, so all 20 are new points, and 4 are left
    assert number_of(pair.acme, "globe") == 2
    assert charged(pair.acme) == 20


def test_a_new_connection_refills_nothing(pair: Pair, person: type[Person], clock: Clock) -> None:
    """22 of 24 were evaluated: over a new connection, with new keys, 2 more are, until the window is over."""
    shared(pair, person)
    sync(pair)
    ask_for(pair, [100, 101])
    pair.globe.project.partners.disconnect("acme")
    pair.post()
    clock.advance(days=2)
    pair.connect()
    pair.share("again", ["all"], [EMAIL])
    spent_out(pair, [102, 103, 104])
    ask_for(pair, [102, 103])
    assert charged(pair.acme) == 24
    clock.advance(days=30)
    ask_for(pair, range(100, 124))


def test_an_epoch_that_ends_by_the_clock_allows_everything_anew(pair: Pair, person: type[Person], clock: Clock) -> None:
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


def test_without_an_enabled_feed_nothing_is_evaluated(pair: Pair, person: type[Person]) -> None:
    pair.prepare(people(person, "a", range(20)), people(person, "g", range(20)), {"all": ["a1"]})
    with pytest.raises(RefusedByPartner) as refused:
        ask_for(pair, range(3))
    assert refused.value.code == "no_feed"


def test_a_sender_that_calls_refuses_and_says_so_too(pair: Pair, person: type[Person]) -> None:
    shared(pair, person)
    sync(pair)
    pair.globe.people(people(person, "g", range(40, 45)), "more")
    with pytest.raises(RefusedToPartner, match=r"5 more points are above the evaluations agreed for this window$"):
        sync(pair)
    (denied,) = pair.acme.acts("exchange.evaluate", Result.DENY)
    assert denied["detail"]["error"]["code"] == "evaluations_spent"
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


def test_points_that_come_one_by_one_become_few_files(
    pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is charged once, also by another process, and where a kill left the files that one replaced."""
    monkeypatch.setattr(charged_points, "MOST_FILES", 3)
    shared(pair, person)
    sync(pair)
    cache = pair.acme.node.home.path / "cache"
    kept = {file: file.read_bytes() for file in cache.rglob("seen *")}
    for person_number in range(100, 104):
        ask_for(pair, [person_number])
        kept |= {file: file.read_bytes() for file in cache.rglob("seen *")}
        assert len(list(cache.rglob("seen *"))) < 3
    assert charged(pair.acme) == 24
    with pair.acme.node.home.database.read() as tx:
        query = select(func.count()).select_from(ledger).where(ledger.c.kind == "evaluations")
        assert (tx.scalar(query) or 0) < 4  # rows too
    for file, content in kept.items():
        file.write_bytes(content)
        os.utime(file, (0, 0))
    pair.acme.node.close()
    pair.acme.open()
    connection, scope = pair.acme.project.partners.get("globe"), pair.acme.project.scope
    with pair.acme.node.home.database.begin() as tx:
        epoch = key_epochs.current(scope, tx, connection)
    assert evaluations.evaluated(scope, connection, EMAIL, epoch) == 24
    Charged(scope, connection, epoch, EMAIL).unite()
    assert len(list(cache.rglob("seen *"))) < 3
    assert evaluations.evaluated(scope, connection, EMAIL, epoch) == 24
    spent_out(pair, [104])


def test_a_chunk_after_one_that_is_not_full_is_refused(pair: Pair, person: type[Person]) -> None:
    """Each chunk leaves a file and a row."""
    shared(pair, person)
    connection, scope = pair.acme.project.partners.get("globe"), pair.acme.project.scope
    with pair.acme.node.home.database.begin() as tx:
        epoch = key_epochs.current(scope, tx, connection)
    role = evaluations.sender(scope, connection, EMAIL, epoch)
    points = kernel.multiply_base(random_scalars(2, lambda size: bytes(range(64)) * (size // 64)))
    first, second = sorted(each.tobytes() for each in points)
    role.receive("blinded", 0, Blinded(points=first))
    with pytest.raises(RemoteProtocolError, match="not full"):
        role.receive("blinded", 1, Blinded(points=second))
