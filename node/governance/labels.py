"""Usage labels: the standard catalogue, a project's own, where they sit, and how they are inherited.

A label sits on a dataset, a field ("dataset.field") or a segment. Fields inherit from their dataset, segments from the
fields and segments that their rule reads; received segments carry their sender's labels. What is inherited is taken off
at its source.
"""

from dataclasses import dataclass

from sqlalchemy import Table, select

from protocol.labels import STANDARD_LABELS, spelled_label
from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, InvalidInput, NotAllowed, NotFound, check_name
from ..people.datasets import fields_where
from ..storage import tables
from ..storage.database import Tx
from .expressions import labels_of, parse
from .lineage import NO_EXPORT, LabelPlaces, Lineage, Place, PlaceKind, Traces, removals
from .visibility import Visibility

MAX_DESCRIPTION = 1_000  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    name: str
    description: str
    standard: bool
    applied_to: tuple[Place, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heeding:
    """What heeds a label: enabled policies and consent policies, by name; `others` are policies that would if enabled."""

    label: str
    enabled: tuple[str, ...]
    others: tuple[str, ...]
    always: bool  # without any policy

    @property
    def heeded(self) -> bool:
        return self.always or bool(self.enabled)


class Labels:
    """The labels of a project: the catalogue, and where each is put."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self, tx: Tx | None = None) -> list[Label]:
        """Return the catalogue, the standard labels first, each with the places it was put."""
        with self._scope.read(tx) as tx:
            custom, lineage = self._custom(tx), Lineage(self._scope, tx)
            visibility = Visibility(self._scope, tx, lineage)
            uses = [(place, labels) for place, labels in sorted(lineage.put.items(), key=str) if visibility.sees(place)]
            described = [(name, text, True) for name, text in STANDARD_LABELS.items()]
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

    def in_use(self, tx: Tx | None = None) -> dict[str, int]:
        """Return how many places each applied label sits on."""
        return {label.name: len(label.applied_to) for label in self.all(tx) if label.applied_to}

    def create(self, name: str, description: str) -> None:
        """Add a label of the project's own; its name must differ from every other, also by more than case."""
        with self._scope.act("label.create", name) as tx:
            check_name(name, "label")
            if not description.strip() or len(description) > MAX_DESCRIPTION:
                raise InvalidInput(
                    "a label needs a description of at most 1,000 characters",
                    remedy=Remedy("label.create", {"name": name, "description": "TEXT"}),
                )
            if name.upper() in STANDARD_LABELS or name in self._custom(tx):
                raise AlreadyExists(
                    f"there is a label {name!r} already", hint="look at the labels", remedy=Remedy("label.list")
                )
            tx.execute(
                tables.labels.insert().values(
                    id=self._scope.home.new_id(),
                    project_id=self._scope.id,
                    name=name,
                    description=description,
                )
            )

    def apply(self, label: str, kind: PlaceKind | str, target: str) -> None:
        """Put a label on a dataset, a field or a segment; everything that inherits from there has it from now on.

        Refused where a published feed would break a policy.
        """
        from .governance import Governance  # loads numpy, which a listing does not need

        kind = PlaceKind(kind)
        place = Place(kind=kind, target=target)
        with Governance(self._scope).act("label.apply", f"{label} on {kind} {target}", place) as tx:
            name = self.resolve(tx, label)
            self._check_target(tx, place)
            if name in Lineage(self._scope, tx).put.get(place, ()):
                raise AlreadyExists(
                    f"{name} is on {kind} {target} already", hint="see where each one is", remedy=Remedy("label.list")
                )
            tx.execute(
                tables.label_uses.insert().values(
                    id=self._scope.home.new_id(),
                    project_id=self._scope.id,
                    label=name,
                    kind=kind.value,
                    target=target,
                )
            )

    def remove(self, label: str, kind: PlaceKind | str, target: str) -> None:
        """Take a label off the place it was put; an inherited one is refused, naming its source."""
        from .governance import Governance  # loads numpy, which a listing does not need

        kind = PlaceKind(kind)
        place = Place(kind=kind, target=target)
        with Governance(self._scope).act("label.remove", f"{label} on {kind} {target}", place) as tx:
            name = self.resolve(tx, label)
            self._check_target(tx, place)
            uses = tables.label_uses
            removed = tx.execute(
                uses.delete().where(
                    uses.c.project_id == self._scope.id,
                    uses.c.label == name,
                    uses.c.kind == kind.value,
                    uses.c.target == target,
                )
            )
            if removed.rowcount:
                return
            for trace in self.traces(kind, target, tx):
                if trace.label == name:
                    raise NotAllowed(
                        f"{kind} {target} inherits {name} from {trace.origin}: it is read-only here",
                        remedy=removals(trace)[0],
                    )
            raise NotFound(
                f"{name} is not on {kind} {target}", hint="see where each one is", remedy=Remedy("label.list")
            )

    def heeding(self, label: str) -> Heeding:
        """Return what heeds a label, without what is hidden from the caller; raises NotFound."""
        from .policies import Policies, PolicyStatus

        with self._scope.read() as tx:
            name, lineage = self.resolve(tx, label), Lineage(self._scope, tx)
            visibility = Visibility(self._scope, tx, lineage)
            found = [
                (each.name, each.status is PolicyStatus.ENABLED)
                for each in Policies(self._scope).all(tx)
                if name in labels_of(parse(each.expression))
            ]
            found += [
                (each.policy, True)
                for each in lineage.consent_policies.values()
                if each.enabled
                and each.label == name
                and visibility.sees(Place(kind=PlaceKind.CONSENT_POLICY, target=each.policy))
            ]
        return Heeding(
            label=name,
            enabled=tuple(policy for policy, enabled in found if enabled),
            others=tuple(policy for policy, enabled in found if not enabled),
            always=name == NO_EXPORT,
        )

    def pass_on(self, tx: Tx, place: Place, to: Place) -> None:
        """Put the labels of a place on a new one beside it, in the caller's transaction."""
        for label in Lineage(self._scope, tx).put.get(place, ()):
            row = {"id": self._scope.home.new_id(), "project_id": self._scope.id, "label": label}
            tx.execute(tables.label_uses.insert().values(**row, kind=to.kind.value, target=to.target))

    def forget(self, tx: Tx, place: Place) -> None:
        """Take all labels off a place that is deleted."""
        uses = tables.label_uses
        ours = (uses.c.project_id == self._scope.id, uses.c.kind == place.kind.value, uses.c.target == place.target)
        tx.execute(uses.delete().where(*ours))

    def labels_of_segment(self, name: str, tx: Tx | None = None) -> LabelPlaces:
        """Return a segment's labels with where each comes from: its own, and those of what its rule uses."""
        with self._scope.read(tx) as tx:
            return Lineage(self._scope, tx).labels(PlaceKind.SEGMENT, name)

    def traces(self, kind: PlaceKind, target: str, tx: Tx | None = None) -> Traces:
        """Return how each label reaches a dataset, a field, a segment or a namespace ("email_sha256/lc-v1")."""
        with self._scope.read(tx) as tx:
            return Lineage(self._scope, tx).traces(kind, target)

    def resolve(self, tx: Tx, label: str) -> str:
        """Return the name of a label as the catalogue writes it ("c11" is C11); raises NotFound."""
        name = spelled_label(label)
        if name in STANDARD_LABELS or name in self._custom(tx):
            return name
        raise NotFound(
            f"there is no label {label!r}",
            hint="look at the labels, or add one of your own",
            remedy=Remedy("label.list"),
        )

    def _custom(self, tx: Tx) -> dict[str, str]:
        rows = tables.labels
        query = select(rows.c.name, rows.c.description).where(rows.c.project_id == self._scope.id)
        return {row.name: row.description for row in tx.execute(query)}

    def _exists(self, tx: Tx, rows: Table, name: str) -> bool:
        mine = (rows.c.project_id == self._scope.id, rows.c.name == name)
        return tx.execute(select(rows.c.id).where(*mine)).first() is not None

    def _check_target(self, tx: Tx, place: Place) -> None:
        kind, target = place.kind, place.target
        datasets, fields, segments = tables.datasets, tables.fields, tables.segments
        match kind:
            case PlaceKind.DATASET:
                there = self._exists(tx, datasets, target)
            case PlaceKind.FIELD:
                there = bool(fields_where(self._scope, tx, datasets.c.name + "." + fields.c.name == target))
            case PlaceKind.SEGMENT:
                there = self._exists(tx, segments, target)
            case _:
                raise InvalidInput(f"no label can be put on a {kind}", hint="name a dataset, a field or a segment")
        if not there or not Visibility(self._scope, tx).sees(place):
            hint, remedy = {
                PlaceKind.DATASET: ("an import makes one", Remedy("profile.import", {"dataset": "NAME"})),
                PlaceKind.FIELD: ("write it as DATASET.FIELD, the field being a column of the imported file", None),
                PlaceKind.SEGMENT: ("look at the segments", Remedy("segment.list")),
            }[kind]
            raise NotFound(f"there is no {kind} {target!r}", hint=hint, remedy=remedy)
