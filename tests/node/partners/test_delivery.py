"""The service's letter carrier: a partner that is gone is asked again at once when it is back, and who waits hears of it."""

import json
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
from partnering import accepted, requested_by
from sides import Pair

from node.access.scope import Home
from node.errors import PeerUnreachable
from node.node import Node
from node.partners import delivery, handlers, outbox
from node.partners.connections import Connection, note
from node.partners.delivery import LetterCarrier
from node.partners.letters import Letters
from node.storage.tables import letters
from node.transport import endpoint
from protocol.letters import Disconnect, Letter


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
    monkeypatch.setattr(delivery, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 0.01)
    post = threading.Thread(target=node.home.guard.as_itself(LetterCarrier(node.home, stop).run))
    post.start()
    try:
        assert enough.wait(30)
    finally:
        stop.set()
        node.home.bell.ring()
        post.join(30)
    assert waits[:5] == [delivery.POLL_SECONDS, 0, 0, delivery.POLL_SECONDS, delivery.POLL_SECONDS]
    assert reached == ["globe"]


def test_a_partner_that_holds_a_letter_up_holds_up_no_other(
    node: Node, active: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_two(node, active)
    stop, arrived = threading.Event(), threading.Event()
    begun: list[str] = []

    def deliver(self: Letters, connection: Connection) -> int:
        begun.append(connection.alias)
        if connection.alias == "quick" and begun.count("quick") == 3:
            arrived.set()
        if connection.alias == "globe":
            stop.wait(30)
        return 1

    monkeypatch.setattr(Letters, "fetch", lambda self, connection, *, wait, stop: int(stop.wait(30)))
    monkeypatch.setattr(Letters, "deliver", deliver)
    monkeypatch.setattr(delivery, "PAUSE_SECONDS", 0.01)
    post = threading.Thread(target=node.home.guard.as_itself(LetterCarrier(node.home, stop).run))
    post.start()
    try:
        assert arrived.wait(20)
    finally:
        stop.set()
        node.home.bell.ring()
        post.join(30)
    assert begun.count("globe") == 1


WRITE = """
import sys
from pathlib import Path
from node.node import Node
from protocol.letters import Disconnect
with Node.open(Path(sys.argv[1])) as node, node.home.database.begin() as tx:
    node.project().letters.send(tx, sys.argv[2], "connect.disconnect", Disconnect(reason=""))
"""


def write_elsewhere(node: Node, connection: Connection) -> None:
    """Put a letter into the outbox in another process."""
    subprocess.run([sys.executable, "-c", WRITE, str(node.home.path), connection.id], check=True)


@pytest.mark.parametrize("heard", [True, False], ids=["by its ring", "by the safety look"])
def test_a_letter_of_another_process_leaves(
    node: Node, active: Connection, heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node.home.database.begin() as tx:
        note(tx, active, peer_address="127.0.0.1:1")
    stop, looked, left = threading.Event(), threading.Event(), threading.Event()

    def fetch(self: Letters, connection: Connection, *, wait: int, stop: threading.Event) -> int:
        looked.set()
        return int(stop.wait(60))

    def deliver(self: Letters, connection: Connection) -> int:
        left.set()
        return 1

    monkeypatch.setattr(Letters, "fetch", fetch)
    monkeypatch.setattr(Letters, "deliver", deliver)
    node.home.bell.seconds = 3_600.0 if heard else 0.2
    post = threading.Thread(target=node.home.guard.as_itself(LetterCarrier(node.home, stop).run))
    with node.home.bell.serving() if heard else nullcontext():
        post.start()
        try:
            assert looked.wait(60)
            write_elsewhere(node, active)
            assert left.wait(60)
        finally:
            stop.set()
            node.home.bell.ring()
            post.join(30)


def test_a_letter_that_a_command_delivered_first_makes_the_next_wait_for_nothing(
    node: Node, active: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node.home.database.begin() as tx:
        note(tx, active, peer_address="127.0.0.1:1")
    stop, first, second = threading.Event(), threading.Event(), threading.Event()

    def deliver(self: Letters, connection: Connection) -> int:
        """The first time, find that a command has been faster."""
        if first.is_set():
            second.set()
            return 1
        with node.home.database.begin() as tx:
            tx.execute(letters.update().values(delivered=node.home.now()))
        first.set()
        return 0

    monkeypatch.setattr(Letters, "fetch", lambda self, connection, *, wait, stop: int(stop.wait(60)))
    monkeypatch.setattr(Letters, "deliver", deliver)
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 3_600.0)
    node.home.bell.seconds = 3_600.0
    post = threading.Thread(target=node.home.guard.as_itself(LetterCarrier(node.home, stop).run))
    post.start()
    try:
        write(node, active)
        assert first.wait(60)
        write(node, active)
        assert second.wait(60)
    finally:
        stop.set()
        node.home.bell.ring()
        post.join(30)


def wait_for_two(node: Node, active: Connection) -> None:
    """Let a letter wait for "globe", and one for another partner, "quick"."""
    for each in (active, accepted(node, requested_by(node, "Quick"))):
        write(node, each)
        with node.home.database.begin() as tx:
            note(tx, each, peer_address="127.0.0.1:1")


def write(node: Node, connection: Connection) -> None:
    with node.home.database.begin() as tx:
        node.project().letters.send(tx, connection.id, "connect.disconnect", Disconnect(reason=""))


def test_a_letter_of_another_process_ends_the_wait_of_the_partner_that_fetches(
    ready: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.connect()
    us = ready.acme.node
    looked, waiting, fetched = threading.Event(), outbox.outbox, []

    def look(home: Home, connection: Connection, *, after: int) -> list[Letter]:
        found = waiting(home, connection, after=after)
        looked.set()
        return found

    monkeypatch.setattr(delivery, "outbox", look)
    monkeypatch.setattr(endpoint, "LOOK_SECONDS", 3_600.0)
    monkeypatch.setattr(endpoint, "MAX_WAIT_SECONDS", 3_600.0)
    theirs = Letters(ready.globe.project.scope)
    connection = ready.globe.project.partners.get("acme")

    def fetch() -> None:
        fetched.append(theirs.fetch(connection, wait=999))

    caller = threading.Thread(target=ready.globe.node.home.guard.as_itself(fetch))
    with us.home.bell.serving():
        caller.start()
        assert looked.wait(60)
        write_elsewhere(us, us.project().partners.get("globe"))
        caller.join(50)
    assert fetched == [1]


@pytest.mark.parametrize("act", ["deliver", "fetch"])
def test_what_nobody_foresaw_in_a_partners_answer_delays_its_letters_alone(
    act: str, node: Node, active: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again after a pause, and one line says so."""
    wait_for_two(node, active)
    stop, enough, begun = threading.Event(), threading.Event(), []

    def answer(self: Letters, connection: Connection, **_: object) -> int:
        begun.append(connection.alias)
        if begun.count("quick") == 3:
            enough.set()
        if connection.alias == "globe":
            raise OverflowError("ann@example.com")
        return 1

    def nothing(self: Letters, connection: Connection, **_: object) -> int:
        return int(stop.wait(30))

    monkeypatch.setattr(delivery, "worth_calling", lambda connection, now: act == "fetch")
    monkeypatch.setattr(Letters, act, answer)
    monkeypatch.setattr(Letters, "deliver" if act == "fetch" else "fetch", nothing)
    monkeypatch.setattr(delivery, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 60.0)
    post = threading.Thread(target=node.home.guard.as_itself(LetterCarrier(node.home, stop).run))
    post.start()
    try:
        assert enough.wait(20)
    finally:
        stop.set()
        node.home.bell.ring()
        post.join(30)
    assert begun.count("globe") == 1
    (line,) = (json.loads(each) for each in capsys.readouterr().err.splitlines())
    assert (line["event"], line["partner"], line["kind"]) == ("letters failed", "globe", "OverflowError")
