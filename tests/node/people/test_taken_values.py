"""Identities of a mapped file that are copied in parts: the same ones, and the file does not stay in memory."""

import re
from pathlib import Path

import numpy as np
import pytest

from node.people.taken_values import Taken
from psi.values import Values, sort_keys


@pytest.mark.parametrize("lengths", [None, np.arange(1_000, dtype=np.uint8) % 32 + 1])
def test_they_are_those_that_a_copy_has(lengths: "np.ndarray[tuple[int], np.dtype[np.uint8]] | None") -> None:
    values = Values(np.random.default_rng(1).integers(0, 256, (1_000, 32), np.uint8), lengths)
    places = np.flatnonzero(np.arange(1_000) % 3)
    few = np.arange(len(places)) % 2 == 0
    for taken, expected in (
        (Taken(values), values),
        (Taken(values, places), values.take(places)),
        (Taken(values).take(places), values.take(places)),
        (Taken(values, places).take(few), values.take(places).take(few)),
    ):
        assert len(taken) == len(expected)
        assert np.array_equal(sort_keys(taken), sort_keys(expected))
        assert taken.part(slice(100, 200)).equals(expected.part(slice(100, 200)))
        assert taken.digest() == expected.digest()
        assert taken[7] == expected[7]


def test_a_file_that_was_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    np.save(file, np.ones((1 << 18, 32), np.uint8))
    rows = np.load(file, mmap_mode="r")

    def resident() -> int:
        found = re.search(
            rf"{re.escape(str(file))}\nSize:.*\n(?:\w+:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text()
        )
        assert found is not None
        return int(found[1])

    assert int(rows.sum()) == rows.size
    assert resident() > 8_000
    taken = Taken(Values(rows))
    for start in range(0, len(taken), 1 << 16):
        taken.part(slice(start, start + (1 << 16)))
    assert resident() < 1_000
