"""Excel files (.xlsx): the first sheet as a table, read row by row by openpyxl.

openpyxl and not a faster reader, since it reads over the standard library's zipfile and expat: an entry gives no more bytes
than it declares, the sum of which is bounded here, and entities do not unfold.
"""

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, printable
from .columnar import MAX_ROW, ROWS, Part, Row, Table
from .expansion import Allowance

ARCHIVE = b"PK\x03\x04"
_BINARY = b"\xd0\xcf\x11\xe0"  # the older format, and one that has a password
PART = 1 << 22  # bytes of styles, names and the like
STRINGS_RATIO = 50  # texts pack to a twentieth at the best, empty ones to a thousandth
_CELL = 8  # bytes that count for each cell: an empty one costs too


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
    with _sheet(path) as sheet:
        first = next(sheet.iter_rows(values_only=True), ())
    header = [(_text(cell) or "").strip() for cell in first]
    while header and not header[-1]:
        header.pop()
    if not header:
        raise InvalidInput(f"the first row of {path} is empty", hint="put the column names there")

    def parts() -> Iterator[Part]:
        allowance, total = Allowance(path), 0
        part: list[Row | None] = []
        with _sheet(path) as sheet:
            for given in sheet.iter_rows(min_row=2, values_only=True):
                row = [_text(cell) for cell in given[: len(header)]]
                size = sum(len(cell) for cell in row if cell)
                total += size + _CELL * len(given)
                allowance.check(total)
                row += [None] * (len(header) - len(row))
                part.append(None if size > MAX_ROW else row if size else [])
                if len(part) == ROWS:
                    yield part
                    part = []
        if part:
            yield part

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
def _sheet(path: Path) -> Iterator[Any]:
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "Excel files need the package openpyxl", hint="install it beside Vesica: pip install openpyxl"
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            Allowance(path).check(sum(entry.file_size for entry in archive.infolist()))
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
                sheet = book.worksheets[0]
                sheet.reset_dimensions()  # what the sheet says of its size is not believed
                yield sheet
            finally:
                book.close()
    except InvalidInput:
        raise
    except Exception as error:  # openpyxl raises what its code meets: KeyError, TypeError, ParseError and more
        raise InvalidInput(f"{path} is a damaged Excel file", hint="save it again, or as CSV") from error
