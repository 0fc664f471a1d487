"""Consent: what people said about sharing, and the pure decision that follows.

A no for the whole profile beats everything; a yes for it, or nothing, leaves it to what was said for single namespaces.
The codes are those of Adobe's consent fields: y, n, p(ending), u(nknown), dy and dn (defaults), and five legal bases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.values import U8, Bools

from ..errors import InvalidInput
from ..inputs.raw_values import refuse_personal

CODES = ("", "y", "dy", "LI", "CT", "CP", "VI", "PI", "p", "u", "dn", "n")  # a higher number is stricter; "" is nothing
LISTED = ", ".join(CODES[1:])
MAX_BASIS = 120  # characters
_NUMBERS = {code.lower(): number for number, code in enumerate(CODES)}
UNKNOWN = 255  # in a column of codes: text that is none of them
UNDATED = (1 << 16) - 1  # the basis of a word without a time of its own, from a profile import; shown as UNDATED_BASIS
UNDATED_BASIS = "profile import"
_Y, _DN, _N = CODES.index("y"), CODES.index("dn"), CODES.index("n")


class Model(StrEnum):
    """Whether people who said nothing are shared: with opt-out they are."""

    OPT_IN = "opt-in"
    OPT_OUT = "opt-out"


class LeftOut(StrEnum):
    """Who is left out of the estimates that a project asks for."""

    NOBODY = "nobody"
    OPTED_OUT = "opted-out"  # who said no
    UNCONSENTED = "unconsented"  # everybody who may not be shared


def read_codes(texts: Sequence[str]) -> U8:
    """Return the code of each text, UNKNOWN where it is none."""
    return np.fromiter((_NUMBERS.get(text.strip().lower(), UNKNOWN) for text in texts), np.uint8, len(texts))


def opted_out(profile: U8, identity: U8) -> Bools:
    """Return which identities never enter a match: a no (n, dn) of the profile, or of the identity. Codes, uint8 (n,)."""
    return np.asarray((profile >= _DN) | (identity >= _DN), bool)


def may_share(model: str, profile: U8, identity: U8) -> Bools:
    """Return which identities may be released under the sender's model; codes as in `opted_out`.

    Opt-out: all but no. Opt-in: only a yes, the identity's own if it has one, else the profile's.
    """
    if Model(model) is Model.OPT_OUT:
        return ~opted_out(profile, identity)
    return np.asarray((profile <= _Y) & (np.where(identity, identity, profile) == _Y), bool)


class Word(NamedTuple):
    """What one person said; see `Words`."""

    code: int
    at: int
    basis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What was said, a row each: the code, when (Unix seconds), and on which basis (a number of the project's, 0 none)."""

    codes: U8
    at: npt.NDArray[np.int64]
    bases: npt.NDArray[np.uint16]

    @classmethod
    def nothing(cls, size: int) -> "Words":
        return cls(codes=np.zeros(size, np.uint8), at=np.zeros(size, np.int64), bases=np.zeros(size, np.uint16))

    @classmethod
    def of(cls, codes: U8, at: int) -> "Words":
        """Return what was said at one moment, without a basis."""
        return cls(codes=codes, at=np.full(len(codes), at, np.int64), bases=np.zeros(len(codes), np.uint16))

    @classmethod
    def listed(cls, words: Sequence[Word]) -> "Words":
        codes, times, bases = (np.array(column, np.int64) for column in zip(*words, strict=True))
        return cls(codes=codes.astype(np.uint8), at=times, bases=bases.astype(np.uint16))

    @classmethod
    def join(cls, parts: "Sequence[Words]") -> "Words":
        joined = {name: [getattr(each, name) for each in parts] for name in ("codes", "at", "bases")}
        return cls(**{name: np.concatenate(columns) for name, columns in joined.items()})

    def take(self, where: npt.NDArray[Any]) -> "Words":
        return Words(codes=self.codes[where], at=self.at[where], bases=self.bases[where])


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """How many codes changed, and how many withdrawals stayed because the new word was undated."""

    changed: int
    withdrawals_kept: int


def may_change(kept: Words, profiles: npt.NDArray[np.integer[Any]], words: Words) -> Bools:
    """Return which words `merge` could make something of: those of profiles one of whose words is not what is kept.

    An undated word says again what is kept if its code is that, and no no.
    """
    now = kept.take(profiles)
    undated = words.bases == UNDATED
    same = (words.codes == now.codes) & np.where(
        undated, words.codes < _DN, (words.at == now.at) & (words.bases == now.bases)
    )
    news = np.zeros(len(kept.codes), bool)
    news[profiles[~same]] = True
    return np.asarray(news[profiles], bool)


class AsSeen:
    """What was said, for a caller who sees some profiles: the others said nothing before."""

    def __init__(self, profiles: BitMap) -> None:
        self._profiles = profiles
        self._said: dict[str | None, Words] = {}

    def said(self, namespace: str | None, kept: Words) -> Words:
        """Return the words kept in a namespace, to write into: a later call returns the same ones."""
        if namespace not in self._said:
            seen = np.zeros(len(kept.codes), bool)
            seen[self._profiles.to_array()] = True
            self._said[namespace] = Words(codes=kept.codes * seen, at=kept.at * seen, bases=kept.bases * seen)
        return self._said[namespace]


class _Then(IntEnum):
    """What becomes of a kept word when a new one comes."""

    KEPT = 0
    WITHDRAWAL_KEPT = 1  # the same, and it is counted
    NEW = 2
    NEW_AT_LATER = 3  # the new one, at the later of both times
    STRICTER = 4  # the stricter of both, at the later of both times, with the basis of the dated one


def merge(kept: Words, profiles: npt.NDArray[np.integer[Any]], words: Words) -> Noted:
    """Write words into those kept for profiles, in place.

    The newer word wins, of two at the same time the stricter; the same word at the same time may add its basis. This is
    "newer" below. But an undated word has no time other than that of the file that it came in, so that dated words take
    precedence. A no is n or dn; "stricter" is the stricter of both, at the later time, with the basis of the dated one.

        kept           new: dated no   dated other         undated no           undated other
        nothing        new             new                 new                  new
        dated no       newer           newer               stricter             kept: a withdrawal
        dated other    newer           newer               new, at later time   newer, but kept if the same
        undated no     stricter        newer               newer                newer
        undated other  new             newer, but          newer                newer, but kept if the same
                                       new if the same
    """
    order = np.lexsort((words.codes, words.at, profiles))
    last = np.ones(len(order), bool)
    last[:-1] = profiles[order][1:] != profiles[order][:-1]
    order = order[last]
    profiles, words = profiles[order], words.take(order)
    now = kept.take(profiles)
    then = _decide(now, words)
    is_new, is_stricter = (then == _Then.NEW) | (then == _Then.NEW_AT_LATER), then == _Then.STRICTER
    at_later = is_stricter | (then == _Then.NEW_AT_LATER)
    codes = np.where(is_new, words.codes, now.codes)
    codes = np.where(is_stricter, np.maximum(words.codes, now.codes), codes)
    at = np.where(at_later, np.maximum(words.at, now.at), np.where(is_new, words.at, now.at))
    bases = np.where(is_new | (is_stricter & (words.bases != UNDATED)), words.bases, now.bases)
    kept.codes[profiles], kept.at[profiles], kept.bases[profiles] = codes, at, bases
    return Noted(
        changed=int((codes != now.codes).sum()),
        withdrawals_kept=int((then == _Then.WITHDRAWAL_KEPT).sum()),
    )


def _decide(now: Words, words: Words) -> U8:
    """Return a _Then for each kept word and the new one beside it, by the table of `merge`: the first line that applies."""
    no, was_no = words.codes >= _DN, now.codes >= _DN
    undated, was_undated = words.bases == UNDATED, now.bases == UNDATED
    undated_over_dated, dated_over_undated = undated & ~was_undated, ~undated & was_undated
    same, same_time = words.codes == now.codes, words.at == now.at
    newer = (words.at > now.at) | (same_time & (words.codes > now.codes))
    adds_basis = same & same_time & (words.bases != 0)
    cases = [
        (words.codes == 0, _Then.KEPT),  # it says nothing
        (now.codes == 0, _Then.NEW),
        ((undated != was_undated) & no & was_no, _Then.STRICTER),
        (undated_over_dated & was_no, _Then.WITHDRAWAL_KEPT),
        (undated_over_dated & no, _Then.NEW_AT_LATER),
        (dated_over_undated & (no | same), _Then.NEW),
        (undated & same & ~no, _Then.KEPT),
        (newer, _Then.NEW),
        (~undated & adds_basis, _Then.NEW),
    ]
    found: U8 = np.select([case for case, _ in cases], [np.uint8(then) for _, then in cases], np.uint8(_Then.KEPT))
    return found


def check_model(model: str) -> Model:
    """Return the consent model of that name; raises InvalidInput."""
    try:
        return Model(model)
    except ValueError:
        raise InvalidInput(f"{model[:20]!r} is not a consent model", hint="use opt-in or opt-out") from None


def check_left_out(name: str) -> LeftOut:
    """Return who is left out of estimates by its name; raises InvalidInput."""
    try:
        return LeftOut(name)
    except ValueError:
        said = f"{name[:20]!r} is nobody to leave out of estimates"
        raise InvalidInput(said, hint=f"use {', '.join(LeftOut)}") from None


def check_basis(text: str) -> str:
    """Return the basis of a consent, stripped; raises InvalidInput for what is none, or a person's own data."""
    text = text.strip()
    if not text.isprintable() or len(text) > MAX_BASIS:
        raise InvalidInput(f"a basis has at most {MAX_BASIS} printable characters", hint="such as GDPR-6-1-a")
    refuse_personal([text], "basis", np.zeros(1, np.int64))
    return text


def read_time(text: str) -> int:
    """Return Unix seconds, -1 for what is no time; without a zone it is UTC."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 11:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return -1
