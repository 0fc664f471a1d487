"""What the tests of the PSI part share: every backend in turn, people, and randomness that repeats."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
from fixtures import People, Random
from quick import QUICK

from psi import kernel
from psi.noise import Stream
from psi.values import Values

# `make quick` takes the one backend that this machine would choose.
BACKENDS = list(kernel.available())[: 1 if QUICK else None]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every test runs on every backend that this machine has, chosen as a user would choose it."""
    monkeypatch.setenv("VESICA_KERNEL", request.param)
    kernel.backend.cache_clear()
    yield request.param
    kernel.backend.cache_clear()


@pytest.fixture
def random() -> Random:
    return Stream(bytes(32))


@pytest.fixture(scope="session")
def people() -> People:
    """people(3, 7) is the values of the persons 3, 4, 5 and 6: hashes as of e-mail addresses."""

    def make(start: int, stop: int) -> Values:
        rows = b"".join(hashlib.sha256(b"person %d" % number).digest() for number in range(start, stop))
        return Values(np.frombuffer(rows, np.uint8).reshape(-1, 32))

    return make
