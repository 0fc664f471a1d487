"""A large prepared set against a small new one between two nodes: what the services keep, and what new people cost.

The sender keeps F of its identities for the length of an epoch, and the receiver the sealed records. So the first
`feed sync` prepares, with strangers on the receiver's side (a feed is enabled by a universe that may be matched). Then
people are added there, and the next `feed sync` evaluates them and opens their records from those that are kept.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.demo import free_ports

from ..nodes import Service, Side
from ..relay import Relay
from . import side
from .environment import Unavailable
from .pair import Cost

FEED, SEGMENT = "benchmark", "everyone"
EVALUATIONS = "3"  # times the universe: the strangers once, the new people once
IMPORT = ("--id", "id", "--identity", "email=email_sha256")


class PreparedNodes:
    """A sender of `large` people; a receiver of `strangers` to whom the people of `new` come."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._sender, self._receiver = (Side(name, folder, show=False) for name in ("sender", "receiver"))
        self._sides = {"sender": self._sender, "receiver": self._receiver}
        self.costs: dict[str, Cost] = {}

    def run(self, large: Sequence[str], strangers: Sequence[str], new: Sequence[str]) -> int:
        """Fill `costs` by phase; return how many of `new` were found."""
        ports = dict(zip(self._sides, free_ports(2), strict=True))
        self._relays = {name: Relay(port) for name, port in ports.items()}
        for name, each in self._sides.items():
            address, listen = f"127.0.0.1:{self._relays[name].port}", f"127.0.0.1:{ports[name]}"
            each.run("node", "init", "--org", f"{name.title()} Ltd", "--address", address, "--listen", listen)
            each.run("project", "terms", "--evaluations", EVALUATIONS, "--yes")
            each.run("consent", "model", "opt-out")
        with self._commands("import"):
            self._add(self._sender, "people", large, "--attribute", "shared")
        self._add(self._receiver, "strangers", strangers)
        self._services = {name: Service(each, ports[name], None) for name, each in self._sides.items()}
        try:
            self._connect()
            with self._phase("prepare"):
                self._sender.run("feed", "sync", FEED)
            before = self._found()
            self._add(self._receiver, "new", new)
            with self._phase("online"):
                self._sender.run("feed", "sync", FEED)
            return self._found() - before
        finally:
            for service in self._services.values():
                service.stop()
            for relay in self._relays.values():
                relay.close()

    def _add(self, to: Side, dataset: str, emails: Sequence[str], *more: str) -> None:
        file = self._folder / f"{dataset}.csv"
        rows = (f"{dataset}-{number},{email},1\n" for number, email in enumerate(emails))
        file.write_text(f"id,{side.HEAD},shared\n" + "".join(rows))
        to.run("profile", "import", str(file), "--dataset", dataset, *IMPORT, *more)

    def _connect(self) -> None:
        sender, receiver = self._sender, self._receiver
        sender.run("segment", "create", SEGMENT, "--rule", "shared = 1")
        sender.run("partner", "request", receiver.run("partner", "id")["connect_id"], "--as", "receiver", "--yes")
        receiver.run("partner", "accept", "sender-ltd")
        sender.until(lambda rows: rows[0]["status"] == "active", "partner", "list")
        sender.run(
            *("feed", "create", FEED, "--segment", SEGMENT, "--partner", "receiver", "--namespace", "email_sha256")
        )
        sender.run("feed", "publish", FEED)
        receiver.until(lambda feeds: bool(feeds["received"]), "feed", "list")
        receiver.run("feed", "enable", FEED)
        sender.until(lambda feeds: feeds["shared"][0]["partners"]["receiver"] == "enabled", "feed", "list")

    def _found(self) -> int:
        members: dict[str, Any] = self._receiver.run("feed", "show", FEED)["members"]
        if SEGMENT not in members:
            raise Unavailable(f"the receiver has no {SEGMENT}")
        return int(members[SEGMENT])

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Measure the two services; the command that asks for the work is a program that starts, as in no other row."""
        before = {each: service.read(reset=True) for each, service in self._services.items()}
        wire, started = self._wire(), time.perf_counter()
        yield
        after = {each: service.read() for each, service in self._services.items()}
        self.costs[name] = Cost(
            cpu=sum(after[each].cpu - before[each].cpu for each in after),
            wall=time.perf_counter() - started,
            wire=self._wire() - wire,
            peaks={each: reading.peak for each, reading in after.items()},
        )

    @contextmanager
    def _commands(self, name: str) -> Iterator[None]:
        """Measure commands that do the work themselves."""
        before, started = _children(), time.perf_counter()
        yield
        self.costs[name] = Cost(cpu=_children() - before, wall=time.perf_counter() - started, wire=0, peaks={})

    def _wire(self) -> int:
        return sum(relay.count for relay in self._relays.values())


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
