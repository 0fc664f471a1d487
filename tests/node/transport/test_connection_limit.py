"""Whoever opens connections and says nothing ends its own; partners stay."""

import resource
from functools import partial

import pytest

from node.errors import Failure
from node.transport import connection_limit
from node.transport.connection_limit import ConnectionLimit, Slot, connections_at_most


class Slots:
    """Connections by name, and which of them were ended."""

    def __init__(self, most: int = 4, by_address: int = 2) -> None:
        self.limit = ConnectionLimit(most, by_address)
        self.ended: list[str] = []

    def admit(self, name: str, host: str) -> Slot | None:
        return self.limit.admit(host, partial(self.ended.append, name))


def test_the_oldest_silent_connection_of_an_address_makes_room_for_its_next() -> None:
    slots = Slots()
    for name in "abc":
        assert slots.admit(name, "10.0.0.1") is not None
    assert slots.ended == ["a"]
    assert slots.admit("d", "10.0.0.2") is not None
    assert slots.ended == ["a"]
    assert len(slots.limit) == 3


def test_where_all_is_full_the_oldest_silent_connection_of_any_address_makes_room() -> None:
    slots = Slots()
    for number, name in enumerate("abcdef"):
        assert slots.admit(name, f"10.0.0.{number}") is not None
    assert slots.ended == ["a", "b"]
    assert len(slots.limit) == 4


def test_a_connection_on_which_a_partner_has_spoken_stays() -> None:
    slots = Slots()
    partners = [slots.admit(name, f"10.0.0.{name}") for name in "12"]
    for number, slot in enumerate(partners):
        assert slot is not None
        slot.authenticate(bytes([number]))
    for number in range(20):
        slots.admit(f"silent {number}", f"10.0.1.{number}")
    assert slots.ended == [f"silent {number}" for number in range(18)]
    assert len(slots.limit) == 4


def test_partners_too_have_a_limit_by_address_and_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limit, "BY_CALLER", 1)
    slots = Slots()
    for name in "ab":
        slot = slots.admit(name, f"10.0.0.{ord(name)}")
        assert slot is not None
        slot.authenticate(b"one key")
    for name in "cde":
        slots.admit(name, f"10.0.0.{ord(name)}")
    assert slots.ended == ["b"]  # its second connection counts as any stranger's
    full = Slots()
    for name in "ab":
        slot = full.admit(name, "10.0.0.1")
        assert slot is not None
        slot.authenticate(name.encode())
    assert full.admit("c", "10.0.0.1") is None
    assert full.admit("d", "10.0.0.2") is not None


def test_who_leaves_makes_room() -> None:
    slots = Slots()
    for _ in range(10):
        slot = slots.admit("a", "10.0.0.1")
        assert slot is not None
        slot.free()
        slot.free()
    assert slots.ended == []
    assert len(slots.limit) == 0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_a_network_of_ipv6_counts_as_one_address(first: str, second: str, same: bool) -> None:
    slots = Slots(by_address=1)
    slots.admit("a", first)
    slots.admit("b", second)
    assert slots.ended == (["a"] if same else [])


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [(256, 256, 128, None), (256, 4096, 200, 1024), (1024, 4096, 200, None), (256, 300, 172, 300), (64, -1, 200, 1024)],
)
def test_descriptors_are_kept_for_the_nodes_own_work(
    soft: int, hard: int, most: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_set: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: was_set.append(both))
    assert connections_at_most() == most
    assert was_set == ([] if raised is None else [(raised, hard)])


def test_a_service_without_descriptors_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    with pytest.raises(Failure) as error:
        connections_at_most()
    assert "ulimit" in error.value.hint
