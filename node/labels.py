"""Usage labels: the standard catalogue, a project's own, where they sit, and how they are inherited.

A label sits on a dataset, a field ("dataset.field") or a segment. Fields inherit from their dataset, segments from the
fields that their rule uses and the segments that they are composed of. What is inherited is taken off at its source.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from . import access, tables
from .errors import AlreadyExists, InvalidInput, NotFound, Refused, check_name

if TYPE_CHECKING:
    from .project import Project

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a label was put: the one place where it can be taken off."""

    kind: Kind
    target: str

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    name: str
    description: str
    standard: bool
    applied_to: tuple[Origin, ...]


Origins = dict[str, list[Origin]]  # a label, and the places where it was put

Uses = dict[Origin, list[str]]  # a place, and the labels put there


class Labels:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def list(self) -> list[Label]:
        """Return the catalogue, the standard labels first, each with the places it was put."""
        with self._project.node.store.read() as connection:
            custom = self._custom(connection)
            uses = {
                place: labels for place, labels in self._uses(connection).items() if not self._hidden(connection, place)
            }
        described = [(name, text, True) for name, text in STANDARD.items()]
        described += [(name, text, False) for name, text in sorted(custom.items())]
        return [
            Label(
                name=name,
                description=text,
                standard=standard,
                applied_to=tuple(origin for origin, labels in sorted(uses.items(), key=str) if name in labels),
            )
            for name, text, standard in described
        ]

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
        """Put a label on a dataset, a field or a segment; everything that inherits from there has it from now on."""
        with self._project.act("label.apply", f"{label} on {kind} {target}") as tx:
            name = self.resolve(tx, label)
            kind = self._check_target(tx, kind, target)
            if name in self._uses(tx).get(Origin(kind=kind, target=target), ()):
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
        with self._project.act("label.remove", f"{label} on {kind} {target}") as tx:
            name = self.resolve(tx, label)
            kind = self._check_target(tx, kind, target)
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
            inherited = self._labels_of(tx, kind, target).get(name)
            if inherited:
                raise Refused(
                    f"{kind} {target} inherits {name} from {inherited[0]}: it is read-only here",
                    hint=f"vesica label remove {name} --{inherited[0].kind} {inherited[0].target}",
                )
            raise NotFound(f"{name} is not on {kind} {target}", hint="'vesica label list' shows where each one is")

    def labels_of_segment(self, name: str, connection: Connection | None = None) -> Origins:
        """Return a segment's labels with where each comes from: its own, and those of the fields that its rule uses."""
        if connection is not None:
            return self._labels_of(connection, Kind.SEGMENT, name)
        with self._project.node.store.read() as reading:
            return self._labels_of(reading, Kind.SEGMENT, name)

    def labels_of_namespace(self, namespace: str, connection: Connection | None = None) -> Origins:
        """Return the labels of the identity fields that feed a namespace ("email_sha256/lc-v1")."""
        if connection is None:
            with self._project.node.store.read() as reading:
                return self.labels_of_namespace(namespace, reading)
        query = (
            select(tables.datasets.c.name, tables.fields.c.name)
            .join(tables.datasets, tables.datasets.c.id == tables.fields.c.dataset_id)
            .where(
                tables.datasets.c.project_id == self._project.id,
                tables.fields.c.kind == "identity",
                tables.fields.c.rule == namespace,
            )
        )
        fields = [f"{dataset}.{field}" for dataset, field in connection.execute(query)]
        return inherited(self._uses(connection), Kind.FIELD, fields, {})

    def labels_of_field(self, field: str, connection: Connection) -> Origins:
        """Return the labels of a "dataset.field", its dataset's among them."""
        return self._labels_of(connection, Kind.FIELD, field)

    def resolve(self, connection: Connection, label: str) -> str:
        """Return the name of a label as the catalogue writes it ("c11" is C11); raises NotFound."""
        if label.upper() in STANDARD:
            return label.upper()
        if label in self._custom(connection):
            return label
        raise NotFound(f"there is no label {label!r}", hint="'vesica label list' shows them, 'label create' adds one")

    def _labels_of(self, connection: Connection, kind: Kind, target: str) -> Origins:
        query = select(tables.segments.c.name, tables.segments.c.uses).where(
            tables.segments.c.project_id == self._project.id
        )
        segments = {row.name: tuple(row.uses) for row in connection.execute(query)} if kind is Kind.SEGMENT else {}
        return inherited(self._uses(connection), kind, [target], segments)

    def _custom(self, connection: Connection) -> dict[str, str]:
        rows = tables.labels
        query = select(rows.c.name, rows.c.description).where(rows.c.project_id == self._project.id)
        return {row.name: row.description for row in connection.execute(query)}

    def _uses(self, connection: Connection) -> Uses:
        rows = tables.label_uses
        found: Uses = {}
        for row in connection.execute(select(rows).where(rows.c.project_id == self._project.id)):
            found.setdefault(Origin(kind=Kind(row.kind), target=row.target), []).append(row.label)
        return found

    def _hidden(self, connection: Connection, place: Origin) -> bool:
        """Tell whether a place is not there for whoever acts, for a label that none of their roles clears."""
        cleared = self._project.node.guard.cleared(connection, self._project.id)
        return cleared is not None and not access.clears(cleared, self._labels_of(connection, place.kind, place.target))

    def _check_target(self, connection: Connection, kind: Kind | str, target: str) -> Kind:
        kind = Kind(kind)
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
        hidden = self._hidden(connection, Origin(kind=kind, target=target))
        if connection.execute(query).first() is None or hidden:
            hint = {
                Kind.DATASET: "'vesica profile import --dataset NAME' makes one",
                Kind.FIELD: "write it as DATASET.FIELD, the field being a column of the imported file",
                Kind.SEGMENT: "'vesica segment list' shows them",
            }[kind]
            raise NotFound(f"there is no {kind} {target!r}", hint=hint)
        return kind


def inherited(uses: Uses, kind: Kind, targets: Iterable[str], segments: Mapping[str, Iterable[str]]) -> Origins:
    """Return each label that the targets have, with the places where it was put.

    `uses` is what was put where; `segments` gives for each segment what its rule reads: "dataset.field", or "own.NAME".
    """
    found: Origins = {}
    seen: set[Origin] = set()
    datasets = [each for each in uses if each.kind is Kind.DATASET]
    waiting = [Origin(kind=kind, target=target) for target in targets]
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        for label in uses.get(place, ()):
            found.setdefault(label, []).append(place)
        match place.kind:
            case Kind.FIELD:  # names may hold dots: every dataset that could be meant counts
                waiting += [each for each in datasets if place.target.startswith(f"{each.target}.")]
            case Kind.SEGMENT:
                for used in segments.get(place.target, ()):
                    waiting.append(Origin(kind=Kind.FIELD, target=used))
                    if used.startswith("own."):
                        waiting.append(Origin(kind=Kind.SEGMENT, target=used.removeprefix("own.")))
            case Kind.DATASET:
                pass
    return {label: sorted(places, key=str) for label, places in sorted(found.items())}
