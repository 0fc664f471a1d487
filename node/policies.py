"""Data usage policies: a marketing action, and the labels that forbid it.

An expression is over label names with AND, OR and parentheses, AND binding tighter: `C1 OR (C3 AND C7)`. It is asked of
one segment's labels at a time, so labels on different segments never combine.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, Row, select

from . import tables
from .errors import AlreadyExists, InvalidInput, NotFound, check_name
from .labels import STANDARD, Origin

if TYPE_CHECKING:
    from .project import Project

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One policy that forbids the action: which labels met its condition, where they sit, and what would help."""

    policy: str
    condition: str
    action: str
    labels: tuple[str, ...]
    lineage: tuple[str, ...]  # "C11 from dataset crm"
    fixes: tuple[str, ...]  # commands


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


Violations = list[Violation]


@dataclass(frozen=True, slots=True)
class Group:
    operator: Literal["AND", "OR"]
    parts: "tuple[Expression, ...]"


Expression = str | Group  # a str is one label


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
    held = set(labels)
    if isinstance(expression, str):
        return {expression} & held or None
    found = [met_by(part, held) for part in expression.parts]
    if (all if expression.operator == "AND" else any)(part is not None for part in found):
        return set().union(*(part for part in found if part is not None))
    return None


def evaluate(
    policies: Iterable[Policy], action: str, labels: Mapping[str, Sequence[Origin]], *, include_draft: bool = False
) -> Violations:
    """Return what forbids `action` for something that carries `labels`, with where each label came from.

    Only enabled policies count, and drafts where they are asked for.
    """
    counted = ("enabled", "draft") if include_draft else ("enabled",)
    found = []
    for policy in policies:
        if policy.action != action or policy.status not in counted:
            continue
        met = met_by(parse(policy.expression), labels)
        if met is not None:
            sources = [(label, origin) for label in sorted(met) for origin in labels[label]]
            found.append(
                Violation(
                    policy=policy.name,
                    condition=policy.expression,
                    action=action,
                    labels=tuple(sorted(met)),
                    lineage=tuple(f"{label} from {origin}" for label, origin in sources),
                    fixes=tuple(
                        f"vesica label remove {label} --{origin.kind} {origin.target}" for label, origin in sources
                    ),
                )
            )
    return found


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
        """Add a policy of the project's own."""
        from protocol.feed import MARKETING_USES

        with self._project.act("policy.create", name, detail={"action": action, "status": status}) as tx:
            check_name(name, "policy")
            if action not in MARKETING_USES:
                raise InvalidInput(
                    f"there is no marketing action {action!r}", hint=f"the actions are {', '.join(MARKETING_USES)}"
                )
            parsed = parse(expression)
            for label in labels_of(parsed):
                self._project.labels.resolve(tx, label)
            if any(policy.name == name for policy in self.list(tx)):
                raise AlreadyExists(f"there is a policy {name!r} already", hint="choose another name")
            policy = Policy(name=name, action=action, expression=_written(parsed), status=status)
            _insert(tx, policy, self._project.id, self._project.node.new_id())
        return policy

    def enable(self, name: str) -> None:
        self._set_status("policy.enable", name, "enabled")

    def disable(self, name: str) -> None:
        self._set_status("policy.disable", name, "disabled")

    def check(
        self,
        segment: str,
        *,
        action: str = SHARING,
        namespaces: Iterable[str] = (),
        include_draft: bool = False,
        connection: Connection | None = None,
    ) -> Violations:
        """Return what forbids `action` for one segment, carried by identities of `namespaces`.

        Each identity field that an export carries counts as a field of the segment does. Raises NotFound.
        """
        if connection is None:
            self._project.segments.show(segment)  # raises NotFound where it is hidden from whoever asks
            with self._project.node.store.read() as reading:
                return self.check(
                    segment, action=action, namespaces=namespaces, include_draft=include_draft, connection=reading
                )
        rows = tables.segments
        known = select(rows.c.id).where(rows.c.project_id == self._project.id, rows.c.name == segment)
        if connection.execute(known).first() is None:
            raise NotFound(f"there is no segment {segment!r}", hint="'vesica segment list' shows them")
        carried = [self._project.labels.labels_of_segment(segment, connection)]
        carried += [self._project.labels.labels_of_namespace(each, connection) for each in namespaces]
        labels: dict[str, set[Origin]] = {}
        for found in carried:
            for label, origins in found.items():
                labels.setdefault(label, set()).update(origins)
        ordered = {label: sorted(origins, key=str) for label, origins in labels.items()}
        return evaluate(self.list(connection), action, ordered, include_draft=include_draft)

    def _set_status(self, act: str, name: str, status: Status) -> None:
        rows = tables.policies
        with self._project.act(act, name) as tx:
            changed = tx.execute(
                rows.update().where(rows.c.project_id == self._project.id, rows.c.name == name).values(status=status)
            )
            if not changed.rowcount:
                raise NotFound(f"there is no policy {name!r}", hint="'vesica policy list' shows them")


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
