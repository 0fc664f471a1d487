"""One partner as a document: what was agreed, what each side knows, and whether another key was seen in its place."""

import pytest
from sides import EMAIL, PHONE, Pair, Person
from sqlalchemy import delete

from node.errors import UnknownCaller
from node.partners.connections import check_caller
from node.storage import tables


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
