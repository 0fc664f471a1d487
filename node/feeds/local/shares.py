"""A segment that one project lets another one of the node use, as its row is typed, and whether it may be used now."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Row, Select, delete, insert, select, update

from psi.errors import Remedy

from ...access.reached import WORD
from ...access.scope import Home, Scope
from ...errors import NotAllowed
from ...governance.lineage import NO_EXPORT, Lineage, PlaceKind
from ...segments.references import Gone
from ...storage.database import Tx
from ...storage.tables import DAY, evaluations, projects, segments, shares

NAMESPACES = ("idfv", "android_id")  # by which people match unless somebody says otherwise
KEPT_DAYS = 365  # evaluations


class SharedSegmentsOff(NotAllowed):
    """Segments are not shared between the projects of this node: an administrator can switch that on."""

    code = "shared_segments_off"

    def __init__(self) -> None:
        super().__init__(
            "projects of this node do not share segments",
            hint="an administrator can switch it on",
            remedy=Remedy("node.shared-segments", {"state": "on"}),
        )


class NotShared(Gone):
    """No project shares that segment with this one, or not now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A row of `shares`, with the names of what it shares."""

    id: str
    segment_id: str
    segment: str
    source: str  # the id of the project that has the segment
    source_name: str
    project_id: str  # of the project that uses it
    project_name: str
    namespaces: tuple[str, ...]
    with_consent: bool
    restricted_uses: tuple[str, ...]
    labels: list[str]
    basis: str | None
    generation: int | None
    own_generation: int | None
    size: int
    evaluated: int | None
    created: int

    @property
    def target(self) -> str:
        return f"{self.source_name}.{self.segment}"

    @property
    def reference(self) -> str:
        """How a rule of the project that uses it names it."""
        return f"{WORD}.{self.target}"

    def source_scope(self, home: Home) -> Scope:
        return Scope(home, self.source, self.source_name)

    def user_scope(self, home: Home) -> Scope:
        return Scope(home, self.project_id, self.project_name)


@cache  # it takes longer to make than to run
def _query() -> Select[Any]:
    source, user = projects.alias("source"), projects.alias("user")
    columns = (
        segments.c.name.label("segment"),
        source.c.id.label("source"),
        source.c.name.label("source_name"),
        user.c.name.label("project_name"),
    )
    return (
        select(shares, *columns)
        .join(segments, segments.c.id == shares.c.segment_id)
        .join(source, source.c.id == segments.c.project_id)
        .join(user, user.c.id == shares.c.project_id)
    )


def _share(row: Row[Any]) -> Share:
    values = row._asdict()
    return Share(**{**values, **{name: tuple(values[name]) for name in ("namespaces", "restricted_uses")}})


def _found(tx: Tx, query: Select[Any]) -> list[Share]:
    return sorted(map(_share, tx.execute(query)), key=lambda each: (each.target, each.project_name))


def every(tx: Tx) -> list[Share]:
    """Return the shares of all projects."""
    return _found(tx, _query())


def used_by(scope: Scope, tx: Tx) -> list[Share]:
    """Return what other projects share with one, by name."""
    return _found(tx, _query().where(shares.c.project_id == scope.id))


def of_segment(scope: Scope, tx: Tx, segment: str) -> list[Share]:
    """Return with whom a project shares a segment, by name."""
    return _found(tx, _query().where(segments.c.project_id == scope.id, segments.c.name == segment))


def of_project(scope: Scope, tx: Tx) -> list[Share]:
    """Return what a project shares with others."""
    return _found(tx, _query().where(segments.c.project_id == scope.id))


def find(scope: Scope, tx: Tx, target: str) -> Share | None:
    """Return what another project shares with one as "PROJECT.SEGMENT"."""
    return next((each for each in used_by(scope, tx) if each.target == target), None)


def get(scope: Scope, tx: Tx, target: str) -> Share:
    """Return the same; raises NotShared where it is not there, or may not be used now."""
    share = find(scope, tx, target)
    if share is None:
        raise not_shared(target)
    if (reason := why_not(scope.home, tx, share)) is not None:
        raise reason
    return share


def why_not(home: Home, tx: Tx, share: Share) -> NotShared | None:
    """Return why a segment that is shared may not be used now; None where it may."""
    if not home.config.shared_segments:
        off = SharedSegmentsOff()
        return NotShared(f"{share.reference} has nobody: {off}", hint=off.hint, remedy=off.remedy)
    for scope in (share.source_scope(home), share.user_scope(home)):
        if scope.row(tx).on_hold:
            return NotShared(
                f"{share.reference} has nobody: a project is on hold since a restore from a backup",
                hint="its operator resumes it",
                remedy=Remedy("project.resume", {"name": scope.name}),
            )
    if NO_EXPORT in Lineage(share.source_scope(home), tx).labels(PlaceKind.SEGMENT, share.segment):
        return NotShared(
            f"{share.reference} has nobody: its project put label {NO_EXPORT} on it",
            hint="leave it out, or ask there to take the label off",
        )
    return None


def not_shared(target: str) -> NotShared:
    """Return the refusal of a segment that no project shares with this one, or that the caller may not see."""
    return NotShared(
        f"there is no shared segment {target[:130]}",
        hint="see what other projects share with this one",
        remedy=Remedy("segment.list", {"shared": True}),
    )


def add(tx: Tx, **values: Any) -> None:
    tx.execute(insert(shares).values(**values, size=0))


def change(tx: Tx, share: Share, **values: Any) -> None:
    tx.execute(update(shares).where(shares.c.id == share.id).values(**values))


def remove(tx: Tx, share: Share) -> None:
    tx.execute(delete(evaluations).where(evaluations.c.share_id == share.id))
    tx.execute(delete(shares).where(shares.c.id == share.id))


def note_evaluation(home: Home, tx: Tx, share: Share, **values: Any) -> None:
    """Keep an evaluation, and forget those of more than a year ago."""
    now = home.now()
    tx.execute(insert(evaluations).values(id=home.new_id(), share_id=share.id, at=now, **values))
    tx.execute(delete(evaluations).where(evaluations.c.share_id == share.id, evaluations.c.at < now - KEPT_DAYS * DAY))


def evaluations_of(home: Home, tx: Tx, share: Share) -> list[Row[Any]]:
    """Return the evaluations of a year, newest first."""
    since = home.now() - KEPT_DAYS * DAY
    query = select(evaluations).where(evaluations.c.share_id == share.id, evaluations.c.at >= since)
    return [*tx.execute(query.order_by(evaluations.c.at.desc(), evaluations.c.generation.desc()))]
