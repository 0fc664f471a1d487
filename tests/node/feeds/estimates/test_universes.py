"""Universes: one generation at a time, a new one a day at most, eight in an epoch."""

import gc
import hashlib
import tracemalloc
from typing import Any

import pytest
from clock import Clock
from estimating import ask, kept, members, people
from sides import EMAIL, Pair, Person

from node.access.audit import date
from node.errors import RefusedByPartner, RefusedToPartner
from node.exchanges import records
from node.exchanges.answering import NodeAnswers
from node.feeds.estimates import answering
from node.feeds.estimates import universes as universe_module
from node.imports.identity_columns import IdentityColumn
from node.partners import key_epochs
from node.storage.tables import DAY, universes
from protocol.errors import RemoteProtocolError
from protocol.messages import Commitment
from psi import count


def test_a_universe_stays_while_the_people_do_and_for_a_day(pair: Pair, person: type[Person], clock: Clock) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    clock.advance(days=2)
    pair.globe.segment("own", ["g11"])  # a new generation of data, of the same people
    ask(pair, ["all"])
    assert [row.generation for row in kept(pair, universes)] == [1]
    pair.globe.people(people(person, "g", range(5, 10)), "more")
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 25
    pair.globe.people(people(person, "g", range(5)), "yet-more")
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 25  # the last one is not a day old
    clock.advance(days=1)
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 30
    assert [row.generation for row in kept(pair, universes)] == [1, 2, 3]


def test_a_lost_universe_is_not_shown_anew_within_a_day(pair: Pair, person: type[Person], clock: Clock) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    for file in (pair.globe.node.home.path / "cache").rglob("universe *"):
        file.unlink()
    with pytest.raises(RefusedByPartner) as refused:
        ask(pair, ["all"])
    assert refused.value.code == "universe_lost"
    clock.advance(days=1)
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 20
    assert [row.generation for row in kept(pair, universes)] == [1, 2]


def test_an_exchange_goes_on_with_the_universe_that_it_began_with(
    pair: Pair, person: type[Person], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another exchange brings a new universe in the same second; both nodes are killed; the first one goes on."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    clock.advance(days=2)
    connection = pair.globe.project.partners.get("acme")
    from node.exchanges.channels import Channel, epoch_of

    inputs: dict[int, bytes] = {}

    def universe(number: int) -> bytes:
        opening = pair.globe.opening("acme", exchange=bytes([number]) * 16)
        answer = answering.ANSWERER.answer(pair.globe.project.scope, connection, opening, inputs.get(number))
        inputs[number] = answer.inputs
        return answer.role.produce("commitment")[0].encode()

    first = universe(1)
    pair.globe.people(people(person, "g", range(5)), "more")
    second = universe(2)
    assert first != second
    pair.globe.open()
    assert (universe(1), universe(2)) == (first, second)
    channel = Channel.of(
        pair.globe.project.scope,
        connection,
        epoch_of(pair.globe.project.scope, connection, 1),
        EMAIL,
        protocol="count",
        outward=False,
    )
    assert universe_module.newest(pair.globe.project.scope, connection, channel).number == 2


def test_two_openings_at_once_build_one_universe(
    pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one builds the first universe, another one is faster: both answer from the faster one's."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    connection, project = pair.globe.project.partners.get("acme"), pair.globe.project
    from node.exchanges.channels import Channel
    from node.partners import key_epochs

    with pair.globe.node.home.database.begin() as tx:
        epoch = key_epochs.current(project.scope, tx, connection)
    channel = Channel.of(project.scope, connection, epoch, EMAIL, protocol="count", outward=False)
    build, others = count.build_universe, []

    def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(count, "build_universe", build)
        others.append(universe_module.newest(project.scope, connection, channel))
        return build(*arguments)

    monkeypatch.setattr(count, "build_universe", slow)
    ours = universe_module.newest(project.scope, connection, channel)
    assert ours.digest == others[0].digest
    assert len(list((pair.globe.node.home.path / "cache").rglob("universe *"))) == 1
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 20


@pytest.mark.feature("ES8")
def test_a_ninth_universe_in_an_epoch_is_refused_by_the_asker(pair: Pair, person: type[Person], clock: Clock) -> None:
    """A partner compares us under eight sets in 30 days at most, also where it ends epochs early to get more."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    project, connection = pair.acme.project, pair.acme.project.partners.get("globe")

    def shown(number: int, epoch: int = 1) -> None:
        commitment = Commitment(
            context=bytes(32), epoch=epoch, generation=number, count=1, chunks=(number.to_bytes(64),), made=0
        )
        universe_module.check_shown(project.scope, connection, EMAIL, commitment)

    with pair.acme.node.home.database.begin() as tx:
        key_epochs.current(project.scope, tx, connection)
    for number in range(1, 9):
        shown(number)
        shown(number)  # the same one again is none
        with pytest.raises(RemoteProtocolError, match="within a day"):
            shown(number + 1)
        clock.advance(days=1)
    with pytest.raises(RemoteProtocolError, match="more than 8"):
        shown(9)
    with pair.acme.node.home.database.begin() as tx:
        key_epochs.follow(project.scope, tx, connection, 2)
    with pytest.raises(RefusedToPartner, match="8 universes were shown"):
        shown(1, epoch=2)
    clock.advance(days=30)
    with pair.acme.node.home.database.begin() as tx:
        assert key_epochs.current(project.scope, tx, connection).number == 3
    shown(1, epoch=3)


@pytest.mark.feature("ES8")
def test_each_project_of_a_partner_shows_eight(pair: Pair, person: type[Person], clock: Clock) -> None:
    """A person has accepted each. Once one is over, what it showed counts for the others too."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    project = pair.acme.project
    second = pair.globe.node.create_project("second")
    second.consent.set_model("opt-out")
    email = [IdentityColumn.parse("email=email_sha256:raw")]
    second.profiles.import_(pair.globe.folder / "globe-crm.csv", dataset="crm", id_column="id", identities=email)
    second.partners.request(second.partners.look_up(project.partners.connect_id().encode()), alias="acme")
    project.partners.accept("globe-2")

    def shown(alias: str, number: int) -> None:
        connection = project.partners.get(alias)
        chunks = (alias.encode().ljust(63, b".") + bytes([number]),)
        commitment = Commitment(context=bytes(32), epoch=1, generation=number, count=1, chunks=chunks, made=0)
        universe_module.check_shown(project.scope, connection, EMAIL, commitment)

    for alias in ("globe", "globe-2"):
        with pair.acme.node.home.database.begin() as tx:
            key_epochs.current(project.scope, tx, project.partners.get(alias))
    for number in range(1, 5):
        shown("globe", number)
        shown("globe-2", number)
        clock.advance(days=1)
    for number in range(5, 9):
        shown("globe", number)
        clock.advance(days=1)
    shown("globe-2", 5)
    clock.advance(days=1)
    project.partners.disconnect("globe")
    with pytest.raises(RefusedToPartner, match="8 universes were shown"):
        shown("globe-2", 6)


def test_after_the_asker_ended_the_key_epoch_it_may_ask_at_once(pair: Pair, person: type[Person], clock: Clock) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    clock.advance(days=2)
    ask(pair, ["all"])
    key_epochs.rotate(pair.acme.project.scope, "globe")
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 20
    assert [row.epoch for row in kept(pair, universes)] == [1, 2]


@pytest.mark.feature("ES8")
def test_after_the_answerer_ended_it_the_next_universe_has_its_day(
    pair: Pair, person: type[Person], clock: Clock
) -> None:
    """Else ending an epoch would get it more universes; it is refused, and no breach of the protocol."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    clock.advance(days=2)
    pair.globe.people(people(person, "g", range(10, 41)))
    ask(pair, ["all"])
    shown = clock()
    clock.advance(seconds=3600)
    key_epochs.rotate(pair.globe.project.scope, "acme")
    with pytest.raises(RefusedToPartner, match="ended the key epoch less than a day after") as refused:
        ask(pair, ["all"])
    assert refused.value.code == "universe_too_soon"
    assert refused.value.hint.endswith(date(shown + DAY))
    alerts = [alert.kind for side in (pair.acme, pair.globe) for alert in side.project.alerts.all()]
    assert not any(kind.startswith("exchange") for kind in alerts)
    clock.now = shown + DAY
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 20


def test_open_counts_hold_no_universe_in_memory(pair: Pair, person: type[Person]) -> None:
    """A partner opens sixteen counts of a universe of 12,800 points: their roles together hold less than one of it."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(12_500)), {"all": members(*range(30))})
    scope, connection = pair.globe.project.scope, pair.globe.project.partners.get("acme")

    def opened(number: int) -> Any:
        opening = pair.globe.opening("acme", exchange=bytes([number]) * 16)
        return answering.ANSWERER.answer(scope, connection, opening, None).role

    opened(0)  # makes the universe
    gc.collect()
    tracemalloc.start()
    try:
        roles = [opened(number) for number in range(1, 17)]
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        shown = [(len(each.points), hashlib.sha512(each.points).digest()) for each in roles[0].produce("universe")]
    finally:
        tracemalloc.stop()
    (committed,) = roles[0].produce("commitment")
    assert committed.commitment.chunks == tuple(digest for _, digest in shown)
    points = sum(size for size, _ in shown)
    assert points == 12_800 * 32
    assert held < points


def test_old_universes_leave_the_disk_unless_an_exchange_uses_them(
    pair: Pair, person: type[Person], clock: Clock
) -> None:
    """With what was asked about them, which nobody can ask again."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    cache, answers = pair.globe.node.home.path / "cache", NodeAnswers(pair.globe.node.home)

    def more(number: int) -> None:
        clock.advance(days=1)
        records.forget_old(pair.globe.node.home)
        pair.globe.people(people(person, "g", range(number, 40)), f"people-{number}")
        ask(pair, ["all"])

    ask(pair, ["all"])
    opening = pair.globe.opening("acme", exchange=bytes([7]) * 16)
    _, machine = answers.begin(pair.acme.node.key, opening)
    first = machine.get("commitment", 0)
    for number in (9, 8, 7, 6):
        more(number)
    assert (len(list(cache.rglob("universe *"))), len(list(cache.rglob("question *")))) == (3, 3)
    _, machine = NodeAnswers(pair.globe.node.home).resume(pair.acme.node.key, opening.exchange)
    assert machine.get("commitment", 0) == first
    machine.get("universe", 0)
    clock.advance(days=7)
    more(5)
    assert (len(list(cache.rglob("universe *"))), len(list(cache.rglob("question *")))) == (2, 2)
