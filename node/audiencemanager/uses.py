"""Where traits and segments of traits are used, so that none is deleted that something needs."""

from sqlalchemy import select

from ..access.scope import Scope
from ..errors import NotAllowed
from ..storage.database import Tx
from ..storage.tables import audience_imports
from . import segment_rules
from .records import AudienceSegment, Trait
from .sight import Sight


def read_by(sight: Sight, found: Trait | AudienceSegment) -> list[AudienceSegment]:
    """Return the segments whose rule names a trait or a segment, also those that are hidden."""
    place = 0 if isinstance(found, Trait) else 1
    every = sight.catalogue.segments.values()
    return [each for each in every if found.number in segment_rules.reads(each.tree)[place]]


def check_unused(scope: Scope, tx: Tx, sight: Sight, found: Trait | AudienceSegment) -> None:
    """Raise NotAllowed if something uses a trait or a segment, saying where."""
    kind = "trait" if isinstance(found, Trait) else "segment"
    users = [
        f"segment {each.number} {each.name!r}" if sight.sees_segment(each) else "a segment that you may not see"
        for each in read_by(sight, found)
    ]
    rows = audience_imports
    mine = (rows.c.project_id == scope.id, rows.c.kind == kind, rows.c.number == found.number)
    word = "trait" if kind == "trait" else "audience"
    users += [f"the import {word}.{name}" for name in tx.scalars(select(rows.c.name).where(*mine))]
    if users:
        raise NotAllowed(
            f"{kind} {found.number} {found.name!r} is used by {', '.join(dict.fromkeys(users))}",
            hint="take it out there first",
        )
