"""What people said: the decision tables, and which word wins."""

import numpy as np
import pytest

from node.people.consent import CODES, UNDATED, Words, may_share, merge, opted_out, read_codes

LEGAL = ("LI", "CT", "CP", "VI", "PI")


def share(model: str, profile: str, identity: str = "") -> bool:
    return bool(may_share(model, read_codes([profile]), read_codes([identity]))[0])


@pytest.mark.feature("CO1")
def test_the_models() -> None:
    included = {model: {code for code in CODES if share(model, code)} for model in ("opt-in", "opt-out")}
    assert included["opt-in"] == {"y"}
    assert included["opt-out"] == {"", "y", "dy", "p", "u", *LEGAL}
    for model in ("opt-in", "opt-out"):
        assert not share(model, "n")
        assert not share(model, "dn")
        assert not share(model, "", "n")


@pytest.mark.feature("CO2")
def test_a_no_of_the_profile_beats_all_and_a_yes_leaves_it_to_the_identity() -> None:
    assert share("opt-out", "y", "n") is False
    assert share("opt-in", "", "y") is True
    assert share("opt-in", "y", "p") is False
    for model in ("opt-in", "opt-out"):
        assert share(model, "n", "y") is False


@pytest.mark.feature("CO3")
@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ("y@100? n@50", "n@50"),
        ("n@50 y@100?", "n@50"),
        ("dn@100? n@50 y@200?", "n@100"),
        ("n@100? dn@50 y@200?", "n@100"),
        ("n@50 dn@100? y@200?", "n@100"),
        ("y@100? y@50", "y@50"),
        ("y@100? y@50 n@75", "n@75"),
        ("n@100 n@200? y@150", "n@200"),
        ("n@100 n@200? y@250", "y@250"),
        ("n@200? y@150", "n@200?"),
        ("n@100? y@200?", "y@200?"),
        ("y@100 n@200? y@300?", "y@300?"),
        ("y@100? y@200? n@150", "n@150"),
    ],
)
def test_what_a_profiles_file_says_is_of_no_known_time(said: str, holds: str) -> None:
    """A word, @ when it came or was said, ? from a profile's file: no order of them lifts a no that a person said."""
    kept = Words.nothing(1)
    for word in said.split():
        merge(kept, np.array([0]), word_of(word))
    (code, at, basis), (expected,) = (kept.codes[0], kept.at[0], kept.bases[0]), [word_of(holds)]
    assert (code, at, basis) == (expected.codes[0], expected.at[0], expected.bases[0])


@pytest.mark.feature("CO3")
@pytest.mark.parametrize(
    ("before", "older", "newer"),
    [
        ("", "n@50 p@50 n@50? p@50?", "n@150 p@150 n@150? p@150?"),
        ("dn@100", "dn@100 dn@100 n@100 dn@100", "n@150 p@150 n@150 dn@100"),
        ("y@100", "y@100 y@100 n@100? y@100", "n@150 p@150 n@150? p@150?"),
        ("dn@100?", "n@100 dn@100? dn@100? dn@100?", "n@150 p@150 n@150? p@150?"),
        ("y@100?", "n@50 y@100? y@100? y@100?", "n@150 p@150 n@150? p@150?"),
    ],
)
def test_a_new_word_meets_the_kept_one_as_the_table_says(before: str, older: str, newer: str) -> None:
    for at, expected in ((50, older), (150, newer)):
        for said, holds in zip((f"n@{at}", f"p@{at}", f"n@{at}?", f"p@{at}?"), expected.split(), strict=True):
            kept = word_of(before) if before else Words.nothing(1)
            noted = merge(kept, np.array([0]), word_of(said))
            after = word_of(holds)
            assert (kept.codes[0], kept.at[0], kept.bases[0]) == (after.codes[0], after.at[0], after.bases[0])
            assert noted.withdrawals_kept == (before == "dn@100" and said.startswith("p") and said.endswith("?"))


def word_of(text: str) -> Words:
    code, _, when = text.rstrip("?").partition("@")
    words = Words.of(read_codes([code]), int(when))
    words.bases[:] = UNDATED if text.endswith("?") else 0
    return words


@pytest.mark.feature("CO5")
def test_a_receiver_drops_its_own_no_whatever_the_model() -> None:
    for code in CODES:
        assert bool(opted_out(read_codes([code]), read_codes([""]))[0]) is (code in ("n", "dn"))
        assert bool(opted_out(read_codes(["y"]), read_codes([code]))[0]) is (code in ("n", "dn"))


def test_the_newest_word_wins_and_at_the_same_time_the_stricter() -> None:
    kept, words = Words.nothing(2), Words.of(read_codes(["n", "y", "p", "y"]), 0)
    words.at[:] = [5, 7, 7, 1]
    assert merge(kept, np.array([0, 0, 0, 1]), words).changed == 2
    assert [CODES[code] for code in kept.codes] == ["p", "y"]
    assert kept.at.tolist() == [7, 1]
