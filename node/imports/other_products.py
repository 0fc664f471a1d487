"""What other products exported: people with their identities, consents and segment memberships, taken over as they are.

experience_platform.py and audience_manager_files.py read the files; here their people become profiles of a dataset and
members of segments. A broken record is rejected alone, and a value that cannot be used is counted with its line, never
shown.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyroaring import BitMap

from ..access.scope import Scope
from ..errors import InvalidInput
from ..governance.governance import Governance
from ..governance.labels import Labels
from ..governance.lineage import Place, PlaceKind
from ..governance.visibility import Visibility
from ..inputs.normalise import check_region
from ..inputs.raw_values import refuse_personal_name
from ..people import attributes as attributes_of
from ..people import known_lines
from ..people.changes import announce
from ..people.datasets import check_dataset, fields_of, record_fields
from ..people.drafts import Draft
from ..people.identity_rows import ProfileNumbers
from ..people.named import note
from ..people.numbering import GivenIds
from ..people.suppressions import Suppressions
from ..segments import column_types
from ..segments.lists import Lists
from ..storage.database import Tx
from ..storage.records import Document
from .arrivals import Arrivals
from .identity_columns import Tally, doubts, repeated, tally
from .records import Export, Extent
from .segment_names import Names


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenSegment:
    id: str  # the other product's
    name: str
    size: int
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was taken of an export; `dropped` are values, `rejected` whole records."""

    file: str
    kind: str
    extent: Extent
    records: int
    accepted: int
    rejected: dict[str, Tally]
    dropped: dict[str, Tally]
    identities: dict[str, int]
    profiles_added: int
    profiles_updated: int
    consents_changed: int
    withdrawals_kept: int
    segments: list[TakenSegment]
    repeated: Tally | None  # records of an id that came before
    doubts: dict[str, dict[str, Tally]]  # by column, what of it may be personal data
    outdated: dict[str, str]  # by "segment NAME", what its rule compares and the columns no longer have

    def as_dict(self) -> Document:
        return asdict(self)


def take_over(
    scope: Scope,
    opened: "Callable[[Names], Export]",
    *,
    dataset: str,
    names: Path | str | None = None,
    region: str | None = None,
    into: Iterable[str] = (),
) -> ExportReport:
    """Bring an export's people in as one dataset, and its segments as lists, called as the file of `names` says.

    It changes the lists that the dataset brought, and those of `into`, which are the dataset's from then on. Of two
    consents the newer counts, at the same time the stricter; one without a time never replaces a withdrawal that has one.
    Raises InvalidInput where nothing could be taken, AlreadyExists for any other segment of a name, and PolicyConflict
    where a published feed would break a policy by the dataset's labels.
    """
    detail: Document = {}
    refuse_personal_name(dataset, "dataset")
    scope.require("profile.take-over", dataset)
    with scope.refusals("profile.take-over", dataset):
        check_dataset(dataset)
        called = Names.read(names)
        export = opened(called)
        detail["product"] = export.source.kind
        suppressions = Suppressions.read(scope)
        arrived = Arrivals(export, check_region(region), suppressions)
        if called.names and arrived.segments and called.names.keys().isdisjoint(arrived.segments):
            raise InvalidInput(
                f"none of the segments of {export.source.name} is among the names that were given",
                hint="give the names by the ids that the export has, or no names",
            )
    place = Place(kind=PlaceKind.DATASET, target=dataset)
    with Governance(scope).act("profile.take-over", dataset, place, detail=detail) as tx:
        suppressions.check_current(scope, tx)
        visibility = Visibility(scope, tx)
        draft = Draft(scope, tx)
        brought = draft.content.lists.get(dataset, ())  # by earlier exports of the dataset
        given = called.of(arrived.segments)
        Lists(scope).check_open(tx, given.values(), brought, into)
        known_lines.forget(draft, dataset)
        numbers = draft.add_profiles(GivenIds(arrived.ids))
        note(draft, dataset, numbers)
        touched = np.zeros(draft.content.count, bool)
        touched[numbers] = True
        for rule_id, rows in arrived.identities(draft.source(dataset), numbers).items():
            draft.replace_identities(rule_id, dataset, touched, rows)
        visibility.check_import(dataset, arrived.fields(fields_of(scope, tx, dataset)))
        noted = arrived.note_consent(draft, numbers, visibility.as_seen(draft.base))
        if export.attributes:
            attributes_of.lay_over(draft, dataset, numbers, list(arrived.attributes), [arrived.attributes])
        _record_fields(scope, tx, dataset, arrived)
        segments = _lay_over_lists(draft, dataset, arrived, numbers, given)
        draft.publish()
        report = _report(
            arrived,
            **visibility.added(draft.base, numbers),
            consents_changed=noted.changed,
            withdrawals_kept=noted.withdrawals_kept,
            segments=segments,
            repeated=repeated(numbers, [arrived.lines]),
            outdated=column_types.outdated(scope, tx, draft.snapshot.attributes, dataset),
        )
        detail |= {"records": report.records, "accepted": report.accepted, "segments": len(segments)}
    announce(scope)
    return report


def _record_fields(scope: Scope, tx: Tx, dataset: str, arrived: Arrivals) -> None:
    """Keep the dataset's fields; identities of another rule than a namespace's field has get its labels too."""
    known = fields_of(scope, tx, dataset)
    wanted = arrived.fields(known)
    record_fields(scope, tx, dataset, wanted)
    for name in wanted.keys() - known.keys():
        namespace, slash, _ = name.partition("/")
        if slash:
            place, new = (Place(kind=PlaceKind.FIELD, target=f"{dataset}.{each}") for each in (namespace, name))
            Labels(scope).pass_on(tx, place, new)


def _lay_over_lists(
    draft: Draft, dataset: str, arrived: Arrivals, numbers: ProfileNumbers, given: Mapping[str, str]
) -> list[TakenSegment]:
    """Write the members of an export's lists, whose names are `given` by the product's id.

    If the export has all memberships of its people, they leave the lists of earlier exports that it does not name.
    """
    lists, found, field_of = Lists(draft.scope), [], f"{dataset}.segments"
    silent = arrived.silent(numbers, draft.content.count)
    for key, name in sorted(given.items()):
        inside, outside = arrived.members(key, numbers)
        outside = (outside | silent) - inside
        size, created = lists.lay_over(draft.tx, draft, name, inside, outside, source=field_of)
        found.append(TakenSegment(id=key, name=name, size=size, created=created))
    earlier = lists.names(draft.tx) & set(draft.content.lists.get(dataset, ()))
    draft.set_lists(dataset, sorted(earlier | set(given.values())))
    if arrived.export.extent is Extent.PEOPLE:
        for name in sorted(earlier - set(given.values())):
            lists.lay_over(draft.tx, draft, name, BitMap(), silent, source=field_of)
    return found


def _report(arrived: Arrivals, **counts: Any) -> ExportReport:
    source, dropped = arrived.export.source, arrived.export.dropped
    rejected = {reason: tally(lines) for reason, lines in source.rejected.items() if lines}
    return ExportReport(
        file=source.name,
        kind=source.kind,
        extent=arrived.export.extent,
        records=len(arrived) + sum(each["count"] for each in rejected.values()),
        accepted=len(arrived),
        rejected=rejected,
        dropped={reason: tally(lines) for reason, lines in sorted(dropped.items()) if lines},
        identities=arrived.accepted,
        doubts=doubts(arrived.kept),
        **counts,
    )
