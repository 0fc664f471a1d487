"""An array that another thread changes while the kernel works changes the result at most, never memory."""

import subprocess
import sys

import pytest

CHANGED = """
import sys
import threading

import numpy as np

from psi import kernel

kernel.backend = lambda: backend
backend, rows = kernel.available()[sys.argv[1]], 50_000
digests = np.empty((rows, 64), np.uint8)
values, lengths = np.zeros((rows, 1), np.uint8), np.ones(rows, np.uint8)
elements, scalars = np.tile(np.frombuffer(kernel.GENERATOR, np.uint8), (16_000, 1)), np.ones((16_000, 32), np.uint8)
decoded, ones = kernel.decode(elements).rows, scalars.copy()
shifting = decoded.copy()
data, starts, ends = bytes(64), np.zeros(rows, np.int64), np.ones(rows, np.int64)
keys, order = np.zeros(rows, np.uint64), np.empty(rows, np.intp)
table, sought = np.zeros((rows, 16), np.uint8), np.zeros((rows, 16), np.uint8)
few, places = sought[: rows // 100], np.empty((2, rows), np.intp)
calls = [
    (lambda: backend.sha512(digests, rows, (b"", (values, lengths), b"")), lengths, 1, 255),
    (lambda: backend.multi_scalar_vartime(digests[:1, :32], scalars, (decoded,)), scalars, 1, 255),
    (lambda: backend.multi_scalar_vartime(digests[:1, :32], ones, (shifting,)), shifting, 1, 255),
    (lambda: backend.multiply_decoded(elements[:500], shifting[:500], ones[0]), shifting, 1, 255),
    (lambda: backend.sha256(digests.reshape(-1, 32)[:rows], data, starts, ends), starts, 0, 2**62),
    (lambda: backend.order(order, keys), keys, 0, 2**62),
    (lambda: merge(table, sought), sought, 0, 255),
    (lambda: merge(table, sought), table, 255, 0),
    (lambda: merge(table, few), table, 255, 0),
    (lambda: merge(few, table), few, 255, 0),
]


def merge(left, right):
    in_left, in_right = places[0, : len(right)], places[1, : len(right)]
    count = backend.merge(in_left, in_right, left, right) or 0
    assert count <= len(right)
    assert ((0 <= in_left[:count]) & (in_left[:count] < len(left))).all()
    assert ((0 <= in_right[:count]) & (in_right[:count] < len(right))).all()


def change(array, good, bad):
    while not over.is_set():
        array[:] = bad
        array[:] = good


for call, *changed in calls:
    over = threading.Event()
    changing = threading.Thread(target=change, args=changed)
    changing.start()
    for _ in range(50):
        try:
            call()
        except ValueError:  # it was bad already when it was checked
            pass
    over.set()
    changing.join()
"""


def test_what_another_thread_changes_meanwhile_does_not_overflow(backend: str) -> None:
    if backend == "libsodium":
        pytest.skip("it is called with one element at a time")
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHANGED, backend], capture_output=True, text=True, timeout=1_200, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
