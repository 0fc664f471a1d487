"""CSV that a spreadsheet shows and does not run."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# What a formula begins with, also in wide characters; and the sign that we put before one.
_RUN = re.compile(r"['=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20]")
_NUMBER = re.compile(r"[+-][0-9]+(\.[0-9]+)?")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV under a header line.

    A text that a spreadsheet could take for a formula gets a ' before it; so does one that begins with ', so that taking
    one ' off the front of a cell always gives what it was. A number with its sign, such as +447700900123, stays as it is.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([guarded(cell) for cell in row] for row in rows)
    return file.getvalue()


def guarded(cell: Any) -> Any:
    """Return a cell that no spreadsheet runs as a formula."""
    if isinstance(cell, str) and _RUN.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell
