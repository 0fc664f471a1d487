"""What the tests of the PSI part share: people, and randomness that repeats."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from psi.noise import Stream
from psi.values import Values


@pytest.fixture
def random() -> Callable[[int], bytes]:
    return Stream(bytes(32))


@pytest.fixture(scope="session")
def people() -> Callable[..., Values]:
    """people(3, 7) is the values of the persons 3, 4, 5 and 6: hashes as of e-mail addresses."""

    def make(start: int, stop: int) -> Values:
        rows = b"".join(hashlib.sha256(b"person %d" % number).digest() for number in range(start, stop))
        return Values(np.frombuffer(rows, np.uint8).reshape(-1, 32))

    return make
