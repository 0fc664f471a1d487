"""What changes between the look at an exchange and the decision over it is seen by the decision."""

from collections.abc import Callable
from typing import Any

import pytest
from clock import Clock
from exchanging import Pair, answering_with, count_opening
from sqlalchemy import update

from node.access.scope import Scope
from node.errors import NotAllowed, RefusedToPartner, UnknownCaller
from node.exchanges import quota, records
from node.exchanges.answering import NodeAnswers
from node.exchanges.records import ExchangeState
from node.node import Node
from node.partners.connections import Connection
from node.storage.tables import connections, exchanges
from protocol.exchange import Opening, Role


def test_an_exchange_that_is_done_is_never_given_up(pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob chooses the oldest open one, and another thread of his closes it just then, or waits until it is over."""
    monkeypatch.setattr(quota, "OPEN_AT_MOST", 2)
    answers, connection = NodeAnswers(pair.bob.home), pair.connection(pair.ann)
    for number in (1, 2):
        clock.advance(seconds=1)
        answers.begin(pair.ann.key, count_opening(connection, number))
    give_up = records.give_up

    def late(home: Any, tx: Any, exchange: bytes, error: Any) -> None:
        mine = exchanges.c.id == exchange.hex()
        tx.execute(update(exchanges).where(mine).values(state=ExchangeState.DONE.value))
        give_up(home, tx, exchange, error)

    monkeypatch.setattr(records, "give_up", late)
    clock.advance(seconds=1)
    answers.begin(pair.ann.key, count_opening(connection, 3))
    assert pair.states(pair.bob) == ["done", "open", "open"]


def test_the_oldest_are_chosen_where_they_are_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction: what was done by then keeps its messages for a partner that lost the last answer."""
    chosen, theirs = [], records.theirs

    def seen(tx: Any, *given: Any, **options: Any) -> list[bytes]:
        chosen.append(tx.get_execution_options().get("vesica_read", False))
        return theirs(tx, *given, **options)

    monkeypatch.setattr(records, "theirs", seen)
    NodeAnswers(pair.bob.home).begin(pair.ann.key, count_opening(pair.connection(pair.ann), 1))
    assert chosen == [False, False]


def changing(pair: Pair, node: Node, **values: Any) -> Callable[[Scope, Connection, Opening], Role]:
    """Return what answers for Bob, and changes a connection while it works."""

    def answer(scope: Scope, connection: Connection, opening: Opening) -> Role:
        with node.home.database.begin() as tx:
            tx.execute(update(connections).values(**values))
        return pair.answerer(opening.epoch)

    return answer


@pytest.mark.parametrize(
    ("values", "error"),
    [({"agreement_digest": bytes(32)}, RefusedToPartner), ({"status": "disconnected"}, UnknownCaller)],
)
def test_nothing_is_answered_under_an_agreement_that_has_just_ended(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], error: type[Exception]
) -> None:
    connection = pair.connection(pair.ann)
    answering_with(monkeypatch, changing(pair, pair.bob, **values))
    with pytest.raises(error):
        NodeAnswers(pair.bob.home).begin(pair.ann.key, count_opening(connection, 1))
    assert pair.states(pair.bob) == []


@pytest.mark.parametrize(
    ("values", "error"),
    [({"agreement_digest": bytes(32)}, RefusedToPartner), ({"status": "disconnected"}, NotAllowed)],
)
def test_nothing_is_opened_under_an_agreement_that_has_just_ended(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], error: type[Exception]
) -> None:
    answering_with(monkeypatch, changing(pair, pair.ann, **values))
    with pytest.raises(error):
        pair.run()
    assert pair.states(pair.ann) == []
