"""What a count and a release cost: CPU, wall, bytes on the wire, memory, and how much of the CPU is not the curve.

    python -m benchmarks.exchange --n 65536 [262144 ...] [--only process|nodes] [--json]

Each side has n people with an e-mail address each, half of them in common. The first part runs both roles in one
process, through `protocol.exchange.Machine` with dicts for spools. The second runs two nodes as two services on
loopback, driven by `vesica` commands, over a relay that counts the bytes. `benchmarks/README.md` has a table.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.demo import Side, _free_ports, _until
from protocol import estimate, release
from protocol.exchange import Done, Machine, Opened, Opening, Role, Send
from protocol.feed import Definition, SegmentRef
from protocol.messages import Answer, SegmentAnswer
from protocol.receipt import NO_RECEIPT
from protocol.states import Kind, Part
from psi import count, kernel, membership, oprf
from psi.hashing import context
from psi.keys import Key
from psi.values import Values

from .meter import MIB, Meter, Reading
from .relay import Relay

NAMESPACE = "email_sha256/lc-v1"
ALL_SEGMENTS = ("everyone", "half")


@dataclass(slots=True, kw_only=True)
class Phase:
    """One row of the table; `peaks` in bytes, by process."""

    part: str
    n: int
    name: str
    cpu: float
    curve: float
    wall: float
    wire: int
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def other(self) -> float:
        """The share of CPU that is not curve arithmetic, 0 to 1."""
        return 1 - self.curve / self.cpu if self.cpu else 0.0


# Both roles in one process


class Party:
    def __init__(self, name: str) -> None:
        key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self.sign = key.sign
        self.public = key.public_key().public_bytes_raw()
        self.fingerprint = hashlib.sha256(self.public).digest()


class InProcess:
    """A sender (or asker) and a receiver (or answerer) in memory, with n identities each."""

    def __init__(self, n: int, meter: Meter) -> None:
        self._n, self._meter = n, meter
        self._sender, self._receiver = Party("sender"), Party("receiver")
        self._theirs, self._ours = _people(0, n), _people(n // 2, n)
        self.phases: list[Phase] = []

    def run(self) -> list[Phase]:
        with self._phase("count") as phase:
            phase.wire = self._count()
        with self._phase("evaluate") as phase:
            prf_key = Key.random(os.urandom)
            phase.wire, evaluation = self._evaluate(prf_key)
        with self._phase("release") as phase:
            phase.wire = self._release(prf_key, evaluation)
        return self.phases

    def _count(self) -> int:
        context, direction = self._place("count")
        key = Key.random(os.urandom)
        universe = count.build_universe(context, self._ours, key, os.urandom)
        signed = estimate.commit(universe, context=context, epoch=1, generation=1, made=1, sign=self._receiver.sign)
        asked = self._theirs.take(np.arange(min(self._n, estimate.MAX_ASKED)))
        asker = estimate.CountAsker(
            context=context,
            direction=direction,
            epoch=1,
            values=asked,
            segments=np.stack([np.ones(len(asked), bool), np.arange(len(asked)) % 2 == 0]),
            consented=np.ones(len(asked), bool),
            derive_key=lambda digest: Key.from_seed(digest[:32], b"benchmark"),
            check_universe=lambda _: None,
            peer_key=self._receiver.public,
        )
        found: list[int] = []

        def sanitise(question: estimate.Question) -> Answer:
            found.extend(int(hits) for hits in question.consented_hits)
            small = SegmentAnswer(status="below_minimum")
            return Answer(segments=tuple(small for _ in found), computed_at=1)

        answerer = estimate.CountAnswerer(
            context=context,
            direction=direction,
            epoch=1,
            universe=universe,
            key=key,
            commitment=signed,
            sanitise=sanitise,
        )
        wire = self._drive(Kind.COUNT, {"namespace": NAMESPACE}, asker, answerer)
        assert found[0] == max(0, len(asked) - self._n // 2)
        return wire

    def _evaluate(self, key: Key) -> tuple[int, release.Evaluation]:
        context, direction = self._place("release")
        statement = release.state_key(
            key, context=context, direction=direction, epoch=1, random=os.urandom, sign=self._sender.sign
        )
        receiver = release.EvaluateReceiver(
            context=context,
            direction=direction,
            epoch=1,
            values=self._ours,
            key=Key.random(os.urandom),
            peer_key=self._sender.public,
        )
        sender = release.EvaluateSender(key=key, statement=statement, charge=lambda _: None, random=os.urandom)
        return self._drive(Kind.EVALUATE, {"namespace": NAMESPACE}, sender, receiver), receiver.result

    def _release(self, key: Key, evaluation: release.Evaluation) -> int:
        definition = _definition()
        bitmaps = np.where(np.arange(self._n)[:, None] % 2 == 0, 0xC0, 0x80).astype(np.uint8)
        prf = oprf.prf(self._place("release")[0], self._theirs, key)
        records = {NAMESPACE: membership.seal(prf, bitmaps, feed=definition.feed, version=1, revision=1)}
        announced = release.manifest(
            definition,
            records,
            revision=1,
            full=True,
            evaluated={NAMESPACE: self._n},
            publics={NAMESPACE: key.public},
            previous=NO_RECEIPT,
            made=1,
        )
        sender = release.ReleaseSender(
            connection=bytes(16),
            manifest=announced,
            records=records,
            peer_key=self._receiver.public,
            sign=self._sender.sign,
        )
        receiver = release.ReleaseReceiver(
            connection=bytes(16),
            definition=definition,
            lookup={NAMESPACE: release.Lookup(evaluation.prf, key.public, self._n)},
            last_revision=0,
            previous={NO_RECEIPT},
            peer_key=self._sender.public,
            sign=self._receiver.sign,
        )
        subject: dict[str, str | bytes | int] = {"feed": definition.feed, "version": 1, "revision": 1}
        wire = self._drive(Kind.RELEASE, subject, sender, receiver)
        assert len(receiver.result.members[NAMESPACE][0]) == self._n // 2
        return wire

    def _drive(self, kind: Kind, subject: dict[str, str | bytes | int], client: Role, server: Role) -> int:
        """Run an exchange; return the bytes of its chunks."""
        opening = Opening(
            exchange=bytes(16),
            kind=kind,
            part=client.part,
            connection=bytes(16),
            agreement=bytes(32),
            epoch=1,
            subject=subject,
            nonce=bytes(32),
        )
        opened = Opened(exchange=bytes(16), epoch=1, nonce=bytes(32))
        caller, callee = (Machine(opening, opened, role, {}) for role in (client, server))
        wire = 0
        while not isinstance(action := caller.next(), Done):
            giver, taker = (caller, callee) if isinstance(action, Send) else (callee, caller)
            body = giver.get(*action)
            wire += len(body)
            taker.put(*action, body)
            if giver is caller:
                caller.sent(*action)
        return wire

    def _place(self, protocol: str) -> tuple[bytes, bytes]:
        first, second = self._sender.fingerprint, self._receiver.fingerprint
        where = context(protocol=protocol, from_key=first, to_key=second, connection=bytes(16), namespace=NAMESPACE)
        return where, first + second

    @contextmanager
    def _phase(self, name: str) -> Iterator[Phase]:
        self._meter.reset()
        before = self._meter.read()
        phase = Phase(part="one process", n=self._n, name=name, cpu=0, curve=0, wall=0, wire=0)
        yield phase
        after = self._meter.read()
        phase.cpu, phase.curve, phase.wall = (
            after.cpu - before.cpu,
            after.curve - before.curve,
            after.wall - before.wall,
        )
        phase.peaks = {"both": after.peak}
        self.phases.append(phase)


def _people(first: int, n: int) -> Values:
    digests = [hashlib.sha256(_email(number).encode()).digest() for number in range(first, first + n)]
    return Values(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))


def _email(number: int) -> str:
    return f"person.{number}@example.com"


def _definition() -> Definition:
    return Definition(
        feed=bytes(range(16)),
        version=1,
        name="benchmark",
        description="",
        segments=tuple(SegmentRef(id=bytes([place]) * 16, name=name) for place, name in enumerate(ALL_SEGMENTS)),
        namespaces=(NAMESPACE,),
        restricted_uses=(),
        created=1,
    )


# Two nodes


class Service:
    """A side's service as a child process, behind a relay."""

    def __init__(self, side: Side, port: int, pinned: int | None) -> None:
        self._process = subprocess.Popen(
            [
                *([] if pinned is None else ["taskset", "-c", str(pinned)]),
                *(sys.executable, "-m", "benchmarks.served"),
                *("--listen", f"127.0.0.1:{port}", "--home", str(side.home)),
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

    def __init__(self, n: int, folder: Path, *, pin: bool) -> None:
        self._n, self._folder, self._pin = n, folder, pin
        self._sender, self._receiver = (Side(name, folder, show=False) for name in ("retailer", "publisher"))
        self._sides = {"sender": self._sender, "receiver": self._receiver}
        self.phases: list[Phase] = []

    def run(self) -> list[Phase]:
        ports = dict(zip(self._sides, _free_ports(2), strict=True))
        self._relays = {name: Relay(port) for name, port in ports.items()}
        for name, side in self._sides.items():
            address, listen = f"127.0.0.1:{self._relays[name].port}", f"127.0.0.1:{ports[name]}"
            side.run("node", "init", "--org", f"{side.name.title()} Ltd", "--address", address, "--listen", listen)
        self._load()
        pins = (0, 1) if self._pin else (None, None)
        self._services = {
            name: Service(side, ports[name], pin) for (name, side), pin in zip(self._sides.items(), pins, strict=True)
        }
        try:
            self._connect()
            sender, receiver = self._sender, self._receiver
            with self._phases("count"):
                rows = sender.run("feed", "estimate", "benchmark")
            assert rows[0]["status"] == "ok"
            sender.run("feed", "publish", "benchmark")
            _until(receiver, ("feed", "list"), lambda feeds: bool(feeds["received"]))
            receiver.run("feed", "enable", "benchmark")
            _until(sender, ("feed", "list"), lambda feeds: feeds["shared"][0]["partners"]["publisher"] == "enabled")
            with self._phases("evaluate", until="release", then="release"):
                sender.run("feed", "sync", "benchmark")
            found = receiver.run("feed", "show", "benchmark")["members"]
            assert found["everyone"] == self._n // 2, found
            with self._phases("nothing new"):
                sender.run("feed", "sync", "benchmark")
        finally:
            for service in self._services.values():
                service.stop()
            for relay in self._relays.values():
                relay.close()
        return self.phases

    def _load(self) -> None:
        for side, first in ((self._sender, 0), (self._receiver, self._n // 2)):
            file = self._folder / f"{side.name}.csv"
            rows = (f"{number},{_email(number)},{number % 2}\n" for number in range(first, first + self._n))
            file.write_text("id,email,half\n" + "".join(rows))
            side.run("consent", "model", "opt-out")
            side.run(
                *("profile", "import", str(file), "--dataset", "people", "--id", "id"),
                *("--identity", "email=email_sha256", "--attribute", "half"),
            )
        self._sender.run("segment", "create", "everyone", "--rule", "half >= 0")
        self._sender.run("segment", "create", "half", "--rule", "half = 0")

    def _connect(self) -> None:
        sender, receiver = self._sender, self._receiver
        connect_id = receiver.run("partner", "id")["connect_id"]
        sender.run("partner", "request", connect_id, "--as", "publisher", "--yes")
        receiver.run("partner", "accept", "retailer-ltd")
        _until(sender, ("partner", "list"), lambda rows: rows[0]["status"] == "active")
        segments = [word for name in ALL_SEGMENTS for word in ("--segment", name)]
        sender.run("feed", "create", "benchmark", *segments, "--partner", "publisher", "--namespace", "email_sha256")

    @contextmanager
    def _phases(self, name: str, *, until: str = "", then: str = "") -> Iterator[None]:
        """Measure a phase; where the sender begins an exchange of the kind `until`, the phase `then` begins."""
        marks = [self._mark(name, reset=True)]
        commands = _children_cpu()
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
        for place, (before, after) in enumerate(zip(marks, marks[1:], strict=False)):
            last = place == len(marks) - 2
            spent = _children_cpu() - commands if last else 0.0  # the command: its CPU is none of the curve's
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
                    peaks={each: b.peak for each, (_, b) in pairs.items()},
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


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# The table


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
        peaks=peaks,
    )


def _print(phases: Sequence[Phase]) -> None:
    head = ("part", "n", "phase", "CPU s", "not curve", "wall s", "MB on the wire", "peak MiB")
    rows = [
        (
            phase.part,
            f"{phase.n:,}",
            phase.name,
            f"{phase.cpu:.1f}",
            f"{phase.other:.1%}",
            f"{phase.wall:.1f}",
            f"{phase.wire / 1e6:.2f}",
            ", ".join(f"{name} {peak / MIB:.0f}" for name, peak in phase.peaks.items()),
        )
        for phase in phases
    ]
    print("| " + " | ".join(head) + " |")
    print("| --- | --: | --- | --: | --: | --: | --: | --- |")
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
