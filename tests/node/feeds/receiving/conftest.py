"""The feed that most tests of received feeds begin with."""

import pytest
import sharing
from sides import Pair


@pytest.fixture
def shared(pair: Pair) -> Pair:
    """Two connected nodes; acme has published a feed "summer" of a2-a5 and globe, with g3-g8, has not answered."""
    sharing.offer_summer(pair)
    return pair
