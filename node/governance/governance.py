"""Whether an action is allowed: policies over labels, C12, and the uses that partners restricted.

The one place that decides it, for feeds and for files. It is asked when a feed is drafted, estimated and published, at
each run, and when something changes that a published feed depends on: a label, a policy, a rule, the fields of a dataset
(`Governance.act`).
"""

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sqlalchemy import select

from protocol.feed import MARKETING_USES, Definition
from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import InvalidInput, NotAllowed
from ..storage.database import Tx
from ..storage.ids import stored_id
from ..storage.tables import feeds
from .lineage import NO_EXPORT, Lineage, Place, PlaceKind, Trace, Traces, Uses, inherited, is_pickable, removals
from .policies import SHARING, Policies, Policy, check_action
from .ports import INCOMING, OUTGOING, Outgoing, Restriction
from .violations import ASK, UNSEEN, PolicyConflict, PolicyViolation, Reason, Violations, evaluate, violation_of
from .visibility import Visibility, no_segment

_C12 = Reason(title="label C12 (no export at all)", condition=NO_EXPORT)
LEAVING = (SHARING, "export-to-third-party")  # the actions that C12 forbids whatever the policies are
FILE_USES = tuple(use for use in MARKETING_USES if use != SHARING)  # what a file can be for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A question that governance answers: may this segment be used for these actions?"""

    segment: str
    actions: Sequence[str] = (SHARING,)
    namespaces: Sequence[str] = ()  # whose identity fields go with it
    feed: str | None = None  # ours, that has it
    include_draft: bool = False  # of policies
    carried: Sequence[Trace] = ()  # labels of what else goes with it
    leaves: bool = False  # in a file


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _Foreign:
    """What lets something that is shared depend on received segments: a segment of a feed, or a consent policy."""

    policy: str = ""
    feed: str = ""
    segment: str = ""


class _Look:
    """What checks read. Each thing is read once, in one transaction, when it is first needed."""

    def __init__(self, scope: Scope, tx: Tx, outgoing: Sequence[Outgoing] = ()) -> None:
        self._scope, self.tx, self._outgoing = scope, tx, outgoing
        self.lineage = Lineage(scope, tx)

    @cached_property
    def published(self) -> list[Definition]:
        """The newest versions of our feeds that partners have, or are offered."""
        return [definition for each in self._outgoing for definition in each.published(self.tx)]

    @cached_property
    def policies(self) -> list[Policy]:
        return Policies(self._scope).all(self.tx)

    @cached_property
    def restrictions(self) -> list[Restriction]:
        """What partners and other projects restricted, of what we have from them."""
        return [found for each in INCOMING.values() for found in each(self._scope).restrictions(self.tx)]

    @cached_property
    def visibility(self) -> Visibility:
        return Visibility(self._scope, self.tx, self.lineage)


class Governance:
    """The checks of a project: whether an action is allowed, and whether a change would make a published feed break a rule."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

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
        with self._scope.read() as tx:
            look, asked = _Look(self._scope, tx), list[tuple[str, Sequence[str], str | None]]()
            for name in names:
                if not (name in look.lineage.segments or is_pickable(name)) or not look.visibility.sees_segments(
                    [name]
                ):
                    raise no_segment(name)
                asked.append((name, namespaces, None))
            for name in feeds:
                definition = OUTGOING[PlaceKind.FEED](self._scope).definition(tx, name)
                asked += [(each.name, definition.namespaces, name) for each in definition.segments]
            questions = [
                _Question(segment=segment, actions=[action], namespaces=carried, feed=feed, include_draft=include_draft)
                for segment, carried, feed in asked
            ]
            return self._shown([violation for each in questions for violation in self._violations(look, each)])

    def check_feed(self, definition: Definition, tx: Tx) -> None:
        """Raise as `check_sharing` does if anything forbids to share a feed."""
        known = tx.execute(select(feeds.c.id).where(feeds.c.id == stored_id(definition.feed))).first() is not None
        names = [each.name for each in definition.segments]
        self.check_sharing(names, definition.namespaces, tx, feed=definition.name, known=known)

    def check_sharing(
        self, names: Sequence[str], namespaces: Sequence[str], tx: Tx, *, feed: str | None = None, known: bool = False
    ) -> None:
        """Raise PolicyViolation if anything forbids to share segments over namespaces, in `feed` if it is named.

        Raises NotAllowed where what leaves would depend on what was received. `known` is whether the feed is stored.
        """
        look = _Look(self._scope, tx)
        foreign = self._foreign(look, names, feed)
        if foreign:
            raise self._not_first_party(foreign)
        found = self._violations_of(look, names, namespaces, feed if known else None)
        if found:
            raise PolicyViolation(self._shown(found))

    def check_export(
        self,
        segment: str,
        uses: Sequence[str],
        tx: Tx,
        *,
        namespace: str | None = None,
        fields: Iterable[str] = (),
    ) -> None:
        """Raise PolicyViolation if anything forbids to write a segment's members to a file for `uses`.

        Without uses the file may be used for everything, so all of them count. It has the profiles' ids, or identities of
        a namespace, and some `fields` ("dataset.field"), so the labels of these columns count too.
        """
        for use in uses:
            check_action(use)
            if use == SHARING:
                raise InvalidInput(
                    "a file cannot share a segment with a partner", hint="a feed does", remedy=Remedy("feed.create")
                )
        place = Place(kind=PlaceKind.SEGMENT, target=segment)
        look = _Look(self._scope, tx)
        beside = [] if namespace is not None else look.lineage.traces_of_ids()
        beside += [trace for each in fields for trace in look.lineage.traces(PlaceKind.FIELD, each)]
        carried = [trace.to(place) for trace in beside]
        namespaces = [] if namespace is None else [namespace]
        asked = _Question(
            segment=segment, actions=uses or FILE_USES, namespaces=namespaces, carried=carried, leaves=True
        )
        found = self._violations(look, asked)
        if not found:
            return
        found = self._shown(found)
        if not uses and all(each.reason is not UNSEEN and each.labels != (NO_EXPORT,) for each in found):
            hint = "say what the file is for, if it is for none of that"
            remedy = Remedy("segment.export", {"name": segment, "uses": ["USE"]})
            raise PolicyViolation(found, hint=hint, remedy=remedy)
        raise PolicyViolation(found)

    def check_neighbours(self, segment: str, tx: Tx) -> None:
        """Raise PolicyViolation if a segment may not be shared with another project: C12 forbids it. Its other labels go with
        it, so that policies there apply to them."""
        traces = Lineage(self._scope, tx).traces(PlaceKind.SEGMENT, segment)
        if locked := [trace for trace in traces if trace.label == NO_EXPORT]:
            raise PolicyViolation(
                self._shown([violation_of(_C12, "sharing with another project", locked, segment, None)])
            )

    @contextmanager
    def act(
        self, act: str, target: str, edited: Place, *, detail: MutableMapping[str, Any] | None = None
    ) -> Iterator[Tx]:
        """Open one transaction for a change of a label, a policy, a rule or fields, as Scope.act does.

        Raises PolicyConflict and undoes the change if it makes a published feed break a rule that it kept before, and
        NotAllowed if it lets what is shared depend on what was received. A feed whose segments' labels change gets a new
        version.
        """
        detail = {} if detail is None else detail
        outgoing = [room(self._scope) for room in OUTGOING.values()]
        with self._scope.act(act, target, detail=detail) as tx:
            look = _Look(self._scope, tx, outgoing)
            before = {key for violation in self._broken(look) for key in violation.identity()}
            foreign, put = self._all_foreign(look), look.lineage.put
            yield tx
            look = _Look(self._scope, tx, outgoing)
            if more := self._all_foreign(look) - foreign:
                raise self._not_first_party(more)
            new = [each for each in self._broken(look) if not before.issuperset(each.identity())]
            if new:
                moot = self._undoing(look, put, edited)
                new = [each.without(moot) for each in new]
                shown = self._shown(new)
                feed = Place(kind=PlaceKind.FEED, target=shown[0].feed or "")
                message = f"{feed} is published, and {shown[0]}"
                seen = (shown[0].segment, shown[0].feed) == (new[0].segment, new[0].feed)
                hint, remedy = self._way_out(look, new) if seen else (ASK, None)
                raise PolicyConflict(shown, message, hint=hint, remedy=remedy, edited=edited)
            relabelled = [name for each in outgoing for name in each.relabel(tx, look.lineage)]
            if relabelled:
                detail["feeds"] = relabelled
        for each in outgoing:
            each.deliver()

    def _shown(self, found: Violations) -> Violations:
        """Return violations without what is hidden from the caller; those that are then alike count once.

        A second transaction decides what is hidden, so that a change which is refused does not count.
        """
        places = {
            place
            for each in found
            for place in (
                Place(kind=PlaceKind.SEGMENT, target=each.segment),
                *([Place(kind=PlaceKind.FEED, target=each.feed)] if each.feed else ()),
                *(place for trace in each.lineage for place in trace.places),
            )
        }
        with self._scope.read() as reading:
            visibility = Visibility(self._scope, reading)
            shown = {place: visibility.shown(place) for place in places}
        seen: Violations = []
        for each in found:
            if (one := each.as_shown(shown)) not in seen:
                seen.append(one)
        return seen

    def _violations(self, look: _Look, asked: _Question) -> Violations:
        segment, feed, place = asked.segment, asked.feed, Place(kind=PlaceKind.SEGMENT, target=asked.segment)
        carried = [*asked.carried]
        for namespace in asked.namespaces:
            carried += [trace.to(place) for trace in look.lineage.traces(PlaceKind.NAMESPACE, namespace)]
        traces = {action: [*look.lineage.traces_for(segment, action), *carried] for action in asked.actions}
        found = [
            violation
            for action in asked.actions
            for violation in evaluate(
                look.policies, action, traces[action], segment=segment, feed=feed, include_draft=asked.include_draft
            )
        ]
        every = dict.fromkeys(trace for found in traces.values() for trace in found)
        locked = [trace for trace in every if trace.label == NO_EXPORT]
        forbidden = "any export" if asked.leaves else next((each for each in asked.actions if each in LEAVING), None)
        if locked and forbidden is not None:
            found.append(violation_of(_C12, forbidden, locked, segment, feed))
        return found + self._restricted(look, segment, asked.actions)

    def _restricted(self, look: _Look, segment: str, actions: Sequence[str]) -> Violations:
        """Return which actions are restricted by those whose segments are read, by this one or by the consent policies that
        narrow it."""
        if not look.lineage.any_incoming(segment):
            return []
        found = []
        for each in look.restrictions:
            restricted = [use for use in actions if use in each.uses]
            by_action: dict[str, Traces] = {}
            for trace in self._ways(look, dict.fromkeys(each.places, restricted), segment, actions):
                by_action.setdefault(trace.label, []).append(trace)
            for action, traces in by_action.items():
                title, feed = each.title, each.feed
                if not all(look.visibility.sees(place) for place in each.places):
                    title = each.unseen_title
                    feed = None if feed is None else Place(kind=PlaceKind.FEED, target=feed).unseen().target
                reason = Reason(title=f"{title} (restricted uses)", condition="restricted use")
                found.append(replace(violation_of(reason, action, traces, segment, None), feed=feed, labels=()))
        return found

    def _ways(self, look: _Look, uses: Uses, segment: str, actions: Sequence[str]) -> Traces:
        """Return how what is put on places reaches a segment: by its rule, and for an action by what narrows it then."""
        place, above = Place(kind=PlaceKind.SEGMENT, target=segment), look.lineage.above
        found = inherited(uses.get, place, above)
        for action in actions:
            for each in look.lineage.narrowing(segment, action):
                policy = Place(kind=PlaceKind.CONSENT_POLICY, target=each.policy)
                found += [trace.to(place) for trace in inherited(uses.get, policy, above) if trace.label == action]
        return found

    def _violations_of(
        self, look: _Look, names: Sequence[str], namespaces: Sequence[str], feed: str | None
    ) -> Violations:
        """Return what forbids to share segments over namespaces; `feed` is one that is stored and has them."""
        return [
            violation
            for name in names
            for violation in self._violations(look, _Question(segment=name, namespaces=namespaces, feed=feed))
        ]

    def _broken(self, look: _Look) -> Violations:
        """Return what is violated by the feeds that partners have or are offered."""
        return [
            violation
            for each in look.published
            for violation in self._violations_of(
                look, [segment.name for segment in each.segments], each.namespaces, each.name
            )
        ]

    def _foreign(self, look: _Look, names: Sequence[str], feed: str | None) -> "set[_Foreign]":
        """Return what lets segments that are shared depend on received ones: their rules, and consent policies."""
        narrowing = {each.policy for name in names for each in look.lineage.narrowing(name, SHARING)}
        policies = look.lineage.policies_on_received(SHARING) & narrowing
        segments = {_Foreign(segment=name, feed=feed or "") for name in names if look.lineage.reads_received(name)}
        return segments | {_Foreign(policy=name) for name in policies}

    def _all_foreign(self, look: _Look) -> "set[_Foreign]":
        """Return the same of the feeds that partners have, and of every consent policy on sharing."""
        policies = {_Foreign(policy=name) for name in look.lineage.policies_on_received(SHARING)}
        feeds = [self._foreign(look, [part.name for part in each.segments], each.name) for each in look.published]
        return policies.union(*feeds)

    def _not_first_party(self, foreign: "set[_Foreign]") -> NotAllowed:
        """Return the refusal of the first thing that lets what is shared depend on what was received."""
        first = min(foreign)
        with self._scope.read() as reading:
            visibility = Visibility(self._scope, reading)
            made, of, policy = (
                visibility.shown(Place(kind=kind, target=name))
                for kind, name in (
                    (PlaceKind.SEGMENT, first.segment),
                    (PlaceKind.FEED, first.feed),
                    (PlaceKind.CONSENT_POLICY, first.policy),
                )
            )
        if first.policy:
            return received_in_policy(policy)
        return NotAllowed(
            f"{made}{f' of {of}' if first.feed else ''} is made of received segments",
            hint="only first-party segments can be shared: share the one that it is built on",
        )

    def _undoing(self, look: _Look, put: Uses, edited: Place) -> list[Remedy]:
        """Return the fixes that do not apply once a change of `edited` is refused: `put` was where before it."""
        moot = [Remedy("consent.policy.disable", {"name": edited.target})]
        for place, labels in look.lineage.put.items():
            for label in set(labels) - set(put.get(place, ())):
                moot += removals(Trace(label=label, places=(place,)))
        return moot if edited.kind is PlaceKind.CONSENT_POLICY else moot[1:]

    def _way_out(self, look: _Look, violations: Violations) -> tuple[str, Remedy]:
        feed = violations[0].feed
        concerned = {violation.segment for violation in violations if violation.feed == feed}
        definition = next(definition for definition in look.published if definition.name == feed)
        if concerned == {segment.name for segment in definition.segments}:
            return "end the feed first", Remedy("feed.revoke", {"name": definition.name})
        unshare = Remedy("feed.unshare", {"name": definition.name, "segment": violations[0].segment})
        return "take the segment out of the feed first", unshare


def received_in_policy(policy: Place, *, made: bool = True) -> NotAllowed:
    """Return the refusal of a consent policy on sharing that reads what was received; `made` is whether there is one."""
    hint, remedy = "who is missing would tell a partner whom another one has: let it read what is your own", None
    if made and policy != policy.unseen():
        hint, remedy = f"{hint}; one that there is", Remedy("consent.policy.disable", {"name": policy.target})
    return NotAllowed(f"{policy} on sharing reads received segments", hint=hint, remedy=remedy)
