"""Two nodes between which a feed runs, for tests that edit it."""

import pytest
from edited import prepare, sync
from sides import EMAIL, Pair, Person


@pytest.fixture
def shared(pair: Pair, person: type[Person]) -> Pair:
    """Two nodes between which version 1 of "summer", with vip and new by e-mail, runs."""
    prepare(pair, person)
    pair.share("summer", ["vip", "new"], [EMAIL])
    assert sync(pair) == ["done"]
    return pair
