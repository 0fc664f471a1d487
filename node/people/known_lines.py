"""The lines of a dataset's imports as keyed digests, with what each of them said: a line that comes again need not be read.

For each profile these are the lines of the last import that had it, if all of them can be known again. Nobody can try what
a line may have been without the secret of the home.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi import kernel
from psi.join import join_order, match
from psi.values import U8, Bools, Indices, Values

from ..access.scope import Scope
from ..inputs.text_columns import Lines
from ..storage.database import Tx
from .identity_rows import begins
from .manifests import LineFiles
from .snapshots import Snapshot, load
from .splicing import Splice, before, places_of

if TYPE_CHECKING:
    from .drafts import Draft

WIDTH = 16  # bytes of a digest


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
        names = ("digests", "profiles", "lines", "outcomes", "at")
        given = {name: getattr(files, name) for name in names}
        return cls(**{name: load(snapshot, file) for name, file in given.items() if file is not None})

    @property
    def first(self) -> npt.NDArray[np.int32]:
        """The first row that has the digest of each row."""
        rows = np.arange(len(self), dtype=np.int32)
        rows[~begins(Values(self.digests))] = 0
        return np.maximum.accumulate(rows)

    def find(self, digests: U8) -> npt.NDArray[np.int32]:
        """Return the first row that has each digest, -1 where none has."""
        found = np.full(len(digests), -1, np.int32)
        order = join_order(digests)
        rows, places = match(self.digests, digests[order])
        found[order[places]] = rows
        return found

    def by_line(self) -> npt.NDArray[np.int32]:
        """Return the row of each line by its number, -1 where none is known; of high numbers among few lines, nothing."""
        rows = np.full(min(int(self.lines.max(initial=0)) + 1, 4 * len(self) + (1 << 16)), -1, np.int32)
        here = np.flatnonzero(self.lines < len(rows))
        rows[self.lines[here]] = here
        return rows

    def take(self, where: Indices | Bools) -> "KnownLines":
        if where.dtype == np.bool_:
            where = np.flatnonzero(where)
        return KnownLines(**{name: np.take(column, where, axis=0) for name, column in self.columns().items()})

    @property
    def order(self) -> Indices:
        """The permutation that sorts the lines."""
        return join_order(self.digests, self.lines)

    def join(self, other: "KnownLines") -> "KnownLines":
        mine, others = self.columns(), other.columns()
        return KnownLines(**{name: np.concatenate([mine[name], others[name]]) for name in mine})

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        columns: dict[str, npt.NDArray[Any]] = {
            "digests": self.digests,
            "profiles": self.profiles,
            "lines": self.lines,
            "outcomes": self.outcomes,
        }
        return columns if self.at is None else columns | {"at": self.at}


def replace(draft: "Draft", dataset: str, stamp: str, profiles: Bools, given: KnownLines) -> None:
    """Name lines in place of those that some profiles, bool (count,), had; all others go if they have another stamp."""
    files = draft.content.known_lines.get(dataset)
    order = given.order
    if files is None or files.stamp != stamp:
        columns = given.columns().items()  # one after the other: they are large
        return _name(draft, dataset, stamp, {kind: draft.save(kind, np.take(each, order, 0)) for kind, each in columns})
    new = given.take(order)
    old = KnownLines.open(draft.snapshot, files)
    stays = ~profiles[old.profiles]
    if not len(new) and stays.all():
        return None
    alike = places_of(old.digests, new.digests)
    new = old.take(alike[stays[alike]]).join(new)
    new = new.take(new.order)
    stays[alike] = False
    splice, was = Splice(kept=stays, before=before(old.digests, new.digests)), old.columns()
    names = {kind: draft.splice(kind, splice, was[kind], column) for kind, column in new.columns().items()}
    return _name(draft, dataset, stamp, names)


def take_out(draft: "Draft", gone: Bools) -> None:
    """Forget the lines of some profiles, bool (count,)."""
    for dataset, files in draft.content.known_lines.items():
        profiles = load(draft.snapshot, files.profiles)
        if gone[profiles].any():
            known = KnownLines.open(draft.snapshot, files).take(~gone[profiles])
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


def _name(draft: "Draft", dataset: str, stamp: str, names: Mapping[str, str]) -> None:
    files = LineFiles(stamp=stamp, made=draft.scope.home.now(), **names)
    draft.change(known_lines={**draft.content.known_lines, dataset: files})
