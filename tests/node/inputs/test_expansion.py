"""Small files with large contents: no reader unpacks more than is allowed."""

import gzip
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from node.errors import InvalidInput
from node.imports.audience_manager_files import open_export
from node.imports.segment_names import Names
from node.inputs import arrow_sizes, columnar, expansion, queries
from node.inputs.queries import Query
from node.inputs.sources import Source

ROOT = Path(__file__).parents[3]
ROW = "1," + "a" * 98 + "\n"
TABLE = pa.table({"id": ["1"] * 5_000, "a": ["x" * 600] * 5_000})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "FLOOR", 1 << 20)
    monkeypatch.setattr(expansion, "RATIO", 20)


def read(path: Path | Query) -> int:
    return sum(len(batch.lines) for batch in Source.open(path, ["id", "a"]).batches())


def arrow(path: Path, table: pa.Table = TABLE, compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=10_000)
    return path


@pytest.mark.feature("ID8")
def test_no_gzipped_text_becomes_larger_than_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(("id,a\n" + ROW * 10_000).encode()))
    assert read(path) == 10_000
    path.write_bytes(gzip.compress(("id,a\n" + ROW * 400_000).encode()))
    tracemalloc.start()
    with pytest.raises(InvalidInput, match=r"the content of a\.csv\.gz is over"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
    path.write_bytes(gzip.compress(b'{"id": "1", "a": "x"}\n' * 1_500_000))
    with pytest.raises(InvalidInput, match="is over"):
        read(path)
    path.write_bytes(gzip.compress(b"1\td_sid=1\n" * 1_500_000))
    for opened in (lambda: list(open_export(path, Names(), own_ids=True).people), lambda: Names.read(path)):
        with pytest.raises(InvalidInput, match="is over"):
            opened()


@pytest.mark.feature("ID8")
def test_no_table_becomes_larger_than_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet", compression="zstd")
    plain = arrow(tmp_path / "plain.arrow")
    packed = tmp_path / "a.arrow.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    paths = [tmp_path / "a.parquet", packed, arrow(tmp_path / "zstd.arrow", compression="zstd")]
    for path in paths:
        with pytest.raises(InvalidInput, match="is over"):
            read(path)
    monkeypatch.setattr(expansion, "FLOOR", 1 << 24)
    assert [read(path) for path in (plain, *paths)] == [5_000] * 4


ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)"


@pytest.mark.feature("ID8")
@pytest.mark.parametrize(
    ("view", "words"),
    [
        (f"{ENDLESS} SELECT n AS id, NULL AS a FROM r", "the answer to the query is over 1 MiB"),
        (f"{ENDLESS} SELECT n AS id, 'a' AS a FROM r WHERE n < 0", "does not come to an end"),
        (f"{ENDLESS} SELECT n AS id, hex(zeroblob(200000)) AS a FROM r", "data error"),
    ],
)
def test_a_database_whose_views_have_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str, words: str
) -> None:
    monkeypatch.setattr(queries, "STEPS", 1)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute(f"CREATE VIEW people AS {view}")
    with pytest.raises(InvalidInput, match=words):
        read(Query(sql="SELECT * FROM people", database=f"sqlite:///{tmp_path}/a.db"))


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_an_arrow_file_says_its_size_before_it_is_unpacked(tmp_path: Path, compression: str | None) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 500, pa.int32()), pa.array(["x" * 90_000, "y" * 90_000]))
    path = arrow(tmp_path / "a.arrow", pa.table({"a": words, "b": ["z" * 100] * 1_000}), compression)
    with path.open("rb") as file:
        file.seek(8)
        total = sum(arrow_sizes.unpacked(pa.ipc.MessageReader.open_stream(file)))
    cells = expansion.CELL * (2 + 2 * 1_000)
    assert 284_000 <= total - cells < 300_000
    damaged = bytearray(path.read_bytes())
    for place in range(8, 2_000, 61):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(expansion, "FLOOR", 1 << 18)
            path.write_bytes(damaged[:place] + bytes([damaged[place] ^ 0xFF]) + damaged[place + 1 :])
            with suppress(InvalidInput):
                Source.open(path, [])


def test_a_row_that_is_too_large_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "MAX_ROW", 1_000)
    pq.write_table(pa.table({"id": ["1", "2", "3"], "a": ["x", "y" * 1_000, "z" * 999]}), tmp_path / "a.parquet")
    source = Source.open(tmp_path / "a.parquet", ["id"])
    assert [(batch.columns["id"], batch.lines.tolist()) for batch in source.batches()] == [(["1", "3"], [1, 3])]
    assert source.rejected == {"a row that is too large": [2]}


def limited(read: str, *arguments: Path) -> str:
    """Run some lines that read a file in a process that may have 2 GiB of memory, and return what they print."""
    code = f"""if True:
        import resource, sys
        from pathlib import Path
        import duckdb, numpy, openpyxl, pyarrow, sqlalchemy
        from node.inputs.sources import Source
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        {read}
        """
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


READ = """
        source = Source.open(Path(sys.argv[1]), ["id"])
        rows = sum(len(batch.lines) for batch in source.batches())
        print(source.kind, rows, {reason: len(lines) for reason, lines in source.rejected.items()})
"""
LONG = pa.DictionaryArray.from_arrays(pa.array([0] * 4_000, pa.int32()), pa.array(["x" * 100_000]))
LISTS = pa.ListArray.from_arrays(pa.array(range(4_001), pa.int32()), LONG)
BYTES = pa.DictionaryArray.from_arrays(LONG.indices, pa.array([b"x" * 50_000]))  # twice as long in hex
IDS = pa.array(map(str, range(4_000)))


@pytest.mark.feature("ID8")
@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("column", [LONG, LISTS, BYTES], ids=["text", "list", "bytes"])
def test_one_long_text_for_all_rows_does_not_fill_the_memory(tmp_path: Path, form: str, column: pa.Array) -> None:
    """4,000 rows of 100,000 characters are 400 MB, less than is allowed, of which DuckDB would have 2,048 rows ready."""
    table, path = pa.table({"id": IDS, "a": column}), tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(table, path, compression="zstd")
    else:
        arrow(path, table, "zstd")
    assert path.stat().st_size < 1 << 20
    kind = {"parquet": "Parquet", "arrow": "Arrow"}[form]
    assert limited(READ, path) == f"{kind} 0 {{'a row that is too large': 4000}}\n"


@pytest.mark.feature("ID8")
def test_values_of_no_length_count_before_they_are_read(tmp_path: Path) -> None:
    """A column of nothing packs to nothing, as does a long list of it."""
    nothing = pa.table({"id": pa.nulls(100_000), "a": pa.nulls(100_000)})
    with pytest.raises(InvalidInput, match="is over 1 MiB"):
        Source.open(arrow(tmp_path / "a.arrow", nothing), ["id"])
    pq.write_table(nothing, tmp_path / "a.parquet")
    with pytest.raises(InvalidInput, match="is over 1 MiB"):
        Source.open(tmp_path / "a.parquet", ["id"])
    pq.write_table(pa.table({"id": ["1"], "a": [[None] * 200_000]}), tmp_path / "b.parquet")
    with pytest.raises(InvalidInput, match="is over 1 MiB"):
        Source.open(tmp_path / "b.parquet", ["id"])
    views = pa.ListViewArray.from_arrays([0] * 9, [9] * 9, pa.array(range(9)))
    with pytest.raises(InvalidInput, match="has list views"):
        Source.open(arrow(tmp_path / "b.arrow", pa.table({"id": views})), ["id"])


def test_large_rows_are_read_in_parts_that_memory_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "PART", 1 << 16)
    monkeypatch.setattr(expansion, "FLOOR", 1 << 29)
    pq.write_table(pa.table({"id": list(range(200)), "a": ["x" * 5_000] * 200}), tmp_path / "a.parquet")
    batches = list(Source.open(tmp_path / "a.parquet", ["id"]).batches())
    assert [line for batch in batches for line in batch.lines.tolist()] == list(range(1, 201))
    assert max(len(batch.lines) for batch in batches) * 5_000 <= 1 << 16


def test_nested_values_of_every_kind_are_measured_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "MAX_ROW", 1_000)
    shapes: list[tuple[pa.DataType, object, object]] = [
        (pa.struct([("it's", pa.list_(pa.string()))]), {"it's": ["a"]}, {"it's": ["a" * 1_000]}),
        (pa.map_(pa.string(), pa.list_(pa.string())), [("k", ["v"])], [("k" * 1_000, ["v"])]),
        (pa.list_(pa.string(), 2), ["a", "b"], ["a" * 500, "b" * 500]),
        (pa.list_(pa.struct([("x", pa.binary())])), [{"x": b"a"}], [{"x": b"a" * 500}]),
        (pa.large_binary(), b"a", b"a" * 500),
    ]
    for kind, short, long in shapes:
        table = pa.table({"id": ["1", "2", "3"], "a": pa.array([short, long, None], kind)})
        for path in (tmp_path / "a.parquet", arrow(tmp_path / "a.arrow", table)):
            if path.suffix == ".parquet":
                pq.write_table(table, path)
            source = Source.open(path, ["id", "a"])
            assert [batch.lines.tolist() for batch in source.batches()] == [[1, 3]], kind
            assert source.rejected == {"a row that is too large": [2]}
