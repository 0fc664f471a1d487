"""Work that computes or talks to a partner: a row with a lease, run by the service if there is one, else here.

A job whose process was killed keeps its row. It is claimed again at once where the lock of that process is gone, else
when its lease has run out, and its handler resumes or starts cleanly. Jobs with one partner run one at a time.
"""

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Update, select

from psi.errors import Remedy, VesicaError

from ..access import permissions
from ..access.audit import Actor, ActorKind
from ..access.scope import Home, Scope
from ..errors import Failure, JobFailed
from ..storage.database import Tx
from ..storage.ids import beginning, the_one
from ..storage.locks import serving
from ..storage.records import Document, record
from ..storage.tables import DAY
from ..storage.tables import jobs as rows

LEASE_SECONDS = 60
HEARTBEAT_SECONDS = 1.0  # how often progress is written and the lease looked after
POLL_SECONDS = 0.2
KEPT_SECONDS = 30 * DAY  # a job that is over

Progress = Callable[[str, int, int | None], None]  # what is being done, how much of it, of how much if that is known
Handler = Callable[[Scope, Document, Progress], Any]  # returns a JSON value

HANDLERS: dict[str, Handler] = {}  # filled by node/wiring.py


# The codes of errors whose words name segments and fields, and the words instead where the caller may not see all of these.
_NAMING_CODES = ("policy_violation", "policy_conflict", "refused", "not_found", "invalid_input")
_NAMELESS = {
    "message": "the job was refused, for a reason that names what you may not see",
    "hint": "ask somebody who may see all of it",
}


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


OVER = (JobState.DONE, JobState.FAILED)
OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A piece of work at a moment; `error` is the document of what it failed with."""

    id: str
    project_id: str
    kind: str
    parameters: Document
    submitted_by: str  # in whose name its acts are audited
    submitted_by_kind: ActorKind
    state: JobState
    progress: Document | None
    result: Any
    error: Document | None
    created: int
    changed: int
    owner: str | None  # the process that runs it, or ran it
    lease_until: int | None

    def as_dict(self) -> Document:
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
    """The work of an open home that computes or talks to a partner: submitted here, claimed and run here or in a service."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, kind: str, parameters: Mapping[str, Any], scope: Scope, progress: Progress = no_progress) -> Any:
        """Do the work and return its result, here or in the service; raises what the handler raised.

        An error in the service comes back as JobFailed with the same document.
        """
        return self.wait(self.submit(kind, parameters, scope), progress)

    def submit(self, kind: str, parameters: Mapping[str, Any], scope: Scope, tx: Tx | None = None) -> str:
        """Queue a job for the service, in the caller's transaction if one is given, and return its id.

        The caller needs the permission for the act that it does; when it runs, no permission is asked for any more.
        """
        act = permissions.JOBS.get(kind, f"job.{kind}")
        if tx is not None:
            self._home.guard.check(tx, act, scope.id)
            return self._insert(tx, kind, parameters, scope)
        self._home.guard.require(act, scope.name, scope.id, job=kind)
        with self._home.begin() as own:
            return self._insert(own, kind, parameters, scope)

    def submit_once(self, kind: str, parameters: Mapping[str, Any], scope: Scope) -> str:
        """Queue a job unless the same one waits already; returns the id of the one that waits."""
        for job in self.all(scope, state=JobState.QUEUED):
            if (job.kind, job.parameters) == (kind, dict(parameters)):
                return job.id
        return self.submit(kind, parameters, scope)

    def submit_newest(
        self, kind: str, parameters: Mapping[str, Any], scope: Scope, tx: Tx, *, same: Collection[str]
    ) -> str:
        """Queue a job in the caller's transaction; one that waits already takes these parameters instead.

        It is the one whose parameters of the names `same` have the same values.
        """
        waiting = select(rows).where(
            rows.c.project_id == scope.id, rows.c.kind == kind, rows.c.state == JobState.QUEUED
        )
        for job in tx.execute(waiting).all():
            if all(job.parameters.get(name) == parameters.get(name) for name in same):
                tx.execute(rows.update().where(rows.c.id == job.id).values(parameters=dict(parameters)))
                return str(job.id)
        return self.submit(kind, parameters, scope, tx)

    def done(self, kind: str, scope: Scope, tx: Tx) -> list[Job]:
        """Return the jobs of a kind that have ended well, newest first, also those that are not there for the caller."""
        query = select(rows).where(rows.c.project_id == scope.id, rows.c.kind == kind, rows.c.state == JobState.DONE)
        return [record(Job, row) for row in tx.execute(query.order_by(rows.c.created.desc(), rows.c.id.desc()))]

    def change_result(self, tx: Tx, job: Job, result: Any) -> None:
        """Note what became of what a job that is done only prepared."""
        tx.execute(rows.update().where(rows.c.id == job.id).values(result=result))

    def wait(self, job_id: str, progress: Progress = no_progress) -> Any:
        """Follow a job to its end; if the service goes away, take the job over."""
        shown = None
        while True:
            job = self.show(job_id)
            if job.state is JobState.DONE:
                return job.result
            if job.state is JobState.FAILED:
                raise JobFailed(job.error or {})
            if job.progress and job.progress != shown:
                shown = job.progress
                progress(shown["what"], shown["done"], shown["total"])
            if not serving(self._home.path):
                claimed = self._claim(job_id)
                if claimed is not None:
                    return self._execute_for_caller(claimed, progress)
            time.sleep(POLL_SECONDS)

    def claim_next(self, project_ids: Collection[str] | None = None) -> Job | None:
        """Take the lease of the oldest job, of these projects or of all, that is queued or was left by a process that
        died; None if there is none."""
        return self._claim(project_ids=project_ids)

    def execute(self, job: Job, progress: Progress = no_progress) -> None:
        """Run a claimed job to its end; an error is kept in its row, not raised."""
        self._home.guard.known()
        with suppress(Exception):
            self._execute(job, progress)

    def give_back(self) -> None:
        """Queue the jobs again that this process runs: it is about to end, and what they did so far is found again."""
        mine = (rows.c.owner == self._home.process.name, rows.c.state == JobState.RUNNING)
        with self._home.begin() as tx:
            tx.execute(
                rows.update().where(*mine).values(state=JobState.QUEUED, owner=None, lease_until=None, progress=None)
            )

    def all(self, scope: Scope | None = None, *, state: JobState | None = None, limit: int | None = None) -> list[Job]:
        """Return jobs, newest first, at most `limit`.

        Where labels limit what the caller may see, only those that the caller submitted.
        """
        query = select(rows).order_by(rows.c.created.desc(), rows.c.id.desc())
        shown = self._home.scopes() if scope is None else [scope]
        query = query.where(rows.c.project_id.in_([each.id for each in shown]))
        if state is not None:
            query = query.where(rows.c.state == state)
        with self._home.read() as tx:
            limited = [each.id for each in shown if self._home.guard.limited(tx, each.id)]
            if limited:
                query = query.where(rows.c.project_id.not_in(limited) | (rows.c.submitted_by == self._me()))
            found = tx.execute(query.limit(limit))
            return [self._for_caller(tx, record(Job, row), row.project_id in limited)[0] for row in found]

    def show(self, job_id: str) -> Job:
        """Return a job by its id, or by the beginning of it that no other job has which the caller may see."""
        return self._shown(job_id)[0]

    def _shown(self, job_id: str) -> tuple[Job, bool]:
        """Return a job as `show` does, and whether something of its error is kept from the caller."""
        with self._home.read() as tx:
            begun = [record(Job, row) for row in tx.execute(select(rows).where(beginning(rows.c.id, job_id)))]
            visible = {job.id: job for job in begun if self._visible(tx, job)}
            job = visible[the_one([*visible], job_id, "job", Remedy("job.list"))]
            return self._for_caller(tx, job, self._home.guard.limited(tx, job.project_id))

    def open_count(self, scope: Scope) -> int:
        """Return how many jobs of a project are not over, of those that are there for the caller."""
        with self._home.read() as tx:
            query = select(rows).where(rows.c.project_id == scope.id, rows.c.state.in_(OPEN))
            return sum(self._visible(tx, record(Job, row)) for row in tx.execute(query))

    def _visible(self, tx: Tx, job: Job) -> bool:
        """Return whether a job is there for the caller: what it did and why it failed may name what is hidden."""
        guard = self._home.guard
        grants = guard.grants(tx)
        if grants is None:
            return True
        limited = guard.limited(tx, job.project_id)
        views = permissions.permits(grants, permissions.Permission.VIEW, job.project_id)
        return views and (not limited or job.submitted_by == self._me())

    def _for_caller(self, tx: Tx, job: Job, limited: bool) -> tuple[Job, bool]:
        """Return a job without what its error says of things that may be hidden from the caller, and whether it said any.

        The node, which sees all, was refused.
        """
        if job.error is None:
            return job, False
        seen = self._home.guard.reached(tx).value(job.error)
        if seen == job.error and not (limited and job.error.get("code") in _NAMING_CODES):
            return job, False
        return replace(job, error={**_NAMELESS, "code": job.error["code"]}), True

    def _me(self) -> str:
        return self._home.guard.actor().name[:255]

    def _insert(self, tx: Tx, kind: str, parameters: Mapping[str, Any], scope: Scope) -> str:
        now = self._home.now()
        job_id = _id(self._home.random)
        tx.execute(
            rows.insert().values(
                id=job_id,
                project_id=scope.id,
                kind=kind,
                parameters=dict(parameters),
                submitted_by=self._me(),
                submitted_by_kind=self._home.guard.actor().kind,
                state=JobState.QUEUED,
                created=now,
                changed=now,
            )
        )
        return job_id

    def _claim(self, job_id: str | None = None, project_ids: Collection[str] | None = None) -> Job | None:
        """Take the lease of a job, the oldest by default, that no process runs, nor another one with the same partner."""
        with self._home.read() as tx:
            if self._free(tx, job_id, project_ids) is None:
                return None
        self._home.process.show_alive()
        now = self._home.now()
        with self._home.begin() as tx:
            job = self._free(tx, job_id, project_ids)
            if job is not None:
                lease = {
                    "state": JobState.RUNNING,
                    "owner": self._home.process.name,
                    "lease_until": now + LEASE_SECONDS,
                    "changed": now,
                }
                tx.execute(rows.update().where(rows.c.id == job.id).values(**lease))
                job = record(Job, tx.execute(select(rows).where(rows.c.id == job.id)).one())
        return job

    def _free(self, tx: Tx, job_id: str | None, project_ids: Collection[str] | None) -> Job | None:
        query = select(rows).where(rows.c.state.in_(OPEN)).order_by(rows.c.created, rows.c.id)
        jobs = [record(Job, row) for row in tx.execute(query)]
        free = [job for job in jobs if job.state is JobState.QUEUED or self._was_abandoned(job)]
        busy = {job.parameters.get("connection") for job in jobs if job not in free} - {None}
        for job in free:
            wanted = job_id in (None, job.id) and (project_ids is None or job.project_id in project_ids)
            if wanted and job.parameters.get("connection") not in busy:
                return job
        return None

    def _was_abandoned(self, job: Job) -> bool:
        """Return whether the process that ran a job is dead, or has given no sign of life for a lease."""
        return (job.lease_until or 0) < self._home.now() or not self._home.process.is_alive(job.owner or "")

    def _execute_for_caller(self, job: Job, progress: Progress) -> Any:
        """Run a claimed job; raise what a caller may be told of its error."""
        try:
            return self._execute(job, progress)
        except VesicaError:
            shown, less = self._shown(job.id)
            if less:
                raise JobFailed(shown.error or {}) from None
            raise

    def _execute(self, job: Job, progress: Progress) -> Any:
        try:
            handler = HANDLERS.get(job.kind)
            if handler is None:
                raise Failure(f"nothing here does jobs of kind {job.kind!r}", hint="was it queued by another release?")
            with (
                self._home.guard.itself(Actor(job.submitted_by_kind, job.submitted_by)),
                self._heartbeat(job.id, progress) as report,
            ):
                scope = self._home.scope(job.project_id)
                result = handler(scope, job.parameters, report)
        except BaseException as error:  # also Ctrl-C: nobody else should take the job up again
            with suppress(Failure):
                self._finish(job.id, state=JobState.FAILED, error=_document(error))
            raise
        self._finish(job.id, state=JobState.DONE, result=result)
        return result

    @contextmanager
    def _heartbeat(self, job_id: str, progress: Progress) -> Iterator[Progress]:
        """Keep the lease and write the newest progress into the row while the body runs."""
        stop = threading.Event()
        newest: Document = {}

        def report(what: str, done: int, total: int | None) -> None:
            newest["progress"] = {"what": what, "done": done, "total": total}
            progress(what, done, total)

        def beat() -> None:
            written, renewed = None, self._home.now()
            while not stop.wait(HEARTBEAT_SECONDS):
                now, latest = self._home.now(), newest.get("progress")
                if latest is written and now - renewed < LEASE_SECONDS // 3:
                    continue
                with suppress(Failure), self._home.begin() as tx:  # a busy store: the next beat tries again
                    values = {"progress": latest, "lease_until": now + LEASE_SECONDS, "changed": now}
                    tx.execute(self._mine(job_id).values(**values))
                    written, renewed = latest, now

        thread = threading.Thread(target=self._home.guard.as_itself(beat), name=f"heartbeat {job_id}", daemon=True)
        thread.start()
        try:
            yield report
        finally:
            stop.set()
            thread.join()

    def _finish(self, job_id: str, **values: Any) -> None:
        with self._home.begin() as tx:
            tx.execute(self._mine(job_id).values(**values, lease_until=None, changed=self._home.now()))

    def _mine(self, job_id: str) -> Update:
        """Return the update of a job that this process runs; none where another has taken it over."""
        return rows.update().where(
            rows.c.id == job_id, rows.c.owner == self._home.process.name, rows.c.state == JobState.RUNNING
        )


def forget_old(home: Home) -> None:
    """Delete the rows of jobs that ended a month ago."""
    over = (rows.c.state.in_(OVER), rows.c.changed < home.now() - KEPT_SECONDS)
    with home.begin() as tx:
        tx.execute(rows.delete().where(*over))


def _id(random: Callable[[int], bytes]) -> str:
    """Return a UUID (version 7) as 32 hex digits: those of one second sort as they were made, and are run so."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    number = milliseconds << 80 | 7 << 76 | (rest << 12) // 1_000_000 << 64 | 2 << 62
    return uuid.UUID(int=number | int.from_bytes(random(8)) >> 2).hex


def _document(error: BaseException) -> Document:
    if isinstance(error, VesicaError):
        return error.document()
    if isinstance(error, KeyboardInterrupt):
        return {"code": "interrupted", "message": "the job was interrupted", "hint": "run the command again"}
    name = type(error).__name__  # its text could have data in it
    return {"code": "internal", "message": f"internal error ({name})", "hint": "VESICA_TRACEBACK=1 shows where"}
