"""Both sides hash the same test identities and both see the first difference; a partner can let us hash nothing else."""

from dataclasses import replace

import pytest
from sqlalchemy import delete

from node.errors import Refused, Unwelcome
from node.exchanges.exchanges import check_caller
from node.partners import preflight
from node.storage.tables import alerts
from protocol.errors import RemoteProtocolError
from protocol.letters import Preflight

EMAIL, PHONE = "email_sha256/lc-v1", "phone_sha256/e164-v1"


@pytest.fixture
def connected(pair, person):
    people = [person("1", "ann@example.com", "+447700900001")]
    pair.prepare(people, people, {"vip": ["1"]})
    return pair


@pytest.fixture
def globe_keeps_the_plus(monkeypatch):
    """Let globe forget to normalise a phone number with a trunk prefix."""
    results = preflight.results

    def other(project, namespaces):
        made = results(project, namespaces)
        if project.node.config.organisation == "Globe":
            made[PHONE] = (*made[PHONE][:2], b"", *made[PHONE][3:])
        return made

    monkeypatch.setattr(preflight, "results", other)


def told(side):
    return [each.text for each in side.project.alerts.list() if each.kind == "preflight"]


@pytest.mark.feature("OP6")
def test_the_same_rules_give_the_same_results_on_both_sides(connected):
    assert connected.acme.project.partners.preflight("globe")["status"] == "same"
    shown = connected.globe.project.partners.show("acme")["preflight"]
    assert (shown["status"], shown["difference"]) == ("same", None)
    assert told(connected.acme) == told(connected.globe) == []


@pytest.mark.feature("OP6")
def test_both_sides_see_the_first_difference(connected, globe_keeps_the_plus):
    ours = connected.acme.project.partners.preflight("globe")
    theirs = connected.globe.project.partners.show("acme")["preflight"]
    assert ours["status"] == theirs["status"] == "different"
    assert ours["difference"]["namespace"] == theirs["difference"]["namespace"] == PHONE
    assert ours["difference"]["identity"] == theirs["difference"]["identity"] == "+44 (0)7700 900 123"
    assert ours["difference"]["ours"] == theirs["difference"]["theirs"]
    assert ours["difference"]["theirs"] == "dropped"
    for side in (connected.acme, connected.globe):
        assert "+44 (0)7700 900 123" in told(side)[0]


@pytest.mark.feature("OP6")
def test_a_partner_without_an_address_takes_part(quiet_receiver, person, globe_keeps_the_plus):
    pair, people = quiet_receiver, [person("1", "ann@example.com", "+447700900001")]
    pair.prepare(people, people, {"vip": ["1"]})
    assert pair.acme.project.partners.preflight("globe")["status"] == "asked"
    pair.post()
    for side, partner in ((pair.acme, "globe"), (pair.globe, "acme")):
        assert side.project.partners.show(partner)["preflight"]["status"] == "different"


@pytest.mark.feature("OP6")
def test_a_partner_is_answered_once_an_hour_and_speaks_of_agreed_namespaces_alone(connected):
    acme = connected.acme
    row = acme.project.partners.get("globe")
    with acme.node.store.begin() as tx:
        theirs = preflight._ours(acme.project, row)
        with pytest.raises(RemoteProtocolError) as refused:
            preflight.asked(acme.project, tx, row, replace(theirs, results={"idfa/uuid-v1": ()}))
        assert refused.value.code == "namespace"
        with pytest.raises(RemoteProtocolError):
            preflight.answered(acme.project, tx, row, theirs)  # nothing was asked
        preflight.asked(acme.project, tx, row, theirs)
        row = acme.project.partners.by_id(row.id, tx)
        with pytest.raises(Refused, match="hour"):
            preflight.asked(acme.project, tx, row, theirs)
    assert acme.project.partners.show("globe")["letters_waiting"] == 1


def test_what_differs_first():
    ours = Preflight(set=1, results={EMAIL: (b"a", b"b"), PHONE: (b"c",)})
    assert preflight.compare(ours, ours) is None
    assert "set 2" in preflight.compare(ours, replace(ours, set=2))["what"]
    assert EMAIL in preflight.compare(ours, replace(ours, results={PHONE: (b"c",)}))["what"]
    shorter = replace(ours, results={EMAIL: (b"a",), PHONE: (b"c",)})
    assert "2 results here, 1 there" in preflight.compare(ours, shorter)["what"]
    first = preflight.compare(ours, replace(ours, results={EMAIL: (b"a", b"x"), PHONE: (b"x",)}))
    assert (first["namespace"], first["ours"], first["theirs"]) == (EMAIL, b"b".hex(), b"x".hex())


def test_the_test_identities_of_set_1_never_change(node):
    """Another release must give the same results to the same set, or else make a new set."""
    namespaces = ("email_sha256/google-v3", EMAIL, "email_sha256/uid2-v1", PHONE, "idfa/uuid-v1", "club/opaque-v1")
    message = Preflight(set=1, results=preflight.results(node.project(), namespaces))
    assert message.digest().hex() == "666408232520ee7e63f43077245786de31753d037a931d0d3b0f8c50d52565f7"


@pytest.mark.feature("CN7")
def test_a_partner_is_shown_whole(connected):
    connected.acme.project.set_terms(minimum_universe=3)
    document = connected.acme.project.partners.show("globe")
    row = connected.acme.project.partners.get("globe")
    assert document["agreement"] == row.agreement_digest.hex()
    assert connected.globe.project.partners.show("acme")["agreement"] == document["agreement"]
    assert document["terms"]["minimum_universe"] == 1
    assert document["namespaces"] == [EMAIL, PHONE]
    assert (document["status"], document["key_changed"], document["epoch"]) == ("active", None, None)
    assert document["last_contact"] == connected.clock()
    connected.share("summer", ["vip"], [EMAIL])
    connected.acme.project.feeds.sync()
    document = connected.acme.project.partners.show("globe")
    assert document["epoch"] == {"number": 1, "ends": connected.clock() + 30 * 86_400}
    assert (document["segments_shared"], document["segments_received"]) == (1, 0)


@pytest.mark.feature("CN7")
def test_another_key_in_a_partners_place_is_told_plainly(connected):
    acme, globe = connected.acme, connected.globe
    row = acme.project.partners.get("globe")
    assert acme.project.partners.list()[0]["key_changed"] is None
    with pytest.raises(Unwelcome):
        check_caller(acme.node, row, bytes(32))
    assert acme.project.partners.show("globe")["key_changed"] == connected.clock()
    with acme.node.store.begin() as tx:
        tx.execute(delete(alerts))
    assert acme.project.partners.list()[0]["key_changed"] == connected.clock()
    assert globe.project.partners.show("acme")["key_changed"] is None
