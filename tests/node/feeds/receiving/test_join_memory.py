"""Members that are computed as a whole need a few bytes of memory for each person more, whatever is read of files."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from pyroaring import BitMap

from node.exchanges.kept_prf import KeptPrf
from node.feeds.receiving import evaluations, join
from node.people.consent import CODES
from node.people.manifests import IdentityFiles, Manifest
from node.people.snapshots import Snapshot
from node.storage import row_files
from node.storage.cache import Cache, Epoch
from psi import local
from psi.local import LocalEngine
from psi.places import Scratch
from psi.values import Values

EMAIL, FEED, SEGMENT, NO = "email_sha256/lc-v1", b"\1" * 16, b"\2" * 16, CODES.index("n")
SMALL, LARGE = 1 << 17, 3 << 17


class Disk:
    """A scratch space whose bytes are not in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def put(self, content: np.ndarray[Any, Any]) -> int:
        self._count += 1
        (self._folder / f"{id(self)}-{self._count}").write_bytes(content.tobytes())
        return self._count

    def get(self, number: int) -> np.ndarray[Any, Any]:
        return np.fromfile(self._folder / f"{id(self)}-{number}", np.uint8)


def joined(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> tuple[BitMap, int]:
    """Return the members among so many people, of whom every eighth said no, and the most memory that it took, bytes."""
    folder.mkdir()
    random = np.random.default_rng(1)
    rows = random.integers(0, 256, (count, 32), np.uint8)
    rows[:, :4] = np.arange(count, dtype=">u4").view(np.uint8).reshape(-1, 4)  # sorted
    prf = random.integers(0, 256, (count, 64), np.uint8)
    saved = {"rows": rows, "profiles": np.arange(count, dtype=np.uint32), "consent": np.zeros(count, np.uint8)}
    saved["consent"][1::8] = NO
    saved |= {name: np.zeros(count, np.uint16) for name in ("sources", "ranks")}
    for name, array in saved.items():
        np.save(folder / f"{name}.npy", array)
    files = IdentityFiles(rows="rows.npy", profiles="profiles.npy", sources="sources.npy", ranks="ranks.npy")
    snapshot = Snapshot(folder, 1, Manifest(count=count, consent="consent.npy", identities={EMAIL: files}))
    prf_of = KeptPrf(Cache(folder, "partner", Epoch(1, bytes(32)), random.bytes), "prf", EMAIL)
    prf_of.add(Values(rows), prf, public=bytes(32))

    def room() -> Scratch:
        return cast(Scratch, Disk(folder))

    engine, bitmaps = LocalEngine(room), np.full((count, 1), 0x80, np.uint8)
    bitmaps[::2] = 0
    sealed = engine.seal(prf, bitmaps, feed=FEED, version=1, revision=1)[:]
    np.save(folder / "records.npy", sealed)
    records = np.asarray(np.load(folder / "records.npy", mmap_mode="r"))
    del rows, prf, bitmaps, sealed, saved
    monkeypatch.setattr(evaluations, "kept", lambda *_: prf_of)
    monkeypatch.setattr(join, "engine_of", lambda *_: engine)
    now = SimpleNamespace(
        scope=SimpleNamespace(home=None),
        connection=None,
        epoch=None,
        namespaces=[EMAIL],
        snapshot=snapshot,
        chain=[SimpleNamespace(records={EMAIL: records}, version=1, revision=1)],
        of_run=SimpleNamespace(feed=FEED, width=1),
        nobody=lambda: {SEGMENT: BitMap()},
        positions=lambda: {SEGMENT: 0},
    )
    tracemalloc.start()
    try:
        found = join.whole(cast(join.Join, now), lambda _: True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found is not None
    return found[0][SEGMENT], peak


def test_a_person_more_takes_a_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PIECE", 1 << 15)
    (_, less), (members, more) = (joined(tmp_path / str(each), each, monkeypatch) for each in (SMALL, LARGE))
    assert members == BitMap(number for number in range(LARGE) if number % 2 and number % 8 != 1)
    assert (more - less) / (LARGE - SMALL) < 40


def test_rows_that_pass_do_not_stay_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    np.save(file, np.ones((1 << 18, 17), np.uint8))
    rows = row_files.Passing(np.asarray(np.load(file, mmap_mode="r")))
    assert all(rows[start : start + 1000].all() for start in range(0, len(rows), 1000))
    smaps = Path("/proc/self/smaps").read_text().split(str(file))[1]
    assert int(smaps.split("Rss:")[1].split()[0]) < 500
