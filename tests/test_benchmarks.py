"""The benchmarks find what they measure: each imports, but for those of products that are installed apart; some run, small."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
APART = {"openmined", "secretflow"}  # benchmarks/peer_sides/environment.py installs their libraries
NAMES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if path.stem not in APART | {"__init__"}
]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_imports(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, check=True)


def _run(*arguments: str) -> Any:
    command = [sys.executable, "-m", *arguments, "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def test_kernel_measures_every_backend() -> None:
    assert _run("benchmarks.kernel", "--rounds", "1", "--seconds", "0.001")


def test_exchange_measures_one_process() -> None:
    """And `scale`, which has the same two nodes, measures those."""
    phases = _run("benchmarks.exchange", "--n", "4096", "--only", "process")["phases"]
    assert {row["part"] for row in phases} == {"one process"}


def test_imports_measures_every_phase() -> None:
    assert _run("benchmarks.imports", "--n", "50000", "--rounds", "1")


@pytest.mark.two_nodes
def test_scale_measures_every_phase() -> None:
    phases = _run("benchmarks.scale", "--n", "4096")["phases"]
    names = ["import", "import", "count", "evaluate", "release", "nothing new"]
    assert [phase["name"] for phase in phases] == names
    assert all(min(phase["peaks"].values()) > 0 for phase in phases)


def test_destinations_measures_every_phase() -> None:
    rows = _run("benchmarks.destinations", "--n", "2000", "--only", "file")
    changes = [(row["phase"], row["changes"], row["messages"]) for row in rows]
    assert changes == [("first", 2_000, 10), ("change", 40, 10), ("nothing", 0, 0)]
