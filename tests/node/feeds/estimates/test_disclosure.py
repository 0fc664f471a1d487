"""What a partner may learn of a count, and what that costs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clock import Clock
from estimating import NOISY, ask, kept, members, people, spent
from sides import EMAIL, SMALL_TERMS, Pair, Person

from cli.main import main
from node.access.audit import Result
from node.errors import RefusedByPartner
from node.feeds.estimates import disclosure
from node.imports.identity_columns import IdentityColumn
from node.storage.tables import answers
from protocol.agreement import Terms
from psi import count, noise


@pytest.mark.feature("ES4")
def test_below_the_minimum_there_is_no_number_anywhere(
    pair: Pair, person: type[Person], capsys: pytest.CaptureFixture[str]
) -> None:
    globe = people(person, "g", range(10, 60))
    segments = {"few": members(*range(29)), "enough": members(*range(30, 50))}
    pair.prepare(people(person, "a", range(50)), globe, segments, minimum_overlap=20)
    rows = ask(pair, ["few", "enough"])
    few, enough = rows["few", EMAIL], rows["enough", EMAIL]
    assert (enough["status"], enough["overlap"]) == ("ok", 20)  # just enough
    assert few["status"] == "below_minimum"  # 19
    for name in ("overlap", "consented", "interval", "consented_interval"):
        assert few[name] is None
    home = ["--home", str(pair.acme.node.home.path)]
    assert main([*home, "feed", "show", "f"]) == 0
    out = capsys.readouterr().out
    assert "Ranges" not in out  # there is no noise
    (line,) = [line for line in out.splitlines() if "\tfew\t" in line]
    assert line.count("below minimum") == 2
    assert "19" not in line.partition("20")[0]  # before the date
    assert main([*home, "feed", "show", "f", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["estimates"]
    assert [row["overlap"] for row in shown if row["segment"] == "few"] == [None]


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


@pytest.mark.feature("ES7")
def test_the_question_beyond_the_budget_is_refused_and_logged(pair: Pair, person: type[Person], clock: Clock) -> None:
    """Three questions of 1/20 on a budget of 1/10: the third waits for the end of the window."""
    segments = {name: members(*range(start, start + 100)) for name, start in (("a", 0), ("b", 100), ("c", 200))}
    both = people(person, "a", range(300)), people(person, "g", range(300))
    pair.prepare(*both, segments, **NOISY, epoch_days=90, window_days=90)
    ask(pair, ["a"], feed="fa")
    clock.advance(days=1)
    ask(pair, ["b"], feed="fb")
    assert spent(pair) == 100
    with pytest.raises(RefusedByPartner, match=r"more than is left of the budget of 0\.1") as refused:
        ask(pair, ["c"], feed="fc")
    assert refused.value.code == "budget"
    assert spent(pair) == 100
    assert pair.acme.project.feeds.estimates("fc") == []
    for side, acts in ((pair.globe, ("estimate.answer", "exchange.count")), (pair.acme, ("exchange.count",))):
        for act in acts:
            assert [entry["detail"]["error"]["code"] for entry in side.acts(act, Result.DENY)] == ["budget"]
    clock.advance(days=89)  # the first question is 90 days old, the second is not
    assert ask(pair, ["c"], feed="fc")
    assert spent(pair) == 150


@pytest.mark.feature("ES7")
def test_a_project_is_not_told_what_another_one_of_its_organisation_spent(pair: Pair, person: type[Person]) -> None:
    """They share the budget, so that two projects get no more than one: a refusal says that too little is left, no number."""
    segments = {name: members(*range(start, start + 100)) for name, start in (("a", 0), ("b", 100), ("c", 200))}
    both = people(person, "a", range(300)), people(person, "g", range(300))
    pair.prepare(*both, segments, **NOISY, epoch_days=90, window_days=90)
    other = pair.acme.node.create_project("other")
    other.set_terms(**{**SMALL_TERMS, **NOISY}, epoch_days=90, window_days=90)
    other.consent.set_model("opt-out")
    columns = [IdentityColumn.parse("email=email_sha256:raw")]
    other.profiles.import_(pair.acme.folder / "acme-crm.csv", dataset="crm", id_column="id", identities=columns)
    for name in segments:
        other.segments.create(name, members_file=pair.acme.folder / f"acme-{name}.csv")
    theirs = pair.globe.project.partners
    theirs.request(theirs.look_up(other.partners.connect_id().encode()), alias="acme-other")
    other.partners.accept("globe")
    pair.post()
    for name in segments:
        other.feeds.create(f"f{name}", segments=[name], namespaces=[EMAIL], partners=["globe"])

    ask(pair, ["a"], feed="fa")
    (row,) = other.feeds.estimate("fb")
    assert (spent(pair), row["budget"]["left"]) == (100, 0.05)
    with pytest.raises(RefusedByPartner, match=r"is left of the budget of 0\.1 that all projects") as refused:
        other.feeds.estimate("fc")
    assert refused.value.code == "budget"
    assert other.feeds.estimates("fb")[0]["budget"]["left"] == 0.05


@pytest.mark.feature("ES7")
def test_what_is_refused_is_not_counted(
    pair: Pair, person: type[Person], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is looked at before anything costs time, then what was asked before; the same again counts nothing."""
    segments = {"a": members(*range(100)), "b": members(*range(100, 200)), "c": members(*range(99))}
    both = people(person, "a", range(300)), people(person, "g", range(300))
    pair.prepare(*both, segments, **NOISY, epoch_days=90, window_days=90)
    done: list[str] = []

    def noted(word: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*given: Any) -> Any:
            done.append(word)
            return act(*given)

        return noting

    monkeypatch.setattr(count, "count_hits", noted("counted", count.count_hits))
    monkeypatch.setattr(noise, "discrete_laplace", noted("noised", noise.discrete_laplace))
    monkeypatch.setattr(disclosure, "in_both", noted("compared", disclosure.in_both))
    ask(pair, ["a"], feed="fa")
    assert done == ["counted", "noised", "noised"]
    done.clear()
    ask(pair, ["a"], feed="fa")
    assert done == []
    with pytest.raises(RefusedByPartner, match="fewer than"):
        ask(pair, ["c"], feed="fc")
    assert done == ["compared"]
    ask(pair, ["b"], feed="fb")
    done.clear()
    with pytest.raises(RefusedByPartner, match=r"more than is left of the budget of 0\.1"):
        ask(pair, ["c"], feed="fc")
    assert done == []
    assert len(list((pair.globe.node.home.path / "cache").rglob("question *"))) == 2


@pytest.mark.feature("ES7")
def test_below_the_minimum_costs_the_same(pair: Pair, person: type[Person]) -> None:
    both = people(person, "a", range(100)), people(person, "g", range(100, 200))
    pair.prepare(*both, {"all": members(*range(100))}, **NOISY, minimum_overlap=1_000)
    assert ask(pair, ["all"])["all", EMAIL]["status"] == "below_minimum"
    assert spent(pair) == 50


@pytest.mark.feature("ES7")
def test_an_identical_question_is_free_also_after_a_restart(
    pair_type: type[Pair], tmp_path: Path, clock: Clock, person: type[Person]
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


def test_all_pairs_of_segments_are_compared_at_once() -> None:
    first = np.random.default_rng(3).random((40, 3_000)) < 0.5
    common = disclosure.in_both(first, first)
    assert common[3, 7] == (first[3] & first[7]).sum()
    assert np.array_equal(np.diag(common), first.sum(axis=1))
