"""Key epochs between two nodes that release: when one ends, and how the other side follows."""

import pytest
from clock import Clock
from evaluating import ask_for, number_of, shared, sync
from sides import Pair, Person
from sqlalchemy import select

from node.errors import NotAllowed, RefusedByPartner
from node.partners import key_epochs
from node.storage.tables import epochs as epoch_rows

pytestmark = pytest.mark.usefixtures("small_universes")


def test_an_epoch_ends_by_the_clock_with_its_keys_and_caches(pair: Pair, person: type[Person], clock: Clock) -> None:
    shared(pair, person)
    sync(pair)
    folder = pair.acme.node.home.path / "cache" / pair.acme.project.partners.get("globe").id
    assert [each.name for each in folder.iterdir()] == ["1"]
    clock.advance(days=29)
    assert sync(pair) == "done"  # only that nothing has changed
    clock.advance(days=1)
    assert sync(pair) == "done"  # the same members, sealed under new keys
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}
    assert pair.globe.project.received.show("f")["revision"] == 3
    for side in (pair.acme, pair.globe):
        assert [each.name for each in (side.node.home.path / "cache" / folder.name).iterdir()] == ["2"]
        with side.node.home.database.read() as tx:
            first, second = tx.execute(select(epoch_rows).order_by(epoch_rows.c.number)).all()
        assert (first.secret, first.ended is None) == (b"", False)
        assert len(second.secret) > 32


def test_a_partner_behind_is_told_the_epoch_and_follows(pair: Pair, person: type[Person], clock: Clock) -> None:
    """The receiver has ended the epoch; the sender, whose clock has not, opens in the old one and follows."""
    shared(pair, person, evaluations="5/2")
    sync(pair)
    clock.advance(days=2)
    with pair.globe.node.home.database.begin() as tx:
        key_epochs.follow(pair.globe.project.scope, tx, pair.globe.project.partners.get("acme"), 7)
    assert number_of(pair.acme, "globe") == 1
    assert sync(pair) == "done"
    assert number_of(pair.acme, "globe") == 7
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


def test_a_partner_cannot_pull_us_forward_within_a_day_or_out_of_sight(
    pair: Pair, person: type[Person], clock: Clock
) -> None:
    shared(pair, person)
    sync(pair)
    project, connection = pair.acme.project, pair.acme.project.partners.get("globe")
    for days, number in ((0, 2), (2, 2_000), (0, 2**63 - 1)):
        clock.advance(days=days)
        with pytest.raises(NotAllowed), pair.acme.node.home.database.begin() as tx:
            key_epochs.follow(project.scope, tx, connection, number)
        assert number_of(pair.acme, "globe") == 1


def test_a_partner_that_opens_too_far_ahead_is_refused(pair: Pair, person: type[Person], clock: Clock) -> None:
    shared(pair, person)
    sync(pair)
    project, connection = pair.globe.project, pair.globe.project.partners.get("acme")
    with pair.globe.node.home.database.begin() as tx:
        key_epochs.begin(project.scope, tx, connection, 2)
    with pytest.raises(RefusedByPartner):
        ask_for(pair, range(10, 12))
    assert number_of(pair.acme, "globe") == 1
    assert (pair.acme.node.home.path / "cache" / connection.id / "1").is_dir()
