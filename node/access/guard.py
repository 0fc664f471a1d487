"""Who acts through an open node, and whether they may.

The caller is a context variable, one for each open home: every thread, and every task of an event loop, has its own.
Code that does not name a caller acts as the default. In a command that is the operator, who opened the home and may do
everything as long as the node has no users. In a service it is nobody, who may do nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sqlalchemy import select

from ..errors import NoCaller
from ..storage import tables
from ..storage.database import Tx
from ..storage.tables import projects, users
from . import audit, permissions
from .audit import Actor, ActorKind
from .permissions import Grants, Permission, PermissionDenied, Role
from .reached import Reached

if TYPE_CHECKING:
    from .scope import Home, Scope


P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who acts: the audit log writes `name`, or the user of this process where it is None.

    `token` is the digest of a user's token. `itself` is the node: its service, its jobs, what partners ask of it; `kind`
    is then that of the actor who asked for it.
    """

    name: str | None = None
    token: bytes | None = None
    itself: bool = False
    unknown: bool = False
    kind: ActorKind = ActorKind.USER


OPERATOR = Caller(kind=ActorKind.ACCOUNT)  # the operator, who opened the home
NOBODY = Caller(name="nobody", unknown=True, kind=ActorKind.NODE)  # code that named no caller


class Guard:
    """The one place that decides, for an open node, whether an act may be done."""

    def __init__(self, home: "Home", default: Caller = OPERATOR) -> None:
        self._home = home
        self._default = default
        self._caller: ContextVar[Caller | None] = ContextVar("caller", default=None)

    @property
    def caller(self) -> Caller:
        return self._caller.get() or self._default

    def expect_callers(self) -> None:
        """Make nobody the default, in every thread: a service begins with this."""
        self._default = NOBODY
        self._caller.set(None)

    @contextmanager
    def acting_as(self, caller: Caller) -> Iterator[None]:
        """Act for `caller` while the body runs, in this thread or task alone: threads that the body starts name their own."""
        before = self._caller.set(caller)
        try:
            yield
        finally:
            self._caller.reset(before)

    @contextmanager
    def itself(self, by: Actor | None = None) -> Iterator[None]:
        """Do the node's own work while the body runs, in the name of who asked for it, if somebody did."""
        name, kind = (None, ActorKind.NODE) if by is None else (by.name, by.kind)
        with self.acting_as(Caller(name=name, itself=True, kind=kind)):
            yield

    def as_itself(self, work: Callable[P, R]) -> Callable[P, R]:
        """Return `work` as the node's own: for threads of the service, and for what answers partners."""

        @wraps(work)
        def own(*arguments: P.args, **options: P.kwargs) -> R:
            with self.itself():
                return work(*arguments, **options)

        return own

    def actor(self) -> Actor:
        """Return the caller as the audit log writes it."""
        return Actor(self.caller.kind, self.caller.name or audit.process_user())

    def sign_in(self, token: str | None) -> None:
        """Act for the user whose token this is, from now on in this thread; a node without users needs no token.

        Raises TokenNeeded, or InvalidToken for one that is unknown, revoked or expired: then nobody is signed in. In a
        service a thread serves many: there it raises NoCaller, and `acting_as` is the way.
        """
        from .users import Users

        if self._default.unknown:
            raise NoCaller(
                "a service signs nobody in for a whole thread", hint="a fault of this program: please report it"
            )
        self._caller.set(None)
        with self._home.refusals("user.sign-in", "node"), self._home.database.read() as tx:
            if _has_users(tx):
                self._caller.set(Users(self._home).identify(tx, token))

    def known(self) -> Caller:
        """Return the caller; raises NoCaller for nobody, the default of a service."""
        if self.caller.unknown:
            raise NoCaller(
                "this part of the service named no caller, so it may do nothing",
                hint="a fault of this program: please report it",
            )
        return self.caller

    def grants(self, tx: Tx) -> Grants | None:
        """Return the roles of the caller, as they are now; None: everything is allowed."""
        from .users import Users

        caller = self.known()
        if caller.itself or (caller.token is None and not _has_users(tx)):
            return None
        return Users(self._home).grants(tx, caller.token)

    def grants_of(self, tx: Tx, name: str) -> Grants:
        """Return the roles that a user has now; none where there is no such user."""
        from .roles import Roles

        known = Roles(self._home).known(tx)
        rows = tx.execute(
            select(tables.grants).join(users, users.c.id == tables.grants.c.user_id).where(users.c.name == name)
        )
        return [permissions.Grant(role=known[row.role], project_id=row.project_id) for row in rows]

    def check(self, tx: Tx, act: str, project_id: str | None) -> None:
        """Raise PermissionDenied unless the caller may do an act; it sees what the transaction sees."""
        self.known()
        needed = permissions.permissions_for(act)
        grants = None if needed is None else self.grants(tx)
        if needed is None or grants is None:
            return
        missing = permissions.missing(grants, needed, project_id)
        if missing:
            name = tx.scalar(select(projects.c.name).where(projects.c.id == project_id))
            raise PermissionDenied(self.actor().name, act, missing, name)

    def lacks(self, tx: Tx, role: Role, project_id: str | None) -> str | None:
        """Return what a role lets its user do or see in a project, or with None everywhere, and the caller may not; None
        for nothing."""
        grants = self.grants(tx)
        return None if grants is None else permissions.exceeds(grants, role, project_id)

    def require(self, act: str, target: str, project_id: str | None, **detail: Any) -> None:
        """Check what is no change of state, so leaves a row in the audit log only where it is refused."""
        with (
            self._home.refusals(act, target, project_id=project_id, detail=detail),
            self._home.database.read() as tx,
        ):
            self.check(tx, act, project_id)

    def viewable(self, found: "list[Scope]") -> "list[Scope]":
        """Return the projects that the caller may view."""
        with self._home.database.read() as tx:
            grants = self.grants(tx)
        return [each for each in found if grants is None or permissions.permits(grants, Permission.VIEW, each.id)]

    def opens(self, tx: Tx, project_id: str) -> bool:
        """Return whether the caller may view anything of a project, or work with its destinations."""
        grants = self.grants(tx)
        return grants is None or any(permissions.permits(grants, each, project_id) for each in permissions.OPENING)

    def reaches(self, project_id: str) -> bool:
        """Return whether the caller has a role in a project: else it is not there."""
        with self._home.database.read() as tx:
            grants = self.grants(tx)
        return grants is None or permissions.reaches(grants, project_id)

    def reached(self, tx: Tx) -> Reached:
        """Return the projects in which the caller has a role."""
        grants = self.grants(tx)
        if grants is None or any(grant.project_id is None for grant in grants):
            return Reached(None)
        ids = {grant.project_id for grant in grants}
        return Reached(frozenset(tx.scalars(select(projects.c.name).where(projects.c.id.in_(ids)))))

    def cleared(self, tx: Tx, project_id: str) -> frozenset[str] | None:
        """Return the labels that the caller may see in a project; None: every one."""
        grants = self.grants(tx)
        return None if grants is None else permissions.cleared(grants, project_id)

    def sources(self, tx: Tx, permission: Permission, project_id: str) -> frozenset[int] | None:
        """Return the data sources for which the caller has a permission in a project, by number; None: every one."""
        grants = self.grants(tx)
        return None if grants is None else permissions.sources(grants, permission, project_id)

    def limited(self, tx: Tx, project_id: str) -> bool:
        """Return whether there are labels that the caller may not see in a project."""
        return self.cleared(tx, project_id) is not None


def _has_users(tx: Tx) -> bool:
    return tx.execute(select(users.c.id).limit(1)).first() is not None
