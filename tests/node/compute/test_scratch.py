"""Scratch files: what is put aside comes back, is told to nobody, and is gone with the process."""

import errno
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag

from node.compute import engines, scratch
from node.compute.scratch import ScratchFile, ScratchSpool
from node.errors import DiskFull
from node.storage.cache import Cache, Epoch
from psi import local, membership
from psi.engine import Place, Revision
from psi.values import U8, Bools

N = 1 << 18
RUN = {"version": 1, "revision": 1}


@pytest.fixture
def rows() -> U8:
    return np.random.default_rng(1).integers(0, 256, (N, 64), np.uint8)


def test_what_is_put_aside_comes_back(tmp_path: Path) -> None:
    file, parts = ScratchFile(tmp_path), [np.arange(size, dtype=np.uint8) for size in (5, 0, 250, 1)]
    numbers = [file.put(part) for part in parts]
    assert [file.get(number).tolist() for number in reversed(numbers)] == [part.tolist() for part in reversed(parts)]
    assert os.listdir(tmp_path) == []


def test_the_disk_has_nothing_to_tell_and_no_change_goes_unseen(tmp_path: Path) -> None:
    file, secret = ScratchFile(tmp_path), np.frombuffer(b"somebody" * 100, np.uint8)
    number = file.put(secret)
    descriptor = file._descriptor
    content = os.pread(descriptor, 10_000, 0)
    assert b"somebody" not in content
    os.pwrite(descriptor, bytes([content[9] ^ 1]), 9)
    with pytest.raises(InvalidTag):
        file.get(number)


def test_the_room_is_free_once_nobody_needs_it(tmp_path: Path) -> None:
    descriptor = ScratchFile(tmp_path)._descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_kill_leaves_no_file(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, numpy, pathlib; from node.compute.scratch import ScratchFile\n"
        "file = ScratchFile(pathlib.Path(sys.argv[1])); file.put(numpy.ones(1 << 20, numpy.uint8))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: U8) -> None:
    written = os.pwrite

    def full(descriptor: int, content: bytes, offset: int) -> int:
        if offset > 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, content[: 1 << 19], offset)  # a part of it, as a disk that gets full does

    monkeypatch.setattr(local, "PIECE", N // 8)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull, match="no space left"):
        engines.engine_in(tmp_path).seal(rows, rows[:, :1], feed=b"f" * 16, **RUN)
    assert os.listdir(tmp_path) == []


def peak(work: Callable[[], object]) -> float:
    """Return the most memory that numpy had for it at once, in bytes a row."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / N
    finally:
        tracemalloc.stop()


def test_a_large_set_is_sealed_and_opened_beside_a_few_pieces_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: U8
) -> None:
    """Held are the results of `open`, 4 bytes a row, and a few pieces of 1/32; whole, the records alone take 17."""
    bitmaps, feed, size = np.ones((N, 1), np.uint8), b"f" * 16, N // 32
    whole = membership.seal(rows, bitmaps, feed=feed, **RUN)
    monkeypatch.setattr(local, "PIECE", size)
    monkeypatch.setattr(local, "SLICE", size)
    monkeypatch.setattr(membership, "SLICE", size)
    engine = engines.engine_in(tmp_path)
    sealed: list[Place] = []
    assert peak(lambda: sealed.append(engine.seal(rows, bitmaps, feed=feed, **RUN))) < 12
    assert (sealed[0][:] == whole).all()
    chain = [Revision(records=sealed[0], **RUN)]
    opened: list[tuple[U8, Bools]] = []
    assert peak(lambda: opened.append(engine.open(chain, lambda: [rows], N, feed=feed, width=1))) < 4 + 17
    assert opened[0][0].all()


def test_a_place_is_saved_as_the_array(tmp_path: Path, rows: U8) -> None:
    cache = Cache(tmp_path, "0" * 32, Epoch(1, bytes(32)), os.urandom)
    for width in (1, 17, 64):
        for count in (0, 1, 70_000):
            array = np.ascontiguousarray(rows[:count, :width])
            cache.save("rows", rows=engines.saved(array), more=np.ones(3))
            stored = cache.load("rows")
            assert stored is not None
            assert (stored["rows"] == array).all()
            assert stored["rows"].shape == array.shape
            assert stored["more"].tolist() == [1, 1, 1]


def test_many_messages_of_an_exchange_leave_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 10)
    spool = ScratchSpool(tmp_path)
    for chunk in range(5):
        spool["blinded", chunk] = bytes([chunk]) * 6
    spool["blinded", 4] = b"again"
    del spool["blinded", 0]
    assert dict(spool) == {("blinded", 4): b"again"} | {("blinded", each): bytes([each]) * 6 for each in (1, 2, 3)}
    assert len(spool) == 4
    assert spool.get(("blinded", 0)) is None
