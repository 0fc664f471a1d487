"""One organisation's installation: the one object that front ends call."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Table, func, select

from protocol.connectid import check_address
from psi.errors import VesicaError

from . import log
from .access import audit
from .access.audit import Audit, Result
from .access.guard import Guard
from .errors import AlreadyExists, Failure, NotFound, Refused, StoreBusy, check_name
from .governance import policies
from .project import Project
from .storage import tables
from .storage.config import Config
from .storage.database import Store
from .storage.files import explained
from .storage.keys import Secrets

if TYPE_CHECKING:
    from .access.roles import Roles
    from .access.users import Users
    from .operations.jobs import Jobs, Progress

DEFAULT_PROJECT = "default"


def _clock() -> int:
    return int(time.time())


class Node:
    """An open home: store, keys, clock, randomness, audit log, jobs and projects; a context manager that closes it."""

    def __init__(
        self, home: Path, config: Config, store: Store, *, now: Callable[[], int], random: Callable[[int], bytes]
    ) -> None:
        self.home = home
        self.config = config
        self.store = store
        self.now = now
        self.random = random
        self.secrets = Secrets(home, random)
        self.guard = Guard(self)
        self.audit = Audit(
            store,
            now,
            actor=self.guard.actor,
            check=lambda project_id: self.guard.require("audit.read", "audit", project_id),
        )

    @classmethod
    def create(
        cls,
        home: Path | str,
        organisation: str,
        *,
        database: str | None = None,
        listen: str | None = None,
        address: str = "",
        proxy: bool = False,
        now: Callable[[], int] = _clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> "Node":
        """Make a home with keys, tables and the project "default". A creation that was killed can be run again.

        Raises AlreadyExists where there is a node.
        """
        home = Path(home).absolute()
        if (home / "config.json").exists():
            raise AlreadyExists(f"there is a node in {home} already", hint="use it, or name another --home")
        if address:
            check_address(address)
        config = Config(organisation=organisation, database=database, address=address, proxy=proxy)
        if listen is not None:
            config = replace(config, listen=listen)
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("keys", "data", "spool", "cache"):
                (home / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise explained(error, home) from error
        node = cls(home, config, Store.open(database or home / "control.db"), now=now, random=random)
        if node.all_projects() and not (home / "keys" / "node.key").exists():
            node.close()
            raise Refused("that database belongs to another node", hint="give each node a database of its own")
        node.secrets.create()
        if not node.all_projects():
            with node.act("node.init", organisation) as tx:
                node._insert_project(tx, DEFAULT_PROJECT)
        config.save(home)
        return node

    @classmethod
    def open(
        cls, home: Path | str, *, now: Callable[[], int] = _clock, random: Callable[[int], bytes] = os.urandom
    ) -> "Node":
        """Open a home and bring its tables up to date; raises NoHome where there is none."""
        home = Path(home).absolute()
        config = Config.load(home)
        return cls(home, config, Store.open(config.database or home / "control.db"), now=now, random=random)

    @classmethod
    def restore(
        cls,
        source: Path | str,
        home: Path | str,
        *,
        database: str | None = None,
        now: Callable[[], int] = _clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> dict[str, Any]:
        """Make a home of a backup, in a directory where nothing is; returns what it is and which partners will be told.

        Raises BackupIncomplete with what is missing. The node of the backup must not run any more.
        """
        from .backup import restore

        return restore.restore(Path(source), Path(home), database=database, node=partial(cls, now=now, random=random))

    def backup(self, target: Path | str) -> dict[str, Any]:
        """Write a backup of the home, also while a service runs on it: a directory, or one file that ends in ".tar"."""
        from .backup import backup

        return backup.write(self, Path(target))

    def close(self) -> None:
        if "jobs" in self.__dict__:
            self.jobs.close()
        self.store.close()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def key(self) -> bytes:
        """The node's Ed25519 public key, 32 bytes."""
        return self.secrets.public

    def sign(self, message: bytes) -> bytes:
        return self.secrets.sign(message)

    def new_id(self) -> str:
        """Return a fresh UUID as 32 hex digits."""
        return uuid.UUID(bytes=self.random(16), version=4).hex

    @cached_property
    def jobs(self) -> "Jobs":
        from .operations.jobs import Jobs

        return Jobs(self)

    @cached_property
    def users(self) -> "Users":
        from .access.users import Users

        return Users(self)

    @cached_property
    def roles(self) -> "Roles":
        from .access.roles import Roles

        return Roles(self)

    @contextmanager
    def act(
        self,
        act: str,
        target: str,
        *,
        project_id: str | None = None,
        actor: str | None = None,
        detail: MutableMapping[str, Any] | None = None,
    ) -> Iterator[Connection]:
        """Hold one transaction for a change and its audit row ("feed.publish", the feed's name).

        Refused where whoever acts lacks the permission; an `actor` is a partner, whose acts are the node's own.
        `detail` is read at the end, so the body may add to it. A VesicaError undoes the change.
        """
        detail = {} if detail is None else detail
        with self.refusals(act, target, project_id=project_id, actor=actor, detail=detail), self.store.begin() as tx:
            if actor is None:
                self.guard.check(tx, act, project_id)
            yield tx
            self.audit.record(tx, act, target, project_id=project_id, detail=detail, actor=actor)

    @contextmanager
    def refusals(
        self,
        act: str,
        target: str,
        *,
        project_id: str | None = None,
        actor: str | None = None,
        detail: MutableMapping[str, Any] | None = None,
    ) -> Iterator[None]:
        """Leave a deny row for a VesicaError of the body, for a Failure and anything else a fail row; it goes on up."""
        try:
            yield
        except StoreBusy:  # nothing was tried, and a row would have to wait as long again
            raise
        except Exception as error:
            reason = {"code": error.code if isinstance(error, VesicaError) else "internal"}
            if isinstance(error, VesicaError):
                reason["message"] = str(error)
            else:
                reason["type"] = type(error).__name__  # its text could hold data
            refused = isinstance(error, VesicaError) and not isinstance(error, Failure)
            result: Result = "deny" if refused else "fail"
            detail = {**(detail or {}), "error": reason}
            with suppress(Failure), self.store.begin() as tx:  # what is not kept is the refusal, and it stands anyway
                self.audit.record(tx, act, target, project_id=project_id, result=result, detail=detail, actor=actor)
            raise

    def exchange_letters(self, progress: "Progress | None" = None) -> None:
        """Deliver and fetch what waits on either side, and do what partners ask for; a running service does it itself."""
        from .exchanges.exchanges import register
        from .operations.jobs import no_progress, serving

        if serving(self.home):
            return
        register()
        self.sweep()
        with self.guard.itself():
            for project in self.projects():
                for row in project.partners.rows("pending", "requested", "active", "declined", "disconnected"):
                    project.letters.sync(row)
            while (job := self.jobs.claim_next()) is not None:
                self.jobs.execute(job, progress or no_progress)

    def prune_audit(self, before: int) -> dict[str, Any]:
        """Delete the audit rows from before a time, which must be a year ago; see `Audit.prune`."""
        detail: dict[str, Any] = {}
        with self.act("audit.prune", audit.date(before), detail=detail) as tx:
            detail |= self.audit.prune(tx, before)
        return detail

    def sweep(self) -> None:
        """Do what the clock asks for: members leave whose time is over, alerts are raised, partners are told once a day
        where our audit log ends, and what nobody needs any more is deleted: messages of exchanges and jobs that are over,
        and files that a kill left behind."""
        from .exchanges import exchanges
        from .feeds.receiving import expiry
        from .feeds.sending import schedule
        from .partners import audit_heads, key_epochs
        from .people import data
        from .storage import files

        acts: list[Callable[[], object]] = [partial(exchanges.forget_old, self), self.jobs.forget_old]
        with suppress(Failure):
            for project in self.all_projects():
                each = (expiry.apply, audit_heads.send, data.remove_leftovers, schedule.tell_overdue)
                acts += [project.memberships.sweep, *(partial(act, project) for act in each), project.alerts.forget_old]
        acts.append(partial(key_epochs.remove_leftovers, self))
        acts += [partial(files.remove_leftovers, self.home / name) for name in ("cache", "spool", "keys")]
        for act in acts:
            try:
                act()
            except (Failure, OSError) as error:  # a busy store or a full disk: the next time will do
                log.warning("upkeep waits", reason=str(error))

    def project(self, name: str = DEFAULT_PROJECT) -> Project:
        """Return a project by name; raises NotFound, also where whoever acts has no role in it."""
        for project in self.all_projects():
            if project.name == name and self.guard.reaches(project.id):
                project.require("project.view", name)
                return project
        raise NotFound(f"there is no project {name!r}", hint="'vesica project list' shows them")

    def project_by_id(self, project_id: str) -> Project:
        for project in self.projects():
            if project.id == project_id:
                return project
        raise NotFound(f"there is no project with the id {project_id}", hint="'vesica project list --json' shows them")

    def projects(self) -> list[Project]:
        """Return the projects that whoever acts may view."""
        return self.guard.viewable(self.all_projects())

    def all_projects(self) -> list[Project]:
        """Return every project, whoever acts."""
        with self.store.read() as connection:
            return [Project(self, row) for row in connection.execute(select(tables.projects).order_by("name"))]

    def sign_in(self, token: str | None) -> None:
        """Act for the user whose token this is from now on; see Guard.sign_in."""
        self.guard.sign_in(token)

    def create_project(self, name: str) -> Project:
        """Make an isolated data space with its own profiles, segments, partners and feeds."""
        with self.act("project.create", name) as tx:
            check_name(name, "project")
            if tx.scalar(select(tables.projects.c.id).where(tables.projects.c.name == name)) is not None:
                raise AlreadyExists(f"there is a project {name!r} already", hint="choose another name")
            self._insert_project(tx, name)
        return self.project(name)

    def status(self, *, alerts: int = 10) -> dict[str, Any]:
        """Return who the node is, whether it serves, its curve kernel, partners and open jobs, and the newest alerts that
        nobody has acknowledged."""
        from psi import kernel

        from .operations.jobs import serving

        projects = self.projects()
        partners = self._count(tables.connections, tables.connections.c.status == "active")
        jobs = self._count(tables.jobs, tables.jobs.c.state.in_(("queued", "running")))
        newest = [(alert, project.name) for project in projects for alert in project.alerts.list(open_only=True)]
        newest.sort(key=lambda each: each[0].at, reverse=True)
        return {
            "organisation": self.config.organisation,
            "home": str(self.home),
            "key": self.key.hex(),
            "address": self.config.address or None,
            "serving": serving(self.home),
            "kernel": kernel.name(),
            "projects": [
                {
                    "name": each.name,
                    "on_hold": each.on_hold,
                    "partners": partners.get(each.id, 0),
                    "open_jobs": jobs.get(each.id, 0),
                }
                for each in projects
            ],
            "alerts": [
                {"id": alert.id, "at": alert.at, "project": name, "kind": alert.kind, "text": alert.text}
                for alert, name in newest[:alerts]
            ],
        }

    def _count(self, table: Table, condition: ColumnElement[bool]) -> dict[str, int]:
        query = select(table.c.project_id, func.count()).where(condition).group_by(table.c.project_id)
        with self.store.read() as connection:
            return {row.project_id: row[1] for row in connection.execute(query)}

    def _insert_project(self, tx: Connection, name: str) -> None:
        project_id = self.new_id()
        tx.execute(
            tables.projects.insert().values(
                id=project_id,
                name=name,
                hide_unconsented=False,
                terms={},
                count_secret=self.secrets.wrap(self.random(32), b"count"),
                created=self.now(),
            )
        )
        policies.insert_standard(tx, project_id, self.new_id)
