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
    NotAllowed,
    NotFound,
    RefusedByPartner,
    WrongPeerKey,
)
from node.node import Node
from node.partners.connections import Connection, ConnectionStatus, change, named, next_step, note, with_status


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
            assert heard == []  # not one request reached it
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
