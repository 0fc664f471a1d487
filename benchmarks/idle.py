"""What two services cost that have nothing to do, and how long a withdrawn consent takes to reach the partner.

    python -m benchmarks.idle [--n 4096] [--seconds 120] [--tries 5] [--json]

Two connected nodes of n people each, half of them in common, and a feed that has run. First both are left alone: the CPU of
each service is counted. Then one person of the sender's withdraws consent, again and again, and the wall clock runs from
the start of the command until the receiver's `feed show` has one member fewer.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from cli.demo import COMMAND, free_ports
from node.node import Node
from psi import kernel

from .nodes import Side, children_cpu
from .roles import email

SMALLEST = 2_000  # half of them in common is the agreed minimum
LOOK_SECONDS = 0.01  # how often the receiver's members are counted
REST_SECONDS = 20  # after the work of the first run and of each withdrawal
WAIT_SECONDS = 120


class Served:
    """A side with `vesica node serve` as a child process."""

    def __init__(self, name: str, folder: Path, port: int) -> None:
        self.side, address = Side(name, folder, show=False), f"127.0.0.1:{port}"
        self.run = self.side.run
        self.run("node", "init", "--org", f"{name.title()} Ltd", "--address", address, "--listen", address)
        self.run("consent", "model", "opt-out")
        self._log = self.side.home / "service.log"

    def start(self, stack: ExitStack) -> None:
        command = [*COMMAND, "node", "serve", "--home", str(self.side.home)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        stack.callback(self._process.wait, 30)
        stack.callback(self._process.terminate)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("listening")

    def cpu(self) -> float:
        """Return the CPU seconds of the service so far, of all its threads (Linux)."""
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def logged(self, since: float, **words: str) -> float | None:
        """Return when the first line since a time was logged that has these words, as Unix seconds."""
        for line in map(json.loads, self._log.read_text().splitlines()):
            at = datetime.fromisoformat(line["timestamp"]).timestamp()
            if at >= since and words.items() <= line.items():
                return at
        return None


def _import(side: Side, folder: Path, numbers: Iterable[int]) -> None:
    file = folder / f"{side.name}.csv"
    file.write_text("id,email,half\n" + "".join(f"{each},{email(each)},{each % 2}\n" for each in numbers))
    side.run(
        *("profile", "import", str(file), "--dataset", "people", "--id", "id"),
        *("--identity", "email=email_sha256", "--attribute", "half"),
    )


def _connect(sender: Served, receiver: Served) -> None:
    connect_id = receiver.run("partner", "id")["connect_id"]
    sender.run("partner", "request", connect_id, "--as", "publisher", "--yes")
    receiver.side.accept("retailer-ltd")
    sender.side.until(lambda rows: rows[0]["status"] == "active", "partner", "list")
    sender.run("segment", "create", "everyone", "--rule", "half >= 0")
    sender.run(
        "feed",
        "create",
        "benchmark",
        "--segment",
        "everyone",
        "--partner",
        "publisher",
        *("--namespace", "email_sha256"),
    )
    sender.run("feed", "publish", "benchmark")
    receiver.side.until(lambda feeds: bool(feeds["received"]), "feed", "list")
    receiver.side.enable("benchmark")
    receiver.side.until(lambda feeds: bool(feeds["received"][0]["revision"]), "feed", "list")


def _withdraw(sender: Served, receiver: Served, node: Node, person: int) -> dict[str, tuple[float, float]]:
    """Withdraw one person's consent; return the wall and the CPU seconds of each phase."""

    def members() -> int:
        found: int = node.project().received.show("benchmark")["members"]["everyone"]
        return found

    before, start = members(), time.time()
    services, commands = sender.cpu() + receiver.cpu(), children_cpu()
    sender.run("consent", "set", str(person), "n")
    said, commands = time.time(), children_cpu() - commands
    while members() != before - 1:
        if time.time() - start > WAIT_SECONDS:
            raise SystemExit(f"person {person} is still a member after {WAIT_SECONDS} s")
        time.sleep(LOOK_SECONDS)
    gone, services = time.time(), sender.cpu() + receiver.cpu() - services
    queued = sender.logged(start, event="due")
    assert queued is not None
    return {
        "the command itself": (said - start, commands),
        "until the run is queued": (queued - start, 0.0),
        "run, both services": (gone - queued, services),
        "all": (gone - start, commands + services),
    }


def measure(n: int, seconds: float, tries: int) -> list[dict[str, Any]]:
    """Return a row for each service's CPU and one for each phase of a withdrawal."""
    with tempfile.TemporaryDirectory(prefix="vesica-benchmark-") as name, ExitStack() as stack:
        folder, ports = Path(name), free_ports(2)
        sender, receiver = (
            Served(each, folder, port) for each, port in zip(("retailer", "publisher"), ports, strict=True)
        )
        _import(sender.side, folder, range(n))
        _import(receiver.side, folder, range(n // 2, n // 2 + n))
        for each in (sender, receiver):
            each.start(stack)
        _connect(sender, receiver)
        time.sleep(REST_SECONDS)
        sides = {"sender": sender, "receiver": receiver}
        before = {name: side.cpu() for name, side in sides.items()}
        time.sleep(seconds)
        rows: list[dict[str, Any]] = [
            {"idle": name, "cpu_an_hour": round((side.cpu() - before[name]) * 3600 / seconds, 1)}
            for name, side in sides.items()
        ]
        node = stack.enter_context(Node.open(receiver.side.home))
        found = []
        for number in range(tries):
            found.append(_withdraw(sender, receiver, node, n - 1 - number))
            time.sleep(REST_SECONDS)
        for phase in found[0]:
            wall, cpu = zip(*(one[phase] for one in found), strict=True)
            shown = {"wall": statistics.median(wall), "longest": max(wall), "cpu": statistics.median(cpu)}
            rows.append({"withdrawal": phase, **{name: round(value, 2) for name, value in shown.items()}})
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=4_096, help="people a side")
    parser.add_argument("--seconds", type=float, default=120, help="how long both services are left alone")
    parser.add_argument("--tries", type=int, default=5, help="people who withdraw their consent, one after the other")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if options.n < SMALLEST:
        parser.error(f"--n is at least {SMALLEST:,}: a segment has to have as many people as was agreed")
    rows = measure(options.n, options.seconds, options.tries)
    if options.json:
        print(json.dumps({"n": options.n, "kernel": kernel.name(), "rows": rows}, indent=2))
        return
    print(f"{kernel.name()}, n = {options.n:,}\n")
    print("| idle | CPU s an hour |\n| --- | --: |")
    for row in rows:
        if "idle" in row:
            print(f"| {row['idle']} | {row['cpu_an_hour']:.1f} |")
    print("\n| withdrawal | wall s, median | longest | CPU s |\n| --- | --: | --: | --: |")
    for row in rows:
        if "withdrawal" in row:
            print(f"| {row['withdrawal']} | {row['wall']:.2f} | {row['longest']:.2f} | {row['cpu']:.2f} |")


if __name__ == "__main__":
    main()
