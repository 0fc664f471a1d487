"""Jobs run the moment they are queued, by whichever process; a ring that is missed costs no more than the safety look."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from node.access.scope import Scope
from node.node import Node
from node.operations import jobs, workers
from node.operations.jobs import Job, Jobs, Progress

WAIT = 60.0  # for what takes a moment
NEVER = 3_600.0
QUEUE = """
import sys
from pathlib import Path
from node.node import Node
with Node.open(Path(sys.argv[1])) as node:
    node.jobs.submit("work", {}, node.project().scope)
"""
CLAIM_AND_DIE = (
    QUEUE
    + """
    node.jobs.claim_next()
    print("claimed", flush=True)
    sys.stdin.read()
"""
)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the job has run."""
    done = threading.Event()

    def work(scope: Scope, parameters: dict[str, Any], progress: Progress) -> None:
        done.set()

    monkeypatch.setattr(jobs, "HANDLERS", {"work": work})
    return done


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a worker has looked for a job and found none."""
    looked, claim_next = threading.Event(), Jobs.claim_next

    def claim(self: Jobs) -> Job | None:
        job = claim_next(self)
        if job is None:
            looked.set()
        return job

    monkeypatch.setattr(Jobs, "claim_next", claim)
    return looked


@contextmanager
def working(node: Node, looked: threading.Event, *, seconds: float) -> Iterator[None]:
    """Have a worker that has found no job, and the bell; the safety look comes after so many seconds."""
    node.home.bell.seconds = seconds
    stop = threading.Event()
    worker = threading.Thread(target=node.home.guard.as_itself(partial(workers.run_jobs, node.home, stop)))
    with node.home.bell.serving():
        worker.start()
        try:
            assert looked.wait(WAIT)
            yield
        finally:
            stop.set()
            node.home.bell.ring()
            worker.join(WAIT)
    assert not worker.is_alive()


def test_a_job_that_another_process_queues_starts_without_a_look(
    either_node: Node, done: threading.Event, looked: threading.Event
) -> None:
    with working(either_node, looked, seconds=NEVER):
        subprocess.run([sys.executable, "-c", QUEUE, str(either_node.home.path)], check=True)
        assert done.wait(WAIT)


def test_a_job_that_this_process_queues_starts_without_a_look(
    either_node: Node, done: threading.Event, looked: threading.Event
) -> None:
    with working(either_node, looked, seconds=NEVER):
        either_node.jobs.submit("work", {}, either_node.project().scope)
        assert done.wait(WAIT)


def test_a_missed_ring_costs_no_more_than_the_safety_look(
    either_node: Node, done: threading.Event, looked: threading.Event
) -> None:
    either_node.home.database.committed = lambda _tables: None  # as where a process is killed after its commit
    with working(either_node, looked, seconds=0.2):
        either_node.jobs.submit("work", {}, either_node.project().scope)
        assert done.wait(WAIT)


def test_a_job_of_a_process_that_dies_is_taken_over_without_a_ring(
    either_node: Node, done: threading.Event, looked: threading.Event
) -> None:
    command = [sys.executable, "-c", CLAIM_AND_DIE, str(either_node.home.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        with working(either_node, looked, seconds=NEVER):
            other.kill()
            other.wait()
            assert done.wait(WAIT)
