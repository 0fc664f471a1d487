"""Key epochs of a connection: when one begins and ends, when the partner's number is followed, and what is destroyed."""

import pytest
from clock import Clock

from node.access.scope import Scope
from node.errors import NotAllowed
from node.node import Node
from node.partners import key_epochs
from node.partners.connections import Connection
from node.storage.cache import Epoch

DAYS = 30  # of an epoch, by the terms


@pytest.fixture
def scope(node: Node) -> Scope:
    return node.project().scope


def current(scope: Scope, connection: Connection) -> Epoch:
    with scope.home.database.begin() as tx:
        return key_epochs.current(scope, tx, connection)


def follow(scope: Scope, connection: Connection, epoch_number: int) -> int:
    with scope.home.database.begin() as tx:
        return key_epochs.follow(scope, tx, connection, epoch_number).number


def test_an_epoch_runs_its_length_and_the_next_has_another_secret(
    scope: Scope, active: Connection, clock: Clock
) -> None:
    first = current(scope, active)
    clock.advance(days=DAYS, seconds=-1)
    assert current(scope, active) == first
    clock.advance(seconds=1)
    second = current(scope, active)
    assert (first.number, second.number) == (1, 2)
    assert second.secret != first.secret


def test_asking_which_epoch_runs_begins_none(scope: Scope, active: Connection, clock: Clock) -> None:
    with scope.home.database.begin() as tx:
        assert key_epochs.running(scope, tx, active) is None
        assert key_epochs.running_number(scope, tx, active) == 0
        begun = key_epochs.current(scope, tx, active)
        assert key_epochs.running(scope, tx, active) == begun
        clock.advance(days=DAYS)
        assert key_epochs.running_number(scope, tx, active) == 0


def test_an_epoch_that_is_ended_leaves_no_cache(scope: Scope, active: Connection) -> None:
    caches = scope.home.path / "cache" / active.id
    (caches / str(current(scope, active).number)).mkdir(parents=True)
    with scope.home.database.begin() as tx:
        key_epochs.end(scope, tx, active)
        assert key_epochs.running(scope, tx, active) is None
    assert not caches.exists()
    assert current(scope, active).number == 2


def test_a_partner_is_followed_once_a_day_and_not_far(scope: Scope, active: Connection, clock: Clock) -> None:
    assert current(scope, active).number == 1
    assert follow(scope, active, 1) == 1
    with pytest.raises(NotAllowed, match="less than a day"):
        follow(scope, active, 2)
    clock.advance(days=1)
    with pytest.raises(NotAllowed, match="far ahead"):
        follow(scope, active, key_epochs.FURTHEST + 2)
    assert follow(scope, active, 5) == 5
    assert follow(scope, active, 3) == 5


def test_we_rotate_a_day_after_an_epoch_began(scope: Scope, active: Connection, clock: Clock) -> None:
    current(scope, active)
    with pytest.raises(NotAllowed, match="would not follow"):
        key_epochs.rotate(scope, "globe")
    clock.advance(days=1)
    assert key_epochs.rotate(scope, "globe") == {"ended": 1, "epoch": 2, "partner_has_to_allow": False}


@pytest.mark.parametrize(("days", "following"), [(0, 3), (7, 10)])
def test_a_restored_home_leaves_numbers_out(scope: Scope, active: Connection, days: int, following: int) -> None:
    current(scope, active)
    with scope.home.database.begin() as tx:
        key_epochs.end_all_after_restore(scope.home, tx, days=days)
        assert key_epochs.running(scope, tx, active) is None
    assert current(scope, active).number == following


def test_caches_of_epochs_that_are_over_are_removed(scope: Scope, active: Connection) -> None:
    caches = scope.home.path / "cache"
    running = caches / active.id / str(current(scope, active).number)
    over, stranger = caches / active.id / "7", caches / ("ab" * 16) / "1"
    for each in (running, over, stranger):
        each.mkdir(parents=True)
    key_epochs.remove_leftovers(scope.home)
    assert [each.is_dir() for each in (running, over, stranger)] == [True, False, False]
