"""Work that computes or talks to a partner: a row with a lease, run by the service if there is one, else here.

A job whose process was killed keeps its row. It is claimed again at once where the lock of that process is gone, else
when its lease has run out, and its handler resumes or starts cleanly. Jobs with one partner run one at a time.
"""

import fcntl
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select

from psi.errors import VesicaError

from ..access import permissions
from ..errors import Failure, JobFailed, NotFound
from ..storage.files import explained
from ..storage.tables import jobs as rows

if TYPE_CHECKING:
    from ..node import Node
    from ..project import Project

LEASE_SECONDS = 60
HEARTBEAT_SECONDS = 1.0  # how often progress is written and the lease looked after
POLL_SECONDS = 0.2
KEPT_SECONDS = 30 * 86_400  # a job that is over

Progress = Callable[[str, int, int | None], None]  # what is being done, how much of it, of how much if that is known
Handler = Callable[["Project", dict[str, Any], Progress], Any]  # returns what JSON can hold

HANDLERS: dict[str, Handler] = {}  # filled by the modules that do the work


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    id: str
    project_id: str
    kind: str
    parameters: dict[str, Any]
    submitted_by: str  # in whose name its acts are audited
    state: str  # queued, running, done, failed
    progress: dict[str, Any] | None
    result: Any
    error: dict[str, Any] | None
    created: int
    changed: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "submitted_by": self.submitted_by,
            "state": self.state,
            "progress": self.progress,
            "result": self.result,
            "error": self.error,
            "created": self.created,
            "changed": self.changed,
        }


def no_progress(_what: str, _done: int, _total: int | None) -> None:
    """Show nothing."""


class Jobs:
    def __init__(self, node: "Node") -> None:
        self._node = node
        self._owner = f"{socket.gethostname()[:32]}:{os.getpid()}:{os.urandom(4).hex()}"
        self._lock = threading.Lock()
        self._alive: Any = None  # the open file whose lock says so

    def run(
        self, kind: str, parameters: Mapping[str, Any], project: "Project", progress: Progress = no_progress
    ) -> Any:
        """Do the work and return its result, here or in the service; raises what the handler raised.

        An error in the service comes back as JobFailed with the same document.
        """
        return self.wait(self.submit(kind, parameters, project), progress)

    def submit(self, kind: str, parameters: Mapping[str, Any], project: "Project", tx: Connection | None = None) -> str:
        """Queue a job for the service, in the caller's transaction if one is given, and return its id.

        Whoever submits it needs the permission for the act that it does; when it runs nobody is asked any more.
        """
        act = permissions.JOBS.get(kind, f"job.{kind}")
        if tx is not None:
            self._node.guard.check(tx, act, project.id)
            return self._insert(tx, kind, parameters, project)
        self._node.guard.require(act, project.name, project.id, job=kind)
        with self._node.store.begin() as own:
            return self._insert(own, kind, parameters, project)

    def submit_once(self, kind: str, parameters: Mapping[str, Any], project: "Project") -> str:
        """Queue a job unless the same one waits already; returns the id of the one that waits."""
        for job in self.list(project, state="queued"):
            if (job.kind, job.parameters) == (kind, dict(parameters)):
                return job.id
        return self.submit(kind, parameters, project)

    def wait(self, job_id: str, progress: Progress = no_progress) -> Any:
        """Follow a job to its end; if the service goes away, take the job over."""
        shown = None
        while True:
            job = self.show(job_id)
            if job.state == "done":
                return job.result
            if job.state == "failed":
                raise JobFailed(job.error or {})
            if job.progress and job.progress != shown:
                shown = job.progress
                progress(shown["what"], shown["done"], shown["total"])
            if not serving(self._node.home):
                claimed = self._claim(job_id)
                if claimed is not None:
                    return self._execute(claimed, progress)
            time.sleep(POLL_SECONDS)

    def claim_next(self) -> Job | None:
        """Take the lease of the oldest job that is queued, or that whoever ran it has left; None if there is none."""
        return self._claim()

    def execute(self, job: Job, progress: Progress = no_progress) -> None:
        """Run a claimed job to its end; an error is kept in its row, not raised."""
        with suppress(Exception):
            self._execute(job, progress)

    def list(self, project: "Project | None" = None, *, state: str | None = None) -> list[Job]:
        """Return jobs, newest first: of projects where labels limit what whoever acts may see, those that they submitted."""
        query = select(rows).order_by(rows.c.created.desc(), rows.c.id.desc())
        shown = self._node.projects() if project is None else [project]
        query = query.where(rows.c.project_id.in_([each.id for each in shown]))
        if state is not None:
            query = query.where(rows.c.state == state)
        with self._node.store.read() as connection:
            limited = [each.id for each in shown if self._node.guard.cleared(connection, each.id) is not None]
            if limited:
                query = query.where(rows.c.project_id.not_in(limited) | (rows.c.submitted_by == self._me()))
            return [_job(row) for row in connection.execute(query)]

    def forget_old(self) -> None:
        """Delete the rows of jobs that ended a month ago."""
        over = (rows.c.state.in_(("done", "failed")), rows.c.changed < self._node.now() - KEPT_SECONDS)
        with self._node.store.begin() as tx:
            tx.execute(rows.delete().where(*over))

    def show(self, job_id: str) -> Job:
        with self._node.store.read() as connection:
            row = connection.execute(select(rows).where(rows.c.id == job_id)).first()
            if row is None or not self._visible(connection, row):
                raise NotFound(f"there is no job {job_id!r}", hint="'vesica job list' shows them")
        return _job(row)

    def _visible(self, connection: Connection, row: Row[Any]) -> bool:
        """Tell whether a job is there for whoever acts: what another's did and why it failed may name what is hidden."""
        guard = self._node.guard
        grants = guard.grants(connection)
        if grants is None:
            return True
        limited = permissions.cleared(grants, row.project_id) is not None
        views = permissions.holds(grants, permissions.Permission.VIEW, row.project_id)
        return views and (not limited or row.submitted_by == self._me())

    def _me(self) -> str:
        return self._node.guard.actor()[:255]

    def _insert(self, tx: Connection, kind: str, parameters: Mapping[str, Any], project: "Project") -> str:
        now = self._node.now()
        job_id = _id(self._node.random)
        tx.execute(
            rows.insert().values(
                id=job_id,
                project_id=project.id,
                kind=kind,
                parameters=dict(parameters),
                submitted_by=self._me(),
                state="queued",
                created=now,
                changed=now,
            )
        )
        return job_id

    def _claim(self, job_id: str | None = None) -> Job | None:
        """Take the lease of a job, the oldest by default, that nobody runs, nor another one with the same partner."""
        with self._node.store.read() as connection:
            if self._free(connection, job_id) is None:
                return None
        self._show_alive()
        now = self._node.now()
        with self._node.store.begin() as tx:
            row = self._free(tx, job_id)
            if row is not None:
                lease = {"state": "running", "owner": self._owner, "lease_until": now + LEASE_SECONDS, "changed": now}
                tx.execute(rows.update().where(rows.c.id == row.id).values(**lease))
                row = tx.execute(select(rows).where(rows.c.id == row.id)).one()
        return None if row is None else _job(row)

    def _free(self, connection: Connection, job_id: str | None) -> Row[Any] | None:
        open_ = list(
            connection.execute(
                select(rows).where(rows.c.state.in_(("queued", "running"))).order_by(rows.c.created, rows.c.id)
            )
        )
        free = [row for row in open_ if row.state == "queued" or self._left(row)]
        busy = {row.parameters.get("connection") for row in open_ if row not in free} - {None}
        for row in free:
            if job_id in (None, row.id) and row.parameters.get("connection") not in busy:
                return row
        return None

    def _left(self, row: Row[Any]) -> bool:
        """Tell whether who ran a job is dead, or has not been heard of for a lease."""
        return row.lease_until < self._node.now() or (row.owner != self._owner and not _held(self._lock_of(row.owner)))

    def _lock_of(self, owner: str) -> Path:
        return self._node.home / "owners" / owner.rpartition(":")[2]

    def _show_alive(self) -> None:
        """Hold a lock as long as this process lives: the kernel lets go of it, however the process ends."""
        with self._lock:
            if self._alive is not None:
                return
            path = self._lock_of(self._owner)
            try:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                for other in path.parent.iterdir():
                    if not _held(other):
                        other.unlink(missing_ok=True)
                file = tempfile.NamedTemporaryFile("w", dir=self._node.home, prefix=".owner.", delete=False)  # noqa: SIM115
                fcntl.flock(file, fcntl.LOCK_EX)
                os.rename(file.name, path)  # nobody sees it unlocked
            except OSError as error:
                raise explained(error, path) from error
            self._alive = file

    def close(self) -> None:
        """Let go of what shows that this process lives."""
        with self._lock:
            if self._alive is not None:
                self._lock_of(self._owner).unlink(missing_ok=True)
                self._alive.close()
                self._alive = None

    def _execute(self, job: Job, progress: Progress) -> Any:
        try:
            handler = HANDLERS.get(job.kind)
            if handler is None:
                raise Failure(f"nothing here does jobs of kind {job.kind!r}", hint="was it queued by another release?")
            with self._node.guard.itself(job.submitted_by), self._heartbeat(job.id, progress) as report:
                project = self._node.project_by_id(job.project_id)
                result = handler(project, job.parameters, report)
        except BaseException as error:  # also Ctrl-C: nobody else should take the job up again
            with suppress(Failure):
                self._finish(job.id, state="failed", error=_document(error))
            raise
        self._finish(job.id, state="done", result=result)
        return result

    @contextmanager
    def _heartbeat(self, job_id: str, progress: Progress) -> Iterator[Progress]:
        """Keep the lease and write the newest progress into the row while the body runs."""
        stop = threading.Event()
        newest: dict[str, Any] = {}

        def report(what: str, done: int, total: int | None) -> None:
            newest["progress"] = {"what": what, "done": done, "total": total}
            progress(what, done, total)

        def beat() -> None:
            written, renewed = None, self._node.now()
            while not stop.wait(HEARTBEAT_SECONDS):
                now, latest = self._node.now(), newest.get("progress")
                if latest is written and now - renewed < LEASE_SECONDS // 3:
                    continue
                with suppress(Failure), self._node.store.begin() as tx:  # a busy store: the next beat tries again
                    values = {"progress": latest, "lease_until": now + LEASE_SECONDS, "changed": now}
                    tx.execute(self._mine(job_id).values(**values))
                    written, renewed = latest, now

        thread = threading.Thread(target=beat, name=f"heartbeat {job_id}", daemon=True)
        thread.start()
        try:
            yield report
        finally:
            stop.set()
            thread.join()

    def _finish(self, job_id: str, **values: Any) -> None:
        with self._node.store.begin() as tx:
            tx.execute(self._mine(job_id).values(**values, lease_until=None, changed=self._node.now()))

    def _mine(self, job_id: str) -> Any:
        return rows.update().where(rows.c.id == job_id, rows.c.owner == self._owner, rows.c.state == "running")


@contextmanager
def service_lock(home: Path) -> Iterator[int | None]:
    """Hold the home as its one service; yields None, or the pid of the service that holds it already.

    The command line looks at the lock with `serving`, which holds it for an instant: hence the second try.
    """
    with open(home / "lock", "a+") as file:
        for attempt in range(20):
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                yield None
                return
            if attempt < 19:
                time.sleep(0.05)
        file.seek(0)
        text = file.read().strip()
        yield int(text) if text.isdigit() else 0


def serving(home: Path) -> bool:
    """Tell whether a service holds this home."""
    return _held(home / "lock")


def _held(path: Path) -> bool:
    """Tell whether somebody holds the lock on a file."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _id(random: Callable[[int], bytes]) -> str:
    """Return a UUID (version 7) as 32 hex digits: those of one second sort as they were made, and are run so."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    number = milliseconds << 80 | 7 << 76 | (rest << 12) // 1_000_000 << 64 | 2 << 62
    return uuid.UUID(int=number | int.from_bytes(random(8)) >> 2).hex


def _document(error: BaseException) -> dict[str, Any]:
    if isinstance(error, VesicaError):
        return error.document()
    if isinstance(error, KeyboardInterrupt):
        return {"code": "interrupted", "message": "the job was interrupted", "hint": "run the command again"}
    name = type(error).__name__  # its text could hold data
    return {"code": "internal", "message": f"internal error ({name})", "hint": "VESICA_TRACEBACK=1 shows where"}


def _job(row: Row[Any]) -> Job:
    values = row._asdict()
    del values["owner"], values["lease_until"]
    return Job(**values)
