"""Inputs as batches of columns: CSV and JSON lines in whatever encoding, Parquet, Arrow, Excel; SQL queries.

A broken row costs only itself and keeps its physical line number (header = 1). That is why CSV is not read by DuckDB:
an unclosed quote ends its whole read, accepted rows have no line numbers, and no raw value may be copied to disk for
it. The delimiter is not guessed from statistics: it is the one under which the header has the columns asked for.
"""

import io
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from . import columnar, excel, physical_lines
from .cells import (
    DELIMITERS,
    MAX_CELL,
    MAX_NESTED,
    MAX_RECORD_LINES,
    SAID_DELIMITER,
    extent,
    json_cell,
    json_keys,
    json_object,
    not_plain,
    plain_records,
    refuse_document,
    require,
    split_header,
    too_deep,
    unique,
    wrong_width,
)
from .queries import Query
from .raw_values import refuse_personal_name
from .text_columns import Lines
from .text_files import BLOCK, MAX_LINE, SURROGATE, encoding_of, explained, first_line, head_of, open_file, position

_BROKEN = "a broken or unclosed quote"
_NOT_UTF8 = "bytes that are not UTF-8"
_TOO_LARGE = "a row that is too large"

ReadProgress = Callable[[int, int | None], None]  # how much has been read, of how much if that is known


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
    kind: str  # CSV, JSON lines, Parquet, Arrow, Excel, SQL
    encoding: str = ""
    delimiter: str = ""
    header: list[str] = field(default_factory=list)
    header_record: str = ""
    header_lines: int = 1
    columns: list[str] = field(default_factory=list)
    bad_bytes: bool = False
    rejected: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    table: columnar.Table | None = None
    joins_lines: bool = False  # whether a record went on over several lines so far
    _mark: str = field(default_factory=lambda: secrets.token_hex(8), repr=False)  # stands between lines of JSON

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def open(cls, path: Path | str | Query, columns: Sequence[str]) -> "Source":
        """Open a file, or run a query, and find the columns; raises InvalidInput that says what to do."""
        columns = list(dict.fromkeys(columns))
        for name in columns:
            refuse_personal_name(name, "column")
        if isinstance(path, Query):
            return cls(kind="SQL", columns=columns)._of_table(path.table())
        path = Path(path)
        head = head_of(path)
        if head.startswith(b"PAR1"):
            return cls(path=path, kind="Parquet", columns=columns)._of_table(columnar.parquet(path))
        if head.startswith((columnar.ARROW_FILE, columnar.ARROW_STREAM)):
            return cls(path=path, kind="Arrow", columns=columns)._of_table(columnar.arrow(path))
        if excel.is_excel(path, head):
            return cls(path=path, kind="Excel", columns=columns)._of_table(excel.excel(path))
        encoding, bad_bytes = encoding_of(path, head)
        source = cls(path=path, kind="CSV", encoding=encoding, bad_bytes=bad_bytes, columns=columns)
        with source._text() as text:
            first = first_line(text, path)
            refuse_document(first.strip(), path)
            if first.lstrip().startswith("{"):
                source.kind = "JSON lines"
                source.header = json_keys(first + "\n" + text.read(BLOCK))
                require(source.header, columns, path)
            else:
                if said := SAID_DELIMITER.fullmatch(first.strip()):
                    source.header_lines, first = 2, first_line(text, path)
                delimiters = said[1] if said else DELIMITERS
                source.delimiter, source.header = split_header(first, columns, path, delimiters)
                source.header_record = first
        return source

    @classmethod
    def of_lines(cls, path: Path | str, kind: str) -> "Source":
        """Open a text in which every line is a record; raises InvalidInput."""
        path = Path(path)
        encoding, bad_bytes = encoding_of(path, head_of(path))
        return cls(path=path, kind=kind, encoding=encoding, bad_bytes=bad_bytes)

    @classmethod
    def of_records(cls, path: Path | str, columns: Sequence[str]) -> "Source":
        """Open a file of nested records, not all of which have every column; raises InvalidInput."""
        source = cls.open(path, [])
        if source.kind == "CSV":
            raise InvalidInput(f"{path} is not JSON lines, Parquet or Arrow", hint="write one JSON object a line")
        known = columns if source.table is None else [name for name in columns if name in source.header]
        source.columns = list(dict.fromkeys(known))
        return source

    def batches(self, progress: ReadProgress | None = None) -> Iterator[Batch]:
        """Read the rows. `progress` gets bytes (rows where the input is a table) done and in all."""
        if self.table is not None:
            return self._rows_of_table(self.table, progress)
        return self._rows_of_text(progress)

    @property
    def has_lines(self) -> bool:
        """Whether the records of the input can be read by their lines alone, unless one of them has several."""
        return self.table is None and not self.bad_bytes

    def blocks(self, progress: ReadProgress | None = None) -> Iterator[tuple[Lines, int]]:
        """Read the lines after the header as they stand, with the number of the first of each block; raises Unwieldy."""
        total = self.path.stat().st_size
        skip = self.header_lines if self.kind == "CSV" else 0

        def report(done: int) -> None:
            if progress is not None:
                progress(done, total)

        with explained(self.path):
            yield from physical_lines.blocks(self.path, self.encoding, skip=skip, progress=report)

    def batches_of(self, wanted: npt.NDArray[np.int64]) -> Iterator[Batch]:
        """Read the records on some lines, given by their numbers, ascending: those that `batches` would read from them.

        Raises Unwieldy where a record goes on over several lines.
        """
        for blocks in physical_lines.ahead(self.blocks(), MAX_RECORD_LINES) if len(wanted) else ():
            lines, number = blocks[0]
            if number > wanted[-1]:
                return
            first, last = np.searchsorted(wanted, (number, number + len(lines))).tolist()
            batch = self._batch_of(wanted[first:last], blocks)
            if batch is not None:
                yield batch

    def _batch_of(self, numbers: npt.NDArray[np.int64], blocks: list[tuple[Lines, int]]) -> Batch | None:
        """Return the records on some lines of the first of some blocks that follow one another."""
        lines, number = blocks[0]
        texts = lines.texts(numbers - number)
        if self.kind != "CSV":
            return self._json(texts, numbers)[0]
        after, width = [each for each, _ in blocks[1:]], len(self.header)
        alone = np.ones(len(texts), bool)
        for index in [index for index, text in enumerate(texts) if '"' in text]:
            place = int(numbers[index]) - number
            alone[index] = physical_lines.stands_alone(texts[index], lines, place, after, self.delimiter, width)
            if not alone[index]:
                self._reject(number + place, _BROKEN)
        full = [texts[index] for index in np.flatnonzero(alone).tolist()]
        return self._csv(full, numbers[alone], final=True)[0]

    def lines(self) -> Iterator[tuple[int, str]]:
        """Read the physical lines of a text as they stand, with their numbers; a line that is not UTF-8 is rejected."""
        with explained(self.path), self._text() as text:
            number = 0
            while line := text.readline(MAX_LINE):
                number += 1
                if self.bad_bytes and SURROGATE.search(line):
                    self._reject(number, _NOT_UTF8)
                else:
                    yield number, line.rstrip("\n")

    def _of_table(self, table: columnar.Table) -> "Source":
        self.table, self.header = table, table.header
        self.header_record = columnar.as_csv([self.header])[0]
        require(self.header, self.columns, self.path)
        unique(self.header, self.columns, self.path)
        return self

    def _text(self) -> io.TextIOWrapper:
        errors = "surrogateescape" if self.encoding.startswith("utf-8") else "strict"
        return io.TextIOWrapper(open_file(self.path), encoding=self.encoding, errors=errors, newline=None)

    def _rows_of_text(self, progress: ReadProgress | None) -> Iterator[Batch]:
        total = self.path.stat().st_size
        is_csv = self.kind == "CSV"
        parse = self._csv if is_csv else self._json
        number, rest = 1, ""
        with explained(self.path), self._text() as text:
            if is_csv:
                for _ in range(self.header_lines):
                    text.readline(MAX_LINE)
                number = 1 + self.header_lines
            while True:
                block = text.read(BLOCK)
                if not block and not rest:
                    return
                lines = (rest + block).split("\n")
                rest = lines.pop() if block else ""
                batch, used = parse(lines, np.arange(number, number + len(lines)), final=not block)
                number += used
                if used < len(lines):  # the beginning of a record that goes on, and is read again with what follows
                    rest = "\n".join([*lines[used:], rest])
                if len(rest) > MAX_LINE:
                    raise InvalidInput(
                        f"{self.path.name}: line {number} begins a record of over {MAX_LINE} characters",
                        hint="give a CSV, JSON lines or Parquet file; a quote may be open there",
                    )
                if batch is not None:
                    yield batch
                if progress is not None:
                    progress(position(text), total)

    def _csv(self, lines: list[str], numbers: npt.NDArray[np.int64], *, final: bool) -> tuple[Batch | None, int]:
        """Split lines into cells; returns how many of them were used up, fewer than all if a quote is still open."""
        used, given = len(lines), numbers
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
                    self._reject(line, wrong_width(count + 1, width))
                full = [full[index] for index in np.flatnonzero(good).tolist()]
                numbers = numbers[good]
            cells = self.delimiter.join(full).split(self.delimiter) if full else []
        else:
            plain = plain_records(full, self.delimiter, width)
            if plain is not None:
                cells = plain
            else:
                cells, full, numbers, open_lines = self._careful(lines, given, final)
                used, bad = used - open_lines, []
        self.rejected[_NOT_UTF8] += bad
        if not full:
            return None, used
        places = [(name, self.header.index(name)) for name in self.columns]
        return Batch({name: cells[place::width] for name, place in places}, numbers, full), used

    def _careful(
        self, lines: list[str], numbers: npt.NDArray[np.int64], final: bool
    ) -> tuple[list[str], list[str], npt.NDArray[np.int64], int]:
        """Read record by record. A quote that never closes, or closes into nonsense, costs the line it began on."""
        cells: list[str] = []
        records: list[str] = []
        kept: list[int] = []
        width, start = len(self.header), 0
        row: list[str] | None
        given = numbers.tolist()
        stops = iter(range(len(lines)) if self.bad_bytes else [*not_plain(lines, self.delimiter, width), len(lines)])
        stop = next(stops)
        while start < len(lines):
            while stop < start:
                stop = next(stops)
            if start < stop:  # all at once
                cells += self.delimiter.join(lines[start:stop]).split(self.delimiter)
                records += lines[start:stop]
                kept += given[start:stop]
                start = stop
                continue
            record = lines[start]
            if '"' not in record and len(record) <= MAX_CELL:
                end, row = start + 1, record.split(self.delimiter)
            else:
                end, record, row = extent(lines, start, self.delimiter)
            if row is None and end == len(lines) and not final and end - start < MAX_RECORD_LINES:
                return cells, records, np.array(kept, np.int64), len(lines) - start
            line = given[start]
            if row is None or (end - start > 1 and len(row) != width):
                self._reject(line, _BROKEN)
                start += 1
                continue
            self.joins_lines |= end - start > 1
            start = end
            if not record:
                continue
            if self.bad_bytes and SURROGATE.search(record):
                self._reject(line, _NOT_UTF8)
            elif len(row) != width:
                self._reject(line, wrong_width(len(row), width))
            else:
                cells += row
                records.append(record)
                kept.append(line)
        return cells, records, np.array(kept, np.int64), 0

    def _json(
        self, lines: list[str], numbers: npt.NDArray[np.int64], *, final: bool = True
    ) -> tuple[Batch | None, int]:
        full, numbers, bad = self._decodable(lines, numbers)
        self.rejected[_NOT_UTF8] += bad
        blank = np.fromiter((not line.strip() for line in full), bool, len(full))
        if blank.any():
            full, numbers = [full[index] for index in np.flatnonzero(~blank).tolist()], numbers[~blank]
        objects: list[Any] = []
        try:
            between = f',"{self._mark}",'  # without it two broken lines could make good ones
            objects = json.loads(f"[{between.join(full)}]")
        except (ValueError, RecursionError):
            objects = []
        marks, objects = objects[1::2], objects[::2]
        whole = len(objects) == len(full) and all(each == self._mark for each in marks)
        if not whole or not all(isinstance(each, dict) for each in objects):
            objects = [json_object(line) for line in full]
            good = np.array([each is not None for each in objects], bool)
            for line in numbers[~good].tolist():
                self._reject(line, "not a JSON object")
            full = [full[index] for index in np.flatnonzero(good).tolist()]
            objects, numbers = [each for each in objects if each is not None], numbers[good]
        deep = [
            line.count("{") + line.count("[") > MAX_NESTED and too_deep(each)
            for line, each in zip(full, objects, strict=True)
        ]
        if any(deep):
            good = ~np.array(deep, bool)
            self.rejected[f"nested over {MAX_NESTED} deep"] += numbers[~good].tolist()
            where = np.flatnonzero(good).tolist()
            objects, full, numbers = (
                [objects[index] for index in where],
                [full[index] for index in where],
                numbers[good],
            )
        columns = {name: [json_cell(each.get(name)) for each in objects] for name in self.columns}
        if any(SURROGATE.search("\n".join(column)) for column in columns.values()):
            good = np.array([not any(map(SURROGATE.search, row)) for row in zip(*columns.values(), strict=True)], bool)
            for line in numbers[~good].tolist():
                self._reject(line, "text that is not valid Unicode")
            where = np.flatnonzero(good).tolist()
            columns = {name: [column[index] for index in where] for name, column in columns.items()}
            full, numbers = [full[index] for index in where], numbers[good]
        return (Batch(columns, numbers, full) if full else None), len(lines)

    def _rows_of_table(self, table: columnar.Table, progress: ReadProgress | None) -> Iterator[Batch]:
        number = table.first
        places = [(name, self.header.index(name)) for name in self.columns]
        for part in table.parts():
            numbers = np.arange(number, number + len(part))
            rows = [row for row in part if row]
            if len(rows) < len(part):
                self.rejected[_TOO_LARGE] += [int(line) for line, row in zip(numbers, part, strict=True) if row is None]
                numbers = numbers[np.fromiter(map(bool, part), bool, len(part))]
            columns = {name: [row[place] or "" for row in rows] for name, place in places}
            if rows:
                yield Batch(columns, numbers, columnar.as_csv(rows))
            number += len(part)
            if progress is not None:
                progress(number - table.first, table.total)

    def _decodable(
        self, lines: list[str], numbers: npt.NDArray[np.int64]
    ) -> tuple[list[str], npt.NDArray[np.int64], list[int]]:
        """Return the lines that were decoded with their numbers, and the numbers of those that were not."""
        if not self.bad_bytes:
            return lines, numbers, []
        good = np.fromiter((SURROGATE.search(line) is None for line in lines), bool, len(lines))
        return [lines[index] for index in np.flatnonzero(good).tolist()], numbers[good], numbers[~good].tolist()

    def _reject(self, line: int, reason: str) -> None:
        self.rejected[reason].append(line)
