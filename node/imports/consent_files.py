"""Files of what people said: consent codes or TCF strings, with the time and the basis of each, and a report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from psi.values import U8, Bools

from ..consent.consent import LISTED, MAX_BASIS, UNKNOWN, Words, read_codes, read_time
from ..errors import InvalidInput
from ..inputs.normalise import rule
from ..inputs.raw_values import refuse_personal
from ..inputs.sources import Batch, Progress, Source
from ..people.data import Draft
from .tcf import NEEDED, Needed, read_strings

if TYPE_CHECKING:
    from ..inputs.queries import Query
    from ..project import Project

Reasons = Sequence[tuple[str, Bools]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentReport:
    """What a consent import did; line numbers per reason for the rows that it did not take. Of the accepted, `unchanged`
    say what was known already."""

    rows: int
    accepted: int
    changed: int
    unchanged: int
    rejected: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the rows of a batch say: a code (0 nothing, UNKNOWN none), a time and a basis each; and why a row is bad."""

    codes: U8
    at: npt.NDArray[np.int64]
    bases: list[str]
    bad: Reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentColumns:
    """The columns of a file that say what people said: codes or TCF strings, and the time and the basis."""

    consent: str | None = None
    tcf: str | None = None
    needed: Needed = NEEDED
    time: str | None = None
    basis: str | None = None

    def __post_init__(self) -> None:
        if (self.consent is None) == (self.tcf is None):
            raise InvalidInput("what people said is in one column, of codes or of TCF strings", hint="name one column")
        if self.tcf is not None and self.time is not None:
            raise InvalidInput("a TCF string has its own time", hint="leave the time column out")

    @property
    def said(self) -> str:
        """The column with the words themselves."""
        return self.consent or self.tcf or ""

    @property
    def names(self) -> list[str]:
        return [name for name in (self.consent, self.tcf, self.time, self.basis) if name is not None]

    def read(self, batch: Batch, now: int) -> Said:
        """Return what a batch's rows say; without a time they say it now, and an empty cell says nothing."""
        texts = batch.columns[self.said]
        bad: list[tuple[str, Bools]] = []
        if self.tcf is not None:
            codes, at = read_strings(texts, self.needed)
            bad.append(("a broken TCF string", codes == UNKNOWN))
        else:
            codes, at = read_codes(texts), np.full(len(texts), now, np.int64)
            bad.append(("not a consent value", codes == UNKNOWN))
            if self.time is not None:
                at = np.fromiter(map(read_time, batch.columns[self.time]), np.int64, len(texts))
        bad.append(("not a time, or one to come", (codes != 0) & ((at < 0) | (at > now))))
        bases = [self.needed.basis if self.tcf is not None else ""] * len(texts)
        if self.basis is not None:
            bases = [text.strip() or other for text, other in zip(batch.columns[self.basis], bases, strict=True)]
            refuse_personal(bases, self.basis, batch.lines)
            none = [len(text) > MAX_BASIS or not text.isprintable() for text in bases]
            bad.append((f"a basis over {MAX_BASIS} characters", np.array(none, bool)))
        return Said(codes=codes, at=at, bases=bases, bad=bad)


def import_file(
    project: "Project",
    path: "Path | str | Query",
    *,
    id_column: str,
    consent_column: str | None = None,
    tcf_column: str | None = None,
    needed: Needed = NEEDED,
    namespace: str | None = None,
    time_column: str | None = None,
    basis_column: str | None = None,
    progress: Progress | None = None,
) -> ConsentReport:
    """Note what a file's profiles said, at the times of a column (ISO 8601 or Unix seconds) or now, or at those that
    the TCF strings give."""
    from .importer import tally

    now = project.node.now()
    detail: dict[str, Any] = {"namespace": namespace}
    with project.act("consent.import", project.name, detail=detail) as tx:
        columns = ConsentColumns(
            consent=consent_column,
            tcf=tcf_column,
            needed=needed,
            time=time_column,
            basis=basis_column,
        )
        if columns.tcf is not None:
            detail["tcf"] = columns.needed.basis
        source = Source.open(path, [id_column, *columns.names])
        draft, name, rows = Draft(project, tx), rule(namespace).namespace if namespace else None, 0
        profiles: list[npt.NDArray[np.int64]] = []
        lines: list[npt.NDArray[np.int64]] = []
        taken: list[Words] = []
        for batch in source.batches(progress):
            ids = np.array([text.strip().encode() for text in batch.columns[id_column]], np.bytes_)
            numbers, said = draft.base.numbers(ids), columns.read(batch, now)
            good = np.ones(len(ids), bool)
            for reason, bad in (
                ("no such profile", numbers < 0),
                ("nothing said", said.codes == 0),
                *said.bad,
            ):
                source.rejected[reason] += batch.lines[bad & good].tolist()
                good &= ~bad
            rows += len(ids)
            profiles.append(numbers[good])
            lines.append(batch.lines[good])
            bases = draft.bases([basis for basis, keep in zip(said.bases, good.tolist(), strict=True) if keep])
            taken.append(Words(codes=said.codes[good], at=said.at[good], bases=bases))
        broken = sum(map(len, source.rejected.values())) - (rows - sum(map(len, profiles)))
        if not any(map(len, profiles)):
            why = ", ".join(reason for reason, found in source.rejected.items() if found)
            raise InvalidInput(
                f"no row of {source.name} could be taken: {why or 'it has none'}",
                hint=f"consent values are {LISTED}; TCF strings are given as --tcf",
            )
        everybody, words = np.concatenate(profiles), Words.join(taken)
        changed = draft.note_consent(everybody, words, name).changed
        holds = draft.said(name).take(everybody)
        other = holds.codes != words.codes
        for reason, lost in (
            ("older than what is known", other & (words.at < holds.at)),
            ("as old as a stricter word", other & (words.at == holds.at)),
        ):
            source.rejected[reason] += np.concatenate(lines)[lost].tolist()
        draft.publish()
        detail |= {"rows": rows + broken, "changed": changed}
    accepted = int((~other).sum())
    return ConsentReport(
        rows=rows + broken,
        accepted=accepted,
        changed=changed,
        unchanged=accepted - changed,
        rejected={reason: tally(found) for reason, found in source.rejected.items() if found},
    )
