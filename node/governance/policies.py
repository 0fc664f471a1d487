"""Data usage policies: a marketing action, and the labels that forbid it.

An expression is over label names with AND, OR and parentheses, AND binding tighter: `C1 OR (C3 AND C7)`. It is asked of
one segment's labels at a time (`node.governance`), so labels on different segments never combine.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, Row, select

from ..errors import AlreadyExists, InvalidInput, NotFound, Refused, check_name
from ..storage import tables
from .labels import STANDARD, Kind, Origin

if TYPE_CHECKING:
    from ..project import Project

SHARING = "segment-match"  # the marketing action of every feed
MAX_EXPRESSION = 1_000  # characters
MAX_DEPTH = 50  # parentheses inside one another

Status = Literal["enabled", "disabled", "draft"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    name: str
    action: str
    expression: str
    status: Status


_STANDARD = (  # only the one on sharing is on in a new project
    ("restrict-data-sharing", SHARING, "C11 OR C12 OR C2"),
    ("restrict-analytics", "analytics", "C8"),
    ("restrict-combining-with-pii", "combine-with-pii", "C3 OR I1"),
    ("restrict-cross-site-targeting", "cross-site-targeting", "C4 OR C5"),
    ("restrict-data-science", "data-science", "C9"),
    ("restrict-email-targeting", "email-targeting", "C4"),
    ("restrict-third-party-export", "export-to-third-party", "C2 OR C12"),
    ("restrict-onsite-advertising", "onsite-advertising", "C4 OR C6"),
    ("restrict-onsite-personalisation", "onsite-personalisation", "C4 OR C7"),
    ("restrict-single-identity-personalisation", "single-identity-personalisation", "C10"),
)


@dataclass(frozen=True, slots=True)
class Group:
    operator: Literal["AND", "OR"]
    parts: "tuple[Expression, ...]"


Expression = str | Group  # a str is one label


@lru_cache(1_000)  # a check of all feeds asks for the same ones
def parse(text: str) -> Expression:
    """Parse a label expression; raises InvalidInput that says where it stops making sense."""
    if len(text) > MAX_EXPRESSION:
        raise _invalid(text, f"it is longer than {MAX_EXPRESSION} characters")
    words = [match[0] for match in re.finditer(r"[()]|[^()\s]+", text)]
    expression, rest = _alternatives(words, text, 0)
    if rest:
        raise _invalid(text, f"{rest[0][:40]!r} does not belong there")
    return expression


def labels_of(expression: Expression) -> set[str]:
    if isinstance(expression, str):
        return {expression}
    return set().union(*(labels_of(part) for part in expression.parts))


def met_by(expression: Expression, labels: Iterable[str]) -> set[str] | None:
    """Return the labels that meet an expression, None where they do not."""
    held = labels if isinstance(labels, set) else set(labels)
    if isinstance(expression, str):
        return {expression} if expression in held else None
    found = [met_by(part, held) for part in expression.parts]
    if (all if expression.operator == "AND" else any)(part is not None for part in found):
        return set().union(*(part for part in found if part is not None))
    return None


class Policies:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def list(self, connection: Connection | None = None) -> list[Policy]:
        """Return every policy, those of the standard catalogue included, by name."""
        if connection is None:
            with self._project.node.store.read() as reading:
                return self.list(reading)
        rows = tables.policies
        query = select(rows).where(rows.c.project_id == self._project.id).order_by(rows.c.name)
        return [_policy(row) for row in connection.execute(query)]

    def create(self, name: str, action: str, expression: str, *, status: Status = "enabled") -> Policy:
        """Add a policy of the project's own; refused where a published feed would break it (`node.governance`)."""
        detail = {"action": action, "status": status}
        with self._project.governance.act("policy.create", name, _place(name), detail=detail) as tx:
            check_name(name, "policy")
            if any(policy.name == name for policy in self.list(tx)):
                raise AlreadyExists(f"there is a policy {name!r} already", hint="choose another name")
            policy = self._checked(tx, Policy(name=name, action=action, expression=expression, status=status))
            _insert(tx, policy, self._project.id, self._project.node.new_id())
        return policy

    def edit(
        self, name: str, *, action: str | None = None, expression: str | None = None, status: Status | None = None
    ) -> Policy:
        """Change a policy of the project's own, also to a draft or back; refused where a published feed would break it."""
        detail = {"action": action, "expression": expression, "status": status}
        with self._project.governance.act("policy.edit", name, _place(name), detail=detail) as tx:
            before = self._own(tx, name)
            policy = self._checked(
                tx,
                Policy(
                    name=name,
                    action=before.action if action is None else action,
                    expression=before.expression if expression is None else expression,
                    status=before.status if status is None else status,
                ),
            )
            values = {"action": policy.action, "expression": policy.expression, "status": policy.status}
            rows = tables.policies
            tx.execute(rows.update().where(rows.c.project_id == self._project.id, rows.c.name == name).values(**values))
        return policy

    def delete(self, name: str) -> None:
        """Take a policy of the project's own away."""
        rows = tables.policies
        with self._project.act("policy.delete", name) as tx:
            self._own(tx, name)
            tx.execute(rows.delete().where(rows.c.project_id == self._project.id, rows.c.name == name))

    def enable(self, name: str) -> None:
        """Apply a policy from now on; refused where a published feed would break it."""
        self._set_status("policy.enable", name, "enabled")

    def disable(self, name: str) -> None:
        self._set_status("policy.disable", name, "disabled")

    def _checked(self, tx: Connection, policy: Policy) -> Policy:
        """Return a policy as it is stored; raises InvalidInput or NotFound where it makes no sense."""
        check_action(policy.action)
        parsed = parse(policy.expression)
        for label in labels_of(parsed):
            self._project.labels.resolve(tx, label)
        return replace(policy, expression=_written(parsed))

    def _get(self, tx: Connection, name: str) -> Policy:
        for policy in self.list(tx):
            if policy.name == name:
                return policy
        raise NotFound(f"there is no policy {name!r}", hint="'vesica policy list' shows them")

    def _own(self, tx: Connection, name: str) -> Policy:
        if name in (standard for standard, _, _ in _STANDARD):
            raise Refused(
                f"policy {name} is of the standard catalogue: it can be enabled and disabled",
                hint="vesica policy create NAME --action USE --when LABELS makes one of your own",
            )
        return self._get(tx, name)

    def _set_status(self, act: str, name: str, status: Status) -> None:
        rows = tables.policies
        with self._project.governance.act(act, name, _place(name)) as tx:
            self._get(tx, name)
            tx.execute(
                rows.update().where(rows.c.project_id == self._project.id, rows.c.name == name).values(status=status)
            )


def check_action(action: str) -> None:
    """Raise InvalidInput unless there is such a marketing action."""
    from protocol.feed import MARKETING_USES

    if action not in MARKETING_USES:
        raise InvalidInput(
            f"there is no marketing action {action[:80]!r}", hint=f"the actions are {', '.join(MARKETING_USES)}"
        )


def insert_standard(tx: Connection, project_id: str, new_id: Callable[[], str]) -> None:
    """Give a new project the standard policies."""
    for name, action, expression in _STANDARD:
        status: Status = "enabled" if action == SHARING else "disabled"
        _insert(tx, Policy(name=name, action=action, expression=expression, status=status), project_id, new_id())


def _insert(tx: Connection, policy: Policy, project_id: str, policy_id: str) -> None:
    tx.execute(
        tables.policies.insert().values(
            id=policy_id,
            project_id=project_id,
            name=policy.name,
            action=policy.action,
            expression=policy.expression,
            status=policy.status,
        )
    )


def _place(name: str) -> Origin:
    return Origin(kind=Kind.POLICY, target=name)


def _policy(row: Row[Any]) -> Policy:
    return Policy(name=row.name, action=row.action, expression=row.expression, status=row.status)


def _alternatives(words: list[str], text: str, depth: int) -> tuple[Expression, list[str]]:
    return _chain(words, text, depth, "OR", _conjunction)


def _conjunction(words: list[str], text: str, depth: int) -> tuple[Expression, list[str]]:
    return _chain(words, text, depth, "AND", _atom)


def _chain(
    words: list[str], text: str, depth: int, operator: Literal["AND", "OR"], part: "_Parser"
) -> tuple[Expression, list[str]]:
    first, rest = part(words, text, depth)
    parts = [first]
    while rest and rest[0].upper() == operator:
        following, rest = part(rest[1:], text, depth)
        parts.append(following)
    return (parts[0] if len(parts) == 1 else Group(operator, tuple(parts))), rest


def _atom(words: list[str], text: str, depth: int) -> tuple[Expression, list[str]]:
    if not words:
        raise _invalid(text, "it ends where a label is missing")
    word, rest = words[0], words[1:]
    if word == "(":
        if depth == MAX_DEPTH:
            raise _invalid(text, f"it is nested more than {MAX_DEPTH} deep")
        expression, rest = _alternatives(rest, text, depth + 1)
        if not rest or rest[0] != ")":
            raise _invalid(text, "a ')' is missing")
        return expression, rest[1:]
    if word == ")" or word.upper() in ("AND", "OR", "NOT"):
        raise _invalid(text, f"{word!r} stands where a label is missing")
    return (word.upper() if word.upper() in STANDARD else word), rest


_Parser = Callable[[list[str], str, int], tuple[Expression, list[str]]]


def _written(expression: Expression) -> str:
    if isinstance(expression, str):
        return expression
    parts = (f"({_written(part)})" if isinstance(part, Group) else part for part in expression.parts)
    return f" {expression.operator} ".join(parts)


def _invalid(text: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"cannot read the label expression {text[:80]!r}: {reason}", hint="for example 'C1 OR (C3 AND C7)'"
    )
