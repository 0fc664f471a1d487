"""The ground that every room stands on: an open home, and one project of it.

A room gets one of these and nothing more of the node: no door of another room hangs on them.
"""

import threading
import uuid
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from sqlalchemy import select

from psi.errors import Remedy, VesicaError

from ..errors import Failure, NotFound, RefusedToPartner, StoreBusy
from ..homes import OPENED
from ..storage.bell import Bell
from ..storage.config import PARTS, Config
from ..storage.database import Database, Tx
from ..storage.files import below, make_private
from ..storage.ids import wire_id
from ..storage.keys import Keys
from ..storage.locks import Process
from ..storage.records import Document, record
from ..storage.tables import projects
from .audit import Audit, Result
from .guard import Guard

if TYPE_CHECKING:
    from protocol.agreement import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRow:
    """What a project's row says at a moment; the times are Unix seconds, the secrets are wrapped."""

    consent_model: str | None  # "opt-in", "opt-out", or None while nobody has chosen
    left_out: str  # of the estimates that we ask for; see node.people.consent.LeftOut
    connect_secret: bytes | None
    connect_expires: int | None
    terms: Document
    count_secret: bytes
    restored: int | None
    resumed: int | None

    @property
    def on_hold(self) -> bool:
        """Whether it came from a backup and nobody has resumed it."""
        return self.restored is not None and self.resumed is None


class Closed(Protocol):
    """What is closed with a home."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closed)


class NothingDone(Exception):
    """Raised in an act that finds its work done already: nothing changes, and no audit row is left."""


class Home:
    """An open home: its directory, settings, rows, keys, process, clock, randomness, audit log, and the caller's rights."""

    def __init__(
        self, path: Path, config: Config, database: Database, *, now: Callable[[], int], random: Callable[[int], bytes]
    ) -> None:
        for each in (path, *(path / name for name in PARTS), *path.glob("keys/*")):
            make_private(each)
        self.path = path
        OPENED.add(path)
        self._config, self._stamp = config, Config.stamp(path)
        self.database = database
        self._kept: dict[Hashable, Closed] = {}
        self._keeping = threading.Lock()
        self.bell = Bell(path / "bell")
        database.committed = self.bell.ring
        self.now = now
        self.random = random
        self.keys = Keys(path, random)
        self.process = Process(path)
        # Partners to whom letters of this process's acts could not be delivered, and why.
        self.undelivered: dict[str, str] = {}
        self.guard = Guard(self)
        self.audit = Audit(
            self.read,
            now,
            actor=self.guard.actor,
            check=lambda project_id: self.guard.require("audit.read", "audit", project_id),
            reached=self.guard.reached,
        )

    def kept(self, key: Hashable, make: Callable[[], C]) -> C:
        """Return what is made once for this open home, and closed with it."""
        with self._keeping:
            if key not in self._kept:
                self._kept[key] = make()
            return cast(C, self._kept[key])

    def close(self) -> None:
        OPENED.discard(self.path)
        for each in self._kept.values():
            each.close()
        self.process.close()
        self.database.close()

    @property
    def config(self) -> Config:
        """The settings as the home has them now: a service sees what a command has changed."""
        stamp = Config.stamp(self.path)
        if stamp is not None and stamp != self._stamp:
            self._config, self._stamp = Config.load(self.path), stamp
        return self._config

    @property
    def key(self) -> bytes:
        """The node's Ed25519 public key, 32 bytes."""
        return self.keys.public

    def sign(self, message: bytes) -> bytes:
        """Return the node's Ed25519 signature, 64 bytes."""
        return self.keys.sign(message)

    def new_id(self) -> str:
        """Return a fresh UUID as 32 hex digits."""
        return uuid.UUID(bytes=self.random(16), version=4).hex

    @contextmanager
    def read(self, tx: Tx | None = None) -> Iterator[Tx]:
        """Look at one state of the rows: that of `tx` where one is given. Raises NoCaller where nobody has said who acts."""
        self.guard.known()
        if tx is not None:
            yield tx
        else:
            with self.database.read() as reading:
                yield reading

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        """Open a transaction for what leaves no audit row. Raises NoCaller where nobody has said who acts."""
        self.guard.known()
        with self.database.begin() as tx:
            yield tx

    @contextmanager
    def act(
        self,
        act: str,
        target: str,
        *,
        project_id: str | None = None,
        actor: str | None = None,
        detail: MutableMapping[str, Any] | None = None,
    ) -> Iterator[Tx]:
        """Open one transaction for a change and its audit row ("feed.publish", the feed's name).

        Refused where the caller lacks the permission; an `actor` is a partner, whose acts are the node's own.
        `detail` is read at the end, so the body may add to it. A VesicaError undoes the change.
        """
        detail = {} if detail is None else detail
        with (
            self.refusals(act, target, project_id=project_id, actor=actor, detail=detail),
            suppress(NothingDone),
            self.database.begin() as tx,
        ):
            if actor is None:
                self.guard.check(tx, act, project_id)
            else:
                self.guard.known()
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
        """Leave a deny row for a VesicaError of the body, for a Failure, an interrupt and anything else a fail row; it goes
        on up."""
        try:
            yield
        except StoreBusy:  # nothing was tried, and a row would have to wait as long again
            raise
        except (Exception, KeyboardInterrupt) as error:
            reason = {"code": error.code if isinstance(error, VesicaError) else "internal"}
            if isinstance(error, VesicaError):
                reason["message"] = str(error)
            else:
                reason["type"] = type(error).__name__  # its text could have data in it
            refused = isinstance(error, VesicaError) and not isinstance(error, Failure)
            result = Result.DENY if refused else Result.FAIL
            detail = {**(detail or {}), "error": reason}
            with suppress(Failure), self.database.begin() as tx:  # without it the refusal stands all the same
                self.audit.record(tx, act, target, project_id=project_id, result=result, detail=detail, actor=actor)
            raise

    def scope(self, project_id: str) -> "Scope":
        """Return a project by id; raises NotFound, also where the caller may not view it."""
        for scope in self.scopes():
            if scope.id == project_id:
                return scope
        raise NotFound(
            f"there is no project with the id {project_id}",
            hint="see which there are",
            remedy=Remedy("project.list", {"json": True}),
        )

    def scopes(self) -> "list[Scope]":
        """Return the projects that the caller may view, by name."""
        return self.guard.viewable(self.all_scopes())

    def all_scopes(self, tx: Tx | None = None) -> "list[Scope]":
        """Return every project by name, also those that the caller may not view."""
        query = select(projects.c.id, projects.c.name).order_by(projects.c.name)
        with self.read(tx) as tx:
            return [Scope(self, row.id, row.name) for row in tx.execute(query)]

    def add_project(self, tx: Tx, name: str) -> "Scope":
        """Add the row of a new project."""
        scope = Scope(self, self.new_id(), name)
        values = {"terms": {}, "created": self.now()}
        secret = self.keys.wrap(self.random(32), b"count")
        tx.execute(projects.insert().values(id=scope.id, name=name, count_secret=secret, **values))
        return scope


class Scope:
    """One project of an open home: its id and name, and acts in it. What can change is read when it is asked for."""

    def __init__(self, home: Home, project_id: str, name: str) -> None:
        self.home = home
        self.id = project_id
        self.name = name

    @property
    def wire_id(self) -> bytes:
        return wire_id(self.id)

    @property
    def data_directory(self) -> Path:
        return below(self.home.path / "data", self.id)

    @contextmanager
    def read(self, tx: Tx | None = None, *, act: str = "project.view") -> Iterator[Tx]:
        """Look at one state of the rows: that of `tx` where one is given; see Home.read.

        Raises NotFound where the caller may not open the project, and PermissionDenied where they may not do `act`, the kind
        of viewing: who holds a Scope may have lost the role since, or never had it.
        """
        with self.home.read(tx) as reading:
            if tx is None:
                if not self.home.guard.opens(reading, self.id):
                    raise NotFound(
                        f"there is no project {self.name!r}", hint="see which there are", remedy=Remedy("project.list")
                    )
                self.home.guard.check(reading, act, self.id)
            yield reading

    def require_opening(self) -> None:
        """Refuse a caller who may view nothing of the project, nor work with its destinations."""
        with self.home.read() as tx:
            opens = self.home.guard.opens(tx, self.id)
        if not opens:
            self.require("project.view", self.name)

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        """Open a transaction for what leaves no audit row; see Home.begin."""
        with self.home.begin() as tx:
            yield tx

    @contextmanager
    def act(
        self, act: str, target: str, *, actor: str | None = None, detail: MutableMapping[str, Any] | None = None
    ) -> Iterator[Tx]:
        """Open one transaction for a change in this project and its audit row; see Home.act."""
        with self.home.act(act, target, project_id=self.id, actor=actor, detail=detail) as tx:
            yield tx

    def require(self, act: str, target: str) -> None:
        """Refuse a caller that lacks the permission for an act that is no change of state; see Guard.require."""
        self.home.guard.require(act, target, self.id)

    @contextmanager
    def refusals(self, act: str, target: str) -> Iterator[None]:
        """Leave an audit row where the body refuses before an act of its own began; see Home.refusals."""
        with self.home.refusals(act, target, project_id=self.id):
            yield

    def row(self, tx: Tx | None = None) -> ProjectRow:
        """Return the project's row as it is now, or as the given transaction sees it."""
        query = select(projects).where(projects.c.id == self.id)
        with self.read(tx) as tx:
            return record(ProjectRow, tx.execute(query).one())

    def change(self, tx: Tx, **values: object) -> None:
        """Write columns of the project's row, in the transaction of the act that changes them."""
        tx.execute(projects.update().where(projects.c.id == self.id).values(**values))

    @property
    def consent_model(self) -> str | None:
        """ "opt-in", "opt-out", or None while nobody has chosen."""
        return self.row().consent_model

    @property
    def terms(self) -> "Terms":
        """What this project asks of every new agreement; the row has what differs from the defaults."""
        from protocol.agreement import Terms

        return Terms.from_dict(self.row().terms)

    @property
    def on_hold(self) -> bool:
        """Whether it came from a backup and nobody has resumed it: people who opted out meanwhile may still be in it."""
        return self.row().on_hold

    def check_not_on_hold(self, tx: Tx | None = None) -> None:
        """Refuse what would show a partner anything of people before the operator has looked at a restored project."""
        if self.row(tx).on_hold:
            raise RefusedToPartner(
                "on_hold",
                "the project was restored from a backup and is on hold",
                hint="its operator imports consent again, ends what has ended since, then resumes the project",
                remedy=Remedy("project.resume", {"name": self.name}),
                status=409,
            )
