"""Inputs that come as columns: Parquet and Arrow files, read by DuckDB, which turns every type into text the same way."""

import csv
import io
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from . import arrow_sizes
from .expansion import Allowance, Unpacked
from .sql import quoted

ROWS = 1 << 16  # rows read at a time
FETCHED = 1 << 8  # rows fetched at a time
MAX_ROW = 1 << 20  # bytes of a row's texts; a larger one comes empty
_OVERHEAD = 8  # bytes that count for each row
ARROW_FILE = b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"  # the continuation mark before the schema

Row = Sequence[str | None]
Part = Sequence[Row | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table's column names, its number of rows where it is known, and the rows as text in parts.

    A row that is None is over MAX_ROW, an empty one is none. `first` is the number of the first row.
    """

    header: list[str]
    total: int | None
    parts: Callable[[], Iterator[Part]]
    first: int = 1


def parquet(path: Path) -> Table:
    """Open a Parquet file; raises InvalidInput."""
    if any(sign in str(path) for sign in "*?["):
        raise InvalidInput(f"the name {path} has one of * ? [ in it", hint="rename the file")
    with _duckdb(path, "Parquet") as connection:
        types = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
        total = connection.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchall()[0][0]

    def parts() -> Iterator[Part]:
        with _duckdb(path, "Parquet") as connection:
            query = _as_text(types, "read_parquet(?)")
            yield from _fetch(connection.execute(query, [str(path)]), Allowance(path))

    return Table(header=[row[0] for row in types], total=total, parts=parts)


def arrow(path: Path) -> Table:
    """Open an Arrow IPC file or stream; raises InvalidInput, also where the extra is not installed."""
    with _duckdb(path, "Arrow") as connection, _arrow_reader(path) as reader:
        connection.register("given", reader.schema.empty_table())
        types = connection.execute("DESCRIBE given").fetchall()

    def parts() -> Iterator[Part]:
        with _duckdb(path, "Arrow") as connection, _arrow_reader(path) as reader:
            connection.register("given", reader)
            yield from _fetch(connection.execute(_as_text(types, "given")), Allowance(path))

    return Table(header=[row[0] for row in types], total=None, parts=parts)


def as_csv(rows: Sequence[Row]) -> list[str]:
    """Return each row as a CSV record."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\0").writerows(rows)
    return file.getvalue().split("\0")[:-1]


def _fetch(found: Any, allowance: Allowance) -> Iterator[Part]:
    """Yield rows in parts; raises InvalidInput where the table is too large for its file."""
    part: list[Row | None] = []
    total = 0
    while rows := found.fetchmany(FETCHED):
        total += sum(row[-1] for row in rows) + _OVERHEAD * len(rows)
        allowance.check(total)
        part += [row[:-1] if row[-1] <= MAX_ROW else None for row in rows]
        if len(part) >= ROWS:
            yield part
            part = []
    if part:
        yield part


def _as_text(types: Sequence[tuple[Any, ...]], table: str) -> str:
    """Return the query for every column as text (bytes in hex, lists and structures as JSON) and the bytes of the row."""
    texts = []
    for index, (name, kind, *_) in enumerate(types):
        if kind == "BLOB":
            text = f"lower(hex({quoted(name)}))"
        elif kind.startswith(("STRUCT", "MAP")) or kind.endswith("]"):
            text = f"CAST(to_json({quoted(name)}) AS VARCHAR)"
        else:
            text = f"CAST({quoted(name)} AS VARCHAR)"
        texts.append(f"{text} AS c{index}")
    cells = [f"c{index}" for index in range(len(texts))]
    lengths = ", ".join(f"strlen({cell})" for cell in cells)
    size = f"coalesce(list_sum([{lengths}]), 0)"  # a sum of a thousand columns is too deep for DuckDB
    kept = ", ".join(f"CASE WHEN size <= {MAX_ROW} THEN {cell} END" for cell in cells)
    inner = f"SELECT {', '.join(texts)} FROM {table}"  # noqa: S608 - quoted names of the file itself
    return f"SELECT {kept}, size FROM (SELECT *, {size} AS size FROM ({inner}))"  # noqa: S608 - names of our own


@contextmanager
def _duckdb(path: Path, kind: str) -> Iterator[Any]:
    import duckdb

    settings: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": "1GB",
        "temp_directory": "",  # else what does not fit would lie in the working directory, for all to read
    }
    try:
        with duckdb.connect(":memory:", config=settings) as connection:
            yield connection
    except duckdb.Error as error:
        raise InvalidInput(f"{path} is a damaged {kind} file", hint="copy or export it again") from error


def _checked(batch: Any) -> Any:
    batch.validate(full=True)
    return batch


@contextmanager
def _arrow_reader(path: Path) -> Iterator[Any]:
    """Open a reader of record batches, each of which is checked before it is used."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "Arrow files need the package pyarrow", hint="install it beside Vesica: pip install pyarrow"
        ) from error
    try:
        with path.open("rb") as opened:
            packed = opened.read(2) == b"\x1f\x8b"
            opened.seek(0)
            with Unpacked(path) if packed else opened as file:
                is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
                file.seek(8 if is_file else 0)  # the mark is filled up to eight bytes
                allowance, total = Allowance(path), 0
                for size in arrow_sizes.unpacked(pa.ipc.MessageReader.open_stream(file)):
                    total += size
                    allowance.check(total)
                file.seek(0)
                given = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)

                found = map(given.get_batch, range(given.num_record_batches)) if is_file else iter(given)
                yield pa.RecordBatchReader.from_batches(given.schema, map(_checked, found))
    except (pa.ArrowException, OSError, EOFError, MemoryError, struct.error) as error:
        raise InvalidInput(f"{path} is a damaged Arrow file", hint="copy or export it again") from error
