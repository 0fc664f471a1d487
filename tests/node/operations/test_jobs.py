import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
from clock import Clock

from node.access.scope import Scope
from node.errors import JobFailed, NotAllowed, NotFound
from node.node import Node
from node.operations import jobs
from node.operations.jobs import Job, JobState, Progress
from node.storage import locks

SERVE = """
import sys
from pathlib import Path
from typing import Any, NoReturn
from node.storage.locks import service_lock
with service_lock(Path(sys.argv[1])) as other:
    print(other, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HANDLERS", {"sum": _sum, "refuse": _refuse, "break": _break, "stop": _stop})
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.02)


def _sum(scope: Scope, parameters: dict[str, Any], progress: Progress) -> dict[str, Any]:
    progress("adding", 1, 2)
    return {"sum": sum(parameters["numbers"]), "project": scope.name}


def _refuse(scope: Scope, parameters: dict[str, Any], progress: Progress) -> NoReturn:
    raise NotAllowed("not allowed", hint="ask first")


def _break(scope: Scope, parameters: dict[str, Any], progress: Progress) -> NoReturn:
    raise ValueError("ann@x.com")


def _stop(scope: Scope, parameters: dict[str, Any], progress: Progress) -> NoReturn:
    raise KeyboardInterrupt


def claim(node: Node) -> Job:
    """Claim the next job, which there must be."""
    job = node.jobs.claim_next()
    assert job is not None
    return job


def test_a_job_runs_here_and_is_kept(either_node: Node) -> None:
    shown = []
    result = either_node.jobs.run(
        "sum", {"numbers": [1, 2]}, either_node.project().scope, lambda *each: shown.append(each)
    )
    assert result == {"sum": 3, "project": "default"}
    assert shown == [("adding", 1, 2)]
    [job] = either_node.jobs.all(either_node.project().scope)
    assert (job.kind, job.state, job.result) == ("sum", "done", result)
    assert either_node.jobs.show(job.id) == job
    with pytest.raises(NotFound):
        either_node.jobs.show("nothing")


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("refuse", NotAllowed, "refused"),
        ("break", ValueError, "internal"),
        ("stop", KeyboardInterrupt, "interrupted"),
        ("unknown", Exception, "failed"),
    ],
)
def test_an_error_is_raised_and_kept_without_data(
    either_node: Node, kind: str, error: type[BaseException], code: str
) -> None:
    with pytest.raises(error):
        either_node.jobs.run(kind, {}, either_node.project().scope)
    [job] = either_node.jobs.all(state=JobState.FAILED)
    assert job.error is not None
    assert job.error["code"] == code
    assert "ann@x.com" not in str(job.as_dict())


def test_with_a_service_the_job_is_queued_and_followed(either_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "serving", lambda _home: True)
    with Node.open(either_node.home.path, now=either_node.home.now) as service:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                job = service.jobs.claim_next()
                if job:
                    service.jobs.execute(job)
                time.sleep(0.01)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            result = either_node.jobs.run("sum", {"numbers": [4]}, either_node.project().scope)
            assert result["sum"] == 4
            with pytest.raises(JobFailed, match="not allowed") as caught:
                either_node.jobs.run("refuse", {}, either_node.project().scope)
            assert (caught.value.code, caught.value.hint) == ("refused", "ask first")
        finally:
            stop.set()
            thread.join()


def test_a_job_is_taken_over_when_the_service_goes(either_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "serving", lambda _home: False)
    job_id = either_node.jobs.submit("sum", {"numbers": [1]}, either_node.project().scope)
    assert either_node.jobs.show(job_id).state == "queued"
    assert either_node.jobs.wait(job_id)["sum"] == 1


def test_a_job_of_who_is_not_heard_of_is_claimed_again_when_its_lease_is_over(either_node: Node, clock: Clock) -> None:
    with Node.open(either_node.home.path, now=clock) as hanging:
        hanging.jobs.submit("sum", {"numbers": [7]}, hanging.project().scope)
        job = claim(hanging)
        assert either_node.jobs.claim_next() is None
        clock.advance(seconds=jobs.LEASE_SECONDS)
        assert either_node.jobs.claim_next() is None
        clock.advance(seconds=1)
        again = claim(either_node)
    assert again.id == job.id
    either_node.jobs.execute(again)
    assert either_node.jobs.show(job.id).result["sum"] == 7


CLAIM = """
import os, signal, sys
from node.node import Node
node = Node.open(sys.argv[1], now=lambda: 1_800_000_000)
print(node.jobs.claim_next().id, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_job_is_claimed_again_at_once(node: Node) -> None:
    job_id = node.jobs.submit("sum", {"numbers": [7]}, node.project().scope)
    command = [sys.executable, "-c", CLAIM, str(node.home.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == f"{job_id}\n"
        assert node.jobs.claim_next() is None
    assert other.returncode == -signal.SIGKILL
    assert claim(node).id == job_id
    assert len(list((node.home.path / "owners").iterdir())) == 1


def test_jobs_with_one_partner_run_one_at_a_time(either_node: Node) -> None:
    project = either_node.project()
    first, second = (
        either_node.jobs.submit("sum", {"numbers": [], "connection": "c"}, project.scope) for _ in range(2)
    )
    elsewhere = either_node.jobs.submit("sum", {"numbers": [], "connection": "d"}, project.scope)
    claimed = [claim(either_node) for _ in range(2)]
    assert [job.id for job in claimed] == [first, elsewhere]
    assert either_node.jobs.claim_next() is None
    for job in claimed:
        either_node.jobs.execute(job)
    assert claim(either_node).id == second


def test_who_lost_the_lease_does_not_write_the_result(either_node: Node, clock: Clock) -> None:
    with Node.open(either_node.home.path, now=clock) as slow:
        slow.jobs.submit("sum", {"numbers": [1]}, slow.project().scope)
        job = claim(slow)
        clock.advance(seconds=jobs.LEASE_SECONDS + 1)
        either_node.jobs.claim_next()
        slow.jobs.execute(job)
        assert either_node.jobs.show(job.id).state == "running"


def test_a_job_is_queued_with_the_act_that_wants_it(either_node: Node) -> None:
    project = either_node.project()
    with suppress(NotAllowed), project.scope.act("feed.sync", "x") as tx:
        either_node.jobs.submit("sum", {}, project.scope, tx)
        raise NotAllowed("no")
    assert either_node.jobs.all() == []
    with project.scope.act("feed.sync", "x") as tx:
        job_id = either_node.jobs.submit("sum", {}, project.scope, tx)
    assert claim(either_node).id == job_id


def test_a_job_has_one_taker(either_node: Node) -> None:
    for _ in range(4):
        either_node.jobs.submit("sum", {"numbers": []}, either_node.project().scope)
    taken = []

    def take(node: Node) -> None:
        while job := node.jobs.claim_next():
            taken.append(job.id)

    with Node.open(either_node.home.path, now=either_node.home.now) as other:
        threads = [threading.Thread(target=take, args=(node,)) for node in (either_node, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(taken) == len(set(taken)) == 4


def test_the_lease_is_kept_while_a_job_runs(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    running, finish = threading.Event(), threading.Event()

    def slow(scope: Scope, parameters: dict[str, Any], progress: Progress) -> None:
        progress("slowly", 1, None)
        running.set()
        finish.wait(10)

    jobs.HANDLERS["slow"] = slow
    thread = threading.Thread(target=node.jobs.run, args=("slow", {}, node.project()))
    thread.start()
    running.wait(10)
    clock.advance(seconds=jobs.LEASE_SECONDS - 10)
    [job] = node.jobs.all()
    while not (job.progress and job.changed == clock.now):
        time.sleep(0.01)
        [job] = node.jobs.all()
    assert job.progress == {"what": "slowly", "done": 1, "total": None}
    clock.advance(seconds=20)
    assert node.jobs.claim_next() is None
    finish.set()
    thread.join()
    assert node.jobs.show(job.id).state == "done"


def test_one_service_holds_a_home(home: Path, node: Node) -> None:
    assert not locks.serving(home)
    command = [sys.executable, "-c", SERVE, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "None\n"
        assert locks.serving(home)
        with locks.service_lock(home) as pid:
            assert pid == service.pid
        service.kill()
    assert not locks.serving(home)
    with locks.service_lock(home) as pid:
        assert pid is None
