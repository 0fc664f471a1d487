"""Processes of a node that can be killed: forked from one that has imported everything, so that they start at once."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import killer

from node.access.guard import OPERATOR
from node.errors import PeerUnreachable
from node.feeds.sending.edits import Addition, Removal
from node.node import Node
from node.partners.delivery import POLL_SECONDS
from node.service import serve

FORKS = multiprocessing.get_context("forkserver")
WAIT = 120.0  # seconds, for what takes one or two
LOOK = 0.2  # seconds between a person's looks
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
        [
            __name__,
            "node.transport.client",
            "node.exchanges.answering",
            "node.feeds.estimates.asking",
            "node.feeds.estimates.callers",
            "node.feeds.sending.releases",
            "duckdb",
        ]
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


def share(life: Life, feed: str, edit: Removal | Addition | None) -> None:
    """Do what the sender's people do: edit the feed if it is not done yet, wait until the partner has accepted what is
    added, and run it."""
    places = _begin(life)
    with Node.open(life.home) as node:
        project = node.project()
        if edit is not None and project.feeds.get(feed).version == 1:
            if isinstance(edit, Addition):
                project.feeds.edit(feed, addition=edit)
            else:
                project.feeds.edit(feed, edit)
        node.sync()
        try:
            if isinstance(edit, Addition):
                _wait_for_acceptance(node, feed)
            project.feeds.sync(feed)
        except PeerUnreachable:
            sys.exit(UNREACHABLE)
        node.sync()
    life.passed.write_text(str(places.passed))


def _wait_for_acceptance(node: Node, feed: str) -> None:
    project, until = node.project(), time.monotonic() + WAIT
    while time.monotonic() < until:
        shown = project.feeds.show(feed)
        (partner,) = shown["partners"]
        if partner["accepted_version"] == shown["version"]:
            return
        project.letters.fetch(project.partners.get(partner["alias"]), wait=POLL_SECONDS)
    raise TimeoutError("the partner does not accept")


def accept(node: Node, feed: str, over: threading.Event) -> None:
    """Do what the receiver's people do: enable what is offered, until it is over."""
    while not over.wait(LOOK):
        with node.home.guard.acting_as(OPERATOR):
            received = node.project().received
            if received.show(feed)["offered_version"] is not None:
                received.enable(feed)


def answer(life: Life, address: str, feed: str, ready: Connection) -> None:
    """Serve, as `vesica node serve` does, until told to stop; meanwhile accept what is offered."""
    places = _begin(life)
    with Node.open(life.home) as node:
        over = threading.Event()
        people = threading.Thread(target=accept, args=(node, feed, over))
        people.start()
        try:
            serve(node.home, address, ready=lambda _: ready.send(True))
        finally:
            over.set()
            people.join()
    life.passed.write_text(str(places.passed))
