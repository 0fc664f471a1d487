"""What one visitor has that the caller may see: traits, and segments of traits."""

from collections.abc import Iterable
from dataclasses import dataclass

from pyroaring import BitMap

from ..access.scope import Scope
from . import segment_rules
from .records import AudienceSegment, Source, Trait
from .sight import Sight
from .trait_members import TraitMembers, held_now


@dataclass(frozen=True, slots=True)
class Shown:
    """What a caller sees of a visitor, by number in ascending order, and of what data sources these are."""

    traits: list[Trait]
    segments: list[AudienceSegment]
    sources: dict[int, Source]


def shown(scope: Scope, visitor: int, traits: Iterable[int] | None = None) -> Shown:
    """Return what a visitor has now, of traits perhaps only some; raises PermissionDenied to whom may not look at any."""
    with scope.read(act="audience.view") as tx:
        sight, counted = Sight(scope, tx), TraitMembers(scope, tx)
        has = set(held_now(scope, tx, visitor))
        given = has if traits is None else set(traits)
        seen = [each for each in sight.traits() if each.number in given]
        visible, there = sight.segments(), sight.catalogue.segments
        names = dict(sight.catalogue.sources)
    me, nobody = BitMap([visitor]), BitMap()
    found: dict[int, BitMap] = {}

    def inside(number: int) -> BitMap:
        if number not in found:
            found[number] = nobody  # until it is known
            if (segment := there.get(number)) is not None:
                found[number] = me & segment_rules.evaluate(
                    segment.tree, lambda trait: me if trait in has else nobody, counted.frequency, inside
                )
        return found[number]

    return Shown(seen, [each for each in visible if inside(each.number)], names)
