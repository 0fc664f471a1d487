"""What the caller may see and change on the Audience Manager side: the one place that decides it.

A role may be limited to data sources: see Role. What is of another one is hidden, and so is what is made of it: it is missing
from lists and counts, and a caller who names it gets the same error as for something that does not exist. Labels hide here
what is made from segments of the platform that have them.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from ..access.permissions import Permission
from ..access.scope import Scope
from ..errors import InvalidInput, NotAllowed, NotFound
from ..governance.visibility import Visibility
from ..segments.trees import Tree
from ..storage.database import Tx
from . import audience_segments, segment_rules, sources, traits
from .catalogue import Catalogue
from .records import AudienceSegment, Source, Trait, TraitKind

Named = TypeVar("Named", Source, Trait, AudienceSegment)


class Sight:
    """The caller's sight of one project, as one transaction sees it when it is first asked."""

    def __init__(self, scope: Scope, tx: Tx) -> None:
        self._scope, self._tx = scope, tx
        self.catalogue = Catalogue(scope, tx)
        guard = scope.home.guard
        self._sources = guard.sources(tx, Permission.VIEW_SEGMENTS, scope.id)
        self._visibility = Visibility(scope, tx)
        self._segments_seen: dict[int, bool] = {}

    @property
    def whole(self) -> bool:
        """Whether nothing is hidden from the caller."""
        return self._sources is None and not self._visibility.limited

    def sees_source(self, number: int) -> bool:
        return self._sources is None or number in self._sources

    def sees_trait(self, trait: Trait) -> bool:
        """Return whether the caller may see a trait; a folder trait, if they may see all that are in the folder."""
        if self.whole:
            return True
        if trait.kind is TraitKind.FOLDER:
            return self.sees_source(trait.source) and all(map(self.sees_trait, self.catalogue.made_of(trait)))
        return self.sees_source(trait.source) and self._visibility.clears(trait.labels)

    def sees_segment(self, segment: AudienceSegment) -> bool:
        """Return whether the caller may see a segment of traits, and all that it is made of."""
        if self.whole:
            return True
        if segment.number not in self._segments_seen:
            self._segments_seen[segment.number] = False  # until it is known: a rule does not read itself
            read_traits, read_segments = segment_rules.reads(segment.tree)
            there, nested = self.catalogue.traits, self.catalogue.segments
            self._segments_seen[segment.number] = (
                self.sees_source(segment.source)
                and all(each in there and self.sees_trait(there[each]) for each in read_traits)
                and all(each in nested and self.sees_segment(nested[each]) for each in read_segments)
            )
        return self._segments_seen[segment.number]

    def sources(self) -> list[Source]:
        """Return the data sources that the caller may see, by number."""
        return [each for each in self.catalogue.sources.values() if self.sees_source(each.number)]

    def traits(self) -> list[Trait]:
        """Return the traits that the caller may see, by number."""
        return [each for each in self.catalogue.traits.values() if self.sees_trait(each)]

    def segments(self) -> list[AudienceSegment]:
        """Return the segments of traits that the caller may see, by number."""
        return [each for each in self.catalogue.segments.values() if self.sees_segment(each)]

    def source(self, which: str | int) -> Source:
        """Return a data source by its number or name; raises NotFound, also for one that is hidden."""
        return _the_one(which, self.sources(), sources.no_source, "data source")

    def trait(self, which: str | int) -> Trait:
        """Return a trait by its number or name; raises NotFound, also for one that is hidden."""
        if isinstance(which, int) or which.isdecimal():
            found = traits.by_number(self._scope, self._tx, int(which))
            return _the_one(which, [found] if found and self.sees_trait(found) else [], traits.no_trait, "trait")
        return _the_one(which, self.traits(), traits.no_trait, "trait")

    def segment(self, which: str | int) -> AudienceSegment:
        """Return a segment of traits by its number or name; raises NotFound, also for one that is hidden."""
        return _the_one(which, self.segments(), audience_segments.no_segment, "segment")

    def check_reads(self, tree: Tree) -> None:
        """Raise NotFound for a trait or a segment of a rule that does not exist or is hidden."""
        read_traits, read_segments = segment_rules.reads(tree)
        for each in read_traits:
            self.trait(each)
        for each in read_segments:
            self.segment(each)

    def check_manages(self, number: int) -> None:
        """Raise NotAllowed unless the caller may make, change and delete what is of a data source, which they may see."""
        managed = self._scope.home.guard.sources(self._tx, Permission.MANAGE_AUDIENCE, self._scope.id)
        if managed is not None and number not in managed:
            raise NotAllowed(
                f"your roles do not let you change what is of data source {number}",
                hint="ask an administrator for a role with it",
            )

    def check_manages_all(self) -> None:
        """Raise NotAllowed unless the caller may see and change what is of every data source, also of new ones."""
        guard = self._scope.home.guard
        managed = guard.sources(self._tx, Permission.MANAGE_AUDIENCE, self._scope.id)
        if managed is not None or self._sources is not None:
            raise NotAllowed(
                "a new data source is there for those alone whose roles have all data sources",
                hint="ask an administrator",
            )


def _the_one(which: str | int, there: Iterable[Named], missing: Callable[[str | int], NotFound], noun: str) -> Named:
    """Return what has a number or a name; raises `missing`, or InvalidInput where several have the name."""
    number = int(which) if isinstance(which, int) or (which.isdecimal() and len(which) < 12) else None
    there = list(there)
    for each in there:
        if each.number == number:
            return each
    found = [each for each in there if each.name == which]
    if not found:
        raise missing(which)
    if len(found) > 1:
        numbers = ", ".join(str(each.number) for each in found[:10])
        raise InvalidInput(
            f"{len(found)} {noun}s are named {str(which)[:80]!r}", hint=f"name one by its number: {numbers}"
        )
    return found[0]
