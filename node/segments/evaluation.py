"""Who is in a segment by its rule: evaluated over a snapshot of the people, in the caller's transaction."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
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
) -> BitMap:
    """Return the profiles that a rule's tree takes in; `columns` are fields beside the imported attributes."""
    found = rules.evaluate(
        tree,
        count=snapshot.profile_count,
        attributes=snapshot.attributes,
        fields=attribute_names(scope, tx)
        | {f"{dataset}.{field}": (dataset, field) for dataset, field in columns or {}},
        segments=references.members(scope, tx, snapshot, {leaf["field"] for leaf in rules.leaves(tree)}),
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


_evaluated: dict[tuple[Path, str], str] = {}  # by data directory and segment, what its members were evaluated from


def is_current(scope: Scope, tx: Tx, draft: Draft, segment: Segment) -> bool:
    """Return whether a rule's members in a draft are those that evaluating it again would give.

    Known of what this process has evaluated. Files never change, so their names stand for them, also that of the members.
    """
    stamp = _stamp(scope, tx, draft, segment)
    return stamp is not None and _evaluated.get((scope.data_directory, segment.id)) == stamp


def note(scope: Scope, tx: Tx, draft: Draft, segment: Segment) -> None:
    """Note that the members of a rule in a draft are what it was evaluated to."""
    stamp = _stamp(scope, tx, draft, segment)
    if stamp is not None:
        _evaluated[scope.data_directory, segment.id] = stamp


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
    touched = []
    for segment in in_order(found, sorted(found)):
        if segment.tree is None or changed.isdisjoint(segment.uses):
            continue
        members = remaining(scope, tx, draft, segment, gone)
        draft.set_members(segment.id, members)
        change(tx, segment, size=len(members), evaluated=scope.home.now())
        changed.add(reference(segment.name))
        touched.append(segment.name)
    if touched:
        draft.publish()
    return [name for name in touched if reference(name) in gone]


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
            return matching(scope, tx, draft.snapshot, segment.tree)
    gone.add(reference(segment.name))
    return BitMap()
