"""Two nodes with segments that labels may reach."""

import governed
import pytest
from sides import Pair, Person


@pytest.fixture
def two(pair: Pair, person: type[Person]) -> Pair:
    """Acme with segments over lists and over fields of dataset "orders", and globe, who knows half of the people."""
    return governed.prepare(pair, person)
