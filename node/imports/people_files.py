"""A file of people into a project: identities hashed on the way, consent, attributes, and a report of what was taken.

Raw e-mail addresses and phone numbers never get past this file: an identity column is hashed, any other column that
has them is refused. Of a file's lines a keyed digest is kept, so that one which comes again is read only in part.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

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
from ..people.identity_rows import IdentityRows, ProfileNumbers
from ..people.known_lines import KnownLines
from ..people.named import note
from ..people.suppressions import Suppressions
from ..segments import column_types
from ..storage.records import Document
from .identity_buckets import WORTH_IT, ColumnRows, IdentityBuckets, Occurrences
from .identity_columns import ImportReport, repeated
from .kept_rows import Numbers, having
from .people_rows import AGAIN, Before, PeopleFile, PeopleRows


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
        if rows.known is not None and rows.known != draft.content.known_lines.get(file.dataset):
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
            rows.as_they_are,
            repeated=repeated(said, [*rows.kept.parts("lines"), rows.again.lines]),
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


def _lay_over(draft: Draft, rows: PeopleRows) -> ProfileNumbers:
    """Put all but consent of the rows that were read into the draft; returns the number of the profile of each."""
    dataset = rows.file.dataset
    if not len(rows.kept):
        rows.repeated = {each.spec.column: rows.repeated_before(at) for at, each in enumerate(rows.reading.columns)}
        return np.zeros(0, np.uint32)
    numbers = draft.add_profiles(rows.ids)
    note(draft, dataset, numbers)
    touched = np.zeros(draft.content.count, bool)
    touched[numbers] = True
    again = _merge_identities(draft, rows, numbers, touched)
    if rows.attributes:
        attributes_of.lay_over(draft, dataset, numbers, rows.attributes, rows.kept.texts())
    if rows.stamp and not rows.source.joins_lines:
        lines = _lines_to_know(rows, numbers, again)
        known_lines.replace(draft, dataset, rows.stamp, touched, lines, len(rows.kept))
    else:
        known_lines.forget(draft, dataset)
    return numbers


def _lines_to_know(rows: PeopleRows, numbers: ProfileNumbers, again: Sequence[BitMap]) -> Iterator[KnownLines]:
    """Yield the lines that were read and can be known again. `again` are by column the rows whose profile has the same
    identity before."""
    doubts, doubtful = rows.doubtful(), np.zeros(0, bool)
    if len(doubts):
        doubtful = np.zeros(int(numbers.max()) + 1, bool)
        for part, lines in _with_lines(rows, numbers):
            doubtful[part[np.isin(lines, doubts)]] = True
    kept, start = rows.kept, 0
    columns = (kept.parts(name) for name in ("digests", "lines", "outcomes", "at"))
    for digests, lines, given, at in zip(*columns, strict=True):
        profiles, outcomes = numbers[start : start + len(lines)], given.copy()
        for column, repeating in enumerate(again):
            here = BitMap(repeating & BitMap(range(start, start + len(lines)))).to_array()
            outcomes[np.array(here, np.int64) - start, column] |= np.uint8(1 << AGAIN)
        found = KnownLines(
            digests=digests,
            profiles=profiles,
            lines=lines.astype(np.uint32),
            outcomes=outcomes,
            at=at if rows.basis is not None else None,
        )
        yield found.take(~doubtful[profiles]) if len(doubts) else found
        start += len(lines)


def _with_lines(rows: PeopleRows, numbers: ProfileNumbers) -> Iterator[tuple[ProfileNumbers, Numbers]]:
    """Yield the profiles of the rows that were read with their lines, some at a time."""
    start = 0
    for lines in rows.kept.parts("lines"):
        yield numbers[start : start + len(lines)], lines
        start += len(lines)


def _merge_identities(
    draft: Draft, rows: PeopleRows, numbers: ProfileNumbers, touched: npt.NDArray[np.bool_]
) -> list[BitMap]:
    """Put every namespace's identities into the draft; returns for each column the rows that repeat one of their profile."""
    dataset, source = rows.file.dataset, draft.source(rows.file.dataset)
    again = [BitMap() for _ in rows.reading.columns]
    namespaces = [each.rule for each in rows.reading.columns]
    for rule in dict.fromkeys(namespaces):  # one after the other: they are large
        places = [place for place, each in enumerate(namespaces) if each == rule]
        columns = [_of_column(rows, place, numbers) for place in places]
        if rule.width and sum(map(rows.kept.count, places)) > WORTH_IT:
            buckets = IdentityBuckets(columns, source, draft.base.directory)
            draft.merge_identities(rule.id, dataset, touched, buckets)
            left_out = buckets.repeated
            del buckets
        else:
            given, left_out = _sorted(columns, source)
            draft.replace_identities(rule.id, dataset, touched, given)
            del given
        for place, repeating in zip(places, left_out, strict=True):
            again[place] = repeating
            rows.repeated[rows.reading.columns[place].spec.column] = len(repeating) + rows.repeated_before(place)
    return again


def _of_column(rows: PeopleRows, column: int, numbers: ProfileNumbers) -> Iterator[ColumnRows]:
    """Yield the identities of a column, a batch after the other."""
    first = 0 if rows.reading.columns[column].spec.primary else (column + 1) << 8
    before, start = Occurrences(int(numbers.max(initial=0)) + 1), 0
    for outcomes, values in zip(rows.kept.parts("outcomes"), rows.kept.values(column), strict=True):
        places = (start + np.flatnonzero(having(outcomes, column))).astype(np.uint32)
        profiles = numbers[places]
        ranks = first + before.take(profiles).astype(np.uint16)
        yield ColumnRows(values=values, profiles=profiles, ranks=ranks, places=places)
        start += len(outcomes)


def _sorted(columns: Sequence[Iterable[ColumnRows]], source: int) -> tuple[IdentityRows, list[BitMap]]:
    """Return the identities of columns of one namespace, sorted, and for each column the rows that repeat one of their
    profile."""
    given, again = IdentityRows.none(), []
    for column in columns:
        joined = ColumnRows.join(list(column))
        unique, left_out = joined.rows(source).sort()
        again.append(BitMap(joined.places[left_out]))
        given = given.join(unique).sorted() if len(given) else unique
    return given, again


def _note_consent(draft: Draft, rows: PeopleRows, numbers: ProfileNumbers, seen: AsSeen | None) -> Noted:
    """Put what people said into the draft, those of lines that were not read too: who says no again says it now."""
    if rows.says is None:
        return Noted(changed=0, withdrawals_kept=0)
    codes = np.concatenate([*(each[:, -1].copy() for each in rows.kept.parts("outcomes")), rows.again.outcomes[:, -1]])
    at = np.concatenate([*rows.kept.parts("at"), rows.again.at])
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
