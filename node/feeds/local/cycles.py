"""Nothing is shared with a project that is made of what that project shares, nor on from a partner."""

from collections import defaultdict
from collections.abc import Iterator

from sqlalchemy import select

from ...access.scope import Scope
from ...errors import NotAllowed
from ...governance.lineage import Lineage, Place, PlaceKind, place_of, written
from ...governance.visibility import Visibility
from ...storage.database import Tx
from ...storage.tables import segments
from . import shares
from .shares import Share

Segment = tuple[str, str]  # the id of its project, and its name


def check(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise NotAllowed if a segment that has changed, or is shared with one more project, makes what is shared depend on
    itself, or on what a partner shares. The caller's transaction has the change."""
    found = shares.every(tx)
    reads = _reads(tx, found)
    for share in found:
        way = _way(reads, (share.source, share.segment), share.project_id)
        if way:
            raise NotAllowed(
                f"what is shared would be made of itself: {_path(scope, tx, found, way)}",
                hint="leave the shared segment out of the rule, or do not share what is made of it",
            )
        own = Scope(scope.home, share.source, share.source_name)
        if share.source == scope.id and Lineage(own, tx).reads_received(share.segment):
            raise received(segment)


def received(segment: str) -> NotAllowed:
    """Return the refusal to share what is made of what a partner shares."""
    return NotAllowed(
        f"segment {segment} is made of received segments, or one is that is shared with other projects",
        hint="partners share with one project alone: share the first-party segment that it is built on",
    )


def _reads(tx: Tx, found: list[Share]) -> dict[Segment, list[Segment]]:
    """Return what each segment of the node reads, of its own project and of others."""
    shared = {(each.project_id, each.target): (each.source, each.segment) for each in found}
    reads = defaultdict[Segment, list[Segment]](list)
    for row in tx.execute(select(segments.c.project_id, segments.c.name, segments.c.uses)):
        for place in filter(None, map(place_of, row.uses)):
            if place.kind is PlaceKind.SEGMENT:
                reads[row.project_id, row.name].append((row.project_id, place.target))
            elif (source := shared.get((row.project_id, place.target))) and place.kind is PlaceKind.SHARED:
                reads[row.project_id, row.name].append(source)
    return reads


def _way(reads: dict[Segment, list[Segment]], start: Segment, project_id: str) -> list[Segment]:
    """Return how a segment is made of one of a project, each followed by what it reads; nothing if it is not."""
    ways, seen = [[start]], set[Segment]()
    for way in ways:
        if way[-1][0] == project_id:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            ways += [[*way, each] for each in reads.get(way[-1], ())]
    return []


def _path(scope: Scope, tx: Tx, found: list[Share], way: list[Segment]) -> str:
    reached = scope.home.guard.reached(tx).names
    names = {each.source: each.source_name for each in found} | {each.project_id: each.project_name for each in found}

    def steps() -> Iterator[str]:
        for project_id, name in way:
            project = names[project_id]
            place = Place(kind=PlaceKind.SHARED, target=f"{project}.{name}")
            if project_id == scope.id:
                place = Place(kind=PlaceKind.SEGMENT, target=name)
            there = Visibility(Scope(scope.home, project_id, project), tx)
            seen = (reached is None or project in reached) and there.sees_segments([name])
            yield written(place) if seen else place.unseen().target

    return " reads ".join(steps())
