"""Two nodes of which one attacks the other, and universes that are padded to 128 points."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from attacks import KNOWN, NOISY, Attack
from sides import Pair, Person


@pytest.fixture(autouse=True)
def _padded(small_universes: None) -> None:
    """Have small universes in every test."""


@pytest.fixture
def attack(pair: Pair, person: type[Person]) -> Callable[..., Attack]:
    """Return what prepares both nodes on some terms."""

    def prepare(acme: Sequence[int] = range(20), out: Sequence[int] = (), **terms: Any) -> Attack:
        def people(side: str, numbers: Sequence[int]) -> list[Any]:
            return [
                person(
                    f"{side}{n}", f"person{n}@example.com", f"+44740000{n:04}", "n" if side == "a" and n in out else ""
                )
                for n in numbers
            ]

        pair.prepare(
            people("a", acme), people("g", KNOWN), {"all": [f"a{n}" for n in acme]}, **{**NOISY, "budget": "2", **terms}
        )
        return Attack(pair)

    return prepare
