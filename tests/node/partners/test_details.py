"""A node's name and address change: partners are told by letter, and use an address once the pinned key answers there."""

from typing import Any

import pytest
from partnering import alerts, prepared, request, share, status
from restoring import both
from sides import Pair, Person, Side

from cli.demo import free_ports
from node.errors import InvalidInput
from node.node import Node
from node.transport.server import address_of, bind
from protocol.errors import InvalidConnectId


@pytest.fixture
def living(idle_pair: Pair, person: type[Person]) -> Pair:
    """Two nodes that do not serve; acme's feed has run to globe."""
    with both(idle_pair):
        prepared(idle_pair, person)
        share(idle_pair.acme, idle_pair.globe, "summer", "vip")
    return idle_pair


def move(side: Side) -> str:
    """Let a side listen somewhere else from now on, and say so; returns the address."""
    side.bound.close()
    side.bound = bind(f"127.0.0.1:{free_ports(1)[0]}")
    side.address = address_of(side.bound)
    return side.address


@pytest.mark.feature("OP12")
def test_a_node_that_moved_is_called_at_its_new_address(living: Pair) -> None:
    pair = living
    before = pair.acme.address
    document = pair.acme.node.set(address=move(pair.acme))
    assert (document["told"], document["address"], document["restart"]) == (["globe"], pair.acme.address, False)
    assert pair.acme.acts("node.set")[0]["detail"]["address"] == pair.acme.address
    with both(pair):
        pair.acme.post()
        assert pair.globe.project.partners.get("acme").peer_address == before  # nobody has answered there yet
        pair.globe.post()
        assert pair.globe.project.partners.get("acme").peer_address == pair.acme.address
        assert alerts(pair.globe, "address_changed") == [f"acme is reached at {pair.acme.address}"]
        assert pair.globe.acts("partner.moved")[0]["detail"]["before"] == before
        assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["unchanged"]
        pair.globe.project.received.disable("summer")
        assert pair.acme.project.feeds.all()[0]["partners"] == {"globe": "disabled"}
        assert pair.acme.project.partners.connect_id().address == pair.acme.address


@pytest.mark.feature("OP12")
def test_an_address_at_which_the_key_does_not_answer_is_not_used(living: Pair) -> None:
    pair = living
    third = Side(pair.acme.folder, "hooli", now=pair.clock)
    with both(pair), third.serving():
        pair.acme.node.set(address=third.address)
        for _ in range(2):
            pair.post()
        assert pair.globe.project.partners.get("acme").peer_address == pair.acme.address
        assert alerts(pair.globe, "address_changed") == []
        pair.acme.node.set(address=pair.acme.address)  # a slip, taken back
        pair.post()
        assert pair.globe.project.partners.get("acme").moves_to is None


@pytest.mark.feature("OP12")
def test_an_address_that_may_not_be_called_is_refused(living: Pair) -> None:
    pair = living
    with both(pair):
        pair.acme.node.set(address="169.254.169.254:80")
        pair.post()
    assert pair.globe.project.partners.get("acme").moves_to is None
    assert pair.globe.acts("letter.connect.details") == []


@pytest.mark.feature("OP12")
def test_a_node_may_begin_and_cease_to_be_called(quiet_receiver: Pair, person: type[Person]) -> None:
    pair = quiet_receiver
    prepared(pair, person)
    pair.globe.node.set(address=pair.globe.address)
    with pair.globe.serving():
        pair.globe.post()
        pair.acme.post()
        assert pair.acme.project.partners.get("globe").peer_address == pair.globe.address
        pair.globe.node.set(address="")
        pair.globe.post()
    assert pair.acme.project.partners.get("globe").peer_address == ""


@pytest.mark.feature("OP12")
@pytest.mark.feature("CN2")
@pytest.mark.parametrize("moved", ["asked", "asks"])
def test_a_side_that_moves_while_a_request_waits_is_reached(idle_pair: Pair, person: type[Person], moved: str) -> None:
    pair = idle_pair
    for side in (pair.acme, pair.globe):
        side.people([person("a", "a@example.com")])
    with both(pair):
        request(pair.globe, pair.acme, alias="acme")
    side, other = (pair.acme, pair.globe) if moved == "asked" else (pair.globe, pair.acme)
    assert side.node.set(address=move(side), organisation="Another")["told"] == [other.name]
    with both(pair):
        pair.post()
        assert f"{side.name} calls itself Another now" in alerts(other, "organisation_renamed")
        if moved == "asks":  # nobody here has accepted it yet
            assert other.project.partners.get(side.name).moves_to == {"address": side.address, "proxy": False}
        pair.acme.project.partners.accept("globe")
        assert alerts(pair.acme, "connection_request")[0].endswith("(settled)")
        pair.post()
        assert other.project.partners.get(side.name).peer_address == side.address
        assert (status(pair.acme), status(pair.globe)) == ({"globe": "active"}, {"acme": "active"})


@pytest.mark.feature("OP12")
def test_partners_see_another_name(living: Pair) -> None:
    pair = living
    with both(pair):
        pair.acme.node.set(organisation="Acme Holding")
        pair.post()
    (row,) = pair.globe.project.reports.partners()
    assert (row["alias"], row["organisation"]) == ("acme", "Acme Holding")
    assert alerts(pair.globe, "organisation_renamed") == ["acme calls itself Acme Holding now"]


@pytest.mark.feature("OP12")
def test_what_is_no_address_changes_nothing(living: Pair) -> None:
    node = living.acme.node
    wrong: list[dict[str, Any]] = [{"address": "nowhere"}, {"listen": "foo"}, {"organisation": " "}]
    for settings in wrong:
        with pytest.raises((InvalidInput, InvalidConnectId)):
            node.set(**settings)
    assert (node.home.config.address, node.home.config.organisation) == (living.acme.address, "Acme")
    assert node.set()["told"] == []
    assert living.acme.acts("node.set") == []
    assert node.set(listen="127.0.0.1:1")["told"] == []


@pytest.mark.feature("OP12")
def test_a_setting_that_another_command_changes_meanwhile_stays(
    idle_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = idle_pair.acme.node
    with Node.open(idle_pair.acme.folder / "acme") as other:
        begin = node.home.database.begin

        def late() -> Any:
            monkeypatch.undo()
            other.set(listen="127.0.0.1:9999")
            return begin()

        monkeypatch.setattr(node.home.database, "begin", late)
        node.set(address="fern.example:8470")
        assert (node.home.config.listen, node.home.config.address) == ("127.0.0.1:9999", "fern.example:8470")
