"""A file of people into a project: identities hashed on the way, consent, attributes, and a report of what was taken.

Raw e-mail addresses and phone numbers never get past this file: an identity column is hashed, any other column that
has them is refused. Of a file's lines a keyed digest is kept, so that one which comes again is read only in part.
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from psi.values import Indices

from ..access.scope import Scope
from ..governance.governance import Governance
from ..governance.lineage import Place, PlaceKind
from ..governance.visibility import Visibility
from ..inputs.physical_lines import Unwieldy
from ..inputs.raw_values import refuse_personal_name
from ..inputs.sources import ReadProgress
from ..people import attributes as attributes_of
from ..people import consent, known_lines
from ..people.consent import UNDATED, AsSeen, Noted, Words
from ..people.datasets import Field, FieldKind, check_dataset, record_fields
from ..people.drafts import Draft
from ..people.identity_rows import IdentityRows
from ..people.named import note
from ..people.suppressions import Suppressions
from ..segments import column_types
from ..storage.records import Document
from .identity_buckets import WORTH_IT, ColumnRows, IdentityBuckets
from .identity_columns import ImportReport, repeated
from .people_rows import Before, PeopleFile, PeopleRows
from .recognition import Numbers


def import_file(scope: Scope, file: PeopleFile, progress: ReadProgress | None = None) -> ImportReport:
    """Bring a file's or a query's people into the project as one dataset, by profile id.

    What its rows say about a profile replaces what the same dataset said before. A consent without
    a time counts as given now, but never replaces a withdrawal that has one. The file is read before the transaction,
    which only merges. If the id column is an identity column of e-mail addresses or phone numbers too, the ids are the
    hashes in hex. A broken row costs only itself. Raises InvalidInput, and PolicyConflict where a published feed would
    break a policy because one of its namespaces now has identities of a labelled field.
    """
    detail: Document = {}
    refuse_personal_name(file.dataset, "dataset")  # before a row of the audit log has it
    scope.require("profile.import", file.dataset)
    with scope.refusals("profile.import", file.dataset):
        check_dataset(file.dataset)
        suppressions, before, now = Suppressions.read(scope), Before.read(scope), scope.home.now()
        rows = _read_changed(file, suppressions, before, now, progress) or _read(
            file, suppressions, before, now, progress
        )
    place = Place(kind=PlaceKind.DATASET, target=file.dataset)
    with Governance(scope).act("profile.import", file.dataset, place, detail=detail) as tx:
        suppressions.check_current(scope, tx)
        draft = Draft(scope, tx)
        if rows.known is not None and rows.known[0] != draft.content.known_lines.get(file.dataset):
            rows = _read(file, suppressions, before, now, progress)  # another import came in between
        visibility = Visibility(scope, tx)
        visibility.check_import(file.dataset, _fields(rows))
        numbers = _lay_over(draft, rows)
        said = np.concatenate([numbers, rows.again.profiles])
        noted = _note_consent(draft, rows, said, visibility.as_seen(draft.base))
        record_fields(scope, tx, file.dataset, _fields(rows))
        draft.publish()
        report = rows.reading.report(
            rows.repeated,
            rows.kept,
            repeated=repeated(said, np.concatenate([rows.lines, rows.again.lines])),
            outdated=column_types.outdated(scope, tx, draft.snapshot.attributes, file.dataset),
            **visibility.added(draft.base, said),
            consents_changed=noted.changed,
            withdrawals_kept=noted.withdrawals_kept,
        )
        detail |= {"rows": report.rows, "accepted": report.accepted, "added": report.profiles_added}
    return report


def _read(
    file: PeopleFile, suppressions: Suppressions, before: Before, now: int, progress: ReadProgress | None
) -> PeopleRows:
    rows = PeopleRows(file, suppressions, before)
    rows.read(now, progress)
    return rows


def _read_changed(
    file: PeopleFile, suppressions: Suppressions, before: Before, now: int, progress: ReadProgress | None
) -> PeopleRows | None:
    """Read what is not known of a file; None where it has to be read whole."""
    if file.dataset in before.snapshot.content.known_lines:
        rows = PeopleRows(file, suppressions, before)
        with suppress(Unwieldy):
            rows.read_changed(now, progress)
            return rows
    return None


def _lay_over(draft: Draft, rows: PeopleRows) -> Numbers:
    """Put all but consent of the rows that were read into the draft; returns the number of the profile of each."""
    dataset = rows.file.dataset
    if not len(rows.ids):
        rows.repeated = {each.spec.column: rows.repeated_before(at) for at, each in enumerate(rows.reading.columns)}
        return np.zeros(0, np.int64)
    numbers = draft.add_profiles(rows.ids)
    rows.ids = np.zeros(0, np.bytes_)
    note(draft, dataset, numbers)
    touched = np.zeros(draft.content.count, bool)
    touched[numbers] = True
    again = _merge_identities(draft, rows, numbers, touched)
    if rows.attributes:
        attributes_of.lay_over(draft, dataset, numbers, rows.texts)
    lines = rows.lines_to_know(numbers, again)
    if lines is None:
        known_lines.forget(draft, dataset)
    else:
        known_lines.replace(draft, dataset, rows.stamp, touched, lines)
    return numbers


def _merge_identities(
    draft: Draft, rows: PeopleRows, numbers: Numbers, touched: npt.NDArray[np.bool_]
) -> list[Indices]:
    """Put every namespace's identities into the draft; returns for each column the rows that repeat one of their profile."""
    dataset, source = rows.file.dataset, draft.source(rows.file.dataset)
    again = [np.zeros(0, np.intp) for _ in rows.reading.columns]
    namespaces = [each.rule.id for each in rows.reading.columns]
    for namespace in dict.fromkeys(namespaces):  # one after the other: they are large
        places = [place for place, each in enumerate(namespaces) if each == namespace]
        columns = [_of_column(rows, place, numbers) for place in places]
        values = [each.values for each in columns]
        if (
            all(each.alike for each in values)
            and sum(map(len, values)) > WORTH_IT
            and namespace not in draft.base.namespaces
        ):
            buckets = IdentityBuckets(columns, source, draft.base.directory)
            draft.write_identities(namespace, touched, buckets)
            left_out = [np.concatenate(each) for each in buckets.repeated]
            del buckets
        else:
            given, left_out = _sorted(columns, source)
            draft.replace_identities(namespace, dataset, touched, given)
            del given
        for place, repeating in zip(places, left_out, strict=True):
            again[place] = rows.having(place)[repeating]
            rows.repeated[rows.reading.columns[place].spec.column] = len(repeating) + rows.repeated_before(place)
    return again


def _of_column(rows: PeopleRows, place: int, numbers: Numbers) -> ColumnRows:
    profiles = numbers[rows.having(place)].astype(np.uint32)
    first = 0 if rows.reading.columns[place].spec.primary else (place + 1) << 8
    ranks = first + np.minimum(_occurrence(profiles), 255).astype(np.uint16)
    return ColumnRows(values=rows.values(place), profiles=profiles, ranks=ranks)


def _sorted(columns: Sequence[ColumnRows], source: int) -> tuple[IdentityRows, list[Indices]]:
    """Return the identities of columns of one namespace, sorted, and for each column those that repeat one of their profile."""
    given, again = IdentityRows.none(), []
    for column in columns:
        unique, left_out = column.rows(column.values.all(), source).sort()
        again.append(left_out)
        given = given.join(unique).sorted() if len(given) else unique
    return given, again


def _note_consent(draft: Draft, rows: PeopleRows, numbers: Numbers, seen: AsSeen | None) -> Noted:
    """Put what people said into the draft, those of lines that were not read too: who says no again says it now."""
    if rows.says is None:
        return Noted(changed=0, withdrawals_kept=0)
    codes = np.concatenate([rows.outcomes[:, -1], rows.again.outcomes[:, -1]])
    at = np.concatenate([rows.at, rows.again.at])
    spoke = np.flatnonzero(codes)
    basis = UNDATED if rows.basis is None or not len(spoke) else int(draft.bases([rows.basis])[0])
    numbers, words = (
        numbers[spoke],
        Words(codes=codes[spoke], at=at[spoke], bases=np.full(len(spoke), basis, np.uint16)),
    )
    if seen is None:
        news = np.flatnonzero(consent.may_change(draft.snapshot.said(), numbers, words))
        numbers, words = numbers[news], words.take(news)
    if not len(numbers):
        return Noted(changed=0, withdrawals_kept=0)
    return draft.note_consent(numbers, words, seen=seen)


def _fields(rows: PeopleRows) -> dict[str, Field]:
    """Return the columns by name, with what each has."""
    wanted = dict.fromkeys(rows.attributes, Field(FieldKind.ATTRIBUTE))
    if rows.says is not None:
        wanted[rows.says.said] = Field(FieldKind.CONSENT)
    wanted |= {each.spec.column: Field(FieldKind.IDENTITY, each.rule.id) for each in rows.reading.columns}
    identity = wanted.get(rows.file.id_column)
    return wanted | {rows.file.id_column: Field(FieldKind.ID, identity.rule if identity else None)}


def _occurrence(profiles: npt.NDArray[np.uint32]) -> npt.NDArray[np.integer]:
    """Return how many rows of the same profile came before each row."""
    having = np.zeros(int(profiles.max(initial=0)) + 1, bool)
    having[profiles] = True
    if np.count_nonzero(having) == len(profiles):
        return np.zeros(len(profiles), np.uint8)
    order = np.argsort(profiles, kind="stable")
    first = np.ones(len(order), bool)
    first[1:] = profiles[order][1:] != profiles[order][:-1]
    starts = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    found = np.empty(len(order), np.intp)
    found[order] = np.arange(len(order)) - starts
    return found
