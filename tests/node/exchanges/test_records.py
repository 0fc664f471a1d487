"""The rows of exchanges: read as they were written, given up by feed or connection, and forgotten in time."""

from clock import Clock
from exchanging import Pair

from node.exchanges import records
from node.exchanges.records import ABANDONED_SECONDS, Exchange, ExchangeState
from node.storage.ids import stored_id, wire_id
from protocol.exchange import Opened, Opening
from protocol.states import Kind, Part

FEED = "fe" * 16


def begun(pair: Pair, number: int, feed: str = FEED, part: Part = Part.SENDER, *, ours: bool = True) -> Exchange:
    """Insert a release that has begun at Ann's."""
    connection, other = pair.connection(pair.ann), Part.RECEIVER if part is Part.SENDER else Part.SENDER
    opening = Opening(
        exchange=bytes([number]) * 16,
        kind=Kind.RELEASE,
        part=part if ours else other,
        connection=connection.wire_id,
        agreement=connection.agreement_digest,
        epoch=1,
        subject={"feed": wire_id(feed), "version": number, "revision": 1},
        nonce=bytes(32),
    )
    exchange = Exchange(
        connection_id=connection.id,
        part=part,
        ours=ours,
        opening=opening,
        opened=Opened(exchange=opening.exchange, epoch=1, nonce=bytes(32)),
        inputs=b"digest",
    )
    with pair.ann.home.database.begin() as tx:
        records.insert_new(pair.ann.home, tx, exchange)
    return exchange


def state(pair: Pair, exchange: Exchange) -> ExchangeState:
    with pair.ann.home.database.read() as tx:
        found = records.find(tx, exchange.id)
    assert found is not None
    return found.state


def test_an_exchange_is_read_as_it_was_written(pair: Pair) -> None:
    exchange = begun(pair, 1)
    with pair.ann.home.database.read() as tx:
        assert records.find(tx, exchange.id) == exchange
        assert records.find(tx, bytes(16)) is None
        assert records.ours_open(tx, pair.connection(pair.ann), Kind.RELEASE, Part.SENDER) == [exchange]
        assert records.ours_open(tx, pair.connection(pair.ann), Kind.RELEASE, Part.RECEIVER) == []


def test_the_releases_of_one_feed_are_given_up(pair: Pair) -> None:
    mine, other = begun(pair, 1), begun(pair, 2, feed="ab" * 16)
    received = begun(pair, 3, part=Part.RECEIVER)
    with pair.ann.home.database.begin() as tx:
        assert records.versions_under_way(tx, pair.connection(pair.ann).id, wire_id(FEED)) == {1, 3}
        records.give_up_releases(pair.ann.home, tx, FEED)
    assert [state(pair, each) for each in (mine, other, received)] == [
        ExchangeState.FAILED,
        ExchangeState.OPEN,
        ExchangeState.OPEN,
    ]


def test_all_that_is_open_ends_with_the_connection(pair: Pair) -> None:
    exchange = begun(pair, 1)
    with pair.ann.home.database.begin() as tx:
        records.ended(pair.ann.project().scope, tx, pair.connection(pair.ann))
    assert state(pair, exchange) is ExchangeState.FAILED


def test_what_nobody_went_on_with_for_a_week_is_over_and_its_messages_are_deleted(pair: Pair, clock: Clock) -> None:
    exchange, home = begun(pair, 1), pair.ann.home
    records.spool_of(home, exchange.id)["blinded", 0] = b"body"
    clock.advance(seconds=ABANDONED_SECONDS)
    records.forget_old(home)
    assert state(pair, exchange) is ExchangeState.OPEN
    clock.advance(seconds=1)
    records.forget_old(home)
    with home.database.read() as tx:
        assert records.find(tx, exchange.id) is None
    assert not (home.path / "spool" / stored_id(exchange.id)).exists()


def test_the_oldest_of_a_partner_are_those_behind_its_newest(pair: Pair, clock: Clock) -> None:
    theirs = []
    for number in range(1, 5):
        theirs.append(begun(pair, number, ours=False))
        clock.advance(seconds=1)
    begun(pair, 9)
    with pair.ann.home.database.read() as tx:
        found = records.theirs(tx, pair.connection(pair.ann), ExchangeState.OPEN, newest=2)
        assert found == [theirs[1].id, theirs[0].id]
        assert records.theirs(tx, pair.connection(pair.ann), ExchangeState.OPEN, newest=2, at_most=1) == [theirs[1].id]
