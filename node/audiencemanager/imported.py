"""What is imported of the Audience Manager side: traits and segments of traits that rules of the project read."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from psi.errors import Remedy

from ..access.scope import Scope
from ..governance.lineage import Place, PlaceKind, written
from ..segments.references import Gone
from ..storage.database import Tx
from ..storage.records import Document, record
from ..storage.tables import audience_imports
from . import audience_segments, traits

KINDS = {PlaceKind.TRAIT: "trait", PlaceKind.AUDIENCE: "segment"}  # of rows
LONGEST = 63  # characters of a name
_PLACES = {kind: place for place, kind in KINDS.items()}


class NotImported(Gone):
    """Nothing of that name is imported, or what was imported is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A trait or a segment of traits, by its number, that rules read under a name; `size` counts profiles."""

    id: str
    kind: str
    number: int
    name: str
    basis: str | None
    size: int
    evaluated: int | None
    created: int

    @property
    def place(self) -> Place:
        return Place(kind=_PLACES[self.kind], target=self.name)

    @property
    def reference(self) -> str:
        """How a rule names it."""
        return written(self.place)

    def as_dict(self) -> Document:
        return {
            "reference": self.reference,
            "kind": self.kind,
            "number": self.number,
            "size": self.size,
            "evaluated": self.evaluated,
        }


def stored(scope: Scope, tx: Tx) -> list[Imported]:
    """Return all that is imported, traits last, by name."""
    rows = audience_imports
    query = select(rows).where(rows.c.project_id == scope.id).order_by(rows.c.kind, rows.c.name)
    return [record(Imported, row) for row in tx.execute(query)]


def find(scope: Scope, tx: Tx, place: Place) -> Imported | None:
    """Return what is imported under a reference; None where nothing is."""
    return next((each for each in stored(scope, tx) if each.place == place), None)


def exists(scope: Scope, tx: Tx, found: Imported) -> bool:
    """Return whether what was imported has not been deleted since."""
    rows = traits if found.kind == "trait" else audience_segments
    return rows.by_number(scope, tx, found.number) is not None


def add(scope: Scope, tx: Tx, kind: str, number: int, title: str) -> Imported:
    """Note a trait or a segment as imported; one that is keeps its name."""
    there = [each for each in stored(scope, tx) if each.kind == kind]
    for each in there:
        if each.number == number:
            return each
    now, name = scope.home.now(), _name(title, number, {each.name for each in there})
    made = Imported(
        id=scope.home.new_id(), kind=kind, number=number, name=name, basis=None, size=0, evaluated=None, created=now
    )
    values = {each: getattr(made, each) for each in Imported.__dataclass_fields__}
    tx.execute(audience_imports.insert().values(**values, project_id=scope.id))
    return made


def change(tx: Tx, found: Imported, **values: Any) -> None:
    tx.execute(audience_imports.update().where(audience_imports.c.id == found.id).values(**values))


def remove(tx: Tx, found: Imported) -> None:
    tx.execute(audience_imports.delete().where(audience_imports.c.id == found.id))


def not_imported(place: Place) -> NotImported:
    """Return the refusal of a reference that names nothing, or what the caller may not see."""
    return NotImported(
        f"there is no {written(place)[:100]}",
        hint="see what is imported of the Audience Manager side, or import it",
        remedy=Remedy("audience.imports"),
    )


def _name(title: str, number: int, taken: Collection[str]) -> str:
    """Return a name for rules that is like a title."""
    plain = re.sub("[^a-z0-9_]+", "-", title.lower()).strip("-_")[:LONGEST].rstrip("-_") or str(number)
    return plain if plain not in taken else f"{plain[: LONGEST - 11]}-{number}"
