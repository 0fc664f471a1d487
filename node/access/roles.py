"""Roles: the ready-made ones, and a node's own."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from ..errors import AlreadyExists, InvalidInput, NotFound, Refused, check_name
from ..governance.labels import STANDARD
from ..storage import tables
from .permissions import READY_MADE, Permission, Role

if TYPE_CHECKING:
    from ..node import Node


class Roles:
    def __init__(self, node: "Node") -> None:
        self._node = node

    def list(self) -> list[Role]:
        """Return every role, the ready-made ones first."""
        with self._node.store.read() as connection:
            self._node.guard.grants(connection)  # nobody is told who has not signed in
            return [*self.known(connection).values()]

    def create(self, name: str, permissions: Iterable[str], *, labels: Iterable[str] | None = None) -> Role:
        """Add a role. With `labels` its holder sees only segments all of whose labels are among them, and unlabelled ones."""
        given, limit = sorted(set(permissions)), None if labels is None else sorted({_label(each) for each in labels})
        with self._node.act("role.create", name, detail={"permissions": given, "labels": limit}) as tx:
            check_name(name, "role")
            if name in self.known(tx):
                raise AlreadyExists(f"there is a role {name!r} already", hint="'vesica role list' shows them")
            unknown = [each for each in given if each not in list_(Permission)]
            if unknown or not given:
                said = f"there is no permission {unknown[0][:80]!r}" if unknown else "a role needs a permission"
                raise InvalidInput(said, hint=f"the permissions are {', '.join(Permission)}")
            unlimited = sorted({Permission.ADMINISTER, Permission.AUDIT} & set(given))
            if unlimited and limit is not None:  # such a holder could lift the limit, or read around it
                raise InvalidInput(
                    f"a role with {unlimited[0]} cannot be limited to labels",
                    hint="leave the labels or the permission out",
                )
            tx.execute(
                tables.roles.insert().values(
                    id=self._node.new_id(), name=name, permissions=given, labels=limit, created=self._node.now()
                )
            )
            return self.get(tx, name)

    def delete(self, name: str) -> None:
        """Take a role of the node's own away; refused while a user has it."""
        rows, held = tables.roles, tables.grants
        with self._node.act("role.delete", name) as tx:
            self.get(tx, name)
            if name in READY_MADE:
                raise Refused(f"role {name} is ready-made", hint="do not grant it")
            query = select(tables.users.c.name).join(held, held.c.user_id == tables.users.c.id)
            users = sorted(set(tx.scalars(query.where(held.c.role == name))))
            if users:
                raise Refused(
                    f"role {name} is held by {', '.join(users)}", hint=f"first: vesica user deny {users[0]} {name}"
                )
            tx.execute(rows.delete().where(rows.c.name == name))

    def known(self, connection: Connection) -> dict[str, Role]:
        rows = connection.execute(select(tables.roles).order_by(tables.roles.c.name))
        own = [
            Role(
                name=row.name,
                permissions=frozenset(map(Permission, row.permissions)),
                labels=None if row.labels is None else frozenset(row.labels),
            )
            for row in rows
        ]
        return {**READY_MADE, **{role.name: role for role in own}}

    def get(self, connection: Connection, name: str) -> Role:
        role = self.known(connection).get(name)
        if role is None:
            raise NotFound(f"there is no role {name[:80]!r}", hint="'vesica role list' shows them")
        return role


list_ = list  # inside the class `list` is the method


def _label(given: str) -> str:
    """Return a label as the catalogues write it; those of one project need not be in another's."""
    return given.upper() if given.upper() in STANDARD else check_name(given, "label")
