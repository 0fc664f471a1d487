"""Where segments are used by other projects: in a rule, a consent policy, a destination or a feed."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from psi.errors import Remedy

from ...access.scope import Scope
from ...consent import consent_policies
from ...destinations import records as destinations
from ...segments.references import UsedElsewhere
from ...storage.database import Tx
from ...storage.tables import segments
from .. import versions
from . import shares
from .shares import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Projects:
    """Some projects: those that the caller reaches by name, and how many others there are."""

    names: Sequence[str]
    others: int

    def __len__(self) -> int:
        return len(self.names) + self.others

    def __str__(self) -> str:
        return " and ".join(
            [*([", ".join(self.names)] if self.names else []), *([others(self.others)] * bool(self.others))]
        )


def others(count: int) -> str:
    """Return in words how many projects there are that the reader does not reach."""
    return f"{count} other project{'' if count == 1 else 's'}"


def known(scope: Scope, tx: Tx, found: Sequence[Share]) -> Projects:
    """Return the projects that use some segments as the caller may know them."""
    reached = scope.home.guard.reached(tx)
    names = {each.project_name for each in found}
    seen = sorted(name for name in names if reached.names is None or name in reached.names)
    return Projects(names=seen, others=len(names) - len(seen))


def is_used(scope: Scope, tx: Tx, share: Share) -> bool:
    """Return whether the project that may use a segment does."""
    user, name = share.user_scope(scope.home), share.reference
    rules = tx.scalars(select(segments.c.uses).where(segments.c.project_id == user.id))
    policies = (each.uses for each in consent_policies.stored(user, tx))
    sent = (each.segment for found in destinations.stored(user, tx) for each in destinations.activations_of(tx, found))
    return (
        any(name in uses for uses in (*rules, *policies)) or name in sent or bool(versions.sharing(tx, user.id, name))
    )


def using(scope: Scope, tx: Tx, segment: str) -> Projects:
    """Return the projects that use a segment of this one."""
    return known(scope, tx, [each for each in shares.of_segment(scope, tx, segment) if is_used(scope, tx, each)])


def check_unused(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise UsedElsewhere if other projects use a segment."""
    found = using(scope, tx, segment)
    if len(found):
        uses = "uses" if len(found) == 1 else "use"
        raise UsedElsewhere(
            f"{len(found)} project{'' if len(found) == 1 else 's'} {uses} segment {segment}: {found}",
            hint="who is in it there changes with it; see where it is used",
            remedy=Remedy("segment.sharing", {"name": segment}),
        )
