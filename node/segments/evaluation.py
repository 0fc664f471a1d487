"""Who is in a segment by its rule: evaluated over a snapshot of the people, in the caller's transaction."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pyroaring import BitMap

from ..access.scope import Scope
from ..governance.lineage import Place, PlaceKind, place_of
from ..governance.visibility import Visibility
from ..people.datasets import FieldKind, fields_where
from ..people.drafts import Draft
from ..people.snapshots import Snapshot
from ..people.touched import few, touched_since
from ..storage import tables
from ..storage.database import Tx
from . import references, rules, trees
from .records import Segment, change, in_order, stored
from .references import Gone, reference


def matching(
    scope: Scope,
    tx: Tx,
    snapshot: Snapshot,
    tree: trees.Tree,
    columns: Mapping[rules.FieldPath, npt.NDArray[Any]] | None = None,
    only: BitMap | None = None,
) -> BitMap:
    """Return the profiles, or those of `only` some, that a rule's tree takes in; `columns` are fields beside the imported
    attributes."""
    read = references.members(scope, tx, snapshot, {leaf["field"] for leaf in rules.leaves(tree)})
    found = rules.evaluate(
        tree,
        profiles=snapshot.profile_count if only is None else only,
        attributes=snapshot.attributes,
        fields=attribute_names(scope, tx)
        | {f"{dataset}.{field}": (dataset, field) for dataset, field in columns or {}},
        segments=read if only is None else {name: members & only for name, members in read.items()},
        columns=columns,
    )
    return found - snapshot.erased


def attribute_names(scope: Scope, tx: Tx, *, visible: bool = False) -> dict[str, rules.FieldPath]:
    """Return the names by which a rule may call attributes: "dataset.field", and "field" where only one dataset has it.

    With `visible`, only of those attributes that the caller may see.
    """
    found = fields_where(scope, tx, tables.fields.c.kind == FieldKind.ATTRIBUTE)
    if visible:
        visibility = Visibility(scope, tx)
        found = [each for each in found if visibility.sees(Place(kind=PlaceKind.FIELD, target=each.path))]
    names = [each.name for each in found]
    short = {each.name: (each.dataset, each.name) for each in found if names.count(each.name) == 1}
    return short | {each.path: (each.dataset, each.name) for each in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluated:
    """What the members of a rule were evaluated from last. Files never change, so their names stand for them."""

    members: str  # their file
    stamp: str  # of all that they follow from
    rule: str  # of the rule and of what its names stand for
    generation: int
    received: dict[str, BitMap]  # by reference, the members of partners' segments that it reads


_evaluated: dict[tuple[Path, str], _Evaluated] = {}  # by data directory and segment, what this process has evaluated


def is_current(scope: Scope, tx: Tx, draft: Draft, segment: Segment) -> bool:
    """Return whether a rule's members in a draft are those that evaluating it again would give."""
    last = _evaluated.get((scope.data_directory, segment.id))
    return last is not None and last.stamp == _stamp(scope, tx, draft, segment)


def members_of(scope: Scope, tx: Tx, draft: Draft, segment: Segment) -> BitMap:
    """Return the profiles that a rule takes in, in a draft: computed for those alone that may differ since the last time.

    A rule decides of each profile by what that profile has. Raises Gone where it reads what is there no more.
    """
    if segment.tree is None:
        raise ValueError(segment.name)
    touched = _touched(scope, tx, draft, segment)
    if touched is None:
        return matching(scope, tx, draft.snapshot, segment.tree)
    before = draft.snapshot.members(segment.id)
    return (before - touched) | matching(scope, tx, draft.snapshot, segment.tree, only=touched) if touched else before


def note(scope: Scope, tx: Tx, draft: Draft, segment: Segment) -> None:
    """Note that the members of a rule in a draft are what it was evaluated to, once the transaction is committed."""
    stamp = _stamp(scope, tx, draft, segment)
    if stamp is None:
        return
    found = _Evaluated(
        members=draft.content.segments[segment.id],
        stamp=stamp,
        rule=_rule(scope, tx, segment),
        generation=draft.base.generation,
        received=_received(scope, tx, draft, segment),
    )
    scope.home.database.afterwards(lambda: _evaluated.update({(scope.data_directory, segment.id): found}))


def _touched(scope: Scope, tx: Tx, draft: Draft, segment: Segment) -> BitMap | None:
    """Return the profiles that may have come into a rule, or left it, since it was evaluated; None if that is anybody."""
    last = _evaluated.get((scope.data_directory, segment.id))
    if last is None or last.members != draft.content.segments.get(segment.id):
        return None
    since, now = touched_since(draft.base, last.generation), draft.touched.profiles(draft.content.count)
    if since is None or now is None or last.rule != _rule(scope, tx, segment):
        return None
    received = _received(scope, tx, draft, segment)
    differ = (members ^ last.received[reference] for reference, members in received.items())
    return few(BitMap.union(since, now, *differ), draft.content.count)


def _received(scope: Scope, tx: Tx, draft: Draft, segment: Segment) -> dict[str, BitMap]:
    """Return the members of the partners' segments that a rule reads: what changes in them touches no generation."""
    read = [use for use in segment.uses if (place := place_of(use)) and place.kind is not PlaceKind.SEGMENT]
    return references.members(scope, tx, draft.snapshot, read)


def _rule(scope: Scope, tx: Tx, segment: Segment) -> str:
    """Return a digest of a rule and of what its names stand for."""
    read = {each.name: each.id for each in stored(scope, tx) if reference(each.name) in segment.uses}
    found = [segment.tree, sorted(attribute_names(scope, tx).items()), sorted(read.items())]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _stamp(scope: Scope, tx: Tx, draft: Draft, segment: Segment) -> str | None:
    """Return a digest of a rule, of what it is evaluated from, and of its members; None where it has no members yet."""
    content = draft.content
    if segment.tree is None or segment.id not in content.segments:
        return None
    read = {
        each.name: content.segments.get(each.id) for each in stored(scope, tx) if reference(each.name) in segment.uses
    }
    found = [
        segment.tree,
        content.segments[segment.id],
        (content.count, content.erased, sorted(content.attributes.items())),
        sorted(attribute_names(scope, tx).items()),
        sorted(read.items()),
        [(kind.value, source(scope).stamp(tx)) for kind, source in sorted(references.KINDS.items())],
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def read_by_rules(scope: Scope, tx: Tx) -> list[object]:
    """Return what rules are evaluated from beside a snapshot, and the rules: compared as text, it differs once they do."""
    trees_of = [(each.id, each.name, each.tree) for each in stored(scope, tx)]
    others = [(kind.value, source(scope).stamp(tx)) for kind, source in sorted(references.KINDS.items())]
    return [trees_of, sorted(attribute_names(scope, tx).items()), others]


def check_references(scope: Scope, tx: Tx, uses: Collection[str]) -> None:
    """Raise NotFound if a reference among what a rule reads names no segment, or one that is hidden from the caller."""
    references.check_visible(scope, tx, uses)
    if any(place_of(use) is not None for use in uses):
        references.members(scope, tx, Snapshot.open(scope, tx), uses)


def renew(scope: Scope, tx: Tx, changed: Iterable[str]) -> list[str]:
    """Evaluate again what reads one of the references ("received.acme.vip"), in the caller's transaction.

    Returns the segments that can no longer be evaluated: they have no members from now on.
    """
    changed, gone, draft = set(changed), set[str](), Draft(scope, tx)
    found = {segment.name: segment for segment in stored(scope, tx)}
    done = []
    for segment in in_order(found, sorted(found)):
        if segment.tree is None or changed.isdisjoint(segment.uses):
            continue
        members = remaining(scope, tx, draft, segment, gone)
        draft.set_members(segment.id, members)
        if reference(segment.name) not in gone:
            note(scope, tx, draft, segment)
        change(tx, segment, size=len(members), evaluated=scope.home.now())
        changed.add(reference(segment.name))
        done.append(segment.name)
    if done:
        draft.publish()
    return [name for name in done if reference(name) in gone]


def count_members(scope: Scope, tx: Tx, draft: Draft) -> None:
    """Write down how many members each segment has in a draft that people were taken out of."""
    for segment in stored(scope, tx):
        size = len(draft.snapshot.members(segment.id))
        if size != segment.size:
            change(tx, segment, size=size)


def remaining(scope: Scope, tx: Tx, draft: Draft, segment: Segment, gone: set[str]) -> BitMap:
    """Return a rule's members, nobody where the rule reads what is gone.

    `gone` has references to segments of ours that cannot be evaluated; this one is added if it reads what is gone.
    """
    if segment.tree is not None and gone.isdisjoint(segment.uses):
        with suppress(Gone):
            return members_of(scope, tx, draft, segment)
    gone.add(reference(segment.name))
    return BitMap()
