"""Why a value of an identity column was dropped, and what it looked like: a number each, counted for a whole column."""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from psi.values import U8

MAX_OPAQUE = 255  # a value's length is one byte


FORMS = ("raw", "hex", "0x hex", "Base64", "URL-safe Base64")
RAW = 0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a column's texts looked like: `forms` counts the kept ones by form, `raw` and `hashed` all that were seen of
    each, also where a flag made it a reason to drop."""

    forms: Counter[str]
    raw: int
    hashed: int


def seen(reasons: U8, looks: U8) -> Seen:
    """Count what `Normalised` has a row of each for."""
    kept = np.bincount(looks[reasons == Reason.KEPT], minlength=len(FORMS)).tolist()
    is_raw = (looks == RAW) & np.isin(reasons, (Reason.KEPT, Reason.NO_REGION, Reason.IS_RAW))
    return Seen(
        forms=Counter({name: count for name, count in zip(FORMS, kept, strict=True) if count}),
        raw=int(np.count_nonzero(is_raw)),
        hashed=int(np.count_nonzero(looks != RAW)),
    )
