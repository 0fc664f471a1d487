"""Every handler that the wiring names is there."""

from pkgutil import resolve_name

import pytest

from node import wiring
from node.exchanges.handlers import Handler
from protocol.states import PARTS

NAMES = [
    name
    for table in (
        wiring.LETTERS,
        wiring.MAY_LEAVE,
        wiring.JOBS,
        wiring.PEOPLE_CHANGED,
        wiring.OUTGOING,
        wiring.INCOMING,
        wiring.REFERENCES,
        wiring.SEGMENT_USED_BY,
        wiring.SEGMENT_USED_ELSEWHERE,
        wiring.SEGMENT_CHANGED,
        wiring.SEGMENT_DELETED,
        wiring.SEGMENTS_FROM_ELSEWHERE,
    )
    for name in table.values()
] + [
    name
    for hooks in (
        wiring.ENDED,
        wiring.ALLOWED,
        wiring.REACHED,
        wiring.TAKES,
        wiring.UPKEEP,
        wiring.UPKEEP_OF_A_PROJECT,
    )
    for name in hooks
]


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_a_handler_is_there(name: str) -> None:
    assert callable(resolve_name(f"node.{name}"))


def test_every_part_of_every_kind_of_exchange_has_a_handler() -> None:
    assert set(wiring.EXCHANGES) == {(kind, part) for kind, parts in PARTS.items() for part in parts}


@pytest.mark.parametrize("kind", PARTS)
def test_one_part_of_a_kind_opens_what_a_partner_asks_for(kind: str) -> None:
    found = [resolve_name(f"node.{name}") for (each, _), name in wiring.EXCHANGES.items() if each == kind]
    assert all(isinstance(handler, Handler) for handler in found)
    assert sum(handler.open is not None for handler in found) == 1
