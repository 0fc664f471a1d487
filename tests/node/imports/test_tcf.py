"""TCF strings: written here bit by bit as the specification lays them out, read back, broken in every way."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from node.errors import InvalidInput
from node.imports.tcf import MAX_VENDOR, BrokenString, Needed, decode, read_strings
from node.people.consent import CODES, UNKNOWN

UPDATED = 1_700_000_000
Ranges = Sequence[tuple[int, int]]


class Bits:
    def __init__(self) -> None:
        self.text = ""

    def add(self, value: int, width: int) -> "Bits":
        self.text += format(value, f"0{width}b")
        return self

    def ids(self, wanted: Sequence[int], width: int) -> "Bits":
        self.text += "".join("1" if each in wanted else "0" for each in range(1, width + 1))
        return self

    def ranges(self, ranges: Ranges) -> "Bits":
        self.add(len(ranges), 12)
        for first, last in ranges:
            self.add(first != last, 1).add(first, 16)
            if first != last:
                self.add(last, 16)
        return self

    def vendors(self, vendors: Sequence[int], *, as_ranges: bool) -> "Bits":
        highest = max(vendors, default=0)
        self.add(highest, 16).add(as_ranges, 1)
        return self.ranges(runs(vendors)) if as_ranges else self.ids(vendors, highest)

    def encoded(self) -> str:
        padded = self.text + "0" * (-len(self.text) % 8)
        data = int(padded, 2).to_bytes(len(padded) // 8, "big")
        return base64.urlsafe_b64encode(data).decode().rstrip("=")


def runs(vendors: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for each in sorted(vendors):
        if found and found[-1][1] == each - 1:
            found[-1] = (found[-1][0], each)
        else:
            found.append((each, each))
    return found


def core(
    purposes: Sequence[int] = (1, 3, 4),
    vendors: Sequence[int] = (),
    *,
    updated: int = UPDATED,
    as_ranges: bool = False,
    restrictions: Sequence[tuple[int, int, Ranges]] = (),
    version: int = 2,
) -> Bits:
    """Lay out a core string as the specification's table does, field by field."""
    bits = Bits().add(version, 6).add((updated - 60) * 10, 36).add(updated * 10, 36)
    bits.add(31, 12).add(640, 12).add(1, 6).add(4, 6).add(13, 6).add(112, 12).add(5, 6).add(1, 1).add(0, 1)
    bits.ids([1], 12).ids(purposes, 24).ids([2, 7], 24).add(0, 1).add(6, 6).add(2, 6)
    bits.vendors(vendors, as_ranges=as_ranges).vendors([2, 9], as_ranges=not as_ranges)
    bits.add(len(restrictions), 12)
    for purpose, kind, ranges in restrictions:
        bits.add(purpose, 6).add(kind, 2).ranges(ranges)
    return bits


def disclosed(vendors: Sequence[int]) -> str:
    return Bits().add(1, 3).vendors(vendors, as_ranges=False).encoded()


def said(text: str, needed: Needed) -> str:
    codes, _ = read_strings([text], needed)
    return CODES[codes[0]]


@pytest.mark.feature("CO1")
def test_a_string_from_the_specification() -> None:
    found = decode("COvFyGBOvFyGBAbAAAENAPCAAOAAAAAAAAAAAEEUACCKAAA")
    assert found.purposes == {1, 2, 3}
    assert [each for each in range(1, 100) if each in found.vendors] == [2, 6, 8]
    assert found.created == found.updated == 1_582_243_059
    assert found.disclosed is None


@settings(max_examples=examples(60), deadline=None)
@given(
    st.sets(st.integers(1, 24)),
    st.sets(st.integers(1, 900), max_size=40),
    st.booleans(),
    st.integers(1_600_000_000, 1_900_000_000),
    st.none() | st.sets(st.integers(1, 900), max_size=20),
)
def test_what_is_written_is_read(
    purposes: set[int], vendors: set[int], as_ranges: bool, updated: int, told: set[int] | None
) -> None:
    text = core(sorted(purposes), sorted(vendors), updated=updated, as_ranges=as_ranges).encoded()
    found = decode(text if told is None else f"{text}.{disclosed(sorted(told))}")
    assert (found.purposes, found.created, found.updated) == (frozenset(purposes), updated - 60, updated)
    assert {each for each in range(1, 1_000) if each in found.vendors} == vendors
    assert (found.disclosed is None) == (told is None)
    if told is not None and found.disclosed is not None:
        assert {each for each in range(1, 1_000) if each in found.disclosed} == told


@pytest.mark.feature("CO1")
def test_all_needed_purposes_and_the_vendor_make_a_yes() -> None:
    text = core([1, 3, 4], [755]).encoded()
    assert said(text, Needed()) == "y"
    assert said(text, Needed(vendor=755)) == "y"
    assert said(text, Needed(vendor=756)) == "n"
    assert said(core([1, 4], [755]).encoded(), Needed()) == "n"
    assert said(core([1, 4]).encoded(), Needed(purposes=(1, 4))) == "y"
    assert said("", Needed()) == ""
    assert read_strings([text], Needed())[1].tolist() == [UPDATED]


@pytest.mark.feature("CO1")
@pytest.mark.parametrize(("kind", "word"), [(0, "n"), (1, "y"), (2, "n")])
def test_a_publisher_can_forbid_a_purpose_to_a_vendor(kind: int, word: str) -> None:
    text = core(vendors=[7, 755], restrictions=[(4, kind, [(700, 800)])]).encoded()
    assert said(text, Needed(vendor=755)) == word
    assert said(text, Needed(vendor=7)) == "y"
    assert said(text, Needed()) == "y"


@pytest.mark.feature("CO1")
def test_a_vendor_that_nobody_was_told_of_has_no_consent() -> None:
    text = core(vendors=[755]).encoded()
    assert said(f"{text}.{disclosed([755])}", Needed(vendor=755)) == "y"
    assert said(f"{text}.{disclosed([754])}", Needed(vendor=755)) == "n"
    publisher = Bits().add(3, 3).ids([1], 24).ids([], 24).add(0, 6).encoded()
    assert said(f"{text}.{publisher}", Needed(vendor=755)) == "y"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "no consent",
        "é",
        "C",
        core().encoded()[:-6],
        core(version=1).encoded(),
        core().encoded() + ".",
        core().encoded() + "." + disclosed([9])[:3],
        core(restrictions=[(4, 0, [(9, 8)])]).encoded(),
        core(restrictions=[(4, 0, [(0, 8)])]).encoded(),
        "C" * (1 << 17),
    ],
)
def test_a_broken_string_is_told_apart(text: str) -> None:
    with pytest.raises(BrokenString):
        decode(text)
    codes, at = read_strings([text, core().encoded()], Needed())
    assert codes.tolist() == [UNKNOWN, CODES.index("y")]
    assert at.tolist() == [0, UPDATED]


@settings(max_examples=examples(300), deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="ABCDEFabcdef0123456789-_.", max_size=400), st.data())
def test_nothing_but_the_counted_reason_comes_of_any_text(text: str, data: st.DataObject) -> None:
    whole = core([1], list(range(1, 60)), restrictions=[(1, 1, [(1, 9)])]).encoded()
    place = data.draw(st.integers(0, len(whole)))
    for each in (text, whole[:place] + text, whole[:place] + text + whole[place:], f"{whole}.{text}"):
        codes, at = read_strings([each], Needed(vendor=3))
        assert codes[0] in (0, UNKNOWN, CODES.index("y"), CODES.index("n"))
        assert 0 <= at[0] < 1 << 36
    assert isinstance(at, np.ndarray)


def test_settings_that_are_none() -> None:
    refused: tuple[dict[str, Any], ...] = (
        {"purposes": ()},
        {"purposes": (0,)},
        {"purposes": (25,)},
        {"vendor": 0},
        {"vendor": MAX_VENDOR + 1},
    )
    for settings_ in refused:
        with pytest.raises(InvalidInput):
            Needed(**settings_)
    assert Needed(vendor=755).basis == "TCF purposes 1 3 4 vendor 755"
