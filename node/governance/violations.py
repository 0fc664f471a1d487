"""What forbids an action: which labels meet a policy's condition, how they got there, and what would help."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from psi.errors import Remedy

from ..errors import NotAllowed
from ..storage.records import Document
from .expressions import met_by, parse
from .lineage import Place, PlaceKind, Trace, Traces, removals
from .policies import Policy, PolicyStatus

ASK = "ask somebody who may see it to take the segment out of its feed, or to revoke the feed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """What forbids an action: a policy, C12, or a partner that restricted a use."""

    title: str  # "policy restrict-data-sharing (C11 OR C12 OR C2)"
    condition: str
    policy: str | None = None  # its name


UNSEEN = Reason(title="a rule about what you may not see", condition="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One reason that forbids an action of a segment: which labels met its condition, how they got there, what would help."""

    reason: Reason
    action: str
    segment: str
    feed: str | None  # ours, that has the segment; a partner's, that restricts the action
    labels: tuple[str, ...]
    lineage: tuple[Trace, ...]
    fixes: tuple[Remedy | str, ...]  # a text where the caller can do nothing themselves

    @property
    def policy(self) -> str | None:
        return self.reason.policy

    def __str__(self) -> str:
        segment = Place(kind=PlaceKind.SEGMENT, target=self.segment)
        ways = f": {'; '.join(map(str, self.lineage))}" if self.lineage else ""
        return f"{self.reason.title} forbids {self.action} of {segment}{ways}"

    def document(self, edited: Place | None = None) -> Document:
        """Return the violation as JSON has it, with the place that was just edited marked."""
        return {
            "title": self.reason.title,
            "policy": self.policy,
            "policy_edited": edited == Place(kind=PlaceKind.POLICY, target=self.policy or ""),
            "condition": self.reason.condition,
            "action": self.action,
            "segment": self.segment,
            "feed": self.feed,
            "labels": list(self.labels),
            "lineage": [
                {
                    "label": trace.label,
                    "path": [
                        {"kind": place.kind.value, "name": place.target, "edited": place == edited}
                        for place in trace.places
                    ],
                }
                for trace in self.lineage
            ],
            "fixes": [fix if isinstance(fix, str) else fix.document() for fix in self.fixes],
        }

    def identity(self) -> set[tuple[str, str | None, str, Trace]]:
        """Return what tells one violation from another, whatever else is said about it."""
        by = self.policy or self.reason.title
        return {(self.segment, self.feed, by, trace) for trace in self.lineage}

    def as_shown(self, shown: Mapping[Place, Place]) -> "Violation":
        """Return the violation by the places that are `shown` as they are, without the fixes that name a hidden one.

        Where these do not violate it alone, it tells that there is a rule, and no label, policy or way. A hidden feed at the
        end of a way stays, without its name.
        """
        hidden = [place.target for place, instead in shown.items() if place != instead]
        lineage = tuple(each for each in self.lineage if not _is_hidden(each, shown))
        seen = replace(
            self,
            segment=shown[Place(kind=PlaceKind.SEGMENT, target=self.segment)].target,
            feed=self.feed and shown[Place(kind=PlaceKind.FEED, target=self.feed)].target,
            labels=tuple(label for label in self.labels if label in {each.label for each in lineage}),
            lineage=tuple(replace(each, places=tuple(shown[place] for place in each.places)) for each in lineage),
            fixes=tuple(fix for fix in self.fixes if not _names(fix, hidden)) or (ASK,),
        )
        if len(lineage) == len(self.lineage) or (self.labels and met_by(parse(self.reason.condition), seen.labels)):
            return seen
        ours = seen.feed if self.labels else None  # a restricted use has no labels, and the partner's feed
        return replace(seen, reason=UNSEEN, feed=ours, labels=(), lineage=(), fixes=(ASK,))

    def without(self, moot: Container[Remedy]) -> "Violation":
        """Return the violation of a change that is refused, without the fixes that would only undo the change."""
        return replace(
            self, fixes=tuple(fix for fix in self.fixes if isinstance(fix, str) or fix not in moot) or (ASK,)
        )


Violations = list[Violation]


class PolicyViolation(NotAllowed):
    """Something forbids an action: `violations` are all that do, `edited` is the change that would have made it so."""

    code = "policy_violation"

    def __init__(
        self,
        violations: Violations,
        message: str = "",
        *,
        hint: str = "",
        remedy: Remedy | None = None,
        edited: Place | None = None,
    ) -> None:
        first, *more = violations
        message = (message or str(first)) + (f"; and {len(more)} more" if more else "")
        if not hint:
            fix, hint = first.fixes[0], "leave the segment out, or give"
            if isinstance(fix, Remedy):
                remedy = fix
            else:
                hint = f"leave the segment out, or {fix}"
        super().__init__(message, hint=hint, remedy=remedy)
        self.violations = violations
        self.edited = edited

    def document(self) -> Document:
        return {**super().document(), "violations": [each.document(self.edited) for each in self.violations]}


class PolicyConflict(PolicyViolation):
    """A change by which a published feed would break a policy."""

    code = "policy_conflict"


def evaluate(
    policies: Iterable[Policy],
    action: str,
    traces: Traces,
    *,
    segment: str,
    feed: str | None = None,
    include_draft: bool = False,
) -> Violations:
    """Return what violates the policies on `action`: `traces` are how labels reach the segment, and `feed` is one that has it.

    Only enabled policies count, and drafts with `include_draft`.
    """
    counted = (PolicyStatus.ENABLED, PolicyStatus.DRAFT) if include_draft else (PolicyStatus.ENABLED,)
    labels = {trace.label for trace in traces}
    found = []
    for policy in policies:
        if policy.action == action and policy.status in counted and (met := met_by(parse(policy.expression), labels)):
            title = f"policy {policy.name} ({policy.expression})"
            reason = Reason(title=title, condition=policy.expression, policy=policy.name)
            found.append(violation_of(reason, action, [trace for trace in traces if trace.label in met], segment, feed))
    return found


def violation_of(reason: Reason, action: str, lineage: Traces, segment: str, feed: str | None) -> Violation:
    """Return the violation of a segment, in `feed` if one is given, by the labels that `lineage` brings."""
    fixes: list[Remedy | str] = []
    for fix in (fix for trace in lineage for fix in removals(trace)):
        if fix not in fixes:
            fixes.append(fix)
    if not fixes and lineage:
        fixes.append("ask who shares it with us to allow that")
    if feed is not None:
        fixes.append(Remedy("feed.unshare", {"name": feed, "segment": segment}))
        lineage = [trace.to(Place(kind=PlaceKind.FEED, target=feed)) for trace in lineage]
    return Violation(
        reason=reason,
        action=action,
        segment=segment,
        feed=feed,
        labels=tuple(sorted({trace.label for trace in lineage})),
        lineage=tuple(lineage),
        fixes=tuple(fixes),
    )


def _is_hidden(trace: Trace, shown: Mapping[Place, Place]) -> bool:
    return any(place != shown[place] and place.kind is not PlaceKind.FEED for place in trace.places)


def _names(fix: Remedy | str, names: Iterable[str]) -> bool:
    """Return whether a fix names one of some things, also as a part of a longer name."""
    texts = [fix] if isinstance(fix, str) else [str(value) for value in fix.arguments.values()]
    return any(name in text for name in names for text in texts)
