"""Does the time of a multiplication depend on its scalar? Welch's t between a fixed scalar and random ones.

    python timing.py BACKEND [SAMPLES]

The classes alternate at random, each sample is one call over 64 elements, and the slowest tenth is dropped: it is other
programs. |t| above 4.5 counts as a difference (Reparaz, Balasch, Verbauwhede 2016). A small t proves nothing.
"""

import sys
import time

import numpy as np

from psi import kernel


def welch(first: np.ndarray, second: np.ndarray) -> float:
    spread = first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)
    return float((first.mean() - second.mean()) / np.sqrt(spread))


def main() -> int:
    name, samples = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    backend, random = kernel.available()[name], np.random.default_rng()
    points, products = np.empty((2, 64, 32), np.uint8)
    backend.from_uniform(points, random.integers(0, 256, (64, 64), np.uint8))
    uniform = random.integers(0, 256, (samples, 64), np.uint8)
    scalars = np.empty((samples, 32), np.uint8)
    backend.reduce(scalars, uniform)
    fixed = random.integers(0, 2, samples).astype(np.bool_)
    worst = 0.0
    for label, value in (("1", 1), ("L - 1", kernel.ORDER - 1), ("2^252 - 1", 2**252 - 1)):
        scalars[fixed] = np.frombuffer(value.to_bytes(32, "little"), np.uint8)
        times = np.empty(samples)
        for index in range(samples):
            factor = scalars[index].copy()
            started = time.perf_counter_ns()
            backend.multiply(products, points, factor)
            times[index] = time.perf_counter_ns() - started
        kept = times < np.quantile(times, 0.9)
        t = welch(times[kept & fixed], times[kept & ~fixed])
        medians = np.median(times[fixed]), np.median(times[~fixed])
        print(f"{name}: fixed {label}: t = {t:+.2f}, medians {medians[0] / 1000:.1f} and {medians[1] / 1000:.1f} µs")
        worst = max(worst, abs(t))
    return int(worst > 4.5)


if __name__ == "__main__":
    sys.exit(main())
