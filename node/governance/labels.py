"""Usage labels: the standard catalogue, a project's own, where they sit, and how they are inherited.

A label sits on a dataset, a field ("dataset.field") or a segment. Fields inherit from their dataset, segments from the
fields that their rule uses and the segments that they are composed of, ours and received: there the sender's labels
hold. What is inherited is taken off at its source.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, select

from ..access import permissions
from ..errors import AlreadyExists, InvalidInput, NotFound, Refused, check_name
from ..storage import tables

if TYPE_CHECKING:
    from ..project import Project

STANDARD: Mapping[str, str] = {
    "C1": "Only aggregates may leave",
    "C2": "No export to third parties",
    "C3": "Not to be combined with directly identifying data",
    "C4": "No targeting at all (covers C5, C6 and C7)",
    "C5": "No cross-site targeting",
    "C6": "No on-site advertising",
    "C7": "No on-site content",
    "C8": "No measurement",
    "C9": "No data science",
    "C10": "No use under a stitched identity",
    "C11": "No segment match",
    "C12": "No export at all",
    "I1": "Identifies a person directly",
    "I2": "Identifies a person indirectly",
    "S1": "A precise place",
    "S2": "A broad place",
}

MAX_DESCRIPTION = 1_000  # characters


class Kind(StrEnum):
    DATASET = "dataset"
    FIELD = "field"
    SEGMENT = "segment"
    # Where no label of ours can be put:
    RECEIVED = "received"  # PARTNER.SEGMENT
    NAMESPACE = "namespace"
    FEED = "feed"
    POLICY = "policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A place of a lineage; as the origin of a label, the one place where it can be taken off."""

    kind: Kind
    target: str

    def unseen(self) -> "Origin":
        """Return what stands in a report for a place that is not there for whoever reads it."""
        return Origin(kind=self.kind, target=f"a {self.kind} that you may not see")

    def __str__(self) -> str:
        if self == self.unseen():
            return self.target
        return f"received.{self.target}" if self.kind is Kind.RECEIVED else f"{self.kind} {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The way of a label from where it was put, step by step, to what carries it."""

    label: str
    places: tuple[Origin, ...]

    @property
    def origin(self) -> Origin:
        return self.places[0]

    def to(self, *places: Origin) -> "Trace":
        return Trace(label=self.label, places=self.places + places)

    def __str__(self) -> str:
        return f"{self.label} from {' > '.join(map(str, self.places))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    name: str
    description: str
    standard: bool
    applied_to: tuple[Origin, ...]


Origins = dict[str, list[Origin]]  # a label, and the places where it was put

Traces = list[Trace]

Uses = dict[Origin, list[str]]  # a place, and the labels put there


class Lineage:
    """How labels reach places, as one transaction sees it when it is first asked: everything is read once."""

    def __init__(self, project: "Project", connection: Connection) -> None:
        self._project, self._connection = project, connection
        self._traces: dict[Origin, Traces] = {}
        self._above: dict[Origin, list[Origin]] = {}

    def traces(self, kind: Kind, target: str) -> Traces:
        """Return how each label reaches a dataset, a field, a segment or a namespace."""
        place = Origin(kind=kind, target=target)
        if place not in self._traces:
            self._traces[place] = self._find(place)
        return self._traces[place]

    def labels(self, kind: Kind, target: str) -> Origins:
        """Return the labels of a place, and where each was put."""
        found: Origins = {}
        for trace in self.traces(kind, target):
            found.setdefault(trace.label, []).append(trace.origin)
        return found

    def above(self, place: Origin) -> list[Origin]:
        """Return from where a place inherits directly."""
        if place not in self._above:
            self._above[place] = self._sources(place)
        return self._above[place]

    def reads_received(self, segment: str) -> bool:
        """Tell whether a segment is made of a received one, directly or through segments of ours."""
        return self.any_received and any(
            use.startswith("received.") for name in self._made_of(segment) for use in self.segments.get(name, ())
        )

    @cached_property
    def put(self) -> Uses:
        """What was put where, in this project."""
        rows = tables.label_uses
        found: Uses = {}
        for row in self._connection.execute(select(rows).where(rows.c.project_id == self._project.id)):
            found.setdefault(Origin(kind=Kind(row.kind), target=row.target), []).append(row.label)
        return found

    @cached_property
    def segments(self) -> dict[str, list[str]]:
        """What the rule of each segment reads."""
        rows = tables.segments
        query = select(rows.c.name, rows.c.uses).where(rows.c.project_id == self._project.id)
        return {row.name: row.uses for row in self._connection.execute(query)}

    @cached_property
    def any_received(self) -> bool:
        return any(use.startswith("received.") for uses in self.segments.values() for use in uses)

    @cached_property
    def _datasets(self) -> list[Origin]:
        return [each for each in self.put if each.kind is Kind.DATASET]

    @cached_property
    def _held(self) -> Uses:
        return self.put | self._project.received.labels(self._connection) if self.any_received else self.put

    def _find(self, place: Origin) -> Traces:
        match place.kind:
            case Kind.NAMESPACE:
                identities = tables.fields.c.rule == place.target
                return [
                    trace.to(place)
                    for field in fields_of(self._project, self._connection, identities)
                    for trace in self.traces(Kind.FIELD, field)
                ]
            case Kind.SEGMENT:
                return inherited(self._held, place, self.above)
            case _:
                return inherited(self.put, place, self.above)

    def _sources(self, place: Origin) -> list[Origin]:
        match place.kind:
            case Kind.FIELD:  # names may hold dots: every dataset that could be meant counts
                return [each for each in self._datasets if place.target.startswith(f"{each.target}.")]
            case Kind.SEGMENT:
                found: list[Origin] = []
                for used in self.segments.get(place.target, ()):
                    found.append(Origin(kind=Kind.FIELD, target=used))
                    start, _, name = used.partition(".")
                    if start in ("own", "received"):
                        found.append(Origin(kind=Kind.SEGMENT if start == "own" else Kind.RECEIVED, target=name))
                return found
        return []

    def _made_of(self, segment: str) -> set[str]:
        found, waiting = set[str](), [segment]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += [use[4:] for use in self.segments.get(name, ()) if use.startswith("own.")]
        return found


class Labels:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def list(self) -> list[Label]:
        """Return the catalogue, the standard labels first, each with the places it was put."""
        with self._project.node.store.read() as connection:
            custom, lineage = self._custom(connection), self.lineage(connection)
            uses = [
                (place, labels)
                for place, labels in sorted(lineage.put.items(), key=str)
                if not self._hidden(connection, place, lineage)
            ]
        described = [(name, text, True) for name, text in STANDARD.items()]
        described += [(name, text, False) for name, text in sorted(custom.items())]
        return [
            Label(
                name=name,
                description=text,
                standard=standard,
                applied_to=tuple(place for place, labels in uses if name in labels),
            )
            for name, text, standard in described
        ]

    def lineage(self, connection: Connection) -> Lineage:
        """Return how labels reach places now, for as many questions as there are; a change needs a new one."""
        return Lineage(self._project, connection)

    def in_use(self) -> dict[str, int]:
        """Return how many places each applied label sits on."""
        return {label.name: len(label.applied_to) for label in self.list() if label.applied_to}

    def create(self, name: str, description: str) -> None:
        """Add a label of the project's own; its name must differ from every other, also by more than case."""
        with self._project.act("label.create", name) as tx:
            check_name(name, "label")
            if not description.strip() or len(description) > MAX_DESCRIPTION:
                raise InvalidInput("a label needs a description of at most 1,000 characters", hint="--description TEXT")
            if name.upper() in STANDARD or name in self._custom(tx):
                raise AlreadyExists(f"there is a label {name!r} already", hint="'vesica label list' shows them")
            tx.execute(
                tables.labels.insert().values(
                    id=self._project.node.new_id(),
                    project_id=self._project.id,
                    name=name,
                    description=description,
                )
            )

    def apply(self, label: str, kind: Kind | str, target: str) -> None:
        """Put a label on a dataset, a field or a segment; everything that inherits from there has it from now on.

        Refused where a published feed would break a policy by it (`node.governance`).
        """
        kind = Kind(kind)
        place = Origin(kind=kind, target=target)
        with self._project.governance.act("label.apply", f"{label} on {kind} {target}", place) as tx:
            name = self.resolve(tx, label)
            self._check_target(tx, place)
            if name in self.lineage(tx).put.get(place, ()):
                raise AlreadyExists(
                    f"{name} is on {kind} {target} already", hint="'vesica label list' shows where each one is"
                )
            tx.execute(
                tables.label_uses.insert().values(
                    id=self._project.node.new_id(),
                    project_id=self._project.id,
                    label=name,
                    kind=kind.value,
                    target=target,
                )
            )

    def remove(self, label: str, kind: Kind | str, target: str) -> None:
        """Take a label off the place it was put; an inherited one is refused, naming its source."""
        kind = Kind(kind)
        place = Origin(kind=kind, target=target)
        with self._project.governance.act("label.remove", f"{label} on {kind} {target}", place) as tx:
            name = self.resolve(tx, label)
            self._check_target(tx, place)
            uses = tables.label_uses
            removed = tx.execute(
                uses.delete().where(
                    uses.c.project_id == self._project.id,
                    uses.c.label == name,
                    uses.c.kind == kind.value,
                    uses.c.target == target,
                )
            )
            if removed.rowcount:
                return
            for trace in self.traces(kind, target, tx):
                if trace.label == name:
                    raise Refused(
                        f"{kind} {target} inherits {name} from {trace.origin}: it is read-only here",
                        hint=removal(trace),
                    )
            raise NotFound(f"{name} is not on {kind} {target}", hint="'vesica label list' shows where each one is")

    def labels_of_segment(self, name: str, connection: Connection | None = None) -> Origins:
        """Return a segment's labels with where each comes from: its own, and those of what its rule uses."""
        if connection is None:
            with self._project.node.store.read() as reading:
                return self.labels_of_segment(name, reading)
        return self.lineage(connection).labels(Kind.SEGMENT, name)

    def labels_of_field(self, field: str, connection: Connection) -> Origins:
        """Return the labels of a "dataset.field", its dataset's among them."""
        return self.lineage(connection).labels(Kind.FIELD, field)

    def traces(self, kind: Kind, target: str, connection: Connection | None = None) -> Traces:
        """Return how each label reaches a dataset, a field, a segment or a namespace ("email_sha256/lc-v1")."""
        if connection is None:
            with self._project.node.store.read() as reading:
                return self.traces(kind, target, reading)
        return self.lineage(connection).traces(kind, target)

    def traces_of_ids(self, connection: Connection) -> Traces:
        """Return how labels reach the columns of profile ids, which a file of members carries."""
        lineage = self.lineage(connection)
        fields = fields_of(self._project, connection, tables.fields.c.kind == "id")
        return [trace for field in fields for trace in lineage.traces(Kind.FIELD, field)]

    def resolve(self, connection: Connection, label: str) -> str:
        """Return the name of a label as the catalogue writes it ("c11" is C11); raises NotFound."""
        name = spelled(label)
        if name in STANDARD or name in self._custom(connection):
            return name
        raise NotFound(f"there is no label {label!r}", hint="'vesica label list' shows them, 'label create' adds one")

    def _custom(self, connection: Connection) -> dict[str, str]:
        rows = tables.labels
        query = select(rows.c.name, rows.c.description).where(rows.c.project_id == self._project.id)
        return {row.name: row.description for row in connection.execute(query)}

    def shown(self, connection: Connection, place: Origin) -> Origin:
        """Return a place as whoever acts may see it: its name where nothing hides it."""
        match place.kind:
            case Kind.DATASET | Kind.FIELD | Kind.SEGMENT:
                hidden = self._hidden(connection, place)
            case Kind.FEED:
                hidden = self._project.feeds.hides(connection, place.target)
            case Kind.RECEIVED:
                hidden = self._project.received.hides(connection, place.target)
            case _:
                hidden = False
        return place.unseen() if hidden else place

    def _hidden(self, connection: Connection, place: Origin, lineage: Lineage | None = None) -> bool:
        """Tell whether a place is not there for whoever acts, for a label that none of their roles clears."""
        cleared = self._project.node.guard.cleared(connection, self._project.id)
        if cleared is None:
            return False
        return not permissions.clears(cleared, (lineage or self.lineage(connection)).labels(place.kind, place.target))

    def _check_target(self, connection: Connection, place: Origin) -> None:
        kind, target = place.kind, place.target
        datasets, fields, segments = tables.datasets, tables.fields, tables.segments
        match kind:
            case Kind.DATASET:
                query = select(datasets.c.id).where(
                    datasets.c.project_id == self._project.id, datasets.c.name == target
                )
            case Kind.FIELD:
                query = (
                    select(fields.c.id)
                    .join(datasets, datasets.c.id == fields.c.dataset_id)
                    .where(datasets.c.project_id == self._project.id, datasets.c.name + "." + fields.c.name == target)
                )
            case Kind.SEGMENT:
                query = select(segments.c.id).where(
                    segments.c.project_id == self._project.id, segments.c.name == target
                )
            case _:
                raise InvalidInput(f"no label can be put on a {kind}", hint="name a dataset, a field or a segment")
        hidden = self._hidden(connection, place)
        if connection.execute(query).first() is None or hidden:
            hint = {
                Kind.DATASET: "'vesica profile import --dataset NAME' makes one",
                Kind.FIELD: "write it as DATASET.FIELD, the field being a column of the imported file",
                Kind.SEGMENT: "'vesica segment list' shows them",
            }[kind]
            raise NotFound(f"there is no {kind} {target!r}", hint=hint)


def fields_of(project: "Project", connection: Connection, *conditions: ColumnElement[bool]) -> list[str]:
    """Return the fields of a project that meet some conditions, as "dataset.field"."""
    query = (
        select(tables.datasets.c.name, tables.fields.c.name)
        .join(tables.datasets, tables.datasets.c.id == tables.fields.c.dataset_id)
        .where(tables.datasets.c.project_id == project.id, *conditions)
    )
    return [f"{dataset}.{field}" for dataset, field in connection.execute(query)]


def inherited(uses: Uses, target: Origin, above: Callable[[Origin], list[Origin]]) -> Traces:
    """Return the shortest way from each place where a label was put to one that inherits it, by label and place.

    `uses` is what was put where; `above` says from where a place inherits directly.
    """
    found: Traces = []
    seen: set[Origin] = set()
    waiting: deque[tuple[Origin, ...]] = deque([(target,)])
    while waiting:
        way = waiting.popleft()
        place = way[0]
        if place in seen:
            continue
        seen.add(place)
        found += [Trace(label=label, places=way) for label in uses.get(place, ())]
        waiting.extend((each, *way) for each in above(place))
    return sorted(found, key=lambda trace: (trace.label, str(trace.origin)))


def spelled(label: str) -> str:
    """Return a label as the catalogue writes it: "c11" is C11."""
    return label.upper() if label.upper() in STANDARD else label


def removal(trace: Trace) -> str:
    """Return the command by which a label, or what brings it, is taken away from its origin."""
    if trace.origin.kind is Kind.RECEIVED:  # the sender's word stands: what is left is to do without the segment
        return f"vesica segment update {trace.places[1].target} --rule EXPR"
    return f"vesica label remove {trace.label} --{trace.origin.kind} {trace.origin.target}"
