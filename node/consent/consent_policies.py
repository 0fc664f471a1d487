"""Consent policies: for a marketing action, a label and some people, only those qualify who meet a condition.

They narrow what the consent model lets through, segment by segment, and never widen it. Conditions are segment rules,
over attributes, segments, and what people said: `consent.share` for all of a person, `consent.email_sha256` for their
identities in one namespace. A new project has none, and a new policy is disabled until somebody enables it.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, NotAllowed, NotFound, check_name
from ..governance.governance import Governance, received_in_policy
from ..governance.labels import Labels
from ..governance.lineage import Lineage, Place, PlaceKind
from ..governance.policies import SHARING, check_action
from ..governance.ports import Narrowing
from ..governance.visibility import Visibility
from ..people.consent import CODES
from ..people.datasets import namespaces
from ..people.snapshots import Snapshot
from ..segments import column_types, evaluation, references, rules
from ..segments.segments import Segments
from ..segments.trees import Tree
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import Document, record

Qualified = list[BitMap | None]  # for each segment, who qualifies; None where no policy applies

_SHARE = "share"  # what was said for all of a person


class ConsentPolicyStatus(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentPolicy:
    """IF a segment with `label` is used for `action`, and `applies` is true of a person, THEN `needs` must be true too.

    `label` and `applies` may be missing: then every segment, or everybody.
    """

    name: str
    action: str
    label: str | None
    applies: str | None
    applies_tree: Tree | None
    needs: str
    needs_tree: Tree
    status: ConsentPolicyStatus

    @property
    def uses(self) -> list[str]:
        """What the conditions read: "dataset.field", "own.SEGMENT", "received.PARTNER.SEGMENT", "consent.share"."""
        trees = [tree for tree in (self.applies_tree, self.needs_tree) if tree is not None]
        return sorted({leaf["field"] for tree in trees for leaf in rules.leaves(tree)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether a person meets a policy; None, and no name, where it reads what is hidden from the caller."""

    name: str
    label: str | None
    met: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Venn:
    """How a segment and the people who qualify under a policy overlap, in profiles; `applies` is whether the policy's
    label is on the segment at all."""

    segment: str
    size: int
    applies: bool
    segment_only: int
    consented_only: int
    both: int


def combine(policies: Sequence[tuple[ConsentPolicy, BitMap]], labels: Collection[str]) -> BitMap | None:
    """Return who qualifies under all policies that a segment with these labels falls under; None where none does."""
    found = [who for policy, who in policies if policy.label is None or policy.label in labels]
    return BitMap.intersection(*found) if found else None


def overlap(segment: str, members: BitMap, qualified: BitMap | None) -> Venn:
    """Return the three parts of the diagram; where no policy applies everybody in the segment qualifies."""
    consented = members if qualified is None else qualified
    both = len(members & consented)
    return Venn(
        segment=segment,
        size=len(members),
        applies=qualified is not None,
        segment_only=len(members) - both,
        consented_only=len(consented) - both,
        both=both,
    )


class ConsentPolicies:
    """The consent policies of a project, and who qualifies under them."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self) -> "list[ConsentPolicy]":
        """Return the policies by name, without those that read what is hidden from the caller."""
        with self._scope.read() as tx:
            visibility = Visibility(self._scope, tx)
            return [each for each in stored(self._scope, tx) if visibility.sees(_place(each.name))]

    def create(
        self,
        name: str,
        needs: str,
        *,
        action: str = SHARING,
        label: str | None = None,
        applies: str | None = None,
        enable: bool = False,
    ) -> ConsentPolicy:
        """Add a policy, disabled unless `enable` is given; the next run applies it.

        What it reads counts as read by all that it narrows, for its action: one that is enabled is refused where a
        published feed would break a policy by it. On sharing it may read nothing that was received.
        """
        detail: Document = {"action": action, "label": label, "enabled": enable}
        with Governance(self._scope).act("consent-policy.create", name, _place(name), detail=detail) as tx:
            check_name(name, "policy")
            if any(policy.name == name for policy in stored(self._scope, tx)):  # also a hidden one: names are unique
                raise AlreadyExists(f"there is a consent policy {name!r} already", hint="choose another name")
            policy = self._read(tx, name, needs, action=action, label=label, applies=applies)
            if action == SHARING and Lineage(self._scope, tx).received_in(policy.uses):
                raise received_in_policy(Place(kind=PlaceKind.CONSENT_POLICY, target=name), made=False)
            if enable:
                policy = replace(policy, status=ConsentPolicyStatus.ENABLED)
            policy_id = self._scope.home.new_id()
            tx.execute(
                tables.consent_policies.insert().values(id=policy_id, project_id=self._scope.id, **asdict(policy))
            )
        return policy

    def enable(self, name: str) -> None:
        self._set_status("consent-policy.enable", name, ConsentPolicyStatus.ENABLED)

    def disable(self, name: str) -> None:
        self._set_status("consent-policy.disable", name, ConsentPolicyStatus.DISABLED)

    def delete(self, name: str) -> None:
        rows = tables.consent_policies
        with Governance(self._scope).act("consent-policy.delete", name, _place(name)) as tx:
            self._check_there(tx, name)
            tx.execute(rows.delete().where(rows.c.project_id == self._scope.id, rows.c.name == name))

    def preview(
        self, segments: Sequence[str], needs: str, *, label: str | None = None, applies: str | None = None
    ) -> "list[Venn]":
        """Return how many people of each segment would qualify under a policy that is not saved; changes nothing."""
        snapshot = Snapshot.open(self._scope)
        with self._scope.read() as tx:
            policy = self._read(tx, "preview", needs, label=label, applies=applies)
            who = Visibility(self._scope, tx).narrowed(snapshot, self._who(tx, snapshot, policy))
            found = [(policy, who)]
            return [
                overlap(
                    each,
                    Segments(self._scope).members(each, snapshot),
                    combine(found, Labels(self._scope).labels_of_segment(each, tx)),
                )
                for each in segments
            ]

    def qualified(
        self,
        segments: Sequence[str],
        snapshot: Snapshot,
        *,
        actions: Collection[str] = (SHARING,),
        only: BitMap | None = None,
        tx: Tx | None = None,
    ) -> Qualified:
        """Return for each segment who qualifies, of all or of `only` some, for all actions under the enabled policies; empty
        where there are none."""
        with self._scope.read(tx) as tx:
            policies = [
                each
                for each in stored(self._scope, tx)
                if each.status is ConsentPolicyStatus.ENABLED and each.action in actions
            ]
            if not policies:
                return []
            found = [(each, self._who(tx, snapshot, each, only)) for each in policies]
            return [combine(found, Labels(self._scope).labels_of_segment(each, tx)) for each in segments]

    def judge(self, profile: int, snapshot: Snapshot) -> "list[Judgement]":
        """Return for each enabled policy on sharing whether a profile meets it."""
        with self._scope.read() as tx:
            visibility = Visibility(self._scope, tx)
            shown = {each.name: visibility.shown(_place(each.name)) for each in stored(self._scope, tx)}
            return [
                Judgement(
                    name=shown[each.name].target,
                    label=each.label,
                    met=profile in self._who(tx, snapshot, each) if shown[each.name] == _place(each.name) else None,
                )
                for each in stored(self._scope, tx)
                if each.status is ConsentPolicyStatus.ENABLED and each.action == SHARING
            ]

    def segments_read(self, actions: Collection[str] = (SHARING,), tx: Tx | None = None) -> list[str]:
        """Return our segments that enabled policies on some actions read: to be evaluated before one is applied."""
        with self._scope.read(tx) as tx:
            found = narrowings(self._scope, tx)
        return sorted(
            {n for each in found if each.enabled and each.action in actions for n in references.own(each.reads)}
        )

    def _who(self, tx: Tx, snapshot: Snapshot, policy: ConsentPolicy, only: BitMap | None = None) -> BitMap:
        """Return the profiles that qualify: those it does not apply to, and those that have what it needs.

        What cannot be found out counts against people: a condition on a received segment that is gone lets nobody pass.
        """
        everyone = snapshot.everyone if only is None else only - snapshot.erased
        needs = self._matching(tx, snapshot, policy.needs_tree, only)
        applies = everyone if policy.applies_tree is None else self._matching(tx, snapshot, policy.applies_tree, only)
        return (BitMap() if needs is None else needs) | (everyone - (everyone if applies is None else applies))

    def _matching(self, tx: Tx, snapshot: Snapshot, tree: Tree, only: BitMap | None = None) -> BitMap | None:
        read = {leaf["field"] for leaf in rules.leaves(tree)}
        columns = {
            field: _said(snapshot, field[1]) for name, field in _consent_fields(self._scope, tx).items() if name in read
        }
        try:
            return evaluation.matching(self._scope, tx, snapshot, tree, columns, only)
        except NotFound:
            return None

    def _read(
        self,
        tx: Tx,
        name: str,
        needs: str,
        *,
        action: str = SHARING,
        label: str | None = None,
        applies: str | None = None,
    ) -> ConsentPolicy:
        """Return the policy of these conditions, disabled; raises InvalidInput or NotFound where they cannot be read."""
        check_action(action)
        fields = evaluation.attribute_names(self._scope, tx, visible=True) | _consent_fields(self._scope, tx)
        policy = ConsentPolicy(
            name=name,
            action=action,
            label=None if label is None else Labels(self._scope).resolve(tx, label),
            applies=applies,
            applies_tree=None if applies is None else rules.parse(applies, fields).tree,
            needs=needs,
            needs_tree=rules.parse(needs, fields).tree,
            status=ConsentPolicyStatus.DISABLED,
        )
        evaluation.check_references(self._scope, tx, policy.uses)
        for _, tree in _conditions(policy):
            column_types.check(tree, Snapshot.open(self._scope, tx).attributes, fields)
        return policy

    def _set_status(self, act: str, name: str, status: ConsentPolicyStatus) -> None:
        rows = tables.consent_policies
        with Governance(self._scope).act(act, name, _place(name)) as tx:
            self._check_there(tx, name)
            mine = (rows.c.project_id == self._scope.id, rows.c.name == name)
            tx.execute(rows.update().where(*mine).values(status=status))

    def _check_there(self, tx: Tx, name: str) -> None:
        """Raise NotFound for a policy that does not exist, or reads what is hidden from the caller."""
        known = any(policy.name == name for policy in stored(self._scope, tx))
        if not known or not Visibility(self._scope, tx).sees(_place(name)):
            raise NotFound(
                f"there is no consent policy {name[:80]!r}",
                hint="see which there are",
                remedy=Remedy("consent.policy.list"),
            )


def stored(scope: Scope, tx: Tx) -> list[ConsentPolicy]:
    """Return all consent policies of a project by name, also those that are hidden from the caller."""
    rows = tables.consent_policies
    query = select(rows).where(rows.c.project_id == scope.id).order_by(rows.c.name)
    return [record(ConsentPolicy, row) for row in tx.execute(query)]


def conditions(scope: Scope, tx: Tx) -> list[tuple[str, Tree]]:
    """Return the conditions of the policies that the caller may see, with the policy's name."""
    visibility = Visibility(scope, tx)
    return [
        each for policy in stored(scope, tx) if visibility.sees(_place(policy.name)) for each in _conditions(policy)
    ]


def _conditions(policy: ConsentPolicy) -> list[tuple[str, Tree]]:
    return [(policy.name, tree) for tree in (policy.applies_tree, policy.needs_tree) if tree is not None]


def narrowings(scope: Scope, tx: Tx) -> list[Narrowing]:
    """Return what the consent policies narrow and read, as governance asks it; what people said is no field with labels."""
    policies = stored(scope, tx)
    said = set(_consent_fields(scope, tx)) if policies else set()
    return [
        Narrowing(
            policy=each.name,
            action=each.action,
            label=each.label,
            reads=tuple(use for use in each.uses if use not in said),
            enabled=each.status is ConsentPolicyStatus.ENABLED,
        )
        for each in policies
    ]


def check_not_read(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise NotAllowed if the condition of a policy reads a segment of ours."""
    names = [policy.name for policy in stored(scope, tx) if segment in references.own(policy.uses)]
    if not names:
        return
    visibility = Visibility(scope, tx)
    shown = [name for name in names if visibility.sees(_place(name))]
    policies = f"consent policy {', '.join(shown)}" if shown else "a consent policy"
    raise NotAllowed(
        f"segment {segment} is a condition of {policies}",
        hint="delete that policy first" if shown else "ask somebody who may see it",
        remedy=Remedy("consent.policy.delete", {"name": shown[0]}) if shown else None,
    )


def _said(snapshot: Snapshot, name: str) -> npt.NDArray[Any]:
    """Return what people said, for all of them or in a namespace, as a column of text with a row for each profile."""
    codes = np.array(snapshot.profile_consent)
    if name != _SHARE:
        codes, noted = np.zeros(snapshot.profile_count, np.uint8), snapshot.noted(name)
        codes[noted["profile"]] = noted["code"]
    return np.array([text or None for text in CODES], object)[codes]


def _consent_fields(scope: Scope, tx: Tx) -> dict[str, rules.FieldPath]:
    names = sorted({each.partition("/")[0] for each in namespaces(scope, tx)})
    return {f"consent.{name}": ("consent", name) for name in (_SHARE, *names)}


def _place(name: str) -> Place:
    return Place(kind=PlaceKind.CONSENT_POLICY, target=name)
