"""The attributes of a dataset: a Parquet file of text columns beside the profile's number."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.values import SLICE

from ..errors import DiskFull
from ..inputs.sql import SPILLED, quoted
from ..storage.files import make_directory
from ..storage.records import Document
from ..storage.temporary import new_directory
from .datasets import folded
from .drafts import Draft
from .snapshots import NUMBER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def lay_over(draft: Draft, dataset: str, numbers: npt.NDArray[np.int64], columns: Mapping[str, Sequence[str]]) -> None:
    """Write attributes over those of a dataset: row i of `columns` is about profile `numbers[i]`.

    A profile's last row wins; columns that are not given stay as they were.
    """
    draft.touched.add(BitMap(numbers.astype(np.uint32)))
    last = np.full(draft.content.count, -1, np.int64)
    last[numbers] = np.arange(len(numbers))
    profiles = np.flatnonzero(last >= 0).astype(np.uint32)
    rows = last[profiles]
    del last
    table: dict[str, npt.NDArray[Any]] = {"number": profiles}
    for index, texts in enumerate(columns.values()):
        table[f"c{index}"] = _cells(texts, rows)
    old = draft.base.attributes.get(dataset)

    def query(connection: "DuckDBPyConnection") -> str:
        connection.register("given", table)
        return _merged(connection, list(columns), old)

    write(draft, dataset, query)


def _cells(texts: Sequence[str], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    """Return the texts of rows without white space around them, None where nothing is left."""
    cells = np.empty(len(rows), object)
    for start in range(0, len(rows), SLICE):
        part = slice(start, start + SLICE)
        cells[part] = [texts[row].strip() or None for row in rows[part].tolist()]
    return cells


def write(draft: Draft, dataset: str, query: "Callable[[DuckDBPyConnection], str]") -> None:
    """Replace a dataset's attributes by what a query gives; it is made for a connection that has nothing in it."""
    import duckdb

    try:
        make_directory(draft.scope.data_directory)
        with new_directory(draft.scope.data_directory, SPILLED) as folder:
            settings: Document = {
                "memory_limit": "2GB",
                "temp_directory": str(folder),
            }  # elsewhere others could read it
            written = folder / "attributes.parquet"
            with duckdb.connect(":memory:", config=settings) as connection:
                target = str(written).replace("'", "''")
                connection.execute(f"COPY ({query(connection)}) TO '{target}' (FORMAT parquet)")
            draft.set_attributes(dataset, written)
    except (duckdb.IOException, OSError) as error:
        raise DiskFull("the attributes could not be written", hint="make room and run the import again") from error


def _merged(connection: "DuckDBPyConnection", names: Sequence[str], old: Path | None) -> str:
    """Return the query that lays the table "given" (number, c0, c1, ...) over an older file of the dataset."""
    if old is None:
        columns = [f"c{index} AS {quoted(name)}" for index, name in enumerate(names)]
        return f"SELECT number AS {quoted(NUMBER)}, {', '.join(columns)} FROM given"  # noqa: S608 - it is in order
    connection.execute("CREATE TABLE old AS SELECT * FROM read_parquet(?)", [str(old)])
    rows = connection.execute("DESCRIBE old").fetchall()
    known = {folded(row[0]): row[0] for row in rows if row[0] != NUMBER}
    columns = [f"o.{quoted(name)}" for key, name in known.items() if key not in set(map(folded, names))]
    for index, name in enumerate(names):
        before = f"o.{quoted(known[folded(name)])}" if folded(name) in known else "NULL"
        columns.append(f"CASE WHEN g.number IS NULL THEN {before} ELSE g.c{index} END AS {quoted(name)}")
    number = f"coalesce(g.number, o.{quoted(NUMBER)})"
    return (
        f"SELECT {number} AS {quoted(NUMBER)}, {', '.join(columns)} FROM old o "  # noqa: S608 - quoted names
        f"FULL JOIN given g ON g.number = o.{quoted(NUMBER)} ORDER BY 1"
    )
