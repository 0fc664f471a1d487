"""How many points a second each backend of the curve kernel does on one core, against libsodium in the same run.

    python -m benchmarks.kernel [--json] [--rounds 9] [--seconds 0.1]

By CPU time, the median of the rounds. In each round every backend takes its turn, so that a neighbour's load or a change
of clock meets all of them alike; the ratio is the median of the rounds' own ratios. The last rows say what two threads
give, by wall clock: on a machine that others use they say little.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from psi import kernel
from psi.values import U8, Values

REFERENCE = "libsodium"
PROOF = 30_720  # elements of one proof
SCALAR = (2**252 - 2**200 + 12345).to_bytes(32, "little")
CONTEXT = b"c" * 32
Work = Callable[[int], object]


def operations(generator: np.random.Generator, most: int) -> dict[str, Work]:
    """Return what is measured: functions of how many elements."""
    uniform: U8 = generator.integers(0, 256, (most, 64), np.uint8)
    points, scalars, values = kernel.from_uniform(uniform), kernel.reduce(uniform), Values(uniform[:, :16].copy())
    return {
        "multiply": lambda n: kernel.multiply(points[:n], SCALAR),
        "hash and multiply": lambda n: kernel.hash_and_multiply(CONTEXT, Values(values.rows[:n]), SCALAR),
        "hash to group": lambda n: kernel.hash_to_group(CONTEXT, Values(values.rows[:n])),
        "decode": lambda n: kernel.decode(points[:n]),
        "multi-scalar": lambda n: kernel.multi_scalar_vartime(scalars[:n], points[:n]),
        "finalize": lambda n: kernel.finalize(CONTEXT, Values(values.rows[:n]), points[:n]),
        "tags": lambda n: kernel.digests(CONTEXT, points[:n], size=16),
        "weights": lambda n: kernel.hash_to_scalar(CONTEXT, Values(values.rows[:n]), b"dst"),
    }


def use(name: str) -> None:
    os.environ["VESICA_KERNEL"] = name
    kernel.backend.cache_clear()
    kernel.backend()


def rate(work: Work, n: int, clock: Callable[[], float]) -> float:
    started = clock()
    work(n)
    return n / (clock() - started)


def measure(rounds: int, seconds: float) -> list[dict[str, object]]:
    """Return one row per backend and operation."""
    kernel.threads = 1
    names, result = list(kernel.available()), []
    for operation, work in operations(np.random.default_rng(1), PROOF).items():
        sizes = {}
        for name in names:  # as many elements as take about `seconds`
            use(name)
            kernel.CHUNK = PROOF if operation == "multi-scalar" else 1024
            work(64)
            sizes[name] = min(max(int(rate(work, 256, time.process_time) * seconds), 256), PROOF)
        rates: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                use(name)
                rates[name].append(rate(work, sizes[name], time.process_time))
        for name in names:
            ratios = [ours / theirs for ours, theirs in zip(rates[name], rates[REFERENCE], strict=True)]
            result.append(
                {
                    "backend": name,
                    "operation": operation,
                    "elements": sizes[name],
                    "per_second": round(statistics.median(rates[name])),
                    "microseconds": round(1e6 / statistics.median(rates[name]), 3),
                    "ratio": round(statistics.median(ratios), 2),
                }
            )
    return result + both_cores(rounds)


def both_cores(rounds: int) -> list[dict[str, object]]:
    use(next(iter(kernel.available())))
    work = operations(np.random.default_rng(1), PROOF)["multiply"]
    kernel.CHUNK, rates = 1024, {1: [0.0], 2: [0.0]}
    for _ in range(rounds):
        for threads in rates:
            kernel.threads = threads
            rates[threads].append(rate(work, PROOF, time.perf_counter))
    best = {threads: max(values) for threads, values in rates.items()}
    row = {"backend": kernel.name(), "elements": PROOF, "per_second": None, "microseconds": None, "ratio": None}
    both = {"per_second": round(best[2]), "microseconds": round(1e6 / best[2], 3)}
    return [
        {**row, "operation": "multiply, two threads", **both},
        {**row, "operation": "two threads against one", "ratio": round(best[2] / best[1], 2)},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="CPU time of one measurement")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds, arguments.seconds)
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'backend':<12}{'operation':<26}{'a second':>12}{'µs each':>10}{'ratio':>8}")
    for row in rows:
        figures = [f"{row[key]:,}" if row[key] is not None else "" for key in ("per_second", "microseconds", "ratio")]
        print(f"{row['backend']:<12}{row['operation']:<26}{figures[0]:>12}{figures[1]:>10}{figures[2]:>8}")


if __name__ == "__main__":
    main()
