"""What of a member's attributes a message carries: fields of the target, each with the attribute of ours that it gets."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from psi.errors import Remedy
from psi.values import Bools

from ..access.scope import Scope
from ..errors import InvalidInput, NotAllowed, nearest
from ..inputs.raw_values import personal, refuse_personal
from ..inputs.sql import quoted
from ..people.datasets import fields_where
from ..people.snapshots import NUMBER, Snapshot
from ..segments.evaluation import attribute_names
from ..storage import tables
from ..storage.database import Tx
from . import kinds
from .changes import Digests
from .records import Activation, Destination

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LABEL = b"vesica/1 attribute digests"  # of the key, so that a file of them tells nothing to who has it alone
MOST_FIELDS = 100  # as many columns as a table of a target may well have
LOOKED_AT = 1 << 16  # values at once
_STEP = r"[A-Za-z_][A-Za-z0-9_-]{0,62}"
_FIELD = re.compile(rf"{_STEP}(?:\.{_STEP}){{0,9}}")  # person.name.firstName

Numbers = npt.NDArray[np.uint32]
Cells = npt.NDArray[np.object_]  # of one field: text, or None where a profile has nothing


def checked(scope: Scope, tx: Tx, destination: Destination, given: Mapping[str, str]) -> dict[str, str]:
    """Return a mapping as it is kept: by field at the target, an attribute as "dataset.column".

    Raises InvalidInput or NotAllowed for what cannot be mapped, and for a field that the kind requires and that has none.
    """
    if len(given) > MOST_FIELDS:
        raise InvalidInput(f"at most {MOST_FIELDS} fields can be mapped", hint="map those that the target uses")
    names, known = attribute_names(scope, tx), attribute_names(scope, tx, visible=True)
    asked = _with_required(destination, given, known)
    _check_fields(destination, asked)
    found = {}
    for field, attribute in asked.items():
        dataset, column = _attribute(scope, tx, field, attribute, known, hidden=attribute in names)
        found[field] = f"{dataset}.{column}"
    snapshot = Snapshot.open(scope, tx)
    for dataset, column in sorted({known[path] for path in found.values()}):
        _check_values(snapshot, dataset, column)
    return dict(sorted(found.items()))


def _with_required(
    destination: Destination, given: Mapping[str, str], known: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    """Return a mapping with what the kind maps by itself; raises InvalidInput for what is missing or too much."""
    asked, required = dict(given), kinds.required_mappings(destination.kind, destination.settings)
    for each in required:
        if each.source and asked.setdefault(each.destination, each.source) != each.source:
            raise InvalidInput(
                f"{destination.name} takes {each.destination} from {each.source} alone",
                hint=f"map {each.destination}={each.source}, or leave it out",
            )
        if each.source and each.source not in known and not each.needed and each.destination not in given:
            del asked[each.destination]
    if missing := [each.destination for each in required if each.needed and each.destination not in asked]:
        words = "fields that are" if len(missing) > 1 else "a field that is"
        raise InvalidInput(
            f"{destination.name} asks for {words} not mapped: {', '.join(missing)}",
            hint=f"map one to it: {missing[0]}=ATTRIBUTE",
        )
    if kinds.required_mappings_only(destination.kind, destination.settings):
        more = sorted(asked.keys() - {each.destination for each in required})
        if more:
            raise InvalidInput(
                f"{destination.name} does not take the field {more[0][:80]}",
                hint="map only the fields that it asks for",
            )
    return asked


def _check_fields(destination: Destination, fields: Mapping[str, str]) -> None:
    taken = kinds.reserved_fields(destination.kind)
    for field in fields:
        _check_field(field)
        if field in taken:
            raise InvalidInput(
                f"a {destination.kind} destination has a field {field} of its own", hint="choose another name"
            )
        if within := next((each for each in fields if each.startswith(f"{field}.")), None):
            raise InvalidInput(f"{within} is within {field}, which is mapped too", hint="map one of the two")


def _attribute(
    scope: Scope, tx: Tx, field: str, name: str, known: Mapping[str, tuple[str, str]], *, hidden: bool
) -> tuple[str, str]:
    """Return the dataset and the column of an attribute; raises InvalidInput, or NotAllowed where it has identities."""
    if name in known:
        return known[name]
    others = fields_where(scope, tx, tables.fields.c.kind != "attribute")
    if not hidden and any(name in (each.name, each.path) and each.rule is not None for each in others):
        raise NotAllowed(
            f"{field} cannot get {name[:80]}: it has identities, which leave as identities alone",
            hint="make a destination that sends this identity",
            remedy=Remedy("destination.create"),
        )
    raise InvalidInput(
        f"{field} is mapped to {_shown(name)}, and there is no such attribute",
        hint=f"{nearest(name, known)}write a column, or DATASET.COLUMN where several datasets have it",
        remedy=Remedy("dataset.list"),
    )


def checked_fields(text: str) -> str:
    """Return names of fields, with commas between them, as they are kept; raises InvalidInput."""
    names = [each.strip() for each in text.split(",")]
    for name in names:
        _check_field(name)
    return ",".join(dict.fromkeys(names))


def _check_field(name: str) -> None:
    if not _FIELD.fullmatch(name):
        raise InvalidInput(f"{name[:80]!r} is no field", hint="it reads like email_status, or person.name.firstName")


def _shown(name: str) -> str:
    return "what is no name" if personal(name) else repr(name[:80])


def _check_values(snapshot: Snapshot, dataset: str, column: str) -> None:
    """Raise InvalidInput for an attribute with raw e-mail addresses or phone numbers in it."""
    import duckdb

    with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
        query = f"SELECT DISTINCT {quoted(column)} FROM read_parquet(?) WHERE {quoted(column)} IS NOT NULL"  # noqa: S608 - quoted
        path = snapshot.attributes.get(dataset)
        rows = None if path is None else connection.execute(query, [str(path)])
        while rows is not None and (some := rows.fetchmany(LOOKED_AT)):
            try:
                refuse_personal([each[0] for each in some], f"{dataset}.{column}", np.zeros(len(some), np.int64))
            except InvalidInput as error:
                raise InvalidInput(
                    f"{dataset}.{column} has raw e-mail addresses or phone numbers: they never leave",
                    hint="import the column as identities, and send those",
                    remedy=Remedy("dataset.list"),
                ) from error


def columns_of(scope: Scope, tx: Tx, activation: Activation) -> dict[str, tuple[str, str] | None]:
    """Return by field the dataset and the column that it gets, None where the column is gone, or the field is mapped no
    more: then it is emptied."""
    if not activation.mapping:
        return {}
    known = attribute_names(scope, tx)
    return dict.fromkeys(activation.unmapped) | {field: known.get(path) for field, path in activation.mapping.items()}


@dataclass(frozen=True)
class Mapped:
    """The attributes of profiles under a mapping, as a snapshot has them; `required` fields may not be empty."""

    snapshot: Snapshot
    columns: Mapping[str, tuple[str, str] | None]
    required: Sequence[str]
    key: bytes

    @classmethod
    def of(cls, scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> "Mapped | None":
        """Return what an activation maps; None where that is nothing."""
        columns = columns_of(scope, tx, activation)
        needed = kinds.required_mappings(destination.kind, destination.settings)
        required = [each.destination for each in needed if each.needed and each.destination in columns]
        if not columns:
            return None
        return cls(Snapshot.open(scope, tx), columns, required, scope.home.keys.derive(LABEL))

    @property
    def digests(self) -> Digests:
        """The digests of each profile's attributes by its number, uint64 (profiles,)."""
        return self._known[0]

    @property
    def missing(self) -> Bools:
        """Which profiles, by their numbers, have nothing in a required field."""
        return self._known[1]

    def cells(self, numbers: Numbers) -> dict[str, Cells]:
        """Return by field the attributes of some profiles, in their order."""
        import duckdb

        found = {field: np.full(len(numbers), None, object) for field in self.columns}
        given = [field for field, column in self.columns.items() if column is not None]
        if not len(numbers) or not given:
            return found
        with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
            connection.register("given", {"place": np.arange(len(numbers)), "number": numbers})
            names, joins = self._joined(connection)
            query = f"SELECT {', '.join(names[field] for field in given)} FROM given g {joins} ORDER BY g.place"  # noqa: S608 - quoted
            for place, row in enumerate(connection.execute(query).fetchall()):
                for field, text in zip(given, row, strict=True):
                    found[field][place] = text
        return found

    @cached_property
    def _known(self) -> tuple[Digests, Bools]:
        """A digest is SHA-256 of the key, the fields, and each attribute with its length before it; 8 bytes of it."""
        import duckdb

        count = self.snapshot.profile_count
        with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
            names, joins = self._joined(connection)
            texts = [names.get(field) for field in sorted(self.columns)]
            said = " || ".join(
                "'-'" if each is None else f"coalesce(strlen({each}) || ':' || {each}, '-')" for each in texts
            )
            lacking = [names.get(field, "NULL") for field in self.required]
            missing = " OR ".join(f"{text} IS NULL" for text in lacking) or "false"
            digest = f"('0x' || left(sha256(? || {said}), 16))::UBIGINT"
            query = f"SELECT g.number, {digest}, {missing} FROM range({count}) AS g(number) {joins}"  # noqa: S608 - quoted
            salt = self.key.hex() + json.dumps(sorted(self.columns))
            numbers, digests, lacks = connection.execute(query, [salt]).fetchnumpy().values()
        known, without = np.zeros(count, np.uint64), np.zeros(count, bool)
        known[numbers], without[numbers] = digests, lacks
        return known, without

    def _joined(self, connection: "DuckDBPyConnection") -> tuple[dict[str, str], str]:
        """Return what the columns are called in a query by field, and the joins of their datasets to `g.number`."""
        names: dict[str, str] = {}
        tables_: dict[str, str] = {}
        for field, column in self.columns.items():
            if column is None or column[0] not in self.snapshot.attributes:
                continue
            dataset, name = column
            if dataset not in tables_:
                table = tables_[dataset] = f"a{len(tables_)}"
                path = str(self.snapshot.attributes[dataset]).replace("'", "''")
                connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{path}')")  # noqa: S608 - quoted
            names[field] = f"{tables_[dataset]}.{quoted(name)}"
        joins = (f"LEFT JOIN {each} ON {each}.{quoted(NUMBER)} = g.number" for each in tables_.values())
        return names, " ".join(joins)


def nested(fields: Mapping[str, object]) -> dict[str, object]:
    """Return fields by their paths as objects within each other: "person.name" is {"person": {"name": ...}}."""
    found: dict[str, object] = {}
    for path, value in fields.items():
        *steps, last = path.split(".")
        place = found
        for step in steps:
            inner = place.setdefault(step, {})
            assert isinstance(inner, dict)
            place = inner
        place[last] = value
    return found
