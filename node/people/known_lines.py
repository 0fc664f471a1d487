"""The lines of a dataset's imports as keyed digests, with what each of them said: a line that comes again need not be read.

For each profile these are the lines of the last import that had it, if all of them can be known again. Nobody can try what
a line may have been without the secret of the home.
"""

import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi import kernel
from psi.join import join_order, match
from psi.values import SLICE, U8, Bools, Indices, Values

from .. import log
from ..access.scope import Scope
from ..compute.aside import Aside, Buckets, KeptArrays
from ..errors import Failure
from ..inputs.text_columns import Lines
from ..storage.database import Tx
from ..storage.sorted_files import texts
from .identity_rows import begins
from .manifests import LineFiles
from .snapshots import Snapshot, load, missing
from .splicing import Survey
from .stored_columns import StoredColumn

if TYPE_CHECKING:
    from .drafts import Draft

WIDTH = 16  # bytes of a digest
BUCKETS = 64  # by the first bits of a digest
WORTH_IT = 1 << 18  # lines; fewer are put in order at once


def key(scope: Scope, tx: Tx) -> bytes:
    """Return the key of a project's digests of lines."""
    secret = scope.home.keys.unwrap(scope.row(tx).count_secret, b"count")
    return hmac.digest(secret, b"vesica/1 lines", "sha256")


def digests(key: bytes, lines: Lines) -> U8:
    """Return the keyed digest of each line, uint8 (n, 16)."""
    return kernel.digests(key, kernel.sha256(lines.data, lines.starts, lines.ends), size=WIDTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLines:
    """Lines in order of their digests, uint8 (n, 16), then of their numbers.

    `profiles` is uint32 (n,); `lines` are the numbers that the lines had, uint32 (n,): in the same order as those of the
    same profile. `outcomes` is uint8 (n, k), `at` int64 (n,) or None: what the import makes of a line.
    """

    digests: U8
    profiles: npt.NDArray[np.uint32]
    lines: npt.NDArray[np.uint32]
    outcomes: U8
    at: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.profiles)

    @classmethod
    def open(cls, snapshot: Snapshot, files: LineFiles) -> "KnownLines":
        """Map the files; raises Failure where one is missing or damaged."""
        found = cls(**{name: load(snapshot, file) for name, file in _files(files).items()})
        if {len(column) for column in found.columns().values()} != {len(found.profiles)}:
            raise missing(snapshot, files.profiles)
        if any(int(found.profiles[part].max()) >= snapshot.profile_count for part in _parts(len(found))):
            raise missing(snapshot, files.profiles)
        return found

    def find(self, digests: U8) -> npt.NDArray[np.int32]:
        """Return the first row that has each digest, -1 where none has."""
        found = np.full(len(digests), -1, np.int32)
        order = join_order(digests)
        rows, places = match(self.digests, digests[order])
        found[order[places]] = rows
        return found

    def by_line(self) -> npt.NDArray[np.int32]:
        """Return the first row with the digest of each line, by the line's number, -1 where none is known; of high numbers
        among few lines, nothing.
        """
        highest = max((int(self.lines[part].max()) for part in _parts(len(self))), default=0)
        rows = np.full(min(highest + 1, 4 * len(self) + (1 << 16)), -1, np.int32)
        first, before = 0, np.zeros((1, WIDTH), np.uint8)
        for part in _parts(len(self)):
            digests, lines = self.digests[part], self.lines[part]
            begin = begins(Values(digests))
            begin[:1] = (digests[:1] != before).any() or part.start == 0
            firsts = np.where(begin, part.start + np.arange(len(lines)), first)
            np.maximum.accumulate(firsts, out=firsts)
            here = np.flatnonzero(lines < len(rows))
            rows[lines[here]] = firsts[here]
            first, before = int(firsts[-1]), digests[-1:]
        return rows

    def take(self, where: Indices | Bools) -> "KnownLines":
        if where.dtype == np.bool_:
            where = np.flatnonzero(where)
        return KnownLines(**{name: np.take(column, where, axis=0) for name, column in self.columns().items()})

    @property
    def order(self) -> Indices:
        """The permutation that sorts the lines."""
        return join_order(self.digests, self.lines)

    def part(self, rows: slice) -> "KnownLines":
        """Return consecutive lines; they are not copied."""
        return KnownLines(**{name: column[rows] for name, column in self.columns().items()})

    @classmethod
    def joined(cls, parts: "Sequence[KnownLines]") -> "KnownLines":
        """Return the lines of all parts, of which there is at least one."""
        columns = [each.columns() for each in parts]
        return cls(**{name: np.concatenate([each[name] for each in columns]) for name in columns[0]})

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        columns: dict[str, npt.NDArray[Any]] = {
            "digests": self.digests,
            "profiles": self.profiles,
            "lines": self.lines,
            "outcomes": self.outcomes,
        }
        return columns if self.at is None else columns | {"at": self.at}


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + SLICE) for start in range(0, count, SLICE))


def _files(files: LineFiles) -> dict[str, str]:
    given = {name: getattr(files, name) for name in ("digests", "profiles", "lines", "outcomes", "at")}
    return {name: file for name, file in given.items() if file is not None}


def _stored(snapshot: Snapshot, files: LineFiles) -> dict[str, StoredColumn]:
    return {name: StoredColumn(snapshot, file) for name, file in _files(files).items()}


def replace(draft: "Draft", dataset: str, stamp: str, profiles: Bools, parts: Iterable[KnownLines], count: int) -> None:
    """Name lines in place of those that some profiles, bool (count,), had; all others go if they have another stamp.

    The new ones come in parts, `count` in all at most.
    """
    files = draft.content.known_lines.get(dataset)
    old = _readable(draft, dataset, files) if files is not None and files.stamp == stamp else None
    if count > WORTH_IT:
        return _merge(draft, dataset, stamp, profiles, parts, old)
    given = KnownLines.joined(list(parts))
    new = given.take(given.order)
    if files is None or old is None:
        columns = new.columns().items()
        return _name(draft, dataset, stamp, {kind: draft.save(kind, each) for kind, each in columns})
    stored = _stored(draft.snapshot, files)
    before = Survey.of(stored, "digests", new.digests, lambda block: ~profiles[block["profiles"]])
    if not (len(new) or len(before.gone["profiles"])):
        return None
    new = KnownLines.joined([KnownLines(**before.alike), new])
    new = new.take(new.order)
    splice = before.splice(new.digests)
    names = {kind: draft.splice(kind, splice, stored[kind], column) for kind, column in new.columns().items()}
    return _name(draft, dataset, stamp, names)


def _merge(
    draft: "Draft", dataset: str, stamp: str, profiles: Bools, parts: Iterable[KnownLines], old: KnownLines | None
) -> None:
    """Do what `replace` does, with a part of the lines after the other, by the first bits of their digests."""
    aside = Aside(draft.base.directory)
    buckets, written = Buckets(aside, BUCKETS), KeptArrays(aside)
    for part in parts:
        buckets.split(part.digests[:, 0] // np.uint8(256 // BUCKETS), part.columns())
    begins = [bytes([first]) for first in range(256 // BUCKETS, 256, 256 // BUCKETS)]
    edges = [0, *([0] * len(begins) if old is None else np.searchsorted(texts(old.digests), begins).tolist())]
    edges.append(0 if old is None else len(old))
    for bucket, given in enumerate(buckets):
        found = []
        if old is not None and edges[bucket + 1] > edges[bucket]:
            there = old.part(slice(edges[bucket], edges[bucket + 1]))
            found.append(there.take(~profiles[there.profiles]))
        if len(given):
            found.append(KnownLines(**given.all()))
        if found:
            lines = KnownLines.joined(found)
            written.append(lines.take(lines.order).columns())
    names = {kind: draft.save_kept(kind, written) for kind in written.names}
    return _name(draft, dataset, stamp, names) if names else forget(draft, dataset)


def take_out(draft: "Draft", gone: Bools) -> None:
    """Forget the lines of some profiles, bool (count,)."""
    for dataset, files in draft.content.known_lines.items():
        lines = _readable(draft, dataset, files)
        if lines is None:
            forget(draft, dataset)
        elif gone[lines.profiles].any():
            known = lines.take(~gone[lines.profiles])
            names = {kind: draft.save(kind, column) for kind, column in known.columns().items()}
            _name(draft, dataset, files.stamp, names)


def forget(draft: "Draft", dataset: str) -> None:
    """Forget the lines of a dataset: its profiles do not have what they said any more."""
    draft.change(known_lines={name: files for name, files in draft.content.known_lines.items() if name != dataset})


def found(snapshot: Snapshot, dataset: str, profiles: BitMap) -> int:
    """Return how many lines of some profiles are known."""
    files = snapshot.content.known_lines.get(dataset)
    if files is None:
        return 0
    return int(np.isin(load(snapshot, files.profiles), np.array(profiles.to_array(), np.uint32)).sum())


def _readable(draft: "Draft", dataset: str, files: LineFiles) -> KnownLines | None:
    """Return the lines in some files; None where these are damaged: the lines are read again when they come."""
    try:
        return KnownLines.open(draft.snapshot, files)
    except Failure as error:
        log.warning("known lines are read again", project=draft.scope.name, dataset=dataset, code=error.code)
        return None


def _name(draft: "Draft", dataset: str, stamp: str, names: Mapping[str, str]) -> None:
    files = LineFiles(stamp=stamp, made=draft.scope.home.now(), **names)
    draft.change(known_lines={**draft.content.known_lines, dataset: files})
