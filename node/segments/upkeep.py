"""Rules evaluated again without a command, soon after the data or the partners' segments that they read have changed."""

from collections.abc import Callable, Hashable

from sqlalchemy import select

from ..access.scope import Scope
from ..people.snapshots import changes_after, newest_generation, settled, settles
from ..storage import tables
from ..storage.database import Tx
from .records import SegmentKind
from .segments import Segments

Evaluated = tuple[int, Hashable]  # the generation of the data, and the stamp of the partners' segments


def evaluate_changed(scope: Scope, known: dict[str, Evaluated], stamp: Callable[[Scope, Tx], Hashable]) -> int | None:
    """Evaluate a project's rules again once its data or its partners' segments have changed.

    Returns the time at which they are to be evaluated if nothing else changes until then; None if they are not.

    `known` maps project ids to what was evaluated last, and is updated. `stamp` differs when partners' segments do.
    """
    rows = tables.segments
    with scope.read() as tx:
        ruled = (rows.c.project_id == scope.id, rows.c.kind == SegmentKind.RULE)
        if tx.execute(select(rows.c.id).where(*ruled).limit(1)).first() is None:
            return None
        before = known.get(scope.id)
        now = (newest_generation(scope, tx), stamp(scope, tx))
        changes = changes_after(scope, tx, before[0]) if before else []
    if now == before:
        return None
    if not settled(changes, scope.home.now()):
        return settles(changes)
    known[scope.id] = now  # an error waits for the next change
    Segments(scope).evaluate_all()
    with scope.read() as tx:
        known[scope.id] = (newest_generation(scope, tx), now[1])
    return None
