"""A project's data as a reader pins it: one generation, immutable files and the manifest row that names them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import select

from psi.values import U8, Bools, Indices, Values

from ..access.scope import Scope
from ..errors import Failure, NotFound
from ..storage import tables
from ..storage.database import Tx
from ..storage.files import below
from . import consent
from .identity_rows import IdentityRows, ProfileNumbers, begins
from .manifests import Manifest

QUIET_SECONDS = 1  # what follows a change waits until the data has not changed for so long
PATIENCE_SECONDS = 10  # but no longer than this
KNOWN_FILES = 256  # of which this process remembers something
_ONE_TO_ONE: dict[tuple[Path, str], bool] = {}
NUMBER = "#"  # the column of attribute files with profile numbers
NOTED = np.dtype(  # consent of a profile's identities in a namespace
    [("profile", "<u4"), ("code", "u1"), ("at", "<i8"), ("basis", "<u2")]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """The identities of one namespace, sorted by value and profile, each pair once.

    `profiles` is uint32 (n,); `consent` is uint8 (n,), the code for this profile's identities in this namespace.
    """

    values: Values
    profiles: ProfileNumbers
    consent: U8

    def __len__(self) -> int:
        return len(self.values)


class Snapshot:
    """One generation of a project's data, read from memory-mapped files."""

    def __init__(self, directory: Path, generation: int, content: Manifest) -> None:
        self.directory = directory
        self.generation = generation
        self.content = content

    @classmethod
    def open(cls, scope: Scope, tx: Tx | None = None) -> "Snapshot":
        """Pin the newest generation, as `tx` sees it if one is given; generation 0 is empty."""
        rows = tables.manifests
        query = select(rows.c.generation, rows.c.content).where(rows.c.project_id == scope.id)
        with scope.read(tx) as tx:
            row = tx.execute(query.order_by(rows.c.generation.desc()).limit(1)).first()
        return cls(
            scope.data_directory,
            row.generation if row else 0,
            Manifest.from_document(row.content) if row else Manifest(),
        )

    # Profiles

    @property
    def profile_count(self) -> int:
        """How many numbers were given to profiles, those that were erased among them."""
        return self.content.count

    @cached_property
    def erased(self) -> BitMap:
        """The numbers of erased profiles: what was theirs is empty."""
        return bitmap(self, self.content.erased)

    @property
    def everyone(self) -> BitMap:
        """The numbers of all profiles."""
        return BitMap(range(self.profile_count)) - self.erased

    @cached_property
    def profile_ids(self) -> npt.NDArray[np.bytes_]:
        """The ids, UTF-8 in rows of one width; a profile's number is its place."""
        return self._array(self.content.ids, np.dtype("S1"))

    @cached_property
    def profile_order(self) -> npt.NDArray[np.uint32]:
        """The numbers of profiles, in order of their ids."""
        return self._array(self.content.order, np.dtype(np.uint32))

    @cached_property
    def profile_consent(self) -> U8:
        return self._array(self.content.consent, np.dtype(np.uint8))

    @cached_property
    def profile_consent_at(self) -> npt.NDArray[np.int64]:
        return self._array(self.content.consent_at, np.dtype(np.int64))

    @cached_property
    def profile_consent_basis(self) -> npt.NDArray[np.uint16]:
        return self._array(self.content.consent_basis, np.dtype(np.uint16))

    def basis(self, number: int) -> str | None:
        """Return the text of a consent's basis; 0 is none."""
        if number == consent.UNDATED:
            return consent.UNDATED_BASIS
        return self.content.bases[number - 1] if number else None

    def numbers(self, ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """Return the numbers of profiles by id, -1 for unknown ids."""
        known = self.profile_ids
        if not len(known) or not len(ids):
            return np.full(len(ids), -1, np.int64)
        order = self.profile_order
        sought = ids.astype(known.dtype, copy=False)  # for longer ones all that are known would be copied
        places = np.minimum(np.searchsorted(known, sought, sorter=order), len(known) - 1)
        found = order[places].astype(np.int64)
        return np.where((known[found] == ids) & (ids != b""), found, -1)  # an erased profile's id is empty

    def number(self, profile: str) -> int:
        """Return a profile's number; raises NotFound."""
        number = int(self.numbers(np.array([profile.encode()], np.bytes_))[0])
        if number < 0:
            raise no_profile()
        return number

    # Identities

    @property
    def namespaces(self) -> list[str]:
        """The namespaces with rule ids ("email_sha256/lc-v1") that have identities, sorted."""
        return sorted(self.content.identities)

    def identities(self, namespace: str) -> Identities:
        """Return one namespace's identities; empty where there are none."""
        rows = self.rows(namespace)
        if self._is_repeated(namespace):
            rows = rows.take(np.flatnonzero(begins(rows.values, rows.profiles)))
        return Identities(
            values=rows.values, profiles=rows.profiles, consent=noted_codes(self, namespace)[rows.profiles]
        )

    def starts(self, namespace: str) -> Indices:
        """Return where each distinct value begins in `identities(namespace)`, for `reduceat` over the profiles that have it."""
        return np.flatnonzero(begins(self.identities(namespace).values))

    def distinct(self, namespace: str) -> tuple[Values, Indices]:
        """Return the distinct values, sorted, and where each begins in `identities(namespace)`."""
        values = self.identities(namespace).values
        starts = np.flatnonzero(begins(values))
        return values if len(starts) == len(values) else values.take(starts), starts

    def primary(self, namespace: str) -> Bools:
        """Return for each row of `identities(namespace)` whether it is its profile's primary identity.

        That is the one marked so at import, else the first given.
        """
        rows = self.rows(namespace)
        primary = self._primaries[rows.profiles] == rows.key(self.namespaces.index(namespace)) if len(rows) else []
        mask = np.asarray(primary, bool)
        if self._is_repeated(namespace):
            mask = np.logical_or.reduceat(mask, np.flatnonzero(begins(rows.values, rows.profiles)))
        return mask

    @cached_property
    def _primaries(self) -> npt.NDArray[np.int64]:
        """The key of each profile's primary identity, int64 (n,)."""
        best = np.full(self.profile_count, np.iinfo(np.int64).max, np.int64)
        for place, name in enumerate(self.namespaces):
            rows = self.rows(name)
            np.minimum.at(best, rows.profiles, rows.key(place))
        return best

    def given_outside(self, namespace: str, sources: Sequence[int]) -> Bools:
        """Return for each row of `identities(namespace)` whether a dataset other than these gave it."""
        rows = self.rows(namespace)
        mask = ~np.isin(rows.sources, sources)
        if self._is_repeated(namespace):
            mask = np.logical_or.reduceat(mask, np.flatnonzero(begins(rows.values, rows.profiles)))
        return mask

    def rows(self, namespace: str) -> IdentityRows:
        """Return one namespace's identities as they are stored, the same one once for each dataset that gave it."""
        files = self.content.identities.get(namespace)
        if files is None:
            return IdentityRows.none()
        lengths = load(self, files.lengths) if files.lengths else None
        return IdentityRows(
            values=Values(load(self, files.rows), lengths),
            profiles=load(self, files.profiles),
            sources=load(self, files.sources),
            ranks=load(self, files.ranks),
        )

    def _is_repeated(self, namespace: str) -> bool:
        files = self.content.identities.get(namespace)
        return files is not None and files.repeated

    def noted(self, namespace: str) -> npt.NDArray[Any]:
        """Return the consent noted for single namespaces, NOTED rows in order of profile."""
        name = self.content.noted.get(namespace.partition("/")[0])
        return load(self, name) if name else np.zeros(0, NOTED)

    def said(self, namespace: str | None = None) -> consent.Words:
        """Return a copy of what all profiles said, for all of them or for their identities in one namespace."""
        if namespace is None:
            return consent.Words(
                codes=np.array(self.profile_consent),
                at=np.array(self.profile_consent_at),
                bases=np.array(self.profile_consent_basis),
            )
        noted, words = self.noted(namespace), consent.Words.nothing(self.profile_count)
        places = noted["profile"]
        words.codes[places], words.at[places], words.bases[places] = noted["code"], noted["at"], noted["basis"]
        return words

    def word(self, number: int, namespace: str | None = None) -> consent.Word:
        """Return what one profile said, for all of it or for its identities in one namespace."""
        if namespace is None:
            columns = (self.profile_consent, self.profile_consent_at, self.profile_consent_basis)
            return consent.Word(*(int(column[number]) for column in columns))
        rows = self.noted(namespace)
        found = rows[rows["profile"] == number]
        return consent.Word(*map(int, found[0].tolist()[1:])) if len(found) else consent.Word(0, 0, 0)

    # Attributes and segments

    @property
    def attributes(self) -> dict[str, Path]:
        """A Parquet file per dataset: the column NUMBER (of the profile), then text columns."""
        return {name: below(self.directory, file) for name, file in self.content.attributes.items()}

    def named(self, dataset: str) -> BitMap | None:
        """Return the profiles that a dataset's imports had; None where none has noted them. See named.py."""
        name = self.content.named.get(dataset)
        return bitmap(self, name) if name else None

    def members(self, segment_id: str) -> BitMap:
        """Return a segment's profile numbers as they were last evaluated."""
        return bitmap(self, self.content.segments.get(segment_id))

    def _array(self, name: str | None, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        return load(self, name) if name else np.zeros(0, dtype)


def noted_codes(snapshot: Snapshot, namespace: str) -> U8:
    """Return by the number of a profile the consent noted for its identities in one namespace, uint8 (n,)."""
    codes, noted = np.zeros(snapshot.profile_count, np.uint8), snapshot.noted(namespace)
    codes[noted["profile"]] = noted["code"]
    return codes


def one_to_one(snapshot: Snapshot, namespace: str) -> IdentityRows | None:
    """Return one namespace's identities as they are stored, if no two rows have the same value; else None."""
    rows, files = snapshot.rows(namespace), snapshot.content.identities.get(namespace)
    if files is None:
        return None
    known = (snapshot.directory, files.rows)  # files never change
    if known not in _ONE_TO_ONE:
        if len(_ONE_TO_ONE) >= KNOWN_FILES:
            _ONE_TO_ONE.clear()
        _ONE_TO_ONE[known] = bool(begins(rows.values).all())
    return rows if _ONE_TO_ONE[known] else None


def reopened(snapshot: Snapshot) -> Snapshot:
    """Return the same generation with no file mapped yet: what was read of one stays in memory as long as it is."""
    return Snapshot(snapshot.directory, snapshot.generation, snapshot.content)


def load(snapshot: Snapshot, name: str) -> npt.NDArray[Any]:
    """Return the array in a file of a generation, mapped into memory."""
    try:
        return np.load(below(snapshot.directory, name), mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise missing(snapshot, name) from error


def bitmap(snapshot: Snapshot, name: str | None) -> BitMap:
    """Return the profiles in a file of a generation; nobody without one. Raises Failure where it cannot be read."""
    try:
        return BitMap.deserialize(below(snapshot.directory, name).read_bytes()) if name else BitMap()
    except (OSError, ValueError, IndexError) as error:
        raise missing(snapshot, name) from error


def missing(snapshot: Snapshot, name: str | None) -> Failure:
    return Failure(
        f"the data file {name} of generation {snapshot.generation} is missing or damaged, or people were erased meanwhile",
        hint="run the command again; if it stays so, restore the home from a backup",
    )


def no_profile() -> NotFound:
    """Return the error for a profile that does not exist, or is hidden from the caller."""
    return NotFound("there is no profile with that id", hint="the ids are those of the imported id column")


class ErasedMeanwhile(Failure):
    """People were erased while something ran that had begun with them."""

    code = "erased_meanwhile"

    def __init__(self) -> None:
        super().__init__(
            "people were erased while this ran", hint="run the command again; feeds run again by themselves"
        )


def is_kept(scope: Scope, snapshot: Snapshot) -> bool:
    """Return whether a pinned generation is still there: if not, it may have people who were erased meanwhile."""
    rows = tables.manifests
    mine = (rows.c.project_id == scope.id, rows.c.generation == snapshot.generation)
    with scope.read() as tx:
        return not snapshot.generation or tx.execute(select(rows.c.id).where(*mine)).first() is not None


def kept(scope: Scope, tx: Tx) -> Iterator[Snapshot]:
    """Yield the generations that are kept, the newest first."""
    rows = tables.manifests
    query = select(rows.c.generation, rows.c.content).where(rows.c.project_id == scope.id)
    for row in tx.execute(query.order_by(rows.c.generation.desc())):
        yield Snapshot(scope.data_directory, row.generation, Manifest.from_document(row.content))


def stored_generation(scope: Scope, tx: Tx, generation: int) -> Snapshot | None:
    """Return a generation that is still kept."""
    rows = tables.manifests
    mine = (rows.c.project_id == scope.id, rows.c.generation == generation)
    row = tx.execute(select(rows.c.content).where(*mine)).first()
    return None if row is None else Snapshot(scope.data_directory, generation, Manifest.from_document(row.content))


def newest_generation(scope: Scope, tx: Tx) -> int:
    rows = tables.manifests
    query = select(rows.c.generation).where(rows.c.project_id == scope.id).order_by(rows.c.generation.desc()).limit(1)
    return tx.scalar(query) or 0


def changes_after(scope: Scope, tx: Tx, generation: int) -> list[int]:
    """Return the times of the changes after a generation, oldest first, as far as generations are kept."""
    rows = tables.manifests
    query = select(rows.c.created).where(rows.c.project_id == scope.id, rows.c.generation > generation)
    return [*tx.scalars(query.order_by(rows.c.generation))]


def settled(changes: list[int], now: int) -> bool:
    """Return whether the data has not changed for QUIET_SECONDS, or has kept changing for PATIENCE_SECONDS."""
    return now >= settles(changes)


def settles(changes: list[int]) -> int:
    """Return from when on these changes are settled, if no other follows."""
    return min(changes[-1] + QUIET_SECONDS, changes[0] + PATIENCE_SECONDS) if changes else 0
