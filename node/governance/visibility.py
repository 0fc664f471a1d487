"""What the caller may see: the one place that decides it.

A role may clear labels. What carries a label that none of the caller's roles clears is hidden from them: it is missing
from lists, and a caller who names it gets the same error as for something that does not exist.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.errors import Remedy
from psi.values import Bools

from ..access import permissions
from ..access.permissions import Permission
from ..access.scope import Scope
from ..errors import AlreadyExists, NotAllowed, NotFound
from ..people import datasets
from ..people.consent import AsSeen
from ..people.datasets import Field, FieldKind
from ..people.identity_rows import ProfileNumbers
from ..people.named import people_of, profiles_of
from ..people.snapshots import Snapshot, no_profile
from ..storage.database import Tx
from .lineage import FOREIGN, IMPORTED, Lineage, Place, PlaceKind, place_of, places_of
from .policies import SHARING
from .ports import INCOMING, OUTGOING


class Visibility:
    """The caller's sight of a project, as one transaction sees it when it is first asked."""

    def __init__(self, scope: Scope, tx: Tx, lineage: Lineage | None = None) -> None:
        self._scope, self._tx = scope, tx
        self._cleared = scope.home.guard.cleared(tx, scope.id)
        self._reached = scope.home.guard.reached(tx)
        self._sources = scope.home.guard.sources(tx, Permission.VIEW_SEGMENTS, scope.id)
        self._given = lineage

    @property
    def limited(self) -> bool:
        """Whether there are labels that the caller may not see."""
        return self._cleared is not None

    @property
    def whole(self) -> bool:
        """Whether nothing at all is hidden from the caller."""
        return not self.limited and self._reached.names is None and self._sources is None

    def clears(self, labels: Iterable[str]) -> bool:
        """Return whether the caller may see what carries these labels."""
        return permissions.clears(self._cleared, labels)

    def sees(self, place: Place) -> bool:
        """Return whether the caller may see a place. They may see a feed if they may see all its segments, what is made of
        another project's segment if they have a role there, and what is made of an import if they see its data sources."""
        return self._reaches(place) and (not self.limited or self.clears(self._labels(place)))

    def sees_segments(self, names: Iterable[str]) -> bool:
        """Return whether the caller may see all of our segments with these names."""
        return all(self.sees(Place(kind=PlaceKind.SEGMENT, target=name)) for name in names)

    def sees_use(self, names: Collection[str], *actions: str) -> bool:
        """Return whether the caller may see segments of ours, and all that consent policies read that narrow them for
        some actions: who is left out tells what was read."""
        if self.whole:
            return True
        narrowing = {
            each.policy for name in names for action in actions for each in self._lineage.narrowing(name, action)
        }
        places = (Place(kind=PlaceKind.CONSENT_POLICY, target=name) for name in narrowing)
        return self.sees_segments(names) and all(map(self.sees, places))

    def check_use(self, names: Collection[str], *actions: str) -> None:
        """Raise NotAllowed unless `sees_use`: for an act on segments that the caller does see."""
        if not self.sees_use(names, *actions):
            raise NotAllowed(
                f"a consent policy that reads what you may not see narrows {', '.join(names)} for this use",
                hint="ask somebody who may see it, or name a use that it does not narrow",
            )

    def shown(self, place: Place) -> Place:
        """Return a place as the caller may see it: without its name if it is hidden."""
        return place if self.sees(place) else place.unseen()

    def hidden_segments(self) -> set[str]:
        """Return our segments that the caller may not see."""
        if self.whole:
            return set()
        return {name for name in self._lineage.segments if not self.sees_segments([name])}

    def people(self, snapshot: Snapshot) -> BitMap:
        """Return the profiles that are there for the caller: those that a dataset names which they may see.

        Where they may see all datasets these are all profiles.
        """
        there = [name for name, _ in datasets.stored(self._scope, self._tx)] if self.limited else []
        seen = [name for name in there if self._sees_people(name)]
        if len(seen) == len(there):
            return snapshot.everyone
        return BitMap.union(BitMap(), *(people_of(snapshot, name) for name in seen)) - snapshot.erased

    def narrowed(self, snapshot: Snapshot, profiles: BitMap) -> BitMap:
        """Return those of some profiles that are there for the caller."""
        return profiles & self.people(snapshot) if self.limited else profiles

    def numbers(self, snapshot: Snapshot, ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """Return the numbers of profiles by id, -1 for ids that are nobody's or hidden from the caller."""
        found = snapshot.numbers(ids)
        if not self.limited:
            return found
        seen = np.zeros(snapshot.profile_count + 1, bool)  # the last one is for -1
        seen[self.people(snapshot).to_array()] = True
        return np.where(seen[found], found, -1)

    def added(self, snapshot: Snapshot, numbers: ProfileNumbers) -> dict[str, int]:
        """Return how many of the profiles of an import are new to the caller, and how many were there before."""
        found = profiles_of(numbers)
        updated = len(found & self.people(snapshot))
        return {"profiles_added": len(found) - updated, "profiles_updated": updated}

    def number(self, snapshot: Snapshot, profile: str) -> int:
        """Return a profile's number; raises NotFound, also for one that is hidden from the caller."""
        number = int(self.numbers(snapshot, np.array([profile.encode()], np.bytes_))[0])
        if number < 0:
            raise no_profile()
        return number

    def identities(self, snapshot: Snapshot, namespace: str) -> Bools:
        """Return for each row of a snapshot's `identities` whether it is there for the caller: a profile's that is, and
        given by a field that they may see."""
        given = snapshot.identities(namespace)
        if not self.limited:
            return np.ones(len(given), bool)
        seen = np.zeros(snapshot.profile_count, bool)
        seen[self.people(snapshot).to_array()] = True
        return np.asarray(
            seen[given.profiles] & snapshot.given_outside(namespace, self.hidden_sources(snapshot, namespace))
        )

    def values(self, snapshot: Snapshot, namespace: str) -> Bools:
        """Return for each of a snapshot's distinct identities whether one of its rows is there for the caller."""
        rows, starts = self.identities(snapshot, namespace), snapshot.starts(namespace)
        return np.asarray(np.logical_or.reduceat(rows, starts)) if len(starts) else np.zeros(0, bool)

    def hidden_sources(self, snapshot: Snapshot, namespace: str) -> list[int]:
        """Return the datasets, by their numbers in identity rows, of which the caller may not see what they give
        in a namespace."""
        seen = self._giving(namespace)
        return [place for place, name in enumerate(snapshot.content.sources) if self.limited and name not in seen]

    def as_seen(self, snapshot: Snapshot) -> AsSeen | None:
        """Return what people said for a caller who does not see all of them; None for one who does."""
        return AsSeen(self.people(snapshot)) if self.limited else None

    def hidden_fields(self, dataset: str) -> set[str]:
        """Return the fields of a dataset that the caller may not see."""
        fields = datasets.fields_of(self._scope, self._tx, dataset)
        return {name for name in fields if not self.sees(Place(kind=PlaceKind.FIELD, target=f"{dataset}.{name}"))}

    def check_import(self, dataset: str, fields: Mapping[str, Field]) -> None:
        """Raise AlreadyExists if an import would write into a dataset, fields or identities that are hidden from the caller."""
        if not self.limited:
            return
        there = dataset in (name for name, _ in datasets.stored(self._scope, self._tx))
        if there and not self.sees(Place(kind=PlaceKind.DATASET, target=dataset)):
            raise AlreadyExists(
                f"there is a dataset {dataset!r} already, which this import may not change",
                hint="import into another dataset",
            )
        known = datasets.fields_of(self._scope, self._tx, dataset)
        hidden = self.hidden_fields(dataset)
        names, given = {datasets.folded(each) for each in hidden}, {known[each].rule for each in hidden} - {None}
        for name, field in sorted(fields.items()):
            if datasets.folded(name) in names or field.rule in given:  # identities do not say which field gave them
                what = f"a field {name!r}" if datasets.folded(name) in names else f"a field of {field.rule}"
                raise AlreadyExists(
                    f"there is {what} of dataset {dataset} already, which this import may not change",
                    hint="import it into another dataset, or under another name",
                )

    def _giving(self, namespace: str) -> set[str]:
        """Return the datasets that give a namespace by fields that the caller may see, and by no other ones: identities
        do not say which field gave them."""
        given = [each for each in datasets.fields_where(self._scope, self._tx) if each.rule == namespace]
        hidden = {each.dataset for each in given if not self.sees(Place(kind=PlaceKind.FIELD, target=each.path))}
        return {each.dataset for each in given} - hidden

    def _reaches(self, place: Place) -> bool:
        """Return whether the caller has a role in each project, and sees each data source, from which a place is made."""
        if self._reached.names is None and self._sources is None:
            return True
        places = [place]
        if place.kind is PlaceKind.FEED:
            names = [*OUTGOING[place.kind](self._scope).segments_of(self._tx, place.target)]
            narrowing = {each.policy for name in names for each in self._lineage.narrowing(name, SHARING)}
            places = [Place(kind=PlaceKind.SEGMENT, target=name) for name in names]
            places += [Place(kind=PlaceKind.CONSENT_POLICY, target=name) for name in narrowing]
        made_of = {one for each in places for one in self._lineage.made_of(each)}
        if not all(self._reached.sees(each.target) for each in made_of if each.kind is PlaceKind.SHARED):
            return False
        imports = [each for each in made_of if each.kind in IMPORTED] if self._sources is not None else []
        return all(INCOMING[each.kind](self._scope).sees(self._tx, each.target) for each in imports)

    def _sees_people(self, dataset: str) -> bool:
        if not self.sees(Place(kind=PlaceKind.DATASET, target=dataset)):
            return False
        fields = datasets.fields_of(self._scope, self._tx, dataset)
        hidden = self.hidden_fields(dataset)
        return not any(fields[name].kind is FieldKind.ID for name in hidden)

    @cached_property
    def _lineage(self) -> Lineage:
        return self._given or Lineage(self._scope, self._tx)

    def _labels(self, place: Place) -> Iterable[str]:
        match place.kind:
            case PlaceKind.DATASET | PlaceKind.FIELD | PlaceKind.SEGMENT:
                return self._lineage.labels(place.kind, place.target)
            case kind if kind in FOREIGN:
                return INCOMING[place.kind](self._scope).labels_of(self._tx, place.target)
            case PlaceKind.FEED:
                segments = OUTGOING[place.kind](self._scope).segments_of(self._tx, place.target)
                return {label for name in segments for label in self._lineage.labels_for(name, SHARING)}
            case PlaceKind.CONSENT_POLICY if place.target in self._lineage.consent_policies:
                read = self._lineage.consent_policies[place.target].reads
                return {label for each in places_of(read) for label in self._labels(each)}
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


def unlimited(scope: Scope, tx: Tx, user: str, permission: permissions.Permission) -> bool:
    """Return whether a user, who need not be the caller, has a permission in the project and is limited by no label."""
    grants = scope.home.guard.grants_of(tx, user)
    return permissions.permits(grants, permission, scope.id) and permissions.cleared(grants, scope.id) is None
