"""Records of CSV and JSON lines, taken apart into cells."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, nearest
from .raw_values import refuse_personal_header

MAX_CELL = csv.field_size_limit()  # characters of a cell, where quotes are read
MAX_RECORD_LINES = 100  # how far a quoted field may go on before the quote counts as unclosed
MAX_NESTED = 100  # objects and lists of JSON in one another
DELIMITERS = (",", ";", "\t", "|")
SAID_DELIMITER = re.compile('"?sep=([,;\t|])"?')  # a first line by which Excel knows the delimiter


def split_header(
    first: str, columns: Sequence[str], path: Path, delimiters: Sequence[str] = DELIMITERS
) -> tuple[str, list[str]]:
    """Return the delimiter under which the header has the most of the columns, and the names; raises InvalidInput."""
    found: list[tuple[int, int, str, list[str]]] = []
    for place, delimiter in enumerate(delimiters):
        header = _cells(first, delimiter)
        if header is None:
            continue
        names = [name.strip() for name in header]
        found.append((sum(column in names for column in columns), len(names) * 10 - place, delimiter, names))
    if not found:
        raise InvalidInput(f"the header of {path} has a broken quote", hint="put the column names on the first line")
    _, _, delimiter, names = max(found)
    require(names, columns, path)
    unique(names, columns, path)
    return delimiter, names


def unique(names: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """Raise InvalidInput where a column is there more than once."""
    for column in columns:
        if names.count(column) > 1:
            raise InvalidInput(f"{path} has {names.count(column)} columns {column!r}", hint="rename all but one")


def require(names: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """Raise InvalidInput where a column is not among the names, or a person's data is."""
    if columns:
        refuse_personal_header(names, columns, str(path))
    missing = [column for column in columns if column not in names]
    if not missing:
        return
    # a file without a header has a person's data where names should be: they are no part of the message, which the audit
    # log keeps, and what looks like data is not shown either
    shown = [name[:40] if re.fullmatch(r"[^\W\d][\w .-]*", name) else "?" for name in names]
    meant = nearest(missing[0], [name for name in shown if name != "?"])
    raise InvalidInput(
        f"{path} has no column {', '.join(map(repr, missing))}",
        hint=f"{meant}name columns of the first line, separated by comma, semicolon, tab or |; it gives "
        + ", ".join(shown[:20]),
    )


def wrong_width(count: int, width: int) -> str:
    """Return why a row of `count` cells is rejected."""
    return f"{'fewer' if count < width else 'more'} cells than the header"


def _cells(record: str, delimiter: str) -> list[str] | None:
    """Return the cells of one CSV record; None where a quote is broken or still open."""
    lines = io.StringIO(record, newline="") if "\n" in record or "\r" in record else [record]
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else [] if not rows else None


def extent(lines: list[str], start: int, delimiter: str) -> tuple[int, str, list[str] | None]:
    """Return where the record that begins at `start` ends, the record, and its cells.

    None instead of cells: the quote is broken, or (when the end is that of the lines, or MAX_RECORD_LINES away) still open.
    """
    try:
        for row in csv.reader(lines[start : start + 1], delimiter=delimiter, strict=True):
            return start + 1, lines[start], row
    except csv.Error as error:
        if "unexpected end" not in str(error):
            return start + 1, lines[start], None
    limit = min(start + MAX_RECORD_LINES, len(lines))
    reader = csv.reader((f"{line}\n" for line in lines[start:limit]), delimiter=delimiter, strict=True)
    try:
        row = next(reader)
    except csv.Error as error:
        is_open = reader.line_num == limit - start and "unexpected end" in str(error)
        return (limit if is_open else start + 1), lines[start], None
    end = start + reader.line_num
    return end, "\n".join(lines[start:end]), row


def not_plain(lines: list[str], delimiter: str, width: int) -> list[int]:
    """Return which lines are not records of so many cells that their delimiters alone tell apart."""
    count = width - 1
    return [
        index
        for index, line in enumerate(lines)
        if '"' in line or line.count(delimiter) != count or not line or len(line) > MAX_CELL
    ]


def plain_records(lines: list[str], delimiter: str, width: int) -> list[str] | None:
    """Return the cells of lines that are one well-formed record each, else None."""
    cells: list[str] = []
    try:
        for row in csv.reader(lines, delimiter=delimiter, strict=True):
            if len(row) != width:
                return None
            cells += row
    except csv.Error:
        return None
    return cells if len(cells) == len(lines) * width else None


def refuse_document(first: str, path: Path) -> None:
    """Raise InvalidInput where the first line begins one JSON document, and is no object of its own."""
    if first.startswith("["):
        if not first.strip("[] ") or "{" in first or first.endswith(","):
            raise InvalidInput(f"{path} is one JSON array", hint="write one object a line, as jq -c '.[]' does")
    elif first == "{":
        raise InvalidInput(f"{path} has JSON objects over several lines", hint="write one object a line, as jq -c does")


def json_object(line: str) -> dict[str, Any] | None:
    """Return a line's JSON object, None if the line is something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def too_deep(value: Any) -> bool:
    """Return whether a JSON value is nested so deeply that writing it again could exhaust the stack."""
    level = [value]
    for _ in range(MAX_NESTED):
        level = [inner for each in level if isinstance(each, dict | list) for inner in _inside(each)]
        if not level:
            return False
    return True


def _inside(value: "dict[str, Any] | list[Any]") -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def json_cell(value: Any) -> str:
    """Return a value as the text of a cell."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def json_keys(text: str) -> list[str]:
    """Return the keys of the first thousand objects, in the order in which they come."""
    objects = (json_object(line) for line in text.split("\n")[:1_000])
    return list(dict.fromkeys(str(key) for each in objects if each for key in each))
