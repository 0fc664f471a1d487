"""Both sides hash the same test identities and both see the first difference; a partner can let us hash nothing else."""

from dataclasses import replace
from typing import Any

import pytest
from partnering import alerts
from sides import EMAIL, PHONE, Pair, Person

from node.errors import NotAllowed
from node.partners import preflight
from node.partners.connections import Connection, by_id
from protocol.errors import RemoteProtocolError
from protocol.letters import Preflight


@pytest.fixture
def connected(pair: Pair, person: type[Person]) -> Pair:
    people = [person("1", "ann@example.com", "+447700900001")]
    pair.prepare(people, people, {"vip": ["1"]})
    return pair


@pytest.fixture
def globe_keeps_the_plus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let globe forget to normalise a phone number with a trunk prefix."""
    ours = preflight.ours

    def other(connection: Connection) -> Preflight:
        made = ours(connection)
        if connection.peer_organisation != "Acme":
            return made
        phones = made.results[PHONE]
        return replace(made, results={**made.results, PHONE: (*phones[:2], b"", *phones[3:])})

    monkeypatch.setattr(preflight, "ours", other)


@pytest.mark.feature("OP6")
def test_the_same_rules_give_the_same_results_on_both_sides(connected: Pair) -> None:
    assert connected.acme.project.partners.preflight("globe")["status"] == "same"
    shown = connected.globe.project.reports.partner("acme")["preflight"]
    assert (shown["status"], shown["difference"]) == ("same", None)
    assert alerts(connected.acme, "preflight") == alerts(connected.globe, "preflight") == []


@pytest.mark.feature("OP6")
@pytest.mark.usefixtures("globe_keeps_the_plus")
def test_both_sides_see_the_first_difference(connected: Pair) -> None:
    ours = connected.acme.project.partners.preflight("globe")
    theirs = connected.globe.project.reports.partner("acme")["preflight"]
    assert ours["status"] == theirs["status"] == "different"
    assert ours["difference"]["namespace"] == theirs["difference"]["namespace"] == PHONE
    assert ours["difference"]["identity"] == theirs["difference"]["identity"] == "+44 (0)7700 900 123"
    assert ours["difference"]["ours"] == theirs["difference"]["theirs"]
    assert ours["difference"]["theirs"] == "dropped"
    for side in (connected.acme, connected.globe):
        assert "+44 (0)7700 900 123" in alerts(side, "preflight")[0]


@pytest.mark.feature("OP6")
@pytest.mark.usefixtures("globe_keeps_the_plus")
def test_a_partner_without_an_address_takes_part(quiet_receiver: Pair, person: type[Person]) -> None:
    pair, people = quiet_receiver, [person("1", "ann@example.com", "+447700900001")]
    pair.prepare(people, people, {"vip": ["1"]})
    assert pair.acme.project.partners.preflight("globe")["status"] == "asked"
    pair.post()
    for side, partner in ((pair.acme, "globe"), (pair.globe, "acme")):
        assert side.project.reports.partner(partner)["preflight"]["status"] == "different"


@pytest.mark.feature("OP6")
def test_a_partner_is_answered_once_an_hour_and_speaks_of_agreed_namespaces_alone(connected: Pair) -> None:
    acme = connected.acme
    row = acme.project.partners.get("globe")
    with acme.node.home.database.begin() as tx:
        theirs = preflight.ours(row)
        with pytest.raises(RemoteProtocolError) as refused:
            preflight.asked(acme.project.scope, tx, row, replace(theirs, results={"idfa/uuid-v1": ()}))
        assert refused.value.code == "namespace"
        with pytest.raises(RemoteProtocolError):
            preflight.answered(acme.project.scope, tx, row, theirs)  # nothing was asked
        preflight.asked(acme.project.scope, tx, row, theirs)
        row = by_id(acme.project.scope, row.id, tx)
        with pytest.raises(NotAllowed, match="hour"):
            preflight.asked(acme.project.scope, tx, row, theirs)
    assert acme.project.reports.partner("globe")["letters_waiting"] == 1


def test_what_differs_first() -> None:
    ours = Preflight(set=1, results={EMAIL: (b"a", b"b"), PHONE: (b"c",)})

    def difference(theirs: Preflight) -> dict[str, Any]:
        found = preflight.compare(ours, theirs)
        assert found is not None
        return found

    assert preflight.compare(ours, ours) is None
    assert "set 2" in difference(replace(ours, set=2))["what"]
    assert EMAIL in difference(replace(ours, results={PHONE: (b"c",)}))["what"]
    shorter = replace(ours, results={EMAIL: (b"a",), PHONE: (b"c",)})
    assert "2 results here, 1 there" in difference(shorter)["what"]
    first = difference(replace(ours, results={EMAIL: (b"a", b"x"), PHONE: (b"x",)}))
    assert (first["namespace"], first["ours"], first["theirs"]) == (EMAIL, b"b".hex(), b"x".hex())


def test_the_test_identities_of_set_1_never_change() -> None:
    """Another release must give the same results to the same set, or else make a new set."""
    namespaces = ("email_sha256/google-v3", EMAIL, "email_sha256/uid2-v1", PHONE, "idfa/uuid-v1", "club/opaque-v1")
    message = Preflight(set=1, results=preflight.results(namespaces))
    assert message.digest().hex() == "666408232520ee7e63f43077245786de31753d037a931d0d3b0f8c50d52565f7"
