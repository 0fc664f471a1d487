"""What an estimate says, what it costs, how old it may get, and what the noise does to it."""

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from cli.main import main
from node.access.audit import date
from node.errors import PeerRefused, PeerUnreachable, Refusal
from node.feeds.estimates import disclosure, matching
from node.feeds.estimates import universes as universe_module
from node.partners import key_epochs
from node.people.data import Snapshot
from node.storage.tables import DAY, answers, ledger, universes
from protocol.agreement import Terms
from protocol.errors import RemoteProtocolError
from protocol.estimate import CountAnswerer, CountAsker
from protocol.messages import Commitment
from psi import count, noise
from psi.values import Values

EMAIL, PHONE = "email_sha256/lc-v1", "phone_sha256/e164-v1"
NOISY = {"epsilon": "1/20", "budget": "1/10"}  # two counts in a window


@pytest.fixture(autouse=True)
def _small_universes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pad to 128 points, not 4,096: the protocol is the same and a count takes a tenth of a second."""
    monkeypatch.setattr(count, "PADDING", 128)


def people(
    person: Any, side: str, numbers: Sequence[int], *, no_phone: Sequence[int] = (), out: Sequence[int] = ()
) -> list[Any]:
    """Return people of a side, "a" or "g": the same number is the same person."""
    return [
        person(
            f"{side}{number}",
            f"person{number}@example.com",
            "" if number in no_phone else f"+44740000{number:04}",
            "n" if number in out else "",
        )
        for number in numbers
    ]


def members(*numbers: int) -> list[str]:
    return [f"a{number}" for number in numbers]


def ask(pair: Any, segments: Sequence[str], namespaces: Sequence[str] = (EMAIL,), feed: str = "f") -> dict[Any, Any]:
    """Estimate a feed of these segments; returns the rows by segment and namespace."""
    feeds = pair.acme.project.feeds
    if feed not in {each["name"] for each in feeds.list()}:
        feeds.create(feed, segments=segments, namespaces=namespaces, partners=["globe"])
    return {(row["segment"], row["namespace"]): row for row in feeds.estimate(feed)}


def spent(pair: Any) -> int:
    """Return the thousandths of epsilon in the answerer's ledger, whoever the connection was with."""
    with pair.globe.node.store.read() as tx:
        return tx.scalar(select(func.sum(ledger.c.amount)).where(ledger.c.kind == "epsilon_millis")) or 0


def kept(pair: Any, table: Any, *conditions: Any) -> list[Any]:
    with pair.globe.node.store.read() as tx:
        return list(tx.execute(select(table).where(*conditions)))


@pytest.mark.feature("ES1")
def test_what_is_not_answered_costs_no_other_answer(pair: Any, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"vip": members(*range(5, 25))})
    run, broken = matching.JOBS[matching.JOB], {PHONE}

    def failing(project: Any, parameters: dict[str, Any], progress: Any) -> Any:
        if parameters["namespace"] in broken:
            raise PeerUnreachable("cannot reach globe", hint="try again")
        return run(project, parameters, progress)

    monkeypatch.setitem(matching.JOBS, matching.JOB, failing)
    rows = ask(pair, ["vip"], [EMAIL, PHONE])
    assert (rows["vip", EMAIL]["status"], rows["vip", EMAIL]["overlap"]) == ("ok", 15)
    assert (rows["vip", PHONE]["status"], rows["vip", PHONE]["overlap"]) == ("failed", None)
    assert rows["vip", PHONE]["error"]["code"] == PeerUnreachable.code
    broken.add(EMAIL)
    with pytest.raises(PeerUnreachable):
        ask(pair, ["vip"], [EMAIL, PHONE])


@pytest.mark.feature("ES1")
def test_estimates_equal_the_hand_count_per_segment_and_namespace(pair: Any, person: Any) -> None:
    globe = people(person, "g", range(10, 40), no_phone=range(10, 40, 2))
    pair.prepare(
        people(person, "a", range(30)), globe, {"vip": members(*range(5, 25)), "gold": members(*range(8, 15), 29)}
    )
    rows = ask(pair, ["vip", "gold"], [EMAIL, PHONE])
    assert {key: (row["overlap"], row["consented"], row["interval"]) for key, row in rows.items()} == {
        ("vip", EMAIL): (15, 15, [15, 15]),  # 10..24
        ("vip", PHONE): (7, 7, [7, 7]),  # 11, 13 .. 23: who matches by both counts once in each row
        ("gold", EMAIL): (6, 6, [6, 6]),  # 10..14 and 29
        ("gold", PHONE): (3, 3, [3, 3]),  # 11, 13, 29
    }
    assert {row["partner"] for row in rows.values()} == {"globe"}
    assert {row["budget"] for row in rows.values()} == {None}  # without noise nothing is charged
    assert "once in each" in pair.acme.project.feeds.show("f")["note"]


@pytest.mark.feature("ES2")
def test_opted_out_at_the_sender_is_in_the_overlap_only_and_at_the_receiver_in_neither(pair: Any, person: Any) -> None:
    acme = people(person, "a", range(20), out=(10, 11, 12))
    globe = people(person, "g", range(8, 30), out=(8, 9))  # 8..19 are known to both
    pair.prepare(acme, globe, {"all": members(*range(20))})
    row = ask(pair, ["all"])["all", EMAIL]
    assert (row["overlap"], row["consented"]) == (10, 7)


@pytest.mark.feature("ES2")
def test_a_project_can_keep_people_without_consent_out_of_estimates(pair: Any, person: Any) -> None:
    pair.prepare(
        people(person, "a", range(20), out=range(10)), people(person, "g", range(20)), {"all": members(*range(20))}
    )
    pair.acme.project.set_hide_unconsented(True)
    row = ask(pair, ["all"])["all", EMAIL]
    assert (row["overlap"], row["consented"], row["size"]) == (10, 10, 10)


@pytest.mark.feature("ES4")
def test_below_the_minimum_there_is_no_number_anywhere(pair: Any, person: Any, capsys: Any) -> None:
    globe = people(person, "g", range(10, 60))
    segments = {"few": members(*range(29)), "enough": members(*range(30, 50))}
    pair.prepare(people(person, "a", range(50)), globe, segments, minimum_overlap=20)
    rows = ask(pair, ["few", "enough"])
    few, enough = rows["few", EMAIL], rows["enough", EMAIL]
    assert (enough["status"], enough["overlap"]) == ("ok", 20)  # just enough
    assert few["status"] == "below_minimum"  # 19
    for name in ("overlap", "consented", "interval", "consented_interval"):
        assert few[name] is None
    home = ["--home", str(pair.acme.node.home)]
    assert main([*home, "feed", "show", "f"]) == 0
    out = capsys.readouterr().out
    assert "Ranges" not in out  # there is no noise
    (line,) = [line for line in out.splitlines() if " few " in line]
    assert line.count("below minimum") == 2
    assert "19" not in line.partition("20")[0]  # before the date
    assert main([*home, "feed", "show", "f", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["estimates"]
    assert [row["overlap"] for row in shown if row["segment"] == "few"] == [None]


@pytest.mark.feature("ES4")
def test_a_segment_below_the_minimum_is_not_asked_about(pair: Any, person: Any) -> None:
    both = people(person, "a", range(30)), people(person, "g", range(30))
    pair.prepare(*both, {"small": members(*range(9))}, minimum_segment=10)
    assert ask(pair, ["small"])["small", EMAIL]["status"] == "below_minimum"
    assert kept(pair, answers) == []
    assert kept(pair, universes) == []


@pytest.mark.feature("ES4")
def test_the_floor_is_laid_on_the_noised_number() -> None:
    """A floor on the true number would say whether it is above: here 1,000 true ones are hidden in half of the cases."""
    terms = Terms()
    told = [
        disclosure.sanitise(
            1_000, 0, size=5_000, terms=terms, seeds=(seed.to_bytes(32), (seed + 500).to_bytes(32))
        ).status
        for seed in range(100)
    ]
    assert 25 < told.count("below_minimum") < 75


@pytest.mark.feature("ES5")
def test_an_estimate_has_an_age_and_expires_after_seven_days(pair: Any, person: Any, clock: Any) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    made = clock.now
    assert ask(pair, ["all"])["all", EMAIL]["computed_at"] == made
    feeds = pair.acme.project.feeds
    clock.advance(days=7)
    (row,) = feeds.estimates("f")
    assert (row["status"], row["overlap"], row["computed_at"]) == ("ok", 20, made)
    clock.advance(seconds=1)
    (row,) = feeds.estimates("f")
    assert (row["status"], row["overlap"], row["consented"], row["interval"]) == ("expired", None, None, None)
    assert row["computed_at"] == made
    row = ask(pair, ["all"])["all", EMAIL]  # asked again: the same numbers, as good as new
    assert (row["status"], row["overlap"], row["computed_at"]) == ("ok", 20, clock.now)


@pytest.mark.feature("ES5")
def test_a_partner_cannot_make_an_estimate_look_younger(
    pair: Any, person: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    result = CountAsker.result.fget

    def younger(self: CountAsker) -> Any:
        from dataclasses import replace

        return replace(result(self), computed_at=clock.now + 365 * DAY)

    monkeypatch.setattr(CountAsker, "result", property(younger))
    assert ask(pair, ["all"])["all", EMAIL]["computed_at"] == clock.now


@pytest.mark.feature("ES6")
@pytest.mark.parametrize(
    ("size", "overlap", "share", "sampled"),
    [
        (20_000, 12_000, 0.75, 20_000),  # noise only
        (2_000, 1_995, 1.0, 2_000),  # at the top, where the number is cut at the segment's size
        (1_000_000, 300_000, 0.5, 65_536),  # sampled
        (3_000_000, 100_000, 1.0, 65_536),
        (70_000, 69_500, 0.9, 65_536),  # sampled a little, almost all match
    ],
)
def test_the_interval_holds_the_truth_in_180_of_200_runs(size: int, overlap: int, share: float, sampled: int) -> None:
    """The asker's own sampling and scaling around the answerer's noise and rounding, for both numbers."""
    terms, generator = Terms(), np.random.default_rng(size + overlap)
    consented = round(overlap * share)
    held = {"overlap": 0, "consented": 0}
    for run in range(200):
        c, o, _ = generator.multivariate_hypergeometric([consented, overlap - consented, size - overlap], sampled)
        seeds = (f"c{run}".encode().ljust(32), f"o{run}".encode().ljust(32))
        told = disclosure.sanitise(int(c), int(o), size=sampled, terms=terms, seeds=seeds)
        assert told.status == "ok"
        shown = matching._scaled(told, size, sampled, terms.epsilon)
        held["overlap"] += abs(shown["overlap"] - overlap) <= shown["half_width"]
        held["consented"] += abs(shown["consented"] - consented) <= shown["consented_half_width"]
        assert 0 <= shown["consented"] <= shown["overlap"] <= size
    assert min(held.values()) >= 180, held
    narrowest = noise.quantile(terms.epsilon, 2)
    assert narrowest <= shown["half_width"] < max(2 * narrowest, size // 50)  # wide enough, and still of use


@pytest.mark.feature("ES6")
def test_the_sample_is_fair_and_the_same_throughout_an_epoch() -> None:
    """60 samples of 2,000 from 20,000 of whom 7,000 match: the interval of the sampling error alone holds the truth."""
    values = Values(np.random.default_rng(1).integers(0, 256, (20_000, 32), np.uint8))
    held = 0
    for epoch in range(60):
        chosen = noise.sample(values, bytes([epoch]) * 32, limit=2_000)
        assert np.array_equal(chosen, noise.sample(values, bytes([epoch]) * 32, limit=2_000))
        hits = int((chosen < 7_000).sum())
        shown = noise.scale_up(hits, size=20_000, sampled=2_000)
        width = noise.half_width(epsilon=None, draws=2, size=20_000, sampled=2_000, hits=hits)
        held += abs(shown - 7_000) <= width
    assert held >= 54


@pytest.mark.feature("ES6")
def test_a_noised_estimate_shows_its_range(pair: Any, person: Any) -> None:
    both = people(person, "a", range(100)), people(person, "g", range(100))
    pair.prepare(*both, {"all": members(*range(100))}, **NOISY)
    row = ask(pair, ["all"])["all", EMAIL]
    width = noise.quantile(Fraction(1, 20), 2) + 5
    if row["status"] == "ok":  # with so few people the noise may say fewer than one
        assert row["interval"] == [max(0, row["overlap"] - width), min(100, row["overlap"] + width)]


@pytest.mark.feature("ES7")
def test_the_question_beyond_the_budget_is_refused_and_logged(pair: Any, person: Any, clock: Any) -> None:
    """Three questions of 1/20 on a budget of 1/10: the third waits for the end of the window."""
    segments = {name: members(*range(start, start + 100)) for name, start in (("a", 0), ("b", 100), ("c", 200))}
    both = people(person, "a", range(300)), people(person, "g", range(300))
    pair.prepare(*both, segments, **NOISY, epoch_days=90, window_days=90)
    ask(pair, ["a"], feed="fa")
    clock.advance(days=1)
    ask(pair, ["b"], feed="fb")
    assert spent(pair) == 100
    with pytest.raises(PeerRefused, match=r"0\.1 of 0\.1") as refused:
        ask(pair, ["c"], feed="fc")
    assert refused.value.code == "budget"
    assert spent(pair) == 100
    assert pair.acme.project.feeds.estimates("fc") == []
    for side, acts in ((pair.globe, ("estimate.answer", "exchange.count")), (pair.acme, ("exchange.count",))):
        for act in acts:
            assert [entry["detail"]["error"]["code"] for entry in side.acts(act, "deny")] == ["budget"]
    clock.advance(days=89)  # the first question is 90 days old, the second is not
    assert ask(pair, ["c"], feed="fc")
    assert spent(pair) == 150


@pytest.mark.feature("ES7")
def test_the_asker_sees_what_is_left_of_its_budget(pair: Any, person: Any, clock: Any, capsys: Any) -> None:
    """Two questions of 1/20 on a budget of 1/10; the first once more is free, and all of it comes back with the window."""
    both = people(person, "a", range(200)), people(person, "g", range(200))
    segments = {"a": members(*range(100)), "b": members(*range(100, 200))}
    pair.prepare(*both, segments, **NOISY, epoch_days=90, window_days=90)
    acme = pair.acme.project
    known = {"left": None, "of": "1/10", "window_days": 90, "at": None}
    assert acme.partners.show("globe")["our_budget"] == known
    for feed, left in (("fa", "1/20"), ("fa", "1/20"), ("fb", "0")):
        clock.advance(seconds=60)
        known.update(left=left, at=clock.now)
        assert ask(pair, [feed[1]], feed=feed)[feed[1], EMAIL]["budget"] == known
    shown = acme.feeds.show("fa")
    assert [row["budget"] for row in (*shown["estimates"], *shown["partners"])] == [known, known]
    assert acme.partners.show("globe")["our_budget"] == known
    home = ["--home", str(pair.acme.node.home)]
    assert main([*home, "feed", "show", "fa"]) == 0
    out = capsys.readouterr().out
    assert "budget left  0 of 0.1" in out.splitlines()
    assert "Ranges hold the truth" in out
    assert main([*home, "partner", "show", "globe"]) == 0
    assert "our budget left   0 of 0.1" in capsys.readouterr().out
    clock.advance(days=90)
    assert acme.feeds.estimates("fa")[0]["budget"] == {**known, "left": "1/10"}


@pytest.mark.feature("ES7")
def test_a_budget_that_a_partner_makes_up_is_no_number(pair: Any, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both = people(person, "a", range(100)), people(person, "g", range(100))
    pair.prepare(*both, {"all": members(*range(100))}, **NOISY)
    for told, left in ((None, None), (2**63 - 1, "0"), (0, "1/10")):
        monkeypatch.setattr(disclosure.Sanitiser, "_spent", lambda _self, _tx, told=told: told)
        row = ask(pair, ["all"])["all", EMAIL]
        assert row["budget"]["left"] == left


@pytest.mark.feature("ES7")
def test_below_the_minimum_costs_the_same(pair: Any, person: Any) -> None:
    both = people(person, "a", range(100)), people(person, "g", range(100, 200))
    pair.prepare(*both, {"all": members(*range(100))}, **NOISY, minimum_overlap=1_000)
    assert ask(pair, ["all"])["all", EMAIL]["status"] == "below_minimum"
    assert spent(pair) == 50


@pytest.mark.feature("ES7")
def test_an_identical_question_is_free_also_after_a_restart(
    pair_type: Any, tmp_path: Any, clock: Any, person: Any
) -> None:
    pair = pair_type(tmp_path, clock)
    with pair.acme.serving(), pair.globe.serving():
        both = people(person, "a", range(100)), people(person, "g", range(100))
        pair.prepare(*both, {"all": members(*range(100))}, **NOISY)
        first = ask(pair, ["all"])["all", EMAIL]
    for side in (pair.acme, pair.globe):
        side.node.close()
        side.open()
    clock.advance(days=2)
    with pair.acme.serving(), pair.globe.serving():
        for _ in range(2):
            again = ask(pair, ["all"])["all", EMAIL]
            budget = {**first["budget"], "at": clock.now}
            assert again == {**first, "computed_at": clock.now, "budget": budget}
    assert spent(pair) == 50
    assert len(kept(pair, answers)) == 1


# Universes


def test_a_universe_stays_while_the_people_do_and_for_a_day(pair: Any, person: Any, clock: Any) -> None:
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


def test_a_lost_universe_is_not_shown_anew_within_a_day(pair: Any, person: Any, clock: Any) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    for file in (pair.globe.node.home / "cache").rglob("universe *"):
        file.unlink()
    with pytest.raises(PeerRefused) as refused:
        ask(pair, ["all"])
    assert refused.value.code == "universe_lost"
    clock.advance(days=1)
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 20
    assert [row.generation for row in kept(pair, universes)] == [1, 2]


def test_an_exchange_goes_on_with_the_universe_that_it_began_with(
    pair: Any, person: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another exchange brings a new universe in the same second; both nodes are killed; the first one goes on."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    clock.advance(days=2)
    connection = pair.globe.project.partners.get("acme")
    from node.feeds.evaluations import Channel, epoch_of

    def universe(number: int) -> bytes:
        opening = pair.globe.opening("acme", exchange=bytes([number]) * 16)
        role = matching.answerer(pair.globe.project, connection, EMAIL, opening)
        assert isinstance(role, CountAnswerer)
        return role._universe.digest

    first = universe(1)
    pair.globe.people(people(person, "g", range(5)), "more")
    second = universe(2)
    assert first != second
    pair.globe.open()
    assert (universe(1), universe(2)) == (first, second)
    channel = Channel.of(
        pair.globe.project,
        connection,
        epoch_of(pair.globe.project, connection, 1),
        EMAIL,
        protocol="count",
        outward=False,
    )
    assert universe_module.newest(pair.globe.project, connection, channel).number == 2


def test_two_openings_at_once_build_one_universe(pair: Any, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one builds the first universe, another one is faster: both answer from the faster one's."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    connection, project = pair.globe.project.partners.get("acme"), pair.globe.project
    from node.feeds.evaluations import Channel
    from node.partners import key_epochs

    with pair.globe.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection)
    channel = Channel.of(project, connection, epoch, EMAIL, protocol="count", outward=False)
    build, others = count.build_universe, []

    def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(count, "build_universe", build)
        others.append(universe_module.newest(project, connection, channel))
        return build(*arguments)

    monkeypatch.setattr(count, "build_universe", slow)
    ours = universe_module.newest(project, connection, channel)
    assert ours.universe.digest == others[0].universe.digest
    assert len(list((pair.globe.node.home / "cache").rglob("universe *"))) == 1
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 20


@pytest.mark.feature("ES8")
def test_a_ninth_universe_in_an_epoch_is_refused_by_the_asker(pair: Any, person: Any, clock: Any) -> None:
    """A partner compares us under eight sets in 30 days at most, also where it ends epochs early to get more."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    project, connection = pair.acme.project, pair.acme.project.partners.get("globe")

    def shown(number: int, epoch: int = 1) -> None:
        commitment = Commitment(
            context=bytes(32), epoch=epoch, generation=number, count=1, chunks=(number.to_bytes(64),), made=0
        )
        universe_module.check_shown(project, connection, EMAIL, commitment)

    with pair.acme.node.store.begin() as tx:
        key_epochs.current(project, tx, connection)
    for number in range(1, 9):
        shown(number)
        shown(number)  # the same one again is none
        with pytest.raises(RemoteProtocolError, match="within a day"):
            shown(number + 1)
        clock.advance(days=1)
    with pytest.raises(RemoteProtocolError, match="more than 8"):
        shown(9)
    with pair.acme.node.store.begin() as tx:
        key_epochs.follow(project, tx, connection, 2)
    with pytest.raises(RemoteProtocolError, match="more than 8"):
        shown(1, epoch=2)
    clock.advance(days=30)
    with pair.acme.node.store.begin() as tx:
        assert key_epochs.current(project, tx, connection).number == 3
    shown(1, epoch=3)


def test_after_the_asker_ended_the_key_epoch_it_may_ask_at_once(pair: Any, person: Any, clock: Any) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    clock.advance(days=2)
    ask(pair, ["all"])
    key_epochs.rotate(pair.acme.project, "globe")
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 20
    assert [row.epoch for row in kept(pair, universes)] == [1, 2]


@pytest.mark.feature("ES8")
def test_after_the_answerer_ended_it_the_next_universe_has_its_day(pair: Any, person: Any, clock: Any) -> None:
    """Else ending an epoch would get it more universes; it is refused, and no breach of the protocol."""
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    ask(pair, ["all"])
    clock.advance(days=2)
    pair.globe.people(people(person, "g", range(10, 41)))
    ask(pair, ["all"])
    shown = clock()
    clock.advance(seconds=3600)
    key_epochs.rotate(pair.globe.project, "acme")
    with pytest.raises(Refusal, match="ended the key epoch less than a day after") as refused:
        ask(pair, ["all"])
    assert refused.value.code == "universe_too_soon"
    assert refused.value.hint.endswith(date(shown + DAY))
    alerts = [alert.kind for side in (pair.acme, pair.globe) for alert in side.project.alerts.list()]
    assert not any(kind.startswith("exchange") for kind in alerts)
    clock.now = shown + DAY
    assert ask(pair, ["all"])["all", EMAIL]["overlap"] == 20


def test_what_a_caller_is_asked_is_fixed_when_it_opens(quiet_receiver: Any, person: Any) -> None:
    """A partner without an address calls to be asked; a newer question meanwhile does not mix up the answer."""
    pair = quiet_receiver
    segments = {"one": members(*range(12)), "two": members(*range(12, 30))}
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), segments)
    feeds = pair.acme.project.feeds
    for name in ("one", "two"):
        feeds.create(name, segments=[name], namespaces=[EMAIL], partners=["globe"])
    feeds.estimate("one")
    asker, late = matching._asker, []

    def newer(*arguments: Any) -> Any:
        if not late:
            late.append(feeds.estimate("two"))
        return asker(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(matching, "_asker", newer)
        pair.post()
    assert [row["overlap"] for row in feeds.estimates("one")] == [2]
    pair.post()
    assert [row["overlap"] for row in feeds.estimates("two")] == [18]
    assert Snapshot.open(pair.globe.project).profile_count == 30


def test_all_pairs_of_segments_are_compared_at_once() -> None:
    first = np.random.default_rng(3).random((40, 3_000)) < 0.5
    common = disclosure._in_both(first, first)
    assert common[3, 7] == (first[3] & first[7]).sum()
    assert np.array_equal(np.diag(common), first.sum(axis=1))
