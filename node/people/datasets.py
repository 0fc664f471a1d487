"""Datasets and their fields: labels are put on them, and rules name them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, select

from ..access.scope import Scope
from ..errors import InvalidInput, NotAllowed, check_name
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import record

RESERVED = ("own", "received", "consent")  # in a rule these words stand for segments and for what people said


class FieldKind(StrEnum):
    """What a field has: profile ids, identities, consent, memberships in segments, or text for rules."""

    ID = "id"
    IDENTITY = "identity"
    CONSENT = "consent"
    SEGMENTS = "segments"
    ATTRIBUTE = "attribute"

    @property
    def lasts(self) -> bool:
        """Whether what was imported stays, also if the field is to have something else later."""
        return self in (FieldKind.ID, FieldKind.IDENTITY)


@dataclass(frozen=True, slots=True)
class Field:
    """What a field has; `rule` is that of its identities ("email_sha256/lc-v1")."""

    kind: FieldKind
    rule: str | None = None


def check_dataset(name: str) -> None:
    check_name(name, "dataset")
    if name.partition(".")[0] in RESERVED:  # of "consent.x" a rule could not tell which it names
        raise InvalidInput(f"a dataset cannot be called {name}", hint="choose another name")


def record_fields(scope: Scope, tx: Tx, dataset: str, wanted: Mapping[str, Field]) -> None:
    """Keep a row for the dataset and for each of its fields.

    Raises NotAllowed for another spelling of a field's name, and where a field that had ids or identities is to have
    something else: they stay, and the labels on the field are theirs.
    """
    fields, dataset_id = tables.fields, _dataset(scope, tx, dataset)
    rows = tx.execute(select(fields).where(fields.c.dataset_id == dataset_id))
    known = {row.name: record(Field, row) for row in rows}
    _check_spelling(dataset, [*known, *(name for name in wanted if name not in known)], since=len(known))
    for name, field in wanted.items():
        if name in known:
            after = _changed(dataset, name, known[name], field)
            this = (fields.c.dataset_id == dataset_id) & (fields.c.name == name)
            tx.execute(fields.update().where(this).values(kind=after.kind, rule=after.rule))
        else:
            row = {"id": scope.home.new_id(), "dataset_id": dataset_id, "name": name}
            tx.execute(fields.insert().values(**row, kind=field.kind, rule=field.rule))


def folded(name: str) -> str:
    """Return a field's name, or its path, as it is compared: names that differ in case alone are one column's."""
    return name.lower()


def _check_spelling(dataset: str, names: Sequence[str], *, since: int) -> None:
    """Raise NotAllowed if one of the names from number `since` on spells one before it differently."""
    spelled: dict[str, str] = {}
    for number, name in enumerate(names):
        before = spelled.setdefault(folded(name), name)
        if before != name and number >= since:
            raise NotAllowed(
                f"dataset {dataset} calls column {name!r} {before!r}, and the labels on it are for that name",
                hint=f"rename the column to {before}, or import it into another dataset",
            )


def _dataset(scope: Scope, tx: Tx, name: str) -> str:
    """Return the id of a dataset, which is made if it is not there."""
    rows = tables.datasets
    mine = (rows.c.project_id == scope.id) & (rows.c.name == name)
    dataset_id: str | None = tx.scalar(select(rows.c.id).where(mine))
    if dataset_id is None:
        dataset_id, created = scope.home.new_id(), scope.home.now()
        tx.execute(rows.insert().values(id=dataset_id, project_id=scope.id, name=name, created=created))
    return dataset_id


def _changed(dataset: str, name: str, before: Field, after: Field) -> Field:
    """Return what a field has from now on; raises NotAllowed where it would lose its ids or identities."""
    if not before.kind.lasts:
        return after
    if not after.kind.lasts or (after.rule is not None and before.rule not in (None, after.rule)):
        kept = "profile ids" if before.kind is FieldKind.ID else f"identities of {before.rule}"
        raise NotAllowed(
            f"column {name!r} of dataset {dataset} had {kept} before, which are kept with its labels",
            hint="import it as before, or into another dataset",
        )
    kind = FieldKind.ID if FieldKind.ID in (before.kind, after.kind) else after.kind
    return Field(kind, after.rule or before.rule)


def stored(scope: Scope, tx: Tx) -> list[tuple[str, int]]:
    """Return the names of the project's datasets, sorted, and when each was made."""
    rows = tables.datasets
    query = select(rows.c.name, rows.c.created).where(rows.c.project_id == scope.id).order_by(rows.c.name)
    return [(name, created) for name, created in tx.execute(query)]


def fields_of(scope: Scope, tx: Tx, dataset: str) -> dict[str, Field]:
    """Return a dataset's fields by name."""
    fields, datasets = tables.fields, tables.datasets
    mine = (datasets.c.project_id == scope.id, datasets.c.name == dataset)
    query = select(fields).join(datasets, datasets.c.id == fields.c.dataset_id).where(*mine)
    return {row.name: Field(FieldKind(row.kind), row.rule) for row in tx.execute(query)}


def forget(scope: Scope, tx: Tx, dataset: str, field: str | None = None) -> None:
    """Delete the row of a field, or those of a dataset with all its fields."""
    fields, datasets = tables.fields, tables.datasets
    dataset_id = tx.scalar(select(datasets.c.id).where(datasets.c.project_id == scope.id, datasets.c.name == dataset))
    mine = fields.c.dataset_id == dataset_id
    tx.execute(fields.delete().where(mine if field is None else mine & (fields.c.name == field)))
    if field is None:
        tx.execute(datasets.delete().where(datasets.c.id == dataset_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetField:
    """A field with the dataset that it is in."""

    dataset: str
    name: str
    rule: str | None

    @property
    def path(self) -> str:
        """The field as labels and rules name it: "dataset.field"."""
        return f"{self.dataset}.{self.name}"


def fields_where(scope: Scope, tx: Tx, *conditions: ColumnElement[bool]) -> list[DatasetField]:
    """Return the project's fields that meet some conditions on the tables `datasets` and `fields`."""
    datasets, fields = tables.datasets, tables.fields
    query = (
        select(datasets.c.name, fields.c.name, fields.c.rule)
        .join(datasets, datasets.c.id == fields.c.dataset_id)
        .where(datasets.c.project_id == scope.id, *conditions)
    )
    return [DatasetField(dataset=dataset, name=name, rule=rule) for dataset, name, rule in tx.execute(query)]


def namespaces(scope: Scope, tx: Tx | None = None) -> list[str]:
    """Return the namespaces with rule ids that the imported identities have, sorted."""
    with scope.read(tx) as tx:
        return sorted({each.rule for each in fields_where(scope, tx, tables.fields.c.rule.is_not(None)) if each.rule})
