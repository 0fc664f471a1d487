"""The attributes of a dataset: a Parquet file of text columns beside the profile's number."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DiskFull
from ..inputs.sql import SPILLED, quoted
from ..storage.files import make_directory
from ..storage.records import Document
from .drafts import Draft
from .snapshots import NUMBER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def lay_over(draft: Draft, dataset: str, numbers: npt.NDArray[np.int64], columns: Mapping[str, Sequence[str]]) -> None:
    """Write attributes over those of a dataset: row i of `columns` is about profile `numbers[i]`.

    A profile's last row wins; columns that are not given stay as they were.
    """
    last = np.full(draft.content.count, -1, np.int64)
    last[numbers] = np.arange(len(numbers))
    profiles = np.flatnonzero(last >= 0)
    rows = last[profiles].tolist()
    table: dict[str, npt.NDArray[Any]] = {"number": profiles.astype(np.uint32)}
    for index, texts in enumerate(columns.values()):
        table[f"c{index}"] = np.array([texts[row].strip() or None for row in rows], object)
    old = draft.base.attributes.get(dataset)

    def query(connection: "DuckDBPyConnection") -> str:
        connection.register("given", table)
        return _merged(connection, list(columns), old)

    draft.set_attributes(dataset, write(draft, query))


def write(draft: Draft, query: "Callable[[DuckDBPyConnection], str]") -> bytes:
    """Return what a query gives as a Parquet file; the query is made for a connection that has nothing in it."""
    import duckdb

    try:
        make_directory(draft.scope.data_directory)
        with TemporaryDirectory(dir=draft.scope.data_directory, prefix=SPILLED) as folder:
            settings: Document = {"memory_limit": "2GB", "temp_directory": folder}  # elsewhere others could read it
            written = Path(folder) / "attributes.parquet"
            with duckdb.connect(":memory:", config=settings) as connection:
                target = str(written).replace("'", "''")
                connection.execute(f"COPY ({query(connection)}) TO '{target}' (FORMAT parquet)")
            return written.read_bytes()
    except (duckdb.IOException, OSError) as error:
        raise DiskFull("the attributes could not be written", hint="make room and run the import again") from error


def _merged(connection: "DuckDBPyConnection", names: Sequence[str], old: Path | None) -> str:
    """Return the query that lays the table "given" (number, c0, c1, ...) over an older file of the dataset."""
    if old is None:
        columns = [f"c{index} AS {quoted(name)}" for index, name in enumerate(names)]
        return f"SELECT number AS {quoted(NUMBER)}, {', '.join(columns)} FROM given ORDER BY 1"  # noqa: S608
    connection.execute("CREATE TABLE old AS SELECT * FROM read_parquet(?)", [str(old)])
    rows = connection.execute("DESCRIBE old").fetchall()
    known = {row[0].lower(): row[0] for row in rows if row[0] != NUMBER}
    columns = [f"o.{quoted(name)}" for key, name in known.items() if key not in {each.lower() for each in names}]
    for index, name in enumerate(names):
        before = f"o.{quoted(known[name.lower()])}" if name.lower() in known else "NULL"
        columns.append(f"CASE WHEN g.number IS NULL THEN {before} ELSE g.c{index} END AS {quoted(name)}")
    number = f"coalesce(g.number, o.{quoted(NUMBER)})"
    return (
        f"SELECT {number} AS {quoted(NUMBER)}, {', '.join(columns)} FROM old o "  # noqa: S608 - quoted names
        f"FULL JOIN given g ON g.number = o.{quoted(NUMBER)} ORDER BY 1"
    )
