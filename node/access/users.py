"""Users: who may use a node, with which roles, and the tokens that show it.

A token is 32 random bytes. It is shown once; only its SHA-256 is kept, which for so many random bits gives nothing away.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, delete, insert, select

from psi.errors import Remedy

from ..errors import AlreadyExists, InvalidInput, InvalidToken, NotAllowed, NotFound, TokenNeeded, check_name
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import Document, record
from ..storage.tables import DAY
from . import permissions
from .guard import OPERATOR, Caller
from .permissions import READY_MADE, Grant, Grants
from .roles import Roles

if TYPE_CHECKING:
    from .scope import Home, Scope


ADMINISTRATOR = "administrator"
TOKEN_DAYS = 90
MAX_TOKEN_DAYS = 366

NAMED: dict[str, Callable[[Tx, str], bool]] = {}
"""By noun, whether somebody other than a user acts on the node under a name; filled by node/wiring.py."""

_PREFIX = "vesica-token-"  # what a scanner for leaked secrets looks for


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """`roles` are pairs of a role and its project, None for the node; `tokens` are the times at which each expires."""

    name: str
    created: int
    roles: tuple[tuple[str, str | None], ...]
    tokens: tuple[int, ...]

    def as_dict(self) -> Document:
        return {
            "name": self.name,
            "created": self.created,
            "roles": [{"role": role, "project": scope} for role, scope in self.roles],
            "tokens": [{"expires": expires} for expires in self.tokens],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A new token: the only time that its text is seen."""

    user: str
    text: str
    expires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _UserRow:
    id: str
    name: str
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    """The user of a token, and when the token expires."""

    id: str
    name: str
    expires: int


class Users:
    """The users of a node, with the roles that they have and the tokens that sign them in."""

    def __init__(self, home: "Home") -> None:
        self._home = home

    def create(self, name: str, roles: Iterable[str], *, scope: "Scope | None" = None, days: int = TOKEN_DAYS) -> Token:
        """Add a user with roles in one project or in all, and return its first token.

        From the first user on every command needs a token, so the first has to be an administrator of the node.
        """
        given = list(dict.fromkeys(roles))
        with self._home.act("user.create", name, detail=_detail(given, scope, days)) as tx:
            self._check_free(tx, name)
            project_id = None if scope is None else scope.id
            Roles(self._home).check_no_more(tx, [(Roles(self._home).get(tx, role), project_id) for role in given])
            user_id = self._insert(tx, name)
            for role in given:
                self._grant(tx, user_id, role, scope)
            self._check_sight(tx, self._get(tx, name), ())
            self._check_administrator(tx)
            return self._token(tx, user_id, name, days)

    def all(self) -> list[User]:
        """Return the users, by name; for administrators."""
        self._home.guard.require("user.list", "users", None)
        with self._home.read() as tx:
            rows = tx.execute(select(tables.users).order_by(tables.users.c.name))
            return [self._user(tx, record(_UserRow, row)) for row in rows]

    def show(self, name: str | None = None) -> User:
        """Return a user, by default the caller; other users are for administrators to see."""
        me = self._home.guard.known().name
        if name is None and me is None:
            raise NotFound(
                "nobody has signed in: this node has no users", hint="make the first", remedy=Remedy("user.create")
            )
        if name not in (None, me):
            self._home.guard.require("user.list", str(name), None)
        with self._home.read() as tx:
            return self._user(tx, self._get(tx, name or str(me)))

    def grant(self, name: str, role: str, *, scope: "Scope | None" = None) -> None:
        """Give a user a role, in one project or for the node and all its projects."""
        with self._act("user.grant", name, scope, _detail([role], scope)) as tx:
            user = self._get(tx, name)
            if tx.execute(_grants(user.id, role, scope)).first() is not None:
                raise AlreadyExists(
                    f"{name} has the role {role} already",
                    hint="see which roles there are",
                    remedy=Remedy("user.show", {"name": name}),
                )
            Roles(self._home).check_no_more(
                tx, [(Roles(self._home).get(tx, role), None if scope is None else scope.id)]
            )
            before = self._grants_of(tx, user.id)
            self._grant(tx, user.id, role, scope)
            self._check_sight(tx, user, before)

    def deny(self, name: str, role: str, *, scope: "Scope | None" = None) -> None:
        """Take a role from a user; jobs that it has submitted are done all the same.

        Refused for a user who may do more there than the caller.
        """
        with self._act("user.deny", name, scope, _detail([role], scope)) as tx:
            user = self._get(tx, name)
            row = tx.execute(_grants(user.id, role, scope)).first()
            if row is None:
                where = "for the whole node" if scope is None else f"in project {scope.name}"
                raise NotFound(
                    f"{name} has no role {role[:80]} {where}",
                    hint="see which roles there are",
                    remedy=Remedy("user.show", {"name": name}),
                )
            self._check_not_above(tx, user, scope)
            before = self._grants_of(tx, user.id)
            tx.execute(delete(tables.grants).where(tables.grants.c.id == row.id))
            self._check_sight(tx, user, before)
            self._check_administrator(tx)

    def token(self, name: str, days: int = TOKEN_DAYS) -> Token:
        """Give a user one more token; those that it has stay. Refused for a user who may do more than the caller."""
        with self._home.act("user.token", name, detail={"days": days}) as tx:
            user = self._get(tx, name)
            self._check_not_above(tx, user)
            return self._token(tx, user.id, name, days)

    def revoke(self, name: str) -> int:
        """End every token of a user at once, and return how many there were.

        Refused for a user who may do more than the caller.
        """
        detail: Document = {}
        with self._home.act("user.revoke", name, detail=detail) as tx:
            user = self._get(tx, name)
            self._check_not_above(tx, user)
            detail["tokens"] = self._revoke(tx, user)
            return int(detail["tokens"])

    def remove(self, name: str) -> None:
        """Take a user away with its roles and tokens; refused for one who may do more than the caller, and for the last
        administrator, so that nobody ends the need for tokens with a token."""
        with self._home.act("user.remove", name) as tx:
            user = self._get(tx, name)
            self._check_not_above(tx, user)
            self._remove(tx, user)
            self._check_administrator(tx)

    def remove_all(self) -> list[str]:
        """Take all users away, so that the node is its operator's alone again; returns who they were.

        Only the operator may, who has the home's files and the passphrase of the keys: no token is enough.
        """
        detail: Document = {}
        guard = self._home.guard
        by_operator = guard.caller == OPERATOR
        with (
            guard.itself(guard.actor()) if by_operator else nullcontext(),
            self._home.act("user.reset", "all", detail=detail) as tx,
        ):
            if not by_operator:
                raise NotAllowed(
                    "nobody takes all users away with a token",
                    hint="whoever has the files of the home does it, without a token",
                    remedy=Remedy("user.reset", {"remove_all": True}),
                )
            self._home.keys.signing_key  # noqa: B018 - raises WrongPassphrase
            found = [record(_UserRow, row) for row in tx.execute(select(tables.users).order_by(tables.users.c.name))]
            for user in found:
                self._remove(tx, user)
            detail["removed"] = [user.name for user in found]
        return [user.name for user in found]

    def reset(self, name: str, days: int = TOKEN_DAYS) -> Token:
        """Make a user, a new one if need be, administrator of the node, with one new token in place of all it had.

        This is the way back for the operator, who has the home's files: it needs no token, but the passphrase of the keys.
        """
        guard = self._home.guard
        with (
            guard.itself(guard.actor()) if guard.caller == OPERATOR else nullcontext(),
            self._home.act("user.reset", name, detail=_detail([ADMINISTRATOR], None, days)) as tx,
        ):
            check_name(name, "user")
            self._home.keys.signing_key  # noqa: B018 - raises WrongPassphrase
            user = self._find(tx, name)
            if user is None:
                self._check_free(tx, name)
            present = [] if user is None else [(each.role, each.project_id) for each in self._grants_of(tx, user.id)]
            Roles(self._home).check_no_more(tx, [(Roles(self._home).get(tx, ADMINISTRATOR), None), *present])
            user_id = self._insert(tx, name) if user is None else user.id
            if user is not None:
                self._revoke(tx, user)
            if tx.execute(_grants(user_id, ADMINISTRATOR, None)).first() is None:
                self._grant(tx, user_id, ADMINISTRATOR, None)
            return self._token(tx, user_id, name, days)

    def identify(self, tx: Tx, token: str | None) -> Caller:
        """Return the user of a token; raises TokenNeeded or InvalidToken."""
        if not token:
            raise self._no_token(tx)
        digest = hashlib.sha256(token.strip().encode()).digest()
        return Caller(name=self._owner(tx, digest).name, token=digest)

    def grants(self, tx: Tx, token: bytes | None) -> Grants:
        """Return the roles of a token's user as they are now; raises TokenNeeded or InvalidToken."""
        if token is None:
            raise self._no_token(tx)
        return self._grants_of(tx, self._owner(tx, token).id)

    def _grants_of(self, tx: Tx, user_id: str) -> "list[Grant]":
        known = Roles(self._home).known(tx)
        rows = tx.execute(select(tables.grants).where(tables.grants.c.user_id == user_id))
        return [Grant(role=known[row.role], project_id=row.project_id) for row in rows]

    def _check_not_above(self, tx: Tx, user: _UserRow, scope: "Scope | None" = None) -> None:
        """Refuse to touch a user who may do or see more than the caller: everywhere, or with a `scope` in that project."""
        places = [(each.role, each.project_id) for each in self._grants_of(tx, user.id)]
        if scope is not None:
            places = [(role, scope.id) for role, project_id in places if project_id in (None, scope.id)]
        Roles(self._home).check_no_more(tx, places)

    def _check_sight(self, tx: Tx, user: _UserRow, before: Grants) -> None:
        """Refuse a change of what a user had `before` that leaves more of them with limited sight and a permission that
        needs all of it."""
        more = permissions.without_sight(self._grants_of(tx, user.id)) - permissions.without_sight(before)
        for permission in sorted({permission for permission, _ in more}):
            raise NotAllowed(
                f"{user.name} would have the permission {permission} from one role, and sight that another limits",
                hint="give a role that sees all as well, or take the one that limits it first",
            )

    def _owner(self, tx: Tx, digest: bytes) -> _Owner:
        users, tokens = tables.users, tables.tokens
        query = select(users, tokens.c.expires).join(tokens, tokens.c.user_id == users.c.id)
        row = tx.execute(query.where(tokens.c.digest == digest)).first()
        if row is None:
            hint, remedy = self._way_in(tx)
            raise InvalidToken("that is no token of this node, or it was revoked", hint=hint, remedy=remedy)
        owner = record(_Owner, row)
        if owner.expires <= self._home.now():
            hint, remedy = self._way_in(tx, owner.name)
            raise InvalidToken(f"the token of {owner.name} has expired", hint=hint, remedy=remedy)
        return owner

    def _no_token(self, tx: Tx) -> TokenNeeded:
        hint, remedy = self._way_in(tx)
        return TokenNeeded("this node has users: it needs to know which one you are", hint=hint, remedy=remedy)

    def _way_in(self, tx: Tx, name: str = "") -> tuple[str, Remedy]:
        """Return how a user gets a token; where no other user could make one, only the operator of the home can."""
        given, users, now = {"name": name} if name else {}, tables.users.c, self._home.now()
        valid = select(users.id).join(tables.tokens).where(tables.tokens.c.expires > now, users.name != name)
        able = any(tx.execute(_grants(each, ADMINISTRATOR, None)).first() for each in tx.scalars(valid).all())
        if able and len(tx.scalars(select(users.id)).all()) > 1:
            return "set VESICA_TOKEN to a token of yours; an administrator makes one", Remedy("user.token", given)
        lost = "set VESICA_TOKEN; if your token is lost" if able else "no administrator has a valid token"
        return f"{lost}, the operator of the home gets back in", Remedy("user.reset", given)

    def _act(self, act: str, name: str, scope: "Scope | None", detail: Document) -> AbstractContextManager[Tx]:
        return self._home.act(act, name, project_id=None if scope is None else scope.id, detail=detail)

    def _insert(self, tx: Tx, name: str) -> str:
        user_id = self._home.new_id()
        tx.execute(insert(tables.users).values(id=user_id, name=name, created=self._home.now()))
        return user_id

    def _grant(self, tx: Tx, user_id: str, role: str, scope: "Scope | None") -> None:
        Roles(self._home).get(tx, role)
        project_id = None if scope is None else scope.id
        values = {"id": self._home.new_id(), "user_id": user_id, "role": role, "project_id": project_id}
        tx.execute(insert(tables.grants).values(**values))

    def _token(self, tx: Tx, user_id: str, name: str, days: int) -> Token:
        if not 1 <= days <= MAX_TOKEN_DAYS:
            raise InvalidInput(f"a token lasts 1 to {MAX_TOKEN_DAYS} days", hint="give a number of days in that range")
        text = _PREFIX + base64.b32encode(self._home.random(32)).decode().rstrip("=").lower()
        now = self._home.now()
        tx.execute(
            insert(tables.tokens).values(
                id=self._home.new_id(),
                user_id=user_id,
                digest=hashlib.sha256(text.encode()).digest(),
                created=now,
                expires=now + days * DAY,
            )
        )
        return Token(user=name, text=text, expires=now + days * DAY)

    def _revoke(self, tx: Tx, user: _UserRow) -> int:
        return tx.execute(delete(tables.tokens).where(tables.tokens.c.user_id == user.id)).rowcount

    def _remove(self, tx: Tx, user: _UserRow) -> None:
        self._revoke(tx, user)
        tx.execute(delete(tables.grants).where(tables.grants.c.user_id == user.id))
        tx.execute(delete(tables.users).where(tables.users.c.id == user.id))

    def _check_administrator(self, tx: Tx) -> None:
        """Refuse to leave the node without a user who may do and see everything: nobody else could grant all of it."""
        whole = READY_MADE[ADMINISTRATOR]
        users = tx.scalars(select(tables.users.c.id)).all()
        if all(permissions.exceeds(self._grants_of(tx, each), whole, None) for each in users):
            raise NotAllowed(
                "somebody has to administer the node, and nobody would",
                hint=f"give a user the role {ADMINISTRATOR} first, for the whole node and not for one project",
            )

    def _check_free(self, tx: Tx, name: str) -> None:
        """Refuse a name for a user that another one has, or somebody else who acts here."""
        check_name(name, "user")
        if self._find(tx, name) is not None:
            raise AlreadyExists(
                f"there is a user {name!r} already", hint="see which there are", remedy=Remedy("user.list")
            )
        for noun, has in NAMED.items():
            if has(tx, name):
                raise AlreadyExists(
                    f"there is a {noun} {name!r}: the audit log would have two actors of that name",
                    hint="choose another name for the user",
                )

    def _find(self, tx: Tx, name: str) -> _UserRow | None:
        row = tx.execute(select(tables.users).where(tables.users.c.name == name)).first()
        return None if row is None else record(_UserRow, row)

    def _get(self, tx: Tx, name: str) -> _UserRow:
        user = self._find(tx, name)
        if user is None:
            raise NotFound(f"there is no user {name[:80]!r}", hint="see which there are", remedy=Remedy("user.list"))
        return user

    def _user(self, tx: Tx, user: _UserRow) -> User:
        grants, projects, tokens = tables.grants, tables.projects, tables.tokens
        query = (
            select(grants.c.role, projects.c.name)
            .outerjoin(projects, projects.c.id == grants.c.project_id)
            .where(grants.c.user_id == user.id)
        )
        live = select(tokens.c.expires).where(tokens.c.user_id == user.id, tokens.c.expires > self._home.now())
        return User(
            name=user.name,
            created=user.created,
            roles=tuple(sorted(map(tuple, tx.execute(query)), key=lambda pair: (pair[1] or "", pair[0]))),
            tokens=tuple(tx.scalars(live.order_by(tokens.c.expires))),
        )


def _grants(user_id: str, role: str, scope: "Scope | None") -> Select[Any]:
    """Return the query for what gives a user a role there."""
    rows = tables.grants
    where = rows.c.project_id.is_(None) if scope is None else rows.c.project_id == scope.id
    return select(rows).where(rows.c.user_id == user_id, rows.c.role == role, where)


def _detail(roles: Iterable[str], scope: "Scope | None", days: int | None = None) -> Document:
    detail = {"roles": list(roles), "project": None if scope is None else scope.name}
    return detail if days is None else {**detail, "days": days}
