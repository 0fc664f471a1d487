"""Segments that destinations get: they are neither deleted meanwhile nor renamed where a target knows them by name alone."""

from collections.abc import Iterator, Sequence

from psi.errors import Remedy

from ..access.scope import Scope
from ..audiencemanager import controls
from ..errors import NotAllowed
from ..storage.database import Tx
from . import audiences, kinds
from .overview import sees
from .records import ActivationStatus, Destination, activations_of, stored


def audience_mappings(scope: Scope, tx: Tx) -> Iterator[controls.DestinationMapping]:
    """Yield what of the Audience Manager side destinations get."""
    for found in stored(scope, tx):
        for each in activations_of(tx, found):
            if each.status is ActivationStatus.ACTIVE:
                yield from controls.mappings(scope, tx, each.segment, found.name, found.uses)


def check_not_sent(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise NotAllowed if a destination gets a segment of ours."""
    _check_nowhere(scope, tx, segment, _getting(scope, tx, segment), f"gets segment {segment}")


def renamed(scope: Scope, tx: Tx, name: str, new: str) -> None:
    """Note that a segment of ours has another name; targets are told with the next run.

    Raises NotAllowed where a target knows it by its name alone: who leaves under the new one would stay there under the old.
    """
    by_name = [each for each in _getting(scope, tx, name) if not kinds.follows_names(each.kind, each.settings)]
    _check_nowhere(scope, tx, name, by_name, f"knows segment {name} by its name alone")
    audiences.renamed(scope, tx, name, new)


def _getting(scope: Scope, tx: Tx, segment: str) -> list[Destination]:
    """Return the destinations that get a segment; the older sharing gets all, and follows by itself."""
    found = [each for each in stored(scope, tx) if not each.of_all]
    return [each for each in found if segment in (one.segment for one in activations_of(tx, each))]


def _check_nowhere(scope: Scope, tx: Tx, segment: str, found: Sequence[Destination], does: str) -> None:
    if not found:
        return
    shown = next((each.name for each in found if sees(scope, tx, each)), None)
    if shown is None:
        raise NotAllowed(f"a destination that you may not see {does}", hint="ask somebody who may to end that first")
    raise NotAllowed(
        f"destination {shown} {does}",
        hint="end that first",
        remedy=Remedy("destination.deactivate", {"name": shown, "segments": [segment]}),
    )
