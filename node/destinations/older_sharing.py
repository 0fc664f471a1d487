"""The older sharing: a destination that gets every segment of ours which may leave, those made later too.

It and connections to the Experience Cloud, which get chosen segments, do not export at one time.
"""

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, NotAllowed
from ..governance.violations import PolicyViolation
from ..segments import records as segments
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import activations
from .desired import check_leaves
from .records import (
    EXPERIENCE_CLOUD,
    ActivationStatus,
    Destination,
    DestinationStatus,
    activations_of,
    add_activation,
    stored,
)

MOST = 1_000  # segments that begin to be shared at once; the others follow


class LegacySharingOn(NotAllowed):
    """The older sharing, of all segments, and a connection to the Experience Cloud cannot both export."""

    code = "legacy_sharing_on"


def find(scope: Scope, tx: Tx) -> Destination | None:
    """Return the destination that is the older sharing; None where it is off."""
    return next((each for each in stored(scope, tx) if each.of_all and _exports(each)), None)


def check_off(scope: Scope, tx: Tx, name: str) -> None:
    """Raise LegacySharingOn while it is on: a connection is made by its hand-over."""
    if find(scope, tx) is not None:
        raise LegacySharingOn(
            "the older sharing of all segments is on, and it and a connection to the Experience Cloud cannot both export",
            hint="have the connection take over from it, which leaves no gap",
            remedy=Remedy("audience.sharing.off", {"hand_over": name}),
        )


def check_no_connection(scope: Scope, tx: Tx) -> None:
    """Raise LegacySharingOn where a connection exports."""
    found = next((each for each in stored(scope, tx) if each.kind == EXPERIENCE_CLOUD and _exports(each)), None)
    if found is not None:
        name = found.name.partition(".")[0] if found.part_of else found.name
        raise LegacySharingOn(
            f"{name} is a connection to the Experience Cloud, and it and the older sharing cannot both export",
            hint="delete the connection first",
            remedy=Remedy("destination.delete", {"name": name}),
        )


def check_chosen(destination: Destination) -> None:
    """Raise NotAllowed for what chooses among the segments of the older sharing, or ends it."""
    if destination.of_all:
        raise NotAllowed(
            f"destination {destination.name} is the older sharing: it gets every segment",
            hint="end it, or have a connection take over from it with the segments that you choose",
            remedy=Remedy("audience.sharing.off"),
        )


def check_one_side(scope: Scope, tx: Tx) -> None:
    """Raise AlreadyExists where something is sent to the project's own Audience Manager side already: a member that one
    destination removes would be gone for the other too."""
    found = next((each for each in stored(scope, tx) if each.is_here and _exports(each)), None)
    if found is not None:
        raise AlreadyExists(
            f"destination {found.name} sends to this project's Audience Manager side already",
            hint="look at it",
            remedy=Remedy("destination.show", {"name": found.name}),
        )


def missing(scope: Scope, tx: Tx, destination: Destination) -> list[str]:
    """Return the segments that the older sharing has to begin with: those that it does not get and that may leave."""
    if not destination.of_all or not _exports(destination) or scope.row(tx).consent_model is None:
        return []
    there = {each.segment for each in activations_of(tx, destination)}
    found = (each.name for each in segments.stored(scope, tx) if each.name not in there)
    return [each for each in found if _may_leave(scope, tx, destination, each)]


def follow(scope: Scope, destination: Destination) -> None:
    """Begin to share the segments that were made since, as the node's own work."""
    guard = scope.home.guard
    with guard.itself(guard.actor()), scope.begin() as tx:
        found = missing(scope, tx, destination)[:MOST]
        for each in found:
            add_activation(scope, tx, destination, each)
        if found:
            detail: Document = {"segments": found[:100], "count": len(found)}
            scope.home.audit.record(tx, "audience.follow", destination.name, project_id=scope.id, detail=detail)


def deleted(scope: Scope, tx: Tx, name: str) -> None:
    """Note that a segment is being deleted: its members are removed where the older sharing has them."""
    segment = segments.find(scope, tx, name)
    for each in stored(scope, tx):
        if each.of_all and segment is not None:
            mine = (activations.c.destination_id == each.id, activations.c.segment == name)
            ends = {"status": ActivationStatus.LEAVING, "replay": True, "deleted_id": segment.id}
            tx.execute(activations.update().where(*mine, activations.c.deleted_id.is_(None)).values(**ends))


def _may_leave(scope: Scope, tx: Tx, destination: Destination, segment: str) -> bool:
    try:
        check_leaves(scope, tx, destination, segment)
    except (PolicyViolation, NotAllowed):
        return False
    return True


def _exports(destination: Destination) -> bool:
    return destination.status is not DestinationStatus.DELETING
