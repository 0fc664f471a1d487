"""The attributes of a dataset: a Parquet file of text columns beside the profile's number."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DiskFull
from ..inputs.sql import quoted
from .drafts import Draft
from .snapshots import NUMBER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def lay_over(draft: Draft, dataset: str, numbers: npt.NDArray[np.int64], columns: Mapping[str, Sequence[str]]) -> None:
    """Write attributes over those of a dataset: row i of `columns` is about profile `numbers[i]`.

    A profile's last row wins; columns that are not given stay as they were.
    """
    import duckdb

    last = np.full(draft.content.count, -1, np.int64)
    last[numbers] = np.arange(len(numbers))
    profiles = np.flatnonzero(last >= 0)
    rows = last[profiles].tolist()
    table: dict[str, npt.NDArray[Any]] = {"number": profiles.astype(np.uint32)}
    for index, texts in enumerate(columns.values()):
        table[f"c{index}"] = np.array([texts[row].strip() or None for row in rows], object)
    old = draft.base.attributes.get(dataset)
    written = draft.scope.data_directory / f".{draft.scope.home.random(8).hex()}.parquet"
    written.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with duckdb.connect(":memory:", config={"memory_limit": "2GB"}) as connection:
            connection.register("given", table)
            query = _merged(connection, list(columns), old)
            target = str(written).replace("'", "''")
            connection.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet)")
        data = written.read_bytes()
    except (duckdb.IOException, OSError) as error:
        raise DiskFull("the attributes could not be written", hint="make room and run the import again") from error
    finally:
        written.unlink(missing_ok=True)
    draft.set_attributes(dataset, data)


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
