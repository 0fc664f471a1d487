"""What tests of partners share: people, requests, feeds over a connection, and commands typed at a terminal."""

import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sides import EMAIL, HERE, Pair, Person, Side

from node.node import Node
from node.partners import connecting
from node.partners.connections import Connection, ConnectionStatus, change, named
from node.transport import paths
from node.transport.client import Peer, PeerClient
from protocol.agreement import Agreement
from protocol.letters import Disconnect, Letter
from protocol.wire import pack

TERMS = {"minimum_universe": 1, "minimum_segment": 1, "minimum_overlap": 1, "epsilon": "none"}


def requested_by(node: Node, organisation: str) -> Connection:
    """Return a connection that an organisation has asked for, with nobody behind it."""
    scope, letter = node.project().scope, organisation[:1].encode()
    ours = connecting.offer(scope, bytes(32))
    theirs = replace(ours, organisation=organisation, key=letter * 32, project=letter * 16, address="")
    agreement = Agreement.merge(theirs, ours, connection=letter * 16, made=node.home.now())
    with node.home.database.begin() as tx:
        connecting.store(scope, tx, theirs, agreement, bytes(64))
    return named(scope, organisation.lower())


def accepted(node: Node, requested: Connection) -> Connection:
    """Return the same connection once it is active."""
    with node.home.database.begin() as tx:
        change(node.home, tx, requested, status=ConnectionStatus.ACTIVE, our_signature=bytes(64))
    return named(node.project().scope, requested.alias)


def people(person: type[Person], side: str, first: int, last: int) -> list[Person]:
    return [person(f"{side}{number}", f"person{number}@example.com") for number in range(first, last)]


def prepared(pair: Pair, person: type[Person], **terms: Any) -> None:
    """Connect, with a segment of four people on each side, two of whom the other knows."""
    vip = [f"a{n}" for n in range(2, 6)]
    pair.prepare(people(person, "a", 0, 6), people(person, "g", 4, 10), {"vip": vip}, **terms)
    pair.globe.segment("loyal", [f"g{n}" for n in range(4, 8)])


def share(sender: Side, receiver: Side, feed: str, segment: str) -> None:
    sender.project.feeds.create(feed, segments=[segment], namespaces=[EMAIL], partners=[receiver.name])
    sender.project.feeds.publish(feed)
    receiver.post()
    receiver.project.received.enable(feed)
    sender.post()
    assert [run["status"] for run in sender.project.feeds.sync(feed)] == ["done"]


def request(requester: Side, accepter: Side, alias: str | None = None) -> str:
    partners = requester.project.partners
    return partners.request(partners.look_up(accepter.project.partners.connect_id().encode()), alias=alias)


def status(side: Side) -> dict[str, str]:
    return {row["alias"]: row["status"] for row in side.project.reports.partners()}


def kinds(side: Side) -> list[str]:
    return [alert.kind for alert in side.project.alerts.all()]


def alerts(side: Side, kind: str) -> list[str]:
    return [alert.text for alert in side.project.alerts.all() if alert.kind == kind]


def left(side: Side) -> list[str]:
    """Return the files of received feeds, caches and spools in a node's home."""
    folders = [side.project.scope.data_directory / "received", side.node.home.path / "cache"]
    return [str(path) for folder in folders if folder.exists() for path in folder.rglob("*") if path.is_file()]


def call(caller: Node, at: Side, how: str, connection: Connection) -> None:
    """Ask for a connection's letters, deliver or confirm one, open an exchange, or go on with one."""
    end = Letter.of("connect.disconnect", Disconnect(reason=""), connection=bytes.fromhex(connection.id), number=1)
    with PeerClient(caller.home, Peer(at.address, at.node.key, allowed=HERE)) as client:
        if how == "fetch":
            client.get(f"{paths.LETTERS}?connection={connection.id}&wait=0&after=0")
        elif how == "deliver":
            client.post(paths.LETTERS, end.encode())
        elif how == "confirm":
            client.post(f"{paths.LETTERS}/ack", pack({"connection": connection.id, "number": 0}))
        elif how == "go on":
            client.get(f"{paths.EXCHANGES}/{bytes(16).hex()}")
        else:
            client.post(paths.EXCHANGES, at.opening(connection).encode())


class Typed(io.StringIO):
    """What a person types at a terminal."""

    def isatty(self) -> bool:
        return True


class Commands:
    """Tests that run commands on nodes whose clock is this machine's, as the commands' own is."""

    @pytest.fixture
    def clock(self) -> Callable[[], int]:
        return lambda: int(time.time())
