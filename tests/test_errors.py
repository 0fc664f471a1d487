"""docs/errors.md has every error code, what it means and what to do."""

from pathlib import Path

import errors
import pytest
from errors import DO, MEANS, codes, means, to_do

from protocol.errors import HINTS, REMEDIES

CODES = codes()


def test_the_page_is_up_to_date() -> None:
    assert errors.main(["--check"]) == 0


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_is_explained(code: str) -> None:
    assert means(code, CODES[code]), "a docstring of its class, or a line in tests/scripts/errors.py"
    assert to_do(code), "a hint of the protocol, or a line in tests/scripts/errors.py"


def test_nothing_is_explained_that_is_not_there_or_explained_twice() -> None:
    assert MEANS.keys() | DO.keys() <= CODES.keys()
    assert DO.keys() & HINTS.keys() == set()
    assert {code for code in MEANS if any(CODES[code].docstrings)} <= {"failed", "error"}


def test_a_remedy_belongs_to_a_code_that_there_is() -> None:
    assert REMEDIES.keys() <= CODES.keys()


def test_codes_are_found_wherever_they_are_written(tmp_path: Path) -> None:
    for package in ("psi", "protocol", "node", "cli"):
        (tmp_path / package).mkdir()
    (tmp_path / "node" / "a.py").write_text(
        """
LOST = "lost"
class Strange(VesicaError):
    "Something strange."
    code = "strange"
class Late(RemoteProtocolError):
    def __init__(self, message):
        super().__init__("late", message)
raise RefusedToPartner("no_way", "no")
raise errors.RemoteProtocolError("broken", f"{x}", hint="mend it")
raise RefusedToPartner(LOST, "it is lost")
row = {"code": "over"}
"""
    )
    (tmp_path / "cli" / "main.py").write_text('_fail(as_json, "typo", "what?", "")')
    found = codes(tmp_path)
    assert {code: (each.refuses, each.blames) for code, each in found.items()} == {
        "strange": (False, False),
        "late": (False, True),
        "no_way": (True, False),
        "broken": (False, True),
        "lost": (True, False),
        "over": (False, False),
        "typo": (False, False),
    }
    assert means("strange", found["strange"]) == "something strange"
