"""Inputs as batches of columns: CSV, JSON lines, Parquet, Arrow, perhaps gzipped, in whatever encoding; SQL queries.

A broken row costs only itself and keeps its physical line number (header = 1). That is why CSV is not read by DuckDB:
an unclosed quote ends its whole read, accepted rows have no line numbers, and no raw value may be copied to disk for
it. The delimiter is not guessed from statistics: it is the one under which the header holds the columns asked for.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from ..errors import Failure, InvalidInput
from . import columnar
from .queries import Query

BLOCK = 1 << 22  # characters read at a time: some ten thousand rows
MAX_LINE = 1 << 24  # longer is no line of a table
MAX_CELL = csv.field_size_limit()  # longer is no cell where quotes are read
MAX_RECORD_LINES = 100  # how far a quoted field may go on before the quote counts as unclosed
DELIMITERS = (",", ";", "\t", "|")

_BROKEN = "a broken or unclosed quote"
_NOT_UTF8 = "bytes that are not UTF-8"

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows: a list of text per column asked for, the physical line of each row, and the rows as they stand."""

    columns: dict[str, list[str]]
    lines: npt.NDArray[np.int64]
    records: list[str]


@dataclass(slots=True, kw_only=True)
class Source:
    """An opened input. `rejected` fills up with line numbers per reason while `batches()` is consumed."""

    path: Path = Path("query")
    kind: str  # CSV, JSON lines, Parquet, Arrow, SQL
    encoding: str = ""
    delimiter: str = ""
    header: list[str] = field(default_factory=list)
    header_record: str = ""
    columns: list[str] = field(default_factory=list)
    bad_bytes: bool = False
    rejected: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    table: columnar.Table | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def open(cls, path: Path | str | Query, columns: Sequence[str]) -> "Source":
        """Look at a file, or run a query, and find the columns; raises InvalidInput that says what to do."""
        columns = list(dict.fromkeys(columns))
        if isinstance(path, Query):
            return cls(kind="SQL", columns=columns)._of_table(path.table())
        path = Path(path)
        head = _head(path)
        if head.startswith(b"PAR1"):
            return cls(path=path, kind="Parquet", columns=columns)._of_table(columnar.parquet(path))
        if head.startswith((columnar.ARROW_FILE, columnar.ARROW_STREAM)):
            return cls(path=path, kind="Arrow", columns=columns)._of_table(columnar.arrow(path))
        encoding, bad_bytes = _encoding(path, head)
        source = cls(path=path, kind="CSV", encoding=encoding, bad_bytes=bad_bytes, columns=columns)
        with source._text() as text:
            first = _first_line(text, path)
            if first.lstrip().startswith("{"):
                source.kind = "JSON lines"
                source.header = _keys(first + "\n" + text.read(BLOCK))
                _require(source.header, columns, path)
            else:
                source.delimiter, source.header = _delimiter(first, columns, path)
                source.header_record = first
        return source

    @classmethod
    def of_lines(cls, path: Path | str, kind: str) -> "Source":
        """Look at a text of which every line stands for itself; raises InvalidInput."""
        path = Path(path)
        encoding, bad_bytes = _encoding(path, _head(path))
        return cls(path=path, kind=kind, encoding=encoding, bad_bytes=bad_bytes)

    @classmethod
    def of_records(cls, path: Path | str, columns: Sequence[str]) -> "Source":
        """Look at a file of nested records, of which not all have every column; raises InvalidInput."""
        source = cls.open(path, [])
        if source.kind == "CSV":
            raise InvalidInput(f"{path} is not JSON lines, Parquet or Arrow", hint="write one JSON object a line")
        known = columns if source.table is None else [name for name in columns if name in source.header]
        source.columns = list(dict.fromkeys(known))
        return source

    def batches(self, progress: Progress | None = None) -> Iterator[Batch]:
        """Read the rows. `progress` gets bytes (rows where the input is a table) done and in all."""
        if self.table is not None:
            return self._rows_of_table(self.table, progress)
        return self._rows_of_text(progress)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Read the physical lines of a text as they stand, with their numbers; a line that is not UTF-8 is rejected."""
        with _explained(self.path), self._text() as text:
            number = 0
            while line := text.readline(MAX_LINE):
                number += 1
                if self.bad_bytes and _SURROGATE.search(line):
                    self._reject(number, _NOT_UTF8)
                else:
                    yield number, line.rstrip("\n")

    def _of_table(self, table: columnar.Table) -> "Source":
        self.table, self.header = table, table.header
        self.header_record = columnar.as_csv([self.header])[0]
        _require(self.header, self.columns, self.path)
        return self

    def _text(self) -> io.TextIOWrapper:
        errors = "surrogateescape" if self.encoding.startswith("utf-8") else "strict"
        return io.TextIOWrapper(_open(self.path), encoding=self.encoding, errors=errors, newline=None)

    def _rows_of_text(self, progress: Progress | None) -> Iterator[Batch]:
        total = self.path.stat().st_size
        is_csv = self.kind == "CSV"
        parse = self._csv if is_csv else self._json
        number, rest = 1, ""
        with _explained(self.path), self._text() as text:
            if is_csv:
                text.readline()
                number = 2
            while True:
                block = text.read(BLOCK)
                if not block and not rest:
                    return
                lines = (rest + block).split("\n")
                rest = lines.pop() if block else ""
                if len(rest) > MAX_LINE:
                    raise InvalidInput(
                        f"{self.path.name}: line {number + len(lines)} is over {MAX_LINE} characters long",
                        hint="give a CSV, JSON lines or Parquet file",
                    )
                batch, used = parse(lines, number, final=not block)
                number += used
                if used < len(lines):  # the beginning of a record that goes on
                    rest = "\n".join([*lines[used:], rest])
                if batch is not None:
                    yield batch
                if progress is not None:
                    progress(_position(text), total)

    def _csv(self, lines: list[str], number: int, *, final: bool) -> tuple[Batch | None, int]:
        """Split lines into cells; returns how many of them were used up, fewer than all if a quote is still open."""
        used = len(lines)
        numbers = np.arange(number, number + used)
        if "" in lines:
            numbers = numbers[np.fromiter(map(bool, lines), bool, len(lines))]
            full = [line for line in lines if line]
        else:
            full = lines
        full, numbers, bad = self._decodable(full, numbers)
        width = len(self.header)
        quoted = any('"' in line for line in full)
        if not quoted:
            counts = np.fromiter((line.count(self.delimiter) for line in full), np.int64, len(full))
            good = counts == width - 1
            if not good.all():
                for line, count in zip(numbers[~good].tolist(), counts[~good].tolist(), strict=True):
                    self._reject(line, _fields(count + 1, width))
                full = [full[index] for index in np.flatnonzero(good).tolist()]
                numbers = numbers[good]
            cells = self.delimiter.join(full).split(self.delimiter) if full else []
        else:
            plain = _plain_records(full, self.delimiter, width)
            if plain is not None:
                cells = plain
            else:
                cells, full, numbers, open_lines = self._careful(lines, number, final)
                used, bad = used - open_lines, []
        self.rejected[_NOT_UTF8] += bad
        if not full:
            return None, used
        places = [(name, self.header.index(name)) for name in self.columns]
        return Batch({name: cells[place::width] for name, place in places}, numbers, full), used

    def _careful(
        self, lines: list[str], number: int, final: bool
    ) -> tuple[list[str], list[str], npt.NDArray[np.int64], int]:
        """Read record by record. A quote that never closes, or closes into nonsense, costs the line it began on."""
        cells: list[str] = []
        records: list[str] = []
        kept: list[int] = []
        width, start = len(self.header), 0
        row: list[str] | None
        while start < len(lines):
            record = lines[start]
            if '"' not in record and len(record) <= MAX_CELL:
                end, row = start + 1, record.split(self.delimiter)
            else:
                end, record, row = _extent(lines, start, self.delimiter)
            if row is None and end == len(lines) and not final and end - start < MAX_RECORD_LINES:
                return cells, records, np.array(kept, np.int64), len(lines) - start
            line = number + start
            if row is None or (end - start > 1 and len(row) != width):
                self._reject(line, _BROKEN)
                start += 1
                continue
            start = end
            if not record:
                continue
            if self.bad_bytes and _SURROGATE.search(record):
                self._reject(line, _NOT_UTF8)
            elif len(row) != width:
                self._reject(line, _fields(len(row), width))
            else:
                cells += row
                records.append(record)
                kept.append(line)
        return cells, records, np.array(kept, np.int64), 0

    def _json(self, lines: list[str], number: int, *, final: bool) -> tuple[Batch | None, int]:
        numbers = np.arange(number, number + len(lines))
        full, numbers, bad = self._decodable(lines, numbers)
        self.rejected[_NOT_UTF8] += bad
        blank = np.fromiter((not line.strip() for line in full), bool, len(full))
        if blank.any():
            full, numbers = [full[index] for index in np.flatnonzero(~blank).tolist()], numbers[~blank]
        objects: list[Any] = []
        try:
            objects = json.loads(f"[{','.join(full)}]")
        except (ValueError, RecursionError):
            objects = []
        if len(objects) != len(full) or not all(isinstance(each, dict) for each in objects):
            objects = [_object(line) for line in full]
            good = np.array([each is not None for each in objects], bool)
            for line in numbers[~good].tolist():
                self._reject(line, "not a JSON object")
            full = [full[index] for index in np.flatnonzero(good).tolist()]
            objects, numbers = [each for each in objects if each is not None], numbers[good]
        columns = {name: [_cell(each.get(name)) for each in objects] for name in self.columns}
        if any(_SURROGATE.search("\n".join(column)) for column in columns.values()):
            good = np.array([not any(map(_SURROGATE.search, row)) for row in zip(*columns.values(), strict=True)], bool)
            for line in numbers[~good].tolist():
                self._reject(line, "text that is not valid Unicode")
            where = np.flatnonzero(good).tolist()
            columns = {name: [column[index] for index in where] for name, column in columns.items()}
            full, numbers = [full[index] for index in where], numbers[good]
        return (Batch(columns, numbers, full) if full else None), len(lines)

    def _rows_of_table(self, table: columnar.Table, progress: Progress | None) -> Iterator[Batch]:
        number = 1
        places = [(name, self.header.index(name)) for name in self.columns]
        for part in table.parts():
            yield Batch(
                {name: [row[place] or "" for row in part] for name, place in places},
                np.arange(number, number + len(part)),
                columnar.as_csv(part),
            )
            number += len(part)
            if progress is not None:
                progress(number - 1, table.total)

    def _decodable(
        self, lines: list[str], numbers: npt.NDArray[np.int64]
    ) -> tuple[list[str], npt.NDArray[np.int64], list[int]]:
        """Part lines that were decoded from those that were not; of the latter the numbers."""
        if not self.bad_bytes:
            return lines, numbers, []
        good = np.fromiter((_SURROGATE.search(line) is None for line in lines), bool, len(lines))
        return [lines[index] for index in np.flatnonzero(good).tolist()], numbers[good], numbers[~good].tolist()

    def _reject(self, line: int, reason: str) -> None:
        self.rejected[reason].append(line)


# One file


def _open(path: Path) -> BinaryIO:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast(BinaryIO, gzip.open(path) if packed else path.open("rb"))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", hint="check the name and your rights") from error


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InvalidInput(f"{path} is a directory", hint="name one CSV, JSON lines or Parquet file in it")
    if not path.exists():
        raise InvalidInput(f"there is no file {path}", hint="check the name")
    if not path.is_file():
        raise InvalidInput(f"{path} is not a plain file", hint="save the data in a file first")
    with _explained(path), _open(path) as file:
        head = file.read(1 << 16)
    if not head:
        raise InvalidInput(f"{path} is empty", hint="export it again: a header line and at least one row are needed")
    if head.startswith(b"PK\x03\x04"):
        raise InvalidInput(f"{path} is a ZIP archive or an Excel file", hint="save the sheet as CSV, or unpack it")
    return head


def _encoding(path: Path, head: bytes) -> tuple[str, bool]:
    """Return a file's encoding, and whether a few bytes of it do not fit."""
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
_SURROGATE = re.compile("[\ud800-\udfff]")


def _count(path: Path) -> tuple[int, int]:
    """Return how many bytes of a file are not UTF-8, and how many characters beyond ASCII are."""
    bad = good = 0
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with _explained(path), _open(path) as file:
        while block := file.read(BLOCK):
            if block.isascii() and not decoder.getstate()[0]:
                continue
            text = decoder.decode(block)
            valid = len(text.encode("utf-8", "ignore").decode())  # without what was escaped
            bad += len(text) - valid
            good += valid - len(text.encode("ascii", "ignore"))
    return bad + len(decoder.getstate()[0]), good


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say in plain words what a broken file makes the decoders say."""
    try:
        yield
    except UnicodeError as error:
        raise InvalidInput(f"{path} is not valid {str(error.args[0])[:40]}", hint="save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(f"{path} is a damaged gzip file", hint="copy or export it again") from error
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", hint="check the disk") from error


def _position(text: io.TextIOWrapper) -> int:
    buffer: Any = text.buffer
    return int((getattr(buffer, "fileobj", None) or buffer).tell())


# Header and delimiter


def _first_line(text: io.TextIOWrapper, path: Path) -> str:
    with _explained(path):
        first = text.readline(MAX_LINE)
    if not first.strip():
        raise InvalidInput(f"the first line of {path} is empty", hint="put the column names there")
    return first.rstrip("\n")


def _delimiter(first: str, columns: Sequence[str], path: Path) -> tuple[str, list[str]]:
    found: list[tuple[int, int, str, list[str]]] = []
    for place, delimiter in enumerate(DELIMITERS):
        header = _record(first, delimiter)
        if header is None:
            continue
        names = [name.strip() for name in header]
        found.append((sum(column in names for column in columns), len(names) * 10 - place, delimiter, names))
    if not found:
        raise InvalidInput(f"the header of {path} has a broken quote", hint="put the column names on the first line")
    _, _, delimiter, names = max(found)
    _require(names, columns, path)
    for column in columns:
        if names.count(column) > 1:
            raise InvalidInput(f"{path} has {names.count(column)} columns {column!r}", hint="rename all but one")
    return delimiter, names


def _require(names: Sequence[str], columns: Sequence[str], path: Path) -> None:
    missing = [column for column in columns if column not in names]
    if not missing:
        return
    # a file without a header shows a person's data where names should be: such cells stay out of the message
    shown = [name[:40] if re.fullmatch(r"[^\W\d][\w .-]*", name) else "?" for name in names[:20]]
    raise InvalidInput(
        f"{path} has no column {', '.join(map(repr, missing))}; its first line gives {', '.join(shown)}",
        hint="name columns of the first line, separated by comma, semicolon, tab or |",
    )


def _fields(count: int, width: int) -> str:
    return f"{'fewer' if count < width else 'more'} cells than the header"


def _record(record: str, delimiter: str) -> list[str] | None:
    lines = io.StringIO(record, newline="") if "\n" in record or "\r" in record else [record]
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else [] if not rows else None


def _extent(lines: list[str], start: int, delimiter: str) -> tuple[int, str, list[str] | None]:
    """Return where the record that begins at `start` ends, the record, and its cells.

    None instead of cells: the quote is broken, or (when the end is that of the lines, or MAX_RECORD_LINES away) still open.
    """
    limit = min(start + MAX_RECORD_LINES, len(lines))
    end, record = start + 1, lines[start]
    row = _record(record, delimiter)
    while row is None and _record(record + '"', delimiter) is not None:  # it ends inside quotes
        closing = next((place for place in range(end, limit) if '"' in lines[place]), None)
        if closing is None:
            return limit, record, None
        end = closing + 1
        record = "\n".join(lines[start:end])
        row = _record(record, delimiter)
    return (end, record, row) if row is not None else (start + 1, record, None)


def _plain_records(lines: list[str], delimiter: str, width: int) -> list[str] | None:
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


# JSON lines


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def _keys(text: str) -> list[str]:
    objects = (_object(line) for line in text.split("\n")[:1_000])
    return list(dict.fromkeys(str(key) for each in objects if each for key in each))
