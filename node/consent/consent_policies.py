"""Consent policies: if a marketing action, a label or a condition on people holds, then only who meets another one
qualifies.

They narrow what the consent model lets through, segment by segment, and never widen it. Conditions are segment rules,
over attributes, segments, and what people said: `consent.share` for all of a person, `consent.email_sha256` for their
identities in one namespace. A new project has none, and a new one is off until it is enabled.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import Connection, Row, select

from ..errors import AlreadyExists, InvalidInput, NotFound, check_name
from ..governance.policies import SHARING, check_action
from ..people.data import Snapshot
from ..segments import rules
from ..segments.trees import Tree
from ..storage import tables
from .consent import CODES

if TYPE_CHECKING:
    from ..project import Project

Status = Literal["enabled", "disabled"]
Qualified = list[BitMap | None]  # for each segment, who qualifies; None: no policy says anything

_SHARE = "share"  # what was said for all of a person


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentPolicy:
    """IF a segment with `label` is used for `action`, and `applies` holds for a person, THEN `needs` must hold too.

    `label` and `applies` may be missing: then every segment, or everybody.
    """

    name: str
    action: str
    label: str | None
    applies: str | None
    applies_tree: Tree | None
    needs: str
    needs_tree: Tree
    status: Status

    @property
    def uses(self) -> list[str]:
        """What the conditions read: "dataset.field", "own.SEGMENT", "received.PARTNER.SEGMENT", "consent.share"."""
        trees = [tree for tree in (self.applies_tree, self.needs_tree) if tree is not None]
        return sorted({leaf["field"] for tree in trees for leaf in rules.leaves(tree)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Venn:
    """How a segment and the people who qualify under a policy overlap, in profiles; who says whether the policy's label
    is on the segment at all."""

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
    def __init__(self, project: "Project") -> None:
        self._project = project

    def list(self, connection: Connection | None = None) -> "list_[ConsentPolicy]":
        if connection is None:
            with self._project.node.store.read() as reading:
                return self.list(reading)
        rows = tables.consent_policies
        query = select(rows).where(rows.c.project_id == self._project.id).order_by(rows.c.name)
        return [_policy(row) for row in connection.execute(query)]

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
        """Add a policy, off unless `enable` says otherwise; the next run applies it."""
        detail = {"action": action, "label": label, "enabled": enable}
        with self._project.act("consent-policy.create", name, detail=detail) as tx:
            check_name(name, "policy")
            if any(policy.name == name for policy in self.list(tx)):
                raise AlreadyExists(f"there is a consent policy {name!r} already", hint="choose another name")
            status: Status = "enabled" if enable else "disabled"
            policy = self._read(tx, name, needs, action=action, label=label, applies=applies, status=status)
            policy_id = self._project.node.new_id()
            tx.execute(
                tables.consent_policies.insert().values(id=policy_id, project_id=self._project.id, **asdict(policy))
            )
        return policy

    def enable(self, name: str) -> None:
        self._set_status("consent-policy.enable", name, "enabled")

    def disable(self, name: str) -> None:
        self._set_status("consent-policy.disable", name, "disabled")

    def delete(self, name: str) -> None:
        rows = tables.consent_policies
        with self._project.act("consent-policy.delete", name) as tx:
            gone = tx.execute(rows.delete().where(rows.c.project_id == self._project.id, rows.c.name == name))
            if not gone.rowcount:
                raise _missing(name)

    def preview(
        self, segments: Sequence[str], needs: str, *, label: str | None = None, applies: str | None = None
    ) -> "list_[Venn]":
        """Return how many people of each segment would qualify under a policy that is not saved; changes nothing."""
        snapshot = Snapshot.open(self._project)
        with self._project.node.store.read() as tx:
            policy = self._read(tx, "preview", needs, label=label, applies=applies)
            found = [(policy, self._who(tx, snapshot, policy))]
            return [
                overlap(
                    each,
                    self._project.segments.members(each, snapshot),
                    combine(found, self._project.labels.labels_of_segment(each, tx)),
                )
                for each in segments
            ]

    def qualified(
        self,
        segments: Sequence[str],
        snapshot: Snapshot,
        *,
        actions: Collection[str] = (SHARING,),
        tx: Connection | None = None,
    ) -> Qualified:
        """Return for each segment who qualifies for all actions under the policies that are on; empty where none is."""
        if tx is None:
            with self._project.node.store.read() as reading:
                return self.qualified(segments, snapshot, actions=actions, tx=reading)
        policies = [each for each in self.list(tx) if each.status == "enabled" and each.action in actions]
        if not policies:
            return []
        found = [(each, self._who(tx, snapshot, each)) for each in policies]
        return [combine(found, self._project.labels.labels_of_segment(each, tx)) for each in segments]

    def judge(self, profile: int, snapshot: Snapshot) -> "list_[dict[str, Any]]":
        """Return for each policy on sharing that is on whether a profile meets it.

        None where the policy reads what is hidden from whoever acts.
        """
        with self._project.node.store.read() as tx:
            return [
                {"name": each.name, "label": each.label, "met": self._met(tx, snapshot, each, profile)}
                for each in self.list(tx)
                if each.status == "enabled" and each.action == SHARING
            ]

    def _met(self, tx: Connection, snapshot: Snapshot, policy: ConsentPolicy, profile: int) -> bool | None:
        if self._project.node.guard.cleared(tx, self._project.id) is not None:
            try:
                self._read(tx, policy.name, policy.needs, label=policy.label, applies=policy.applies)
            except (NotFound, InvalidInput):
                return None
        return profile in self._who(tx, snapshot, policy)

    def stamp(self, tx: Connection) -> tuple[str, ...]:
        """Return what changes when the members of the received segments do that policies which are on read."""
        read = {use for policy in self.list(tx) if policy.status == "enabled" for use in policy.uses}
        return self._project.memberships.stamp(tx, {use for use in read if use.startswith("received.")})

    def using(self, segment: str, tx: Connection) -> "list_[str]":
        """Return the policies whose conditions read one of our segments."""
        return [policy.name for policy in self.list(tx) if f"own.{segment}" in policy.uses]

    def _who(self, tx: Connection, snapshot: Snapshot, policy: ConsentPolicy) -> BitMap:
        """Return the profiles that qualify: those it does not apply to, and those that have what it needs.

        What cannot be found out counts against people: a condition on a received segment that is gone lets nobody pass.
        """
        everyone = BitMap(range(snapshot.profile_count))
        needs = self._matching(tx, snapshot, policy.needs_tree)
        applies = everyone if policy.applies_tree is None else self._matching(tx, snapshot, policy.applies_tree)
        return (BitMap() if needs is None else needs) | (everyone - (everyone if applies is None else applies))

    def _matching(self, tx: Connection, snapshot: Snapshot, tree: Tree) -> BitMap | None:
        read = {leaf["field"] for leaf in rules.leaves(tree)}
        columns = {field: _said(snapshot, field[1]) for name, field in self._consent_fields().items() if name in read}
        try:
            return self._project.segments.matching(tx, snapshot, tree, columns)
        except NotFound:
            return None

    def _read(
        self,
        tx: Connection,
        name: str,
        needs: str,
        *,
        action: str = SHARING,
        label: str | None = None,
        applies: str | None = None,
        status: Status = "disabled",
    ) -> ConsentPolicy:
        """Return the policy that these words make; raises InvalidInput or NotFound where they make none."""
        check_action(action)
        fields = self._project.segments.attribute_names(tx) | self._consent_fields()
        policy = ConsentPolicy(
            name=name,
            action=action,
            label=None if label is None else self._project.labels.resolve(tx, label),
            applies=applies,
            applies_tree=None if applies is None else rules.parse(applies, fields).tree,
            needs=needs,
            needs_tree=rules.parse(needs, fields).tree,
            status=status,
        )
        for use in policy.uses:
            self._project.segments.check_reference(tx, use)
        return policy

    def _consent_fields(self) -> dict[str, rules.Field]:
        namespaces = sorted({each.partition("/")[0] for each in self._project.namespaces()})
        return {f"consent.{name}": ("consent", name) for name in (_SHARE, *namespaces)}

    def _set_status(self, act: str, name: str, status: Status) -> None:
        rows = tables.consent_policies
        with self._project.act(act, name) as tx:
            mine = (rows.c.project_id == self._project.id, rows.c.name == name)
            if not tx.execute(rows.update().where(*mine).values(status=status)).rowcount:
                raise _missing(name)


list_ = list  # inside the class `list` is the method


def _said(snapshot: Snapshot, name: str) -> npt.NDArray[Any]:
    """Return what people said, for all of them or in a namespace, as a column of text with a row for each profile."""
    codes = np.array(snapshot.profile_consent)
    if name != _SHARE:
        codes, noted = np.zeros(snapshot.profile_count, np.uint8), snapshot.noted(name)
        codes[noted["profile"]] = noted["code"]
    return np.array([text or None for text in CODES], object)[codes]


def _policy(row: Row[Any]) -> ConsentPolicy:
    return ConsentPolicy(
        name=row.name,
        action=row.action,
        label=row.label,
        applies=row.applies,
        applies_tree=row.applies_tree,
        needs=row.needs,
        needs_tree=row.needs_tree,
        status=row.status,
    )


def _missing(name: str) -> NotFound:
    return NotFound(f"there is no consent policy {name[:80]!r}", hint="'vesica consent policy list' shows them")
