"""Who acts through an open node, and whether they may.

It is the node itself (its service, its jobs, what partners ask of it), a user who signed in with a token, or nobody by
name: whoever opened the home, who may do everything as long as the node has no users.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from ..storage.tables import projects, users
from . import audit, permissions
from .permissions import Grants, Permission, PermissionDenied

if TYPE_CHECKING:
    from ..node import Node
    from ..project import Project


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """`name` is what the audit log writes, None for the user of this process; `token` is the digest of a user's."""

    name: str | None = None
    token: bytes | None = None
    itself: bool = False


ANYBODY = Caller()
ITSELF = Caller(itself=True)


class Guard:
    """The one place that decides, for an open node, whether an act may be done."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._thread = threading.local()
        self.signed_in = ANYBODY

    @property
    def caller(self) -> Caller:
        own: Caller | None = getattr(self._thread, "caller", None)
        return own or self.signed_in

    @contextmanager
    def itself(self, name: str | None = None) -> Iterator[None]:
        """Let this thread do the node's own work meanwhile, in the name of whoever has asked for it, if anybody has."""
        before = getattr(self._thread, "caller", None)
        self._thread.caller = Caller(name=name, itself=True)
        try:
            yield
        finally:
            self._thread.caller = before

    def actor(self) -> str:
        """Return who acts, as the audit log writes it."""
        return self.caller.name or audit.process_user()

    def sign_in(self, token: str | None) -> None:
        """Act for the user whose token this is from now on; as long as there are no users nobody needs one.

        Raises TokenNeeded, or InvalidToken for one that is unknown, revoked or expired.
        """
        with self._node.refusals("user.sign-in", "node"), self._node.store.read() as connection:
            if _has_users(connection):
                self.signed_in = self._node.users.identify(connection, token)

    def grants(self, connection: Connection) -> Grants | None:
        """Return the roles of whoever acts, as they are now; None: everything is allowed."""
        caller = self.caller
        if caller.itself or (caller.token is None and not _has_users(connection)):
            return None
        return self._node.users.grants(connection, caller.token)

    def check(self, connection: Connection, act: str, project_id: str | None) -> None:
        """Raise PermissionDenied unless whoever acts may do an act; it sees what the connection sees."""
        permission = permissions.permission_for(act)
        grants = None if permission is None else self.grants(connection)
        if permission is not None and grants is not None and not permissions.holds(grants, permission, project_id):
            name = connection.scalar(select(projects.c.name).where(projects.c.id == project_id))
            raise PermissionDenied(self.actor(), act, permission, name)

    def require(self, act: str, target: str, project_id: str | None, **detail: Any) -> None:
        """Check what is no change of state, so leaves a row in the audit log only where it is refused."""
        with (
            self._node.refusals(act, target, project_id=project_id, detail=detail),
            self._node.store.read() as connection,
        ):
            self.check(connection, act, project_id)

    def viewable(self, found: "list[Project]") -> "list[Project]":
        """Return the projects that whoever acts may view."""
        with self._node.store.read() as connection:
            grants = self.grants(connection)
        return [each for each in found if grants is None or permissions.holds(grants, Permission.VIEW, each.id)]

    def reaches(self, project_id: str) -> bool:
        """Tell whether whoever acts has a role in a project: else it is not there."""
        with self._node.store.read() as connection:
            grants = self.grants(connection)
        return grants is None or permissions.reaches(grants, project_id)

    def cleared(self, connection: Connection, project_id: str) -> frozenset[str] | None:
        """Return the labels that whoever acts may see in a project; None: every one."""
        grants = self.grants(connection)
        return None if grants is None else permissions.cleared(grants, project_id)


def _has_users(connection: Connection) -> bool:
    return connection.execute(select(users.c.id).limit(1)).first() is not None
