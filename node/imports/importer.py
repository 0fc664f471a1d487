"""A file of people into a project: identities hashed on the way, consent, attributes, and a report of what was taken.

Raw e-mail addresses and phone numbers never get past this file: an identity column is hashed, any other column that
holds them is refused. The report counts and gives line numbers, never values.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from psi.values import U8, Indices, Values

from ..consent.consent import UNDATED, Noted, Words
from ..errors import InvalidInput, Refused, check_name
from ..governance.labels import Kind, Origin
from ..inputs.normalise import Form, Normalised, Reason, Rule, check_region, encode, normalise, rule
from ..inputs.queries import Query
from ..inputs.raw_values import SAMPLE, refuse_personal, refuse_phones
from ..inputs.sources import Batch, Progress, Source
from ..inputs.text_columns import Lines
from ..people import attributes as attributes_of
from ..people.data import MAX_ID, NUMBER, Draft, Held
from ..storage import tables
from .consent_files import ConsentColumns
from .tcf import NEEDED, Needed

if TYPE_CHECKING:
    from ..project import Project

LINES_SHOWN = 100  # line numbers per reason in a report
RESERVED = ("own", "received", "consent")  # in a rule these words stand for segments and for what people said

LASTING = ("id", "identity")  # what a column holds for good

Fields = dict[str, tuple[str, str | None]]  # a dataset's, by name: id, identity, consent or attribute, and the rule


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityColumn:
    """A column that holds identities. Without a `form` the whole column is looked at: all hashes, or none."""

    column: str
    rule: Rule
    form: Form | None = None
    primary: bool = False

    @classmethod
    def parse(cls, text: str) -> "IdentityColumn":
        """Read "COLUMN=NAMESPACE[/RULE][:raw|:hashed][:primary]"."""
        column, equals, rest = text.rpartition("=")
        name, *words = rest.split(":")
        if not (equals and column and name) or not set(words) <= {"raw", "hashed", "primary"} or len(words) > 2:
            raise InvalidInput(
                f"{text[:80]!r} does not say what a column holds",
                hint="write COLUMN=NAMESPACE, such as email=email_sha256 or mobile=phone_sha256:raw:primary",
            )
        if {"raw", "hashed"} <= set(words):
            raise InvalidInput(f"{text[:80]!r} is both raw and hashed", hint="give one of the two, or neither")
        found = rule(name)
        form: Form | None = "raw" if "raw" in words else "hashed" if "hashed" in words else None
        if form == "hashed" and not found.hashed:
            raise InvalidInput(f"{found.id} is not hashed", hint=f"write {column}={name}")
        return cls(column=column, rule=found, form=form, primary="primary" in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnReport:
    """What one identity column gave. `forms` counts raw, hex, 0x hex, Base64 and URL-safe Base64 among the accepted."""

    column: str
    rule: str
    accepted: int
    duplicates: int
    forms: dict[str, int]
    dropped: dict[str, dict[str, Any]]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import read and took; per reason {"count", "lines"}, physical lines (rows in Parquet), never values."""

    file: str
    kind: str
    encoding: str
    delimiter: str
    rows: int
    accepted: int
    rejected: dict[str, dict[str, Any]]
    columns: list[ColumnReport]
    profiles_added: int = 0
    profiles_updated: int = 0
    consents_changed: int = 0
    withdrawals_kept: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def tally(lines: Sequence[int]) -> dict[str, Any]:
    """Return how many lines there are, and the first of them."""
    return {"count": len(lines), "lines": sorted(lines)[:LINES_SHOWN]}


def read_identities(
    path: Path | str,
    columns: Sequence[IdentityColumn],
    region: str | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, tuple[Values, npt.NDArray[np.int64]]], ImportReport, list[str]]:
    """Read a file's identities without a node: by namespace with rule id the values, in order of rows and with
    repetitions, and the row of each; the report; and the records as they stand, `records[0]` being the header ("" where
    there is none) and `records[row]` the rows. Raises InvalidInput.
    """
    reading = _Reading(Source.open(path, [each.column for each in columns]), columns, check_region(region))
    records = [reading.source.header_record]
    found: dict[str, list[tuple[Values, npt.NDArray[np.int64]]]] = {each.rule.id: [] for each in columns}
    for batch in reading.source.batches(progress):
        base = len(records)
        records += batch.records
        for column in reading.take(batch):
            where = np.flatnonzero(column.normalised.keep)
            found[column.rule.id].append((column.normalised.values.take(where), where + base))
    reading.check()
    identities = {
        name: (Values.join(values for values, _ in parts), np.concatenate([rows for _, rows in parts] or [_NO_ROWS]))
        for name, parts in found.items()
    }
    return identities, reading.report({}), records


def import_file(
    project: "Project",
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
    progress: Progress | None = None,
) -> ImportReport:
    """Bring a file's or a query's people into the project as one dataset, by profile id.

    What its rows say about a profile takes the place of what the same dataset said before. Words without a time count as
    said now, but lift no withdrawal that was given otherwise than by such words. The file is read before the transaction,
    which only merges. An id column of e-mail addresses or phone numbers that is an identity column too gives ids that are
    the hash in hex. A broken row costs only itself. Raises InvalidInput, and PolicyConflict where a published feed would
    break a policy because a field with a label is now one of its namespaces.
    """
    detail: dict[str, Any] = {}
    project.require("profile.import", dataset)
    with project.refusals("profile.import", dataset):
        check_dataset(dataset)
        says = None
        if consent_column is not None or tcf_column is not None:
            says = ConsentColumns(consent=consent_column, tcf=tcf_column, needed=needed)
        people = _People(path, id_column, identities, says, attributes, check_region(region))
        people.read(project.node.now(), progress)
    place = Origin(kind=Kind.DATASET, target=dataset)
    with project.governance.act("profile.import", dataset, place, detail=detail) as tx:
        draft = Draft(project, tx)
        before = draft.base.profile_count
        numbers = draft.add_profiles(people.ids)
        count = int(draft.content["count"])
        touched = np.zeros(count, bool)
        touched[numbers] = True
        duplicates = people.merge_identities(draft, dataset, numbers, touched)
        spoke = np.flatnonzero(people.codes)
        basis = UNDATED if people.basis is None else int(draft.bases([people.basis])[0])
        bases = np.full(len(spoke), basis, np.uint16)
        words = Words(codes=people.codes[spoke], at=people.at[spoke], bases=bases)
        noted = draft.note_consent(numbers[spoke], words) if len(spoke) else Noted(changed=0, withdrawals_kept=0)
        if attributes:
            attributes_of.lay_over(draft, dataset, numbers, people.texts)
        record_fields(draft, dataset, people.fields())
        draft.publish()
        report = people.reading.report(
            duplicates,
            profiles_added=count - before,
            profiles_updated=int(touched[:before].sum()),
            consents_changed=noted.changed,
            withdrawals_kept=noted.withdrawals_kept,
        )
        detail |= {"rows": report.rows, "accepted": report.accepted, "added": report.profiles_added}
    return report


# Reading

_NO_ROWS = np.zeros(0, np.int64)


@dataclass(slots=True)
class _Column:
    """What has been seen of one identity column so far; `normalised` is the last batch's."""

    spec: IdentityColumn
    normalised: Normalised = field(init=False)
    forms: Counter[str] = field(default_factory=Counter)
    dropped: dict[Reason, list[int]] = field(default_factory=dict)
    counts: Counter[Reason] = field(default_factory=Counter)
    accepted: int = 0
    raw: int = 0
    hashed: int = 0

    @property
    def rule(self) -> Rule:
        return self.spec.rule


class _Reading:
    """One pass over a file's identity columns."""

    def __init__(self, source: Source, columns: Sequence[IdentityColumn], region: str | None) -> None:
        names = [each.column for each in columns]
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(f"column {name!r} is given twice", hint="name each identity column once")
        if sum(each.primary for each in columns) > 1:
            raise InvalidInput("two columns are marked primary", hint="a profile has one primary identity")
        self.source = source
        self.region = region
        self.columns = [_Column(each) for each in columns]
        self.rows = 0
        self.left_out = 0  # of them, the rows that were rejected afterwards, which the source counts too

    def leave_out(self, rows: int) -> None:
        """Note that rows which were read are rejected after all."""
        self.left_out += rows

    def take(self, batch: Batch) -> list[_Column]:
        """Normalise a batch's identities; each column's `normalised` has a row per row of the batch."""
        self.rows += len(batch.lines)
        for column in self.columns:
            spec = column.spec
            texts = batch.columns[spec.column]
            found = column.normalised = normalise(spec.rule, texts, form=spec.form, region=self.region)
            column.forms += found.forms
            column.raw += found.raw
            column.hashed += found.hashed
            column.accepted += int(found.keep.sum())
            for number, count in enumerate(np.bincount(found.reasons).tolist()):
                if number == Reason.KEPT or not count:
                    continue
                lines = batch.lines[found.reasons == number]
                column.counts[Reason(number)] += count
                shown = column.dropped.setdefault(Reason(number), [])
                shown += lines[: LINES_SHOWN - len(shown)].tolist()
            if not spec.rule.hashed and spec.rule.name == "opaque-v1":
                refuse_personal(texts, spec.column, batch.lines)
        return self.columns

    def check(self) -> None:
        """Refuse what only the whole file shows: nothing taken, or hashes and raw values mixed."""
        for column in self.columns:
            if column.spec.form is None and column.raw and column.hashed:
                name = f"{column.spec.column}={column.rule.id}"
                raise InvalidInput(
                    f"column {column.spec.column!r} holds {column.hashed} hashes and {column.raw} raw values",
                    hint=f"say which to keep: {name}:raw or {name}:hashed; rows of the other kind are then dropped",
                )
        if not self.rows:
            reasons = "; ".join(
                f"{len(lines)} with {reason}" for reason, lines in self.source.rejected.items() if lines
            )
            raise InvalidInput(
                f"no row of {self.source.name} could be read: {reasons or 'it has only a header'}",
                hint="check the delimiter and the quotes; the cells of a row must be as many as the header's",
            )
        if self.columns and not any(column.accepted for column in self.columns):
            why = {reason.text for column in self.columns for reason in column.counts}
            hint = "check which column holds what, and the namespace that is given for it"
            if any(Reason.NO_REGION in column.counts for column in self.columns):
                hint = "give the country of national phone numbers, such as --region GB"
            raise InvalidInput(f"no identity of {self.source.name} could be taken: {', '.join(sorted(why))}", hint=hint)

    def report(self, duplicates: dict[str, int], **counts: int) -> ImportReport:
        broken = sum(map(len, self.source.rejected.values()))
        return ImportReport(
            file=self.source.name,
            kind=self.source.kind,
            encoding=self.source.encoding,
            delimiter=self.source.delimiter,
            rows=self.rows + broken - self.left_out,
            accepted=self.rows - self.left_out,
            rejected={reason: tally(lines) for reason, lines in self.source.rejected.items() if lines},
            columns=[
                ColumnReport(
                    column=column.spec.column,
                    rule=column.rule.id,
                    accepted=column.accepted,
                    duplicates=duplicates.get(column.spec.column, 0),
                    forms=dict(column.forms),
                    dropped={
                        reason.text: {"count": count, "lines": column.dropped[reason]}
                        for reason, count in sorted(column.counts.items())
                    },
                    note=_HASHED_NOTE.format(column.rule.id) if column.hashed and column.spec.form != "raw" else "",
                )
                for column in self.columns
            ],
            **counts,
        )


_HASHED_NOTE = "hashed before: whether it followed {} cannot be checked"


class _People:
    """A file's rows as columns: ids, identities, consent codes, attributes."""

    def __init__(
        self,
        path: Path | str | Query,
        id_column: str,
        identities: Sequence[IdentityColumn],
        says: ConsentColumns | None,
        attributes: Sequence[str],
        region: str | None,
    ) -> None:
        self.id_column = id_column
        self.says = says
        self.attributes = list(dict.fromkeys(attributes))
        personal = [each.column for each in identities if each.column in self.attributes and each.rule.hashed]
        if personal:
            raise InvalidInput(
                f"column {personal[0]!r} holds personal identities: it cannot be kept as an attribute",
                hint="leave it out of the attributes",
            )
        lowered = [name.lower() for name in self.attributes]
        for name in self.attributes:
            if lowered.count(name.lower()) > 1 or name == NUMBER:
                raise InvalidInput(f"attribute {name!r} has a name like another", hint="rename that column")
        wanted = [id_column, *(each.column for each in identities), *self.attributes]
        source = Source.open(path, [*wanted, *(says.names if says else [])])
        self.reading = _Reading(source, identities, region)
        self.parts: list[list[tuple[Values, npt.NDArray[np.int64]]]] = [[] for _ in identities]
        self.texts: dict[str, list[str]] = {name: [] for name in self.attributes}
        self.ids: npt.NDArray[np.bytes_] = np.zeros(0, "S1")
        self.codes: U8 = np.zeros(0, np.uint8)
        self.at: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def basis(self) -> str | None:
        """The basis of TCF strings; None where words have no time of their own."""
        return self.says.needed.basis if self.says and self.says.tcf else None

    def read(self, now: int, progress: Progress | None) -> None:
        ids: list[npt.NDArray[np.bytes_]] = []
        codes: list[U8] = []
        at: list[npt.NDArray[np.int64]] = []
        samples: dict[str, dict[str, None]] = {name: {} for name in self.attributes}
        row = 0
        hashed = (each for each in self.reading.columns if each.rule.hashed)
        hashed_id = next((each for each in hashed if each.spec.column == self.id_column), None)
        if hashed_id is None:
            samples[self.id_column] = {}
        rejected = self.reading.source.rejected
        for batch in self.reading.source.batches(progress):
            self.reading.take(batch)
            found = _ids(batch.columns[self.id_column], hashed_id.normalised if hashed_id else None)
            said = self.says.read(batch, now) if self.says else None
            lengths = np.char.str_len(found)
            good = np.ones(len(found), bool)
            for reason, bad in (
                ("no profile id", lengths == 0),
                (f"a profile id over {MAX_ID} bytes", lengths > MAX_ID),
                *(said.bad if said else ()),
            ):
                if (bad & good).any():
                    rejected[reason] += batch.lines[bad & good].tolist()
                good &= ~bad
            self.reading.leave_out(int((~good).sum()))
            ids.append(found[good])
            codes.append(said.codes[good] if said else np.zeros(len(ids[-1]), np.uint8))
            at.append(said.at[good] if said else np.zeros(len(ids[-1]), np.int64))
            place = np.cumsum(good) - 1 + row
            row += int(good.sum())
            for column, parts in zip(self.reading.columns, self.parts, strict=True):
                where = np.flatnonzero(column.normalised.keep & good)
                parts.append((column.normalised.values.take(where), place[where]))
            kept = np.flatnonzero(good).tolist()
            for name, sample in samples.items():
                column_texts = batch.columns[name]
                refuse_personal(column_texts, name, batch.lines)
                if len(sample) < SAMPLE:
                    sample.update(dict.fromkeys(column_texts))
                if name in self.texts:
                    self.texts[name] += column_texts if len(kept) == len(good) else [column_texts[i] for i in kept]
        self.reading.check()
        if not row:
            why = ", ".join(reason for reason, lines in rejected.items() if lines)
            raise InvalidInput(
                f"no row of {self.reading.source.name} could be taken: {why}",
                hint="check the --id and --consent columns; consent is y, n, p, u, dy, dn or a legal basis",
            )
        for name, sample in samples.items():
            refuse_phones(list(sample)[:SAMPLE], name, self.reading.region)
        self.ids, self.codes, self.at = np.concatenate(ids), np.concatenate(codes), np.concatenate(at)

    def merge_identities(
        self, draft: Draft, dataset: str, numbers: npt.NDArray[np.int64], touched: npt.NDArray[np.bool_]
    ) -> dict[str, int]:
        """Put every namespace's identities into the draft; returns the repetitions within each column."""
        source, duplicates = draft.source(dataset), {}
        given: dict[str, Held] = {}
        for place, (column, parts) in enumerate(zip(self.reading.columns, self.parts, strict=True)):
            values, rows = Values.join(each for each, _ in parts), np.concatenate([where for _, where in parts])
            profiles = numbers[rows].astype(np.uint32)
            first = 0 if column.spec.primary else (place + 1) << 8
            held = Held(
                values=values,
                profiles=profiles,
                sources=np.full(len(rows), source, np.uint16),
                ranks=(first + np.minimum(_occurrence(profiles), 255)).astype(np.uint16),
            )
            unique = held.sorted()
            duplicates[column.spec.column] = len(rows) - len(unique.profiles)
            before = given.get(column.rule.id)
            given[column.rule.id] = unique if before is None else before.join(unique).sorted()
        for namespace, held in given.items():
            draft.replace_identities(namespace, dataset, touched, held)
        return duplicates

    def fields(self) -> Fields:
        """Return the columns by name, with what each holds and an identity's rule."""
        wanted: Fields = dict.fromkeys(self.attributes, ("attribute", None))
        if self.says is not None:
            wanted[self.says.said] = ("consent", None)
        wanted |= {column.spec.column: ("identity", column.rule.id) for column in self.reading.columns}
        return wanted | {self.id_column: ("id", wanted.get(self.id_column, ("", None))[1])}


def record_fields(draft: Draft, dataset: str, wanted: Fields) -> None:
    """Keep a row per dataset and per field: what labels sit on, and what rules may name.

    Raises Refused where a column that held ids or identities is now to hold something else: they stay, and the labels on
    the column are theirs.
    """
    new_id, tx = draft.project.node.new_id, draft.tx
    datasets, fields = tables.datasets, tables.fields
    mine = (datasets.c.project_id == draft.project.id) & (datasets.c.name == dataset)
    dataset_id = tx.scalar(datasets.select().with_only_columns(datasets.c.id).where(mine))
    if dataset_id is None:
        dataset_id = new_id()
        created = draft.project.node.now()
        tx.execute(datasets.insert().values(id=dataset_id, project_id=draft.project.id, name=dataset, created=created))
    known = {row.name: row for row in tx.execute(fields.select().where(fields.c.dataset_id == dataset_id))}
    for name, (kind, rule_id) in wanted.items():
        if name in known:
            before = known[name]
            lost = kind not in LASTING or (rule_id is not None and before.rule not in (None, rule_id))
            if before.kind in LASTING and lost:
                held = "profile ids" if before.kind == "id" else f"identities of {before.rule}"
                raise Refused(
                    f"column {name!r} of dataset {dataset} held {held} before, which are kept with its labels",
                    hint="import it as before, or into another dataset: --dataset NAME",
                )
            if before.kind in LASTING:
                kind, rule_id = "id" if "id" in (kind, before.kind) else kind, rule_id or before.rule
            this = (fields.c.dataset_id == dataset_id) & (fields.c.name == name)
            tx.execute(fields.update().where(this).values(kind=kind, rule=rule_id))
        else:
            tx.execute(fields.insert().values(id=new_id(), dataset_id=dataset_id, name=name, kind=kind, rule=rule_id))


def check_dataset(name: str) -> None:
    check_name(name, "dataset")
    if name.partition(".")[0] in RESERVED:  # of "consent.x" a rule could not tell which it names
        raise InvalidInput(f"a dataset cannot be called {name}", hint="choose another name")


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


def _occurrence(profiles: npt.NDArray[np.uint32]) -> Indices:
    """Return how many rows of the same profile came before each row."""
    order = np.argsort(profiles, kind="stable")
    first = np.ones(len(order), bool)
    first[1:] = profiles[order][1:] != profiles[order][:-1]
    starts = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    found = np.empty(len(order), np.intp)
    found[order] = np.arange(len(order)) - starts
    return found
