"""What targets call segments: given by them, typed by a person, or ours; and that a target follows a segment's name."""

import hashlib
import json
from typing import Any

from sqlalchemy import select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import Failure, InvalidInput, NotAllowed
from ..governance.lineage import Lineage, PlaceKind
from ..segments import references
from ..storage.database import Tx
from ..storage.tables import activations, batches, deliveries, latencies
from . import codes
from .abilities import WithAudiences
from .kinds import LONGEST_AUDIENCE_ID, Audience, Delivered, Refused, Target
from .records import Activation, ActivationStatus, Destination, stored


def needed(destination: Destination, activation: Activation) -> str | None:
    """Return what has to happen before a segment is sent: "create", "update"; None for nothing."""
    if activation.status is not ActivationStatus.ACTIVE:
        return None
    if destination.is_audience_manager:
        if activation.audience == activation.segment:
            return None
        return "create" if activation.audience is None else "update"
    if "audience-id" not in destination.settings:
        return None
    if activation.external_id is None:
        return "create"
    told = activation.audience
    return "update" if told is not None and told != activation.segment and _has(destination, "update") else None


def bring_up_to_date(scope: Scope, destination: Destination, activation: Activation, target: Target) -> bool:
    """Have the target know a segment by its name, and note what it calls it; return whether anything was to do.

    Raises Failure where the target does not take it: the segment waits, others go on.
    """
    event = needed(destination, activation)
    if event is None:
        return False
    segment_id = _segment_id(scope, activation)
    values: dict[str, Any] = {}
    choice = destination.settings.get("audience-id")
    if event == "create" and choice is not None:
        values["external_id"] = activation.segment if choice == "name" else segment_id
    if _has(destination, event):
        alias = activation.external_id or ("" if choice == "theirs" else values.get("external_id", ""))
        found = _call(scope, destination, activation, target, (event, segment_id, alias))
        values["audience"] = activation.segment
        if event == "create" and choice == "theirs":
            values["external_id"] = found
    with scope.begin() as tx:
        tx.execute(activations.update().where(activations.c.id == activation.id).values(**values))
    return True


def end(scope: Scope, destination: Destination, activation: Activation, target: Target) -> None:
    """Have the target delete what it was asked to make for a segment that it gets no more; raises Failure."""
    if activation.audience is not None and _has(destination, "delete"):
        what = "delete", _segment_id(scope, activation), activation.external_id or ""
        _call(scope, destination, activation, target, what)


def checked_id(destination: Destination, given: str | None, count: int) -> str | None:
    """Return what a person says that a target calls a segment; raises InvalidInput."""
    typed = destination.settings.get("audience-id") == "typed"
    if given is None and not typed:
        return None
    if given is None or count != 1 or not 0 < len(given) <= LONGEST_AUDIENCE_ID or not given.isprintable():
        raise InvalidInput(
            f"destination {destination.name} has to be told what its target calls a segment",
            hint="activate one segment at a time, with --audience-id",
        )
    return given


def renamed(scope: Scope, tx: Tx, name: str, new: str) -> None:
    """Note that a segment of ours has another name; targets are told with the next run. Raises NotAllowed."""
    ids = [each.id for each in stored(scope, tx)]
    for table in (activations, batches, deliveries, latencies):
        mine = table.c.destination_id.in_(ids)
        if tx.execute(select(table.c.id).where(mine, table.c.segment == new).limit(1)).first() is not None:
            raise NotAllowed(f"a destination has had another segment {new}", hint="choose another name")
        tx.execute(table.update().where(mine, table.c.segment == name).values(segment=new))


def _segment_id(scope: Scope, activation: Activation) -> str:
    """Return the id under which calls name a segment; another project may share it no more."""
    with scope.read() as tx:
        try:
            return references.pick(scope, tx, activation.segment).id
        except references.Gone:
            return activation.id


def _has(destination: Destination, event: str) -> bool:
    if destination.is_audience_manager:
        return event != "delete"  # who is in it left before
    return event in json.loads(destination.settings.get("audiences", "{}"))


def _call(
    scope: Scope, destination: Destination, activation: Activation, target: Target, what: tuple[str, str, str]
) -> str | None:
    event, segment_id, alias = what
    with scope.read() as tx:
        labels = tuple(sorted(Lineage(scope, tx).labels(PlaceKind.SEGMENT, activation.segment)))
    about = Audience(id=segment_id, name=activation.segment, alias=alias, settings=destination.settings, labels=labels)
    assert isinstance(target, WithAudiences)  # its kind has the settings
    key = f"{event}-{activation.id}"
    if (
        event == "update"
    ):  # each other name is another call, which a target that remembers keys must not take for the last
        names = f"{activation.audience} {activation.segment}"
        key += f"-{hashlib.sha256(names.encode()).hexdigest()[:16]}"
    outcome, found = target.audience(event, about, key, scope.home.now())
    if isinstance(outcome, Delivered):
        if event != "create" or found is not None or destination.settings.get("audience-id") != "theirs":
            return str(found)
        outcome = Refused("audience")
    elif event == "delete" and outcome.code in ("http_404", "gone"):
        return None
    raise Failure(
        f"the target did not {event} the audience of segment {activation.segment}: {codes.reason(outcome.code)}",
        hint="it is tried again in a minute; look at the calls for audiences if it stays so",
        remedy=Remedy("destination.sync", {"name": destination.name}),
    )
