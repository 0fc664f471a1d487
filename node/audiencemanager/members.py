"""Who has a trait, and who is in a segment of traits, now: visitors."""

from pyroaring import BitMap

from ..access.scope import Scope
from ..storage.database import Tx
from . import segment_rules
from .catalogue import Catalogue
from .trait_members import TraitMembers


class Members:
    """The visitors of traits and of segments by their numbers, each found once."""

    def __init__(self, scope: Scope, tx: Tx, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._of_traits = TraitMembers(scope, tx)
        self._traits: dict[int, BitMap] = {}
        self._segments: dict[int, BitMap] = {}

    def of_trait(self, number: int) -> BitMap:
        """Return who has a trait; of a folder trait, who has one of its folder."""
        if number not in self._traits:
            self._traits[number] = self._of_traits.of(number)
        return self._traits[number]

    def of_segment(self, number: int) -> BitMap:
        """Return who is in a segment of traits; nobody is in one that does not exist."""
        if number not in self._segments:
            segment = self._catalogue.segments.get(number)
            self._segments[number] = BitMap()  # until it is known: a rule does not read itself
            if segment is not None:
                self._segments[number] = segment_rules.evaluate(
                    segment.tree, self.of_trait, self._of_traits.frequency, self.of_segment
                )
        return self._segments[number]

    def of(self, kind: str, number: int) -> BitMap:
        """Return the visitors of a "trait" or a "segment"."""
        return self.of_trait(number) if kind == "trait" else self.of_segment(number)
