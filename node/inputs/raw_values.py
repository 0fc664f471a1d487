"""Raw e-mail addresses and phone numbers where they do not belong: in columns that are kept as they are."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from .phones import parse_phone

SAMPLE = 1_000  # distinct values of a column that are tried as national phone numbers

_EMAIL = re.compile(r"[^\s@<>\"']+@[^\s@<>\"']+\.[^\s@<>\"']+")
_PHONE = re.compile(r"^\s*(?:tel:)?\+[1-9][\d .()/-]{6,18}\s*$", re.ASCII | re.IGNORECASE)


def refuse_personal(texts: Sequence[str], column: str, lines: npt.NDArray[np.int64]) -> None:
    """Refuse a column that is kept as it is and has an e-mail address in it or an international phone number."""
    joined = "\n".join(texts)
    for sign, pattern, noun in (("@", _EMAIL, "e-mail addresses"), ("+", _PHONE, "phone numbers")):
        if sign in joined:
            found = [index for index, text in enumerate(texts) if sign in text and pattern.search(text)]
            if found:
                raise _personal_data(column, noun, f" (line {lines[found[0]]})")


def refuse_phones(texts: Sequence[str], column: str, region: str | None) -> None:
    """Refuse a column of which most values are valid numbers of the region."""
    if region is None:
        return
    texts = [text for text in texts if 7 <= sum(map(str.isdigit, text)) <= 15]
    if len(texts) >= 3 and sum(bool(parse_phone(text, region)) for text in texts) > len(texts) / 2:
        looks = [text for text in texts if re.search(r"[ ()-]|^0", text.strip())]
        if len(looks) > len(texts) / 2:
            raise _personal_data(column, "phone numbers", "")


def _personal_data(column: str, noun: str, where: str) -> InvalidInput:
    return InvalidInput(
        f"column {column!r} has {noun}{where}: raw personal data is not kept",
        hint=f"leave it out, or give it as an identity: {column}="
        + ("email_sha256" if noun.startswith("e-mail") else "phone_sha256"),
    )
