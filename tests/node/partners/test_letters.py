"""Letters reach a partner once, in order, whatever other partners do."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from partnering import alerts, people, request
from sides import EMAIL, Pair, Person, Side

from node.access.audit import Result
from node.access.scope import Home
from node.errors import (
    PeerUnreachable,
    RefusedByPartner,
    RefusedToPartner,
    WrongPeerKey,
)
from node.node import Node
from node.partners import handlers, letters
from node.partners.connections import Connection, ConnectionStatus, change
from node.partners.letters import Letters, receive, worth_calling
from node.partners.outbox import delivered, outbox, send_again
from node.partners.rates import Rate
from node.transport.client import PeerClient
from protocol.errors import RemoteProtocolError
from protocol.letters import FeedNotice, FeedVersion, Letter


@pytest.mark.feature("CN3")
def test_nothing_can_be_offered_before_acceptance_or_after_the_end(ready: Pair) -> None:
    acme, globe = ready.acme, ready.globe
    request(globe, acme, "acme")
    row = globe.project.partners.get("acme")
    globe.segment("few", ["g5"])
    with globe.node.home.database.begin() as tx:
        change(globe.node.home, tx, row, status=ConnectionStatus.ACTIVE)  # it does not wait for the answer
    globe.project.feeds.create("pushed", segments=["few"], namespaces=[EMAIL], partners=["acme"])
    globe.project.feeds.publish("pushed")
    assert acme.project.received.all() == []
    assert acme.acts("letter.feed.publish", Result.DENY) == []  # not even a row
    acme.project.partners.accept("globe")
    acme.project.partners.disconnect("globe")
    definition = globe.project.feeds.definition(globe.project.feeds.get("pushed"))
    with globe.node.home.database.begin() as tx:
        globe.project.letters.send(tx, row.id, "feed.publish", FeedVersion(definition=definition))
    globe.project.letters.deliver(row)
    assert acme.project.received.all() == []


def test_one_partners_failure_does_not_delay_the_others(
    ready: Pair, third: Side, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = ready.acme
    third.people(people(person, "h", 0, 3))
    third.project.consent.set_model("opt-out")
    ready.connect()
    request(acme, third, "hooli")
    third.project.partners.accept("acme")
    acme.segment("vip", ["a4"])
    get, failing = PeerClient.get, acme.project.partners.get("globe")

    def broken(error: Exception) -> Callable[..., bytes]:
        def fetch(self: PeerClient, path: str) -> bytes:
            if failing.id in path:
                raise error
            return get(self, path)

        return fetch

    failures: list[Exception] = [
        RemoteProtocolError("malformed", "what is this"),
        RefusedByPartner("internal", "no", status=500),
        WrongPeerKey("another key"),
        PeerUnreachable("gone"),
        OverflowError("what nobody foresaw"),
    ]
    for number, error in enumerate(failures):
        with monkeypatch.context() as patched:
            patched.setattr(PeerClient, "get", broken(error))
            third.segment(f"s{number}", ["h1"])
            third.project.feeds.create(f"f{number}", segments=[f"s{number}"], namespaces=[EMAIL], partners=["acme"])
            with monkeypatch.context() as away:
                away.setattr(Letters, "deliver_soon", lambda self, row: False)
                third.project.feeds.publish(f"f{number}")
            job = acme.node.jobs.submit("nothing", {}, acme.project.scope)
            ran = acme.node.sync()
        assert [each["id"] for each in ran["jobs"]] == [job]
        assert [feed["name"] for feed in acme.project.received.all()] == [f"f{each}" for each in range(number + 1)]
    assert len(alerts(acme, "key_changed")) == 1


def kept(node: Node, connection: Connection) -> list[str]:
    """Return the reasons of the revocations that may leave, in order."""
    return [FeedNotice.decode(letter.body).reason for letter in outbox(node.home, connection)]


def revocation(reason: str) -> FeedNotice:
    return FeedNotice(feed=bytes(16), version=1, reason=reason)


def test_a_letter_that_may_not_leave_yet_keeps_back_those_after_it(
    node: Node, active: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters, asked = node.project().letters, []
    with node.home.database.begin() as tx:
        letters.send(tx, active.id, "feed.revoke", revocation("first"))
        letters.send(tx, active.id, "feed.decline", revocation("second"))
        letters.send(tx, active.id, "feed.revoke", revocation("third"))
    may = [False, True]

    def may_leave(home: Home, connection: Connection) -> bool:
        asked.append(connection.id)
        return may[0]

    monkeypatch.setitem(handlers.MAY_LEAVE, "feed.decline", may_leave)
    assert kept(node, active) == ["first"]
    del may[0]
    assert kept(node, active) == ["first", "second", "third"]
    assert asked == [active.id, active.id]  # once a look


def test_the_same_letter_waits_once_and_goes_out_again_where_it_was_forgotten(node: Node, active: Connection) -> None:
    letters = node.project().letters
    with node.home.database.begin() as tx:
        for _ in range(2):
            letters.send_once(tx, active.id, "feed.revoke", revocation("over"))
    assert kept(node, active) == ["over"]
    delivered(node.home, active.id, 1)
    assert kept(node, active) == []
    with node.home.database.begin() as tx:
        send_again(node.project().scope, tx, active, after=1)
    assert kept(node, active) == []
    with node.home.database.begin() as tx:
        send_again(node.project().scope, tx, active, after=0)
    assert kept(node, active) == ["over"]


@pytest.mark.parametrize(
    ("address", "status", "days", "worth"),
    [
        ("a:1", ConnectionStatus.PENDING, 0, True),
        ("a:1", ConnectionStatus.ACTIVE, 99, True),
        ("", ConnectionStatus.ACTIVE, 0, False),
        ("a:1", ConnectionStatus.REQUESTED, 0, False),
        ("a:1", ConnectionStatus.DISCONNECTED, 6, True),
        ("a:1", ConnectionStatus.DISCONNECTED, 7, False),
    ],
)
def test_who_may_have_letters_for_us(
    active: Connection, address: str, status: ConnectionStatus, days: int, worth: bool
) -> None:
    connection = replace(active, peer_address=address, status=status)
    assert worth_calling(connection, connection.changed + days * 86_400) is worth


def test_a_partner_writes_so_many_letters_and_the_next_wait(
    node: Node, requested: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each leaves a row of the audit log, also one that is refused; what comes too fast leaves none and comes again."""
    monkeypatch.setattr(letters, "RATE_WHILE_ACTIVE", Rate(burst=3, seconds=1e9))
    with node.home.database.begin() as tx:
        change(node.home, tx, requested, status=ConnectionStatus.ACTIVE)
    notice = FeedNotice(feed=bytes(16), version=1, reason="")
    written = [
        Letter.of("feed.decline", notice, connection=requested.wire_id, number=number) for number in (1, 2, 3, 4)
    ]
    for letter in written[:3]:
        receive(node.home, requested.peer_key, letter)
    with pytest.raises(RefusedToPartner) as refused:
        receive(node.home, requested.peer_key, written[3])
    assert refused.value.code == "too_many"
    assert len(node.audit.entries(act="letter.feed.decline", result=Result.DENY)) == 3
    monkeypatch.setattr(letters, "RATE_WHILE_ACTIVE", Rate(burst=3, seconds=1e9))
    receive(node.home, requested.peer_key, written[3])
    assert len(node.audit.entries(act="letter.feed.decline", result=Result.DENY)) == 4
