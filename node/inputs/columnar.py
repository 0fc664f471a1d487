"""Inputs that come as columns: Parquet and Arrow files, read by DuckDB, which turns every type into text the same way."""

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from .sql import quoted

ROWS = 1 << 16  # rows read at a time
ARROW_FILE = b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"  # the continuation mark before the schema

Row = Sequence[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table's column names, its number of rows where it is known, and the rows as text in parts."""

    header: list[str]
    total: int | None
    parts: Callable[[], Iterator[Sequence[Row]]]


def parquet(path: Path) -> Table:
    """Open a Parquet file; raises InvalidInput."""
    if any(sign in str(path) for sign in "*?["):
        raise InvalidInput(f"the name {path} has one of * ? [ in it", hint="rename the file")
    with _duckdb(path, "Parquet") as connection:
        types = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
        total = connection.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchall()[0][0]

    def parts() -> Iterator[Sequence[Row]]:
        with _duckdb(path, "Parquet") as connection:
            query = f"SELECT {_as_text(types)} FROM read_parquet(?)"  # noqa: S608 - quoted names of the file itself
            yield from _fetch(connection.execute(query, [str(path)]))

    return Table(header=[row[0] for row in types], total=total, parts=parts)


def arrow(path: Path) -> Table:
    """Open an Arrow IPC file or stream; raises InvalidInput, also where the extra is not installed."""
    with _duckdb(path, "Arrow") as connection, _arrow_reader(path) as reader:
        connection.register("given", reader.schema.empty_table())
        types = connection.execute("DESCRIBE given").fetchall()

    def parts() -> Iterator[Sequence[Row]]:
        with _duckdb(path, "Arrow") as connection, _arrow_reader(path) as reader:
            connection.register("given", reader)
            yield from _fetch(connection.execute(f"SELECT {_as_text(types)} FROM given"))  # noqa: S608 - quoted names

    return Table(header=[row[0] for row in types], total=None, parts=parts)


def as_csv(rows: Sequence[Row]) -> list[str]:
    """Return each row as a CSV record."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\0").writerows(rows)
    return file.getvalue().split("\0")[:-1]


def _fetch(found: Any) -> Iterator[Sequence[Row]]:
    while part := found.fetchmany(ROWS):
        yield part


def _as_text(types: Sequence[tuple[Any, ...]]) -> str:
    """Return the SQL that selects every column as text: bytes in hex, lists and structures as JSON."""
    texts = []
    for name, kind, *_ in types:
        if kind == "BLOB":
            texts.append(f"lower(hex({quoted(name)}))")
        elif kind.startswith(("STRUCT", "MAP")) or kind.endswith("]"):
            texts.append(f"CAST(to_json({quoted(name)}) AS VARCHAR)")
        else:
            texts.append(f"CAST({quoted(name)} AS VARCHAR)")
    return ", ".join(texts)


@contextmanager
def _duckdb(path: Path, kind: str) -> Iterator[Any]:
    import duckdb

    settings: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": "1GB",
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
        raise InvalidInput("Arrow files need the package pyarrow", hint="pip install 'vesica[arrow]'") from error
    try:
        with path.open("rb") as opened:
            packed = opened.read(2) == b"\x1f\x8b"
            opened.seek(0)
            with gzip.GzipFile(fileobj=opened) if packed else opened as file:
                is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
                file.seek(0)
                given = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)

                found = map(given.get_batch, range(given.num_record_batches)) if is_file else iter(given)
                yield pa.RecordBatchReader.from_batches(given.schema, map(_checked, found))
    except (pa.ArrowException, OSError, EOFError) as error:
        raise InvalidInput(f"{path} is a damaged Arrow file", hint="copy or export it again") from error
