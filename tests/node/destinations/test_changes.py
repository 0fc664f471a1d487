"""Who should be at a target minus who is there, against dictionaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.destinations import changes
from node.destinations.changes import NOBODY, Act, Listed, State
from psi.values import Values

IDENTITIES = st.binary(min_size=1, max_size=3) | st.sampled_from([b"\0", b"a", b"a\0", b"a\0\0", b"\xff" * 3])
AT_TARGET = st.sampled_from([State.PRESENT, State.UNKNOWN, State.UNADDED, State.UNREMOVED, State.CONSENT, State.LABEL])
WANTED = st.sampled_from([State.PRESENT, State.CONSENT, State.POLICY_CONSENT, State.RESTRICTED_USE])
Sets = dict[bytes, State]


def entries(states: Sets) -> Listed:
    """Return a dictionary as sorted entries, as files and snapshots have them."""
    width = max(map(len, states), default=0)
    order = sorted(states, key=lambda value: (value.ljust(width, b"\0"), len(value)))
    return Listed(Values.of(order), np.array([states[each] for each in order], np.uint8))


def all_of(wanted: Sets, known: Sets, *, replay: bool = False, size: int = 3) -> dict[bytes, tuple[int, int, int, int]]:
    """Return of each identity the state before, the one wanted, the act and the state after it."""
    found = {}
    for each in changes.difference(entries(wanted), entries(known), size=size):
        acts = each.acts(replay=replay)
        rows = zip(each.before.tolist(), each.wanted.tolist(), acts.tolist(), each.said(acts).tolist(), strict=True)
        for place, row in enumerate(rows):
            assert each.values[place] not in found
            found[each.values[place]] = row
    return found


class Receiver:
    """A target that does what it is told: a set, and how often it was told so."""

    def __init__(self, members: set[bytes]) -> None:
        self.members, self.told = set(members), 0

    def take(self, acts: dict[bytes, int]) -> None:
        for value, act in acts.items():
            self.told += act != Act.NOTHING
            if act == Act.ADD:
                self.members.add(value)
            elif act == Act.REMOVE:
                self.members.discard(value)


@given(st.dictionaries(IDENTITIES, WANTED), st.dictionaries(IDENTITIES, AT_TARGET), st.integers(1, 5))
def test_every_identity_of_both_sides_comes_once_with_its_states(wanted: Sets, known: Sets, size: int) -> None:
    found = all_of(wanted, known, size=size)
    assert {value: row[:2] for value, row in found.items()} == {
        value: (known.get(value, State.ABSENT), wanted.get(value, State.ABSENT))
        for value in wanted.keys() | known.keys()
    }


@given(st.dictionaries(IDENTITIES, WANTED), st.sets(IDENTITIES), st.sets(IDENTITIES))
def test_a_target_has_afterwards_who_is_wanted_whatever_was_unknown(
    wanted: Sets, there: set[bytes], doubtful: set[bytes]
) -> None:
    known = dict.fromkeys(there, State.PRESENT) | dict.fromkeys(doubtful, State.UNKNOWN)
    receiver = Receiver({value for value in there | doubtful if value in there or len(value) % 2})
    found = all_of(wanted, known)
    receiver.take({value: row[2] for value, row in found.items()})
    members = {value for value, state in wanted.items() if state == State.PRESENT}
    assert receiver.members == members
    after = {value: State(row[3]) for value, row in found.items() if row[3] != State.ABSENT}
    assert after == wanted
    again = all_of(wanted, after)
    assert {row[2] for row in again.values()} <= {Act.NOTHING}  # nothing is said twice
    assert receiver.told == len(members - (there - doubtful)) + len((there | doubtful) - members)


@given(st.dictionaries(IDENTITIES, WANTED), st.dictionaries(IDENTITIES, WANTED))
def test_what_failed_is_left_alone_until_a_replay_says_what_holds_then(first: Sets, later: Sets) -> None:
    tried = all_of(first, {})
    known = {value: State.UNADDED for value, row in tried.items() if row[2] == Act.ADD}
    assert all(row[2] == Act.NOTHING for row in all_of(first, known).values())
    now = all_of(later, known)
    assert {value for value, row in now.items() if row[2] == Act.REMOVE} == {
        value for value in known if later.get(value) != State.PRESENT
    }  # it may have come all the same
    assert all(row[3] == State.UNADDED for value, row in now.items() if value in known and row[2] == Act.NOTHING)
    replayed = all_of(later, known, replay=True)
    receiver = Receiver({value for value in known if len(value) % 2})
    receiver.take({value: row[2] for value, row in replayed.items()})
    assert receiver.members == {value for value, state in later.items() if state == State.PRESENT}


@given(st.dictionaries(IDENTITIES, WANTED))
def test_backfill_removal_and_hand_over_are_the_same_difference(wanted: Sets) -> None:
    members = {value for value, state in wanted.items() if state == State.PRESENT}
    backfill = all_of(wanted, {})
    assert {value for value, row in backfill.items() if row[2] == Act.ADD} == members
    removal = all_of({}, wanted)
    assert {value for value, row in removal.items() if row[2] == Act.REMOVE} == members
    assert {row[3] for row in removal.values()} <= {State.ABSENT}
    some = dict.fromkeys([value for value in members if len(value) % 2], State.PRESENT)
    handed_over = all_of(wanted, some)
    assert {value for value, row in handed_over.items() if row[2] == Act.ADD} == members - some.keys()
    assert Act.REMOVE not in {row[2] for row in handed_over.values()}


@pytest.mark.parametrize("act", [Act.ADD, Act.REMOVE])
def test_what_failed_is_noted_by_what_was_tried(act: Act) -> None:
    noted = State.UNADDED if act is Act.ADD else State.UNREMOVED
    assert changes.failed(np.array([act], np.uint8)).tolist() == [noted]


@given(
    st.dictionaries(IDENTITIES, st.integers(0, 2)), st.dictionaries(IDENTITIES, st.integers(0, 2)), st.integers(1, 4)
)
def test_who_is_there_is_said_again_where_the_attributes_are_others(
    wanted: dict[bytes, int], known: dict[bytes, int], size: int
) -> None:
    ours, theirs = (marked(each) for each in (wanted, known))
    acts: dict[bytes, int] = {}
    for each in changes.difference(ours, theirs, size=size):
        acts |= {each.values[place]: act for place, act in enumerate(each.acts().tolist())}
        for place, origin in enumerate(each.origins.tolist()):
            assert (origin < 0) == (each.values[place] not in wanted)
            assert origin < 0 or ours.values[origin] == each.values[place]
    assert {value for value, act in acts.items() if act == Act.ADD} == {
        value for value, digest in wanted.items() if known.get(value) != digest
    }
    states, digests = changes.wanted_of(ours, theirs, size=size)
    for place in range(len(theirs)):
        digest = wanted.get(theirs.values[place])
        assert (states[place], digests[place]) == ((State.ABSENT, 0) if digest is None else (State.PRESENT, digest))


def marked(digests: dict[bytes, int]) -> Listed:
    """Return identities that are present, with a digest of their attributes each."""
    there = entries(dict.fromkeys(digests, State.PRESENT))
    order = [digests[there.values[place]] for place in range(len(there))]
    return Listed(there.values, there.states, np.array(order, np.uint64))


def test_who_must_stay_away_is_counted_when_they_come_and_not_again() -> None:
    wanted = {b"a": State.CONSENT, b"b": State.LABEL, b"c": State.PRESENT, b"d": State.CONSENT}
    (new,) = changes.difference(entries(wanted), entries({b"d": State.PRESENT, b"b": State.CONSENT}))
    assert new.newly_excluded() == {State.CONSENT: 1}  # a alone: b was counted, d is a removal
    assert list(changes.difference(NOBODY, NOBODY)) == []


@given(st.dictionaries(IDENTITIES, WANTED), st.dictionaries(IDENTITIES, AT_TARGET), st.integers(1, 4))
def test_a_batch_that_waited_still_holds_where_its_acts_say_what_is_wanted(wanted: Sets, said: Sets, size: int) -> None:
    of = entries(said)
    now = changes.states_of(entries(wanted), of, size=size)
    assert now.tolist() == [wanted.get(of.values[place], State.ABSENT) for place in range(len(of))]
    acts = np.where(of.states == State.PRESENT, Act.ADD, Act.REMOVE).astype(np.uint8)
    assert changes.holds(acts, now).tolist() == [
        (wanted.get(of.values[place]) == State.PRESENT) == (acts[place] == Act.ADD) for place in range(len(of))
    ]
