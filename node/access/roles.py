"""Roles: the ready-made ones, and a node's own."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy import select

from protocol.labels import STANDARD_LABELS, spelled_label
from psi.errors import Remedy

from ..errors import AlreadyExists, InvalidInput, NotAllowed, NotFound, check_name
from ..storage import tables
from ..storage.database import Tx
from .permissions import READY_MADE, WHOLE_SIGHT, Permission, Role

if TYPE_CHECKING:
    from .scope import Home


class Roles:
    """The roles that a node's users may be given: the ready-made ones, and those that the node adds."""

    def __init__(self, home: "Home") -> None:
        self._home = home

    def all(self) -> list[Role]:
        """Return every role, the ready-made ones first."""
        with self._home.read() as tx:
            self._home.guard.grants(tx)  # raises where the caller has to sign in
            return [*self.known(tx).values()]

    def create(
        self,
        name: str,
        permissions: Iterable[str],
        *,
        labels: Iterable[str] | None = None,
        sources: Iterable[int] | None = None,
    ) -> Role:
        """Add a role. With `labels` it shows only segments without labels, or all of whose labels are among them; with
        `sources`, numbers, only those data sources of the Audience Manager side, and what is of them.

        It gives nobody anything before it is granted, and nobody grants more than they have.
        """
        given, limit = sorted(set(permissions)), None if labels is None else sorted({_label(each) for each in labels})
        only = None if sources is None else sorted(set(sources))
        detail = {"permissions": given, "labels": limit} | ({} if only is None else {"sources": only})
        with self._home.act("role.create", name, detail=detail) as tx:
            check_name(name, "role")
            if name in self.known(tx):
                raise AlreadyExists(
                    f"there is a role {name!r} already", hint="see which there are", remedy=Remedy("role.list")
                )
            unknown = [each for each in given if each not in list(Permission)]
            if unknown or not given:
                said = f"there is no permission {unknown[0][:80]!r}" if unknown else "a role needs a permission"
                raise InvalidInput(said, hint=f"the permissions are {', '.join(Permission)}")
            unlimited = sorted(WHOLE_SIGHT & set(given))
            for limited, what in ((limit, "labels"), (only, "sources")):
                if unlimited and limited is not None:
                    raise InvalidInput(
                        f"a role with {unlimited[0]} cannot be limited to {what}",
                        hint=f"leave the {what} or the permission out",
                    )
            made = {"id": self._home.new_id(), "name": name, "created": self._home.now()}
            tx.execute(tables.roles.insert().values(**made, permissions=given, labels=limit, sources=only))
            return self.get(tx, name)

    def delete(self, name: str) -> None:
        """Take a role of the node's own away; refused while a user has it, and where it gives more than the caller has."""
        rows, grants = tables.roles, tables.grants
        with self._home.act("role.delete", name) as tx:
            role = self.get(tx, name)
            if name in READY_MADE:
                raise NotAllowed(f"role {name} is ready-made", hint="do not grant it")
            query = select(tables.users.c.name).join(grants, grants.c.user_id == tables.users.c.id)
            users = sorted(set(tx.scalars(query.where(grants.c.role == name))))
            if users:
                raise NotAllowed(
                    f"users have the role {name}: {', '.join(users)}",
                    hint="take it from them first",
                    remedy=Remedy("user.deny", {"name": users[0], "role": name}),
                )
            self.check_no_more(tx, [(role, None)])
            tx.execute(rows.delete().where(rows.c.name == name))

    def check_no_more(self, tx: Tx, given: Iterable[tuple[Role, str | None]]) -> None:
        """Refuse to give or take roles that let a user do or see what the caller may not, in the same place."""
        for role, project_id in given:
            more = self._home.guard.lacks(tx, role, project_id)
            if more:
                raise NotAllowed(
                    f"role {role.name} gives {more}, which {self._home.guard.actor().name} does not have there",
                    hint="ask an administrator who has it",
                )

    def known(self, tx: Tx) -> dict[str, Role]:
        """Return the roles by name, the ready-made ones first."""
        rows = tx.execute(select(tables.roles).order_by(tables.roles.c.name))
        own = [
            Role(
                name=row.name,
                permissions=frozenset(map(Permission, row.permissions)),
                labels=None if row.labels is None else frozenset(row.labels),
                sources=None if row.sources is None else frozenset(row.sources),
            )
            for row in rows
        ]
        return {**READY_MADE, **{role.name: role for role in own}}

    def get(self, tx: Tx, name: str) -> Role:
        """Return a role; raises NotFound."""
        role = self.known(tx).get(name)
        if role is None:
            raise NotFound(f"there is no role {name[:80]!r}", hint="see which there are", remedy=Remedy("role.list"))
        return role


def _label(given: str) -> str:
    """Return a label as the catalogues write it; those of one project need not be in another's."""
    name = spelled_label(given)
    return name if name in STANDARD_LABELS else check_name(given, "label")
