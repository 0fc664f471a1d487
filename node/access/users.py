"""Users: who may use a node, with which roles, and the tokens that show it.

A token is 32 random bytes. It is shown once; only its SHA-256 is kept, which for so many random bits gives nothing away.
"""

import base64
import hashlib
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, delete, insert, select

from ..errors import AlreadyExists, InvalidInput, InvalidToken, NotFound, Refused, TokenNeeded, check_name
from ..storage import tables
from ..storage.tables import DAY
from . import permissions
from .guard import Caller
from .permissions import Grant, Grants, Permission, Role

if TYPE_CHECKING:
    from ..node import Node
    from ..project import Project

ADMINISTRATOR = "administrator"
TOKEN_DAYS = 90
MAX_TOKEN_DAYS = 366

_PREFIX = "vesica-token-"  # what a scanner for leaked secrets looks for
_HINT = "set VESICA_TOKEN to a token of yours; an administrator makes one: vesica user token NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """`roles` are pairs of a role and the project that it holds in, None for the node; `tokens` say when each expires."""

    name: str
    created: int
    roles: tuple[tuple[str, str | None], ...]
    tokens: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "created": self.created,
            "roles": [{"role": role, "project": project} for role, project in self.roles],
            "tokens": [{"expires": expires} for expires in self.tokens],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A new token: the only time that its text is seen."""

    user: str
    text: str
    expires: int


class Users:
    def __init__(self, node: "Node") -> None:
        self._node = node

    def create(
        self, name: str, roles: Iterable[str], *, project: "Project | None" = None, days: int = TOKEN_DAYS
    ) -> Token:
        """Add a user with roles in one project or in all, and return its first token.

        From the first user on every command needs a token, so the first has to be an administrator of the node.
        """
        given = list(dict.fromkeys(roles))
        with self._node.act("user.create", name, detail=_detail(given, project, days)) as tx:
            check_name(name, "user")
            if self._find(tx, name) is not None:
                raise AlreadyExists(f"there is a user {name!r} already", hint="'vesica user list' shows them")
            project_id = None if project is None else project.id
            self._check_held(tx, [(self._node.roles.get(tx, role), project_id) for role in given])
            user_id = self._insert(tx, name)
            for role in given:
                self._grant(tx, user_id, role, project)
            self._check_administrator(tx)
            return self._token(tx, user_id, name, days)

    def list(self) -> list[User]:
        self._node.guard.require("user.list", "users", None)
        with self._node.store.read() as connection:
            rows = connection.execute(select(tables.users).order_by(tables.users.c.name))
            return [self._user(connection, row) for row in rows]

    def show(self, name: str | None = None) -> User:
        """Return a user, by default the one who signed in; others are for administrators to see."""
        me = self._node.guard.caller.name
        if name is None and me is None:
            raise NotFound("nobody has signed in: this node has no users", hint="vesica user create NAME --role ROLE")
        if name not in (None, me):
            self._node.guard.require("user.list", str(name), None)
        with self._node.store.read() as connection:
            return self._user(connection, self._get(connection, name or str(me)))

    def grant(self, name: str, role: str, *, project: "Project | None" = None) -> None:
        """Give a user a role, in one project or for the node and all its projects."""
        with self._act("user.grant", name, project, _detail([role], project)) as tx:
            user = self._get(tx, name)
            if tx.execute(_grant(user.id, role, project)).first() is not None:
                raise AlreadyExists(f"{name} has the role {role} already", hint=f"vesica user show {name}")
            self._check_held(tx, [(self._node.roles.get(tx, role), None if project is None else project.id)])
            self._grant(tx, user.id, role, project)

    def deny(self, name: str, role: str, *, project: "Project | None" = None) -> None:
        """Take a role from a user; what it has submitted already is done."""
        with self._act("user.deny", name, project, _detail([role], project)) as tx:
            row = tx.execute(_grant(self._get(tx, name).id, role, project)).first()
            if row is None:
                where = "for the whole node" if project is None else f"in project {project.name}"
                raise NotFound(f"{name} has no role {role[:80]} {where}", hint=f"vesica user show {name}")
            tx.execute(delete(tables.grants).where(tables.grants.c.id == row.id))
            self._check_administrator(tx)

    def token(self, name: str, days: int = TOKEN_DAYS) -> Token:
        """Give a user one more token; those that it has stay. Refused for one who may do more than whoever acts."""
        with self._node.act("user.token", name, detail={"days": days}) as tx:
            user = self._get(tx, name)
            self._check_held(tx, [(each.role, each.project_id) for each in self._grants_of(tx, user.id)])
            return self._token(tx, user.id, name, days)

    def revoke(self, name: str) -> int:
        """End every token of a user at once, and return how many there were."""
        detail: dict[str, Any] = {}
        with self._node.act("user.revoke", name, detail=detail) as tx:
            detail["tokens"] = self._revoke(tx, self._get(tx, name))
            return int(detail["tokens"])

    def remove(self, name: str) -> None:
        """Take a user away with its roles and tokens. With the last one the node is its operator's alone again."""
        with self._node.act("user.remove", name) as tx:
            user = self._get(tx, name)
            self._revoke(tx, user)
            tx.execute(delete(tables.grants).where(tables.grants.c.user_id == user.id))
            tx.execute(delete(tables.users).where(tables.users.c.id == user.id))
            self._check_administrator(tx)

    def reset(self, name: str, days: int = TOKEN_DAYS) -> Token:
        """Make a user, a new one if need be, administrator of the node, with one new token in place of all it had.

        This is the way back for the operator, who has the home's files: nobody needs to have signed in, but keys under a
        passphrase have to be opened.
        """
        guard = self._node.guard
        with (
            guard.itself() if guard.caller.token is None else nullcontext(),
            self._node.act("user.reset", name, detail=_detail([ADMINISTRATOR], None, days)) as tx,
        ):
            check_name(name, "user")
            self._node.secrets.signing_key  # noqa: B018 - raises WrongPassphrase
            user = self._find(tx, name)
            held = [] if user is None else [(each.role, each.project_id) for each in self._grants_of(tx, user.id)]
            self._check_held(tx, [(self._node.roles.get(tx, ADMINISTRATOR), None), *held])
            user_id = self._insert(tx, name) if user is None else user.id
            if user is not None:
                self._revoke(tx, user)
            if tx.execute(_grant(user_id, ADMINISTRATOR, None)).first() is None:
                self._grant(tx, user_id, ADMINISTRATOR, None)
            return self._token(tx, user_id, name, days)

    def identify(self, connection: Connection, token: str | None) -> Caller:
        """Return whose token it is; raises TokenNeeded or InvalidToken."""
        if not token:
            raise TokenNeeded("this node has users: it needs to know which one you are", hint=_HINT)
        digest = hashlib.sha256(token.strip().encode()).digest()
        return Caller(name=self._holder(connection, digest).name, token=digest)

    def grants(self, connection: Connection, token: bytes | None) -> Grants:
        """Return the roles of a token's user as they are now; raises TokenNeeded or InvalidToken."""
        if token is None:
            raise TokenNeeded("this node has users: it needs to know which one you are", hint=_HINT)
        return self._grants_of(connection, self._holder(connection, token).id)

    def _grants_of(self, connection: Connection, user_id: str) -> "list_[Grant]":
        known = self._node.roles.known(connection)
        rows = connection.execute(select(tables.grants).where(tables.grants.c.user_id == user_id))
        return [Grant(role=known[row.role], project_id=row.project_id) for row in rows]

    def _check_held(self, tx: Connection, given: Iterable[tuple[Role, str | None]]) -> None:
        """Refuse to give roles that let their holder do or see what whoever acts may not, in the same place."""
        held = self._node.guard.grants(tx)
        for role, project_id in given:
            more = None if held is None else permissions.exceeds(held, role, project_id)
            if more:
                raise Refused(
                    f"role {role.name} gives {more}, which {self._node.guard.actor()} does not have there",
                    hint="ask an administrator who has it",
                )

    def _holder(self, connection: Connection, digest: bytes) -> Row[Any]:
        users, tokens = tables.users, tables.tokens
        query = select(users, tokens.c.expires).join(tokens, tokens.c.user_id == users.c.id)
        row = connection.execute(query.where(tokens.c.digest == digest)).first()
        if row is None:
            raise InvalidToken("that is no token of this node, or it was revoked", hint=_HINT)
        if row.expires <= self._node.now():
            raise InvalidToken(f"the token of {row.name} has expired", hint=_HINT)
        return row

    def _act(self, act: str, name: str, project: "Project | None", detail: dict[str, Any]) -> Any:
        return self._node.act(act, name, project_id=None if project is None else project.id, detail=detail)

    def _insert(self, tx: Connection, name: str) -> str:
        user_id = self._node.new_id()
        tx.execute(insert(tables.users).values(id=user_id, name=name, created=self._node.now()))
        return user_id

    def _grant(self, tx: Connection, user_id: str, role: str, project: "Project | None") -> None:
        self._node.roles.get(tx, role)
        project_id = None if project is None else project.id
        values = {"id": self._node.new_id(), "user_id": user_id, "role": role, "project_id": project_id}
        tx.execute(insert(tables.grants).values(**values))

    def _token(self, tx: Connection, user_id: str, name: str, days: int) -> Token:
        if not 1 <= days <= MAX_TOKEN_DAYS:
            raise InvalidInput(f"a token lasts 1 to {MAX_TOKEN_DAYS} days", hint="--days N")
        text = _PREFIX + base64.b32encode(self._node.random(32)).decode().rstrip("=").lower()
        now = self._node.now()
        tx.execute(
            insert(tables.tokens).values(
                id=self._node.new_id(),
                user_id=user_id,
                digest=hashlib.sha256(text.encode()).digest(),
                created=now,
                expires=now + days * DAY,
            )
        )
        return Token(user=name, text=text, expires=now + days * DAY)

    def _revoke(self, tx: Connection, user: Row[Any]) -> int:
        return tx.execute(delete(tables.tokens).where(tables.tokens.c.user_id == user.id)).rowcount

    def _check_administrator(self, tx: Connection) -> None:
        """Refuse to leave users without an administrator of the node."""
        users, held = list_(tx.scalars(select(tables.users.c.id))), tables.grants
        known = self._node.roles.known(tx)
        roles = tx.scalars(select(held.c.role).where(held.c.project_id.is_(None)))
        if users and not any(Permission.ADMINISTER in known[role].permissions for role in roles):
            raise Refused(
                "somebody has to administer the node, and nobody would",
                hint=f"give a user the role {ADMINISTRATOR} first, for the whole node: without --project",
            )

    def _find(self, connection: Connection, name: str) -> Row[Any] | None:
        return connection.execute(select(tables.users).where(tables.users.c.name == name)).first()

    def _get(self, connection: Connection, name: str) -> Row[Any]:
        row = self._find(connection, name)
        if row is None:
            raise NotFound(f"there is no user {name[:80]!r}", hint="'vesica user list' shows them")
        return row

    def _user(self, connection: Connection, row: Row[Any]) -> User:
        held, projects, tokens = tables.grants, tables.projects, tables.tokens
        query = (
            select(held.c.role, projects.c.name)
            .outerjoin(projects, projects.c.id == held.c.project_id)
            .where(held.c.user_id == row.id)
        )
        live = select(tokens.c.expires).where(tokens.c.user_id == row.id, tokens.c.expires > self._node.now())
        return User(
            name=row.name,
            created=row.created,
            roles=tuple(sorted(map(tuple, connection.execute(query)), key=lambda pair: (pair[1] or "", pair[0]))),
            tokens=tuple(connection.scalars(live.order_by(tokens.c.expires))),
        )


list_ = list  # inside the class `list` is the method


def _grant(user_id: str, role: str, project: "Project | None") -> Any:
    held = tables.grants
    where = held.c.project_id.is_(None) if project is None else held.c.project_id == project.id
    return select(held).where(held.c.user_id == user_id, held.c.role == role, where)


def _detail(roles: Iterable[str], project: "Project | None", days: int | None = None) -> dict[str, Any]:
    detail = {"roles": list_(roles), "project": None if project is None else project.name}
    return detail if days is None else {**detail, "days": days}
