"""Segments: sets of profiles, imported by id or evaluated from a rule, kept as roaring bitmaps of profile numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyroaring import BitMap

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, InvalidInput, InvalidName, NotAllowed, check_name
from ..governance.governance import Governance
from ..governance.labels import Labels
from ..governance.lineage import Lineage, Place, PlaceKind, is_pickable
from ..governance.visibility import Visibility, no_segment
from ..people.drafts import Draft
from ..people.snapshots import Snapshot
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import Document
from . import column_types, evaluation, records, references, rules, trees
from .lists import Lists
from .records import Segment, SegmentKind, change, find, in_order, stored, way_to
from .references import Gone, Picked, own, reference

_OTHER = "begin it with another word than shared, trait or audience"
_GIVE = "give a rule, as text or as a tree, or a file of members"

RuleTree = Mapping[str, Any] | Path  # a tree, or the JSON or YAML file with one


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What a segment is made from, and who is in it."""

    members: BitMap
    rule: str | None = None
    tree: trees.Tree | None = None
    uses: list[str]
    unknown: int = 0  # ids of a members file that are no profile


class Segments:
    """The segments of a project."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def create(
        self,
        name: str,
        *,
        rule: str | None = None,
        tree: RuleTree | None = None,
        members_file: Path | str | None = None,
    ) -> Segment:
        """Make and evaluate a segment, from a rule (as text or as a tree) or from a file with a profile id per row."""
        detail: Document = {}
        with self._scope.act("segment.create", name, detail=detail) as tx:
            if is_pickable(check_name(name, "segment")):
                raise InvalidName(f"{name[:80]!r} is how a segment of others is named", hint=_OTHER)
            if [rule, tree, members_file].count(None) != 2:
                raise InvalidInput("a segment has a rule or members", hint=_GIVE)
            if find(self._scope, tx, name) is not None:  # also one that is hidden from the caller: names are unique
                raise AlreadyExists(f"there is a segment {name!r} already", hint="delete it, or choose another name")
            draft, now = Draft(self._scope, tx), self._scope.home.now()
            content = self._content(tx, draft, rule, tree, members_file)
            segment = Segment(
                id=self._scope.home.new_id(),
                name=name,
                kind=SegmentKind.MEMBERS if content.tree is None else SegmentKind.RULE,
                rule=content.rule,
                tree=content.tree,
                uses=content.uses,
                size=len(content.members),
                evaluated=now,
                unknown=content.unknown,
            )
            values = {key: value for key, value in segment.as_dict().items() if key != "unknown"}
            tx.execute(tables.segments.insert().values(**values, project_id=self._scope.id, created=now))
            draft.set_members(segment.id, content.members)
            draft.publish()
            detail |= {"kind": segment.kind, "size": segment.size, **self.made_of(tx, name)}
            return records.seen(self._scope, tx, [segment])[0]

    def update(
        self,
        name: str,
        members_file: Path | str | None = None,
        *,
        rule: str | None = None,
        tree: RuleTree | None = None,
        anyway: bool = False,
    ) -> Segment:
        """Replace a rule by another, or the members of a list by those of another file.

        Segments that are composed of this one follow at once, feeds with their next run. Refused where a published feed
        would break a policy, and where other projects use the segment, unless it is meant `anyway`.
        """
        detail: Document = {}
        place = Place(kind=PlaceKind.SEGMENT, target=name)
        with Governance(self._scope).act("segment.update", name, place, detail=detail) as tx:
            before = self._get(tx, name)
            if [rule, tree, members_file].count(None) != 2:
                raise InvalidInput("nothing to change", hint=_GIVE)
            if before.kind is SegmentKind.RULE and members_file is not None:
                raise NotAllowed(f"segment {name} has a rule", remedy=_update(name, "rule", "EXPR"))
            if before.kind is SegmentKind.MEMBERS and members_file is None:
                raise NotAllowed(f"segment {name} is a list", remedy=_update(name, "members", "FILE"))
            if not anyway:
                references.check_not_elsewhere(self._scope, tx, name)
            draft = Draft(self._scope, tx)
            content = self._content(tx, draft, rule, tree, members_file, changed=name)
            if content.members != draft.base.members(before.id):
                draft.set_members(before.id, content.members)
                draft.publish()
            change(tx, before, size=len(content.members), evaluated=self._scope.home.now())
            if content.tree is not None:
                change(tx, before, rule=content.rule, tree=content.tree, uses=content.uses)
                for act in references.CHANGED.values():
                    act(self._scope, tx, name)
            evaluation.renew(self._scope, tx, {reference(name)})
            detail |= {"size": len(content.members), **self.made_of(tx, name)}
            return replace(records.seen(self._scope, tx, [self._get(tx, name)])[0], unknown=content.unknown)

    def evaluate(self, *names: str) -> list[Segment]:
        """Evaluate segments with what they are composed of; returns them as they are then.

        Where nobody has come or gone, the project's data stays at its generation.
        """
        return self._evaluate(names)

    def evaluate_all(self) -> list[Segment]:
        """Evaluate all segments that have a rule; returns them as they are then. See `evaluate`."""
        return self._evaluate(None)

    def evaluate_in(self, tx: Tx, *names: str, leaving: Sequence[str] = ()) -> list[str]:
        """Evaluate segments as `evaluate` does, in the caller's transaction; returns those that have a rule.

        One that is `leaving` to partners, and reads what is gone, has nobody, so that its members leave there.
        """
        return self._evaluate_in(tx, [*leaving, *names], strict=names)

    def _evaluate(self, names: Sequence[str] | None) -> list[Segment]:
        detail: Document = {}
        references.refresh(self._scope)
        target = "all" if names is None else ", ".join(names)[:400]
        with self._scope.act("segment.evaluate", target, detail=detail) as tx:
            done = self._evaluate_in(tx, names, strict=names or ())
            detail["segments"] = len(done)
            shown = {*done, *(names or ())}
            return records.seen(self._scope, tx, [each for each in stored(self._scope, tx) if each.name in shown])

    def _evaluate_in(self, tx: Tx, names: Sequence[str] | None, *, strict: Sequence[str]) -> list[str]:
        """Evaluate named segments, or with None all.

        One whose rule reads what is gone has nobody; but raises Gone where a `strict` one is, or is made of it.
        """
        hidden = Visibility(self._scope, tx).hidden_segments()
        found = {segment.name: segment for segment in stored(self._scope, tx) if segment.name not in hidden}
        for name in names or ():
            if name not in found and not is_pickable(name):  # those are as they were evaluated where they come from
                raise no_segment(name)
        draft, done, changed, gone = Draft(self._scope, tx), [], False, set[str]()
        needed = {each.name for each in in_order(found, strict)}
        for segment in in_order(found, sorted(found) if names is None else names):
            if segment.tree is None:
                continue
            done.append(segment.name)
            if gone.isdisjoint(segment.uses) and evaluation.is_current(self._scope, tx, draft, segment):
                evaluation.note(self._scope, tx, draft, segment)
                change(tx, segment, evaluated=self._scope.home.now())
                continue
            if segment.name in needed:
                members = evaluation.members_of(self._scope, tx, draft, segment)
            else:
                members = evaluation.remaining(self._scope, tx, draft, segment, gone)
            if members != draft.base.members(segment.id):
                draft.set_members(segment.id, members)
                changed = True
            change(tx, segment, size=len(members), evaluated=self._scope.home.now())
            if reference(segment.name) not in gone:
                evaluation.note(self._scope, tx, draft, segment)
        if changed:
            draft.publish()
        return done

    def all(self) -> list[Segment]:
        """Return the project's segments by name."""
        with self._scope.read(act="segment.view") as tx:
            hidden = Visibility(self._scope, tx).hidden_segments()
            return records.seen(self._scope, tx, [each for each in stored(self._scope, tx) if each.name not in hidden])

    def show(self, name: str, tx: Tx | None = None) -> Segment:
        """Return a segment; raises NotFound."""
        with self._scope.read(tx, act="segment.view") as tx:
            return records.seen(self._scope, tx, [self._get(tx, name)])[0]

    def pickable(self) -> list[Picked]:
        """Return what can be named where a segment is: ours, and what other projects share with this one."""
        with self._scope.read(act="segment.view") as tx:
            return references.pickable(self._scope, tx)

    def members(self, name: str, snapshot: Snapshot | None = None) -> BitMap:
        """Return the profile numbers of a segment as last evaluated, in a pinned snapshot or the newest, of the profiles
        that are there for the caller."""
        with self._scope.read(act="segment.view") as tx:
            segment = references.pick(self._scope, tx, name)
            snapshot = snapshot or Snapshot.open(self._scope, tx)
            return Visibility(self._scope, tx).narrowed(snapshot, snapshot.members(segment.id))

    def all_members(self, name: str, snapshot: Snapshot, tx: Tx | None = None) -> BitMap:
        """Return all profile numbers of a segment in a snapshot: for what feeds do, whoever asks for it. Another project's
        that is gone has none."""
        with self._scope.read(tx) as tx:
            try:
                return snapshot.members(references.pick(self._scope, tx, name).id)
            except Gone:
                return BitMap()

    def rename(self, name: str, new: str) -> Segment:
        """Give a segment another name; destinations that get it follow. Refused where a rule, a consent policy, a feed or
        another project names it, or where a target knows it by its name alone."""
        with self._scope.act("segment.rename", name, detail={"to": new[:100]}) as tx:
            segment = self._get(tx, name)
            if is_pickable(check_name(new, "segment")):
                raise InvalidName(f"{new[:80]!r} is how a segment of others is named", hint=_OTHER)
            if find(self._scope, tx, new) is not None:
                raise AlreadyExists(f"there is a segment {new!r} already", hint="choose another name")
            self._check_not_composed(tx, name)
            references.check_unused(self._scope, tx, name, but=references.RENAMED)
            references.check_not_elsewhere(self._scope, tx, name)
            for act in references.RENAMED.values():
                act(self._scope, tx, name, new)
            before, after = (Place(kind=PlaceKind.SEGMENT, target=each) for each in (name, new))
            Labels(self._scope).pass_on(tx, before, after)
            Labels(self._scope).forget(tx, before)
            change(tx, segment, name=new)
            draft = Draft(self._scope, tx)
            draft.forget_list(name)
            draft.publish()
            return records.seen(self._scope, tx, [self._get(tx, new)])[0]

    def _check_not_composed(self, tx: Tx, name: str) -> None:
        users = [each.name for each in stored(self._scope, tx) if name in own(each.uses)]
        if users:
            shown = sorted(set(users) - Visibility(self._scope, tx).hidden_segments()) or ["others"]
            raise NotAllowed(f"segment {name} is used by {', '.join(shown)}", hint="delete those first")

    def delete(self, name: str, *, anyway: bool = False) -> None:
        """Delete a segment; refused while another one is composed of it, a consent policy reads it or a feed shares it, and
        where other projects use it, unless it is meant `anyway`."""
        with self._scope.act("segment.delete", name) as tx:
            segment = self._get(tx, name)
            self._check_not_composed(tx, name)
            references.check_unused(self._scope, tx, name)
            if not anyway:
                references.check_not_elsewhere(self._scope, tx, name)
            for act in references.DELETED.values():
                act(self._scope, tx, name)
            Labels(self._scope).forget(tx, Place(kind=PlaceKind.SEGMENT, target=name))
            tx.execute(tables.segments.delete().where(tables.segments.c.id == segment.id))
            draft = Draft(self._scope, tx)
            draft.set_members(segment.id, None)
            draft.forget_list(name)  # another of that name will not be what an import brought
            draft.publish()

    def made_of(self, tx: Tx, name: str) -> Document:
        """Return for the audit log which segments of other projects one is made of: who reaches none of them does not read
        how many are in it."""
        found = Lineage(self._scope, tx).shared_in(Place(kind=PlaceKind.SEGMENT, target=name))
        return {"shared": sorted(f"shared.{each}" for each in found)} if found else {}

    def _get(self, tx: Tx, name: str) -> Segment:
        segment = find(self._scope, tx, name)
        if segment is None or not Visibility(self._scope, tx).sees_segments([name]):
            raise no_segment(name)
        return segment

    def _content(
        self,
        tx: Tx,
        draft: Draft,
        rule: str | None,
        tree: RuleTree | None,
        members_file: Path | str | None,
        *,
        changed: str | None = None,
    ) -> _Content:
        """Return what a rule, a tree or a file says, for a new segment or the one that is `changed`."""
        if members_file is not None:
            members, unknown = Lists(self._scope).read(tx, draft.base, Path(members_file))
            return _Content(members=members, uses=[], unknown=unknown)
        if rule is None:  # text is the one form that the parser reads
            rule = trees.written(trees.read(trees.load(tree) if isinstance(tree, Path) else tree))
        parsed = rules.parse(rule, evaluation.attribute_names(self._scope, tx, visible=True))
        references.check_visible(self._scope, tx, parsed.uses)
        if changed is not None:
            self._check_apart(tx, changed, parsed.uses)
        column_types.check(parsed.tree, draft.snapshot.attributes, evaluation.attribute_names(self._scope, tx))
        members = evaluation.matching(self._scope, tx, draft.snapshot, parsed.tree)
        return _Content(members=members, rule=rule, tree=parsed.tree, uses=parsed.uses)

    def _check_apart(self, tx: Tx, name: str, uses: Iterable[str]) -> None:
        """Refuse a rule that would make a segment of itself."""
        found = {segment.name: segment for segment in stored(self._scope, tx)}
        way = way_to(found, own(uses), name)
        if way:
            raise NotAllowed(
                f"segment {name} would be made of itself: {' reads '.join([name, *way])}",
                hint=f"leave {reference(way[0])} out of the rule",
            )


def _update(name: str, option: str, value: str) -> Remedy:
    return Remedy("segment.update", {"name": name, option: value})
