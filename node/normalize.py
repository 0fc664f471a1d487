"""The identity rules: a column of text in, canonical identities out, one rule id per way of doing it.

A hash does not say which rule made it, so a namespace always travels with its rule ("email_sha256/lc-v1"). Every rule
works on a whole column; a value that breaks its rule is dropped with a reason and never matched.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, lru_cache
from hashlib import sha256
from typing import Literal

import numpy as np
import numpy.typing as npt

from psi.values import U8, Values

from .errors import InvalidInput, check_name

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
Lengths = npt.NDArray[np.int64]
Form = Literal["raw", "hashed"]

MAX_OPAQUE = 255  # a value's length is one byte


class Reason(IntEnum):
    """Why a value was dropped; 0 is kept."""

    KEPT = 0
    EMPTY = 1
    NOT_EMAIL = 2
    NOT_PHONE = 3
    NO_REGION = 4
    NOT_HASH = 5
    WRONG_LENGTH = 6
    EMPTY_HASH = 7
    IS_HASH = 8
    IS_RAW = 9
    NOT_DEVICE = 10
    ZERO = 11
    NOT_ECID = 12
    TOO_LONG = 13

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS = {
    Reason.KEPT: "kept",
    Reason.EMPTY: "empty",
    Reason.NOT_EMAIL: "not an e-mail address",
    Reason.NOT_PHONE: "not a phone number",
    Reason.NO_REGION: "a national phone number without a region",
    Reason.NOT_HASH: "not a SHA-256 hash",
    Reason.WRONG_LENGTH: "a hash of the wrong length",
    Reason.EMPTY_HASH: "the hash of the empty string",
    Reason.IS_HASH: "a hash in a raw column",
    Reason.IS_RAW: "a raw value in a hashed column",
    Reason.NOT_DEVICE: "not a device id",
    Reason.ZERO: "an all-zero id",
    Reason.NOT_ECID: "not an ECID of 38 digits",
    Reason.TOO_LONG: f"over {MAX_OPAQUE} bytes",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to make canonical identities of a namespace. `width` is in bytes, 0 where values differ in length."""

    namespace: str
    name: str
    width: int

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def hashed(self) -> bool:
        """The identity is a SHA-256 of something personal, so that a column may come hashed already."""
        return self.namespace in ("email_sha256", "phone_sha256")


_STANDARD = [  # the first rule of a namespace is its default
    Rule("email_sha256", "lc-v1", 32),
    Rule("email_sha256", "google-v3", 32),
    Rule("email_sha256", "uid2-v1", 32),
    Rule("phone_sha256", "e164-v1", 32),
    Rule("phone_sha256", "digits-v1", 32),
    Rule("ecid", "digits-v1", 38),
    Rule("idfa", "uuid-v1", 16),
    Rule("gaid", "uuid-v1", 16),
    Rule("idfv", "uuid-v1", 16),
    Rule("android_id", "hex-v1", 8),
]


def rule(text: str) -> Rule:
    """Return the rule that "email_sha256" (its default), "email_sha256/google-v3" or a custom name stands for."""
    namespace, _, name = text.partition("/")
    rules = [each for each in _STANDARD if each.namespace == namespace]
    if not rules:
        check_name(namespace, "namespace")
        rules = [Rule(namespace, "opaque-v1", 0)]
    for each in rules:
        if each.name == (name or rules[0].name):
            return each
    raise InvalidInput(
        f"namespace {namespace} has no rule {name[:80]!r}",
        hint=f"its rules are {', '.join(each.id for each in rules)}",
    )


def check_region(region: str | None) -> str | None:
    """Return a phone region in capitals; raises InvalidInput for one that nobody dials."""
    if region is None:
        return None
    import phonenumbers

    if region.upper() not in phonenumbers.SUPPORTED_REGIONS:
        raise InvalidInput(f"{region[:20]!r} is not a phone region", hint="use a country code such as US, GB or DE")
    return region.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalised:
    """A column after its rule: row i of `values` (zeros where dropped) belongs to row i of the column.

    `reasons` is uint8 (n,) of Reason; `forms` counts what kept values looked like: raw, hex, 0x hex, Base64, URL-safe
    Base64; `raw` and `hashed` count what was seen of each, also where a flag made it a reason to drop.
    """

    values: Values
    reasons: U8
    forms: Counter[str]
    raw: int
    hashed: int

    @property
    def keep(self) -> Bools:
        return np.asarray(self.reasons == Reason.KEPT, bool)


def normalise(
    rule: Rule, column: Sequence[str | None], *, form: Form | None = None, region: str | None = None
) -> Normalised:
    """Return a column's identities by `rule`.

    Without a `form`, hashes and raw values are both taken and counted: whether that is a mixture is for the caller to
    say, who sees the whole file.
    """
    texts = [text or "" for text in column]
    if rule.name == "opaque-v1":
        return _opaque(texts)
    texts = list(map(str.strip, texts))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    if rule.hashed:
        return _personal(rule, texts, lengths, form, region)
    rows, reasons = _device(rule, texts, lengths)
    kept = int((reasons == Reason.KEPT).sum())
    return Normalised(values=Values(rows), reasons=reasons, forms=Counter(raw=kept), raw=kept, hashed=0)


def _opaque(texts: list[str]) -> Normalised:
    encoded = encode(texts)
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    reasons = np.zeros(len(texts), np.uint8)
    reasons[lengths == 0] = Reason.EMPTY
    reasons[lengths > MAX_OPAQUE] = Reason.TOO_LONG
    lengths[reasons != Reason.KEPT] = 0
    width = int(lengths.max(initial=0))
    padded = b"".join([value[:MAX_OPAQUE].ljust(width, b"\0")[:width] for value in encoded])
    rows = np.frombuffer(padded, np.uint8).reshape(len(texts), width).copy()
    rows[reasons != Reason.KEPT] = 0
    kept = int((reasons == Reason.KEPT).sum())
    values = Values(rows, lengths.astype(np.uint8))
    return Normalised(values=values, reasons=reasons, forms=Counter(raw=kept), raw=kept, hashed=0)


def _personal(rule: Rule, texts: list[str], lengths: Lengths, form: Form | None, region: str | None) -> Normalised:
    rows, forms = _hashes(texts, lengths)
    is_hash = forms != _RAW
    reasons = np.where(lengths == 0, np.uint8(Reason.EMPTY), np.uint8(Reason.KEPT))
    others = np.flatnonzero(~is_hash & (lengths > 0))
    rest = _at(texts, others)
    canonical, why = _canonical(rule, rest, region)
    is_raw = (why == Reason.KEPT) | (why == Reason.NO_REGION)
    raw, hashed = int(is_raw.sum()), int(is_hash.sum())
    for index in np.flatnonzero(~is_raw).tolist():
        if _HASHLIKE.fullmatch(rest[index]):
            why[index] = Reason.WRONG_LENGTH
    if form == "hashed":
        why[is_raw] = Reason.IS_RAW
        why[(why == Reason.NOT_EMAIL) | (why == Reason.NOT_PHONE)] = Reason.NOT_HASH
    reasons[others] = why
    taken = np.flatnonzero(why == Reason.KEPT)
    digests = b"".join([sha256(text).digest() for text in encode(_at(canonical, taken))])
    rows[others[taken]] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    if form == "raw":
        reasons[is_hash] = Reason.IS_HASH
    ready = np.flatnonzero(is_hash & (reasons == Reason.KEPT))
    reasons[ready[(rows[ready] == _EMPTY_HASH).all(axis=1)]] = Reason.EMPTY_HASH
    rows[reasons != Reason.KEPT] = 0
    counts = np.bincount(forms[reasons == Reason.KEPT], minlength=len(_FORMS)).tolist()
    kept = Counter({name: count for name, count in zip(_FORMS, counts, strict=True) if count})
    return Normalised(values=Values(rows), reasons=reasons, forms=kept, raw=raw, hashed=hashed)


def encode(texts: list[str]) -> list[bytes]:
    """Return each text in UTF-8, all in one go where no text holds a line break."""
    encoded = "\n".join(texts).encode("utf-8", "surrogatepass").split(b"\n") if texts else []
    if len(encoded) == len(texts):
        return encoded
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _at(texts: list[str], indices: Indices) -> list[str]:
    return texts if len(indices) == len(texts) else [texts[index] for index in indices.tolist()]


# Hashes that came ready made

_EMPTY_HASH = np.frombuffer(sha256(b"").digest(), np.uint8)
_HASHLIKE = re.compile(r"(?:0[xX])?[0-9a-fA-F]{24,}")
_HEX, _BASE64 = np.full(256, 255, np.uint8), np.full(256, 255, np.uint8)
for _value, _digit in enumerate(b"0123456789abcdef"):
    _HEX[_digit] = _HEX[ord(chr(_digit).upper())] = _value
for _value, _digit in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):
    _BASE64[_digit] = _value
_BASE64[ord("-")], _BASE64[ord("_")] = 62, 63


_FORMS = ("raw", "hex", "0x hex", "Base64", "URL-safe Base64")
_RAW, _URL_SAFE = 0, 4


def _hashes(texts: list[str], lengths: Lengths) -> tuple[U8, U8]:
    """Decode what is a 32-byte digest in hex, 0x hex or (URL-safe) Base64; also return which of _FORMS each text has."""
    rows = np.zeros((len(texts), 32), np.uint8)
    forms = np.zeros(len(texts), np.uint8)
    for length, form, decode in ((64, 1, _from_hex), (66, 2, _from_hex), (43, 3, _from_base64), (44, 3, _from_base64)):
        where = np.flatnonzero(lengths == length)
        if not len(where):
            continue
        digits = np.frombuffer("".join(_at(texts, where)).encode("latin-1", "replace"), np.uint8).reshape(-1, length)
        decoded, good = decode(digits)
        rows[where[good]] = decoded[good]
        forms[where[good]] = form
        if decode is _from_base64:
            url_safe = ((digits == ord("-")) | (digits == ord("_"))).any(axis=1)
            forms[where[good & url_safe]] = _URL_SAFE
    return rows, forms


def _from_hex(digits: U8) -> tuple[U8, Bools]:
    good = np.ones(len(digits), bool)
    if digits.shape[1] == 66:
        good = (digits[:, 0] == ord("0")) & ((digits[:, 1] | 0x20) == ord("x"))
        digits = digits[:, 2:]
    nibbles = _HEX[digits]
    return (nibbles[:, ::2] << np.uint8(4)) | (nibbles[:, 1::2] & np.uint8(15)), good & (nibbles < 16).all(axis=1)


def _from_base64(digits: U8) -> tuple[U8, Bools]:
    good = np.ones(len(digits), bool)
    if digits.shape[1] == 44:
        good = digits[:, 43] == ord("=")
    sextets = _BASE64[digits[:, :43]]
    good &= (sextets < 64).all(axis=1) & (sextets[:, 42] & 3 == 0)  # 258 bits: the last two say nothing
    padded = np.zeros((len(digits), 44), np.uint8)
    padded[:, :43] = sextets & 63
    four = padded.reshape(-1, 11, 4)
    three = np.empty((len(digits), 11, 3), np.uint8)
    three[:, :, 0] = (four[:, :, 0] << 2) | (four[:, :, 1] >> 4)
    three[:, :, 1] = (four[:, :, 1] << 4) | (four[:, :, 2] >> 2)
    three[:, :, 2] = (four[:, :, 2] << 6) | four[:, :, 3]
    return three.reshape(-1, 33)[:, :32], good


# Raw e-mail addresses and phone numbers


def _canonical(rule: Rule, texts: list[str], region: str | None) -> tuple[list[str], U8]:
    """Return the text that a rule hashes, and a Reason each. `texts` are stripped, and none is empty."""
    if rule.namespace == "email_sha256":
        canonical = _emails(texts, _EMAIL_STEPS[rule.name])
        valid = set(_EMAILS.findall("\n".join(canonical)))
        good = np.fromiter(map(valid.__contains__, canonical), bool, len(canonical))
        return canonical, np.where(good, np.uint8(Reason.KEPT), np.uint8(Reason.NOT_EMAIL))
    canonical = _phones(texts, region)
    reasons = np.zeros(len(texts), np.uint8)
    for index in np.flatnonzero([not number for number in canonical]).tolist():
        text = texts[index]
        national = region is None and sum(map(str.isdigit, text)) >= 5 and not text.startswith(("+", "tel:+"))
        reasons[index] = Reason.NO_REGION if national and not _HASHLIKE.fullmatch(text) else Reason.NOT_PHONE
    return [number[1:] for number in canonical] if rule.name == "digits-v1" else canonical, reasons


_PART = r"[^\s@\x00-\x1f\x7f\ud800-\udfff]"
_LABEL = r"[^\s@.\x00-\x1f\x7f\ud800-\udfff]"
_EMAILS = re.compile(rf"^{_PART}++@{_LABEL}++(?:\.{_LABEL}++)++$", re.MULTILINE)
_SPACE = re.compile(r"\s+")
_GMAIL = re.compile(r"([^@]*)(@gmail\.com)")
_GOOGLE = re.compile(r"([^@]*)(@(?:gmail|googlemail)\.com)")


def _emails(texts: list[str], step: Callable[[str], str] | None) -> list[str]:
    lowered = list(map(str.lower, texts))
    return lowered if step is None else list(map(step, lowered))


def _google(text: str) -> str:
    return _plain(_GOOGLE, _SPACE.sub("", text))


def _uid2(text: str) -> str:
    return _plain(_GMAIL, text)


def _plain(mailbox: re.Pattern[str], text: str) -> str:
    if match := mailbox.fullmatch(text):
        return match[1].partition("+")[0].replace(".", "") + match[2]
    return text


_EMAIL_STEPS: dict[str, Callable[[str], str] | None] = {"lc-v1": None, "google-v3": _google, "uid2-v1": _uid2}

_PUNCTUATION = " .()-\u00a0"  # what people put into numbers and phonenumbers takes out again
_NOTHING = "(?!)"  # the pattern that never matches
_MAX_PHONE = 250  # characters; phonenumbers does not look at more


def _phones(texts: list[str], region: str | None) -> list[str]:
    """Return E.164 with its "+", or "" for what no region makes a number.

    Numbers with a country code, well formed and without a trunk prefix, are what they are.
    """
    joined = "\n".join(texts)
    for sign in _PUNCTUATION:
        joined = joined.replace(sign, "")
    bare = joined.replace("\ntel:", "\n").removeprefix("tel:").split("\n")
    if len(bare) != len(texts):  # a value holds a line break
        dropped = str.maketrans("", "", _PUNCTUATION)
        bare = [text.translate(dropped).removeprefix("tel:") for text in texts]
    patterns = {prefix: _international(prefix) for prefix in {text[:4] for text in bare}}
    return [
        number if patterns[number[:4]].fullmatch(number) else _dressed(number, text, region)
        for number, text in zip(bare, texts, strict=True)
    ]


def _dressed(bare: str, text: str, region: str | None) -> str:
    """Return a number as E.164 that may lack its country code or have a trunk prefix; `bare` is without punctuation."""
    reading = _dialled_abroad(bare[:4], region) if bare.startswith("+") else _dialled_at_home(region)
    if len(text) > _MAX_PHONE or reading.never.fullmatch(bare):
        return ""
    if match := reading.number.fullmatch(bare):
        return f"+{reading.country}{match['national']}"
    return parse_phone(text, region)


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


@lru_cache(maxsize=4096)
def _international(prefix: str) -> re.Pattern[str]:
    """Return the pattern of the E.164 numbers beginning with `prefix` ("+447") that phonenumbers leaves as they are."""
    plan = _plan(_country(prefix))
    code = rf"\+{plan.country}"
    guard = rf"(?!{plan.trunk}(?<!{code}))"  # a trunk prefix that takes something away
    return re.compile(rf"{code}{guard}{plan.numbers}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What phonenumbers makes of digits, where that is plain; what matches neither pattern is for `parse_phone`.

    A trunk prefix is taken away where one stands and a number of possible length is left. So a number whose digits are
    none of a country, with what looks like a trunk prefix and without, is none.
    """

    country: int
    number: re.Pattern[str]  # the group "national" is what E.164 has after the country code
    never: re.Pattern[str]

    @classmethod
    def of(cls, country: int, number: str, never: str) -> "_Reading":
        return cls(country, re.compile(number, re.ASCII), re.compile(never, re.ASCII))


@lru_cache(maxsize=4096)
def _dialled_abroad(prefix: str, region: str | None) -> _Reading:
    """Read numbers with "+", perhaps with a trunk prefix: +44 (0)7400 123456."""
    plan, here = _plan(_country(prefix)), _plan(region or 0)
    if plan.rewritten:
        return _Reading.of(plan.country, _NOTHING, _NOTHING)
    if not plan.country:  # then the "+" is overlooked, and the region's own codes are looked for
        return _Reading.of(0, _NOTHING, rf"\+(?!{here.abroad})(?!{here.country})\d*" if region else r"\+\d*")
    code = rf"\+{plan.country}"
    number = rf"{code}(?>{plan.trunk}){plan.possible}(?P<national>{plan.numbers})"
    return _Reading.of(plan.country, number, rf"{code}(?!{plan.numbers}\Z)(?!(?>{plan.trunk}){plan.numbers}\Z)\d*")


@cache
def _dialled_at_home(region: str | None) -> _Reading:
    """Read numbers as they are dialled in a region, perhaps with its country code before them."""
    if region is None:
        return _Reading.of(0, _NOTHING, r"\d*")
    here = _plan(region)
    if here.rewritten:
        return _Reading.of(here.country, _NOTHING, _NOTHING)
    main = _plan(here.country)
    bare = rf"(?!{here.country})(?:(?>{here.trunk})|(?!{here.trunk}))"
    with_code = rf"(?!{here.numbers}\Z){here.country}(?!{here.trunk})(?!{main.trunk})"
    national = rf"(?={here.numbers}\Z){here.possible}(?P<national>{main.numbers})"
    never = rf"(?!{here.country})(?!{main.numbers}\Z)(?!(?>{here.trunk}){main.numbers}\Z)\d*"
    abroad = rf"(?!{here.abroad})"
    return _Reading.of(here.country, rf"{abroad}(?:{bare}|{with_code}){national}", abroad + never)


# Device ids

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}")
_ECID = re.compile(r"[0-9]{38}")
_ANDROID = re.compile(r"[0-9a-fA-F]{16}")


def _device(rule: Rule, texts: list[str], lengths: Lengths) -> tuple[U8, U8]:
    pattern, bad = {
        "uuid-v1": (_UUID, Reason.NOT_DEVICE),
        "digits-v1": (_ECID, Reason.NOT_ECID),
        "hex-v1": (_ANDROID, Reason.NOT_DEVICE),
    }[rule.name]
    good = np.fromiter((match is not None for match in map(pattern.fullmatch, texts)), bool, len(texts))
    reasons = np.where(good, Reason.KEPT, bad).astype(np.uint8)
    reasons[lengths == 0] = Reason.EMPTY
    where = np.flatnonzero(good)
    joined = "".join(_at(texts, where))
    packed = joined.encode() if rule.name == "digits-v1" else bytes.fromhex(joined.replace("-", ""))
    rows = np.zeros((len(texts), rule.width), np.uint8)
    rows[where] = np.frombuffer(packed, np.uint8).reshape(-1, rule.width)
    zero = good & (rows == (ord("0") if rule.name == "digits-v1" else 0)).all(axis=1)
    reasons[zero] = Reason.ZERO
    rows[zero] = 0
    return rows, reasons
