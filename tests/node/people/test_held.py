"""Looked up for a few people, identities and their holders are those that a look at everybody finds."""

import random
from pathlib import Path

import numpy as np
import pytest
from loading import Load
from pyroaring import BitMap

from node.people import audiences, held
from node.people.snapshots import Snapshot
from node.project import Project
from psi.values import Values

LOYALTY, EMAIL = "loyalty/opaque-v1", "email_sha256/lc-v1"
NUMBERS = ["a", "b", "bb", "b0", "ccc", "c", "cc", "dddddddd"]


@pytest.fixture
def crowd(project: Project, load: Load, tmp_path: Path) -> Snapshot:
    """Thirty people in two datasets; most numbers and addresses have several holders, a third of the people said no to
    something."""
    chance = random.Random(3)
    for dataset in ("crm", "shop"):
        lines = "".join(
            f"p{n},{chance.choice(NUMBERS)},u{chance.randrange(9)}@x.com,{chance.choice(['y', 'n', '', ''])}\n"
            for n in range(30)
        )
        load(
            project,
            f"id,l,e,s\n{lines}",
            "l=loyalty",
            "e=email_sha256",
            dataset=dataset,
            consent_column="s",
        )
    for n in (3, 4, 5):
        project.consent.set(f"p{n}", "y")
        project.consent.set(f"p{n}", "n", "email_sha256")
    return Snapshot.open(project.scope)


def listed(values: Values) -> list[bytes]:
    return [values[row] for row in range(len(values))]


@pytest.mark.parametrize("namespace", [LOYALTY, EMAIL, "ecid/dec38-v1"])
@pytest.mark.parametrize("profiles", [[], [0], [3, 4], list(range(0, 30, 4)), list(range(40))])
def test_what_some_profiles_have_and_who_has_it_too(crowd: Snapshot, namespace: str, profiles: list[int]) -> None:
    given = crowd.identities(namespace)
    expected = {given.values[row] for row in range(len(given)) if given.profiles[row] in profiles}
    values = held.held_by(crowd, namespace, BitMap(profiles))
    assert listed(values) == sorted(expected)
    found = held.holders_of(crowd, namespace, values)
    assert listed(found.values) == listed(values)
    rows = [row for row in range(len(given)) if given.values[row] in expected]
    assert found.holders() == BitMap(given.profiles[rows])
    distinct, _ = crowd.distinct(namespace)
    out = set(listed(distinct.take(audiences.opted_out(crowd, namespace))))
    assert set(listed(found.values.take(held.opted_out(crowd, namespace, found)))) == out & expected
    for which in (np.arange(len(values)) % 2 == 0, np.zeros(len(values), bool)):
        some = found.take(which)
        pairs = {(some.values[one], int(who)) for one, who in zip(some.each(), some.profiles, strict=True)}
        kept = set(listed(values.take(which)))
        assert pairs == {(given.values[row], int(given.profiles[row])) for row in rows if given.values[row] in kept}


def test_identities_that_nobody_has_have_no_holders(crowd: Snapshot) -> None:
    asked = Values.of(sorted([b"", b"a", b"a\0", b"bbb", b"c", b"dddddddddddd", b"zz"]))
    found = held.holders_of(crowd, LOYALTY, asked)
    assert listed(found.values) == [b"a", b"c"]
    assert held.opted_out(crowd, "nothing/opaque-v1", held.holders_of(crowd, "nothing/opaque-v1", asked)).tolist() == []


def test_rows_are_found_by_all_of_their_bytes() -> None:
    rows = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 9], [7, 7, 7]], np.uint8)
    wanted = np.array([[1, 0, 0], [1, 0, 9], [1, 0, 8], [7, 7, 7]], np.uint8)
    first, last = held.spans(rows, wanted)
    assert (first.tolist(), last.tolist()) == ([0, 2, 2, 3], [2, 3, 2, 4])
    first, last = held.spans(rows, wanted[:, :2])
    assert (last - first).tolist() == [2, 2, 2, 0]
