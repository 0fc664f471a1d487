"""Excel files (.xlsx): the first sheet as a table, its rows read by openpyxl.

openpyxl and not a faster reader, since it reads over the standard library's zipfile and expat: an entry gives no more bytes
than it declares, the sum of which is bounded here, and entities do not unfold. openpyxl's own loop over a sheet keeps
every element that it has met, so the loop is here.
"""

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, XMLPullParser

from ..errors import InvalidInput, printable
from .columnar import MAX_ROW, Part, Row, Table, in_parts
from .expansion import CELL, Allowance

ARCHIVE = b"PK\x03\x04"
_BINARY = b"\xd0\xcf\x11\xe0"  # the older format, and one that has a password
PART = 1 << 22  # bytes of styles, names and the like
STRINGS_RATIO = 50  # texts pack to a twentieth at the best, empty ones to a thousandth
MAX_ROWS = 1 << 20  # Excel's own limits
MAX_COLUMNS = 1 << 14
_BLOCK = 1 << 16  # bytes of a sheet taken at a time
MAX_HELD = 1 << 18  # elements of a sheet that are in memory at once: a row's cells have some each
MAX_TEXT = 1 << 22  # bytes of a text or tag of a sheet


def is_excel(path: Path, head: bytes) -> bool:
    """Return whether a file is a workbook; raises InvalidInput for one that cannot be read."""
    if head.startswith(_BINARY):
        raise InvalidInput(
            f"{path} is an Excel file of the older format or with a password",
            hint="save it as .xlsx without one, or as CSV",
        )
    if not head.startswith(ARCHIVE):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def excel(path: Path) -> Table:
    """Open the first sheet, whose first row has the names; raises InvalidInput, also where the extra is not installed."""
    with _sheet(path) as rows:
        first = next(rows, (1, []))
    header = [(_text(cell) or "").strip() for cell in first[1]] if first[0] == 1 else []
    while header and not header[-1]:
        header.pop()
    if not header:
        raise InvalidInput(f"the first row of {path} is empty", hint="put the column names there")

    def rows_and_sizes() -> Iterator[tuple[Row | None, int]]:
        allowance, before = Allowance.of_file(path), 1
        with _sheet(path) as rows:
            for number, given in rows:
                if number == 1:
                    continue
                for _ in range(before + 1, number):
                    yield [], CELL
                before = number
                row = [_text(cell) for cell in given[: len(header)]]
                size = sum(len(cell) for cell in row if cell)
                allowance.add(size + CELL * max(1, len(given)))
                row += [None] * (len(header) - len(row))
                yield (None if size > MAX_ROW else row if size else []), size + CELL * len(header)

    def parts() -> Iterator[Part]:
        return in_parts(rows_and_sizes())

    return Table(header=header, total=None, parts=parts, first=2)


def _text(cell: Any) -> str | None:
    """Return a cell as a CSV file would have it: dates year first, whole numbers without a point."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat(timespec="seconds")
    if isinstance(cell, (date, time)):
        return cell.isoformat()
    if isinstance(cell, float) and math.isfinite(cell) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    return str(cell)


def _most(entry: zipfile.ZipInfo) -> int:
    """Return how large a part of a workbook may be: openpyxl makes objects of all but the sheets before the first row."""
    if entry.filename.startswith("xl/worksheets/sheet") or not entry.filename.lower().endswith((".xml", ".rels")):
        return entry.file_size
    strings = entry.filename.endswith("sharedStrings.xml")
    return max(PART, STRINGS_RATIO * entry.compress_size if strings else 0)


@contextmanager
def _sheet(path: Path) -> Iterator[Iterator[tuple[int, list[Any]]]]:
    """Open the first sheet as its rows that have cells, each with its number."""
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "Excel files need the package openpyxl", hint="install it beside Vesica: pip install openpyxl"
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            Allowance.of_file(path).add(sum(entry.file_size for entry in archive.infolist()))
            for entry in archive.infolist():
                if entry.file_size > _most(entry):
                    raise InvalidInput(
                        f"{path}: {printable(entry.filename)} is too large for a workbook",
                        hint="save it as CSV, or copy the sheet to a new workbook",
                    )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is not read anyway: styles, charts
            book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
            try:
                yield _rows(book, path)
            finally:
                book.close()
    except InvalidInput:
        raise
    except Exception as error:  # openpyxl raises what its code meets: KeyError, TypeError, ParseError and more
        raise InvalidInput(f"{path} is a damaged Excel file", hint="save it again, or as CSV") from error


def _rows(book: Any, path: Path) -> Iterator[tuple[int, list[Any]]]:
    from openpyxl.worksheet._reader import ROW_TAG, WorkSheetParser

    sheet, before = book.worksheets[0], 0
    with sheet._get_source() as source:
        parser = WorkSheetParser(
            None,
            sheet._shared_strings,
            data_only=True,
            epoch=book.epoch,
            date_formats=book._date_formats,
            timedelta_formats=book._timedelta_formats,
        )
        for element in _elements(source, ROW_TAG, path):
            number, cells = parser.parse_row(element)
            parser.row_dimensions.clear()
            row: list[Any] = [None] * max((cell["column"] for cell in cells), default=0)
            for cell in cells:
                row[cell["column"] - 1] = cell["value"]
            if number > MAX_ROWS or len(row) > MAX_COLUMNS:
                raise _too_large(path, f"is over {MAX_ROWS:,} rows or {MAX_COLUMNS:,} columns")
            if row and number > before:
                before = number
                yield number, row


def _elements(source: Any, tag: str, path: Path) -> Iterator[Element]:
    """Yield the elements of a name; of all others nothing stays in memory."""
    parser: Any = XMLPullParser(("start", "end"))
    above: list[Element] = []
    inside = held = quiet = 0
    while block := source.read(_BLOCK):
        parser.feed(block)
        quiet += len(block)
        events: Iterator[tuple[str, Element]] = parser.read_events()
        for event, element in events:
            quiet = 0
            if event == "start":
                above.append(element)
                inside += element.tag == tag
                held += 1
                if held > MAX_HELD:
                    raise _too_large(path, "has a row of too many cells")
                continue
            above.pop()
            if element.tag == tag:
                inside -= 1
                if not inside:
                    yield element
            if not inside:
                for outer in above[-1:] or [element]:
                    outer.clear()
                held = len(above)
        if quiet > MAX_TEXT:
            raise _too_large(path, "has a text that is too long")


def _too_large(path: Path, what: str) -> InvalidInput:
    return InvalidInput(f"the sheet of {path} {what}", hint="save it as CSV, or copy the sheet to a new workbook")
