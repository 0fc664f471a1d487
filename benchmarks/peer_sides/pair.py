"""Two processes as the two parties of a peer, a relay before each, and what a phase of them costs."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from cli.demo import free_ports

from ..relay import Relay
from .environment import Unavailable

ROOT = Path(__file__).parents[2]
PHASE_SECONDS = 7_200
READY_SECONDS = 120
LAST_WORDS = 200  # characters of what a party said before it failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a phase took: seconds, bytes on the wire, peaks of resident memory by party, and what the parties found.

    `cpu` is user and system time of both parties, all threads, without interpreters that start and modules that load.
    """

    cpu: float
    wall: float
    wire: int
    peaks: Mapping[str, int]
    found: Mapping[str, int | str] = field(default_factory=dict)


class Party:
    """One child process that runs the phases it is told to (`side.serve`)."""

    def __init__(self, name: str, python: Path, module: str, arguments: Sequence[str], folder: Path) -> None:
        self.name, self.folder = name, folder / name
        self.folder.mkdir()
        self.log = self.folder / "log"
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.peer_sides.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._replies: Queue[dict[str, Any] | None] = Queue()
        Thread(target=self._listen, daemon=True).start()

    def order(self, phase: str, arguments: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"phase": phase, "arguments": arguments}) + "\n")
        self._process.stdin.flush()

    def replied(self) -> bool:
        """Say whether the next reply is there; None, the end of the process, counts."""
        return not self._replies.empty()

    def reply(self, seconds: float) -> dict[str, Any]:
        """Return the next reply. Raise Unavailable, with the party's last words, where none comes."""
        try:
            reply = self._replies.get(timeout=seconds)
        except Empty:
            raise Unavailable(f"{self.name}: no answer in {seconds:,.0f} seconds") from None
        if reply is None:
            code = self._process.wait()
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            errors = [line for line in lines if "Error" in line] or lines or [""]
            raise Unavailable(f"{self.name} ended with {code}: {errors[-1][:LAST_WORDS]}")
        return reply

    def stop(self) -> None:
        """End the process; it holds nothing that anybody needs."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(json.loads(line))
        self._replies.put(None)


class Pair:
    """Two parties. `ports` are where they listen, `relays` where the other one reaches them."""

    def __init__(self, module: str, python: Path, folder: Path, names: tuple[str, str], *, roles: bool = False) -> None:
        """With `roles`, each party is told on its command line which it is, and where to listen or to call."""
        folder.mkdir()
        self.ports = free_ports(2)
        self._relays = [Relay(port) for port in self.ports]
        self.relays = [relay.port for relay in self._relays]
        places = (self.ports[0], self.relays[0])
        self.parties = [
            Party(name, python, module, (name, str(place)) if roles else (), folder)
            for name, place in zip(names, places, strict=True)
        ]

    def __enter__(self) -> "Pair":
        try:
            for party in self.parties:
                party.reply(READY_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for party in self.parties:
            party.stop()
        for relay in self._relays:
            relay.close()

    def run(
        self,
        phase: str | tuple[str, str],
        first: Mapping[str, Any],
        second: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    ) -> Cost:
        """Let both parties run a phase; where `second` is a function, it waits for what the second has to know."""
        names = (phase, phase) if isinstance(phase, str) else phase
        before, started = self._wire(), time.perf_counter()
        self.parties[0].order(names[0], first)
        self.parties[1].order(names[1], second() if callable(second) else second)
        while not any(party.replied() for party in self.parties):
            time.sleep(0.01)
        early = sorted(self.parties, key=lambda party: not party.replied())  # one that failed is asked first
        replies = {party.name: party.reply(PHASE_SECONDS) for party in early}
        return Cost(
            cpu=sum(reply["cpu"] for reply in replies.values()),
            wall=time.perf_counter() - started,
            wire=self._wire() - before,
            peaks={party.name: replies[party.name]["peak"] for party in self.parties},
            found={name: reply["found"] for name, reply in replies.items() if reply["found"] is not None},
        )

    def _wire(self) -> int:
        return sum(relay.count for relay in self._relays)
