"""A partner asks for key epochs of one day, to be refilled with each: it gets what our own 30 days allow, no more."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from estimating import ask, kept, members
from evaluating import ask_for, charged, number_of, people, shared, spent_out
from sides import EMAIL, Pair, Person
from sqlalchemy import select

from node.errors import RefusedByPartner, RefusedToPartner
from node.feeds.estimates import asking, universes
from node.partners import key_epochs
from node.storage import tables
from protocol.errors import RemoteProtocolError
from protocol.estimate import CountAsker
from protocol.messages import Commitment

pytestmark = [pytest.mark.two_nodes, pytest.mark.usefixtures("small_universes"), pytest.mark.feature("CN8")]
DAYS = 30


class Hurried(Pair):
    """Globe asks for epochs of a day, acme for the default."""

    def connect(self) -> None:
        self.globe.project.set_terms(epoch_days=1)
        super().connect()


@pytest.fixture
def hurried(tmp_path: Path, clock: Clock) -> Iterator[Pair]:
    pair = Hurried(tmp_path, clock)
    with pair.acme.serving(), pair.globe.serving():
        yield pair


def test_it_has_no_more_points_evaluated(hurried: Pair, person: type[Person], clock: Clock) -> None:
    """24 guessed people of 20 declared ones are answered in 30 days; counted by epochs it would be 720."""
    shared(hurried, person)
    for day in range(DAYS):
        with suppress(RefusedByPartner):
            ask_for(hurried, range(100 + 24 * day, 124 + 24 * day))
        clock.advance(days=1)
    assert number_of(hurried.acme, "globe") == DAYS
    assert charged(hurried.acme) == 24
    ask_for(hurried, range(900, 924))
    assert charged(hurried.acme) == 48


def test_our_own_end_of_an_epoch_is_one_whatever_it_ended_before(
    pair: Pair, person: type[Person], clock: Clock
) -> None:
    """Whoever fears for its keys has them destroyed, and not a word of the partner's agreed to."""
    shared(pair, person)
    ask_for(pair, range(100, 124))
    clock.advance(days=2)
    pair.globe.project.partners.rotate("acme")
    spent_out(pair, range(200, 201))
    clock.advance(days=10)
    assert pair.acme.project.partners.rotate("globe") == {"ended": 2, "epoch": 3, "partner_has_to_allow": False}
    with pair.acme.node.home.database.read() as tx:
        secrets = tx.scalars(select(tables.epochs.c.secret).order_by(tables.epochs.c.number)).all()
    assert [bool(each) for each in secrets] == [False, False, True]


def test_it_has_no_more_points_evaluated_by_agreeing_on_longer_windows(
    pair: Pair, person: type[Person], clock: Clock
) -> None:
    """Windows of 32, 33, ... days would begin on those days, had the length of today a say in where they begin."""
    shared(pair, person)
    ask_for(pair, range(50, 60))
    clock.advance(days=30)
    ask_for(pair, range(100, 124))
    for day in range(31, 36):
        clock.advance(days=1)
        pair.globe.project.partners.disconnect("acme")
        pair.post()
        pair.globe.project.set_terms(window_days=day)
        pair.connect()
        pair.share(f"feed{day}", ["all"], [EMAIL])
        with suppress(RefusedByPartner):
            ask_for(pair, range(100 * day, 100 * day + 24))
    assert charged(pair.acme) == 10 + 24


def test_it_shows_no_more_universes(hurried: Pair, person: type[Person], clock: Clock) -> None:
    """8 in 30 days, of whichever epochs; counted by epochs it would be 29. Connecting anew makes no difference."""
    hurried.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    project, taken = hurried.acme.project, 0
    connection = project.partners.get("globe")
    for day in range(DAYS - 1):
        if day == 20:
            project.partners.disconnect("globe")
            hurried.post()
            hurried.connect()
            connection = project.partners.get("globe")
        with hurried.acme.node.home.database.begin() as tx:
            epoch = key_epochs.current(project.scope, tx, connection).number
        shown = Commitment(
            context=bytes(32), epoch=epoch, generation=1, count=1, chunks=(day.to_bytes(64),), made=clock.now
        )
        with suppress(RefusedToPartner, RemoteProtocolError):
            universes.check_shown(project.scope, connection, EMAIL, shown)
            taken += 1
        clock.advance(days=1)
    assert taken == 8


def test_an_honest_answerer_shows_no_more_either(hurried: Pair, person: type[Person], clock: Clock) -> None:
    """Here acme, who asks, is the one who would be shown more: 12 in 12 days, since each epoch needs one under new keys."""
    hurried.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    for _ in range(12):
        with suppress(RefusedByPartner):
            ask(hurried, ["all"])
        clock.advance(days=1)
    with pytest.raises(RefusedByPartner) as refused:
        ask(hurried, ["all"])
    assert refused.value.code == "universe_too_soon"
    assert len(kept(hurried, tables.universes)) == 8


def test_it_is_asked_about_no_more_people(
    hurried: Pair, person: type[Person], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 of 20, the same ones for 30 days; with a sample for each epoch it would be 18."""
    asked: set[bytes] = set()

    def spied(**options: Any) -> CountAsker:
        asked.update(each.tobytes() for each in options["values"].rows)
        return CountAsker(**options)

    monkeypatch.setattr(asking, "MAX_ASKED", 5)
    monkeypatch.setattr(asking, "CountAsker", spied)
    hurried.prepare(people(person, "a", range(20)), people(person, "g", range(10, 40)), {"all": members(*range(20))})
    for day in range(9):
        ask(hurried, ["all"]) if day < 8 else None
        clock.advance(days=3)
    assert len(asked) == 5
    clock.advance(days=3)
    ask(hurried, ["all"])
    assert len(asked) > 5
