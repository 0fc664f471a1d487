"""A partner's address leads to the partner, or nowhere: never into this machine or a network of ours."""

import ipaddress
import socket
import threading
from typing import Any

import pytest

from node.adhoc.session import Party
from node.errors import AddressNotAllowed
from node.transport import addresses
from node.transport.addresses import AllowedAddresses
from node.transport.client import Peer, PeerClient

PUBLIC = ["93.184.216.34:1", "[2606:4700::1111]:1", "[64:ff9b::5db8:d822]:1"]
PRIVATE = ["10.0.0.5:1", "192.168.1.1:1", "172.16.0.1:1", "100.64.0.1:1", "[fd00::1]:1", "[::ffff:10.0.0.5]:1"]
LOOPBACK = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1", "LocalHost.:1"]
NEVER = [
    "0.0.0.0:1", "[::]:1", "169.254.169.254:1", "[fe80::1]:1", "[fec0::1]:1", "224.0.0.1:1", "[ff02::1]:1",
    "192.0.0.8:1", "192.88.99.1:1", "168.63.129.16:1", "100.100.100.200:1", "[fd00:ec2::254]:1", "[3fff::1]:1",
    "[64:ff9b:1::7f00:1]:1", "[2001:20::1]:1", "[5f00::1]:1", "[100::1]:1", "[::ffff:168.63.129.16]:1",
    "255.255.255.255:1", "[::ffff:169.254.169.254]:1", "[2002:a9fe:a9fe::]:1", "[64:ff9b::a9fe:a9fe]:1",
]  # fmt: skip


def refused(allowed: AllowedAddresses, *addresses: str) -> list[str]:
    found = []
    for address in addresses:
        try:
            allowed.check(address)
        except AddressNotAllowed:
            found.append(address)
    return found


def test_a_node_calls_public_addresses_only() -> None:
    everything = [*PUBLIC, *PRIVATE, *LOOPBACK, *NEVER]
    assert refused(AllowedAddresses(), *everything) == [*PRIVATE, *LOOPBACK, *NEVER]


def test_an_operator_opens_private_networks_and_nothing_else() -> None:
    assert refused(AllowedAddresses.of("", private=True), *PUBLIC, *PRIVATE, *LOOPBACK, *NEVER) == [*LOOPBACK, *NEVER]


@pytest.mark.parametrize("own", ["127.0.0.1:8471", "[::1]:8471", "localhost:8471"])
def test_a_node_whose_own_address_is_loopback_calls_loopback(own: str) -> None:
    allowed = AllowedAddresses.of(own, private=False)
    assert refused(allowed, *PUBLIC, *PRIVATE, *LOOPBACK, *NEVER) == [*PRIVATE, *NEVER]


def test_the_address_of_a_connect_id_that_was_entered_may_be_called_and_none_beside_it() -> None:
    allowed = AllowedAddresses.of("node.example:1", private=False, chosen="10.0.0.5:8470")
    refusals = ["10.0.0.5:9", "10.0.0.6:8470", "127.0.0.1:8470"]  # at another port another service may listen
    assert refused(allowed, "10.0.0.5:8470", *refusals) == refusals
    assert allowed.resolve("10.0.0.5:8470") == [("10.0.0.5", 8470)]
    assert refused(AllowedAddresses.of("", private=False, chosen="0.0.0.0:1"), "0.0.0.0:1") == ["0.0.0.0:1"]


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (["127.0.0.1"], []),
        (["::ffff:10.1.1.1"], []),
        (["169.254.169.254", "93.184.216.34"], ["93.184.216.34"]),
        (["93.184.216.34", "2606:4700::1111"], ["93.184.216.34", "2606:4700::1111"]),
    ],
)
@pytest.mark.parametrize("chosen", ["", "partner.example:8470"])
def test_what_a_name_stands_for_is_checked_even_if_the_name_was_entered(
    found: list[str], left: list[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs a name's DNS decides where it leads."""

    def looked_up(_host: str, port: int, **_more: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    allowed = AllowedAddresses.of("node.example:1", private=False, chosen=chosen)
    if left:
        assert allowed.resolve("partner.example:8470") == [(each, 8470) for each in left]
    else:
        with pytest.raises(AddressNotAllowed):
            allowed.resolve("partner.example:8470")


def test_a_name_that_nobody_answers_for_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ends.wait(10) and [])
    monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match="in time"):
        AllowedAddresses().resolve("partner.example:8470")
    ends.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1"])
def test_no_connection_is_tried_to_what_may_not_be_called(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        address = f"{host}:{listening.getsockname()[1]}"
        with (
            PeerClient(Party(), Peer(address, Party().key, allowed=AllowedAddresses()), patience=0.1) as client,
            pytest.raises(AddressNotAllowed),
        ):
            client.get("/vesica/1/letters")
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_every_ip_address_is_of_one_sort() -> None:
    """No address is both refused as internal and called as public."""
    for text in (*PUBLIC, *PRIVATE, *NEVER):
        ip = ipaddress.ip_address(text.rpartition(":")[0].strip("[]"))
        assert AllowedAddresses(loopback=True, private=True).allows(ip, 1) == (text not in NEVER)
