"""Processes of a node that can be killed: forked from one that has imported everything, so that they start at once."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import killer

from node.errors import PeerUnreachable
from node.feeds import Removal
from node.node import Node
from node.service import serve

FORKS = multiprocessing.get_context("forkserver")
WAIT = 120.0  # seconds, for what takes one or two
KILLED = -signal.SIGKILL
UNREACHABLE = 75  # the exit code where the partner was away for too long


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A home, the place to die at (0: nowhere), where to note what was promised, and how far it came."""

    home: Path
    last: int
    promises: Path

    @property
    def temporary(self) -> Path:
        return self.home.parent / f"{self.home.name}-tmp"

    @property
    def passed(self) -> Path:
        return self.home.parent / f"{self.home.name}-passed"


def warm() -> None:
    """Start the process that the others are forked from, with this one's path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    FORKS.set_forkserver_preload(
        [__name__, "node.client", "node.exchanges", "node.matching", "node.releases", "duckdb"]
    )
    multiprocessing.forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def _begin(life: Life) -> killer.Places:
    life.temporary.mkdir(exist_ok=True)
    tempfile.tempdir = str(life.temporary)

    def promised(act: str, target: str) -> None:
        with life.promises.open("a") as file:
            file.write(f"{act} {target}\n")

    killer.acted(promised)
    return killer.arm(f"any - {life.last}")


def share(life: Life, feed: str, removal: Removal | None) -> None:
    """Do what the sender's people do: edit the feed if it is not done yet, and run it."""
    places = _begin(life)
    with Node.open(life.home) as node:
        project = node.project()
        if removal is not None and project.feeds.get(feed).version == 1:
            project.feeds.edit(feed, removal)
        node.exchange_letters()
        try:
            project.feeds.sync(feed)
        except PeerUnreachable:
            sys.exit(UNREACHABLE)
        node.exchange_letters()
    life.passed.write_text(str(places.passed))


def answer(life: Life, address: str, ready: Connection) -> None:
    """Serve, as `vesica node serve` does, until told to stop."""
    places = _begin(life)
    with Node.open(life.home) as node:
        serve(node, address, ready=lambda _: ready.send(True))
    life.passed.write_text(str(places.passed))
