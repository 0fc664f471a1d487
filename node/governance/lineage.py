"""How labels are inherited: by fields from their dataset, by segments from the fields and segments that their rule reads.

For an action a segment also inherits from what the enabled consent policies read that narrow it then: who is left out tells
what was read.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from sqlalchemy import select

from psi.errors import Remedy

from ..access.scope import Scope
from ..people.datasets import FieldKind, fields_where, folded
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import record
from .ports import INCOMING, NARROWING, Incoming, Narrowing

NO_EXPORT = "C12"  # the label that no policy is needed for


class PlaceKind(StrEnum):
    DATASET = "dataset"
    FIELD = "field"
    SEGMENT = "segment"
    # Where no label of ours can be put:
    RECEIVED = "received"  # PARTNER.SEGMENT
    SHARED = "shared"  # PROJECT.SEGMENT, of another project of the node
    TRAIT = "trait"  # NAME, as it was imported from the Audience Manager side
    AUDIENCE = "audience"  # NAME, a segment of traits
    NAMESPACE = "namespace"
    FEED = "feed"
    POLICY = "policy"
    CONSENT_POLICY = "consent-policy"


IMPORTED = frozenset({PlaceKind.TRAIT, PlaceKind.AUDIENCE})
PICKABLE = IMPORTED | {PlaceKind.SHARED}  # can be named as a rule does ("shared.crm.vip") where one of ours could stand
FOREIGN = PICKABLE | {PlaceKind.RECEIVED}  # segments of others


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a label can be put on or reach. Its origin is the place it was put on, the only one where it can be taken off."""

    kind: PlaceKind
    target: str

    def unseen(self) -> "Place":
        """Return what stands in a report for a place that is hidden from its reader."""
        what = "shared segment" if self.kind is PlaceKind.SHARED else self.kind
        return Place(kind=self.kind, target=f"a {what} that you may not see")

    def __str__(self) -> str:
        if self == self.unseen():
            return self.target
        return written(self) if self.kind in FOREIGN else f"{self.kind} {self.target}"


# What a reference in a rule begins with: own.vip
REFERENCES = {
    "own": PlaceKind.SEGMENT,
    "received": PlaceKind.RECEIVED,
    **{each.value: each for each in (PlaceKind.SHARED, PlaceKind.TRAIT, PlaceKind.AUDIENCE)},
}


def is_pickable(segment: str) -> bool:
    """Return whether a segment is named as rules name those of others ("shared.crm.vip", "trait.gold"), where one of ours
    could stand."""
    place = place_of(segment)
    return place is not None and place.kind in PICKABLE


def is_shared(segment: str) -> bool:
    """Return whether a segment is another project's, named as rules name it ("shared.crm.vip"), where one of ours could
    stand."""
    place = place_of(segment)
    return place is not None and place.kind is PlaceKind.SHARED


def place_of(use: str) -> Place | None:
    """Return the place that a reference in a rule names ("own.vip", "received.acme.vip"); None if it is a field."""
    word, dot, target = use.partition(".")
    return Place(kind=REFERENCES[word], target=target) if dot and word in REFERENCES else None


def written(place: Place) -> str:
    """Return a segment as a rule names it; `place_of` reads it again."""
    word = next(word for word, kind in REFERENCES.items() if kind is place.kind)
    return f"{word}.{place.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The way of a label from where it was put to what carries it, place by place."""

    label: str
    places: tuple[Place, ...]

    @property
    def origin(self) -> Place:
        return self.places[0]

    def to(self, *places: Place) -> "Trace":
        return Trace(label=self.label, places=self.places + places)

    def __str__(self) -> str:
        return f"{self.label} from {' > '.join(map(str, self.places))}"


LabelPlaces = dict[str, list[Place]]  # a label, and the places where it was put

Traces = list[Trace]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelUse:
    """A label where it was put, as the row has it."""

    label: str
    kind: PlaceKind
    target: str

    @property
    def place(self) -> Place:
        return Place(kind=self.kind, target=self.target)


Uses = dict[Place, list[str]]  # a place, and the labels put there


class Lineage:
    """How labels reach places. Each thing is read once, in one transaction, when it is first needed."""

    def __init__(self, scope: Scope, tx: Tx) -> None:
        self._scope, self._tx = scope, tx
        self._traces: dict[Place, Traces] = {}
        self._above: dict[Place, list[Place]] = {}
        self._incoming: dict[PlaceKind, Incoming] = {}

    def traces(self, kind: PlaceKind, target: str) -> Traces:
        """Return how each label reaches a dataset, a field, a segment or a namespace."""
        place = Place(kind=kind, target=target)
        if place not in self._traces:
            self._traces[place] = self._find(place)
        return self._traces[place]

    def labels(self, kind: PlaceKind, target: str) -> LabelPlaces:
        """Return the labels of a place, and where each was put."""
        found: LabelPlaces = {}
        for trace in self.traces(kind, target):
            found.setdefault(trace.label, []).append(trace.origin)
        return found

    def traces_for(self, segment: str, action: str) -> Traces:
        """Return how labels reach a segment that is used for an action: its own, and by what consent policies read then."""
        place = Place(kind=PlaceKind.SEGMENT, target=segment)
        return self.traces(PlaceKind.SEGMENT, segment) + [
            trace.to(place)
            for each in self.narrowing(segment, action)
            for trace in self.traces(PlaceKind.CONSENT_POLICY, each.policy)
        ]

    def labels_for(self, segment: str, action: str) -> set[str]:
        """Return the labels of a segment that is used for an action."""
        return {trace.label for trace in self.traces_for(segment, action)}

    def narrowing(self, segment: str, action: str) -> list[Narrowing]:
        """Return the enabled consent policies that leave members out of a segment when it is used for an action."""
        found = [each for each in self.consent_policies.values() if each.enabled and each.action == action]
        own = self.labels(PlaceKind.SEGMENT, segment) if found else {}
        return [each for each in found if each.label is None or each.label in own]

    def traces_of_ids(self) -> Traces:
        """Return how labels reach the columns of profile ids, which stand in a file of members."""
        fields = fields_where(self._scope, self._tx, tables.fields.c.kind == FieldKind.ID)
        return [trace for field in fields for trace in self.traces(PlaceKind.FIELD, field.path)]

    def above(self, place: Place) -> list[Place]:
        """Return from where a place inherits directly."""
        if place not in self._above:
            self._above[place] = self._sources(place)
        return self._above[place]

    def reads_received(self, segment: str) -> bool:
        """Return whether a segment is made of a received one, directly or through segments of ours."""
        return self.any_received and self.received_in(self.segments.get(segment, ()))

    def received_in(self, uses: Iterable[str]) -> bool:
        """Return whether something that a rule reads was received, or is made of what was."""
        seen, waiting = set[str](), list(_references(uses))
        while waiting:
            place = waiting.pop()
            if place.kind is PlaceKind.RECEIVED:
                return True
            if place.kind is PlaceKind.SEGMENT and place.target not in seen:
                seen.add(place.target)
                waiting += _references(self.read_by(place.target))
        return False

    def read_by(self, segment: str) -> list[str]:
        """Return what a segment reads: what its rule does, or one of others itself, named as rules name it."""
        return self.segments.get(segment) or ([segment] if is_pickable(segment) else [])

    def shared_in(self, place: Place) -> set[str]:
        """Return the segments of other projects ("PROJECT.SEGMENT") that a place is, or is made of."""
        return {each.target for each in self.made_of(place) if each.kind is PlaceKind.SHARED}

    def made_of(self, place: Place) -> set[Place]:
        """Return a place, and all that it is made of."""
        seen, waiting = set[Place](), [place]
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting += self.above(each)
        return seen

    def policies_on_received(self, action: str) -> set[str]:
        """Return the enabled consent policies on an action that read something received, or made of what was."""
        policies = (each for each in self.consent_policies.values() if each.enabled and each.action == action)
        return {each.policy for each in policies if self.received_in(each.reads)}

    @cached_property
    def put(self) -> Uses:
        """What was put where, in this project."""
        rows = tables.label_uses
        found: Uses = {}
        for row in self._tx.execute(select(rows).where(rows.c.project_id == self._scope.id)):
            use = record(LabelUse, row)
            found.setdefault(use.place, []).append(use.label)
        return found

    @cached_property
    def segments(self) -> dict[str, list[str]]:
        """What the rule of each segment reads."""
        rows = tables.segments
        query = select(rows.c.name, rows.c.uses).where(rows.c.project_id == self._scope.id)
        return {row.name: row.uses for row in self._tx.execute(query)}

    @cached_property
    def consent_policies(self) -> dict[str, Narrowing]:
        """The consent policies by name, also those that are not enabled."""
        return {each.policy: each for find in NARROWING.values() for each in find(self._scope, self._tx)}

    @cached_property
    def any_received(self) -> bool:
        return PlaceKind.RECEIVED in self._read

    def any_incoming(self, segment: str) -> bool:
        """Return whether a segment, or any that is made from others, may be made of what is not ours."""
        return is_pickable(segment) or not self._read.isdisjoint(FOREIGN)

    @cached_property
    def _read(self) -> set[PlaceKind]:
        """The kinds of segments that rules and consent policies read."""
        read = [*self.segments.values(), *(each.reads for each in self.consent_policies.values())]
        return {place.kind for uses in read for place in _references(uses)}

    @cached_property
    def _datasets(self) -> list[Place]:
        return [each for each in self.put if each.kind is PlaceKind.DATASET]

    @cached_property
    def _spelled(self) -> defaultdict[str, list[Place]]:
        """The fields with labels by their folded paths: an older release took several spellings of one column."""
        found = defaultdict[str, list[Place]](list)
        for each in self.put:
            if each.kind is PlaceKind.FIELD:
                found[folded(each.target)].append(each)
        return found

    def _labels_at(self, place: Place) -> Iterable[str]:
        """Return the labels that were put on a place, by us or by whoever it comes from."""
        if place.kind not in FOREIGN:
            return self.put.get(place, ())
        if place.kind not in self._incoming:
            self._incoming[place.kind] = INCOMING[place.kind](self._scope)
        return self._incoming[place.kind].labels_at(self._tx, place.target)

    def _find(self, place: Place) -> Traces:
        match place.kind:
            case PlaceKind.NAMESPACE:
                fields = fields_where(self._scope, self._tx, tables.fields.c.rule == place.target)
                return [trace.to(place) for field in fields for trace in self.traces(PlaceKind.FIELD, field.path)]
            case _:
                return inherited(self._labels_at, place, self.above)

    def _sources(self, place: Place) -> list[Place]:
        match place.kind:
            case PlaceKind.FIELD:  # names may have dots: every dataset that could be meant counts
                above = [each for each in self._datasets if place.target.startswith(f"{each.target}.")]
                return above + [each for each in self._spelled[folded(place.target)] if each != place]
            case PlaceKind.SEGMENT:
                return places_of(self.read_by(place.target))
            case PlaceKind.CONSENT_POLICY if place.target in self.consent_policies:
                return places_of(self.consent_policies[place.target].reads)
        return []


def places_of(uses: Iterable[str]) -> list[Place]:
    """Return the places that a rule reads: of a reference the field of that name too, which may have a label."""
    both = ((Place(kind=PlaceKind.FIELD, target=use), place_of(use)) for use in uses)
    return [each for pair in both for each in pair if each is not None]


def _references(uses: Iterable[str]) -> list[Place]:
    """Return the segments, ours and received, among what a rule reads."""
    return [place for use in uses if (place := place_of(use)) is not None]


def inherited(
    put: Callable[[Place], Iterable[str] | None], target: Place, above: Callable[[Place], list[Place]]
) -> Traces:
    """Return the shortest way to `target` from each place whose labels it inherits, by label and place.

    `put` returns what was put on a place; `above` from where a place inherits directly.
    """
    found: Traces = []
    seen: set[Place] = set()
    waiting: deque[tuple[Place, ...]] = deque([(target,)])
    while waiting:
        way = waiting.popleft()
        place = way[0]
        if place in seen:
            continue
        seen.add(place)
        found += [Trace(label=label, places=way) for label in put(place) or ()]
        waiting.extend((each, *way) for each in above(place))
    return sorted(found, key=lambda trace: (trace.label, str(trace.origin)))


def removals(trace: Trace) -> list[Remedy]:
    """Return what takes a label, or what brings it, away: from its origin, or out of a consent policy that reads it."""
    by_policy = [each.target for each in trace.places if each.kind is PlaceKind.CONSENT_POLICY]
    found = [Remedy("consent.policy.disable", {"name": name}) for name in by_policy]
    if trace.origin.kind not in FOREIGN:  # of those only who sends or shares it can take it off
        found.insert(0, Remedy("label.remove", {"label": trace.label, trace.origin.kind.value: trace.origin.target}))
    elif trace.places[1].kind is PlaceKind.SEGMENT and not is_pickable(trace.places[1].target):
        found.append(Remedy("segment.update", {"name": trace.places[1].target, "rule": "EXPR"}))
    return found
