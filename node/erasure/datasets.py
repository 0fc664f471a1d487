"""The datasets of a project: listed, deleted, and without one of their fields."""

from psi.errors import Remedy

from ..access.audit import date
from ..access.scope import Scope
from ..consent import consent_policies
from ..errors import NotAllowed, NotFound
from ..governance.governance import Governance
from ..governance.labels import Labels
from ..governance.lineage import Place, PlaceKind
from ..governance.ports import OUTGOING
from ..governance.visibility import Visibility
from ..people import datasets, removal
from ..people.datasets import Field, FieldKind
from ..people.drafts import Draft
from ..segments.records import stored
from ..storage.database import Tx
from ..storage.records import Document, Documents
from . import erasure

_STAYS = {  # why a field of a kind cannot be dropped, and what to do
    FieldKind.ID: ("the profiles are known by it", "delete the whole dataset"),
    FieldKind.CONSENT: ("what people said is kept for their profiles, whatever brought it", "erase the people"),
    FieldKind.SEGMENTS: ("it became lists", "delete these"),
}


class Datasets:
    """What the imports of one project have brought, by source."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self) -> Documents:
        """Return the datasets with their fields, by name."""
        with self._scope.read() as tx:
            return [
                {
                    "name": name,
                    "created": date(created),
                    "fields": [
                        {"name": field, "kind": found.kind, "namespace": found.rule}
                        for field, found in sorted(datasets.fields_of(self._scope, tx, name).items())
                        if self._sees(tx, PlaceKind.FIELD, f"{name}.{field}")
                    ],
                }
                for name, created in datasets.stored(self._scope, tx)
                if self._sees(tx, PlaceKind.DATASET, name)
            ]

    def delete(self, name: str) -> Document:
        """Delete what a dataset brought, and the profiles that no other dataset has; return how many these were.

        Whoever said no stays, with id and consent. What partners get of it leaves with the next runs, which are queued.
        Raises NotAllowed while segments, policies or feeds need it.
        """
        detail: Document = {}
        with Governance(self._scope).act(
            "dataset.delete", name, Place(kind=PlaceKind.DATASET, target=name), detail=detail
        ) as tx:
            fields = self._fields(tx, name)
            visibility = Visibility(self._scope, tx)
            if visibility.limited and visibility.hidden_fields(name):
                raise NotAllowed(f"dataset {name} has more than you may see", hint="ask somebody who may see all of it")
            self._check_unread(tx, name, fields)
            draft = Draft(self._scope, tx)
            seen = visibility.people(draft.base)
            profiles = removal.take_out_dataset(draft, name)
            erasure.commit(self._scope, tx, draft, profiles)
            for field in fields:
                Labels(self._scope).forget(tx, Place(kind=PlaceKind.FIELD, target=f"{name}.{field}"))
            Labels(self._scope).forget(tx, Place(kind=PlaceKind.DATASET, target=name))
            datasets.forget(self._scope, tx, name)
            detail["profiles"] = len(profiles)
            if visibility.limited:  # whom hidden datasets still name are gone for the caller
                profiles = seen - Visibility(self._scope, tx).people(draft.snapshot)
        return {"deleted": name, "profiles": len(profiles), "runs": erasure.follow_up(self._scope)}

    def drop_field(self, name: str, field: str) -> Document:
        """Delete an attribute of a dataset, or the identities that it gave in a namespace, with all spellings of its name
        that an older release took; see `delete`.

        Return how many identities went.
        """
        detail: Document = {}
        target = f"{name}.{field}"
        with Governance(self._scope).act(
            "dataset.drop-field", target, Place(kind=PlaceKind.FIELD, target=target), detail=detail
        ) as tx:
            fields = self._fields_with(tx, name, field)
            identities = 0
            for each in sorted(each for each in fields if datasets.folded(each) == datasets.folded(field)):
                identities += self._drop(tx, name, each, fields)
                Labels(self._scope).forget(tx, Place(kind=PlaceKind.FIELD, target=f"{name}.{each}"))
                datasets.forget(self._scope, tx, name, each)
            detail["identities"] = identities
        return {"dropped": target, "identities": identities, "runs": erasure.follow_up(self._scope)}

    def check_field(self, name: str, field: str) -> None:
        """Raise NotFound if a dataset has no such field."""
        with self._scope.read() as tx:
            self._fields_with(tx, name, field)

    def _fields_with(self, tx: Tx, name: str, field: str) -> dict[str, Field]:
        fields = self._fields(tx, name)
        if field not in fields or not self._sees(tx, PlaceKind.FIELD, f"{name}.{field}"):
            raise NotFound(f"dataset {name} has no field {field[:80]!r}", hint="see its fields", remedy=_LIST)
        return fields

    def _drop(self, tx: Tx, name: str, field: str, fields: dict[str, Field]) -> int:
        kind, rule = fields[field].kind, fields[field].rule
        if kind in _STAYS:
            why, hint = _STAYS[kind]
            raise NotAllowed(f"field {field} of dataset {name} cannot be dropped: {why}", hint=hint)
        same = [each for each, other in fields.items() if each != field and rule is not None and other.rule == rule]
        if same:
            seen = [each for each in same if self._sees(tx, PlaceKind.FIELD, f"{name}.{each}")] or ["another"]
            raise NotAllowed(
                f"fields {field} and {seen[0]} of dataset {name} both gave {rule}, and identities do not say which",
                hint="delete the dataset, and import it without the field",
            )
        self._check_unread(tx, name, {field: fields[field]})
        draft, identities = Draft(self._scope, tx), 0
        if rule is None:
            removal.take_out_attribute(draft, name, field)
        else:
            identities = removal.take_out_identities(draft, name, rule)
        erasure.commit(self._scope, tx, draft)
        return identities

    def _fields(self, tx: Tx, name: str) -> dict[str, Field]:
        there = any(name == each for each, _ in datasets.stored(self._scope, tx))
        if not there or not self._sees(tx, PlaceKind.DATASET, name):
            raise NotFound(f"there is no dataset {name[:80]!r}", hint="see which there are", remedy=_LIST)
        return datasets.fields_of(self._scope, tx, name)

    def _check_unread(self, tx: Tx, name: str, fields: dict[str, Field]) -> None:
        """Raise NotAllowed, with their names, while segments, consent policies or feeds need some fields."""
        paths = {f"{name}.{field}" for field in fields}
        needed = {
            PlaceKind.SEGMENT: [each.name for each in stored(self._scope, tx) if paths & set(each.uses)],
            PlaceKind.CONSENT_POLICY: [
                each.name for each in consent_policies.stored(self._scope, tx) if paths & set(each.uses)
            ],
            PlaceKind.FEED: self._matching_by(tx, name, fields),
        }
        for kind, names in needed.items():
            if names:
                seen = [each for each in names if self._sees(tx, kind, each)]
                shown = ", ".join([*seen, *["others"] * (len(seen) < len(names))])
                what = f"field {next(iter(paths))}" if len(paths) == 1 else f"what dataset {name} brought"
                raise NotAllowed(f"{kind.replace('-', ' ')} {shown} needs {what}", hint="change or delete that first")

    def _matching_by(self, tx: Tx, name: str, fields: dict[str, Field]) -> list[str]:
        """Return the published feeds that match by a namespace which only these fields of a dataset give."""
        dropped = {(name, field) for field in fields}
        given = datasets.fields_where(self._scope, tx)
        elsewhere = {each.rule for each in given if (each.dataset, each.name) not in dropped}
        alone = {field.rule for field in fields.values()} - elsewhere - {None}
        published = [each for outgoing in OUTGOING.values() for each in outgoing(self._scope).published(tx)]
        return [each.name for each in published if alone & set(each.namespaces)]

    def _sees(self, tx: Tx, kind: PlaceKind, target: str) -> bool:
        return Visibility(self._scope, tx).sees(Place(kind=kind, target=target))


_LIST = Remedy("dataset.list")
