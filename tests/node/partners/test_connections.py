"""Only the partner itself speaks for a connection; another key in its place is an alert."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from partnering import alerts, call, people, prepared, request, share, status
from sides import EMAIL, Pair, Person, Side

from node.access.audit import Result
from node.errors import (
    AddressNotAllowed,
    NotAllowed,
    NotFound,
    RefusedByPartner,
    WrongPeerKey,
)
from node.node import Node
from node.partners import connecting
from node.partners.connections import Connection, ConnectionStatus, calling, change, named, next_step, note, with_status
from node.partners.letters import Letters
from node.transport import paths


@pytest.mark.feature("CN7")
def test_another_key_at_the_partners_address_blocks_traffic_and_alerts(
    idle_pair: Pair, tmp_path: Path, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = idle_pair
    impostor = Side(tmp_path, "mallory", now=pair.clock)
    impostor.bound = pair.globe.bound
    with pair.acme.serving():
        with pair.globe.serving():
            prepared(pair, person)
            share(pair.acme, pair.globe, "summer", "vip")
            pair.acme.project.feeds.create("winter", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
        heard: list[str] = []

        async def hear(scope: Any, receive: Any, send: Any) -> None:
            heard.append(scope["path"])
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        monkeypatch.setattr("sides.answering", lambda home: hear)
        with impostor.serving():
            for _ in range(2):
                with pytest.raises(WrongPeerKey) as wrong:
                    pair.acme.project.feeds.sync()
                with pytest.raises(WrongPeerKey):
                    pair.acme.project.feeds.estimate("summer")
            assert "Connect ID" in wrong.value.hint
            pair.acme.project.feeds.publish("winter")  # kept here
            pair.acme.post()
            assert set(heard) == {paths.KEYS}  # it is asked whether it has followed the pinned key, and nothing else
            assert pair.acme.project.feeds.show("winter")["partners"][0]["status"] == "pending"
            (text,) = alerts(pair.acme, "key_changed")
            assert text.startswith("globe answers with another key")
            (denied,) = pair.acme.acts("partner.call", Result.DENY)
            assert (denied["target"], denied["detail"]["error"]["code"]) == ("globe", "wrong_key")
            pair.clock.advance(days=1)
            pair.acme.post()
            assert len(alerts(pair.acme, "key_changed")) == 2
        monkeypatch.undo()
        with pair.globe.serving():  # the true one is back, and gets what waited
            pair.acme.post()
            assert [row["name"] for row in pair.globe.project.received.all()] == ["summer", "winter"]
    impostor.node.close()


@pytest.mark.feature("CN7")
@pytest.mark.parametrize("how", ["fetch", "deliver", "open"])
@pytest.mark.parametrize("known", [False, True])
def test_a_request_that_another_key_signs_for_the_connection_is_refused_and_alerts(
    ready: Pair, third: Side, person: type[Person], how: str, known: bool
) -> None:
    ready.connect()
    acme = ready.acme
    connection = acme.project.partners.get("globe")
    if known:  # also a partner may not speak for another one
        third.people(people(person, "h", 0, 3))
        request(third, acme)
        acme.project.partners.accept("hooli")
    for _ in range(2):
        with pytest.raises(RefusedByPartner) as refused:
            call(third.node, acme, how, connection)
        assert refused.value.code == "unwelcome"
    assert status(acme)["globe"] == "active"
    (text,) = alerts(acme, "key_changed")
    assert text.startswith("globe calls with another key")
    (denied,) = acme.acts("partner.called", Result.DENY)
    assert denied["target"] == "globe"
    call(ready.globe.node, acme, "fetch", connection)  # the partner itself is not kept out


@pytest.mark.feature("CN7")
def test_a_stranger_that_names_no_connection_raises_no_alert(ready: Pair, third: Side) -> None:
    ready.connect()
    unknown = replace(ready.acme.project.partners.get("globe"), id="ab" * 16)
    for how in ("fetch", "deliver", "open"):
        with pytest.raises(RefusedByPartner) as refused:
            call(third.node, ready.acme, how, unknown)
        assert refused.value.code == "unwelcome"
    assert alerts(ready.acme, "key_changed") == []


@pytest.mark.parametrize(
    ("status", "act"),
    [
        (ConnectionStatus.PENDING, "node.sync"),
        (ConnectionStatus.REQUESTED, "partner.accept"),
        (ConnectionStatus.ACTIVE, None),
        (ConnectionStatus.DECLINED, None),
        (ConnectionStatus.DISCONNECTED, None),
        (ConnectionStatus.FAILED, "partner.request"),
    ],
)
def test_what_can_be_done_next(requested: Connection, status: ConnectionStatus, act: str | None) -> None:
    words, remedy = next_step(replace(requested, status=status))
    assert (remedy and remedy.act) == act
    assert bool(words) is (status is not ConnectionStatus.ACTIVE)


def test_a_connection_is_found_by_alias_and_status(node: Node, requested: Connection) -> None:
    scope = node.project().scope
    assert named(scope, "globe", status=ConnectionStatus.REQUESTED) == requested
    assert with_status(scope, ConnectionStatus.ACTIVE, ConnectionStatus.PENDING) == []
    assert with_status(scope, ConnectionStatus.REQUESTED) == with_status(scope) == [requested]
    with pytest.raises(NotFound):
        named(scope, "hooli")
    with pytest.raises(NotAllowed, match="requested, not active") as refused:
        named(scope, "globe", status=ConnectionStatus.ACTIVE)
    assert refused.value.remedy is not None
    assert refused.value.remedy.arguments == {"name": "globe"}


def test_what_is_noted_beside_the_status_is_no_change(node: Node, requested: Connection, clock: Clock) -> None:
    scope = node.project().scope
    clock.advance(seconds=5)
    with node.home.database.begin() as tx:
        note(tx, requested, restored=clock())
    noted = named(scope, "globe")
    assert (noted.restored, noted.changed) == (clock(), requested.changed)
    with node.home.database.begin() as tx:
        change(node.home, tx, noted, status=ConnectionStatus.DECLINED)
    assert named(scope, "globe").changed == clock()


@pytest.mark.feature("CN3")
@pytest.mark.parametrize("address", ["127.0.0.1:9", "10.0.0.5:8470", "169.254.169.254:80", "[::ffff:127.0.0.1]:9"])
def test_a_request_whose_address_leads_into_our_network_cannot_be_accepted(
    node: Node, requested: Connection, address: str
) -> None:
    with node.home.database.begin() as tx:
        note(tx, requested, peer_address=address)
    with pytest.raises(AddressNotAllowed):
        node.project().partners.accept("globe")
    assert named(node.project().scope, "globe").status is ConnectionStatus.REQUESTED
    with node.home.database.begin() as tx:
        note(tx, requested, peer_address="93.184.216.34:9", status=ConnectionStatus.ACTIVE)
        note(tx, requested, peer_address=address)  # by whatever way it came later
    scope = node.project().scope
    with pytest.raises(AddressNotAllowed), calling(scope, named(scope, "globe"), patience=0.1) as client:
        client.get("/")


def test_the_address_of_a_connect_id_that_our_operator_entered_is_called_until_the_partner_names_another(
    pair_type: type[Pair], tmp_path: Path, clock: Clock, person: type[Person]
) -> None:
    """Globe has no address, so that it may call no loopback address but the one that it was given."""
    pair = pair_type(tmp_path, clock, receiver_address=False)
    with pair.acme.serving():
        pair.acme.people(people(person, "a", 0, 1))
        pair.globe.people(people(person, "g", 0, 1))
        assert request(pair.globe, pair.acme) == "acme"
        scope, row = pair.globe.project.scope, pair.globe.project.partners.get("acme")
        Letters(scope).fetch(row)
        with pair.globe.node.home.database.begin() as tx:
            note(tx, row, peer_address="127.0.0.2:9")
        with pytest.raises(AddressNotAllowed):
            Letters(scope).fetch(named(scope, "acme"))


def test_a_project_offers_so_many_namespaces(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"n{number:02}/opaque-v1" for number in range(33)]
    monkeypatch.setattr(connecting, "namespaces", lambda scope, tx: names)
    with pytest.raises(NotAllowed, match="at most 32"):
        connecting.offer(node.project().scope, bytes(32))
    names.pop()
    assert len(connecting.offer(node.project().scope, bytes(32)).namespaces) == 32
