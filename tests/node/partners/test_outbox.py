"""The outbox stays small: read in batches, by an index, and emptied of what every partner has had for long."""

from dataclasses import replace

import pytest
from clock import Clock
from partnering import prepared
from sides import Pair, Person
from sqlalchemy import select, text

from node.node import Node
from node.partners import agreements, connecting, outbox
from node.partners.connections import Connection
from node.storage.tables import DAY, letters
from protocol.agreement import Acceptance, Proposal, Refusal
from protocol.letters import FeedNotice


def kept(node: Node) -> list[int]:
    """Return the numbers of the letters that `send` has sent."""
    with node.home.database.read() as tx:
        sent = letters.c.kind == "feed.revoke"
        return list(tx.scalars(select(letters.c.number).where(sent).order_by(letters.c.number)))


def waiting(node: Node, connection: Connection) -> list[str]:
    return [FeedNotice.decode(letter.body).reason for letter in outbox.outbox(node.home, connection)]


def send(node: Node, connection: Connection, *reasons: str) -> None:
    with node.home.database.begin() as tx:
        for reason in reasons:
            notice = FeedNotice(feed=bytes(16), version=1, reason=reason)
            node.project().letters.send(tx, connection.id, "feed.revoke", notice)


@pytest.mark.feature("CN8")
def test_a_partner_that_proposes_changes_of_nothing_gets_one_refusal(node: Node, active: Connection) -> None:
    scope = node.project().scope
    offer = connecting.offer(scope, bytes(32))
    proposals = [Proposal(base=bytes([n]) * 32, offer=offer, made=n) for n in range(3)]
    with node.home.database.begin() as tx:
        for proposal in proposals:
            agreements.proposed(scope, tx, active, proposal)
    (letter,) = outbox.outbox(node.home, active)
    assert Refusal.decode(letter.body).proposal == proposals[-1].digest()
    with node.home.database.begin() as tx:
        for n in range(3):
            digest = bytes([n]) * 32
            answer = Acceptance(
                proposal=digest, offer=replace(offer, nonce=digest), agreement=bytes(32), signature=bytes(64)
            )
            agreements.accepted(scope, tx, active, answer)
    (letter,) = outbox.outbox(node.home, active)
    assert Refusal.decode(letter.body).proposal == digest
    outbox.delivered(node.home, active.id, letter.number)
    with node.home.database.begin() as tx:
        agreements.proposed(scope, tx, active, proposals[0])
    (letter,) = outbox.outbox(node.home, active)
    assert (letter.number, Refusal.decode(letter.body).proposal) == (2, proposals[0].digest())


def test_letters_are_read_in_batches_and_all_of_them_leave(
    node: Node, active: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(node, active, "1", "2", "3", "4")
    monkeypatch.setattr(outbox, "BATCH_LETTERS", 3)
    assert waiting(node, active) == ["1", "2", "3"]
    monkeypatch.setattr(outbox, "BATCH_BYTES", 2 * len(outbox.outbox(node.home, active)[0].body))
    assert waiting(node, active) == ["1", "2"]
    monkeypatch.setattr(outbox, "BATCH_BYTES", 1)
    assert waiting(node, active) == ["1"]  # one that is longer than a batch goes alone


@pytest.mark.two_nodes
def test_one_delivery_takes_every_batch(pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(pair, person)
    monkeypatch.setattr(outbox, "BATCH_LETTERS", 2)
    partner = pair.acme.project.partners.get("globe")
    send(pair.acme.node, partner, "1", "2", "3", "4", "5")
    assert pair.acme.project.letters.deliver(partner) == 5
    assert waiting(pair.acme.node, partner) == []


def test_what_waits_is_found_by_an_index(node: Node, active: Connection) -> None:
    query = (
        "EXPLAIN QUERY PLAN SELECT number FROM letters WHERE connection_id = 'c' AND delivered IS NULL ORDER BY number"
    )
    old = "EXPLAIN QUERY PLAN DELETE FROM letters WHERE delivered < 5"
    with node.home.database.read() as tx:
        plans = [" ".join(row.detail for row in tx.execute(text(each))) for each in (query, old)]
    assert "ix_letters_waiting" in plans[0]
    assert "TEMP B-TREE" not in plans[0]
    assert "ix_letters_delivered" in plans[1]


@pytest.mark.feature("OP9")
def test_letters_that_a_partner_has_are_kept_for_a_while_and_then_deleted(
    node: Node, active: Connection, clock: Clock
) -> None:
    send(node, active, "1", "2", "3")
    outbox.delivered(node.home, active.id, 2)
    clock.advance(seconds=outbox.KEPT_DAYS * DAY)
    node.sweep()
    assert kept(node) == [1, 2, 3]  # a partner that is set back to a backup gets them again
    clock.advance(seconds=1)
    node.sweep()
    assert kept(node) == [3]


@pytest.mark.feature("OP9")
def test_a_partner_set_back_further_than_letters_are_kept_has_to_connect_anew(
    node: Node, active: Connection, clock: Clock
) -> None:
    scope = node.project().scope
    send(node, active, "1", "2")
    outbox.delivered(node.home, active.id, 2)
    clock.advance(days=outbox.KEPT_DAYS + 1)
    node.sweep()
    send(node, active, "3")
    told = node.project().partners.get("globe")
    with node.home.database.begin() as tx:
        assert outbox.send_again(scope, tx, told, after=2)
    assert "letters_stuck" not in [alert.kind for alert in node.project().alerts.all()]
    with node.home.database.begin() as tx:
        assert not outbox.send_again(scope, tx, told, after=1)
    (alert,) = [alert for alert in node.project().alerts.all() if alert.kind == "letters_stuck"]
    assert "connect again" in alert.text
