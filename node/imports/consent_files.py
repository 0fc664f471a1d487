"""Files of what people said: consent codes or TCF strings, with the time and the basis of each, and a report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from psi.values import U8, Bools

from ..access.scope import Scope
from ..errors import InvalidInput
from ..governance.visibility import Visibility
from ..inputs.normalise import rule
from ..inputs.raw_values import refuse_personal
from ..inputs.sources import Batch, ReadProgress, Source
from ..people.consent import LISTED, MAX_BASIS, UNKNOWN, Words, read_codes, read_time
from ..people.drafts import Draft
from ..storage.records import Document
from .identity_columns import Tally, tally
from .tcf import NEEDED, Needed, read_strings

if TYPE_CHECKING:
    from ..inputs.queries import Query

Reasons = Sequence[tuple[str, Bools]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentReport:
    """What a consent import did, with line numbers per reason of the rows that it did not take.

    `unchanged` are those of the accepted rows that say what was known already.
    """

    rows: int
    accepted: int
    changed: int
    unchanged: int
    rejected: dict[str, Tally]

    def as_dict(self) -> Document:
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
    """The columns with what people said: codes or TCF strings, and perhaps the time and the basis."""

    consent: str | None = None
    tcf: str | None = None
    needed: Needed = NEEDED
    time: str | None = None
    basis: str | None = None

    def checked(self) -> Self:
        """Return the same; raises InvalidInput where the columns do not go together."""
        if (self.consent is None) == (self.tcf is None):
            raise InvalidInput("what people said is in one column, of codes or of TCF strings", hint="name one column")
        if self.tcf is not None and self.time is not None:
            raise InvalidInput("a TCF string has its own time", hint="leave the time column out")
        return self

    @property
    def said(self) -> str:
        """The column with the words themselves."""
        return self.consent or self.tcf or ""

    @property
    def names(self) -> list[str]:
        return [name for name in (self.consent, self.tcf, self.time, self.basis) if name is not None]

    def read(self, batch: Batch, now: int) -> Said:
        """Return what a batch's rows say; without a time it counts as said now, and an empty cell says nothing."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentFile:
    """What is imported: a file or a query, its columns, and the namespace if the consent is for one."""

    path: "Path | str | Query"
    id_column: str
    columns: ConsentColumns
    namespace: str | None = None


def import_file(scope: Scope, file: ConsentFile, progress: ReadProgress | None = None) -> ConsentReport:
    """Note what a file's profiles said, at the times of a column (ISO 8601 or Unix seconds) or now, or at those that
    the TCF strings give."""
    detail: Document = {"namespace": file.namespace}
    begun = scope.home.now()  # before it waits for its turn: a withdrawal that comes in meanwhile is newer
    with scope.act("consent.import", scope.name, detail=detail) as tx:
        columns = file.columns.checked()
        if columns.tcf is not None:
            detail["tcf"] = columns.needed.basis
        source = Source.open(file.path, [file.id_column, *columns.names])
        draft = Draft(scope, tx)
        name = rule(file.namespace).namespace if file.namespace else None
        taken = _read(draft, source, columns, _Reading(id_column=file.id_column, begun=begun, progress=progress))
        changed = draft.note_consent(taken.profiles, taken.words, name).changed
        known = draft.snapshot.said(name).take(taken.profiles)
        other = known.codes != taken.words.codes
        for reason, lost in (
            ("older than what is known", other & (taken.words.at < known.at)),
            ("as old as a stricter word", other & (taken.words.at == known.at)),
        ):
            source.rejected[reason] += taken.lines[lost].tolist()
        draft.publish()
        detail |= {"rows": taken.rows, "changed": changed}
    accepted = int((~other).sum())
    return ConsentReport(
        rows=taken.rows,
        accepted=accepted,
        changed=changed,
        unchanged=accepted - changed,
        rejected={reason: tally(found) for reason, found in source.rejected.items() if found},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """The rows of a file that say something about a profile; `rows` counts the others too."""

    rows: int
    profiles: npt.NDArray[np.int64]
    lines: npt.NDArray[np.int64]
    words: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How a file is read: what has no time of its own was said when the import had `begun`."""

    id_column: str
    begun: int
    progress: ReadProgress | None


def _read(draft: Draft, source: Source, columns: ConsentColumns, how: _Reading) -> _Taken:
    """Read a file; a row that cannot be taken is counted as rejected. Raises InvalidInput where that is every row."""
    rows, visibility = 0, Visibility(draft.scope, draft.tx)
    profiles: list[npt.NDArray[np.int64]] = []
    lines: list[npt.NDArray[np.int64]] = []
    words: list[Words] = []
    for batch in source.batches(how.progress):
        ids = np.array([text.strip().encode() for text in batch.columns[how.id_column]], np.bytes_)
        numbers, said = visibility.numbers(draft.base, ids), columns.read(batch, how.begun)
        good = np.ones(len(ids), bool)
        for reason, bad in (("no such profile", numbers < 0), ("nothing said", said.codes == 0), *said.bad):
            source.rejected[reason] += batch.lines[bad & good].tolist()
            good &= ~bad
        rows += len(ids)
        profiles.append(numbers[good])
        lines.append(batch.lines[good])
        bases = draft.bases([basis for basis, keep in zip(said.bases, good.tolist(), strict=True) if keep])
        words.append(Words(codes=said.codes[good], at=said.at[good], bases=bases))
    if not any(map(len, profiles)):
        why = ", ".join(reason for reason, found in source.rejected.items() if found)
        raise InvalidInput(
            f"no row of {source.name} could be taken: {why or 'it has none'}",
            hint=f"consent values are {LISTED}; say if the column has TCF strings instead",
        )
    broken = sum(map(len, source.rejected.values())) - (rows - sum(map(len, profiles)))
    return _Taken(
        rows=rows + broken, profiles=np.concatenate(profiles), lines=np.concatenate(lines), words=Words.join(words)
    )
