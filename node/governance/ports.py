"""What governance asks of rooms above it. They register in node/wiring.py, by the kind of place that is theirs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..access.scope import Scope
from ..storage.database import Tx

if TYPE_CHECKING:
    from protocol.feed import Definition

    from .lineage import Lineage, Place, PlaceKind


class Outgoing(Protocol):
    """Feeds that we share. One serves one act: `deliver` is for what `relabel` has left waiting."""

    def published(self, tx: Tx) -> "list[Definition]":
        """Return the newest version of each feed that partners have or are offered."""
        ...

    def definition(self, tx: Tx, name: str) -> "Definition":
        """Return a feed's newest version; raises NotFound, also where the feed is hidden from the caller."""
        ...

    def segments_of(self, tx: Tx, name: str) -> Iterable[str]:
        """Return the segments of a feed, none if there is no such feed."""
        ...

    def relabel(self, tx: Tx, lineage: "Lineage") -> list[str]:
        """Make a version of each feed whose segments have other labels now; returns the names of these feeds."""
        ...

    def deliver(self) -> None:
        """Call the partners for whom letters wait, once the transaction is over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """Uses that are forbidden of some segments by whom they come from."""

    title: str  # who forbids it
    unseen_title: str  # the same for a caller from whom one of the segments is hidden
    feed: str | None  # by which it comes
    places: "tuple[Place, ...]"
    uses: frozenset[str]


class Incoming(Protocol):
    """Segments that others share with us: partners, as "PARTNER.SEGMENT", or projects of this node, as "PROJECT.SEGMENT";
    or what was imported, by its name."""

    def labels_at(self, tx: Tx, name: str) -> Iterable[str]:
        """Return the labels that a segment has where it comes from. One object looks once for all that it is asked."""
        ...

    def labels_of(self, tx: Tx, name: str) -> Iterable[str]:
        """Return every label that a segment has in any version of a feed that was offered, also of one that is over."""
        ...

    def sees(self, tx: Tx, name: str) -> bool:
        """Return whether the caller may see a segment by what it comes from, whatever its labels."""
        ...

    def restrictions(self, tx: Tx) -> list[Restriction]:
        """Return what they forbid of what we have from them now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """A consent policy: it leaves members out of segments with a label, or of all, when they are used for an action."""

    policy: str
    action: str
    label: str | None
    reads: tuple[str, ...]  # fields and segments, as rules name them
    enabled: bool


OUTGOING: "dict[PlaceKind, Callable[[Scope], Outgoing]]" = {}
INCOMING: "dict[PlaceKind, Callable[[Scope], Incoming]]" = {}
NARROWING: "dict[PlaceKind, Callable[[Scope, Tx], list[Narrowing]]]" = {}
