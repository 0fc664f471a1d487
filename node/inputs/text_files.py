"""A file of text, perhaps gzipped: opened, its encoding found, and the errors of decoders turned into plain messages."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ..errors import Failure, InvalidInput
from ..homes import check_input
from .expansion import Unpacked

BLOCK = 1 << 22  # characters read at a time: some ten thousand rows
MAX_LINE = 1 << 24  # characters; no line of a table is longer


def open_file(path: Path) -> BinaryIO:
    """Open a file, unpacked if it is gzipped; raises InvalidInput."""
    check_input(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast(BinaryIO, Unpacked(path) if packed else path.open("rb"))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", hint="check the name and your rights") from error


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file; raises InvalidInput for what cannot be a table, or is a node's own."""
    check_input(path)
    if path.is_dir():
        raise InvalidInput(f"{path} is a directory", hint="name one CSV, JSON lines or Parquet file in it")
    if not path.exists():
        raise InvalidInput(f"there is no file {path}", hint="check the name")
    if not path.is_file():
        raise InvalidInput(f"{path} is not a plain file", hint="save the data in a file first")
    with explained(path), open_file(path) as file:
        head = file.read(1 << 16)
    if not head:
        raise InvalidInput(f"{path} is empty", hint="export it again: a header line and at least one row are needed")
    return head


def encoding_of(path: Path, head: bytes) -> tuple[str, bool]:
    """Return a file's encoding, and whether a few of its bytes are not valid in it; raises InvalidInput for no text."""
    if head.startswith(b"PK\x03\x04"):
        raise InvalidInput(f"{path} is a ZIP archive", hint="unpack it, and give the CSV file that was in it")
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, name == "utf-8-sig" and _count(path)[0] > 0
    if b"\0" in head:
        odd, even = head[1::2].count(0), head[::2].count(0)
        if max(odd, even) > len(head) * 0.3 and min(odd, even) < len(head) * 0.05:
            return ("utf-16-le" if odd > even else "utf-16-be"), False
        raise InvalidInput(f"{path} is not a text file", hint="give a CSV, JSON lines or Parquet file, perhaps gzipped")
    bad, good = _count(path)
    return ("latin-1", False) if bad > good else ("utf-8", bad > 0)


_MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
_FIRST_OF_SEVERAL = 0xC0  # the first byte of a character beyond ASCII is above it in UTF-8
SURROGATE = re.compile("[\ud800-\udfff]")


def _count(path: Path) -> tuple[int, int]:
    """Return how many bytes of a file are not UTF-8, and how many characters beyond ASCII are, if it has such bytes."""
    if _is_utf8(path):
        return 0, 0
    bad = good = 0
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with explained(path), open_file(path) as file:
        while block := file.read(BLOCK):
            if block.isascii() and not decoder.getstate()[0]:
                continue
            text = decoder.decode(block)
            valid = text.encode("utf-8", "ignore")  # without what was escaped
            beyond = np.frombuffer(valid, np.uint8)
            good += int(np.count_nonzero(beyond >= _FIRST_OF_SEVERAL))
            bad += len(text) - int(np.count_nonzero((beyond & 0xC0) != 0x80))
    return bad + len(decoder.getstate()[0]), good


def _is_utf8(path: Path) -> bool:
    """Return whether a file is UTF-8, looking only at bytes beyond ASCII, and at the one behind each."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with explained(path), open_file(path) as file:
        while block := file.read(BLOCK):
            if block.isascii() and not decoder.getstate()[0]:
                continue
            given = np.frombuffer(block, np.uint8)
            beyond = given >= 0x80
            looked_at = np.ones(len(given), bool)
            np.logical_or(beyond[1:], beyond[:-1], out=looked_at[1:])
            try:
                decoder.decode(given[np.flatnonzero(looked_at)].tobytes())
            except UnicodeDecodeError:
                return False
    return not decoder.getstate()[0]


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise InvalidInput or Failure with a plain message for an error of the decoders."""
    try:
        yield
    except UnicodeError as error:
        raise InvalidInput(f"{path} is not valid {str(error.args[0])[:40]}", hint="save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(f"{path} is a damaged gzip file", hint="copy or export it again") from error
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", hint="check the disk") from error


def position(text: io.TextIOWrapper) -> int:
    """Return how many bytes of the file itself have been read."""
    buffer: Any = text.buffer
    return int((getattr(buffer, "fileobj", None) or buffer).tell())


def first_line(text: io.TextIOWrapper, path: Path) -> str:
    """Read the line with the column names; raises InvalidInput where it is empty."""
    with explained(path):
        first = text.readline(MAX_LINE)
    if len(first) == MAX_LINE:
        raise InvalidInput(
            f"the first line of {path} is over {MAX_LINE} characters long", hint="put the column names there"
        )
    if not first.strip():
        raise InvalidInput(f"the first line of {path} is empty", hint="put the column names there")
    return first.rstrip("\n")
