"""Data usage policies: a marketing action, and the labels that forbid it.

A condition is a label expression (expressions.py). It is checked against one segment's labels at a time (governance.py),
so labels on different segments never combine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, InvalidInput, NotAllowed, NotFound, check_name
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import record
from .expressions import labels_of, parse, written
from .lineage import Place, PlaceKind

SHARING = "segment-match"  # the marketing action of every feed


class PolicyStatus(StrEnum):
    """Whether a policy is applied: a draft by those checks alone that ask for drafts."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    name: str
    action: str
    expression: str
    status: PolicyStatus


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


class Policies:
    """The data usage policies of a project."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self, tx: Tx | None = None) -> list[Policy]:
        """Return every policy, those of the standard catalogue included, by name."""
        with self._scope.read(tx) as tx:
            rows = tables.policies
            query = select(rows).where(rows.c.project_id == self._scope.id).order_by(rows.c.name)
            return [record(Policy, row) for row in tx.execute(query)]

    def create(self, name: str, action: str, expression: str, *, status: PolicyStatus = PolicyStatus.ENABLED) -> Policy:
        """Add a policy of the project's own; refused where a published feed would break it."""
        from .governance import Governance

        detail = {"action": action, "status": status}
        with Governance(self._scope).act("policy.create", name, _place(name), detail=detail) as tx:
            check_name(name, "policy")
            if any(policy.name == name for policy in self.all(tx)):
                raise AlreadyExists(f"there is a policy {name!r} already", hint="choose another name")
            policy = self._checked(tx, Policy(name=name, action=action, expression=expression, status=status))
            _insert(tx, policy, self._scope.id, self._scope.home.new_id())
        return policy

    def edit(
        self, name: str, *, action: str | None = None, expression: str | None = None, status: PolicyStatus | None = None
    ) -> Policy:
        """Change a policy of the project's own, also to a draft or back; refused where a published feed would break it."""
        from .governance import Governance

        detail = {"action": action, "expression": expression, "status": status}
        with Governance(self._scope).act("policy.edit", name, _place(name), detail=detail) as tx:
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
            tx.execute(rows.update().where(rows.c.project_id == self._scope.id, rows.c.name == name).values(**values))
        return policy

    def delete(self, name: str) -> None:
        """Delete a policy of the project's own."""
        rows = tables.policies
        with self._scope.act("policy.delete", name) as tx:
            self._own(tx, name)
            tx.execute(rows.delete().where(rows.c.project_id == self._scope.id, rows.c.name == name))

    def enable(self, name: str) -> None:
        """Apply a policy from now on; refused where a published feed breaks it."""
        self._set_status("policy.enable", name, PolicyStatus.ENABLED)

    def disable(self, name: str) -> None:
        self._set_status("policy.disable", name, PolicyStatus.DISABLED)

    def _checked(self, tx: Tx, policy: Policy) -> Policy:
        """Return a policy as it is stored; raises InvalidInput for its action or expression, NotFound for a label."""
        from .labels import Labels

        check_action(policy.action)
        parsed = parse(policy.expression)
        for label in labels_of(parsed):
            Labels(self._scope).resolve(tx, label)
        return replace(policy, expression=written(parsed))

    def _get(self, tx: Tx, name: str) -> Policy:
        for policy in self.all(tx):
            if policy.name == name:
                return policy
        raise NotFound(f"there is no policy {name!r}", hint="look at the policies", remedy=Remedy("policy.list"))

    def _own(self, tx: Tx, name: str) -> Policy:
        if name in (standard for standard, _, _ in _STANDARD):
            raise NotAllowed(
                f"policy {name} is of the standard catalogue: it can be enabled and disabled",
                hint="make one of your own",
                remedy=Remedy("policy.create"),
            )
        return self._get(tx, name)

    def _set_status(self, act: str, name: str, status: PolicyStatus) -> None:
        from .governance import Governance

        rows = tables.policies
        with Governance(self._scope).act(act, name, _place(name)) as tx:
            self._get(tx, name)
            tx.execute(
                rows.update().where(rows.c.project_id == self._scope.id, rows.c.name == name).values(status=status)
            )


def check_action(action: str) -> None:
    """Raise InvalidInput unless there is such a marketing action."""
    from protocol.feed import MARKETING_USES

    if action not in MARKETING_USES:
        raise InvalidInput(
            f"there is no marketing action {action[:80]!r}", hint=f"the actions are {', '.join(MARKETING_USES)}"
        )


def insert_standard(tx: Tx, project_id: str, new_id: Callable[[], str]) -> None:
    """Give a new project the standard policies."""
    for name, action, expression in _STANDARD:
        status = PolicyStatus.ENABLED if action == SHARING else PolicyStatus.DISABLED
        _insert(tx, Policy(name=name, action=action, expression=expression, status=status), project_id, new_id())


def _insert(tx: Tx, policy: Policy, project_id: str, policy_id: str) -> None:
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


def _place(name: str) -> Place:
    return Place(kind=PlaceKind.POLICY, target=name)
