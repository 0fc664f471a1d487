"""The attributes of a dataset: a Parquet file of text columns beside the profile's number."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from psi.values import SLICE

from ..compute.aside import Aside, KeptArrays
from ..errors import DiskFull, Failure
from ..inputs.sql import SPILLED, quoted
from ..inputs.text_columns import pack, unpack
from ..storage.files import make_directory
from ..storage.records import Document
from ..storage.temporary import new_directory
from .datasets import folded
from .drafts import Draft
from .identity_rows import ProfileNumbers
from .named import profiles_of
from .snapshots import NUMBER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PROFILES = 1 << 17  # that are written at once: about as many as the file has in a part of its own
MEMORY = "192MB"  # of the engine
FEW_PROFILES = 1 << 13  # that a part of the file has where the texts of more take more memory
WIDE = "2GB"  # where that is too little even so


def lay_over(
    draft: Draft,
    dataset: str,
    numbers: ProfileNumbers,
    names: Sequence[str],
    parts: Iterable[Mapping[str, Sequence[str]]],
) -> None:
    """Write attributes over those of a dataset: its columns come in parts, row i of all is about profile `numbers[i]`.

    A profile's last row wins; columns that are not given stay as they were.
    """
    draft.touched.add(profiles_of(numbers))
    given = _by_profile(draft, numbers, parts)
    old = draft.base.attributes.get(dataset)

    def query(connection: "DuckDBPyConnection") -> str:
        kept, merged = _merged(connection, names, old)
        columns = [f"c{index}" for index in range(len(names))]
        for bucket, rows in enumerate(given):
            if kept or len(rows):
                connection.register("given", _table(rows, columns))
                first = bucket * PROFILES
                connection.execute(merged, [first, first + PROFILES - 1] if kept else [])
                connection.unregister("given")
        return "SELECT * FROM merged"

    write(draft, dataset, query)


def _by_profile(
    draft: Draft, numbers: ProfileNumbers, parts: Iterable[Mapping[str, Sequence[str]]]
) -> list[KeptArrays]:
    """Put the last row of each profile aside, by the number of the profile: PROFILES of them together."""
    aside, count = Aside(draft.base.directory), draft.content.count
    last, start = np.zeros(count, np.uint32), 0
    for start in range(0, len(numbers), SLICE):
        last[numbers[start : start + SLICE]] = np.arange(start, min(start + SLICE, len(numbers)), dtype=np.uint32)
    found = [KeptArrays(aside) for _ in range(-(-count // PROFILES))]
    start = 0
    for columns in parts:
        size = len(next(iter(columns.values())))
        profiles = numbers[start : start + size]
        rows = np.flatnonzero(last[profiles] == np.arange(start, start + size))
        buckets = profiles[rows] // PROFILES
        for bucket in np.unique(buckets).tolist():
            here = rows[buckets == bucket]
            arrays: dict[str, npt.NDArray[Any]] = {"number": profiles[here]}
            for index, texts in enumerate(columns.values()):
                arrays[f"length {index}"], arrays[f"text {index}"] = pack([texts[row].strip() for row in here.tolist()])
            found[bucket].append(arrays)
        start += size
    return found


def _table(rows: KeptArrays, columns: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return columns of texts, "" where there is none, in the order of the profiles' numbers."""
    if not len(rows):
        return {"number": np.zeros(0, np.uint32), **{name: np.zeros(0, "U1") for name in columns}}
    numbers = rows.joined("number")
    order = np.argsort(numbers)
    table: dict[str, npt.NDArray[Any]] = {"number": numbers[order]}
    for index, name in enumerate(columns):
        cells = np.empty(len(numbers), object)
        cells[:] = unpack(rows.joined(f"length {index}"), rows.joined(f"text {index}"))
        table[name] = cells[order]
    return table


def write(draft: Draft, dataset: str, query: "Callable[[DuckDBPyConnection], str]") -> None:
    """Replace a dataset's attributes by what a query gives; it is made for a connection that has nothing in it.

    It is made twice where the texts are very long. Raises DiskFull, and Failure where they are too long.
    """
    import duckdb

    try:
        make_directory(draft.scope.data_directory)
        with new_directory(draft.scope.data_directory, SPILLED) as folder:  # elsewhere others could read it
            written = folder / "attributes.parquet"
            try:
                _write(folder, written, query, MEMORY)
            except duckdb.OutOfMemoryException:
                _write(folder, written, query, WIDE)
            draft.set_attributes(dataset, written)
    except duckdb.OutOfMemoryException as error:
        raise Failure("the attributes are too long to be written", hint="leave out those with long texts") from error
    except (duckdb.IOException, OSError) as error:
        raise DiskFull("the attributes could not be written", hint="make room and run the import again") from error


def _write(folder: Path, written: Path, query: "Callable[[DuckDBPyConnection], str]", memory: str) -> None:
    import duckdb

    settings: Document = {"memory_limit": memory, "threads": 1, "temp_directory": str(folder)}
    with duckdb.connect(":memory:", config=settings) as connection:
        connection.execute("SET enable_progress_bar = false")  # it would stand among what a command prints
        target = str(written).replace("'", "''")
        copy = f"COPY ({query(connection)}) TO '{target}' (FORMAT parquet"
        try:
            connection.execute(f"{copy})")
        except duckdb.OutOfMemoryException:
            connection.execute(f"{copy}, ROW_GROUP_SIZE {FEW_PROFILES})")


def _merged(connection: "DuckDBPyConnection", names: Sequence[str], old: Path | None) -> tuple[bool, str]:
    """Make the table "merged", and return whether there is an older file of the dataset, and what lays the table "given"
    (number, c0, c1, ...) over its profiles from one number to another."""
    given = [f"nullif(g.c{index}, '')" for index in range(len(names))]
    if old is None:
        kept, columns = [], list(zip(names, given, strict=True))
    else:
        connection.read_parquet(str(old)).create_view("old")
        rows = connection.execute("DESCRIBE old").fetchall()
        known = {folded(row[0]): row[0] for row in rows if row[0] != NUMBER}
        kept = [(name, f"o.{quoted(name)}") for key, name in known.items() if key not in set(map(folded, names))]
        columns = list(kept)
        for name, new in zip(names, given, strict=True):
            before = f"o.{quoted(known[folded(name)])}" if folded(name) in known else "NULL"
            columns.append((name, f"CASE WHEN g.number IS NULL THEN {before} ELSE {new} END"))
    types = ", ".join(f"{quoted(name)} VARCHAR" for name, _ in columns)
    connection.execute(f"CREATE TABLE merged ({quoted(NUMBER)} UINTEGER, {types})")
    texts, number = ", ".join(each for _, each in columns), f"o.{quoted(NUMBER)}"
    if old is None:
        return False, f"INSERT INTO merged SELECT g.number, {texts} FROM given g"  # noqa: S608 - quoted names
    return True, (
        f"INSERT INTO merged SELECT coalesce(g.number, {number}), {texts} "  # noqa: S608 - quoted names
        f"FROM (SELECT * FROM old WHERE {quoted(NUMBER)} BETWEEN ? AND ?) o "
        f"FULL JOIN given g ON g.number = {number} ORDER BY 1"
    )
