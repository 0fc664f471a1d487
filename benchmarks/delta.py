"""What a release after a small change costs against the first one, between two nodes.

    python -m benchmarks.delta --n 1048576 --change 0.01 [--rr22 | --no-rr22] [--json]

Each side has n people, half of them in common. Then a part `change` of the sender's people leaves and as many come, and as
many come to the receiver. Where the environment of `benchmarks.peers` exists (--rr22 makes it), a whole run of
SecretFlow's RR22 on sets of that size is set beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from psi import kernel

from .meter import MIB, Phase
from .nodes import TwoNodes
from .peer_sides.environment import Environment, default_folder


def _sum(phases: list[Phase], *names: str) -> dict[str, float]:
    parts = [phase for phase in phases if phase.name in names]
    return {
        "operations": sum(phase.operations for phase in parts),
        "bytes": sum(phase.wire for phase in parts),
        "cpu": sum(phase.cpu - phase.commands for phase in parts),
        "wall": sum(phase.wall for phase in parts),
        "peak": max(peak for phase in parts for peak in phase.peaks.values()),
    }


def _rr22(n: int, cpu: float) -> dict[str, Any]:
    """Return a whole RR22 run of both parties as a row: its CPU seconds and the ratio of ours, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.peers", "--n", str(n), "--only", "rr22", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"phase": "again, to RR22", "reason": (done.stderr.strip().splitlines() or ["it failed"])[-1]}
    (row,) = json.loads(done.stdout)["rows"]
    if "cpu" not in row:
        return {"phase": "again, to RR22", "reason": row["reason"]}
    return {"phase": "again, to RR22", "cpu": row["cpu"], "ratio": {"cpu": round(cpu / row["cpu"], 4)}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delta", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=131_072, help="identities a side")
    parser.add_argument("--change", type=float, default=0.01, help="part of them that leaves, and that comes")
    parser.add_argument(
        "--rr22",
        action=argparse.BooleanOptionalAction,
        help="run SecretFlow's RR22 too (default: where it is installed)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vesica-benchmark-") as folder:
        phases = TwoNodes(options.n, Path(folder), pin=False, change=options.change).run()
    first = _sum(phases, "evaluate", "release")
    again = _sum(phases, "evaluate again", "release again")
    ratios = {name: round(again[name] / first[name], 4) for name in first}
    rows: list[dict[str, Any]] = [
        {"phase": "first", **first, "ratio": dict.fromkeys(first, 1.0)},
        {"phase": "again", **again, "ratio": ratios},
    ]
    if Environment(default_folder()).has("spu") if options.rr22 is None else options.rr22:
        rows.append(_rr22(options.n, again["cpu"]))
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{kernel.name()}, n = {options.n:,}, change {options.change:.2%}\n")
    print("| | multiplications | MB on the wire | CPU s | wall s | peak MiB |")
    print("| --- | --: | --: | --: | --: | --: |")
    for name, each in (("first", first), ("again", again)):
        figures = [f"{each['operations']:,}", f"{each['bytes'] / 1e6:.3f}", f"{each['cpu']:.2f}", f"{each['wall']:.1f}"]
        print(f"| {name} | {' | '.join(figures)} | {each['peak'] / MIB:.0f} |")
    for row in rows[1:]:
        shown = ", ".join(f"{name} {each:.2%}" for name, each in row.get("ratio", {}).items())
        print(f"\n{row['phase']}: {shown or row['reason']}")


if __name__ == "__main__":
    main()
