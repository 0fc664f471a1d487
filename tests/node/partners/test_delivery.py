"""The service's letter carrier: a partner that is gone is asked again at once when it is back, and who waits hears of it."""

import threading
from dataclasses import replace

import pytest

from node.access.scope import Home
from node.errors import PeerUnreachable
from node.node import Node
from node.partners import delivery, handlers
from node.partners.connections import Connection, note
from node.partners.letters import Letters


def test_a_partner_that_was_gone_is_asked_without_a_wait_and_reported_once(
    node: Node, active: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node.home.database.begin() as tx:
        note(tx, active, peer_address="127.0.0.1:1")
    waits: list[int] = []
    reached: list[str] = []
    stop, enough = threading.Event(), threading.Event()

    def fetch(self: Letters, connection: Connection, *, wait: int, stop: threading.Event) -> int:
        waits.append(wait)
        if len(waits) <= 2:
            raise PeerUnreachable("nobody answers")
        if len(waits) == 5:
            enough.set()
        return 0

    def hear(home: Home, connection: Connection) -> None:
        reached.append(connection.alias)

    monkeypatch.setattr(Letters, "fetch", fetch)
    monkeypatch.setattr(handlers, "REACHED", [hear])
    monkeypatch.setattr(delivery, "DELIVER_SECONDS", 0.01)
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 0.01)
    post = threading.Thread(target=node.home.guard.as_itself(delivery.LetterCarrier(node.home, stop).run))
    post.start()
    try:
        assert enough.wait(30)
    finally:
        stop.set()
        post.join(30)
    assert waits[:5] == [delivery.POLL_SECONDS, 0, 0, delivery.POLL_SECONDS, delivery.POLL_SECONDS]
    assert reached == ["globe"]


def test_a_partner_that_holds_a_letter_up_holds_up_no_other(
    node: Node, active: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = active, replace(active, id="f" * 32, alias="quick")
    stop, arrived, both = threading.Event(), threading.Event(), [(slow, True), (quick, True)]
    begun: list[str] = []

    def deliver(self: Letters, connection: Connection) -> int:
        begun.append(connection.alias)
        if connection.alias == "quick" and begun.count("quick") == 3:
            arrived.set()
        if connection.alias == "globe":
            stop.wait(30)
        return 1

    monkeypatch.setattr(delivery.LetterCarrier, "_partners", lambda self: both)
    monkeypatch.setattr(Letters, "fetch", lambda self, connection, *, wait, stop: int(stop.wait(30)))
    monkeypatch.setattr(Letters, "deliver", deliver)
    monkeypatch.setattr(delivery, "DELIVER_SECONDS", 0.01)
    post = threading.Thread(target=node.home.guard.as_itself(delivery.LetterCarrier(node.home, stop).run))
    post.start()
    try:
        assert arrived.wait(20)
    finally:
        stop.set()
        post.join(30)
    assert begun.count("globe") == 1
