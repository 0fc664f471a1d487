"""Raw e-mail addresses and phone numbers where they do not belong: in columns that are kept as they are.

What is recognised is what SECURITY.md says. Every pattern takes time in proportion to the text.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from psi.values import Bools

from ..errors import InvalidInput
from .phones import parse_phone

MAX_KEPT = 10_000  # characters of a value that is kept as it is
SAMPLE = 1_000  # distinct values of a column that are tried as phone numbers of the region
SAMPLED_LINES = 1 << 12  # of a file, whose first ones these values are from
FEW = 10  # a column is words with a few numbers in it where fewer than one value in so many is one

_AT = ("@", "\uff20", "\ufe6b", "%40")  # also full-width, small, and as URLs have it
_EMAIL = re.compile(rf"[\w.+~!$%*^-](?:{'|'.join(_AT)})[\w\[]")  # with a dot behind it or not
_GAPS = r" \u00a0\u2000-\u200a\u202f.()/\u2010-\u2015\u2212-"  # blanks and dashes of every width
_GAP, _DASH = f"[{_GAPS}]{{0,3}}", r"[ .\u2010-\u2015-]"
# +44 7700 900123, within a text too; behind a letter, as of a URL with "+" for blanks, a date or a count is too short
_ABROAD = re.compile(rf"(?:(?<!\w)[+\uff0b]\d(?:{_GAP}\d){{6,14}}|(?<=[^\W\d])[+\uff0b]\d{{10,15}})(?!\d)")
_SPELLED = re.compile(
    rf"""\n[^\S\n]*+(?:
        (?:tel:)?(?=\(?\d++[{_GAPS}]++\d)\(?0(?:0\ ?)?[1-9](?:{_GAP}\d){{7,13}}  # 07700 900123, 0044 7700 900123
        | (?:tel:)?(?:\(00?\)|00?\ ?(?=\()){_GAP}[1-9](?:{_GAP}\d){{7,13}}  # 0(20)7946-0958, (0) 7700 900123
        | (?:1{_DASH})?(?:\([2-9]\d\d\)\ ?|[2-9]\d\d{_DASH})[2-9]\d\d{_DASH}\d{{4}}  # (212) 555-0123
    )[^\S\n]*+(?=\n)""",
    re.VERBOSE | re.IGNORECASE,
)
_APART = re.compile(rf"\n00?[ /\u00a0\u2010-\u2015-]{{1,3}}[1-9]\d(?:{_GAP}\d){{6,12}}[^\S\n]*+(?=\n)")
_DIGITS = re.compile(r"\n(?:0[1-9]\d{8,11}|00[1-9]\d{8,12})[^\S\n]*+(?=\n)")
_ADDRESS, _NUMBER = re.compile(r"[^\s@]++@[^\s@]++"), re.compile(rf"[+\uff0b\d{_GAPS}]++")
_CERTAIN = (
    (_AT, _EMAIL, "e-mail addresses"),
    (("+", "\uff0b"), _ABROAD, "phone numbers"),
    (("\n",), _SPELLED, "phone numbers"),
)
_DOUBTS = (
    (_AT, re.compile("|".join(_AT)), "with an @"),
    (("\n0",), _DIGITS, "of digits that begin with 0, as phone numbers do"),
    (("\n0",), _APART, "of a 0 and other digits apart, as phone numbers may be"),
)


@dataclass(slots=True)
class KeptColumn:
    """A column whose values are kept as they are.

    Raises InvalidInput for what is certainly personal data; `doubts` fills up with what may be.
    """

    name: str
    region: str | None = None
    doubts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _sample: dict[str, int] = field(default_factory=dict)  # the first values, with the first line of each

    def look(self, texts: Sequence[str], lines: npt.NDArray[np.int64], *, sample: bool = True) -> None:
        """Look at some of the values; without `sample` at each of them alone."""
        if sample:
            self.sample(texts, lines)
        refuse_personal(texts, self.name, lines)
        for signs, pattern, reason in _DOUBTS:
            if found := _with(signs, pattern, texts):
                self.doubts[reason] += lines[found].tolist()

    def sample(self, texts: Sequence[str], lines: npt.NDArray[np.int64]) -> None:
        """Take the first values of the column for what `end` looks at; the texts are in order of their lines."""
        if self.region is not None and len(self._sample) < SAMPLE:
            early = texts[: int(np.searchsorted(lines, SAMPLED_LINES, side="right"))]
            first = dict(zip(reversed(early), reversed(lines[: len(early)].tolist()), strict=True))
            for text in islice(dict.fromkeys(early), SAMPLE):
                self._sample.setdefault(text, first[text])

    def end(self) -> None:
        """Look at the column as a whole: one of which many values are numbers of the region is refused."""
        if self.region is None:
            return
        sample = list(self._sample)[:SAMPLE]
        texts = [text for text in sample if 7 <= sum(map(str.isdigit, text)) <= 15]
        numbers = [text for text in texts if parse_phone(text, self.region)]
        spelled = [text for text in texts if re.search(r"[ ()-]|^0", text.strip())]
        many = FEW * len(numbers) >= len(sample)
        if many and 2 * len(numbers) > len(texts) and 2 * len(spelled) > len(texts):
            raise _personal_data(self.name, "phone numbers", "")
        if found := set(numbers) & set(spelled):
            self.doubts[f"that are phone numbers of {self.region}"] += [self._sample[text] for text in found]


def refuse_personal(texts: Sequence[str], column: str, lines: npt.NDArray[np.int64]) -> None:
    """Refuse a column that is kept as it is and has an e-mail address in it or a phone number spelled as one."""
    for signs, pattern, noun in _CERTAIN:
        if found := _with(signs, pattern, texts):
            raise _personal_data(column, noun, f" (line {lines[found[0]]})")


def personal(name: str) -> str | None:
    """Return what a name is that is certainly personal data, None for any other name."""
    for signs, pattern, noun in (*_CERTAIN, (("\n0",), _DIGITS, "phone numbers")):
        if _with(signs, pattern, [name]):
            return {"e-mail addresses": "an e-mail address", "phone numbers": "a phone number"}[noun]
    return None


def refuse_personal_name(name: str, noun: str) -> None:
    """Refuse to keep a name of a `noun` ("dataset") that is an e-mail address or a phone number, without repeating it."""
    if found := personal(name):
        raise InvalidInput(f"the name of a {noun} is {found}: names are kept as they are", hint="choose another name")


def refuse_personal_header(header: Sequence[str], columns: Sequence[str], file: str) -> None:
    """Refuse a table whose first line has a person in place of the names of columns.

    Of the columns asked for no name may be personal, of the others none may look like one person's.
    """
    for name in header:
        bare = name.strip()
        whole = name in columns or _ADDRESS.fullmatch(bare) or _NUMBER.fullmatch(bare)
        if whole and (found := personal(bare)):
            raise InvalidInput(
                f"{file} has {found} where the name of a column should be",
                hint="put a line with the names of the columns before the first row",
            )


def too_long(texts: Sequence[str]) -> Bools:
    """Return which values are too long to be kept as they are."""
    return np.fromiter(map(len, texts), np.int64, len(texts)) > MAX_KEPT


def _with(signs: Sequence[str], pattern: re.Pattern[str], texts: Sequence[str]) -> list[int]:
    """Return which of the texts have a pattern, which needs one of the signs and sees each text as a line."""
    joined = "\n".join(["", *texts, ""])
    if not any(sign in joined for sign in signs) or pattern.search(joined) is None:
        return []
    return [index for index, text in enumerate(texts) if pattern.search(f"\n{text}\n")]


def _personal_data(column: str, noun: str, where: str) -> InvalidInput:
    return InvalidInput(
        f"column {column!r} has {noun}{where}: raw personal data is not kept",
        hint=f"leave it out, or say what is in it: {column}="
        + ("email_sha256" if noun.startswith("e-mail") else "phone_sha256"),
    )
