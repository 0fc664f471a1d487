"""References in rules: what a rule reads beside fields, each kind by the word that it begins with ("own", "received",
"shared", "trait", "audience"); and what can be picked where a segment is named, for a feed or a file.

Rooms register their kinds in node/wiring.py. A new kind needs a word (`governance.lineage.REFERENCES`), how many names
follow it (`NAMES`), and a row in the tables of the wiring.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from ..access.scope import Scope
from ..errors import NotAllowed, NotFound
from ..governance.lineage import PICKABLE, REFERENCES, Place, PlaceKind, place_of
from ..storage.database import Tx
from ..storage.records import Document

if TYPE_CHECKING:
    from pyroaring import BitMap

    from ..people.snapshots import Snapshot
    from .trees import Tree

_WORDS = {kind: word for word, kind in REFERENCES.items()}
# own.SEGMENT, received.PARTNER.SEGMENT, shared.PROJECT.SEGMENT, trait.NAME, audience.NAME
NAMES = {
    PlaceKind.SEGMENT: 1,
    PlaceKind.RECEIVED: 2,
    PlaceKind.SHARED: 2,
    PlaceKind.TRAIT: 1,
    PlaceKind.AUDIENCE: 1,
}
_NAME, _LAST = r"[a-z0-9][a-z0-9_-]*", r"[a-z0-9][a-z0-9._-]*"  # the last name of a reference may have dots
PATTERN = "|".join(rf"{word}(?:\.{_NAME}){{{NAMES[kind] - 1}}}\.{_LAST}" for word, kind in REFERENCES.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """A segment where one is named: `name` is "vip" for one of ours, "shared.crm.vip" for another project's.

    Snapshots have its members under the `id`.
    """

    id: str
    name: str
    kind: str
    size: int
    evaluated: int | None
    rule: str | None = None

    def as_dict(self) -> Document:
        return asdict(self)


class Source(Protocol):
    """What a kind of reference has to provide. A name is what follows its word: "vip", "acme.vip"."""

    def members(self, tx: Tx, snapshot: "Snapshot", name: str) -> "BitMap":
        """Return the profiles of a reference; raises `missing`, or Gone."""
        ...

    def names(self, tx: Tx) -> Collection[str]:
        """Return what there is of the kind, also what is hidden from the caller."""
        ...

    def pick(self, tx: Tx, name: str) -> Picked | None:
        """Return the segment of the kind that is named so where a segment is named; raises Gone."""
        ...

    def pickable(self, tx: Tx) -> list[Picked]:
        """Return the segments of the kind that can be named so, by name, also those that are hidden from the caller."""
        ...

    def stamp(self, tx: Tx) -> object:
        """Return what differs once `members` may, while the snapshot is the same; it is compared as text."""
        ...

    def missing(self, name: str) -> NotFound:
        """Return the error for a name that does not exist, or is hidden from the caller."""
        ...


class Gone(NotFound):
    """What a reference names is gone. A rule that reads it has no members: without one of its parts it could take in people
    whom it kept out."""


class UsedElsewhere(NotAllowed):
    """Other projects use the segment that is to be changed or deleted: somebody has to say that it is meant."""

    code = "used_elsewhere"


KINDS: dict[PlaceKind, Callable[[Scope], Source]] = {}
WITH_RULES: dict[str, Callable[[Scope, Tx], "Iterable[tuple[str, Tree]]"]] = {}
"""By noun, what has rules: the name and the tree of each that the caller may see."""
USED_BY: dict[str, Callable[[Scope, Tx, str], None]] = {}  # raises NotAllowed if a segment of ours is needed there
ELSEWHERE: dict[str, Callable[[Scope, Tx, str], None]] = {}  # raises UsedElsewhere if other projects use it
CHANGED: dict[str, Callable[[Scope, Tx, str], None]] = {}  # called with a segment that has another rule; may refuse it
RENAMED: dict[str, Callable[[Scope, Tx, str, str], None]] = {}  # called with a segment's name and its new one
DELETED: dict[str, Callable[[Scope, Tx, str], None]] = {}  # called before its row goes
REFRESH: dict[str, Callable[[Scope], object]] = {}  # brings up to date what rules and feeds read from elsewhere


def members(scope: Scope, tx: Tx, snapshot: "Snapshot", references: Iterable[str]) -> "dict[str, BitMap]":
    """Return the profiles of each reference; fields among `references` are left out."""
    found = {each: place for each in references if (place := place_of(each)) is not None}
    return {each: KINDS[place.kind](scope).members(tx, snapshot, place.target) for each, place in found.items()}


def having(scope: Scope, tx: Tx, snapshot: "Snapshot", profile: int) -> list[str]:
    """Return the references ("own.vip", "received.acme.gold") of which a profile is a member, of those that the caller may
    see."""
    from ..governance.visibility import Visibility

    visibility, found = Visibility(scope, tx), []
    for kind, source in KINDS.items():
        for name in sorted(source(scope).names(tx)):
            if visibility.sees(Place(kind=kind, target=name)):
                with suppress(Gone):
                    if profile in source(scope).members(tx, snapshot, name):
                        found.append(f"{_WORDS[kind]}.{name}")
    return found


def pick(scope: Scope, tx: Tx, name: str) -> Picked:
    """Return the segment that is named: every place that takes one asks here. Raises NotFound, or Gone."""
    from ..governance.visibility import Visibility, no_segment

    picked = None
    if Visibility(scope, tx).sees_segments([name]):
        picked = next(filter(None, (source(scope).pick(tx, name) for source in KINDS.values())), None)
    if picked is None:
        place = place_of(name)
        known = place is not None and place.kind in PICKABLE
        raise KINDS[place.kind](scope).missing(place.target) if place and known else no_segment(name)
    return picked


def pickable(scope: Scope, tx: Tx) -> list[Picked]:
    """Return all that `pick` finds for the caller, ours first."""
    from ..governance.visibility import Visibility

    visibility = Visibility(scope, tx)
    found = [each for source in KINDS.values() for each in source(scope).pickable(tx)]
    return [each for each in found if visibility.sees_segments([each.name])]


def refresh(scope: Scope) -> None:
    """Bring what comes from elsewhere up to date, before a segment leaves or is counted; outside of a transaction."""
    for act in REFRESH.values():
        act(scope)


def check_visible(scope: Scope, tx: Tx, references: Iterable[str]) -> None:
    """Raise NotFound for a reference that is hidden from the caller, as if it did not exist."""
    from ..governance.visibility import Visibility  # brings numpy, which most commands do without

    visibility = Visibility(scope, tx)
    for place in filter(None, map(place_of, references)):
        if not visibility.sees(place):
            raise KINDS[place.kind](scope).missing(place.target)


def check_unused(scope: Scope, tx: Tx, segment: str, *, but: Collection[str] = ()) -> None:
    """Raise NotAllowed if another room needs a segment of ours, `but` for some."""
    for noun, check in USED_BY.items():
        if noun not in but:
            check(scope, tx, segment)


def check_not_elsewhere(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise UsedElsewhere if other projects use a segment of ours."""
    for check in ELSEWHERE.values():
        check(scope, tx, segment)


def own(uses: Iterable[str]) -> list[str]:
    """Return the names of our segments among what a rule reads."""
    return [place.target for place in filter(None, map(place_of, uses)) if place.kind is PlaceKind.SEGMENT]


def reference(name: str) -> str:
    """Return how a rule names a segment of ours."""
    return f"own.{name}"
