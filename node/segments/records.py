"""The segments of a project as their rows have them, and as references in rules."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from pyroaring import BitMap
from sqlalchemy import Row, select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import NotAllowed, NotFound
from ..governance.visibility import Visibility, no_segment
from ..people.snapshots import Snapshot
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import Document
from . import trees
from .references import Picked, own


class SegmentKind(StrEnum):
    """How a segment was made: from a list of members, or from a rule."""

    MEMBERS = "members"
    RULE = "rule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """`size` counts profiles as last evaluated; `unknown` the ids of a members file that are no profile."""

    id: str
    name: str
    kind: SegmentKind
    rule: str | None
    tree: trees.Tree | None
    uses: list[str]
    size: int
    evaluated: int
    unknown: int = field(default=0)

    def as_dict(self) -> Document:
        return asdict(self)

    def written(self, form: str) -> str:
        """Return the rule's tree as "json" or "yaml"; raises NotAllowed for a list."""
        if self.tree is None:
            raise NotAllowed(
                f"segment {self.name} is a list: it has no rule",
                hint="look at it",
                remedy=Remedy("segment.show", {"name": self.name}),
            )
        return trees.dumped(self.tree, form)


class OwnSegments:
    """A kind of reference in rules, "own.SEGMENT"."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def members(self, tx: Tx, snapshot: Snapshot, name: str) -> BitMap:
        segment = find(self._scope, tx, name)
        if segment is None:
            raise self.missing(name)
        return snapshot.members(segment.id)

    def names(self, tx: Tx) -> list[str]:
        return [segment.name for segment in stored(self._scope, tx)]

    def pick(self, tx: Tx, name: str) -> Picked | None:
        segment = find(self._scope, tx, name)
        return None if segment is None else _picked(segment)

    def pickable(self, tx: Tx) -> list[Picked]:
        return list(map(_picked, seen(self._scope, tx, stored(self._scope, tx))))

    def stamp(self, tx: Tx) -> object:
        return [(each.id, each.name) for each in stored(self._scope, tx)]

    def missing(self, name: str) -> NotFound:
        return no_segment(name)


def stored(scope: Scope, tx: Tx) -> list[Segment]:
    """Return all segments of a project by name, also those that are hidden from the caller."""
    rows = tables.segments
    query = select(rows).where(rows.c.project_id == scope.id).order_by(rows.c.name)
    return [_segment(row) for row in tx.execute(query)]


def find(scope: Scope, tx: Tx, name: str) -> Segment | None:
    """Return a segment, also one that is hidden from the caller."""
    rows = tables.segments
    row = tx.execute(select(rows).where(rows.c.project_id == scope.id, rows.c.name == name)).first()
    return None if row is None else _segment(row)


def seen(scope: Scope, tx: Tx, segments: Collection[Segment]) -> list[Segment]:
    """Return segments with the sizes that they have for the caller, who may be limited to the people of some datasets."""
    visibility = Visibility(scope, tx)
    if not visibility.limited:
        return [*segments]
    snapshot = Snapshot.open(scope, tx)
    people = visibility.people(snapshot)
    return [replace(each, size=len(snapshot.members(each.id) & people)) for each in segments]


def _picked(segment: Segment) -> Picked:
    return Picked(
        id=segment.id,
        name=segment.name,
        kind=segment.kind.value,
        size=segment.size,
        evaluated=segment.evaluated,
        rule=segment.rule,
    )


def change(tx: Tx, segment: Segment, **values: Any) -> None:
    """Change columns of a segment's row."""
    tx.execute(tables.segments.update().where(tables.segments.c.id == segment.id).values(**values))


def in_order(found: Mapping[str, Segment], names: Collection[str]) -> Iterator[Segment]:
    """Yield segments, each after the ones that it is composed of."""
    seen: set[str] = set()

    def walk(name: str) -> Iterator[Segment]:
        if name in seen or name not in found:
            return
        seen.add(name)
        for used in own(found[name].uses):
            yield from walk(used)
        yield found[name]

    for name in names:
        yield from walk(name)


def way_to(found: Mapping[str, Segment], names: Collection[str], goal: str) -> list[str]:
    """Return how one of some segments reads another, each name followed by what it reads; nothing if none does."""
    ways, seen = [[name] for name in names], set[str]()
    for way in ways:
        if way[-1] == goal:
            return way
        if way[-1] in found and way[-1] not in seen:
            seen.add(way[-1])
            ways += [[*way, used] for used in own(found[way[-1]].uses)]
    return []


def _segment(row: Row[Any]) -> Segment:
    return Segment(
        id=row.id,
        name=row.name,
        kind=SegmentKind(row.kind),
        rule=row.rule,
        tree=row.tree,
        uses=row.uses,
        size=row.size,
        evaluated=row.evaluated,
    )


def rules_seen(scope: Scope, tx: Tx) -> list[tuple[str, trees.Tree]]:
    """Return the rules of the segments that the caller may see, with the segment's name."""
    hidden = Visibility(scope, tx).hidden_segments()
    return [(each.name, each.tree) for each in stored(scope, tx) if each.tree is not None and each.name not in hidden]
