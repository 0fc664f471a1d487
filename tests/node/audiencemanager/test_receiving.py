"""Calls realise and remove traits of visitors, who are known by the ids of their data sources."""

import signal
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from clock import Clock
from pyroaring import BitMap
from seen import ECIDS, GAIDS, add_trait, ecid, frequency, members, receive, seen

from node.access.scope import Scope
from node.audiencemanager import folders, receiving, traits
from node.audiencemanager.records import TraitKind
from node.audiencemanager.visitors import opened
from node.errors import StoreUnavailable
from node.node import Node
from psi.values import Values

GAID = GAIDS, b"g" * 16


@pytest.fixture
def scope(node: Node) -> Scope:
    return node.project().scope


def test_nothing_is_made_before_the_first_visitor(scope: Scope) -> None:
    visitors = opened(scope)
    assert visitors.members(1000, 120) == BitMap()
    assert visitors.numbers(ECIDS, Values.of([ecid(1)[1]]), make=False).tolist() == [0]
    assert not visitors.file.path.exists()
    receive(scope, seen(scope, ecid(1)))
    assert {each.stat().st_mode & 0o777 for each in visitors.file.path.parent.glob("audience.db*")} == {0o600}


def test_a_call_finds_or_makes_its_visitor_and_realises_what_its_signals_match(scope: Scope) -> None:
    trait = add_trait(scope, 'segID == "X"')
    received = receive(
        scope,
        seen(scope, ecid(1), GAID, signals=(("segID", "X"), ("other", "1"))),
        seen(scope, ecid(2), signals=(("segID", "Y"),)),
    )
    assert (received.made, received.found, received.realised, received.without_trait) == (3, 0, 1, 1)
    assert (received.signals, received.unused) == (3, 2)
    assert received.visitors.tolist() == [1, 2]
    assert [list(each) for each in received.traits] == [[trait], []]
    assert members(scope, trait) == {1}
    again = receive(scope, seen(scope, GAID, remove=(trait,)))
    assert (again.made, again.found, again.removed) == (0, 1, 1)
    assert members(scope, trait) == set()


def test_an_unknown_id_joins_a_known_one_and_two_known_visitors_stay_two(scope: Scope) -> None:
    trait = add_trait(scope)
    receive(scope, seen(scope, ecid(1)), seen(scope, ecid(2)), seen(scope, ecid(1), GAID))
    assert opened(scope).numbers(GAIDS, Values.of([GAID[1]]), make=False).tolist() == [1]
    receive(scope, seen(scope, GAID, ecid(2), realise=(trait,)))
    assert members(scope, trait) == {1, 2}
    assert len(opened(scope).everybody()) == 2


def test_the_last_of_several_calls_about_a_trait_holds(scope: Scope) -> None:
    own, other, ruled = add_trait(scope), add_trait(scope), add_trait(scope, "a == 1")
    got, lost = {"realise": (own, other)}, {"remove": (own, ruled)}
    receive(
        scope,
        seen(scope, ecid(1), **got),
        seen(scope, ecid(1), **lost),
        seen(scope, ecid(2), signals=(("a", "1"),)),
        seen(scope, ecid(2), **lost),
        seen(scope, ecid(2), signals=(("a", "1"),), **got),
        seen(scope, ecid(3), **got),
        seen(scope, ecid(3), realise=(other,), overwrite=ECIDS),
    )
    assert (members(scope, own), members(scope, other), members(scope, ruled)) == ({2}, {1, 2, 3}, {2})


def test_traits_that_change_are_known_to_the_next_chunk(scope: Scope) -> None:
    trait = add_trait(scope, "a == 1")
    receive(scope, seen(scope, ecid(1), signals=(("a", "1"),)))
    with scope.begin() as tx:
        found = traits.by_number(scope, tx, trait)
        assert found is not None
        traits.change(scope, tx, found, rule="a == 2")
    receive(scope, seen(scope, ecid(2), signals=(("a", "1"),)), seen(scope, ecid(3), signals=(("a", "2"),)))
    assert members(scope, trait) == {1, 3}
    with scope.begin() as tx:
        traits.remove(scope, tx, found)
    assert receive(scope, seen(scope, ecid(4), realise=(trait,))).realised == 0
    assert members(scope, trait) == set()


def test_realisations_are_counted_by_day_but_for_onboarded_traits(scope: Scope, clock: Clock) -> None:
    ruled, onboarded = add_trait(scope, "a == 1"), add_trait(scope)
    call = {"signals": (("a", "1"),), "realise": (onboarded,)}
    receive(scope, *[seen(scope, ecid(1), **call)] * 3, seen(scope, ecid(2), **call))
    receive(scope, seen(scope, ecid(1), **call))
    clock.advance(days=2)
    receive(scope, seen(scope, ecid(2), **call), seen(scope, ecid(3), **call))
    assert frequency(scope, ruled) == {1: 4, 2: 2, 3: 1}
    assert frequency(scope, ruled, days=0) == {2: 1, 3: 1}
    assert frequency(scope, ruled, days=2) == {1: 4, 2: 2, 3: 1}
    assert frequency(scope, ruled, onboarded) == {1: 5, 2: 3, 3: 2}
    receive(scope, seen(scope, ecid(1), remove=(ruled,)))
    assert frequency(scope, ruled) == {2: 2, 3: 1}


def test_a_folder_trait_has_what_the_traits_of_its_folder_have(scope: Scope) -> None:
    with scope.begin() as tx:
        outer = folders.ensure(scope, tx, "outer").number
    first, second = add_trait(scope, folder=outer), add_trait(scope)
    inside = add_trait(scope, kind=TraitKind.FOLDER, folder=outer)
    everything = add_trait(scope, kind=TraitKind.FOLDER)
    receive(scope, seen(scope, ecid(1), realise=(first,)), seen(scope, ecid(2), realise=(second, inside)))
    assert (members(scope, inside), members(scope, everything)) == ({1}, {1, 2})


def test_members_of_a_segment_of_the_platform_come_and_leave(scope: Scope) -> None:
    trait = add_trait(scope)
    values = Values.of([ecid(each)[1] for each in range(1, 6)])
    for acts in ([True] * 4 + [False], [True] * 4 + [False], [False, True, True, True, True]):
        receiving.receive_members(scope, trait, ECIDS, values, np.array(acts))
    assert members(scope, trait) == {2, 3, 4, 5}
    assert len(opened(scope).everybody()) == 5


def test_a_chunk_that_fails_or_whose_process_is_killed_is_not_there_at_all(node: Node, scope: Scope) -> None:
    trait = add_trait(scope)
    with suppress(ZeroDivisionError), opened(scope).begin():
        receive(scope, seen(scope, ecid(1), realise=(trait,)))
        print(1 / 0)
    assert members(scope, trait) == set()
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(sys.path[0])!r})
from node.audiencemanager import receiving, signals
from node.node import Node
signals.note = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
scope = Node.open({str(node.home.path)!r}).project().scope
receiving.receive(scope, [receiving.Call(((0, b"1" * 38),), (), ({trait},), (), 1)], 0)
"""
    died = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert members(scope, trait) == set()
    assert not opened(scope).everybody()
    assert receive(scope, seen(scope, ecid(1), realise=(trait,))).made == 1


@pytest.mark.parametrize(
    ("content", "said"), [(b"not a database" * 99, "damaged"), (None, "newer version")], ids=["damaged", "newer"]
)
def test_a_file_that_cannot_be_read_is_named_and_left_as_it_is(scope: Scope, content: bytes | None, said: str) -> None:
    visitors = opened(scope)
    if content is None:
        with visitors.begin() as tx:
            tx.execute("PRAGMA user_version = 99")
        visitors.close()
    else:
        visitors.file.path.parent.mkdir(parents=True)
        visitors.file.path.write_bytes(content)
    before = visitors.file.path.read_bytes()
    for act in (lambda: visitors.members(1, 0), lambda: receive(scope, seen(scope, ecid(1)))):
        with pytest.raises(StoreUnavailable, match=said):
            act()
    assert visitors.file.path.read_bytes() == before


@pytest.mark.feature("AM1")
def test_who_is_in_a_segment_by_several_ids_stays_until_the_last_one_leaves(scope: Scope) -> None:
    trait, ids = add_trait(scope), Values.of([ecid(1)[1], ecid(2)[1]])
    receive(scope, seen(scope, ecid(1), GAID), seen(scope, ecid(2), GAID))
    comes = np.ones(1, bool)
    for source, values in ((ECIDS, ids.part(slice(0, 1))), (GAIDS, Values.of([GAID[1]]))):
        receiving.receive_members(scope, trait, source, values, comes)
    receiving.receive_members(scope, trait, GAIDS, Values.of([GAID[1]]), comes)  # said twice, it is held once
    assert members(scope, trait) == {1, 2}  # one visitor
    receiving.receive_members(scope, trait, ECIDS, ids, ~np.ones(2, bool))
    assert members(scope, trait) == {1, 2}  # one visitor
    receiving.receive_members(scope, trait, GAIDS, Values.of([GAID[1]]), ~comes)
    assert members(scope, trait) == set()
