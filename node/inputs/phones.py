"""Phone numbers: E.164 out of what people write, as phonenumbers reads it, by patterns out of its metadata.

A whole column goes through the patterns at once; what none of them takes goes to phonenumbers itself, one by one. In
region GB "+447400123456" is what it is (`_international`), "07400123456" loses the 0 that is dialled before national
numbers (`_dialled_at_home`), "+4407400123456" loses it between country code and number (`_dialled_abroad`), and "+44123",
which is a number neither with nor without it, is known to be none by the `never` of the same reading.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from psi.values import Bools

from .text_columns import Lines

_PUNCTUATION = " .()-\u00a0"  # what people put into numbers and phonenumbers takes out again
_NOTHING = "(?!)"  # the pattern that never matches
_MAX_PHONE = 64  # characters: nobody writes a number longer, and phonenumbers takes time by the square of them
_DONE = "="  # before a line that is a number in E.164
RARE = 32  # a country with fewer than one in so many numbers is not worth a pass over the column


def e164(texts: Sequence[str], given: Lines, wanted: Bools, region: str | None) -> Lines:
    """Return each wanted text as E.164 with its "+": empty for what no region makes a number, and where none is wanted.

    `texts` are stripped, and `given` has the same. Numbers with a country code, well formed and without a trunk prefix,
    are what they are.
    """
    data = given.data
    for sign in _PUNCTUATION:
        data = data.replace(sign.encode(), b"")
    bare = Lines.split(data.replace(b"\ntel:", b"\n"))
    prefixes = _common_prefixes(bare)
    readings = [_international(prefix) for prefix in prefixes]
    readings += [_dialled_at_home(region), *(_dialled_abroad(prefix, region) for prefix in prefixes)]
    data = bare.data
    for reading in readings:
        if reading.lines is not None:
            data = reading.lines.sub(f"\n{_DONE}+{reading.country}".encode(), data)
    found = Lines.split(data)
    done = found.begin(_DONE) & ~bare.begin(_DONE) & (given.lengths <= _MAX_PHONE)
    rest = np.flatnonzero(wanted & ~done)
    numbers = Lines(data, found.starts + 1, np.where(done & wanted, found.ends, found.starts + 1))
    one_by_one = zip(bare.texts(rest), rest.tolist(), strict=True)
    return numbers.put(rest, [_one(number, texts[index], region) for number, index in one_by_one])


def _one(bare: str, text: str, region: str | None) -> str:
    """Return one number as E.164, or ""; `bare` is without punctuation."""
    if _international(bare[:4]).number.fullmatch(bare):
        return bare
    reading = _dialled_abroad(bare[:4], region) if bare.startswith("+") else _dialled_at_home(region)
    if len(text) > _MAX_PHONE or reading.never.fullmatch(bare):
        return ""
    if match := reading.number.fullmatch(bare):
        return f"+{reading.country}{match['national']}"
    return parse_phone(text, region)


def _common_prefixes(bare: Lines) -> list[str]:
    """Return what numbers of each country that many lines are of begin with ("+447"), one for a country."""
    heads = bare.heads(np.flatnonzero(bare.lengths >= 4), 4)
    digits = heads[:, 1:] - np.uint8(ord("0"))
    first, second, third = digits[(heads[:, 0] == ord("+")) & (digits < 10).all(axis=1)].T.astype(np.intp)
    counts = np.bincount(100 * first + 10 * second + third)
    found: dict[int, tuple[int, str]] = {}
    for code in np.flatnonzero(counts).tolist():
        prefix = f"+{code:03}"
        country = _country(prefix)
        found[country] = (int(counts[code]) + found.get(country, (0, ""))[0], prefix)
    return [prefix for country, (count, prefix) in found.items() if country and count * RARE >= len(bare)]


@lru_cache(maxsize=1 << 17)
def parse_phone(text: str, region: str | None) -> str:
    """Return one number as E.164, or "": the slow way, by phonenumbers."""
    import phonenumbers

    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return ""
    country, national = number.country_code or 0, phonenumbers.national_significant_number(number)
    return f"+{country}{national}" if re.fullmatch(_plan(country).numbers, national, re.ASCII) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The numbers of a country code or of one of its regions, as regular expressions that match nothing if there is none.

    `numbers` have neither country code nor trunk prefix; `possible` looks ahead for as many digits as they may have.
    """

    country: int
    numbers: str = _NOTHING
    possible: str = _NOTHING
    trunk: str = _NOTHING
    abroad: str = _NOTHING  # what is dialled before a country code
    rewritten: bool = False  # a trunk prefix is not just taken away


@cache
def _plan(of: int | str) -> _Plan:
    """Return the plan of a country code (that of its main region) or of a region."""
    import phonenumbers

    main = phonenumbers.region_code_for_country_code(of) if isinstance(of, int) else of
    country = of if isinstance(of, int) else phonenumbers.country_code_for_region(of)
    metadata = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code(country, main)
    if metadata is None or metadata.general_desc is None or metadata.general_desc.national_number_pattern is None:
        return _Plan(country=country)
    lengths = "|".join(rf"\d{{{length}}}\Z" for length in metadata.general_desc.possible_length)
    return _Plan(
        country=country,
        numbers=f"(?:{metadata.general_desc.national_number_pattern})",
        possible=f"(?={lengths})",
        trunk=f"(?:{metadata.national_prefix_for_parsing or _NOTHING})",
        abroad=f"(?:{metadata.international_prefix or _NOTHING})",
        rewritten=bool(metadata.national_prefix_transform_rule),
    )


def _country(prefix: str) -> int:
    """Return the country code that an E.164 number beginning with `prefix` ("+447") has, 0 for none."""
    import phonenumbers

    for end in (2, 3, 4):
        code = prefix[1:end]
        if prefix[:1] != "+" or not (code.isascii() and code.isdigit()) or len(code) < end - 1 or code[0] == "0":
            return 0
        if int(code) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
            return int(code)
    return 0


@dataclass(frozen=True, slots=True)
class _Reading:
    """What phonenumbers makes of digits, where that is plain; what matches neither pattern is for `parse_phone`.

    A trunk prefix is taken away where one stands and a number of possible length is left. So a number whose digits are
    none of a country, with what looks like a trunk prefix and without, is none.
    """

    country: int
    number: re.Pattern[str]  # the group "national" is what E.164 has after the country code
    never: re.Pattern[str]
    lines: re.Pattern[bytes] | None  # the line break, and what E.164 has "+" and the country code for, of such numbers

    @classmethod
    def of(cls, country: int, before: str = _NOTHING, national: str = "", never: str = _NOTHING) -> "_Reading":
        """Read `before` and then the national number; \\Z in either is the end of all."""
        column = rf"\n{before}(?={national}\Z)".replace(r"\Z", r"(?=\n)")
        return cls(
            country=country,
            number=re.compile(rf"{before}(?P<national>{national})", re.ASCII),
            never=re.compile(never, re.ASCII),
            lines=None if before == _NOTHING else re.compile(column.encode()),
        )


@lru_cache(maxsize=4096)
def _international(prefix: str) -> _Reading:
    """Read the E.164 numbers beginning with `prefix` ("+447") that phonenumbers leaves as they are."""
    plan = _plan(_country(prefix))
    code = rf"\+{plan.country}"
    guard = rf"(?!{plan.trunk}(?<!{code}))"  # a trunk prefix that takes something away
    return _Reading.of(plan.country, code + guard, plan.numbers)


@lru_cache(maxsize=4096)
def _dialled_abroad(prefix: str, region: str | None) -> _Reading:
    """Read numbers with "+", perhaps with a trunk prefix: +44 (0)7400 123456."""
    plan, here = _plan(_country(prefix)), _plan(region or 0)
    if plan.rewritten:
        return _Reading.of(plan.country)
    if not plan.country:  # then the "+" is overlooked, and the region's own codes are looked for
        return _Reading.of(0, never=rf"\+(?!{here.abroad})(?!{here.country})\d*" if region else r"\+\d*")
    code = rf"\+{plan.country}"
    before = rf"{code}(?>{plan.trunk}){plan.possible}"
    return _Reading.of(
        plan.country, before, plan.numbers, rf"{code}(?!{plan.numbers}\Z)(?!(?>{plan.trunk}){plan.numbers}\Z)\d*"
    )


@cache
def _dialled_at_home(region: str | None) -> _Reading:
    """Read numbers as they are dialled in a region, perhaps with its country code before them."""
    if region is None:
        return _Reading.of(0, never=r"\d*")
    here = _plan(region)
    if here.rewritten:
        return _Reading.of(here.country)
    main = _plan(here.country)
    bare = rf"(?!{here.country})(?:(?>{here.trunk})|(?!{here.trunk}))"
    with_code = rf"(?!{here.numbers}\Z){here.country}(?!{here.trunk})(?!{main.trunk})"
    abroad = rf"(?!{here.abroad})"
    before = rf"(?=\d){abroad}(?:{bare}|{with_code})(?={here.numbers}\Z){here.possible}"
    never = rf"{abroad}(?!{here.country})(?!{main.numbers}\Z)(?!(?>{here.trunk}){main.numbers}\Z)\d*"
    return _Reading.of(here.country, before, main.numbers, never)
