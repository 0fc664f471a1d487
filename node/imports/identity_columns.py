"""The identity columns of a file: what each is said to contain, normalised as it is read, and a report of what was taken.

The report counts and gives line numbers, never values.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from psi.join import order_of
from psi.values import SLICE, U8, Indices, Values

from ..errors import InvalidInput
from ..inputs.normalise import Form, Normalised, Reason, Rule, check_region, normalise, rule_for_import
from ..inputs.raw_values import KeptColumn
from ..inputs.reasons import seen
from ..inputs.sources import Batch, ReadProgress, Source
from ..people.identity_rows import ProfileNumbers, begins
from ..storage.records import Document

LINES_SHOWN = 100  # line numbers per reason in a report
_HASHED_NOTE = "hashed before: whether it followed {} cannot be checked"


class Tally(TypedDict):
    """How many lines there are for one reason, and the first of them."""

    count: int
    lines: list[int]


def tally(lines: Sequence[int]) -> Tally:
    """Return how many lines there are, and the first of them."""
    return Tally(count=len(lines), lines=sorted(lines)[:LINES_SHOWN])


def repeated(profiles: ProfileNumbers, lines: Sequence[npt.NDArray[np.integer[Any]]]) -> Tally | None:
    """Return the lines of rows whose profile an earlier row has too, None where there are none; `lines` are in parts."""
    count = int(profiles.max(initial=0)) + 1
    having = np.zeros(count, bool)
    having[profiles] = True
    if np.count_nonzero(having) == len(profiles):
        return None
    kind = np.uint32 if all(int(each.max(initial=0)) < 1 << 32 for each in lines) else np.int64
    first = np.full(count, np.iinfo(kind).max, kind)
    for mine, part in _beside(profiles, lines):
        np.minimum.at(first, mine, part.astype(kind))
    found, shown = 0, np.zeros(0, kind)
    for mine, part in _beside(profiles, lines):
        again = part[part != first[mine]]
        found += len(again)
        shown = np.sort(np.concatenate([shown, again.astype(kind)]))[:LINES_SHOWN]
    return Tally(count=found, lines=shown.tolist())


def _beside(
    profiles: ProfileNumbers, lines: Sequence[npt.NDArray[np.integer[Any]]]
) -> Iterator[tuple[ProfileNumbers, npt.NDArray[np.integer[Any]]]]:
    """Yield profiles and lines of the same rows, some at a time."""
    done = 0
    for part in lines:
        for start in range(0, len(part), SLICE):
            some = part[start : start + SLICE]
            yield profiles[done : done + len(some)], some
            done += len(some)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityColumn:
    """A column of identities. Without a `form` the whole column is looked at: all hashes, or none."""

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
                f"{text[:80]!r} does not say what a column contains",
                hint="write COLUMN=NAMESPACE, such as email=email_sha256 or mobile=phone_sha256:raw:primary",
            )
        if {"raw", "hashed"} <= set(words):
            raise InvalidInput(f"{text[:80]!r} is both raw and hashed", hint="give one of the two, or neither")
        found = rule_for_import(name)
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
    dropped: dict[str, Tally]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import read and took; lines are physical ones, in Parquet rows."""

    file: str
    kind: str
    encoding: str
    delimiter: str
    rows: int
    accepted: int
    rejected: dict[str, Tally]
    columns: list[ColumnReport]
    profiles_added: int = 0
    profiles_updated: int = 0
    consents_changed: int = 0
    withdrawals_kept: int = 0
    repeated: Tally | None = None  # rows of an id that came before
    doubts: dict[str, dict[str, Tally]] = field(default_factory=dict)  # by column, what of it may be personal data
    # By "segment NAME": what its rule compares with and the columns do not have.
    outdated: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> Document:
        return asdict(self)


@dataclass(slots=True)
class ReadColumn:
    """What has been seen of one identity column so far; `normalised` is the last batch's."""

    spec: IdentityColumn
    normalised: Normalised = field(init=False)
    forms: Counter[str] = field(default_factory=Counter)
    dropped: dict[Reason, list[int]] = field(default_factory=dict)
    counts: Counter[Reason] = field(default_factory=Counter)
    accepted: int = 0
    raw: int = 0
    hashed: int = 0
    kept: KeptColumn | None = None  # of identities that stay as they are

    @property
    def rule(self) -> Rule:
        return self.spec.rule

    def count(self, reasons: U8, looks: U8, lines: npt.NDArray[np.integer[Any]]) -> None:
        """Count some rows; `lines` are theirs, ascending."""
        found = seen(reasons, looks)
        self.forms += found.forms
        self.raw += found.raw
        self.hashed += found.hashed
        for number, count in enumerate(np.bincount(reasons).tolist()):
            if number == Reason.KEPT:
                self.accepted += count
            elif count:
                self.counts[Reason(number)] += count
                shown = self.dropped.get(Reason(number), [])
                first = lines[_first(reasons, number)].tolist()
                self.dropped[Reason(number)] = sorted([*shown, *first])[:LINES_SHOWN]


def _first(reasons: U8, number: int) -> Indices:
    """Return the first places of a reason, as many as are shown."""
    for stop in (SLICE, len(reasons)):
        found = np.flatnonzero(reasons[:stop] == number)[:LINES_SHOWN]
        if len(found) == LINES_SHOWN:
            break
    return found


class Reading:
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
        self.columns = [
            ReadColumn(each, kept=KeptColumn(each.column, region) if each.rule.name == "opaque-v1" else None)
            for each in columns
        ]
        self.rows = 0
        self.left_out = 0  # of them, the rows that were rejected afterwards, which the source counts too

    def leave_out(self, rows: int) -> None:
        """Note that rows which were read are rejected after all."""
        self.left_out += rows

    def take_known(self, outcomes: U8, lines: npt.NDArray[np.integer[Any]]) -> None:
        """Count rows that are known, by what became of the identity in each column: the reason, and above what it looked like."""
        self.rows += len(lines)
        for start in range(0, len(lines), SLICE):
            part, beside = outcomes[start : start + SLICE], lines[start : start + SLICE]
            for place, column in enumerate(self.columns):
                column.count(part[:, place] & np.uint8(15), part[:, place] >> np.uint8(4) & np.uint8(7), beside)

    def take(self, batch: Batch, *, sample: bool = True) -> list[ReadColumn]:
        """Normalise a batch's identities; each column's `normalised` has a row per row of the batch."""
        self.rows += len(batch.lines)
        for column in self.columns:
            spec = column.spec
            texts = batch.columns[spec.column]
            found = column.normalised = normalise(spec.rule, texts, form=spec.form, region=self.region)
            column.count(found.reasons, found.looks, batch.lines)
            if column.kept is not None:
                column.kept.look(texts, batch.lines, sample=sample)
        return self.columns

    def check(self) -> None:
        """Refuse what only the whole file shows: nothing taken, hashes and raw values mixed, or a column of numbers."""
        for column in self.columns:
            if column.kept is not None:
                column.kept.end()
            if column.spec.form is None and column.raw and column.hashed:
                name = f"{column.spec.column}={column.rule.id}"
                raise InvalidInput(
                    f"column {column.spec.column!r} has {column.hashed} hashes and {column.raw} raw values",
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
            hint = "check which column has what, and the namespace that is given for it"
            if any(Reason.NO_REGION in column.counts for column in self.columns):
                hint = "give the region of national phone numbers, such as GB"
            raise InvalidInput(f"no identity of {self.source.name} could be taken: {', '.join(sorted(why))}", hint=hint)

    def report(self, duplicates: dict[str, int], kept: Iterable[KeptColumn] = (), **counts: Any) -> ImportReport:
        """Return what was taken; `kept` are columns beside those of identities that stay as they are."""
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
                        reason.text: Tally(count=count, lines=column.dropped[reason])
                        for reason, count in sorted(column.counts.items())
                    },
                    note=_HASHED_NOTE.format(column.rule.id) if column.hashed and column.spec.form != "raw" else "",
                )
                for column in self.columns
            ],
            doubts=doubts([*kept, *(column.kept for column in self.columns if column.kept is not None)]),
            **counts,
        )


def doubts(columns: Iterable[KeptColumn]) -> dict[str, dict[str, Tally]]:
    """Return by column what may be personal data and was kept."""
    found = {each.name: {reason: tally(lines) for reason, lines in each.doubts.items()} for each in columns}
    return {name: tallies for name, tallies in found.items() if tallies}


def read_identities(
    path: Path | str,
    columns: Sequence[IdentityColumn],
    region: str | None = None,
    progress: ReadProgress | None = None,
) -> tuple[dict[str, tuple[Values, npt.NDArray[np.int64]]], ImportReport, list[str]]:
    """Read a file's identities without a node: by namespace with rule id the values, in order of rows and with
    repetitions, and the row of each; the report; and the records as they stand, `records[0]` being the header ("" where
    there is none) and `records[row]` the rows. Raises InvalidInput.
    """
    reading = Reading(Source.open(path, [each.column for each in columns]), columns, check_region(region))
    records = [reading.source.header_record]
    parts: list[list[tuple[Values, npt.NDArray[np.int64]]]] = [[] for _ in columns]
    for batch in reading.source.batches(progress):
        base = len(records)
        records += batch.records
        for column, taken in zip(reading.take(batch), parts, strict=True):
            where = np.flatnonzero(column.normalised.keep)
            taken.append((column.normalised.values.take(where), where + base))
    reading.check()
    identities: dict[str, tuple[Values, npt.NDArray[np.int64]]] = {}
    duplicates: dict[str, int] = {}
    for column, taken in zip(reading.columns, parts, strict=True):
        values, rows = Values.join(each for each, _ in taken), np.concatenate([where for _, where in taken])
        duplicates[column.spec.column] = len(values) - int(begins(values, by=order_of(values)).sum())
        before = identities.get(column.rule.id)
        if before is not None:
            values, rows = Values.join([before[0], values]), np.concatenate([before[1], rows])
        identities[column.rule.id] = values, rows
    return identities, reading.report(duplicates), records
