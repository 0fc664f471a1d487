"""Small files with large contents: no reader unpacks more than is allowed."""

import gzip
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from node.errors import InvalidInput
from node.imports.audience_manager_files import open_export
from node.imports.segment_names import Names
from node.inputs import arrow_sizes, columnar, expansion
from node.inputs.sources import Source

ROW = "1," + "a" * 98 + "\n"
TABLE = pa.table({"id": ["1"] * 5_000, "a": ["x" * 600] * 5_000})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "FLOOR", 1 << 20)
    monkeypatch.setattr(expansion, "RATIO", 20)


def read(path: Path) -> int:
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


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_an_arrow_file_says_its_size_before_it_is_unpacked(tmp_path: Path, compression: str | None) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 500, pa.int32()), pa.array(["x" * 90_000, "y" * 90_000]))
    path = arrow(tmp_path / "a.arrow", pa.table({"a": words, "b": ["z" * 100] * 1_000}), compression)
    with path.open("rb") as file:
        file.seek(8)
        total = sum(arrow_sizes.unpacked(pa.ipc.MessageReader.open_stream(file)))
    assert 284_000 <= total < 300_000
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
    assert source.rejected == {"a row of over 1000 bytes": [2]}
