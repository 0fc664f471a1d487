"""Whether an action is allowed: policies over labels, C12, and the uses that partners restricted.

The one place that says so for feeds and files alike, and whatever else will let members out. It is asked when a feed is
drafted, estimated, published and at each of its runs, and when something changes on which a published feed rests: a
label, a policy, a rule, the fields of a dataset (`Governance.act`).
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select

from protocol.feed import MARKETING_USES, Definition

from ..errors import InvalidInput, Refused
from ..storage.tables import feed_partners, feeds
from .labels import Kind, Origin, Trace, Traces, inherited, removal
from .policies import SHARING, Policy, check_action, met_by, parse

if TYPE_CHECKING:
    from ..project import Project

NO_EXPORT = "C12"
LEAVING = (SHARING, "export-to-third-party")  # the actions that C12 forbids whatever the policies are
FILE_USES = tuple(use for use in MARKETING_USES if use != SHARING)  # what a file can be for


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that forbids an action of a segment: which labels met its condition, how they got there, what would help."""

    title: str  # "policy restrict-data-sharing (C11 OR C12 OR C2)"
    policy: str | None  # its name; none of C12 and of a partner's restriction
    condition: str
    action: str
    segment: str
    feed: str | None  # ours, that holds the segment; a partner's, that restricts the action
    labels: tuple[str, ...]
    lineage: tuple[Trace, ...]
    fixes: tuple[str, ...]  # commands

    def __str__(self) -> str:
        segment = Origin(kind=Kind.SEGMENT, target=self.segment)
        return f"{self.title} forbids {self.action} of {segment}: {'; '.join(map(str, self.lineage))}"

    def as_dict(self, edited: Origin | None = None) -> dict[str, Any]:
        """Return the violation as JSON has it, with the place that was just edited marked."""
        return {
            "title": self.title,
            "policy": self.policy,
            "policy_edited": edited == Origin(kind=Kind.POLICY, target=self.policy or ""),
            "condition": self.condition,
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
            "fixes": list(self.fixes),
        }


Violations = list[Violation]


class PolicyViolation(Refused):
    """Something forbids an action: `violations` are all that do, `edited` is the change that would have made it so."""

    code = "policy_violation"

    def __init__(
        self, violations: Violations, message: str = "", *, hint: str = "", edited: Origin | None = None
    ) -> None:
        first, *more = violations
        message = (message or str(first)) + (f"; and {len(more)} more" if more else "")
        super().__init__(message, hint=hint or f"leave the segment out, or give: {first.fixes[0]}")
        self.violations = violations
        self.edited = edited

    def document(self) -> dict[str, Any]:
        return {**super().document(), "violations": [each.as_dict(self.edited) for each in self.violations]}


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
    """Return the policies that forbid `action` for a segment that `traces` bring labels to, and maybe to a feed.

    Only enabled policies count, and drafts where they are asked for.
    """
    counted = ("enabled", "draft") if include_draft else ("enabled",)
    held = {trace.label for trace in traces}
    found = []
    for policy in policies:
        if policy.action == action and policy.status in counted and (met := met_by(parse(policy.expression), held)):
            title = f"policy {policy.name} ({policy.expression})"
            lineage = [trace for trace in traces if trace.label in met]
            found.append(_violation(title, policy.expression, action, lineage, segment, feed, policy=policy.name))
    return found


def _violation(
    title: str,
    condition: str,
    action: str,
    lineage: Traces,
    segment: str,
    feed: str | None,
    *,
    policy: str | None = None,
) -> Violation:
    fixes = [removal(trace) for trace in lineage]
    if feed is not None:
        fixes.append(f"vesica feed unshare {feed} --segment {segment}")
        lineage = [trace.to(Origin(kind=Kind.FEED, target=feed)) for trace in lineage]
    return Violation(
        title=title,
        policy=policy,
        condition=condition,
        action=action,
        segment=segment,
        feed=feed,
        labels=tuple(sorted({trace.label for trace in lineage})),
        lineage=tuple(lineage),
        fixes=tuple(dict.fromkeys(fixes)),
    )


_Version = tuple[str, int]  # a feed's id, and the number


class _Look:
    """What a check reads, as one transaction sees it when it is first asked: once, for all feeds and segments.

    `versions` are those of feeds that an earlier look has read: they never change.
    """

    def __init__(self, project: "Project", tx: Connection, versions: dict[_Version, Definition] | None = None) -> None:
        self._project, self.tx = project, tx
        self.versions = {} if versions is None else versions
        self.lineage = project.labels.lineage(tx)

    @cached_property
    def living(self) -> list[tuple[Row[Any], Definition]]:
        """Our feeds that are not revoked, each with its newest version."""
        query = select(feeds).where(feeds.c.project_id == self._project.id, feeds.c.status != "revoked")
        rows = self.tx.execute(query.order_by(feeds.c.name)).all()
        for feed in rows:
            if (feed.id, feed.version) not in self.versions:
                self.versions[feed.id, feed.version] = self._project.feeds.definition(feed, self.tx)
        return [(feed, self.versions[feed.id, feed.version]) for feed in rows]

    @cached_property
    def policies(self) -> list[Policy]:
        return self._project.policies.list(self.tx)

    @cached_property
    def restrictions(self) -> list[tuple[str, Definition]]:
        return self._project.received.restrictions(self.tx)


class Governance:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def check(
        self,
        names: Sequence[str] = (),
        *,
        feeds: Sequence[str] = (),
        action: str = SHARING,
        namespaces: Sequence[str] = (),
        include_draft: bool = False,
    ) -> Violations:
        """Return what forbids `action` for segments, each by its own labels, and for the segments of our feeds.

        Each identity field of `namespaces`, or of the feed's, counts as a field of the segment does. Raises NotFound.
        """
        check_action(action)
        with self._project.node.store.read() as tx:
            look = _Look(self._project, tx)
            asked: list[tuple[str, Sequence[str], str | None]] = []
            for name in names:
                self._project.segments.show(name)  # raises NotFound, also where it is hidden from whoever asks
                asked.append((name, namespaces, None))
            for name in feeds:
                definition = self._project.feeds.definition(self._project.feeds.get(name, tx), tx)
                asked += [(each.name, definition.namespaces, name) for each in definition.segments]
            found = [
                violation
                for segment, carried, feed in asked
                for violation in self._violations(look, segment, [action], carried, feed, include_draft)
            ]
            return self._shown(found)

    def check_feed(self, definition: Definition, tx: Connection) -> None:
        """Raise PolicyViolation if anything forbids to share what a feed holds over its namespaces."""
        known = tx.execute(select(feeds.c.id).where(feeds.c.id == definition.feed.hex())).first() is not None
        found = self._violations_of(_Look(self._project, tx), definition, definition.name if known else None)
        if found:
            raise PolicyViolation(self._shown(found))

    def check_export(self, segment: str, uses: Sequence[str], tx: Connection) -> None:
        """Raise PolicyViolation if anything forbids to write a segment's members to a file for `uses`.

        A file that is for nothing in particular may be used for everything: all uses count. It carries the profiles'
        ids, so the labels of these columns count too.
        """
        for use in uses:
            check_action(use)
            if use == SHARING:
                raise InvalidInput("a file cannot share a segment with a partner", hint="'vesica feed create' does")
        place = Origin(kind=Kind.SEGMENT, target=segment)
        ids = [trace.to(place) for trace in self._project.labels.traces_of_ids(tx)]
        look = _Look(self._project, tx)
        found = self._violations(look, segment, uses or FILE_USES, (), None, False, ids, leaves=True)
        if not found:
            return
        only_uses = not uses and all(violation.labels != (NO_EXPORT,) for violation in found)
        hint = "say what the file is for, if it is for none of that: --use USE" if only_uses else ""
        raise PolicyViolation(self._shown(found), hint=hint)

    @contextmanager
    def act(
        self, act: str, target: str, edited: Origin, *, detail: MutableMapping[str, Any] | None = None
    ) -> Iterator[Connection]:
        """Hold one transaction for a change of a label, a policy, a rule or fields, as Project.act does.

        Raises PolicyConflict, and so undoes the change, if a published feed would break by it what it did not break
        before. Feeds whose segments have other labels afterwards get a version that says so.
        """
        detail = {} if detail is None else detail
        with self._project.act(act, target, detail=detail) as tx:
            look = _Look(self._project, tx)
            before = {key for violation in self._broken(look) for key in _keys(violation)}
            yield tx
            look = _Look(self._project, tx, look.versions)
            new = [each for each in self._broken(look) if not before.issuperset(_keys(each))]
            if new:
                shown = self._shown(new)
                feed = Origin(kind=Kind.FEED, target=shown[0].feed or "")
                message = f"{feed} is published, and {shown[0]}"
                hint = self._way_out(look, new) if shown[0].feed == new[0].feed else _ASK
                raise PolicyConflict(shown, message, hint=hint, edited=edited)
            told, relabelled = self._relabel(look)
            if relabelled:
                detail["feeds"] = relabelled
        for row in told:
            self._project.letters.deliver_soon(row)

    def _shown(self, found: Violations) -> Violations:
        """Return violations without the names of what is not there for whoever acts, and the commands that hold them.

        What counts is what they could see before a change that is refused.
        """
        places = {
            place
            for each in found
            for place in (
                Origin(kind=Kind.SEGMENT, target=each.segment),
                *([Origin(kind=Kind.FEED, target=each.feed)] if each.feed else ()),
                *(place for trace in each.lineage for place in trace.places),
            )
        }
        with self._project.node.store.read() as reading:
            shown = {place: self._project.labels.shown(reading, place) for place in places}
        return [_without_names(each, shown) for each in found]

    def _violations(
        self,
        look: _Look,
        segment: str,
        actions: Sequence[str],
        namespaces: Sequence[str],
        feed: str | None,
        include_draft: bool = False,
        carried: Sequence[Trace] = (),
        *,
        leaves: bool = False,
    ) -> Violations:
        place = Origin(kind=Kind.SEGMENT, target=segment)
        traces = [*look.lineage.traces(Kind.SEGMENT, segment), *carried]
        for namespace in namespaces:
            traces += [trace.to(place) for trace in look.lineage.traces(Kind.NAMESPACE, namespace)]
        found = [
            violation
            for action in actions
            for violation in evaluate(
                look.policies, action, traces, segment=segment, feed=feed, include_draft=include_draft
            )
        ]
        locked = [trace for trace in traces if trace.label == NO_EXPORT]
        if locked and (leaves or any(action in LEAVING for action in actions)):
            action = "any export" if leaves else next(action for action in actions if action in LEAVING)
            found.append(_violation("label C12 (no export at all)", NO_EXPORT, action, locked, segment, feed))
        return found + self._restricted(look, segment, actions)

    def _restricted(self, look: _Look, segment: str, actions: Sequence[str]) -> Violations:
        """Return which of the actions the partners restricted whose segments this one reads; sharing on always is."""
        if not look.lineage.reads_received(segment):
            return []
        found = []
        for partner, definition in look.restrictions:
            places = [Origin(kind=Kind.RECEIVED, target=f"{partner}.{each.name}") for each in definition.segments]
            restricted = [use for use in {SHARING, *definition.restricted_uses} if use in actions]
            place = Origin(kind=Kind.SEGMENT, target=segment)
            for trace in inherited(dict.fromkeys(places, restricted), place, look.lineage.above):
                name, title = definition.name, f"{partner}'s feed {definition.name} (restricted uses)"
                if any(self._project.labels.shown(look.tx, each) != each for each in places):
                    name = Origin(kind=Kind.FEED, target=name).unseen().target
                    title = f"{partner}, by {name} (restricted uses)"
                violation = _violation(title, "restricted use", trace.label, [trace], segment, None)
                found.append(replace(violation, feed=name, labels=()))
        return found

    def _violations_of(self, look: _Look, definition: Definition, feed: str | None) -> Violations:
        """Return what forbids a definition, of `feed` if it is one already; raises Refused where a segment of it is made
        of received ones."""
        found: Violations = []
        for segment in definition.segments:
            if look.lineage.reads_received(segment.name):
                with self._project.node.store.read() as reading:
                    made, of = (
                        self._project.labels.shown(reading, Origin(kind=kind, target=name))
                        for kind, name in ((Kind.SEGMENT, segment.name), (Kind.FEED, definition.name))
                    )
                raise Refused(
                    f"{made} of {of} is made of received segments",
                    hint="only first-party segments can be shared: share the one that it is built on",
                )
            found += self._violations(look, segment.name, [SHARING], definition.namespaces, feed)
        return found

    def _broken(self, look: _Look) -> Violations:
        """Return what the feeds break that partners have, or are offered."""
        from ..feeds.sending.edits import GOING

        query = select(feed_partners.c.feed_id).where(feed_partners.c.status.in_(GOING))
        going = set(look.tx.scalars(query))
        return [
            violation
            for feed, definition in look.living
            if feed.status == "published" and feed.id in going
            for violation in self._violations_of(look, definition, feed.name)
        ]

    def _way_out(self, look: _Look, violations: Violations) -> str:
        feed = violations[0].feed
        concerned = {violation.segment for violation in violations if violation.feed == feed}
        definition = next(definition for _, definition in look.living if definition.name == feed)
        if concerned == {segment.name for segment in definition.segments}:
            return f"end the feed first: vesica feed revoke {feed}"
        return f"take the segment out of the feed first: vesica feed unshare {feed} --segment {violations[0].segment}"

    def _relabel(self, look: _Look) -> tuple[list[Row[Any]], list[str]]:
        """Tell the partners of each feed whose segments have other labels now; returns whom to call, and the feeds."""
        from ..feeds.sending import edits

        told: list[Row[Any]] = []
        names: list[str] = []
        for feed, before in look.living:
            rows = edits.relabel(self._project, look.tx, feed, before, look.lineage)
            if rows is not None:
                told += rows
                names.append(feed.name)
        return told, names


_ASK = "ask somebody who may see it to take the segment out of its feed, or to revoke the feed"


def _without_names(violation: Violation, shown: Mapping[Origin, Origin]) -> Violation:
    """Return a violation whose places are as they are `shown`; of its fixes those that name none that is not."""
    hidden = [place.target for place, instead in shown.items() if place != instead]
    return replace(
        violation,
        segment=shown[Origin(kind=Kind.SEGMENT, target=violation.segment)].target,
        feed=violation.feed and shown[Origin(kind=Kind.FEED, target=violation.feed)].target,
        lineage=tuple(replace(each, places=tuple(shown[place] for place in each.places)) for each in violation.lineage),
        fixes=tuple(fix for fix in violation.fixes if not any(name in fix for name in hidden)) or (_ASK,),
    )


def _keys(violation: Violation) -> set[tuple[str, str | None, str, Trace]]:
    """Return what tells one violation from another, whatever else is said about it."""
    by = violation.policy or violation.title
    return {(violation.segment, violation.feed, by, trace) for trace in violation.lineage}
