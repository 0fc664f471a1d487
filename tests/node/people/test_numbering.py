"""Numbers of profiles: those that a dict gives, whatever is put in order at once."""

import tracemalloc

import numpy as np
import pytest

from node.people import numbering
from node.people.drafts import Draft
from node.people.numbering import GivenIds
from node.people.snapshots import Snapshot
from node.project import Project


def added(project: Project, ids: list[bytes]) -> list[int]:
    with project.scope.begin() as tx:
        draft = Draft(project.scope, tx)
        numbers = draft.add_profiles(GivenIds(np.array(ids)))
        draft.publish()
    return [int(each) for each in numbers]


@pytest.mark.parametrize("seed", range(4))
def test_they_are_those_of_a_dict_and_the_order_is_that_of_the_ids(
    project: Project, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random, known = np.random.default_rng(seed), dict[bytes, int]()
    monkeypatch.setattr(numbering, "SLICE", 16)
    for length in (2, 0, 5, 3):  # ids that are longer than all before, shorter, and longer again
        monkeypatch.setattr(numbering, "WORTH_IT", int(random.choice([0, 1 << 18])))
        monkeypatch.setattr(numbering, "SAMPLED", int(random.choice([1, 8, 1 << 12])))
        ids = [b"x" * int(random.integers(0, length + 1)) + b"%d" % random.integers(0, 200) for _ in range(90)]
        for each in ids:
            known.setdefault(each, len(known))
        assert added(project, ids) == [known[each] for each in ids]
        snapshot = Snapshot.open(project.scope)
        assert snapshot.profile_ids.tolist() == [*known]
        assert [snapshot.profile_ids[number] for number in snapshot.profile_order] == sorted(known)
        asked = [*known, b"nobody", b"x" * 40, max(known) + b"0"]
        assert snapshot.numbers(np.array(asked)).tolist() == [*known.values(), -1, -1, -1]


def test_an_id_that_is_longer_than_all_others_does_not_have_them_copied(project: Project) -> None:
    added(project, [b"%08d" % number for number in range(100_000)])
    snapshot = Snapshot.open(project.scope)
    assert len(snapshot.profile_order) == 100_000
    tracemalloc.start()
    try:
        assert snapshot.numbers(np.array([b"00000007", b"0" * 200])).tolist() == [7, -1]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
