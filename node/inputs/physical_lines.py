"""The physical lines of a text in blocks of bytes, without a look at what is in them: many lines are told apart in one go."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .cells import MAX_RECORD_LINES, extent
from .text_columns import Lines
from .text_files import BLOCK, MAX_LINE, open_file, position


class Unwieldy(Exception):
    """Lines that are told apart only where records are."""


def blocks(
    path: Path, encoding: str, *, skip: int = 0, progress: Callable[[int], object] = lambda _: None
) -> Iterator[tuple[Lines, int]]:
    """Yield the lines after the first `skip`, in UTF-8 whatever the encoding, with the number of the first of them.

    Line breaks are those of Python's text files: each ends a line, the last line may go without. Raises Unwieldy for a
    line of over MAX_LINE bytes.
    """
    number, rest = 1, b"\n"
    with open_file(path) as file:
        for block in _in_utf8(file, encoding, progress):
            if len(rest) + len(block) > MAX_LINE + BLOCK * 4:
                raise Unwieldy
            whole, line_break, last = block.rpartition(b"\n")
            if not line_break:
                rest += last
                continue
            data, rest = b"".join((rest, whole, b"\n")), b"\n" + last
            lines = Lines.split(data)
            if skip:
                left = min(skip, len(lines))
                lines = Lines(data, lines.starts[left:], lines.ends[left:])
                skip, number = skip - left, number + left
            yield lines, number
            number += len(lines)
        if len(rest) > 1 and not skip:
            yield Lines.split(rest + b"\n"), number


def _in_utf8(file: BinaryIO, encoding: str, progress: Callable[[int], object]) -> Iterator[bytes]:
    """Yield a text in UTF-8, with "\\n" alone as line breaks."""
    if encoding == "utf-8":
        yield from _translated(file, progress)
        return
    with io.TextIOWrapper(file, encoding=encoding, newline=None) as text:
        while block := text.read(BLOCK):
            yield block.encode("utf-8", "surrogatepass")
            progress(position(text))


def _translated(file: BinaryIO, progress: Callable[[int], object]) -> Iterator[bytes]:
    before, done = b"", getattr(file, "fileobj", None) or file
    while block := file.read(BLOCK):
        block, before = before + block, b""
        if b"\r" in block:
            if block.endswith(b"\r"):  # of which the "\n" may follow
                block, before = block[:-1], b"\r"
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield block
        progress(done.tell())
    if before:
        yield b"\n"


def ahead(blocks: Iterator[tuple[Lines, int]], count: int) -> Iterator[list[tuple[Lines, int]]]:
    """Yield each block with those after it, as many as have so many lines, or are left."""
    pending: list[tuple[Lines, int]] = []
    for block in blocks:
        pending.append(block)
        while sum(len(lines) for lines, _ in pending[1:]) >= count:
            yield pending
            del pending[0]
    while pending:
        yield pending
        del pending[0]


def stands_alone(text: str, lines: Lines, place: int, after: list[Lines], delimiter: str, width: int) -> bool:
    """Return whether a text with quotes, at a place of `lines`, is a record of CSV; False where it is broken.

    Raises Unwieldy where it is one with those that follow.
    """
    end, _, row = extent([text, ""], 0, delimiter)
    if end > 1:  # a quote is open: what follows says how it ends
        if not lines.may_close(place, delimiter):
            return False
        window = lines.until(place, '"', MAX_RECORD_LINES)
        end, _, row = extent([*window, ""], 0, delimiter)
        if end > len(window):
            window = lines.following(place, MAX_RECORD_LINES)
            for each in after:
                window += each.following(0, MAX_RECORD_LINES - len(window))
            end, _, row = extent(window, 0, delimiter)
    if row is not None and end > 1 and len(row) == width:
        raise Unwieldy
    return row is not None and end == 1


def longest(lines: Lines) -> int:
    """Return the bytes of the longest of some lines."""
    return int(np.max(lines.lengths, initial=0))
