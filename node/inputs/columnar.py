"""Inputs that come as columns: Parquet and Arrow files, read by DuckDB, which turns every type into text the same way."""

import csv
import io
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from . import arrow_sizes
from .expansion import CELL, Allowance, Unpacked
from .sql import quoted

ROWS = 1 << 16  # rows of a part at most
PART = 1 << 24  # bytes of a part, where a row more would exceed them
FETCHED = 1 << 8  # rows fetched at a time
MAX_ROW = 1 << 20  # bytes of a row's texts; a larger one comes empty
HEAVY = 1 << 27  # bytes of the rows that DuckDB has ready at once, whatever limit of memory it was given
_READY = 1 << 11  # how many rows that are
MAX_NESTED = 50  # lists and structures in one another
ARROW_FILE = b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"  # the continuation mark before the schema

Row = Sequence[str | None]
Part = Sequence[Row | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table's column names, its number of rows where it is known, and the rows as text in parts.

    A row that is None is too large, an empty one is none. `first` is the number of the first row.
    """

    header: list[str]
    total: int | None
    parts: Callable[[], Iterator[Part]]
    first: int = 1


def parquet(path: Path) -> Table:
    """Open a Parquet file; raises InvalidInput."""
    if any(sign in str(path) for sign in "*?["):
        raise InvalidInput(f"the name {path} has one of * ? [ in it", hint="rename the file")
    given, name = "read_parquet(?)", [str(path)]
    with _duckdb(path, "Parquet") as connection:
        ((values,),) = connection.execute("SELECT sum(num_values) FROM parquet_metadata(?)", name).fetchall()
        Allowance.of_file(path).add(CELL * int(values or 0))
        columns = _columns(connection.sql(f"SELECT * FROM {given}", params=name))  # noqa: S608 - no name in it
        total = connection.execute(f"SELECT count(*) FROM {given}", name).fetchall()[0][0]  # noqa: S608 - no name in it

    def parts() -> Iterator[Part]:
        with _duckdb(path, "Parquet") as connection:
            most = _checked_size(connection.execute(_sizes(columns, given), name), columns, path)
            yield from in_parts(_fetch(connection.execute(_as_text(columns, given, most), name)))

    return Table(header=[each.name for each in columns], total=total, parts=parts)


def arrow(path: Path) -> Table:
    """Open an Arrow IPC file or stream; raises InvalidInput, also where the extra is not installed."""
    with _duckdb(path, "Arrow") as connection, _arrow_reader(path) as reader:
        connection.register("given", reader.schema.empty_table())
        columns = _columns(connection.sql("SELECT * FROM given"))

    def parts() -> Iterator[Part]:
        with _duckdb(path, "Arrow") as connection, _arrow_reader(path) as reader:
            connection.register("given", reader)
            most = _checked_size(connection.execute(_sizes(columns, "given")), columns, path)
        with _duckdb(path, "Arrow") as connection, _arrow_reader(path) as reader:
            connection.register("given", reader)
            yield from in_parts(_fetch(connection.execute(_as_text(columns, "given", most))))

    return Table(header=[each.name for each in columns], total=None, parts=parts)


def in_parts(rows: Iterable[tuple[Row | None, int]]) -> Iterator[Part]:
    """Put rows, each with its bytes, into parts that memory can hold."""
    part: list[Row | None] = []
    total = 0
    for row, size in rows:
        if part and (len(part) == ROWS or total + size > PART):
            yield part
            part, total = [], 0
        part.append(row)
        total += size
    if part:
        yield part


def as_csv(rows: Sequence[Row]) -> list[str]:
    """Return each row as a CSV record."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\0").writerows(rows)
    return file.getvalue().split("\0")[:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column's name, and what DuckDB makes its text and the bytes of it from."""

    name: str
    text: str
    size: str


def _columns(given: Any) -> list[_Column]:
    columns = []
    for index, (name, kind) in enumerate(zip(given.columns, given.types, strict=True)):
        value, text = f"v{index}", f"CAST(v{index} AS VARCHAR)"
        if kind.id == "blob":
            text = f"lower(hex({value}))"
        elif kind.id in _NESTED:
            text = f"CAST(to_json({value}) AS VARCHAR)"
        columns.append(_Column(name=name, text=text, size=_size(value, kind)))
    return columns


_NESTED = ("list", "array", "struct", "map")


def _size(value: str, kind: Any, depth: int = 0) -> str:
    """Return what says how many bytes the text of a value has, or about how many where it is nested.

    The text itself is not made for it: a file may have one long text, or one long list, for all its rows.
    """
    if kind.id == "varchar":
        return f"coalesce(strlen({value}), 0)"
    if kind.id == "blob":
        return f"coalesce(2 * octet_length({value}), 0)"
    if kind.id not in _NESTED:
        return f"coalesce(strlen(CAST({value} AS VARCHAR)), 0)" if not depth else "20"
    if depth == MAX_NESTED:
        raise InvalidInput(f"a column is nested over {MAX_NESTED} deep", hint="leave it out of the file")
    if kind.id == "map":
        lists = [(f"map_keys({value})", kind.children[0][1]), (f"map_values({value})", kind.children[1][1])]
    elif kind.id == "struct":
        fields = [
            f"{len(name) + 4} + {_size(f'struct_extract({value}, {_literal(name)})', inner, depth + 1)}"
            for name, inner in kind.children
        ]
        return f"coalesce(list_sum([{', '.join(fields)}]), 0)"
    else:
        lists = [(f"{value}::{kind.children[0][1]}[]" if kind.id == "array" else value, kind.children[0][1])]
    sums = [
        f"coalesce(list_sum(list_transform({each}, lambda x{depth}: 2 + {_size(f'x{depth}', inner, depth + 1)})), 0)"
        for each, inner in lists
    ]
    return f"({' + '.join(sums)})"


def _sized(columns: Sequence[_Column], table: str) -> str:
    """Return the query for the values of every column, and the bytes of each row's texts."""
    values = ", ".join(f"{quoted(each.name)} AS v{index}" for index, each in enumerate(columns))
    sizes = ", ".join(each.size for each in columns)  # a sum of a thousand columns is too deep for DuckDB
    return f"SELECT *, list_sum([{sizes}]) AS size FROM (SELECT {values} FROM {table})"  # noqa: S608 - names are quoted


def _sizes(columns: Sequence[_Column], table: str) -> str:
    """Return the query for the bytes of the heaviest rows that follow one another, of all rows, and their number."""
    numbered = f"SELECT size, row_number() OVER () AS n FROM ({_sized(columns, table)})"  # noqa: S608 - names are quoted
    grouped = f"SELECT sum(size) AS s, count(*) AS n FROM ({numbered}) GROUP BY n // {_READY}"  # noqa: S608 - as above
    return f"SELECT coalesce(max(s), 0), coalesce(sum(s), 0), coalesce(sum(n), 0) FROM ({grouped})"  # noqa: S608 - as above


def _checked_size(found: Any, columns: Sequence[_Column], path: Path) -> int:
    """Return how large a row may be; raises InvalidInput where the table is too large for its file."""
    ((heaviest, total, rows),) = found.fetchall()
    Allowance.of_file(path).add(int(total) + CELL * int(rows) * (1 + len(columns)))
    return MAX_ROW if heaviest <= HEAVY else HEAVY // _READY


def _as_text(columns: Sequence[_Column], table: str, most: int) -> str:
    """Return the query for every column as text (bytes in hex, lists and structures as JSON), and what the row costs.

    The cost of a row of over `most` bytes is NULL.
    """
    kept = ", ".join(f"CASE WHEN size <= {most} THEN {each.text} END" for each in columns)
    cost = f"CASE WHEN size <= {most} THEN size + {CELL * (1 + len(columns))} END"
    return f"SELECT {kept}, {cost} FROM ({_sized(columns, table)})"  # noqa: S608 - quoted names of the file itself


def _fetch(found: Any) -> Iterator[tuple[Row | None, int]]:
    while rows := found.fetchmany(FETCHED):
        for row in rows:
            yield (row[:-1], row[-1]) if row[-1] is not None else (None, CELL)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _duckdb(path: Path, kind: str) -> Iterator[Any]:
    import duckdb

    settings: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": "1GB",
        "threads": "1",  # each has rows ready, which the limit does not count
        "temp_directory": "",  # else what does not fit would lie in the working directory, for all to read
    }
    try:
        with duckdb.connect(":memory:", config=settings) as connection:
            yield connection
    except duckdb.OutOfMemoryException as error:
        raise InvalidInput(
            f"{path} needs over 1 GB of memory to be read", hint="write it again with smaller row groups, or as CSV"
        ) from error
    except duckdb.Error as error:
        raise InvalidInput(f"{path} is a damaged {kind} file", hint="copy or export it again") from error


def _checked(batch: Any) -> Any:
    batch.validate(full=True)
    return batch


def _is_view(kind: Any) -> bool:
    """Return whether a type is or has a list view: all its rows may be views of one long list."""
    from pyarrow import types

    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return True
    inner = kind.value_type if types.is_dictionary(kind) or types.is_run_end_encoded(kind) else None
    return (inner is not None and _is_view(inner)) or any(_is_view(kind.field(i).type) for i in range(kind.num_fields))


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
                allowance = Allowance.of_file(path)
                for size in arrow_sizes.unpacked(pa.ipc.MessageReader.open_stream(file)):
                    allowance.add(size)
                file.seek(0)
                given = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
                if any(map(_is_view, given.schema.types)):
                    raise InvalidInput(f"{path} has list views", hint="write lists, of which each has its own values")
                found = map(given.get_batch, range(given.num_record_batches)) if is_file else iter(given)
                yield pa.RecordBatchReader.from_batches(given.schema, map(_checked, found))
    except (pa.ArrowException, OSError, EOFError, MemoryError, struct.error) as error:
        raise InvalidInput(f"{path} is a damaged Arrow file", hint="copy or export it again") from error
