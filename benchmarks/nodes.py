"""Two nodes as two services on loopback, driven by `vesica` commands, with a meter in each and a relay before each."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

from cli import demo
from cli.demo import free_ports

from .meter import Phase, Reading
from .relay import Relay
from .roles import SEGMENTS, email


class Side(demo.Side):
    """An organisation whose commands are processes of their own, as a user's are: what they cost is told apart."""

    peak = 0  # of the memory of the largest command since this was set to 0, bytes

    def execute(self, arguments: list[str]) -> tuple[int, str]:
        command = subprocess.Popen([*demo.COMMAND, *arguments], stdout=subprocess.PIPE, text=True)
        assert command.stdout is not None
        with command.stdout:
            output = command.stdout.read()
        _, status, used = os.wait4(command.pid, 0)
        command.returncode = os.waitstatus_to_exitcode(status)
        self.peak = max(self.peak, used.ru_maxrss * 1024)
        return command.returncode, output

    def accept(self, partner: str) -> None:
        """Accept a partner's request as a script does: look, then name what was seen."""
        self.run("partner", "accept", partner, "--agreement", self.run("partner", "show", partner)["agreement"])

    def enable(self, feed: str) -> None:
        """Enable a feed as a script does: look, then name what was seen."""
        self.run("feed", "enable", feed, "--version", self.run("feed", "show", feed)["hash"])


class Service:
    """A side's service as a child process, behind a relay."""

    def __init__(self, side: Side, port: int, pinned: int | None, *, curve: bool = True) -> None:
        self._process = subprocess.Popen(
            [
                *([] if pinned is None else ["taskset", "-c", str(pinned)]),
                *(sys.executable, "-m", "benchmarks.served"),
                *("--listen", f"127.0.0.1:{port}", "--home", str(side.home)),
                *(() if curve else ("--stand-in",)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(side.home / "service.log").open("w"),
            text=True,
        )
        self._readings: Queue[dict[str, Any]] = Queue()
        self.begins: Queue[str] = Queue()  # kinds of exchanges as they begin here
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("listening")
        threading.Thread(target=self._listen, daemon=True).start()

    def read(self, *, reset: bool = False) -> Reading:
        assert self._process.stdin is not None
        self._process.stdin.write("reset\n" if reset else "read\n")
        self._process.stdin.flush()
        return Reading(**self._readings.get(timeout=600))

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            document = json.loads(line)
            if "reading" in document:
                self._readings.put(document["reading"])
            else:
                self.begins.put(document["exchange"])


class TwoNodes:
    """A retailer that asks and sends, a publisher that answers and receives; one namespace, two segments."""

    def __init__(self, n: int, folder: Path, *, pin: bool, change: float = 0.0, curve: bool = True) -> None:
        """`change` is the part of the sender's people and of the receiver's that is new in a second release.

        Without the curve hashes take its place (stand_in.py).
        """
        self._curve = curve
        self._n, self._folder, self._pin, self._change = n, folder, pin, change
        self._sender, self._receiver = (Side(name, folder, show=False) for name in ("retailer", "publisher"))
        self._sides = {"sender": self._sender, "receiver": self._receiver}
        self.phases: list[Phase] = []
        self.imports: list[Phase] = []  # of each side, before its service begins

    def run(self) -> list[Phase]:
        ports = dict(zip(self._sides, free_ports(2), strict=True))
        self._relays = {name: Relay(port) for name, port in ports.items()}
        for name, side in self._sides.items():
            address, listen = f"127.0.0.1:{self._relays[name].port}", f"127.0.0.1:{ports[name]}"
            side.run("node", "init", "--org", f"{side.name.title()} Ltd", "--address", address, "--listen", listen)
        self._load()
        pins = (0, 1) if self._pin else (None, None)
        self._services = {
            name: Service(side, ports[name], pin, curve=self._curve)
            for (name, side), pin in zip(self._sides.items(), pins, strict=True)
        }
        try:
            self._connect()
            sender, receiver = self._sender, self._receiver
            with self._phases("count"):
                rows = sender.run("feed", "estimate", "benchmark", "--yes")
            assert rows[0]["status"] == "ok"
            sender.run("feed", "publish", "benchmark")
            receiver.until(lambda feeds: bool(feeds["received"]), "feed", "list")
            receiver.enable("benchmark")
            sender.until(lambda feeds: feeds["shared"][0]["partners"]["publisher"] == "enabled", "feed", "list")
            with self._phases("evaluate", until="release", then="release"):
                sender.run("feed", "sync", "benchmark")
            found = receiver.run("feed", "show", "benchmark")["members"]
            assert found["everyone"] == self._n // 2, found
            with self._phases("nothing new"):
                sender.run("feed", "sync", "benchmark")
            if self._change:
                self._apply_change()
                with self._phases("evaluate again", until="release", then="release again"):
                    sender.run("feed", "sync", "benchmark")
                found = receiver.run("feed", "show", "benchmark")["members"]
                assert found["everyone"] == self._n // 2 + 2 * int(self._n * self._change), found
        finally:
            for service in self._services.values():
                service.stop()
            for relay in self._relays.values():
                relay.close()
        return self.phases

    def _load(self) -> None:
        for name, side in self._sides.items():
            side.run("consent", "model", "opt-out")
            first = 0 if side is self._sender else self._n // 2
            people = (f"{number},{email(number)},{number % 2}" for number in range(first, first + self._n))
            side.peak, before, wall = 0, children_cpu(), time.monotonic()
            self._import(side, people)
            spent, wall = children_cpu() - before, time.monotonic() - wall
            self.imports.append(
                Phase(
                    part="two nodes",
                    n=self._n,
                    name="import",
                    cpu=spent,
                    curve=0,
                    wall=wall,
                    wire=0,
                    commands=spent,
                    peaks={name: side.peak},
                )
            )
        self._sender.run("segment", "create", "everyone", "--rule", "half >= 0")
        self._sender.run("segment", "create", "half", "--rule", "half = 0")

    def _apply_change(self) -> None:
        """Let as many of the sender's people leave as come; who comes on either side is known to the other."""
        few, n = int(self._n * self._change), self._n
        gone = (f"{number},{email(number)},-1" for number in range(few))
        come = (f"{number},{email(number)},{number % 2}" for number in range(n, n + few))
        self._import(self._sender, (*gone, *come))
        new = range(n // 2 - few, n // 2)
        self._import(self._receiver, (f"{number},{email(number)},{number % 2}" for number in new))

    def _import(self, side: Side, rows: Iterable[str]) -> None:
        file = self._folder / f"{side.name}.csv"
        with file.open("w") as written:
            written.write("id,email,half\n")
            written.writelines(f"{row}\n" for row in rows)
        side.run(
            *("profile", "import", str(file), "--dataset", "people", "--id", "id"),
            *("--identity", "email=email_sha256", "--attribute", "half"),
        )

    def _connect(self) -> None:
        sender, receiver = self._sender, self._receiver
        connect_id = receiver.run("partner", "id")["connect_id"]
        sender.run("partner", "request", connect_id, "--as", "publisher", "--yes")
        receiver.accept("retailer-ltd")
        sender.until(lambda rows: rows[0]["status"] == "active", "partner", "list")
        segments = [word for name in SEGMENTS for word in ("--segment", name)]
        sender.run("feed", "create", "benchmark", *segments, "--partner", "publisher", "--namespace", "email_sha256")

    @contextmanager
    def _phases(self, name: str, *, until: str = "", then: str = "") -> Iterator[None]:
        """Measure a phase; where the sender begins an exchange of the kind `until`, the phase `then` begins."""
        marks = [self._mark(name, reset=True)]
        commands = children_cpu()
        for side in self._sides.values():
            side.peak = 0
        kinds = self._services["sender"].begins
        while not kinds.empty():
            kinds.get()

        def wait() -> None:
            while (kind := kinds.get()) not in (until, ""):
                pass
            if kind:
                marks.append(self._mark(then, reset=True))

        waiting = threading.Thread(target=wait)
        waiting.start()
        try:
            yield
        finally:
            kinds.put("")
            waiting.join()
        marks.append(self._mark("", reset=False))
        for place, (before, after) in enumerate(pairwise(marks)):
            last = place == len(marks) - 2
            spent = children_cpu() - commands if last else 0.0  # the command: its CPU is none of the curve's
            pairs = {each: (before.readings[each], after.readings[each]) for each in self._sides}
            self.phases.append(
                Phase(
                    part="two nodes",
                    n=self._n,
                    name=before.name,
                    cpu=sum(b.cpu - a.cpu for a, b in pairs.values()) + spent,
                    curve=sum(b.curve - a.curve for a, b in pairs.values()),
                    wall=pairs["sender"][1].wall - pairs["sender"][0].wall,
                    wire=after.wire - before.wire,
                    commands=spent,
                    operations=sum(b.operations - a.operations for a, b in pairs.values()),
                    peaks={each: b.peak for each, (_, b) in pairs.items()},
                    largest_command=max(side.peak for side in self._sides.values()) if last else 0,
                )
            )

    def _mark(self, name: str, *, reset: bool) -> "Mark":
        """Read both services. A reset returns the peak that ended."""
        readings = {each: service.read(reset=reset) for each, service in self._services.items()}
        return Mark(name=name, readings=readings, wire=sum(relay.count for relay in self._relays.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    name: str
    readings: dict[str, Reading]
    wire: int


def children_cpu() -> float:
    """Return the CPU seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
