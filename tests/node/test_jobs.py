import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from node.errors import JobFailed, NotFound, Refused
from node.node import Node
from node.operations import jobs

SERVE = """
import sys
from pathlib import Path
from node.operations.jobs import service_lock
with service_lock(Path(sys.argv[1])) as other:
    print(other, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    monkeypatch.setattr(jobs, "HANDLERS", {"sum": _sum, "refuse": _refuse, "break": _break, "stop": _stop})
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.02)


def _sum(project, parameters, progress):
    progress("adding", 1, 2)
    return {"sum": sum(parameters["numbers"]), "project": project.name}


def _refuse(project, parameters, progress):
    raise Refused("not allowed", hint="ask first")


def _break(project, parameters, progress):
    raise ValueError("ann@x.com")


def _stop(project, parameters, progress):
    raise KeyboardInterrupt


def test_a_job_runs_here_and_is_kept(either_node):
    shown = []
    result = either_node.jobs.run("sum", {"numbers": [1, 2]}, either_node.project(), lambda *each: shown.append(each))
    assert result == {"sum": 3, "project": "default"}
    assert shown == [("adding", 1, 2)]
    [job] = either_node.jobs.list(either_node.project())
    assert (job.kind, job.state, job.result) == ("sum", "done", result)
    assert either_node.jobs.show(job.id) == job
    with pytest.raises(NotFound):
        either_node.jobs.show("nothing")


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("refuse", Refused, "refused"),
        ("break", ValueError, "internal"),
        ("stop", KeyboardInterrupt, "interrupted"),
        ("unknown", Exception, "failed"),
    ],
)
def test_an_error_is_raised_and_kept_without_data(either_node, kind, error, code):
    with pytest.raises(error):
        either_node.jobs.run(kind, {}, either_node.project())
    [job] = either_node.jobs.list(state="failed")
    assert job.error["code"] == code
    assert "ann@x.com" not in str(job.as_dict())


def test_with_a_service_the_job_is_queued_and_followed(either_node, monkeypatch):
    monkeypatch.setattr(jobs, "serving", lambda _home: True)
    with Node.open(either_node.home, now=either_node.now) as service:
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
            result = either_node.jobs.run("sum", {"numbers": [4]}, either_node.project())
            assert result["sum"] == 4
            with pytest.raises(JobFailed, match="not allowed") as caught:
                either_node.jobs.run("refuse", {}, either_node.project())
            assert (caught.value.code, caught.value.hint) == ("refused", "ask first")
        finally:
            stop.set()
            thread.join()


def test_a_job_is_taken_over_when_the_service_goes(either_node, monkeypatch):
    monkeypatch.setattr(jobs, "serving", lambda _home: False)
    job_id = either_node.jobs.submit("sum", {"numbers": [1]}, either_node.project())
    assert either_node.jobs.show(job_id).state == "queued"
    assert either_node.jobs.wait(job_id)["sum"] == 1


def test_a_job_of_who_is_not_heard_of_is_claimed_again_when_its_lease_is_over(either_node, clock):
    with Node.open(either_node.home, now=clock) as hanging:
        hanging.jobs.submit("sum", {"numbers": [7]}, hanging.project())
        job = hanging.jobs.claim_next()
        assert either_node.jobs.claim_next() is None
        clock.advance(seconds=jobs.LEASE_SECONDS)
        assert either_node.jobs.claim_next() is None
        clock.advance(seconds=1)
        again = either_node.jobs.claim_next()
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


def test_a_killed_job_is_claimed_again_at_once(node):
    job_id = node.jobs.submit("sum", {"numbers": [7]}, node.project())
    command = [sys.executable, "-c", CLAIM, str(node.home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == f"{job_id}\n"
        assert node.jobs.claim_next() is None
    assert other.returncode == -signal.SIGKILL
    assert node.jobs.claim_next().id == job_id
    assert len(list((node.home / "owners").iterdir())) == 1


def test_jobs_with_one_partner_run_one_at_a_time(either_node):
    project = either_node.project()
    first, second = (either_node.jobs.submit("sum", {"numbers": [], "connection": "c"}, project) for _ in range(2))
    elsewhere = either_node.jobs.submit("sum", {"numbers": [], "connection": "d"}, project)
    claimed = [either_node.jobs.claim_next() for _ in range(2)]
    assert [job.id for job in claimed] == [first, elsewhere]
    assert either_node.jobs.claim_next() is None
    for job in claimed:
        either_node.jobs.execute(job)
    assert either_node.jobs.claim_next().id == second


def test_who_lost_the_lease_does_not_write_the_result(either_node, clock):
    with Node.open(either_node.home, now=clock) as slow:
        slow.jobs.submit("sum", {"numbers": [1]}, slow.project())
        job = slow.jobs.claim_next()
        clock.advance(seconds=jobs.LEASE_SECONDS + 1)
        either_node.jobs.claim_next()
        slow.jobs.execute(job)
        assert either_node.jobs.show(job.id).state == "running"


def test_a_job_is_queued_with_the_act_that_wants_it(either_node):
    project = either_node.project()
    with suppress(Refused), project.act("feed.sync", "x") as tx:
        either_node.jobs.submit("sum", {}, project, tx)
        raise Refused("no")
    assert either_node.jobs.list() == []
    with project.act("feed.sync", "x") as tx:
        job_id = either_node.jobs.submit("sum", {}, project, tx)
    assert either_node.jobs.claim_next().id == job_id


def test_a_job_has_one_taker(either_node):
    for _ in range(4):
        either_node.jobs.submit("sum", {"numbers": []}, either_node.project())
    taken = []

    def take(node: Node) -> None:
        while job := node.jobs.claim_next():
            taken.append(job.id)

    with Node.open(either_node.home, now=either_node.now) as other:
        threads = [threading.Thread(target=take, args=(node,)) for node in (either_node, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(taken) == len(set(taken)) == 4


def test_the_lease_is_kept_while_a_job_runs(node, clock, monkeypatch):
    running, finish = threading.Event(), threading.Event()

    def slow(project, parameters, progress):
        progress("slowly", 1, None)
        running.set()
        finish.wait(10)

    jobs.HANDLERS["slow"] = slow
    thread = threading.Thread(target=node.jobs.run, args=("slow", {}, node.project()))
    thread.start()
    running.wait(10)
    clock.advance(seconds=jobs.LEASE_SECONDS - 10)
    [job] = node.jobs.list()
    while not (job.progress and job.changed == clock.now):
        time.sleep(0.01)
        [job] = node.jobs.list()
    assert job.progress == {"what": "slowly", "done": 1, "total": None}
    clock.advance(seconds=20)
    assert node.jobs.claim_next() is None
    finish.set()
    thread.join()
    assert node.jobs.show(job.id).state == "done"


def test_one_service_holds_a_home(home, node):
    assert not jobs.serving(home)
    command = [sys.executable, "-c", SERVE, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout.readline() == "None\n"
        assert jobs.serving(home)
        with jobs.service_lock(home) as pid:
            assert pid == service.pid
        service.kill()
    assert not jobs.serving(home)
    with jobs.service_lock(home) as pid:
        assert pid is None
