"""F of the sender's own identities: the same whether it is computed, kept, added to, or cannot be read any more."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from evaluating import shared
from sides import EMAIL, Pair, Person

from node.exchanges.channels import BLOCK_ROWS, cache_of, running_epoch
from node.feeds.sending import evaluations
from psi import oprf
from psi.join import union
from psi.values import U8, Values


def people(numbers: Iterable[int]) -> Values:
    return union([Values.of([hashlib.sha256(b"person %d" % number).digest() for number in numbers])])


@pytest.fixture(params=[BLOCK_ROWS, 0], ids=["at once", "where it is asked for"])
def pair(pair: Pair, person: type[Person], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(evaluations, "BLOCK_ROWS", request.param)
    shared(pair, person)
    return pair


def test_it_is_the_same_however_it_comes(pair: Pair) -> None:
    scope, connection = pair.acme.project.scope, pair.acme.project.partners.get("globe")
    epoch = running_epoch(scope, connection)
    kept = pair.acme.node.home.path / "cache"

    def check(values: Values) -> None:
        expected = evaluations.prf_alone(scope, connection, EMAIL, epoch, values)
        with evaluations.prf_of(scope, connection, EMAIL, epoch, values) as prf:
            found: U8 = prf[:]
            part = prf[3:9]
        assert (found == expected).all()
        assert (part == expected[3:9]).all()

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in kept.glob("*/*/own *")}

    check(people(range(40)))
    first = files()
    check(people(range(40)))
    check(people(range(10, 20)))
    assert files() == first  # nothing was computed or written again
    check(people(range(20, 60)))  # some are new
    check(people(range(60)))
    assert files() != first
    for place in (-20, 200):  # what says what there is, or F and the identities beside it
        for path, content in files().items():
            damaged = bytearray(content)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            check(people(range(30, 70)))
            check(people(range(70)))
    for path in files():
        path.unlink()
    check(people(range(5, 50)))


def test_what_a_version_before_kept_is_not_computed_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    scope, connection = pair.acme.project.scope, pair.acme.project.partners.get("globe")
    epoch, values = running_epoch(scope, connection), people(range(30))
    expected = evaluations.prf_alone(scope, connection, EMAIL, epoch, values)
    cache_of(scope, connection, epoch).save(f"own {EMAIL}", **values.arrays(), prf=expected)
    monkeypatch.setattr(oprf, "prf", None)
    with evaluations.prf_of(scope, connection, EMAIL, epoch, people(range(5, 25))) as prf:
        assert {bytes(each) for each in prf[:]} <= {bytes(each) for each in expected}
    with evaluations.prf_of(scope, connection, EMAIL, epoch, values) as prf:
        assert np.array_equal(prf[:], expected)


def test_what_goes_away_while_it_is_read_is_still_right(pair: Pair) -> None:
    scope, connection = pair.acme.project.scope, pair.acme.project.partners.get("globe")
    epoch, values = running_epoch(scope, connection), people(range(30))
    expected = evaluations.prf_alone(scope, connection, EMAIL, epoch, values)
    with evaluations.prf_of(scope, connection, EMAIL, epoch, values) as prf:
        with evaluations.prf_of(scope, connection, EMAIL, epoch, people(range(10, 90))):
            pass  # another run adds people meanwhile
        for path in pair.acme.node.home.path.glob("cache/*/*/own *"):
            path.unlink()
        assert np.array_equal(prf[:], expected)
