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
from ..errors import AlreadyExists, InvalidInput, NotAllowed, NotFound, check_name
from ..governance.labels import Labels
from ..governance.policies import SHARING, check_action
from ..governance.visibility import Visibility
from ..people.consent import CODES
from ..people.datasets import namespaces
from ..people.snapshots import Snapshot
from ..segments import evaluation, references, rules
from ..segments.segments import Segments
from ..segments.trees import Tree
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import record

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
    """Whether a person meets a policy; None where it reads what is hidden from the caller."""

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

    def all(self, tx: Tx | None = None) -> "list[ConsentPolicy]":
        with self._scope.read(tx) as tx:
            rows = tables.consent_policies
            query = select(rows).where(rows.c.project_id == self._scope.id).order_by(rows.c.name)
            return [record(ConsentPolicy, row) for row in tx.execute(query)]

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
        """Add a policy, disabled unless `enable` is given; the next run applies it."""
        detail = {"action": action, "label": label, "enabled": enable}
        with self._scope.act("consent-policy.create", name, detail=detail) as tx:
            check_name(name, "policy")
            if any(policy.name == name for policy in self.all(tx)):
                raise AlreadyExists(f"there is a consent policy {name!r} already", hint="choose another name")
            policy = self._read(tx, name, needs, action=action, label=label, applies=applies)
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
        with self._scope.act("consent-policy.delete", name) as tx:
            gone = tx.execute(rows.delete().where(rows.c.project_id == self._scope.id, rows.c.name == name))
            if not gone.rowcount:
                raise _missing(name)

    def preview(
        self, segments: Sequence[str], needs: str, *, label: str | None = None, applies: str | None = None
    ) -> "list[Venn]":
        """Return how many people of each segment would qualify under a policy that is not saved; changes nothing."""
        snapshot = Snapshot.open(self._scope)
        with self._scope.read() as tx:
            policy = self._read(tx, "preview", needs, label=label, applies=applies)
            found = [(policy, self._who(tx, snapshot, policy))]
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
        tx: Tx | None = None,
    ) -> Qualified:
        """Return for each segment who qualifies for all actions under the enabled policies; empty where there are none."""
        with self._scope.read(tx) as tx:
            policies = [
                each for each in self.all(tx) if each.status is ConsentPolicyStatus.ENABLED and each.action in actions
            ]
            if not policies:
                return []
            found = [(each, self._who(tx, snapshot, each)) for each in policies]
            return [combine(found, Labels(self._scope).labels_of_segment(each, tx)) for each in segments]

    def judge(self, profile: int, snapshot: Snapshot) -> "list[Judgement]":
        """Return for each enabled policy on sharing whether a profile meets it."""
        with self._scope.read() as tx:
            return [
                Judgement(name=each.name, label=each.label, met=self._met(tx, snapshot, each, profile))
                for each in self.all(tx)
                if each.status is ConsentPolicyStatus.ENABLED and each.action == SHARING
            ]

    def _met(self, tx: Tx, snapshot: Snapshot, policy: ConsentPolicy, profile: int) -> bool | None:
        if Visibility(self._scope, tx).limited:
            try:
                self._read(tx, policy.name, policy.needs, label=policy.label, applies=policy.applies)
            except (NotFound, InvalidInput):
                return None
        return profile in self._who(tx, snapshot, policy)

    def stamp(self, tx: Tx) -> tuple[str, ...]:
        """Return a stamp of the received segments that enabled policies read; it differs once their members do."""
        read = {use for policy in self.all(tx) if policy.status is ConsentPolicyStatus.ENABLED for use in policy.uses}
        return references.stamp(self._scope, tx, read)

    def _who(self, tx: Tx, snapshot: Snapshot, policy: ConsentPolicy) -> BitMap:
        """Return the profiles that qualify: those it does not apply to, and those that have what it needs.

        What cannot be found out counts against people: a condition on a received segment that is gone lets nobody pass.
        """
        everyone = BitMap(range(snapshot.profile_count))
        needs = self._matching(tx, snapshot, policy.needs_tree)
        applies = everyone if policy.applies_tree is None else self._matching(tx, snapshot, policy.applies_tree)
        return (BitMap() if needs is None else needs) | (everyone - (everyone if applies is None else applies))

    def _matching(self, tx: Tx, snapshot: Snapshot, tree: Tree) -> BitMap | None:
        read = {leaf["field"] for leaf in rules.leaves(tree)}
        columns = {field: _said(snapshot, field[1]) for name, field in self._consent_fields().items() if name in read}
        try:
            return evaluation.matching(self._scope, tx, snapshot, tree, columns)
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
        fields = evaluation.attribute_names(self._scope, tx, visible=True) | self._consent_fields()
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
        return policy

    def _consent_fields(self) -> dict[str, rules.FieldPath]:
        names = sorted({each.partition("/")[0] for each in namespaces(self._scope)})
        return {f"consent.{name}": ("consent", name) for name in (_SHARE, *names)}

    def _set_status(self, act: str, name: str, status: ConsentPolicyStatus) -> None:
        rows = tables.consent_policies
        with self._scope.act(act, name) as tx:
            mine = (rows.c.project_id == self._scope.id, rows.c.name == name)
            if not tx.execute(rows.update().where(*mine).values(status=status)).rowcount:
                raise _missing(name)


def check_not_read(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise NotAllowed if the condition of a policy reads a segment of ours."""
    names = [policy.name for policy in ConsentPolicies(scope).all(tx) if segment in references.own(policy.uses)]
    if names:
        raise NotAllowed(
            f"segment {segment} is a condition of consent policy {', '.join(names)}",
            hint="delete that policy first",
            remedy=Remedy("consent.policy.delete", {"name": names[0]}),
        )


def _said(snapshot: Snapshot, name: str) -> npt.NDArray[Any]:
    """Return what people said, for all of them or in a namespace, as a column of text with a row for each profile."""
    codes = np.array(snapshot.profile_consent)
    if name != _SHARE:
        codes, noted = np.zeros(snapshot.profile_count, np.uint8), snapshot.noted(name)
        codes[noted["profile"]] = noted["code"]
    return np.array([text or None for text in CODES], object)[codes]


def _missing(name: str) -> NotFound:
    return NotFound(
        f"there is no consent policy {name[:80]!r}", hint="see which there are", remedy=Remedy("consent.policy.list")
    )
