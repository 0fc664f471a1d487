"""The lines of inbound files: an id, a tab, and traits or key-value pairs, read in blocks and told apart one by one.

Source (Experience League): "Inbound Data File Contents: Syntax, Invalid Characters, Variables, and Examples".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..imports.audience_manager_files import tokens
from ..inputs.text_files import explained, open_file

MAX_LINE = 102_400  # bytes
LINES_OF_AN_ID = 200  # in one file; those that follow are left out
_BLOCK = 1 << 22  # bytes read at a time
_MARK = b"\xef\xbb\xbf"
_NUMBER = re.compile(r"[0-9]{1,10}")
_LEFT = re.compile(r"([0-9]{1,10}):(0|-1)")

TOO_LONG = f"a line of over {MAX_LINE:,} bytes"
NOT_UTF8 = "bytes that are not UTF-8"
NO_ID = "not an id, a tab and a list"
BROKEN = "a list that is not one of traits or key-value pairs"
TOO_MANY = f"over {LINES_OF_AN_ID} lines of one id"


@dataclass(frozen=True, slots=True)
class Line:
    """What a line says of an id: key-value pairs, traits that it has (True) or has left, by number, and integration codes.

    `bare` are numbers without a key: of traits, or values of the key "ic".
    """

    signals: tuple[tuple[str, str], ...]
    traits: tuple[tuple[int, bool], ...]
    codes: tuple[str, ...]
    bare: tuple[str, ...]


def lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file that are not blank, with their numbers; None for one that is too long to be kept.

    Raises InvalidInput for a damaged gzip file.
    """
    number, rest, too_long = 0, b"", False
    with explained(path), open_file(path) as file:
        while block := file.read(_BLOCK):
            if not number and not rest and not too_long:
                block = block.removeprefix(_MARK)
            *whole, rest = (rest + block).split(b"\n")
            for each in whole:
                number += 1
                if too_long or len(each) > MAX_LINE + 1:
                    too_long = False
                    yield number, None
                elif each := each.rstrip(b"\r"):
                    yield number, each
            if len(rest) > MAX_LINE + 1:
                rest, too_long = b"", True
        if too_long:
            yield number + 1, None
        elif rest := rest.rstrip(b"\r"):
            yield number + 1, rest if len(rest) <= MAX_LINE else None


def parse(text: str) -> Line | None:
    """Return what follows a line's id and tab, None where it is broken."""
    found = tokens(text)
    if found is None or "\t" in text:
        return None
    signals: list[tuple[str, str]] = []
    traits: list[tuple[int, bool]] = []
    codes: list[str] = []
    bare: list[str] = []
    for key, value in found:
        if value is None:
            if left := _LEFT.fullmatch(key):
                traits.append((int(left[1]), False))
            elif _NUMBER.fullmatch(key):
                bare.append(key)
            elif key:
                return None
            continue
        key = key.lstrip("-").strip()
        if not key:
            return None
        if key in ("d_sid", "d_unsid"):
            if not _NUMBER.fullmatch(value):
                return None
            traits.append((int(value), key == "d_sid"))
            continue
        if key == "ic":
            codes.append(value)
        signals.append((key, value))
    return Line(tuple(signals), tuple(traits), tuple(codes), tuple(bare))
