"""Merged terms: the stricter side wins in each of them, and no choice of one side weakens a limit of the other."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as some

from protocol.agreement import Agreement, Terms, strictest

WEAKER_IS_MORE = ("maximum_universe", "budget", "generations", "evaluations", "epoch_days")
WEAKER_IS_LESS = ("minimum_universe", "minimum_segment", "minimum_overlap", "window_days")

numbers = some.integers(0, 10**9)
fractions = some.fractions(Fraction(1, 1000), 1000, max_denominator=1000)


@some.composite
def terms(draw: some.DrawFn) -> Terms:
    epoch_days = draw(some.integers(1, 3650))
    return Terms(
        minimum_universe=draw(numbers),
        minimum_segment=draw(numbers),
        minimum_overlap=draw(numbers),
        maximum_universe=draw(numbers),
        epsilon=draw(some.none() | fractions),
        budget=draw(fractions),
        window_days=draw(some.integers(epoch_days, 3650)),
        generations=draw(some.integers(1, 1000)),
        evaluations=draw(fractions),
        epoch_days=epoch_days,
    )


@pytest.mark.feature("CN8")
@given(terms(), terms())
def test_no_term_of_the_other_side_weakens_ours(ours: Terms, theirs: Terms) -> None:
    agreed = strictest(ours, theirs)
    assert agreed == strictest(theirs, ours)
    assert set(WEAKER_IS_MORE) | set(WEAKER_IS_LESS) | {"epsilon"} == set(agreed.as_dict())  # none is forgotten
    for name in WEAKER_IS_MORE:
        assert getattr(agreed, name) <= getattr(ours, name), name
    for name in WEAKER_IS_LESS:
        assert getattr(agreed, name) >= getattr(ours, name), name
    if ours.epsilon is not None:
        assert agreed.epsilon is not None
        assert agreed.epsilon <= ours.epsilon
    agreed.check()  # what two sides can ask for can be agreed on
    # No epoch refills what a window allows.
    assert agreed.window_days >= max(ours.epoch_days, theirs.epoch_days)


def test_an_agreement_of_64_namespaces_is_read() -> None:
    """As many as agreements had before offers were limited to fewer."""
    names = tuple(f"n{number:02}/opaque-v1" for number in range(64))
    made = Agreement(
        connection=bytes(16), requester=bytes(32), accepter=bytes(32), terms=Terms(), namespaces=names, made=1
    )
    assert Agreement.decode(made.encode()) == made
