"""A file of people into a project: identities hashed on the way, consent, attributes, and a report of what was taken.

Raw e-mail addresses and phone numbers never get past this file: an identity column is hashed, any other column that
has them is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from psi.errors import Remedy
from psi.values import U8, Bools, Values

from ..access.scope import Scope
from ..errors import InvalidInput
from ..governance.governance import Governance
from ..governance.lineage import Place, PlaceKind
from ..governance.visibility import Visibility
from ..inputs.normalise import Normalised, check_region, encode
from ..inputs.queries import Query
from ..inputs.raw_values import MAX_KEPT, KeptColumn, refuse_personal_name, too_long
from ..inputs.sources import Batch, ReadProgress, Source
from ..inputs.text_columns import Lines
from ..people import attributes as attributes_of
from ..people.consent import UNDATED, AsSeen, Noted, Words
from ..people.datasets import Field, FieldKind, check_dataset, folded, record_fields
from ..people.drafts import MAX_ID, Draft
from ..people.identity_rows import IdentityRows
from ..people.named import note
from ..people.snapshots import NUMBER
from ..people.suppressions import ID, REASON, RETURN, Suppressions
from ..segments import column_types
from ..storage.records import Document
from .consent_files import ConsentColumns, Said
from .identity_columns import IdentityColumn, ImportReport, Reading, repeated
from .tcf import NEEDED, Needed


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleFile:
    """What is imported: a file or a query, the dataset that it becomes, and what its columns contain."""

    path: Path | str | Query
    dataset: str
    id_column: str
    identities: Sequence[IdentityColumn]
    consent_column: str | None = None
    tcf_column: str | None = None
    needed: Needed = NEEDED
    attributes: Sequence[str] = ()
    region: str | None = None  # of national phone numbers

    @property
    def says(self) -> ConsentColumns | None:
        """The columns with what people said; raises InvalidInput where they do not go together."""
        if self.consent_column is None and self.tcf_column is None:
            return None
        return ConsentColumns(consent=self.consent_column, tcf=self.tcf_column, needed=self.needed).checked()


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
        people = _People(file, Suppressions.read(scope))
        people.read(scope.home.now(), progress)
    place = Place(kind=PlaceKind.DATASET, target=file.dataset)
    with Governance(scope).act("profile.import", file.dataset, place, detail=detail) as tx:
        people.suppressions.check_current(scope, tx)
        visibility = Visibility(scope, tx)
        visibility.check_import(file.dataset, people.fields())
        draft = Draft(scope, tx)
        numbers = draft.add_profiles(people.ids)
        note(draft, file.dataset, numbers)
        touched = np.zeros(draft.content.count, bool)
        touched[numbers] = True
        duplicates = people.merge_identities(draft, file.dataset, numbers, touched)
        noted = people.note_consent(draft, numbers, visibility.as_seen(draft.base))
        if people.attributes:
            attributes_of.lay_over(draft, file.dataset, numbers, people.texts)
        record_fields(scope, tx, file.dataset, people.fields())
        draft.publish()
        report = people.reading.report(
            duplicates,
            people.kept,
            repeated=repeated(numbers, people.lines),
            outdated=column_types.outdated(scope, tx, draft.snapshot.attributes, file.dataset),
            **visibility.added(draft.base, numbers),
            consents_changed=noted.changed,
            withdrawals_kept=noted.withdrawals_kept,
        )
        detail |= {"rows": report.rows, "accepted": report.accepted, "added": report.profiles_added}
    return report


class _People:
    """A file's rows as columns: ids, identities, consent codes, attributes."""

    def __init__(self, file: PeopleFile, suppressions: Suppressions) -> None:
        self.suppressions = suppressions
        self.id_column = file.id_column
        self.says = file.says
        self.attributes = list(dict.fromkeys(file.attributes))
        region = check_region(file.region)
        personal = [each.column for each in file.identities if each.column in self.attributes and each.rule.hashed]
        if personal:
            raise InvalidInput(
                f"column {personal[0]!r} has personal identities: it cannot be kept as an attribute",
                hint="leave it out of the attributes",
            )
        names = list(map(folded, self.attributes))
        for name in self.attributes:
            if names.count(folded(name)) > 1 or name == NUMBER:
                raise InvalidInput(f"attribute {name!r} has a name like another", hint="rename that column")
        wanted = [self.id_column, *(each.column for each in file.identities), *self.attributes]
        source = Source.open(file.path, [*wanted, *(self.says.names if self.says else [])])
        self.reading = Reading(source, file.identities, region)
        self.parts: list[list[tuple[Values, npt.NDArray[np.int64]]]] = [[] for _ in file.identities]
        self.texts: dict[str, list[str]] = {name: [] for name in self.attributes}
        hashed = {each.column for each in file.identities if each.rule.hashed}
        self.kept = [
            KeptColumn(name, region) for name in dict.fromkeys([self.id_column, *self.attributes]) if name not in hashed
        ]
        self.ids: npt.NDArray[np.bytes_] = np.zeros(0, "S1")
        self.lines: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.codes: U8 = np.zeros(0, np.uint8)
        self.at: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def basis(self) -> str | None:
        """The basis of TCF strings; None where words have no time of their own."""
        return self.says.needed.basis if self.says and self.says.tcf else None

    def read(self, now: int, progress: ReadProgress | None) -> None:
        """Read all rows; raises InvalidInput where none can be taken, or raw personal data would stay raw."""
        ids: list[npt.NDArray[np.bytes_]] = []
        codes: list[U8] = []
        at: list[npt.NDArray[np.int64]] = []
        lines: list[npt.NDArray[np.int64]] = []
        row = 0
        hashed = (each for each in self.reading.columns if each.rule.hashed)
        hashed_id = next((each for each in hashed if each.spec.column == self.id_column), None)
        for batch in self.reading.source.batches(progress):
            self.reading.take(batch)
            found = _ids(batch.columns[self.id_column], hashed_id.normalised if hashed_id else None)
            said = self.says.read(batch, now) if self.says else None
            good = self._good(batch, found, said)
            ids.append(found[good])
            lines.append(batch.lines[good])
            if said:
                codes.append(said.codes[good])
                at.append(said.at[good])
            place = np.cumsum(good) - 1 + row
            row += int(good.sum())
            for column, parts in zip(self.reading.columns, self.parts, strict=True):
                where = np.flatnonzero(column.normalised.keep & good)
                parts.append((column.normalised.values.take(where), place[where]))
            self._keep_texts(batch, good)
        self.reading.check()
        if not row:
            reasons = [reason for reason, lines in self.reading.source.rejected.items() if lines]
            refused = f"no row of {self.reading.source.name} could be taken: {', '.join(reasons)}"
            if reasons == [REASON]:
                raise InvalidInput(refused, hint=RETURN, remedy=Remedy("profile.readmit"))
            raise InvalidInput(
                refused,
                hint="check which columns have the ids and the consent; consent is y, n, p, u, dy, dn or a legal basis",
            )
        for each in self.kept:
            each.end()
        self.ids = np.concatenate(ids)
        ids.clear()
        self.lines = np.concatenate(lines)
        if self.says:
            self.codes, self.at = np.concatenate(codes), np.concatenate(at)

    def _good(self, batch: Batch, ids: npt.NDArray[np.bytes_], said: Said | None) -> Bools:
        """Return which rows of a batch can be taken; counts the others."""
        lengths = np.char.str_len(ids)
        good = np.ones(len(ids), bool)
        for reason, bad in (
            ("no profile id", lengths == 0),
            (f"a profile id over {MAX_ID} bytes", lengths > MAX_ID),
            (REASON, self._erased(ids)),
            *((f"{name} of over {MAX_KEPT} characters", too_long(batch.columns[name])) for name in self.attributes),
            *(said.bad if said else ()),
        ):
            if (bad & good).any():
                self.reading.source.rejected[reason] += batch.lines[bad & good].tolist()
            good &= ~bad
        self.reading.leave_out(int((~good).sum()))
        return good

    def _erased(self, ids: npt.NDArray[np.bytes_]) -> Bools:
        """Return which rows of a batch are of people who were erased: their id says so, or one of their identities."""
        found = self.suppressions.has(ID, ids)
        for column in self.reading.columns:
            found |= self.suppressions.has(column.rule.id, column.normalised.values) & column.normalised.keep
        return found

    def _keep_texts(self, batch: Batch, good: Bools) -> None:
        """Keep the attributes of the rows that are taken; raises InvalidInput for personal data in any row."""
        kept = np.flatnonzero(good).tolist()
        for column in self.kept:
            column.look(batch.columns[column.name], batch.lines)
        for name, texts in self.texts.items():
            found = batch.columns[name]
            texts += found if len(kept) == len(good) else [found[row] for row in kept]

    def merge_identities(
        self, draft: Draft, dataset: str, numbers: npt.NDArray[np.int64], touched: npt.NDArray[np.bool_]
    ) -> dict[str, int]:
        """Put every namespace's identities into the draft; returns the repetitions within each column."""
        source, duplicates = draft.source(dataset), {}
        given: dict[str, IdentityRows] = {}
        for place, (column, parts) in enumerate(zip(self.reading.columns, self.parts, strict=True)):
            profiles = np.concatenate([numbers[where].astype(np.uint32) for _, where in parts])
            batches = [each for each, _ in parts]
            parts.clear()
            values = Values.gather(batches)
            first = 0 if column.spec.primary else (place + 1) << 8
            rows_of_column = IdentityRows(
                values=values,
                profiles=profiles,
                sources=np.full(len(profiles), source, np.uint16),
                ranks=first + np.minimum(_occurrence(profiles, draft.content.count), 255).astype(np.uint16),
            )
            unique = rows_of_column.sort()
            duplicates[column.spec.column] = len(profiles) - len(unique)
            before = given.get(column.rule.id)
            given[column.rule.id] = unique if before is None else before.join(unique).sorted()
        for namespace, found in given.items():
            draft.replace_identities(namespace, dataset, touched, found)
        return duplicates

    def note_consent(self, draft: Draft, numbers: npt.NDArray[np.int64], seen: AsSeen | None) -> Noted:
        """Put what people said into the draft."""
        spoke = np.flatnonzero(self.codes)
        basis = UNDATED if self.basis is None else int(draft.bases([self.basis])[0])
        if not len(spoke):
            return Noted(changed=0, withdrawals_kept=0)
        bases = np.full(len(spoke), basis, np.uint16)
        words = Words(codes=self.codes[spoke], at=self.at[spoke], bases=bases)
        return draft.note_consent(numbers[spoke], words, seen=seen)

    def fields(self) -> dict[str, Field]:
        """Return the columns by name, with what each has."""
        wanted = dict.fromkeys(self.attributes, Field(FieldKind.ATTRIBUTE))
        if self.says is not None:
            wanted[self.says.said] = Field(FieldKind.CONSENT)
        wanted |= {each.spec.column: Field(FieldKind.IDENTITY, each.rule.id) for each in self.reading.columns}
        identity = wanted.get(self.id_column)
        return wanted | {self.id_column: Field(FieldKind.ID, identity.rule if identity else None)}


def _ids(texts: list[str], identity: Normalised | None) -> npt.NDArray[np.bytes_]:
    """Return the profile id of each row, empty where there is none; one that is too long is cut, to a byte too many."""
    if identity is not None:
        digits = np.frombuffer(identity.values.rows.tobytes().hex().encode(), "S64")
        return np.where(identity.keep, digits, b"")
    stripped = list(map(str.strip, texts))
    lines = Lines.join(stripped)
    if b"\0" not in lines.data:
        return lines.rows(MAX_ID + 1)
    ids = [each.rstrip(b"\0") for each in encode(stripped)]  # zeros at the end fill up; within may be line breaks
    return np.array([each if len(each) <= MAX_ID else b"x" * (MAX_ID + 1) for each in ids], np.bytes_)


def _occurrence(profiles: npt.NDArray[np.uint32], count: int) -> npt.NDArray[np.integer]:
    """Return how many rows of the same profile, of `count` there are, came before each row."""
    having = np.zeros(count, bool)
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
