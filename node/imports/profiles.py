"""Profiles: people's records, by id."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import select

from ..access import permissions
from ..access.audit import date
from ..consent.consent import CODES
from ..errors import NotFound
from ..inputs.queries import Query
from ..inputs.sources import Progress
from ..people.data import NUMBER, Snapshot
from ..storage.tables import datasets, fields
from .importer import ImportReport, import_file

if TYPE_CHECKING:
    from ..project import Project
    from .other_products import ExportReport


class Profiles:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def import_(self, path: Path | str | Query, **options: Any) -> ImportReport:
        """Bring a file's or a query's people in, with the options of `node.importer.import_file`."""
        report = import_file(self._project, path, **options)
        self._project.memberships.join_all()
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
        progress: Progress | None = None,
    ) -> "ExportReport":
        """Bring in a profile export of Experience Platform, as `node.xdm` reads it; `segments` is a file of names, and
        `into` are lists of ours that it may change."""
        from . import experience_platform, other_products

        def opened(_: other_products.Names) -> other_products.Export:
            mapped = experience_platform.Mapped.parse(namespaces=namespaces, attributes=attributes, id_path=id_path)
            return experience_platform.open_export(path, mapped, self._project.node.now(), progress)

        return other_products.take_over(
            self._project, opened, dataset=dataset, names=segments, region=region, into=into
        )

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
        progress: Progress | None = None,
    ) -> "ExportReport":
        """Bring in a data file of Audience Manager, as `node.audiencemanager` reads it; `segments` is a file of names, and
        `into` are lists of ours that it may change."""
        from . import audience_manager_files, other_products

        def opened(names: other_products.Names) -> other_products.Export:
            return audience_manager_files.open_export(
                path, names, namespace=namespace, own_ids=own_ids, progress=progress
            )

        return other_products.take_over(
            self._project, opened, dataset=dataset, names=segments, region=region, into=into
        )

    def count(self) -> dict[str, Any]:
        """Return how many profiles there are, and per namespace identities and profiles that have one."""
        snapshot = Snapshot.open(self._project)
        namespaces = {}
        for name in snapshot.namespaces:
            held = snapshot.identities(name)
            namespaces[name] = {
                "identities": len(snapshot.starts(name)),
                "profiles": int(np.count_nonzero(np.bincount(held.profiles, minlength=1))),
            }
        return {"profiles": snapshot.profile_count, "namespaces": namespaces}

    def show(self, profile: str) -> dict[str, Any]:
        """Return one profile: its identities as they are stored (hashes in hex), consent, attributes and segments."""
        import duckdb

        snapshot = Snapshot.open(self._project)
        number = int(snapshot.numbers(np.array([profile.encode()], np.bytes_))[0])
        if number < 0:
            raise NotFound("there is no profile with that id", hint="the ids are those of the imported --id column")
        identities = []
        for name in snapshot.namespaces:
            held = snapshot.identities(name)
            visible = snapshot.given_outside(name, self._hidden(name, snapshot))
            where = np.flatnonzero((held.profiles == number) & visible)
            primary = snapshot.primary(name)
            text = name.endswith(("/opaque-v1", "ecid/digits-v1"))
            for row in where.tolist():
                value, code = held.values[row], CODES[held.consent[row]]
                shown = value.decode(errors="replace") if text else value.hex()
                identities.append(
                    {"namespace": name, "value": shown, "primary": bool(primary[row]), "share": code or None}
                )
        attributes = {}
        with duckdb.connect(":memory:") as connection:
            for dataset, path in snapshot.attributes.items():
                query = f'SELECT * FROM read_parquet(?) WHERE "{NUMBER}" = ?'  # noqa: S608 - a name of our own
                found = connection.execute(query, [str(path), number])
                names = [column[0] for column in found.description or []]
                for cells in found.fetchall():
                    pairs = zip(names[1:], cells[1:], strict=True)
                    attributes[dataset] = {field: cell for field, cell in pairs if self._visible(f"{dataset}.{field}")}
        said = snapshot.profile_consent[number]
        segments = self._project.segments.list()
        return {
            "id": profile,
            "identities": identities,
            "share": CODES[said] or None,
            "share_at": date(int(snapshot.profile_consent_at[number])) if said else None,
            "share_basis": snapshot.basis(int(snapshot.profile_consent_basis[number])),
            "attributes": attributes,
            "segments": [each.name for each in segments if number in snapshot.members(each.id)],
        }

    def _hidden(self, namespace: str, snapshot: Snapshot) -> list[int]:
        """Return the datasets, as identity rows name them, whose field of a namespace is not there for whoever acts."""
        numbers = {name: number for number, name in enumerate(snapshot.content.get("sources", []))}
        query = (
            select(datasets.c.name, fields.c.name)
            .join(datasets, datasets.c.id == fields.c.dataset_id)
            .where(datasets.c.project_id == self._project.id, fields.c.rule == namespace)
        )
        with self._project.node.store.read() as reading:
            found = [(dataset, f"{dataset}.{field}") for dataset, field in reading.execute(query)]
        return [numbers[dataset] for dataset, field in found if dataset in numbers and not self._visible(field)]

    def _visible(self, field: str) -> bool:
        """Tell whether whoever acts may see the labels of a field."""
        project = self._project
        with project.node.store.read() as reading:
            cleared = project.node.guard.cleared(reading, project.id)
            return cleared is None or permissions.clears(cleared, project.labels.labels_of_field(field, reading))
