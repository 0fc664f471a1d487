"""The rows of a file of people as columns: ids, identities, what people said, attributes, line by line.

Of a file that came before only those lines are read whose profiles have changed lines; of the others it is known what
they gave.
"""

import hashlib
import importlib.metadata
import json
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from psi.errors import Remedy
from psi.values import U8, Bools

from ..access.scope import Scope
from ..errors import Failure, InvalidInput
from ..inputs.normalise import Normalised, check_region, encode
from ..inputs.physical_lines import Unwieldy
from ..inputs.queries import Query
from ..inputs.raw_values import MAX_KEPT, SAMPLED_LINES, KeptColumn, too_long
from ..inputs.sources import Batch, ReadProgress, Source
from ..inputs.text_columns import Lines
from ..people import known_lines
from ..people.datasets import folded
from ..people.drafts import MAX_ID
from ..people.identity_rows import ProfileNumbers
from ..people.known_lines import KnownLines
from ..people.manifests import LineFiles
from ..people.snapshots import NUMBER, Snapshot, reopened
from ..people.suppressions import ID, REASON, RETURN, Suppressions
from .consent_files import ConsentColumns, Said
from .identity_columns import IdentityColumn, Reading
from .kept_rows import KeptRows, Numbers, RowPart
from .recognition import Recognition
from .tcf import NEEDED, Needed

FORMAT = 1  # goes up where a line comes to say something else than before
_LOOK, AGAIN = 4, 7  # where in an outcome stand what an identity looked like, and whether its profile had it before
MAX_LINES = 1 << 31


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

    def stamp(self, source: Source) -> str:
        """Return a digest of all that a line's meaning depends on beside the line."""
        import phonenumbers

        versions = (FORMAT, importlib.metadata.version("vesica"), phonenumbers.__version__, sys.version)
        columns = [(each.column, each.rule.id, each.form, each.primary) for each in self.identities]
        said = (self.consent_column, self.tcf_column, self.needed.basis, list(self.attributes), self.region)
        header = source.header if source.kind == "CSV" else []
        about = [*versions, unicodedata.unidata_version, self.id_column, columns, *said]
        text = json.dumps([*about, source.kind, source.delimiter, header])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a project has when the reading of a file begins; with the key of its digests of lines."""

    snapshot: Snapshot
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, scope: Scope) -> "Before":
        with scope.read() as tx:
            return cls(snapshot=Snapshot.open(scope, tx), key=known_lines.key(scope, tx))


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Rows that came before and were not read: the line of each, its profile, and what it gave, uint8 (n, columns + 1): of
    each identity column, and last what it says about consent."""

    lines: npt.NDArray[np.uint32]
    profiles: ProfileNumbers
    outcomes: U8
    at: Numbers


def _opened(snapshot: Snapshot, files: LineFiles) -> KnownLines:
    try:
        return KnownLines.open(snapshot, files)
    except Failure:  # damaged, or deleted meanwhile
        raise Unwieldy from None


def _state(path: Path | str | Query) -> tuple[int, ...]:
    """Return what differs once a file has been written or replaced."""
    if isinstance(path, Query):
        return ()
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class PeopleRows:
    """What a file's rows give: those that were read, and beside them those that came before and need not be read.

    `kept` are the rows that were read, in the order of their lines.
    """

    def __init__(self, file: PeopleFile, suppressions: Suppressions, before: Before) -> None:
        self.file, self.suppressions, self._before = file, suppressions, before
        self.says = file.says
        self.attributes = list(dict.fromkeys(file.attributes))
        region = check_region(file.region)
        personal = [each.column for each in file.identities if each.column in self.attributes and each.rule.hashed]
        if personal:
            raise InvalidInput(
                f"column {personal[0]!r} has personal identities: it cannot be kept as an attribute",
                hint="leave it out of the attributes",
            )
        spelled = list(map(folded, self.attributes))
        for name in self.attributes:
            if spelled.count(folded(name)) > 1 or name == NUMBER:
                raise InvalidInput(f"attribute {name!r} has a name like another", hint="rename that column")
        wanted = [file.id_column, *(each.column for each in file.identities), *self.attributes]
        self.source = Source.open(file.path, [*wanted, *(self.says.names if self.says else [])])
        self.reading = Reading(self.source, file.identities, region)
        self.kept = KeptRows(before.snapshot.directory)
        hashed = {each.column for each in file.identities if each.rule.hashed}
        names = dict.fromkeys([file.id_column, *self.attributes])
        self.as_they_are = [KeptColumn(name, region) for name in names if name not in hashed]
        self.stamp = file.stamp(self.source) if self.source.has_lines else ""
        self.known: LineFiles | None = None  # of which some lines were not read
        self.repeated: dict[str, int] = {}  # by identity column, the rows that repeat one of their profile
        self.again = Again(
            lines=np.zeros(0, np.uint32),
            profiles=np.zeros(0, np.uint32),
            outcomes=np.zeros((0, 1 + len(file.identities)), np.uint8),
            at=np.zeros(0, np.int64),
        )

    @property
    def basis(self) -> str | None:
        """The basis of TCF strings; None where words have no time of their own."""
        return self.says.needed.basis if self.says and self.says.tcf else None

    def read(self, now: int, progress: ReadProgress | None) -> None:
        """Read all rows; raises InvalidInput where none can be taken, or raw personal data would stay raw."""
        self._take(self.kept, self.source.batches(progress), now)
        self._end()

    def read_changed(self, now: int, progress: ReadProgress | None) -> None:
        """Read what came not before, or with other lines of its profile; raises Unwieldy where all has to be read."""
        files = self._before.snapshot.content.known_lines.get(self.file.dataset)
        if files is None or files.stamp != self.stamp or files.made > now:
            raise Unwieldy
        snapshot = self._before.snapshot
        opened, before = partial(_opened, snapshot, files), _state(self.file.path)
        try:
            found = Recognition.of(
                self.source, opened, key=self._before.key, count=snapshot.profile_count, progress=progress
            )
        except Failure:  # the file cannot be read: reading all of it says what there is to say
            raise Unwieldy from None
        self.known = files
        self._sample()
        self._take(self.kept, self.source.batches_of(found.unread()), now, sample=False)
        try:
            ids = reopened(snapshot)
            numbers = [each[each >= 0] for each in map(ids.numbers, self.kept.parts("ids"))]
            del ids
        except Failure:  # somebody was erased meanwhile
            raise Unwieldy from None
        others = KeptRows(snapshot.directory)
        unread = found.unread_of(np.concatenate([np.zeros(0, np.int64), *numbers]))
        self._take(others, self.source.batches_of(unread), now, sample=False)
        self.kept = self.kept.with_others(others)
        if _state(self.file.path) != before:  # written or replaced meanwhile: not all was read of the same file
            raise Unwieldy
        lines, rows = found.read_before()
        del found
        known = opened()
        self.again = Again(
            lines=lines,
            profiles=np.take(known.profiles, rows),
            outcomes=np.take(known.outcomes, rows, axis=0),
            at=self._at(known, rows, now),
        )
        del known, rows
        self.reading.take_known(self.again.outcomes, lines)
        self._end()

    def _at(self, known: KnownLines, rows: npt.NDArray[np.int32], now: int) -> Numbers:
        """Return when the words in known lines were said."""
        if self.says is None:
            return np.zeros(0, np.int64)
        return np.full(len(rows), now) if known.at is None else np.take(known.at, rows)

    def _sample(self) -> None:
        """Look at the first lines as `read` does, of which most are not read."""
        kept = self._looked_at()
        if not any(column.region for column in kept):
            return
        source = replace(self.source, rejected=defaultdict(list))
        for batch in source.batches_of(np.arange(1, SAMPLED_LINES + 1)):
            for column in kept:
                column.sample(batch.columns[column.name], batch.lines)

    def _looked_at(self) -> list[KeptColumn]:
        """Return all columns whose values are kept as they are."""
        return [*self.as_they_are, *(each.kept for each in self.reading.columns if each.kept is not None)]

    def _take(self, kept: KeptRows, batches: Iterable[Batch], now: int, *, sample: bool = True) -> None:
        hashed = (each for each in self.reading.columns if each.rule.hashed)
        hashed_id = next((each for each in hashed if each.spec.column == self.file.id_column), None)
        for batch in batches:
            self.reading.take(batch, sample=sample)
            found = _ids(batch.columns[self.file.id_column], hashed_id.normalised if hashed_id else None)
            said = self.says.read(batch, now) if self.says else None
            good = self._good(batch, found, said)
            columns = [each.normalised for each in self.reading.columns]
            for column in self.as_they_are:
                column.look(batch.columns[column.name], batch.lines, sample=sample)
            kept.append(
                RowPart(
                    ids=found[good],
                    lines=batch.lines[good],
                    outcomes=self._outcomes(good, said),
                    at=said.at[good] if said else np.zeros(0, np.int64),
                    digests=self._digests(batch, good),
                    values=[each.values.take(each.keep & good) for each in columns],
                    texts={name: _taken(batch.columns[name], good) for name in self.attributes},
                )
            )

    def _outcomes(self, good: Bools, said: Said | None) -> U8:
        """Return what became of each identity of the rows that are taken, and what these say."""
        columns = [each.normalised for each in self.reading.columns]
        outcomes = [each.reasons | (each.looks << np.uint8(_LOOK)) for each in columns]
        return np.stack([*outcomes, said.codes if said else np.zeros(len(good), np.uint8)], axis=1)[good]

    def _digests(self, batch: Batch, good: Bools) -> U8:
        """Return the digests of the lines of rows that are taken, none where lines cannot be known."""
        if not self.stamp or self.source.joins_lines or batch.lines[-1] > MAX_LINES:
            self.stamp = ""
            return np.zeros((0, known_lines.WIDTH), np.uint8)
        return known_lines.digests(self._before.key, Lines.join(_taken(batch.records, good)))

    def _end(self) -> None:
        """Look at the file as a whole."""
        self.reading.check()
        if not len(self.kept) + len(self.again.lines):
            rejected = self.source.rejected
            reasons = [reason for reason, lines in rejected.items() if lines]
            refused = f"no row of {self.source.name} could be taken: {', '.join(reasons)}"
            if reasons == [REASON]:
                raise InvalidInput(refused, hint=RETURN, remedy=Remedy("profile.readmit"))
            raise InvalidInput(
                refused,
                hint="check which columns have the ids and the consent; consent is y, n, p, u, dy, dn or a legal basis",
            )
        for each in self.as_they_are:
            each.end()

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
                self.source.rejected[reason] += batch.lines[bad & good].tolist()
            good &= ~bad
        self.reading.leave_out(int((~good).sum()))
        return good

    def _erased(self, ids: npt.NDArray[np.bytes_]) -> Bools:
        """Return which rows of a batch are of people who were erased: their id says so, or one of their identities."""
        found = self.suppressions.has(ID, ids)
        for column in self.reading.columns:
            found |= self.suppressions.has(column.rule.id, column.normalised.values) & column.normalised.keep
        return found

    def doubtful(self) -> Numbers:
        """Return lines that may have personal data which is kept as it is: these are never known again."""
        doubts = [lines for column in self._looked_at() for lines in column.doubts.values()]
        return np.concatenate([np.zeros(0, np.int64), *(np.array(each, np.int64) for each in doubts)])

    @property
    def ids(self) -> "_KeptIds":
        """The ids of the rows that were read."""
        return _KeptIds(self.kept)

    def repeated_before(self, column: int) -> int:
        """Return in how many of the rows that were not read an identity column repeats what its profile had before."""
        return int(np.count_nonzero(self.again.outcomes[:, column] >> AGAIN))


class _KeptIds:
    def __init__(self, rows: KeptRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def parts(self) -> Iterator[npt.NDArray[np.bytes_]]:
        return self._rows.parts("ids")


def _taken(texts: list[str], good: Bools) -> list[str]:
    """Return those of some texts that are taken."""
    kept = np.flatnonzero(good).tolist()
    return texts if len(kept) == len(good) else [texts[row] for row in kept]


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
