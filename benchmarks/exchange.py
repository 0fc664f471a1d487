"""What a count and a release cost: CPU, wall, bytes on the wire, memory, and how much of the CPU is not the curve.

    python -m benchmarks.exchange --n 65536 [262144 ...] [--only process|nodes] [--json]

Each side has n people with an e-mail address each, half of them in common. The first part runs both roles in one
process, through `protocol.exchange.Machine` with dicts for spools. The second runs two nodes as two services on
loopback, driven by `vesica` commands, over a relay that counts the bytes. `benchmarks/README.md` has a table.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from psi import kernel

from .meter import MIB, Meter, Phase
from .nodes import TwoNodes
from .roles import InProcess

SMALLEST = 4_096  # half of them in common is well above the agreed minimum of 1,000


def _total(phases: Sequence[Phase]) -> Phase:
    """Add up the evaluation and the release of one run."""
    parts = [phase for phase in phases if phase.name in ("evaluate", "release")]
    peaks = {each: max(phase.peaks[each] for phase in parts) for each in parts[0].peaks}
    return Phase(
        part=parts[0].part,
        n=parts[0].n,
        name="evaluate + release",
        cpu=sum(phase.cpu for phase in parts),
        curve=sum(phase.curve for phase in parts),
        wall=sum(phase.wall for phase in parts),
        wire=sum(phase.wire for phase in parts),
        commands=sum(phase.commands for phase in parts),
        operations=sum(phase.operations for phase in parts),
        peaks=peaks,
    )


def _print(phases: Sequence[Phase]) -> None:
    head = ("part", "n", "phase", "CPU s", "commands", "not curve", "wall s", "MB on the wire", "peak MiB")
    rows = [
        (
            phase.part,
            f"{phase.n:,}",
            phase.name,
            f"{phase.cpu:.1f}",
            f"{phase.commands:.1f}",
            f"{phase.other:.1%}",
            f"{phase.wall:.1f}",
            f"{phase.wire / 1e6:.2f}",
            ", ".join(f"{name} {peak / MIB:.0f}" for name, peak in phase.peaks.items()),
        )
        for phase in phases
    ]
    print("| " + " | ".join(head) + " |")
    print("| --- | --: | --- | --: | --: | --: | --: | --: | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def _growth(phases: Sequence[Phase]) -> list[str]:
    """Say how many bytes of peak memory an identity costs, from the smallest and the largest run of each phase."""
    lines = []
    for part, name in dict.fromkeys((phase.part, phase.name) for phase in phases):
        same = sorted((p for p in phases if (p.part, p.name) == (part, name)), key=lambda phase: phase.n)
        for process in same[0].peaks if same[0].n < same[-1].n else ():
            more = same[-1].peaks[process] - same[0].peaks[process]
            each = more / (same[-1].n - same[0].n)
            lines.append(f"{part}, {name}, {process}: {each:,.0f} bytes of peak memory for each identity more")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exchange", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[65_536], help="identities a side, one or more sizes")
    parser.add_argument("--only", choices=("process", "nodes"), help="one part of the two")
    parser.add_argument("--pin", action="store_true", help="give each node one core of its own, as two machines have")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if min(options.n) < SMALLEST:
        parser.error(f"--n is at least {SMALLEST:,}: below, the noise could hide the overlap")
    phases: list[Phase] = []
    meter = Meter()
    meter.watch()
    kernel.name()
    for n in options.n:
        if options.only != "nodes":
            found = InProcess(n, meter).run()
            phases += [*found, _total(found)]
        if options.only != "process":
            with tempfile.TemporaryDirectory(prefix="vesica-benchmark-") as folder:
                found = TwoNodes(n, Path(folder), pin=options.pin).run()
                phases += [*found, _total(found)]
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    if options.json:
        rows = [{**asdict(phase), "not_curve": round(phase.other, 4)} for phase in phases]
        print(json.dumps({**machine, "kernel": kernel.name(), "phases": rows}, indent=2))
        return
    print(f"{kernel.name()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    _print(phases)
    print("\n" + "\n".join(_growth(phases)))


if __name__ == "__main__":
    main()
