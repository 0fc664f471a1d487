"""All data sources, folders, traits and segments of a project, and what each is made of."""

from collections.abc import Iterable
from functools import cached_property

from ..access.scope import Scope
from ..segments.trees import Tree
from ..storage.database import Tx
from . import audience_segments, folders, segment_rules, sources, traits
from .records import AudienceSegment, Folder, Source, Trait, TraitKind


class Catalogue:
    """The rows of one project by their numbers, each kind read when it is first asked for, also what is hidden."""

    def __init__(self, scope: Scope, tx: Tx) -> None:
        self._scope, self._tx = scope, tx

    @cached_property
    def sources(self) -> dict[int, Source]:
        return {each.number: each for each in sources.stored(self._scope, self._tx)}

    @cached_property
    def folders(self) -> dict[int, Folder]:
        return {each.number: each for each in folders.stored(self._scope, self._tx)}

    @cached_property
    def traits(self) -> dict[int, Trait]:
        return {each.number: each for each in traits.stored(self._scope, self._tx)}

    @cached_property
    def segments(self) -> dict[int, AudienceSegment]:
        return {each.number: each for each in audience_segments.stored(self._scope, self._tx)}

    def in_folder(self, number: int) -> list[Trait]:
        """Return the traits of a folder and of those below it that are no folder traits themselves."""
        inside = folders.below(self.folders, number)
        return [each for each in self.traits.values() if each.folder in inside and each.kind is not TraitKind.FOLDER]

    def made_of(self, trait: Trait) -> list[Trait]:
        """Return a trait, or of a folder trait those that it is the union of."""
        return self.in_folder(trait.folder) if trait.kind is TraitKind.FOLDER else [trait]

    def reads(self, trees: Iterable[Tree]) -> tuple[list[Trait], list[AudienceSegment]]:
        """Return the traits that rules of segments read, and the segments, with all that those read in turn."""
        read_traits: dict[int, Trait] = {}
        read_segments: dict[int, AudienceSegment] = {}
        waiting = list(trees)
        while waiting:
            numbers, nested = segment_rules.reads(waiting.pop())
            read_traits |= {each: self.traits[each] for each in numbers if each in self.traits}
            for each in nested:
                if each in self.segments and each not in read_segments:
                    read_segments[each] = self.segments[each]
                    waiting.append(self.segments[each].tree)
        return [read_traits[each] for each in sorted(read_traits)], [
            read_segments[each] for each in sorted(read_segments)
        ]
