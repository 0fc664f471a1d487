"""The identity rules: a column of text in, canonical identities out, one rule id per way of doing it.

A hash does not say which rule made it, so a namespace always travels with its rule ("email_sha256/lc-v1"). Every rule
works on a whole column; a value that breaks its rule is dropped with a reason and never matched.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from typing import Literal

import numpy as np

from psi.values import U8, Bools, Values

from ..errors import InvalidInput, check_name
from . import phones
from .reasons import MAX_OPAQUE as MAX_OPAQUE
from .reasons import RAW, seen
from .reasons import Reason as Reason
from .text_columns import Lines

Form = Literal["raw", "hashed"]


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
        """Whether the identity is a SHA-256 of something personal, so that a column may come hashed already."""
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


_MEANT = {"email": "email_sha256", "mail": "email_sha256", "phone": "phone_sha256", "mobile": "phone_sha256"}
_CLOSE = 0.85  # of two spellings, as difflib measures it: one sign in ten differs


def rule_for_import(text: str) -> Rule:
    """Return the rule for values to come; raises InvalidInput for a standard namespace misspelt, as these would stay as they are.

    With its rule ("mail/opaque-v1") any name is one of its own.
    """
    found = rule(text)
    if "/" in text or found in _STANDARD:
        return found
    name = re.sub("[^a-z0-9]", "", text)
    close = get_close_matches(text, sorted({each.namespace for each in _STANDARD}), n=1, cutoff=_CLOSE)
    meant = _MEANT.get(name) or _MEANT.get(name.removesuffix("s")) or next(iter(close), None)
    if meant is not None:
        raise InvalidInput(
            f"there is no namespace {text!r}, and it looks like another one",
            hint=f"write {meant} if that is meant, else {found.id}",
        )
    return found


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

    `reasons` is uint8 (n,) of Reason, `looks` uint8 (n,): what the text looked like, a number of FORMS.
    """

    values: Values
    reasons: U8
    looks: U8

    @property
    def keep(self) -> Bools:
        return np.asarray(self.reasons == Reason.KEPT, bool)

    @property
    def forms(self) -> Counter[str]:
        return seen(self.reasons, self.looks).forms

    @property
    def raw(self) -> int:
        return seen(self.reasons, self.looks).raw

    @property
    def hashed(self) -> int:
        return seen(self.reasons, self.looks).hashed

    def spread(self, filled: Bools) -> "Normalised":
        """Return the column in which these are the rows that are `filled`, and the others empty."""
        rows = np.zeros((len(filled), self.values.rows.shape[1]), np.uint8)
        reasons = np.full(len(filled), Reason.EMPTY, np.uint8)
        looks = np.zeros(len(filled), np.uint8)
        rows[filled], reasons[filled], looks[filled] = self.values.rows, self.reasons, self.looks
        return Normalised(values=Values(rows), reasons=reasons, looks=looks)


def normalise(rule: Rule, column: Sequence[str], *, form: Form | None = None, region: str | None = None) -> Normalised:
    """Return a column's identities by `rule`.

    Without a `form`, hashes and raw values are both taken and counted: whether that is a mixture only the whole file shows,
    which the code that calls this has.
    """
    if rule.name == "opaque-v1":
        return _opaque(column)
    texts = list(map(str.strip, column))
    if rule.hashed:
        return _personal(rule, texts, form, region)
    rows, reasons = _device(rule, texts)
    return Normalised(values=Values(rows), reasons=reasons, looks=np.zeros(len(texts), np.uint8))


def _opaque(texts: Sequence[str]) -> Normalised:
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
    values = Values(rows, lengths.astype(np.uint8))
    return Normalised(values=values, reasons=reasons, looks=np.zeros(len(texts), np.uint8))


def _personal(rule: Rule, texts: list[str], form: Form | None, region: str | None) -> Normalised:
    given = Lines.join(texts)
    filled = given.lengths > 0
    if 2 * np.count_nonzero(filled) < len(given):
        return _personal(rule, list(filter(None, texts)), form, region).spread(filled)
    rows, forms = _hashes(given)
    is_hash = forms != RAW
    reasons = np.where(filled, np.uint8(Reason.KEPT), np.uint8(Reason.EMPTY))
    others = filled & ~is_hash
    canonical, why = _canonical(rule, texts, given, others, region)
    is_raw = others & ((why == Reason.KEPT) | (why == Reason.NO_REGION))
    for index in np.flatnonzero(others & ~is_raw & (given.lengths >= _HASHLIKE_BYTES)).tolist():
        if _HASHLIKE.fullmatch(texts[index]):
            why[index] = Reason.WRONG_LENGTH
    if form == "hashed":
        why[is_raw] = Reason.IS_RAW
        why[(why == Reason.NOT_EMAIL) | (why == Reason.NOT_PHONE)] = Reason.NOT_HASH
    reasons[others] = why[others]
    taken = np.flatnonzero(others & (why == Reason.KEPT))
    rows[taken] = canonical.sha256(taken)
    if form == "raw":
        reasons[is_hash] = Reason.IS_HASH
    ready = np.flatnonzero(is_hash & (reasons == Reason.KEPT))
    reasons[ready[(rows[ready] == _EMPTY_HASH).all(axis=1)]] = Reason.EMPTY_HASH
    rows[is_hash & (reasons != Reason.KEPT)] = 0
    return Normalised(values=Values(rows), reasons=reasons, looks=forms)


def encode(texts: Sequence[str]) -> list[bytes]:
    """Return each text in UTF-8, all in one go where no text has a line break."""
    encoded = "\n".join(texts).encode("utf-8", "surrogatepass").split(b"\n") if texts else []
    if len(encoded) == len(texts):
        return encoded
    return [text.encode("utf-8", "surrogatepass") for text in texts]


# Hashes that came ready made

_EMPTY_HASH = np.frombuffer(sha256(b"").digest(), np.uint8)
_HASHLIKE_BYTES = 24  # as short is a hash that was cut
_HASHLIKE = re.compile(rf"(?:0[xX])?[0-9a-fA-F]{{{_HASHLIKE_BYTES},}}")
_HEX, _BASE64 = np.full(256, 255, np.uint8), np.full(256, 255, np.uint8)
for _value, _digit in enumerate(b"0123456789abcdef"):
    _HEX[_digit] = _HEX[ord(chr(_digit).upper())] = _value
for _value, _digit in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):
    _BASE64[_digit] = _value
_BASE64[ord("-")], _BASE64[ord("_")] = 62, 63
_URL_SAFE = 4


def _hashes(given: Lines) -> tuple[U8, U8]:
    """Decode what is a 32-byte digest in hex, 0x hex or (URL-safe) Base64; also return which of FORMS each text has."""
    lengths = given.lengths
    rows = np.zeros((len(lengths), 32), np.uint8)
    forms = np.zeros(len(lengths), np.uint8)
    for length, form, decode in ((64, 1, _from_hex), (66, 2, _from_hex), (43, 3, _from_base64), (44, 3, _from_base64)):
        where = np.flatnonzero(lengths == length)
        if not len(where):
            continue
        digits = given.heads(where, length)
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


def _canonical(rule: Rule, texts: list[str], given: Lines, wanted: Bools, region: str | None) -> tuple[Lines, U8]:
    """Return the text that a rule hashes for each wanted one, and a Reason each. `texts` are stripped."""
    if not wanted.any():
        return given, np.zeros(len(given), np.uint8)
    if rule.namespace == "email_sha256":
        canonical, good = _emails(texts, given, _EMAIL_STEPS[rule.name])
        return canonical, np.where(good, np.uint8(Reason.KEPT), np.uint8(Reason.NOT_EMAIL))
    canonical = phones.e164(texts, given, wanted, region)
    reasons = np.where(canonical.lengths > 0, np.uint8(Reason.KEPT), np.uint8(Reason.NOT_PHONE))
    for index in np.flatnonzero(wanted & (reasons != Reason.KEPT)).tolist() if region is None else ():
        text = texts[index]
        national = sum(map(str.isdigit, text)) >= 5 and not text.startswith(("+", "tel:+"))
        if national and not _HASHLIKE.fullmatch(text):
            reasons[index] = Reason.NO_REGION
    if rule.name == "digits-v1":
        canonical = Lines(canonical.data, np.minimum(canonical.starts + 1, canonical.ends), canonical.ends)
    return canonical, reasons


def _address(*, without: str) -> str:
    """Return the pattern of an address that has none of these characters."""
    part, label = (rf"[^\s@{more}\x00-\x1f\x7f{without}]" for more in ("", "."))
    return rf"{part}++@{label}++\.{label}++(?:\.{label}++)*+"


_EMAIL = re.compile(_address(without=r"\ud800-\udfff"))
_EMAILS = re.compile(b"\n" + _address(without=r"\x80-\xff").encode() + rb"(?=\n)")  # the lines that are, of ASCII
_SPACE = re.compile(r"\s+")
_GMAIL = re.compile(r"([^@]*)(@gmail\.com)")
_GOOGLE = re.compile(r"([^@]*)(@(?:gmail|googlemail)\.com)")


def _emails(texts: list[str], given: Lines, step: Callable[[str], str] | None) -> tuple[Lines, Bools]:
    """Return the canonical texts, and which of them are addresses."""
    if step is not None:
        texts = [step(text.lower()) for text in texts]
        given = Lines.join(texts)
    data = given.data.lower()
    good = (Lines.split(_EMAILS.sub(b"\n", data)).lengths == 0) & (given.lengths > 0)
    others = given.beyond_ascii()
    lowered = [texts[index].lower() for index in others.tolist()]
    good[others] = [_EMAIL.fullmatch(text) is not None for text in lowered]
    return Lines(data, given.starts, given.ends).put(others, lowered), good


def _google(text: str) -> str:
    return _plain(_GOOGLE, _SPACE.sub("", text))


def _uid2(text: str) -> str:
    return _plain(_GMAIL, text)


def _plain(mailbox: re.Pattern[str], text: str) -> str:
    if match := mailbox.fullmatch(text):
        return match[1].partition("+")[0].replace(".", "") + match[2]
    return text


_EMAIL_STEPS: dict[str, Callable[[str], str] | None] = {"lc-v1": None, "google-v3": _google, "uid2-v1": _uid2}


# Device ids

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}")
_ECID = re.compile(r"[0-9]{38}")
_ANDROID = re.compile(r"[0-9a-fA-F]{16}")


def _device(rule: Rule, texts: list[str]) -> tuple[U8, U8]:
    pattern, bad = {
        "uuid-v1": (_UUID, Reason.NOT_DEVICE),
        "digits-v1": (_ECID, Reason.NOT_ECID),
        "hex-v1": (_ANDROID, Reason.NOT_DEVICE),
    }[rule.name]
    good = np.fromiter((match is not None for match in map(pattern.fullmatch, texts)), bool, len(texts))
    reasons = np.where(good, Reason.KEPT, bad).astype(np.uint8)
    reasons[np.fromiter((not text for text in texts), bool, len(texts))] = Reason.EMPTY
    where = np.flatnonzero(good)
    digits = "".join(texts if len(where) == len(texts) else [texts[index] for index in where.tolist()])
    packed = digits.encode() if rule.name == "digits-v1" else bytes.fromhex(digits.replace("-", ""))
    rows = np.zeros((len(texts), rule.width), np.uint8)
    rows[where] = np.frombuffer(packed, np.uint8).reshape(-1, rule.width)
    zero = good & (rows == (ord("0") if rule.name == "digits-v1" else 0)).all(axis=1)
    reasons[zero] = Reason.ZERO
    rows[zero] = 0
    return rows, reasons
