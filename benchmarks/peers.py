"""What an intersection costs here and with the peers: CPU, wall, bytes on the wire, memory, on the same inputs.

    python -m benchmarks.peers --n 1048576 [--only vesica rr22 ...] [--environment FOLDER] [--json]

Every peer gets the same two files of e-mails, half of them in common, and runs as two processes on this machine with a
relay between them that counts the bytes; one peer after the other. First two equal sets, once: a file in, the e-mails in
common out (for the count, their number). Then a small set against a large one that was prepared before. Every result is
compared with the plain intersection of the files. CPU is user and system time of both parties, all threads; interpreters
that start and modules that load are in no figure. Compare CPU, not wall, on a machine that does other things too.

The peers live in a virtual environment of their own (the first run makes it, with pip). One that cannot be installed, or
does not run on this machine, has a row that says so. `benchmarks/README.md` has a table.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cli.demo import DemoFailed
from protocol.estimate import MAX_ASKED
from psi import kernel

from .meter import MIB
from .peer_sides import side
from .peer_sides.environment import Environment, Unavailable, default_folder
from .peer_sides.nodes import PreparedNodes
from .peer_sides.pair import Cost, Pair, Party

SMALLEST = 8_192  # twice the small set
SMALL = 4_096  # people of the small set
SEED = 1
SAMPLING_ERRORS = 6  # standard deviations that a count from a sample may be off
RELEASE = "release"  # the phase of ours that the peers are compared with
MATCH, NODES = OURS = ("Vesica", "Vesica, two nodes")
LISTENING_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One phase of one peer. `small` is the size of the smaller set; `ratio` is our CPU over this peer's.

    A row without a cost has a `reason` why there is none.
    """

    peer: str
    phase: str
    n: int
    small: int
    cost: Cost | None = None
    correct: bool | None = None  # None: this phase finds nothing yet
    reason: str = ""
    ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        document = {key: value for key, value in asdict(self).items() if key != "cost"}
        figures = (
            {} if self.cost is None else {key: value for key, value in asdict(self.cost).items() if key != "found"}
        )
        return {**document, **figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The files of both parties, each in an order of its own: `ours` of who learns the result, `theirs` of the other.

    `small` takes the place of `ours` where sets differ in size.
    """

    n: int
    folder: Path
    ours: Path
    theirs: Path
    small: Path
    common: frozenset[str]
    small_common: frozenset[str]

    @classmethod
    def make(cls, n: int, folder: Path) -> "Inputs":
        order, half = random.Random(SEED), SMALL // 2
        sets = {"theirs": range(n), "ours": range(n // 2, n // 2 + n), "small": range(n - half, n + half)}
        files = {}
        for name, numbers in sets.items():
            emails = [email(number) for number in numbers]
            order.shuffle(emails)
            files[name] = Path(side.write(str(folder / f"{name}.csv"), emails))
        common, small_common = (
            frozenset(email(number) for number in sets["theirs"] if number in sets[name]) for name in ("ours", "small")
        )
        return cls(n=n, folder=folder, common=common, small_common=small_common, **files)


def email(number: int) -> str:
    return f"person.{number}@example.com"


def _same(found: str, common: frozenset[str]) -> bool:
    """Compare a file of e-mails, one a line behind a heading, with what must be in it."""
    emails = [line.strip('"') for line in side.read(found)]
    return len(emails) == len(common) and frozenset(emails) == common


class Contests:
    """One method for each peer, which takes the peer's name and returns its rows. Raises Unavailable."""

    def __init__(self, inputs: Inputs, environment: Environment) -> None:
        self._inputs, self._environment = inputs, environment
        self._n, self._folder = inputs.n, inputs.folder

    # Two equal sets, once

    def vesica(self, name: str) -> list[Row]:
        found = []
        for phase in ("count", RELEASE):
            with Pair("match", Path(sys.executable), self._new_folder(), ("listener", "dialler")) as pair:
                listener, dialler = pair.parties
                arguments = {"path": str(self._inputs.ours), "document": str(dialler.folder / "document")}
                if phase == RELEASE:
                    arguments["target"] = str(dialler.folder / "found.csv")
                cost = pair.run(
                    ("listen", phase),
                    {
                        "path": str(self._inputs.theirs),
                        "document": str(listener.folder / "document"),
                        "port": pair.ports[0],
                        "address": f"127.0.0.1:{pair.relays[0]}",
                        "members": phase == RELEASE,
                    },
                    partial(_dialling, arguments, listener),
                )
                answer = cost.found["dialler"]
                correct = self._counted(int(answer)) if phase == "count" else _same(str(answer), self._inputs.common)
            found.append(self._row(name, phase, cost, correct))
        return found

    def _counted(self, overlap: int) -> bool:
        """Say whether a count is right; that of a large set is scaled up from a sample of it."""
        share = 1 if self._n <= MAX_ASKED else self._n / MAX_ASKED
        deviation = 0.0 if share == 1 else share * MAX_ASKED**0.5 / 2
        return abs(overlap - self._n // 2) <= SAMPLING_ERRORS * deviation

    def openmined(self, name: str) -> list[Row]:
        with self._openmined_pair() as pair:
            target = str(pair.parties[1].folder / "found.csv")
            server = {"path": str(self._inputs.theirs), "clients": self._n}
            cost = pair.run("run", server, {"path": str(self._inputs.ours), "target": target})
            return [self._row(name, "run", cost, _same(target, self._inputs.common))]

    def secretflow(self, name: str, protocol: str, curve: str = "") -> list[Row]:
        with self._secretflow_pair("receiver", "sender") as pair:
            arguments: list[dict[str, Any]] = []
            for party, path in zip(pair.parties, (self._inputs.ours, self._inputs.theirs), strict=True):
                own = {"path": str(path), "target": str(party.folder / "found.csv")}
                arguments.append({**own, **_place(pair, len(arguments)), "protocol": protocol, "curve": curve})
            cost = pair.run("run", *arguments)
            return [self._row(name, "run", cost, _same(arguments[0]["target"], self._inputs.common))]

    # A small set against a prepared one

    def prepared_nodes(self, name: str) -> list[Row]:
        nodes = PreparedNodes(self._new_folder())
        strangers = [email(2 * self._n + number) for number in range(SMALL)]
        found = nodes.run(side.read(str(self._inputs.theirs)), strangers, side.read(str(self._inputs.small)))
        right = found == len(self._inputs.small_common)
        return [
            self._row(name, phase, cost, right if phase == "online" else None, SMALL)
            for phase, cost in nodes.costs.items()
        ]

    def prepared_openmined(self, name: str) -> list[Row]:
        with self._openmined_pair() as pair:
            target = str(pair.parties[1].folder / "found.csv")
            prepare = pair.run("prepare", {"path": str(self._inputs.theirs), "clients": SMALL}, {})
            online = pair.run("online", {}, {"path": str(self._inputs.small), "target": target})
            return self._both(name, prepare, online, _same(target, self._inputs.small_common))

    def prepared_secretflow(self, name: str) -> list[Row]:
        with self._secretflow_pair("server", "client") as pair:
            files = (self._inputs.theirs, self._inputs.small)
            own: list[dict[str, Any]] = [
                {"path": str(path), "server": path == self._inputs.theirs, "folder": str(party.folder)}
                for party, path in zip(pair.parties, files, strict=True)
            ]
            prepare = pair.run("prepare", *({**each, **_place(pair, rank)} for rank, each in enumerate(own)))
            targets = [str(party.folder / "found.csv") for party in pair.parties]
            online = pair.run(
                "online", *({**each, "target": target} for each, target in zip(own, targets, strict=True))
            )
            return self._both(name, prepare, online, _same(targets[1], self._inputs.small_common))

    def _both(self, name: str, prepare: Cost, online: Cost, correct: bool) -> list[Row]:
        return [self._row(name, "prepare", prepare, None, SMALL), self._row(name, "online", online, correct, SMALL)]

    def _row(self, name: str, phase: str, cost: Cost, correct: bool | None, small: int | None = None) -> Row:
        return Row(peer=name, phase=phase, n=self._n, small=small or self._n, cost=cost, correct=correct)

    def _openmined_pair(self) -> Pair:
        python = self._environment.python_with("openmined-psi")
        return Pair("openmined", python, self._new_folder(), ("server", "client"), roles=True)

    def _secretflow_pair(self, first: str, second: str) -> Pair:
        return Pair("secretflow", self._environment.python_with("spu"), self._new_folder(), (first, second))

    def _new_folder(self) -> Path:
        return self._folder / f"pair{len(list(self._folder.iterdir()))}"


def _place(pair: Pair, rank: int) -> dict[str, Any]:
    """Return where a party listens, and where it finds the other one: behind that one's relay."""
    ports = [pair.ports[each] if each == rank else pair.relays[each] for each in (0, 1)]
    return {"rank": rank, "hosts": [f"127.0.0.1:{port}" for port in ports]}


def _dialling(arguments: dict[str, Any], listener: Party) -> dict[str, Any]:
    """Add the Connect ID that a listener prints once it has read its file."""
    for _ in range(LISTENING_SECONDS * 100):
        for line in listener.log.read_text().splitlines():
            if line.startswith("vesica1"):
                return {**arguments, "connect_id": line}
        if listener.replied():
            raise Unavailable(f"the listener did not listen: {listener.reply(0)}")
        time.sleep(0.01)
    raise Unavailable("the listener printed no Connect ID")


# By the name that --only takes: the peer's name in the table, and what runs it.
CONTESTS: dict[str, tuple[str, Callable[[Contests, str], list[Row]]]] = {
    "vesica": (MATCH, Contests.vesica),
    "openmined": ("OpenMined, P-256, GCS", Contests.openmined),
    "ecdh": ("SecretFlow, ECDH, Curve25519", partial(Contests.secretflow, protocol="ECDH", curve="25519")),
    "fourq": ("SecretFlow, ECDH, FourQ", partial(Contests.secretflow, protocol="ECDH", curve="FOURQ")),
    "kkrt": ("SecretFlow, KKRT", partial(Contests.secretflow, protocol="KKRT")),
    "rr22": ("SecretFlow, RR22", partial(Contests.secretflow, protocol="RR22")),
    "vesica-prepared": (NODES, Contests.prepared_nodes),
    "openmined-prepared": ("OpenMined, P-256, GCS", Contests.prepared_openmined),
    "secretflow-prepared": ("SecretFlow, unbalanced ECDH-OPRF", Contests.prepared_secretflow),
}


def _run(chosen: Sequence[str], n: int, environment: Environment) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vesica-peers-") as folder:
        contests = Contests(Inputs.make(n, Path(folder)), environment)
        for chosen_name in chosen:
            name, contest = CONTESTS[chosen_name]
            print(f"running {chosen_name}", file=sys.stderr)
            try:
                found = contest(contests, name)
            except (Unavailable, DemoFailed, OSError, subprocess.SubprocessError) as error:
                small, phase = (SMALL, "online") if chosen_name.endswith("-prepared") else (n, "run")
                found = [Row(peer=name, phase=phase, n=n, small=small, reason=str(error))]
            for row in found:  # a large run takes long
                print(f"  {row.phase}: {row.reason or row.cost}", file=sys.stderr)
            rows += found
    return _with_ratios(rows)


def _with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Set our CPU in relation to that of every row: our release to a run, our prepared phase to the same phase.

    Peers read the large file as they prepare, so our import of it counts as part of that.
    """
    ours = {(row.small, row.phase): row.cost.cpu for row in rows if row.peer in OURS and row.cost}
    for small, phase in list(ours):
        if phase == "import":
            ours[small, "prepare"] += ours.pop((small, phase))
    result = []
    for row in rows:
        spent = ours.get((row.small, RELEASE if row.small == row.n else row.phase))
        if spent is None or row.cost is None or row.peer in OURS:
            result.append(row)
        else:
            result.append(replace(row, ratio=spent / row.cost.cpu))
    return result


def _print(rows: Sequence[Row]) -> None:
    print("| peer | sets | phase | CPU s | ours / theirs | wall s | MB on the wire | peak MiB | result |")
    print("| --- | --- | --- | --: | --: | --: | --: | --- | --- |")
    for row in rows:
        sets = f"{row.n:,}" if row.small == row.n else f"{row.n:,} : {row.small:,}"
        if row.cost is None:
            print(f"| {row.peer} | {sets} | {row.phase} | | | | | | {row.reason} |")
            continue
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        peaks = ", ".join(f"{name} {peak / MIB:.0f}" for name, peak in row.cost.peaks.items())
        result = {True: "right", False: "wrong", None: ""}[row.correct]
        figures = f"{row.cost.cpu:.2f} | {ratio} | {row.cost.wall:.1f} | {row.cost.wire / 1e6:.2f} | {peaks}"
        print(f"| {row.peer} | {sets} | {row.phase} | {figures} | {result} |")


def _machine() -> dict[str, Any]:
    """Return what the figures depend on: the processor as lscpu names it, and whether it has AVX-512 IFMA."""
    try:
        said = subprocess.run(["lscpu", "--json"], capture_output=True, text=True, check=True).stdout
        fields = {each["field"].rstrip(":"): each["data"] for each in json.loads(said)["lscpu"]}
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError):
        fields = {}
    return {
        "processor": fields.get("Model name", platform.machine()),
        "family": f"{fields.get('CPU family', '?')}/{fields.get('Model', '?')}",
        "ifma": "avx512ifma" in fields.get("Flags", "").split(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": kernel.name(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_048_576, help="e-mails a side")
    parser.add_argument(
        "--only", nargs="+", choices=CONTESTS, default=CONTESTS, metavar="PEER", help=", ".join(CONTESTS)
    )
    parser.add_argument("--environment", type=Path, default=default_folder(), help="where the peers are installed")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if options.n < SMALLEST:
        parser.error(f"--n is at least {SMALLEST:,}")
    rows = _run(list(dict.fromkeys(options.only)), options.n, Environment(options.environment))
    machine = _machine()
    if options.json:
        print(json.dumps({**machine, "rows": [row.as_dict() for row in rows]}, indent=2))
    else:
        print(", ".join(f"{key} {value}" for key, value in machine.items()) + "\n")
        _print(rows)
    if any(row.correct is False for row in rows):
        sys.exit("a result is not the plain intersection of the files")


if __name__ == "__main__":
    main()
