"""What it costs to keep destinations up to date: a million people, ten segments, a folder and a webhook.

    python -m benchmarks.destinations [--n 1000000] [--only file webhook latency] [--json]

Each of the ten segments has one tenth of the people, another one for each; identities are hashed e-mails. First all members
are exported. Then in each segment one in a hundred members leaves, and as many others come; then nothing has changed. Each
phase is a process of its own; before the last two it looks once where nothing has changed, as a service has done that runs.
CPU is user and system time of all its threads, memory the most that it had at once. The webhook's receiver is another process
that answers at once; what it takes is shown apart.
With a running service the wall clock goes from the start of `vesica consent set` until the receiver has the removal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 - loaded before the clock starts
from pyroaring import BitMap

import node.destinations.targets.folders
import node.destinations.targets.webhooks
import node.feeds.sending.outgoing  # noqa: F401 - so is what looks whether feeds have other labels
from cli.demo import COMMAND, free_ports
from cli.receiver import CERTIFICATE
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.people.drafts import Draft
from node.project import Project
from node.wiring import wire

from .meter import MIB, Meter

AIMS = {"first": 12.0, "change": 0.44, "nothing": 0.05}  # CPU seconds of a million people; a change: 2 % of 12, and 0.2
PHASES = tuple(AIMS)
PEAK_AIM = 250  # MiB
WALL_AIM = 2.0  # seconds until a withdrawal is there
SEGMENTS = 10
CHANGED = 100  # one of so many members
WAIT_SECONDS = 30
Row = dict[str, Any]


def names() -> list[str]:
    return [f"s{number}" for number in range(SEGMENTS)]


def make(home: Path, n: int, address: str) -> None:
    """Make a node of n people and the segments."""
    with Node.create(home, "Fern", address=address, listen=address) as node:
        project, file = node.project(), home.parent / "people.csv"
        with file.open("w") as out:
            out.write("id,email\n")
            for number in range(n):
                out.write(f"p{number},{sha256(b'%d@example.com' % number).hexdigest()}\n")
        project.consent.set_model("opt-out")
        column = IdentityColumn.parse("email=email_sha256")
        project.profiles.import_(file, dataset="people", id_column="id", identities=[column], attributes=[])
        one = home.parent / "members.csv"
        one.write_text("id\np0\n")
        for name in names():
            project.segments.create(name, members_file=one)
        put(project, n, 0)
        file.unlink()


def put(project: Project, n: int, moved: int) -> None:
    """Replace the members of each segment, as evaluating rules does: its tenth of the people but for the first `moved`,
    and as many of the next tenth."""
    tenth = n // SEGMENTS
    with project.scope.begin() as tx:
        draft = Draft(project.scope, tx)
        for number, name in enumerate(names()):
            start = number * tenth
            there = {each % n for each in range(start + moved, start + tenth + moved)}
            draft.set_members(project.segments.show(name, tx).id, BitMap(there))
        draft.publish()


def measure(home: Path, kind: str, phase: str, n: int) -> Row:
    """Measure one phase in this process."""
    wire()
    with Node.open(home) as node:
        project, meter = node.project(), Meter()
        if phase != "first":
            project.destinations.sync(kind)
        if phase == "change":
            put(project, n, n // SEGMENTS // CHANGED)
        meter.reset()
        before = meter.read()
        done = project.destinations.activate(kind, names()) if phase == "first" else project.destinations.sync(kind)
        after = meter.read()
        rows = project.destinations.runs(kind)
        changes = sum(row["activated"] for row in rows)
        assert changes == sum(row["received"] for row in rows)
        return {
            "cpu": after.cpu - before.cpu,
            "wall": after.wall - before.wall,
            "peak": after.peak,
            "messages": done["sent"],
            "changes": changes,
        }


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what some work returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process so far (Linux)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sink:
    """A running receiver of benchmarks.sink."""

    pid: int
    url: str
    authorities: Path
    log: Path

    def removed(self) -> dict[float, int]:
        """Return by time of arrival how many have left a segment."""
        lines = [line.split() for line in self.log.read_text().splitlines()[1:]]
        return {float(at): int(left) for at, _, left in lines if left != "0"}


@contextmanager
def sink(folder: Path) -> Iterator[Sink]:
    log = folder / "sink.log"
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.sink", str(folder)], stdout=out)
    try:
        while not (url := log.read_text()).endswith("\n"):
            if process.poll() is not None:
                raise SystemExit("the receiver did not start")
            time.sleep(0.01)
        yield Sink(process.pid, url.splitlines()[0], folder / CERTIFICATE, log)
    finally:
        process.terminate()
        process.wait()


def add(home: Path, kind: str, settings: dict[str, str]) -> None:
    with Node.open(home) as node:
        node.project().destinations.create(kind, kind, settings, identity="email_sha256", uses=["analytics"])


def rows_of(n: int, only: list[str]) -> list[Row]:
    """Return one row per phase of each destination."""
    found = []
    with tempfile.TemporaryDirectory(prefix="vesica-benchmark-") as name:
        folder = Path(name)
        home, address = folder / "home", f"127.0.0.1:{free_ports(1)[0]}"
        (folder / "out").mkdir()
        alone(make, home, n, address)
        with sink(folder) as receiver:
            settings = {
                "file": {"folder": str(folder / "out")},
                "webhook": {"url": receiver.url, "authorities": str(receiver.authorities)},
            }
            for kind in (each for each in settings if each in only):
                with Node.open(home) as node:
                    put(node.project(), n, 0)
                add(home, kind, settings[kind])
                changes = 0
                for phase in PHASES:
                    before = cpu_of(receiver.pid)
                    row = alone(measure, home, kind, phase, n)
                    new, changes = row["changes"] - changes, row["changes"]
                    row |= {"changes": new, "receiver": cpu_of(receiver.pid) - before}
                    found.append({"kind": kind, "phase": phase, "n": n, "aim": AIMS[phase], **row})
            if "latency" in only:
                found.append({"kind": "webhook", "phase": "withdrawal", "n": n, **latency(home, receiver, settings)})
    return found


def latency(home: Path, receiver: Sink, settings: dict[str, dict[str, str]], tries: int = 3) -> Row:
    """Withdraw people's consent, one after the other, while a service runs."""
    with Node.open(home) as node:
        if "webhook" not in [each["name"] for each in node.project().destinations.all()]:
            add(home, "webhook", settings["webhook"])
            node.project().destinations.activate("webhook", names())
    log = home / "service.log"
    found, commands = [], []
    with log.open("w") as errors:
        service = subprocess.Popen(
            [*COMMAND, "node", "serve", "--home", str(home)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert service.stdout is not None
        assert service.stdout.readline().startswith("listening")
        for number in range(tries):
            time.sleep(2)  # what came before is over
            start, person = time.time(), f"p{number + 100}"
            subprocess.run(
                [*COMMAND, "consent", "set", person, "n", "--home", str(home)], check=True, stdout=subprocess.DEVNULL
            )
            commands.append(time.time() - start)
            while not (arrived := [at for at in receiver.removed() if at >= start]):
                if time.time() - start > WAIT_SECONDS:
                    raise SystemExit(f"{person} is still there after {WAIT_SECONDS} s")
                time.sleep(0.01)
            found.append(arrived[0] - start)
    finally:
        service.terminate()
        service.wait(30)
    return {
        "aim": WALL_AIM,
        "wall": statistics.median(found),
        "longest": max(found),
        "command": statistics.median(commands),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="people")
    parser.add_argument("--only", nargs="+", choices=(every := ["file", "webhook", "latency"]), default=every)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    rows = rows_of(arguments.n, arguments.only)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("| to | phase | changes | messages | CPU s | aim | wall s | peak MiB | receiver's CPU s |")
    print("| --- | --- | --: | --: | --: | --: | --: | --: | --: |")
    for row in rows:
        if row["phase"] != "withdrawal":
            print(
                f"| {row['kind']} | {row['phase']} | {row['changes']:,} | {row['messages']:,} | {row['cpu']:.2f} "
                f"| {row['aim']} | {row['wall']:.2f} | {row['peak'] / MIB:.0f} | {row['receiver']:.2f} |"
            )
    for row in rows:
        if row["phase"] == "withdrawal":
            print(
                f"\nFrom `consent set` to the removal at the receiver: {row['wall']:.2f} s, at most {row['longest']:.2f} s, "
                f"of which the command takes {row['command']:.2f} s; the aim is {row['aim']} s."
            )


if __name__ == "__main__":
    main()
