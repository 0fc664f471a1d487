"""One partner as a document: what was agreed, what each side knows, and whether another key was seen in its place."""

import pytest
from sides import EMAIL, PHONE, Pair, Person
from sqlalchemy import delete

from node.access.guard import Caller
from node.errors import UnknownCaller
from node.partners.connections import check_caller
from node.storage import tables
from protocol.letters import FeedNotice


@pytest.fixture
def connected(pair: Pair, person: type[Person]) -> Pair:
    people = [person("1", "ann@example.com", "+447700900001")]
    pair.prepare(people, people, {"vip": ["1"]})
    return pair


@pytest.mark.feature("CN7")
def test_a_partner_is_shown_whole(connected: Pair) -> None:
    connected.acme.project.set_terms(minimum_universe=3)
    document = connected.acme.project.reports.partner("globe")
    row = connected.acme.project.partners.get("globe")
    assert document["agreement"] == row.agreement_digest.hex()
    assert connected.globe.project.reports.partner("acme")["agreement"] == document["agreement"]
    assert document["terms"]["minimum_universe"] == 1
    assert document["namespaces"] == [EMAIL, PHONE]
    assert (document["status"], document["key_changed"], document["epoch"]) == ("active", None, None)
    assert document["last_contact"] == connected.clock()
    connected.share("summer", ["vip"], [EMAIL])
    connected.acme.project.feeds.sync()
    document = connected.acme.project.reports.partner("globe")
    assert document["epoch"] == {"number": 1, "ends": connected.clock() + 30 * 86_400}
    assert (document["segments_shared"], document["segments_received"]) == (1, 0)


def test_a_partner_that_asks_is_shown_before_it_is_accepted(pair: Pair, person: type[Person]) -> None:
    for side in (pair.acme, pair.globe):
        side.people([person("1", "ann@example.com")])
    found = pair.globe.project.partners.look_up(pair.acme.project.partners.connect_id().encode())
    pair.globe.project.partners.request(found, alias="acme")
    document = pair.acme.project.reports.partner("globe")
    assert (document["status"], document["epoch"]) == ("requested", None)


@pytest.mark.feature("CN7")
def test_a_partner_that_takes_our_letters_was_in_contact(connected: Pair) -> None:
    acme, partner = connected.acme, connected.acme.project.partners.get("globe")
    connected.clock.advance(days=3)
    with acme.node.home.database.begin() as tx:
        acme.project.letters.send(tx, partner.id, "feed.decline", FeedNotice(feed=bytes(16), version=1, reason=""))
    assert acme.project.reports.partner("globe")["last_contact"] < connected.clock()
    acme.project.letters.deliver(partner)
    assert acme.project.reports.partner("globe")["last_contact"] == connected.clock()


@pytest.mark.feature("CN7")
def test_another_key_in_a_partners_place_is_shown(connected: Pair) -> None:
    acme, globe = connected.acme, connected.globe
    row = acme.project.partners.get("globe")
    assert acme.project.reports.partners()[0]["key_changed"] is None
    with pytest.raises(UnknownCaller):
        check_caller(acme.node.home, row, bytes(32))
    assert acme.project.reports.partner("globe")["key_changed"] == connected.clock()
    with acme.node.home.database.begin() as tx:
        tx.execute(delete(tables.alerts))
    assert acme.project.reports.partners()[0]["key_changed"] == connected.clock()
    assert globe.project.reports.partner("acme")["key_changed"] is None


@pytest.mark.feature("CN7")
def test_what_a_user_of_the_same_name_does_is_no_contact(connected: Pair) -> None:
    """Names of users and partners differ, but for those that an older release gave."""
    acme, rows = connected.acme, tables.audit
    last = acme.project.reports.partner("globe")["last_contact"]
    connected.clock.advance(days=1)
    with acme.node.home.guard.acting_as(Caller(name="globe", itself=True)):
        acme.project.labels.create("mine", "Mine")
    assert acme.node.audit.entries(limit=1)[0].actor == "globe"
    assert acme.project.reports.partner("globe")["last_contact"] == last
    with acme.node.home.begin() as tx:  # as an older release wrote them
        tx.execute(rows.update().values(actor_kind=None))
    assert acme.project.reports.partner("globe")["last_contact"] == last
    connected.share("summer", ["vip"], [EMAIL])
    assert acme.project.reports.partner("globe")["last_contact"] == connected.clock()
