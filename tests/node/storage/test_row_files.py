from pathlib import Path

import numpy as np
import pytest

from node.storage import row_files
from node.storage.files import write_atomically


@pytest.mark.parametrize("count", [0, 1, 65_536, 65_537, 140_000])
def test_rows_are_written_some_at_a_time_as_numpy_reads_them(tmp_path: Path, count: int) -> None:
    path = tmp_path / "rows.npz"
    arrays = {
        "email|lc": np.random.default_rng(1).integers(0, 256, (count, 17), np.uint8),
        "phone": np.random.default_rng(2).integers(0, 256, (3, 16), np.uint8),
    }
    write_atomically(path, row_files.packed(arrays))
    with np.load(path, allow_pickle=False) as stored:
        assert {name: stored[name].tolist() for name in stored.files} == {
            name: rows.tolist() for name, rows in arrays.items()
        }
