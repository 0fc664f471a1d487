"""Segments of traits: visitors, by a rule over traits and other segments."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, NotAllowed, NotFound
from ..storage.database import Tx
from ..storage.records import record
from ..storage.tables import audience_segments
from . import checks, segment_rules
from .numbers import next_number
from .records import AudienceSegment, NewSegment

MOST = 20_000  # of a project, as Audience Manager has it


def stored(scope: Scope, tx: Tx) -> list[AudienceSegment]:
    """Return all segments of traits by number, also those that are hidden from the caller."""
    query = select(audience_segments).where(audience_segments.c.project_id == scope.id)
    return [record(AudienceSegment, row) for row in tx.execute(query.order_by(audience_segments.c.number))]


def by_number(scope: Scope, tx: Tx, number: int) -> AudienceSegment | None:
    """Return a segment of traits; None where there is none."""
    rows = audience_segments
    row = tx.execute(select(rows).where(rows.c.project_id == scope.id, rows.c.number == number)).first()
    return None if row is None else record(AudienceSegment, row)


def by_code(scope: Scope, tx: Tx, source: int, integration_code: str) -> AudienceSegment | None:
    """Return the segment that has an integration code in a data source; None where none has it."""
    rows = audience_segments
    mine = (rows.c.project_id == scope.id, rows.c.source == source, rows.c.integration_code == integration_code)
    row = tx.execute(select(rows).where(*mine)).first()
    return None if row is None else record(AudienceSegment, row)


def ensure(scope: Scope, tx: Tx, wanted: NewSegment) -> AudienceSegment:
    """Return the segment of a data source and an integration code; make it where there is none.

    One that is there follows in name and rule, and keeps all else.
    """
    there = None if wanted.integration_code is None else by_code(scope, tx, wanted.source, wanted.integration_code)
    if there is None:
        return add(scope, tx, wanted)
    following = {each: getattr(wanted, each) for each in ("name", "rule")}
    return change(scope, tx, there, **following)


def add(scope: Scope, tx: Tx, wanted: NewSegment) -> AudienceSegment:
    """Make a segment of traits; raises AlreadyExists for an integration code that one of its data source has."""
    checks.check_new(scope, tx, wanted, "segment", by_code)
    there = stored(scope, tx)
    if len(there) >= MOST:
        raise NotAllowed(f"a project has at most {MOST:,} segments of traits", hint="delete one")
    made = AudienceSegment(
        id=scope.home.new_id(),
        number=next_number(scope, tx),
        tree=segment_rules.parse(wanted.rule),
        size=0,
        evaluated=None,
        created=scope.home.now(),
        **asdict(wanted),
    )
    tx.execute(audience_segments.insert().values(**asdict(made), project_id=scope.id))
    return made


def change(scope: Scope, tx: Tx, segment: AudienceSegment, **values: Any) -> AudienceSegment:
    """Change what is given of name, description, rule, folder, size and evaluated."""
    changed = {name: value for name, value in values.items() if value != getattr(segment, name)}
    checks.check_changed(scope, tx, changed, "segment")
    if "rule" in changed:
        changed["tree"] = segment_rules.parse(changed["rule"])
    if changed:
        tx.execute(audience_segments.update().where(audience_segments.c.id == segment.id).values(**changed))
    found = by_number(scope, tx, segment.number)
    assert found is not None
    return found


def remove(tx: Tx, segment: AudienceSegment) -> None:
    """Take a segment's row away; its number is not given again."""
    tx.execute(audience_segments.delete().where(audience_segments.c.id == segment.id))


def no_segment(which: str | int) -> NotFound:
    """Return the error for a segment of traits that does not exist, or is hidden from the caller."""
    return NotFound(
        f"there is no segment of traits {str(which)[:80]!r}",
        hint="see which there are",
        remedy=Remedy("audience.segment.list"),
    )


def check_name_free(scope: Scope, tx: Tx, source: int, name: str) -> None:
    """Raise AlreadyExists for a name that a segment of a data source has: those that people make are told apart by it."""
    rows = audience_segments
    mine = (rows.c.project_id == scope.id, rows.c.source == source, rows.c.name == name)
    if tx.execute(select(rows.c.id).where(*mine)).first() is not None:
        raise AlreadyExists(f"there is a segment {name[:80]!r} of this data source already", hint="choose another name")
