"""What can be computed again: read back whole or in parts, as it was when it was opened, and not at all once it is damaged."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag

from node.errors import Failure
from node.storage.cache import PIECE, Cache, Epoch, StoredRows

ROWS = PIECE // 64


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, "partner", Epoch(1, bytes(32)), lambda size: hashlib.sha256(bytes(size)).digest()[:size])


def arrays(count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(count)
    return {
        "before": random.integers(0, 256, (count, 37), np.uint8),
        "rows": random.integers(0, 256, (count, 64), np.uint8),
        "after": np.arange(3),
    }


@pytest.mark.parametrize("count", [0, 1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 5])
def test_rows_come_in_order_some_at_a_time(cache: Cache, count: int) -> None:
    saved = arrays(count)
    cache.save("some", **saved)
    with cache.open("some") as stored:
        parts = list(stored.rows("rows", ROWS))
        assert np.array_equal(np.concatenate([saved["rows"][:0], *parts]), saved["rows"])
        assert [len(part) for part in parts[:-1]] == [ROWS] * (len(parts) - 1)
        loaded = stored.load(("before", "after"))  # and from its beginning again
    assert loaded.keys() == {"before", "after"}
    assert all(np.array_equal(loaded[name], saved[name]) for name in loaded)


def test_what_is_open_stays_as_it_was(cache: Cache) -> None:
    saved = arrays(2 * ROWS)
    cache.save("some", **saved)
    with cache.open("some") as stored:
        parts = stored.rows("rows", ROWS)
        first = next(parts)
        cache.save("some", **arrays(7))
        assert np.array_equal(np.concatenate([first, *parts]), saved["rows"])
    loaded = cache.load("some")
    assert loaded is not None
    assert len(loaded["rows"]) == 7


def test_a_damaged_part_is_told_where_it_comes(cache: Cache, tmp_path: Path) -> None:
    cache.save("some", **arrays(2 * ROWS))
    (path,) = (each for each in tmp_path.rglob("*") if each.is_file())
    content = bytearray(path.read_bytes())
    content[-200] ^= 1  # of the last piece of the rows
    path.write_bytes(content)
    with cache.open("some") as stored:
        parts = stored.rows("rows", ROWS)
        assert len(next(parts)) == ROWS
        with pytest.raises(InvalidTag):
            next(parts)
    assert cache.load("some") is None
    assert cache.load("some", ("before",)) is not None


@pytest.mark.parametrize("count", [0, 1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 5])
def test_any_rows_can_be_read_alone(cache: Cache, count: int) -> None:
    saved = arrays(count)
    cache.save("some", **saved)
    rows = StoredRows(cache, "some", "rows", count)
    for wanted in (
        slice(0, 0),
        slice(0, 5),
        slice(ROWS - 3, ROWS + 3),
        slice(ROWS, 2 * ROWS),
        slice(count - 1, count + 9),
    ):
        assert np.array_equal(rows[wanted], saved["rows"][wanted])
    found = cache.rows("some")
    assert found is not None
    assert {name: len(each) for name, each in found.items()} == {"before": count, "rows": count, "after": 3}
    assert np.array_equal(found["before"][0:9], saved["before"][0:9])
    cache.drop("some")
    assert cache.rows("some") is None
    with pytest.raises(Failure, match="cannot be read any more"):
        rows[0:1]


def test_a_file_that_turns_out_to_be_damaged_is_deleted(cache: Cache, tmp_path: Path) -> None:
    cache.save("some", **arrays(2 * ROWS))
    (path,) = (each for each in tmp_path.rglob("*") if each.is_file())
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    rows = StoredRows(cache, "some", "rows", 2 * ROWS)
    assert len(rows[0:5]) == 5
    with pytest.raises(Failure):
        rows[2 * ROWS - 5 : 2 * ROWS]
    assert not cache.has("some")
