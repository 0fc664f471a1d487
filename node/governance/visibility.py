"""What the caller may see: the one place that decides it.

A role may clear labels. What carries a label that none of the caller's roles clears is hidden from them: it is missing
from lists, and a caller who names it gets the same error as for something that does not exist.
"""

from collections.abc import Iterable
from functools import cached_property

from psi.errors import Remedy

from ..access import permissions
from ..access.scope import Scope
from ..errors import NotFound
from ..storage.database import Tx
from .lineage import Lineage, Place, PlaceKind, place_of
from .ports import INCOMING, OUTGOING


class Visibility:
    """The caller's sight of a project, as one transaction sees it when it is first asked."""

    def __init__(self, scope: Scope, tx: Tx, lineage: Lineage | None = None) -> None:
        self._scope, self._tx = scope, tx
        self._cleared = scope.home.guard.cleared(tx, scope.id)
        self._given = lineage

    @property
    def limited(self) -> bool:
        """Whether there are labels that the caller may not see."""
        return self._cleared is not None

    def clears(self, labels: Iterable[str]) -> bool:
        """Return whether the caller may see what carries these labels."""
        return permissions.clears(self._cleared, labels)

    def sees(self, place: Place) -> bool:
        """Return whether the caller may see a place. They may see a feed if they may see all its segments."""
        return not self.limited or self.clears(self._labels(place))

    def sees_segments(self, names: Iterable[str]) -> bool:
        """Return whether the caller may see all of our segments with these names."""
        return all(self.sees(Place(kind=PlaceKind.SEGMENT, target=name)) for name in names)

    def shown(self, place: Place) -> Place:
        """Return a place as the caller may see it: without its name if it is hidden."""
        return place if self.sees(place) else place.unseen()

    def hidden_segments(self) -> set[str]:
        """Return our segments that the caller may not see."""
        if not self.limited:
            return set()
        return {name for name in self._lineage.segments if not self.sees_segments([name])}

    @cached_property
    def _lineage(self) -> Lineage:
        return self._given or Lineage(self._scope, self._tx)

    def _labels(self, place: Place) -> Iterable[str]:
        match place.kind:
            case PlaceKind.DATASET | PlaceKind.FIELD | PlaceKind.SEGMENT:
                return self._lineage.labels(place.kind, place.target)
            case PlaceKind.RECEIVED:
                return INCOMING[place.kind](self._scope).labels_of(self._tx, place.target)
            case PlaceKind.FEED:
                segments = OUTGOING[place.kind](self._scope).segments_of(self._tx, place.target)
                return {label for name in segments for label in self._lineage.labels(PlaceKind.SEGMENT, name)}
        return ()


def no_segment(name: str) -> NotFound:
    """Return the error for a segment that does not exist, or is hidden from the caller."""
    if place_of(name) is not None:
        return NotFound(
            f"{name[:80]!r} is no segment of ours",
            hint="make one of it",
            remedy=Remedy("segment.create", {"rule": name[:80]}),
        )
    return NotFound(f"there is no segment {name[:80]!r}", hint="look at the segments", remedy=Remedy("segment.list"))
