"""What lower rooms ask of imported traits and segments: who is in one, its labels, whether the caller may see it."""

from collections.abc import Iterable
from typing import ClassVar

from pyroaring import BitMap

from ..access.scope import Scope
from ..errors import NotFound
from ..governance.lineage import Place, PlaceKind, place_of
from ..governance.ports import Restriction
from ..people.snapshots import Snapshot
from ..segments.references import Picked
from ..storage.database import Tx
from . import audience_segments, controls, imported, traits
from .catalogue import Catalogue
from .imported import Imported
from .sight import Sight


class _Imports:
    """A kind of reference in rules, and the port `Incoming` of governance."""

    kind: ClassVar[PlaceKind]

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._labels: dict[str, list[str]] = {}
        self._catalogue: Catalogue | None = None

    def members(self, tx: Tx, snapshot: Snapshot, name: str) -> BitMap:
        return snapshot.members(self._get(tx, name).id)

    def names(self, tx: Tx) -> list[str]:
        return [each.name for each in self._stored(tx)]

    def pick(self, tx: Tx, name: str) -> Picked | None:
        place = place_of(name)
        if place is None or place.kind is not self.kind:
            return None
        return self._picked(self._get(tx, place.target))

    def pickable(self, tx: Tx) -> list[Picked]:
        return [self._picked(each) for each in self._stored(tx) if imported.exists(self._scope, tx, each)]

    def stamp(self, tx: Tx) -> list[tuple[str, str, str | None]]:
        content = Snapshot.open(self._scope, tx).content  # a file of members never changes: its name stands for them
        there = [each for each in self._stored(tx) if imported.exists(self._scope, tx, each)]
        return [(each.name, each.id, content.segments.get(each.id)) for each in there]

    def missing(self, name: str) -> NotFound:
        return imported.not_imported(self._place(name))

    def sees(self, tx: Tx, name: str) -> bool:
        """Return whether the caller may see what is imported under a name, by its data sources."""
        found, sight = imported.find(self._scope, tx, self._place(name)), Sight(self._scope, tx)
        if found is None:
            return True
        if found.kind == "trait":
            trait = traits.by_number(self._scope, tx, found.number)
            return trait is None or sight.sees_trait(trait)
        segment = audience_segments.by_number(self._scope, tx, found.number)
        return segment is None or sight.sees_segment(segment)

    def labels_at(self, tx: Tx, name: str) -> Iterable[str]:
        if name not in self._labels:
            found = imported.find(self._scope, tx, self._place(name))
            self._catalogue = self._catalogue or Catalogue(self._scope, tx)
            self._labels[name] = [] if found is None else _labels(self._catalogue, found)
        return self._labels[name]

    def labels_of(self, tx: Tx, name: str) -> Iterable[str]:
        return self.labels_at(tx, name)

    def restrictions(self, tx: Tx) -> list[Restriction]:
        return []

    def _stored(self, tx: Tx) -> list[Imported]:
        kind = imported.KINDS[self.kind]
        return [each for each in imported.stored(self._scope, tx) if each.kind == kind]

    def _get(self, tx: Tx, name: str) -> Imported:
        """Return what is imported under a name; raises NotImported, also where the trait or segment is deleted."""
        found = imported.find(self._scope, tx, self._place(name))
        if found is None or not imported.exists(self._scope, tx, found):
            raise imported.not_imported(self._place(name))
        return found

    def _place(self, name: str) -> Place:
        return Place(kind=self.kind, target=name)

    def _picked(self, found: Imported) -> Picked:
        return Picked(
            id=found.id, name=found.reference, kind=self.kind.value, size=found.size, evaluated=found.evaluated
        )


class ImportedTraits(_Imports):
    """References "trait.NAME"."""

    kind = PlaceKind.TRAIT


class ImportedSegments(_Imports):
    """References "audience.NAME"."""

    kind = PlaceKind.AUDIENCE


def _labels(catalogue: Catalogue, found: Imported) -> list[str]:
    if found.kind == "trait":
        trait = catalogue.traits.get(found.number)
        return sorted(controls.labels_of(catalogue, [trait])) if trait is not None else []
    segment = catalogue.segments.get(found.number)
    if segment is None:
        return []
    read, nested = catalogue.reads([segment.tree])
    return sorted(controls.labels_of(catalogue, read, [segment, *nested]))
