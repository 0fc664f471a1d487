"""What both sides can show of a run afterwards: their audit logs, and the receipts that both signed."""

import pytest
from sharing import small, state
from sides import EMAIL, Pair
from sqlalchemy import select, update

from node.access.audit import Result
from node.errors import AuditBroken, NotAllowed
from node.storage.tables import audit, runs
from protocol.receipt import NO_RECEIPT, SignedReceipt


@pytest.mark.feature("OP2")
def test_every_act_is_in_the_audit_of_the_side_that_did_it_and_of_the_side_it_reached(pair: Pair) -> None:
    small(pair)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    pair.globe.project.received.disable("summer")
    with pytest.raises(NotAllowed):
        pair.globe.project.received.disable("summer")
    pair.acme.project.policies.create("own", "segment-match", "C9")
    pair.acme.project.feeds.revoke("summer")
    pair.globe.project.partners.disconnect("acme")
    expected = {
        pair.acme: {
            *("partner.id", "partner.requested", "partner.accept", "letter.connect.disconnect"),
            *("feed.create", "feed.publish", "letter.feed.accept", "feed.run", "letter.feed.disable", "feed.revoke"),
            *("letter.feed.purged", "policy.create", "consent.model", "project.terms", "exchange.release"),
        },
        pair.globe: {
            *("partner.request", "letter.connect.accept", "partner.disconnect", "letter.feed.publish", "feed.enable"),
            *("feed.received", "feed.disable", "letter.feed.revoke", "exchange.release", "consent.model"),
        },
    }
    for side, acts in expected.items():
        entries = side.node.audit.entries(result=Result.ALLOW)
        assert acts <= {entry.act for entry in entries}
        assert {entry.at for entry in entries} == {pair.clock()}
        by_letter = {entry.actor for entry in entries if entry.act.startswith("letter.")}
        assert by_letter == {"globe" if side is pair.acme else "acme"}
    (denied,) = pair.globe.acts("feed.disable", Result.DENY)
    assert (denied["target"], denied["detail"]["error"]["code"]) == ("summer", "refused")
    pair.clock.advance(days=366)
    assert len(pair.acme.acts("feed.publish")) == 1


@pytest.mark.feature("OP3")
def test_both_hold_the_same_signed_chain_of_receipts_and_a_changed_line_shows(pair: Pair) -> None:
    small(pair)
    pair.share("summer", ["new"], [EMAIL])
    pair.acme.project.feeds.sync()
    pair.acme.project.consent.set("a4", "n")
    pair.acme.project.feeds.sync()
    chains = []
    for side in (pair.acme, pair.globe):
        with side.node.home.database.read() as tx:
            chains.append(list(tx.scalars(select(runs.c.receipt).order_by(runs.c.revision))))
    assert chains[0] == chains[1]
    signed = [SignedReceipt.decode(each) for each in chains[0]]
    for each in signed:
        each.verify_both(receiver_key=pair.globe.node.key, sender_key=pair.acme.node.key)
    first, second = (each.receipt for each in signed)
    assert (first.revision, second.revision) == (1, 2)
    assert (first.previous, second.previous) == (NO_RECEIPT, first.digest())
    head = second.digest().hex()
    assert state(pair.acme)["last_receipt"] == pair.globe.project.received.show("summer")["last_receipt"] == head
    for side in (pair.acme, pair.globe):
        newest = side.node.audit.head()
        assert side.node.audit.verify(upto=newest) == newest
        with side.node.home.database.begin() as tx:
            number = tx.scalar(select(audit.c.number).where(audit.c.act.in_(("feed.run", "feed.received"))).limit(1))
            tx.execute(update(audit).where(audit.c.number == number).values(target="another"))
        with pytest.raises(AuditBroken, match=f"row {number} "):
            side.node.audit.verify()
