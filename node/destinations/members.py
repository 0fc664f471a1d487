"""Whose members may leave to a destination: what every one of them asks before it takes a segment."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyroaring import BitMap

from ..access.scope import Scope
from ..consent.consent_policies import ConsentPolicies
from ..governance.governance import FILE_USES, Governance
from ..governance.lineage import Lineage, is_pickable
from ..governance.visibility import Visibility
from ..people.snapshots import Snapshot
from ..segments import references
from ..segments.segments import Segments
from ..storage.database import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The members of a segment that may leave, as numbers of profiles in `snapshot`; `without_consent` had to stay."""

    snapshot: Snapshot
    members: BitMap
    without_consent: int


def evaluate_received(scope: Scope, segment: str, uses: Sequence[str]) -> None:
    """Evaluate a segment that reads received ones, so that nothing leaves that a partner took back, and what consent
    policies read that narrow it for `uses`.

    To be called before the transaction of the act. It is done in the caller's name, who needs no permission for it but
    that of the act.
    """
    references.refresh(scope)
    with scope.read() as tx:
        names = ConsentPolicies(scope).segments_read(uses or FILE_USES, tx)
        if Lineage(scope, tx).any_incoming(segment) and not is_pickable(segment):
            names.append(segment)
        if not names or not Visibility(scope, tx).sees_segments([segment]):
            return
    guard = scope.home.guard
    with guard.itself(guard.actor()):
        Segments(scope).evaluate(*names)


def allowed_members(scope: Scope, tx: Tx, segment: str, uses: Sequence[str], *, fields: Iterable[str] = ()) -> Allowed:
    """Return the members of a segment that may leave for some marketing uses, all of them if none is given, of the
    profiles that are there for the caller; some `fields` ("dataset.field") are to leave with them.

    Members who fail a consent policy on one of the uses are left out. Raises NotFound, and PolicyViolation where a policy,
    C12, or a partner whose segment this one reads forbids one of the uses. Raises NotAllowed where a consent policy on one
    reads what is hidden from the caller: who is left out would tell it.
    """
    found = references.pick(scope, tx, segment)
    Governance(scope).check_export(segment, uses, tx, fields=fields)
    Visibility(scope, tx).check_use([segment], *(uses or FILE_USES))
    snapshot = Snapshot.open(scope, tx)
    everyone = members = Visibility(scope, tx).narrowed(snapshot, snapshot.members(found.id))
    for qualified in ConsentPolicies(scope).qualified([segment], snapshot, actions=uses or FILE_USES, tx=tx):
        members = members if qualified is None else members & qualified
    return Allowed(snapshot=snapshot, members=members, without_consent=len(everyone - members))
