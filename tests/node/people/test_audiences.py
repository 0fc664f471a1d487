"""Who enters a match, and who may be released."""

import numpy as np
import pytest
from loading import Load
from pyroaring import BitMap

from node.people import audiences
from node.people.audiences import Audience, audience, consented, holders, universe
from node.people.snapshots import Snapshot
from node.project import Project
from psi.values import Values

LOYALTY = "loyalty/opaque-v1"


@pytest.fixture
def household(project: Project, load: Load) -> Snapshot:
    """Two profiles with the number "a", one of which said no; "b" said yes, "c" nothing."""
    load(project, "id,l,s\n1,a,y\n2,a,n\n3,b,y\n4,c,\n", "l=loyalty", consent_column="s")
    return Snapshot.open(project.scope)


def named(found: Values) -> list[bytes]:
    return [found[row] for row in range(len(found))]


def test_an_identity_is_consented_if_every_profile_that_has_it_may_be_shared(household: Snapshot) -> None:
    assert consented(household, LOYALTY, "opt-in").tolist() == [False, True, False]
    assert consented(household, LOYALTY, "opt-out").tolist() == [False, True, True]
    assert consented(household, "nothing/opaque-v1", "opt-in").tolist() == []


def test_who_opted_out_is_in_no_universe(household: Snapshot) -> None:
    values, kept = universe(household, LOYALTY)
    assert (named(values), kept.tolist()) == ([b"b", b"c"], [False, True, True])
    assert holders(household, LOYALTY, kept) == BitMap([2, 3])
    assert holders(household, LOYALTY, np.array([0, 2])) == BitMap([0, 1, 3])


def test_an_audience_has_each_identity_once_and_its_segments(household: Snapshot) -> None:
    found = audience(household, LOYALTY, [BitMap([0, 2]), BitMap([1])], model="opt-out")
    assert named(found.values) == [b"a", b"b"]
    assert found.segments.tolist() == [[True, True], [True, False]]
    assert found.consented.tolist() == [False, True]
    assert named(found.shareable().values) == [b"b"]
    assert found.bitmaps(1).tolist() == [[0b11000000], [0b10000000]]


@pytest.mark.parametrize(("size", "searched"), [(1, 100), (2, 100), (100, 100), (100, 0)])
def test_somebody_has_an_identity_or_nobody_has(
    household: Snapshot, monkeypatch: pytest.MonkeyPatch, size: int, searched: int
) -> None:
    monkeypatch.setattr(audiences, "SLICE", size)
    monkeypatch.setattr(audiences, "SEARCHED", searched)
    asked = Values.of([b"0", b"a", b"aa", b"b", b"c", b"d"])
    assert audiences.known(household, LOYALTY, asked).tolist() == [False, True, False, True, True, False]
    assert audiences.known(household, "nothing/opaque-v1", asked).tolist() == [False] * 6


def test_a_consent_policy_takes_people_out_of_its_segment_alone(household: Snapshot) -> None:
    members = [BitMap([2, 3]), BitMap([2, 3])]
    found = audience(household, LOYALTY, members, model="opt-out", qualified=[BitMap([3]), None])
    assert found.shareable().segments.tolist() == [[False, True], [True, True]]
    assert found.as_one().consented.tolist() == [False, True]
    assert isinstance(found.as_one(), Audience)
    assert found.as_one().qualified is None
