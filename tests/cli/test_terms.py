"""Terms in plain words: what weakens them is asked about, and what is agreed is explained."""

import json
from typing import Any

import pytest

from cli import terms as in_words
from cli.main import main
from node.node import Node
from protocol.agreement import Terms, strictest

DEFAULTS = Terms().as_dict()
WEAKER: dict[str, str] = {
    "minimum_universe": "0",
    "minimum_segment": "10",
    "minimum_overlap": "0",
    "maximum_universe": "20000000",
    "epsilon": "none",
    "budget": "3",
    "window_days": "30",
    "generations": "9",
    "evaluations": "2",
    "epoch_days": "31",
}


@pytest.fixture(autouse=True)
def _home(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESICA_HOME", str(node.home.path))


@pytest.mark.parametrize("name", WEAKER)
def test_each_weaker_term_is_asked_about_in_one_sentence(
    name: str, node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith("_days"):
        node.project().set_terms(window_days=60)
    option = f"--{name.replace('_', '-')}"
    before = node.project().terms
    for more in ([], ["--json"]):  # without a terminal nobody can be asked
        assert main(["project", "terms", option, WEAKER[name], *more]) == 2
        assert node.project().terms == before
        assert "Say --yes if so: " in "".join(capsys.readouterr())
        assert len(in_words.weakened(before.as_dict(), {**before.as_dict(), name: _read(name)})) == 1
    assert main(["project", "terms", option, WEAKER[name], "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[name] == _read(name)


def _read(name: str) -> Any:
    given = WEAKER[name]
    return None if given == "none" else int(given) if isinstance(DEFAULTS[name], int) else given


def test_stricter_terms_ask_nothing(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    stricter = ["--minimum-overlap", "2000", "--epsilon", "1/50", "--budget", "1", "--generations", "4"]
    assert main(["project", "terms", *stricter]) == 0
    assert node.project().terms.generations == 4
    merged = strictest(Terms(), node.project().terms).as_dict()
    assert in_words.weakened(DEFAULTS, merged) == []


def test_to_stop_the_policy_on_sharing_is_asked_about(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    status = {policy.name: policy.status for policy in node.project().policies.all()}
    assert main(["policy", "disable", "restrict-data-sharing"]) == 2
    said = capsys.readouterr().err
    assert "C11 OR C12 OR C2 can be shared with partners" in said
    assert {policy.name: policy.status for policy in node.project().policies.all()} == status
    assert main(["policy", "disable", "restrict-data-sharing", "--yes"]) == 0
    assert main(["policy", "disable", "restrict-analytics"]) == 0


def test_terms_in_plain_words() -> None:
    said = " ".join(in_words.sentences(DEFAULTS))
    assert "needs 1,000 people in the segment" in said
    assert "up to 82 more or less in 95 of 100 cases" in said
    assert "gets about 40 of them in 30 days" in said
    assert "1.2 times as many people" in said
    assert "feeds will wait" not in said
    exact = {**DEFAULTS, "epsilon": None, "epoch_days": 1, "minimum_overlap": 1}
    assert "Numbers are exact" in " ".join(in_words.sentences(exact))
    assert "Keys change 30 times in 30 days" in " ".join(in_words.sentences(exact))
    assert "if 1 person or more" in " ".join(in_words.sentences(exact))


def test_a_change_in_plain_words() -> None:
    after = {**DEFAULTS, "minimum_universe": 500, "epsilon": None, "window_days": 60}
    said = in_words.changes(DEFAULTS, after, new=["idfa/uuid-v1"], gone=["phone_sha256/e164-v1"])
    assert said[0] == "It adds idfa/uuid-v1."
    assert said[1].startswith("It takes out phone_sha256/e164-v1")
    assert "500 people at the side that answers, instead of 1,000" in said[2]
    assert "epsilon none, instead of 1/20" in said[3]
    assert said[4] == "What is used up counts for 60 days, instead of 30 days."


def change(step: str, *, ours: dict[str, Any] = DEFAULTS, proposed: dict[str, Any] = DEFAULTS) -> dict[str, Any]:
    return {
        "step": step,
        "terms_before": DEFAULTS,
        "terms": DEFAULTS,
        "our_terms": ours,
        "proposed_terms": proposed,
        "namespaces_before": ["email_sha256/lc-v1"],
        "namespaces": ["email_sha256/lc-v1"],
        "only_ours": [],
        "only_proposed": ["idfa/uuid-v1"] if step == "accept" else [],
    }


def test_what_our_own_terms_override_is_shown_of_a_proposal(capsys: pytest.CaptureFixture[str]) -> None:
    in_words.show_change(change("accept", proposed={**DEFAULTS, "minimum_overlap": 500, "minimum_universe": 500}))
    assert capsys.readouterr().out.splitlines() == [
        "It changes nothing here.",
        "What else the partner proposes stays as it is, because you ask for more: minimum universe 500 (you: 1,000); "
        "minimum overlap 500 (you: 1,000).",
        "The partner offers idfa/uuid-v1 too, which this project does not have.",
    ]


def test_a_proposal_of_ours_that_the_partner_overrides_says_when_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    in_words.show_change(change("propose", ours={**DEFAULTS, "minimum_overlap": 500}))
    first, second = capsys.readouterr().out.splitlines()
    assert "the partner asks for more than you" in first
    assert second == "An estimate gives a number from 500 common people on, instead of 1,000."
