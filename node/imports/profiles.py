"""Profiles: people's records, by id."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..access.audit import date
from ..access.scope import Scope
from ..governance.lineage import Place, PlaceKind
from ..governance.visibility import Visibility
from ..inputs.queries import Query
from ..inputs.sources import ReadProgress
from ..people.changes import announce
from ..people.consent import CODES
from ..people.identity_rows import begins
from ..people.snapshots import NUMBER, Snapshot
from ..segments import references
from ..storage.records import Document, Documents
from .identity_columns import IdentityColumn, ImportReport
from .people_files import import_file
from .people_rows import PeopleFile
from .tcf import NEEDED, Needed

if TYPE_CHECKING:
    from .other_products import ExportReport
    from .records import Export
    from .segment_names import Names


class Profiles:
    """The profiles of a project: imported, counted and shown."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def import_(
        self,
        path: Path | str | Query,
        *,
        dataset: str,
        id_column: str,
        identities: Sequence[IdentityColumn],
        consent_column: str | None = None,
        tcf_column: str | None = None,
        needed: Needed = NEEDED,
        attributes: Sequence[str] = (),
        region: str | None = None,
        progress: ReadProgress | None = None,
    ) -> ImportReport:
        """Bring a file's or a query's people in, as people_files.py does."""
        file = PeopleFile(
            path=path,
            dataset=dataset,
            id_column=id_column,
            identities=identities,
            consent_column=consent_column,
            tcf_column=tcf_column,
            needed=needed,
            attributes=attributes,
            region=region,
        )
        report = import_file(self._scope, file, progress)
        announce(self._scope)
        return report

    def import_segment_match(
        self,
        path: Path | str,
        *,
        dataset: str,
        namespaces: Iterable[str] = (),
        attributes: Iterable[str] = (),
        id_path: str = "",
        segments: Path | str | None = None,
        region: str | None = None,
        into: Iterable[str] = (),
        progress: ReadProgress | None = None,
    ) -> "ExportReport":
        """Bring in a profile export of Experience Platform; `segments` is a file of names, and `into` are lists of ours
        that it may change."""
        from . import experience_platform, other_products

        def opened(_: "Names") -> "Export":
            mapped = experience_platform.Mapped.parse(namespaces=namespaces, attributes=attributes, id_path=id_path)
            return experience_platform.open_export(path, mapped, self._scope.home.now(), progress)

        return other_products.take_over(self._scope, opened, dataset=dataset, names=segments, region=region, into=into)

    def import_audience_manager(
        self,
        path: Path | str,
        *,
        dataset: str,
        namespace: str = "",
        own_ids: bool = False,
        segments: Path | str | None = None,
        region: str | None = None,
        into: Iterable[str] = (),
        progress: ReadProgress | None = None,
    ) -> "ExportReport":
        """Bring in a data file of Audience Manager; `segments` is a file of names, and `into` are lists of ours that it
        may change."""
        from . import audience_manager_files, other_products

        def opened(names: "Names") -> "Export":
            return audience_manager_files.open_export(
                path, names, namespace=namespace, own_ids=own_ids, progress=progress
            )

        return other_products.take_over(self._scope, opened, dataset=dataset, names=segments, region=region, into=into)

    def count(self) -> Document:
        """Return how many profiles there are, and per namespace identities and profiles that have one."""
        with self._scope.read(act="profile.view") as tx:
            visibility, snapshot = Visibility(self._scope, tx), Snapshot.open(self._scope, tx)
            people, namespaces = visibility.people(snapshot), {}
            for name in snapshot.namespaces:
                found, seen = snapshot.identities(name), np.flatnonzero(visibility.identities(snapshot, name))
                if len(seen):
                    namespaces[name] = {
                        "identities": int(np.count_nonzero(begins(found.values.take(seen)))),
                        "profiles": int(np.count_nonzero(np.bincount(found.profiles[seen], minlength=1))),
                    }
        return {"profiles": len(people), "namespaces": namespaces}

    def show(self, profile: str) -> Document:
        """Return one profile: its identities as they are stored (hashes in hex), consent, attributes, and the segments that
        it is in: ours, received, and shared by other projects."""
        with self._scope.read(act="profile.view") as tx:
            visibility = Visibility(self._scope, tx)
            snapshot = Snapshot.open(self._scope, tx)
            number = visibility.number(snapshot, profile)
            word = snapshot.word(number)
            identities = [
                each for name in snapshot.namespaces for each in _identities(visibility, snapshot, name, number)
            ]
            attributes = _attributes(snapshot, number, visibility)
            segments = references.having(self._scope, tx, snapshot, number)
        return {
            "id": profile,
            "identities": identities,
            "share": CODES[word.code] or None,
            "share_at": date(word.at) if word.code else None,
            "share_basis": snapshot.basis(word.basis),
            "attributes": attributes,
            **{
                name: [each.removeprefix(f"{word}.") for each in segments if each.startswith(f"{word}.")]
                for name, word in (("segments", "own"), ("received", "received"), ("shared", "shared"))
            },
        }


def _identities(visibility: Visibility, snapshot: Snapshot, namespace: str, number: int) -> Documents:
    """Return a profile's identities in one namespace, without those that only hidden fields gave."""
    found, primary = snapshot.identities(namespace), snapshot.primary(namespace)
    visible = visibility.identities(snapshot, namespace)
    is_text = namespace.endswith(("/opaque-v1", "ecid/digits-v1"))
    return [
        {
            "namespace": namespace,
            "value": found.values[row].decode(errors="replace") if is_text else found.values[row].hex(),
            "primary": bool(primary[row]),
            "share": CODES[found.consent[row]] or None,
        }
        for row in np.flatnonzero((found.profiles == number) & visible).tolist()
    ]


def _attributes(snapshot: Snapshot, number: int, visibility: Visibility) -> dict[str, Document]:
    import duckdb

    attributes = {}
    with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
        for dataset, path in snapshot.attributes.items():
            query = f'SELECT * FROM read_parquet(?) WHERE "{NUMBER}" = ?'  # noqa: S608 - a name of our own
            found = connection.execute(query, [str(path), number])
            names = [column[0] for column in found.description or []]
            for cells in found.fetchall():
                pairs = zip(names[1:], cells[1:], strict=True)
                seen = {name: cell for name, cell in pairs if _sees(visibility, f"{dataset}.{name}")}
                if seen or visibility.sees(Place(kind=PlaceKind.DATASET, target=dataset)):
                    attributes[dataset] = seen
    return attributes


def _sees(visibility: Visibility, field: str) -> bool:
    return visibility.sees(Place(kind=PlaceKind.FIELD, target=field))
