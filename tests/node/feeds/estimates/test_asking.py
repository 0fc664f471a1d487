"""What an estimate says, how old it may get, and what its intervals cover."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from clock import Clock
from estimating import NOISY, ask, kept, members, people
from sides import EMAIL, PHONE, Pair, Person

from cli.main import main
from node.access.scope import Scope
from node.errors import PeerUnreachable
from node.exchanges import handlers
from node.feeds.estimates import asking, disclosure, numbers, records
from node.operations import jobs
from node.partners.connections import Connection
from node.people.consent import LeftOut
from node.people.snapshots import Snapshot
from node.storage.tables import DAY, answers, universes
from protocol.agreement import Terms
from protocol.estimate import MAX_ASKED, CountAsker
from protocol.exchange import Opening
from protocol.messages import Answer
from protocol.states import Kind, Part
from psi import noise
from psi.values import Values


@pytest.mark.feature("ES1")
def test_what_is_not_answered_costs_no_other_answer(
    pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"vip": members(*range(5, 25))})
    run, broken = jobs.HANDLERS[asking.JOB], {PHONE}

    def failing(scope: Scope, parameters: dict[str, Any], progress: Any) -> Any:
        if parameters["namespace"] in broken:
            raise PeerUnreachable("cannot reach globe", hint="try again")
        return run(scope, parameters, progress)

    monkeypatch.setitem(jobs.HANDLERS, asking.JOB, failing)
    rows = ask(pair, ["vip"], [EMAIL, PHONE])
    assert (rows["vip", EMAIL]["status"], rows["vip", EMAIL]["overlap"]) == ("ok", 15)
    assert (rows["vip", PHONE]["status"], rows["vip", PHONE]["overlap"]) == ("failed", None)
    assert rows["vip", PHONE]["error"]["code"] == PeerUnreachable.code
    broken.add(EMAIL)
    with pytest.raises(PeerUnreachable):
        ask(pair, ["vip"], [EMAIL, PHONE])


@pytest.mark.feature("ES1")
def test_estimates_equal_the_hand_count_per_segment_and_namespace(pair: Pair, person: type[Person]) -> None:
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
def test_opted_out_at_the_sender_is_in_the_overlap_only_and_at_the_receiver_in_neither(
    pair: Pair, person: type[Person]
) -> None:
    acme = people(person, "a", range(20), out=(10, 11, 12))
    globe = people(person, "g", range(8, 30), out=(8, 9))  # 8..19 are known to both
    pair.prepare(acme, globe, {"all": members(*range(20))})
    row = ask(pair, ["all"])["all", EMAIL]
    assert (row["overlap"], row["consented"]) == (10, 7)


@pytest.mark.feature("ES2")
def test_a_project_can_keep_people_without_consent_out_of_estimates(pair: Pair, person: type[Person]) -> None:
    pair.prepare(
        people(person, "a", range(20), out=range(10)), people(person, "g", range(20)), {"all": members(*range(20))}
    )
    pair.acme.project.leave_out("unconsented")
    row = ask(pair, ["all"])["all", EMAIL]
    assert (row["overlap"], row["consented"], row["size"]) == (10, 10, 10)


@pytest.mark.feature("ES4")
def test_a_segment_below_the_minimum_is_not_asked_about(pair: Pair, person: type[Person]) -> None:
    both = people(person, "a", range(30)), people(person, "g", range(30))
    pair.prepare(*both, {"small": members(*range(9))}, minimum_segment=10)
    assert ask(pair, ["small"])["small", EMAIL]["status"] == "below_minimum"
    assert kept(pair, answers) == []
    assert kept(pair, universes) == []


@pytest.mark.feature("ES5")
def test_an_estimate_has_an_age_and_expires_after_seven_days(pair: Pair, person: type[Person], clock: Clock) -> None:
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
    pair: Pair, person: type[Person], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), {"all": members(*range(30))})
    result = vars(CountAsker)["result"].fget

    def younger(self: CountAsker) -> Any:
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
        shown = numbers.scaled(told, size, sampled, terms.epsilon)
        assert shown.overlap is not None
        assert shown.consented is not None
        assert shown.half_width is not None
        assert shown.consented_half_width is not None
        held["overlap"] += abs(shown.overlap - overlap) <= shown.half_width
        held["consented"] += abs(shown.consented - consented) <= shown.consented_half_width
        assert 0 <= shown.consented <= shown.overlap <= size
    assert min(held.values()) >= 180, held
    assert terms.epsilon is not None
    assert shown.half_width is not None
    narrowest = noise.quantile(terms.epsilon, 2)
    assert narrowest <= shown.half_width < max(2 * narrowest, size // 50)  # wide enough, and still of use


@pytest.mark.feature("ES6")
def test_the_sample_is_fair_and_the_same_throughout_a_window() -> None:
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
def test_a_noised_estimate_shows_its_range(pair: Pair, person: type[Person]) -> None:
    both = people(person, "a", range(100)), people(person, "g", range(100))
    pair.prepare(*both, {"all": members(*range(100))}, **NOISY)
    row = ask(pair, ["all"])["all", EMAIL]
    width = noise.quantile(Fraction(1, 20), 2) + 5
    if row["status"] == "ok":  # with so few people the noise may say fewer than one
        assert row["interval"] == [max(0, row["overlap"] - width), min(100, row["overlap"] + width)]


@pytest.mark.feature("ES7")
def test_the_asker_sees_what_is_left_of_its_budget(
    pair: Pair, person: type[Person], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two questions of 1/20 on a budget of 1/10; the first once more is free, and all of it comes back with the window."""
    both = people(person, "a", range(600)), people(person, "g", range(600))
    segments = {"a": members(*range(300)), "b": members(*range(300, 600))}
    pair.prepare(*both, segments, **NOISY, epoch_days=90, window_days=90)
    acme = pair.acme.project
    known = {"left": None, "of": 0.1, "window_days": 90, "at": None}
    assert acme.reports.partner("globe")["our_budget"] == known
    for feed, left in (("fa", 0.05), ("fa", 0.05), ("fb", 0)):
        clock.advance(seconds=60)
        known.update(left=left, at=clock.now)
        assert ask(pair, [feed[1]], feed=feed)[feed[1], EMAIL]["budget"] == known
    shown = acme.feeds.show("fa")
    assert [row["budget"] for row in (*shown["estimates"], *shown["partners"])] == [known, known]
    assert acme.reports.partner("globe")["our_budget"] == known
    home = ["--home", str(pair.acme.node.home.path)]
    assert main([*home, "feed", "show", "fa"]) == 0
    out = capsys.readouterr().out
    assert "budget left  0 of 0.1" in out.splitlines()
    assert "The true number is in its range" in out
    assert main([*home, "partner", "show", "globe"]) == 0
    assert "our budget left   0 of 0.1" in capsys.readouterr().out
    clock.advance(days=90)
    assert acme.feeds.estimates("fa")[0]["budget"] == {**known, "left": 0.1}


@pytest.mark.feature("ES4")
@pytest.mark.parametrize("terms", [{}, NOISY])
def test_both_sides_show_the_same_range(pair: Pair, person: type[Person], terms: dict[str, Any]) -> None:
    """Where nobody was left out of the sample the answerer, too, knows how far the numbers may be off."""
    both = people(person, "a", range(200)), people(person, "g", range(100), out=range(10))
    pair.prepare(*both, {"all": members(*range(200))}, **terms)
    row = ask(pair, ["all"])["all", EMAIL]
    scope, connection = pair.globe.project.scope, pair.globe.project.partners.get("acme")
    with scope.read() as tx:
        (answered,) = records.answered(scope, tx, connection, EMAIL)["segments"]
    assert answered.pop("asked") == 200
    assert answered == {name: row[name] for name in answered}
    assert (row["interval"][0] < row["overlap"] < row["interval"][1]) == bool(terms)
    with scope.begin() as tx:  # answered before the sizes were kept
        tx.execute(answers.update().values(sizes=[]))
    with scope.read() as tx:
        (answered,) = records.answered(scope, tx, connection, EMAIL)["segments"]
    assert (answered["asked"], answered["overlap"]) == (MAX_ASKED, row["overlap"])


@pytest.mark.feature("ES7")
def test_a_budget_that_a_partner_makes_up_is_no_number(
    pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = people(person, "a", range(100)), people(person, "g", range(100))
    pair.prepare(*both, {"all": members(*range(100))}, **NOISY)
    result = vars(CountAsker)["result"].fget
    for spent, left in ((None, None), (2**63 - 1, 0), (0, 0.1)):

        def made_up(role: CountAsker, spent: int | None = spent) -> Answer:
            answer: Answer = replace(result(role), budget_spent=spent)
            return answer

        monkeypatch.setattr(CountAsker, "result", property(made_up))
        row = ask(pair, ["all"])["all", EMAIL]
        assert row["budget"]["left"] == left


def test_what_a_caller_is_asked_is_fixed_when_it_opens(quiet_receiver: Pair, person: type[Person]) -> None:
    """A partner without an address calls to be asked; a newer question meanwhile does not mix up the answer."""
    pair = quiet_receiver
    segments = {"one": members(*range(12)), "two": members(*range(12, 30))}
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(10, 40)), segments)
    feeds = pair.acme.project.feeds
    for name in ("one", "two"):
        feeds.create(name, segments=[name], namespaces=[EMAIL], partners=["globe"])
    feeds.estimate("one")
    handler, late = handlers.handler(Kind.COUNT, Part.ASKER), list[object]()

    def newer(scope: Scope, connection: Connection, opening: Opening, inputs: bytes | None) -> handlers.PreparedRole:
        answer = handler.answer(scope, connection, opening, inputs)
        if not late:
            late.append(feeds.estimate("two"))
        return answer

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(handlers.KINDS, (Kind.COUNT, Part.ASKER), lambda: replace(handler, answer=newer))
        pair.post()
    assert [row["overlap"] for row in feeds.estimates("one")] == [2]
    pair.post()
    assert [row["overlap"] for row in feeds.estimates("two")] == [18]
    assert Snapshot.open(pair.globe.project.scope).profile_count == 30


def test_who_opts_out_before_a_caller_has_shown_its_universe_is_not_asked_about(
    quiet_receiver: Pair, person: type[Person]
) -> None:
    """It opens a count as the answerer and waits; once it goes on that one is over, and the next asks about who is left."""
    pair = quiet_receiver
    pair.prepare(people(person, "a", range(30)), people(person, "g", range(40)), {"all": members(*range(30))})
    pair.acme.project.leave_out(LeftOut.OPTED_OUT.value)
    feeds = pair.acme.project.feeds
    feeds.create("f", segments=["all"], namespaces=[EMAIL], partners=["globe"])
    feeds.estimate("f")
    handler, late = handlers.handler(Kind.COUNT, Part.ASKER), list[int]()

    def slow(scope: Scope, connection: Connection, opening: Opening, inputs: bytes | None) -> handlers.PreparedRole:
        answer = handler.answer(scope, connection, opening, inputs)
        if not late:
            late.append(1)
            pair.clock.advance(seconds=7_200)
            pair.acme.people(people(person, "a", range(20), out=range(20)), "optouts")
        return answer

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(handlers.KINDS, (Kind.COUNT, Part.ASKER), lambda: replace(handler, answer=slow))
        pair.post()
    assert feeds.estimates("f") == []
    feeds.estimate("f")
    pair.post()
    assert [(row["sampled"], row["overlap"]) for row in feeds.estimates("f")] == [(10, 10)]
