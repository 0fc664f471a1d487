"""TCF strings: what a person answered in a consent banner, as IAB Europe's Transparency & Consent Framework v2.2 and v2.3
writes it.

Source: IAB Tech Lab, "Consent string and vendor list formats v2" (core string, vendor sections, publisher restrictions,
segments). Purposes are those of the TCF Policies, appendix A. Only consent counts here, never legitimate interest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from psi.values import U8

from ..errors import InvalidInput
from ..people.consent import CODES, UNKNOWN

# Who receives a segment stores it with its own records of a person (1, store or access information on a device), makes
# it part of a profile (3, create profiles for personalised advertising) and chooses advertisements by it (4, use
# profiles to select personalised advertising). Matching itself is feature 1, which asks for no consent.
PURPOSES = (1, 3, 4)

MAX_PURPOSE, MAX_VENDOR = 24, (1 << 16) - 1  # what the fields have room for
MAX_TEXT = 1 << 16  # characters; two vendor sections of one bit a vendor are a third of it
DECISECONDS = 10

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_SEXTETS = {ord(sign): format(value, "06b") for value, sign in enumerate(_ALPHABET)}
_DISCLOSED = 1  # the segment that lists the vendors that a person was shown
_NOT_ALLOWED, _NEEDS_INTEREST = 0, 2  # restriction types: the publisher forbids the purpose, or takes consent away


class BrokenString(InvalidInput):
    """Text that is no TCF string of version 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What a string must consent to, so that a person may be shared: purposes, and a vendor of the Global Vendor List."""

    purposes: tuple[int, ...] = PURPOSES
    vendor: int | None = None

    def __post_init__(self) -> None:
        if not self.purposes or not all(1 <= each <= MAX_PURPOSE for each in self.purposes):
            raise InvalidInput(
                "that is no purpose of the TCF", hint=f"purposes are 1 to {MAX_PURPOSE}, such as {PURPOSES}"
            )
        if self.vendor is not None and not 1 <= self.vendor <= MAX_VENDOR:
            raise InvalidInput("that is no vendor of the TCF", hint=f"vendor ids are 1 to {MAX_VENDOR}")

    @property
    def basis(self) -> str:
        """What is kept as the basis of such a consent."""
        vendor = "" if self.vendor is None else f" vendor {self.vendor}"
        return f"TCF purposes {' '.join(map(str, sorted(set(self.purposes))))}{vendor}"


NEEDED = Needed()


@dataclass(frozen=True, slots=True)
class Vendors:
    """A set of vendor ids: one bit each from 1 on, or ranges with both ends in them."""

    bits: str = ""
    ranges: tuple[tuple[int, int], ...] = ()

    def __contains__(self, vendor: int) -> bool:
        if self.bits:
            return self.bits[vendor - 1 : vendor] == "1"
        return any(first <= vendor <= last for first, last in self.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """What a publisher lays down for some vendors and one purpose."""

    purpose: int
    kind: int
    vendors: Vendors


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """A decoded string; times in Unix seconds. `disclosed` is None where the segment is missing, as before v2.3."""

    created: int
    updated: int
    purposes: frozenset[int]
    vendors: Vendors
    restrictions: tuple[Restriction, ...]
    disclosed: Vendors | None

    def allows(self, needed: Needed) -> bool:
        """Return whether all needed purposes, and the vendor if there is one, have consent."""
        if not self.purposes.issuperset(needed.purposes):
            return False
        vendor = needed.vendor
        if vendor is None:
            return True
        shown = self.disclosed is None or vendor in self.disclosed
        forbidden = any(
            each.kind in (_NOT_ALLOWED, _NEEDS_INTEREST) and each.purpose in needed.purposes and vendor in each.vendors
            for each in self.restrictions
        )
        return shown and vendor in self.vendors and not forbidden


def read_strings(texts: Sequence[str], needed: Needed) -> tuple[U8, npt.NDArray[np.int64]]:
    """Return a consent code for each string, y or n, and the time of its last update.

    An empty text says nothing (0); a broken one is UNKNOWN, at 0.
    """
    codes, at = np.zeros(len(texts), np.uint8), np.zeros(len(texts), np.int64)
    yes, no = CODES.index("y"), CODES.index("n")
    for index, text in enumerate(texts):
        if not (text := text.strip()):
            continue
        try:
            found = decode(text)
        except BrokenString:
            codes[index] = UNKNOWN
            continue
        codes[index], at[index] = yes if found.allows(needed) else no, found.updated
    return codes, at


def decode(text: str) -> Consent:
    """Read a string with all its segments; raises BrokenString, and nothing else."""
    if len(text) > MAX_TEXT:
        raise BrokenString(f"a TCF string has at most {MAX_TEXT} characters")
    core, *segments = text.split(".")
    bits = _Bits(core)
    if bits.number(6) != 2:
        raise BrokenString("not a TCF string of version 2")
    created, updated = bits.number(36) // DECISECONDS, bits.number(36) // DECISECONDS
    bits.skip(12 + 12 + 6 + 12 + 12 + 6)  # CmpId, CmpVersion, ConsentScreen, ConsentLanguage, VendorListVersion, policy
    bits.skip(1 + 1 + 12)  # IsServiceSpecific, UseNonStandardTexts, SpecialFeatureOptIns
    purposes = frozenset(number for number, bit in enumerate(bits.text(MAX_PURPOSE), start=1) if bit == "1")
    bits.skip(24 + 1 + 12)  # PurposesLITransparency, PurposeOneTreatment, PublisherCC
    vendors = bits.vendors()
    bits.vendors()  # with legitimate interest
    restrictions = tuple(
        Restriction(purpose=bits.number(6), kind=bits.number(2), vendors=bits.ranges(MAX_VENDOR))
        for _ in range(bits.number(12))
    )
    disclosed = None
    for segment in segments:
        more = _Bits(segment)
        if more.number(3) == _DISCLOSED:
            disclosed = more.vendors()
    return Consent(
        created=created,
        updated=updated,
        purposes=purposes,
        vendors=vendors,
        restrictions=restrictions,
        disclosed=disclosed,
    )


class _Bits:
    """The bits of one segment (web-safe Base64, with or without padding), read from the front."""

    def __init__(self, text: str) -> None:
        try:
            self._bits = "".join([_SEXTETS[ord(sign)] for sign in text.rstrip("=")])
        except KeyError:
            raise BrokenString("a sign that Base64 does not have") from None
        self._place = 0

    def text(self, count: int) -> str:
        self._place += count
        if self._place > len(self._bits):
            raise BrokenString("the string ends too early")
        return self._bits[self._place - count : self._place]

    def number(self, count: int) -> int:
        return int(self.text(count), 2)

    def skip(self, count: int) -> None:
        self.text(count)

    def vendors(self) -> Vendors:
        highest = self.number(16)
        return self.ranges(highest) if self.number(1) else Vendors(bits=self.text(highest))

    def ranges(self, highest: int) -> Vendors:
        ranges = []
        for _ in range(self.number(12)):
            is_range, first = self.number(1), self.number(16)
            last = self.number(16) if is_range else first
            if not 1 <= first <= last <= highest:
                raise BrokenString("a range of vendors that is none")
            ranges.append((first, last))
        return Vendors(ranges=tuple(ranges))
