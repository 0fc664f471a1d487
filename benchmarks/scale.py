"""What an import, a count and a first release cost as the sets grow: CPU seconds and the peak of memory, by phase.

    python -m benchmarks.scale --n 1000000 4000000 10000000 [--stand-in] [--json]

Two nodes of n people each, half of them in common, as `benchmarks.exchange` has them. A peak is the most memory that a
process had at once in a phase (VmHWM): of each side's service, or of the largest command. The phases of one run:

    import      of each side's file
    count       the sender asks how many it has in common with the receiver
    evaluate    the receiver gets F of its own people
    release     the sender's records, and what the receiver computes from them
    nothing new the same feed once more

With `--stand-in` hashes take the place of the curve: the peaks stay, and a run takes a third of the time.
"""

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path

from psi import kernel

from .exchange import SMALLEST
from .meter import MIB, Phase
from .nodes import TwoNodes

SIZES = [1_000_000, 4_000_000, 10_000_000]


def measure(n: int, *, curve: bool) -> list[Phase]:
    """Return the phases of one run with n people a side."""
    with tempfile.TemporaryDirectory(prefix="vesica-benchmark-") as folder:
        nodes = TwoNodes(n, Path(folder), pin=False, curve=curve)
        nodes.run()
    return [*nodes.imports, *nodes.phases]


def _peaks(phase: Phase) -> str:
    services = [f"{name} {peak / MIB:,.0f}" for name, peak in phase.peaks.items()]
    command = [f"command {phase.largest_command / MIB:,.0f}"] if phase.largest_command else []
    return ", ".join([*services, *command])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=SIZES, help="people a side, one or more sizes")
    parser.add_argument("--stand-in", action="store_true", help="hashes in the place of the curve, for memory alone")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if min(options.n) < SMALLEST:
        parser.error(f"--n is at least {SMALLEST:,}: below, the noise could hide the overlap")
    phases = [phase for n in options.n for phase in measure(n, curve=not options.stand_in)]
    if options.json:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps({**machine, "kernel": kernel.name(), "phases": [asdict(phase) for phase in phases]}, indent=2))
        return
    print(f"{kernel.name()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| n | phase | CPU s | of them commands | wall s | peak MiB |")
    print("| --: | --- | --: | --: | --: | --- |")
    for phase in phases:
        spent = f"{phase.cpu:.1f} | {phase.commands:.1f} | {phase.wall:.1f}"
        print(f"| {phase.n:,} | {phase.name} | {spent} | {_peaks(phase)} |")


if __name__ == "__main__":
    main()
