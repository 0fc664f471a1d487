"""A project's data: immutable files and the manifest row that names them.

A reader pins a `Snapshot`. A writer makes a `Draft` of the newest one inside its transaction: new files are on disk
before the manifest row that names them, so a kill leaves the old generation or the new one, and at worst files that
nobody names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import Connection, select

from psi import kernel
from psi.values import U8, Bools, Indices, Values

from ..consent import consent
from ..errors import Failure, InvalidInput
from ..storage import tables
from ..storage.files import write_atomically

if TYPE_CHECKING:
    from ..project import Project

Numbers = npt.NDArray[np.uint32]  # profiles, by their dense numbers

KEPT_GENERATIONS = 8  # how long a reader may hold on to a pinned snapshot
MAX_ID = 255  # bytes of a profile id
NUMBER = "#"  # the column of attribute files that holds profile numbers
NOTED = np.dtype(  # consent of a profile's identities in a namespace
    [("profile", "<u4"), ("code", "u1"), ("at", "<i8"), ("basis", "<u2")]
)
MAX_BASES = 1_000  # different ones in a project: more are no bases but something about single people


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """The identities of one namespace, sorted by value and profile, each pair once.

    `profiles` is uint32 (n,); `consent` is uint8 (n,), the code for this profile's identities in this namespace.
    """

    values: Values
    profiles: Numbers
    consent: U8

    def __len__(self) -> int:
        return len(self.values)


class Snapshot:
    """One generation of a project's data, read from memory-mapped files."""

    def __init__(self, directory: Path, generation: int, content: dict[str, Any]) -> None:
        self.directory = directory
        self.generation = generation
        self.content = content

    @classmethod
    def open(cls, project: "Project", connection: Connection | None = None) -> "Snapshot":
        """Pin the newest generation, as `connection` sees it if one is given; 0 is the empty one."""
        if connection is None:
            with project.node.store.read() as reading:
                return cls.open(project, reading)
        rows = tables.manifests
        query = select(rows.c.generation, rows.c.content).where(rows.c.project_id == project.id)
        row = connection.execute(query.order_by(rows.c.generation.desc()).limit(1)).first()
        return cls(project.data_directory, row.generation if row else 0, dict(row.content) if row else {})

    # Profiles

    @property
    def profile_count(self) -> int:
        return int(self.content.get("count", 0))

    @cached_property
    def profile_ids(self) -> npt.NDArray[np.bytes_]:
        """The ids, UTF-8 in rows of one width; a profile's number is its place."""
        return self._array("ids", np.dtype("S1"))

    @cached_property
    def profile_consent(self) -> U8:
        return self._array("consent", np.dtype(np.uint8))

    @cached_property
    def profile_consent_at(self) -> npt.NDArray[np.int64]:
        return self._array("consent_at", np.dtype(np.int64))

    @cached_property
    def profile_consent_basis(self) -> npt.NDArray[np.uint16]:
        return self._array("consent_basis", np.dtype(np.uint16))

    def basis(self, number: int) -> str | None:
        """Return the text of a consent's basis; 0 is none."""
        if number == consent.UNDATED:
            return consent.UNDATED_BASIS
        return str(self.content["bases"][number - 1]) if number else None

    def numbers(self, ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """Return the numbers of profiles by id, -1 for those that are not there."""
        known = self.profile_ids
        if not len(known) or not len(ids):
            return np.full(len(ids), -1, np.int64)
        order = self._array("order", np.dtype(np.uint32))
        places = np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)
        found = order[places].astype(np.int64)
        return np.where(known[found] == ids, found, -1)

    # Identities

    @property
    def namespaces(self) -> list[str]:
        """The namespaces with rule ids ("email_sha256/lc-v1") that hold identities, sorted."""
        return sorted(self.content.get("identities", {}))

    def identities(self, namespace: str) -> Identities:
        """Return one namespace's identities; empty where there are none."""
        held = Held.read(self, namespace)
        if self.content.get("identities", {}).get(namespace, {}).get("repeated"):  # two datasets know the same
            held = held.take(np.flatnonzero(begins(held.values, held.profiles)))
        codes = np.zeros(self.profile_count, np.uint8)
        noted = self.noted(namespace)
        codes[noted["profile"]] = noted["code"]
        return Identities(values=held.values, profiles=held.profiles, consent=codes[held.profiles])

    def starts(self, namespace: str) -> Indices:
        """Return where each distinct value begins in `identities(namespace)`, for `reduceat` over its holders."""
        return np.flatnonzero(begins(self.identities(namespace).values))

    def distinct(self, namespace: str) -> tuple[Values, Indices]:
        """Return the distinct values, sorted, and where each begins in `identities(namespace)`."""
        values = self.identities(namespace).values
        starts = np.flatnonzero(begins(values))
        return values if len(starts) == len(values) else values.take(starts), starts

    def primary(self, namespace: str) -> Bools:
        """Say for each row of `identities(namespace)` whether it is its profile's primary identity.

        That is the one marked so at import, else the first given.
        """
        best = np.full(self.profile_count, np.iinfo(np.int64).max, np.int64)
        for place, name in enumerate(self.namespaces):
            held = Held.read(self, name)
            np.minimum.at(best, held.profiles, held.key(place))
        held = Held.read(self, namespace)
        primary = best[held.profiles] == held.key(self.namespaces.index(namespace)) if len(held.profiles) else []
        mask = np.asarray(primary, bool)
        if self.content["identities"].get(namespace, {}).get("repeated"):
            first = np.flatnonzero(begins(held.values, held.profiles))
            mask = np.logical_or.reduceat(mask, first)
        return mask

    def given_outside(self, namespace: str, sources: Sequence[int]) -> Bools:
        """Say for each row of `identities(namespace)` whether any dataset but these gave it."""
        held = Held.read(self, namespace)
        mask = ~np.isin(held.sources, sources)
        if self.content["identities"].get(namespace, {}).get("repeated"):
            mask = np.logical_or.reduceat(mask, np.flatnonzero(begins(held.values, held.profiles)))
        return mask

    def noted(self, namespace: str) -> npt.NDArray[Any]:
        """Return the consent noted for single namespaces, NOTED rows in order of profile."""
        name = self.content.get("noted", {}).get(namespace.partition("/")[0])
        return self._load(name) if name else np.zeros(0, NOTED)

    # Attributes and segments

    @property
    def attributes(self) -> dict[str, Path]:
        """A Parquet file per dataset: the column NUMBER (of the profile), then text columns."""
        return {name: self.directory / file for name, file in self.content.get("attributes", {}).items()}

    def members(self, segment_id: str) -> BitMap:
        """Return a segment's profile numbers as they were last evaluated."""
        name = self.content.get("segments", {}).get(segment_id)
        return BitMap.deserialize(self._bytes(name)) if name else BitMap()

    def _array(self, key: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        name = self.content.get(key)
        return self._load(name) if name else np.zeros(0, dtype)

    def _load(self, name: str) -> npt.NDArray[Any]:
        try:
            return np.load(self.directory / name, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError, EOFError) as error:
            raise self._missing(name) from error

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.directory / name).read_bytes()
        except OSError as error:
            raise self._missing(name) from error

    def _missing(self, name: str) -> Failure:
        return Failure(
            f"the data file {name} of generation {self.generation} is missing or damaged",
            hint="run the command again; if it stays so, restore the home from a backup",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Identity rows as they are stored: which dataset gave each (`source`), and how early in its profile (`rank`)."""

    values: Values
    profiles: Numbers
    sources: npt.NDArray[np.uint16]
    ranks: npt.NDArray[np.uint16]

    @classmethod
    def read(cls, snapshot: Snapshot, namespace: str) -> "Held":
        files = snapshot.content.get("identities", {}).get(namespace)
        if files is None:
            return cls(
                values=Values(np.zeros((0, 0), np.uint8)),
                profiles=np.zeros(0, np.uint32),
                sources=np.zeros(0, np.uint16),
                ranks=np.zeros(0, np.uint16),
            )
        lengths = snapshot._load(files["lengths"]) if files["lengths"] else None
        return cls(
            values=Values(snapshot._load(files["rows"]), lengths),
            profiles=snapshot._load(files["profiles"]),
            sources=snapshot._load(files["sources"]),
            ranks=snapshot._load(files["ranks"]),
        )

    def take(self, indices: Indices | Bools) -> "Held":
        return Held(
            values=self.values.take(indices),
            profiles=self.profiles[indices],
            sources=self.sources[indices],
            ranks=self.ranks[indices],
        )

    def join(self, other: "Held") -> "Held":
        return Held(
            values=Values.join([self.values, other.values]),
            profiles=np.concatenate([self.profiles, other.profiles]),
            sources=np.concatenate([self.sources, other.sources]),
            ranks=np.concatenate([self.ranks, other.ranks]),
        )

    def sorted(self) -> "Held":
        """Return the rows in order of value, profile, source, each such triple once, with its lowest rank."""
        found = order(self.values, self.profiles, self.sources, self.ranks)
        return self.take(found[begins(self.values, self.profiles, self.sources, by=found)])

    def key(self, place: int) -> npt.NDArray[np.int64]:
        """Return a number per row that is lowest for a profile's primary identity; `place` is the namespace's."""
        rows = np.arange(len(self.profiles), dtype=np.int64)
        return (self.ranks.astype(np.int64) << 44) | (np.int64(place) << 36) | rows


def order(values: Values, *then: npt.NDArray[Any]) -> Indices:
    """Return the permutation that sorts by value, then by further columns, then by place."""
    beginnings = _words(values.rows[:, :8])[0]
    found = kernel.order(beginnings)
    arranged = beginnings[found]
    same = np.flatnonzero(arranged[1:] == arranged[:-1])
    alike = np.zeros(len(found), bool)  # rows that begin as another does: hashes, only where they repeat
    alike[same] = alike[same + 1] = True
    rows = found[alike]
    keys: list[npt.NDArray[Any]] = _words(np.take(values.rows, rows, axis=0))
    keys += [column[rows] for column in (then if values.lengths is None else (values.lengths, *then))]
    beside = keys[0][1:] == keys[0][:-1]
    keys[1:] = [key for key in keys[1:] if (key[1:] != key[:-1])[beside].any()]  # those that tell rows apart
    found[alike] = rows[np.lexsort(keys[::-1])]
    return found


def _as_values(ids: npt.NDArray[np.bytes_]) -> Values:
    """Return ids as rows of their width, the unused bytes zero: these compare as the ids do."""
    return Values(np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), ids.dtype.itemsize))


def _words(rows: U8) -> list[npt.NDArray[np.uint64]]:
    """Return the rows as columns of numbers that compare as they do, at least one."""
    count, width = rows.shape
    padded = np.zeros((count, max(1, -(-width // 8)) * 8), np.uint8)
    padded[:, :width] = rows
    return list(padded.view(">u8").astype(np.uint64).T)


def begins(values: Values, *columns: npt.NDArray[Any], by: Indices | None = None) -> Bools:
    """Say which rows, sorted by value or taken in the order `by`, differ from the row before."""
    first = np.ones(len(values), bool)
    beginnings = _words(values.rows[:, :8])[0]
    if by is not None:
        beginnings = beginnings[by]
    same = np.flatnonzero(beginnings[1:] == beginnings[:-1])
    before, row = (same, same + 1) if by is None else (by[same], by[same + 1])
    equal = (np.take(values.rows, row, axis=0) == np.take(values.rows, before, axis=0)).all(axis=1)
    for column in columns if values.lengths is None else (values.lengths, *columns):
        equal &= column[row] == column[before]
    first[same[equal] + 1] = False
    return first


@dataclass(slots=True)
class Draft:
    """The generation after `base`, being written in one transaction."""

    project: "Project"
    tx: Connection
    base: Snapshot = field(init=False)
    content: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.base = Snapshot.open(self.project, self.tx)
        self.content = {
            key: dict(value) if isinstance(value, dict) else value for key, value in self.base.content.items()
        }

    def save(self, kind: str, array: npt.NDArray[Any]) -> str:
        """Write an array and return the file's name."""
        array = np.ascontiguousarray(array)
        header = BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        name = self._name(f"{kind}.npy")
        write_atomically(self.project.data_directory / name, [header.getvalue(), array.reshape(-1).view(np.uint8).data])
        return name

    def save_bytes(self, kind: str, data: bytes) -> str:
        name = self._name(kind)
        write_atomically(self.project.data_directory / name, data)
        return name

    def _name(self, kind: str) -> str:
        return f"{self.project.node.random(8).hex()}-{kind}"

    def add_profiles(self, ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """Return the number of each id; those not there yet get the next numbers, in order of first appearance."""
        arranged = order(_as_values(ids))
        first = begins(_as_values(ids), by=arranged)
        appearance = arranged[first]  # of each distinct id, in order of ids, the row where it stands first
        numbers = self.base.numbers(ids[appearance])
        unknown = numbers < 0
        appears = np.zeros(len(ids), bool)
        appears[appearance[unknown]] = True
        numbers[unknown] = self.base.profile_count - 1 + np.cumsum(appears)[appearance[unknown]]
        new = np.flatnonzero(appears)
        if len(new):
            known = np.concatenate([self.base.profile_ids, ids[new]]) if self.base.profile_count else ids[new]
            self.content["count"] = len(known)
            self.content["ids"] = self.save("ids", known)
            in_order = order(_as_values(known)) if self.base.profile_count else numbers  # then all ids are new
            self.content["order"] = self.save("order", in_order.astype(np.uint32))
            for key, column in (
                ("consent", self.base.profile_consent),
                ("consent_at", self.base.profile_consent_at),
                ("consent_basis", self.base.profile_consent_basis),
            ):
                self.content[key] = self.save(key, np.concatenate([column, np.zeros(len(new), column.dtype)]))
        found = np.empty(len(ids), np.int64)
        found[arranged] = numbers[np.cumsum(first) - 1]
        return found

    def said(self, namespace: str | None = None) -> consent.Words:
        """Return a copy of what all profiles said, for all of them or for their identities in one namespace."""
        now = Snapshot(self.base.directory, self.base.generation, self.content)
        if namespace is None:
            return consent.Words(
                codes=np.array(now.profile_consent),
                at=np.array(now.profile_consent_at),
                bases=np.array(now.profile_consent_basis),
            )
        noted, words = now.noted(namespace), consent.Words.nothing(now.profile_count)
        places = noted["profile"]
        words.codes[places], words.at[places], words.bases[places] = noted["code"], noted["at"], noted["basis"]
        return words

    def note_consent(
        self, profiles: npt.NDArray[np.int64], words: consent.Words, namespace: str | None = None
    ) -> consent.Noted:
        """Note what profiles said, for all of them or for their identities in one namespace, as `consent.merge` does."""
        kept = self.said(namespace)
        found = consent.merge(kept, profiles, words)
        if namespace is None:
            for key, column in (("consent", kept.codes), ("consent_at", kept.at), ("consent_basis", kept.bases)):
                self.content[key] = self.save(key, column)
            return found
        rows = np.flatnonzero(kept.codes)
        table = np.zeros(len(rows), NOTED)
        table["profile"], table["code"] = rows, kept.codes[rows]
        table["at"], table["basis"] = kept.at[rows], kept.bases[rows]
        self.content.setdefault("noted", {})[namespace.partition("/")[0]] = self.save("noted", table)
        return found

    def bases(self, texts: Sequence[str]) -> npt.NDArray[np.uint16]:
        """Return the number of each text among the project's bases of consent, new ones added; "" is 0."""
        if consent.UNDATED_BASIS in texts:
            raise InvalidInput(f"the basis {consent.UNDATED_BASIS!r} is kept for profile imports", hint="use another")
        known = list(self.content.get("bases", []))
        numbers = {"": 0} | {text: number for number, text in enumerate(known, start=1)}
        for text in dict.fromkeys(texts):
            if text not in numbers:
                known.append(text)
                numbers[text] = len(known)
        if len(known) > MAX_BASES:
            raise InvalidInput(
                f"that would be {len(known)} different bases of consent, over {MAX_BASES}",
                hint="a basis is a short code, the same for many people",
            )
        self.content["bases"] = known
        return np.fromiter(map(numbers.__getitem__, texts), np.uint16, len(texts))

    def replace_identities(self, namespace: str, dataset: str, touched: Bools, given: Held) -> None:
        """Let a dataset's rows for the touched profiles be `given` (sorted); what other datasets say stays."""
        held = Held.read(self.base, namespace)
        stays = (held.sources != self.source(dataset)) | ~touched[held.profiles]
        merged, repeated = given, False
        if stays.any():
            merged = held.take(stays).join(given).sorted()
            repeated = not begins(merged.values, merged.profiles).all()
        self.content.setdefault("identities", {})[namespace] = {
            "rows": self.save("rows", merged.values.rows),
            "lengths": None if merged.values.lengths is None else self.save("lengths", merged.values.lengths),
            "profiles": self.save("profiles", merged.profiles),
            "sources": self.save("sources", merged.sources),
            "ranks": self.save("ranks", merged.ranks),
            "repeated": repeated,
        }

    def source(self, dataset: str) -> int:
        """Return the number by which identity rows name a dataset."""
        names = self.content.get("sources", [])
        if dataset not in names:
            names = self.content["sources"] = [*names, dataset]
        return int(names.index(dataset))

    def set_members(self, segment_id: str, members: BitMap | None) -> None:
        """Replace a segment's members; None takes the segment away."""
        segments = self.content.setdefault("segments", {})
        if members is None:
            segments.pop(segment_id, None)
        else:
            segments[segment_id] = self.save_bytes("members.roaring", members.serialize())

    def publish(self) -> Snapshot:
        """Make this the newest generation, and drop the files that none of the last generations names."""
        rows, generation = tables.manifests, self.base.generation + 1
        self.tx.execute(
            rows.insert().values(
                id=self.project.node.new_id(),
                project_id=self.project.id,
                generation=generation,
                content=self.content,
                created=self.project.node.now(),
            )
        )
        mine = rows.c.project_id == self.project.id
        old = self.tx.execute(select(rows.c.content).where(mine, rows.c.generation <= generation - KEPT_GENERATIONS))
        gone = {name for row in old for name in files_of(row.content)}
        recent = self.tx.execute(select(rows.c.content).where(mine, rows.c.generation > generation - KEPT_GENERATIONS))
        self.tx.execute(rows.delete().where(mine, rows.c.generation <= generation - KEPT_GENERATIONS))
        for name in gone - {name for row in recent for name in files_of(row.content)}:
            delete = partial((self.project.data_directory / name).unlink, missing_ok=True)
            self.project.node.store.afterwards(delete)  # a rollback leaves the generations that name it
        return Snapshot(self.project.data_directory, generation, self.content)


def newest_generation(project: "Project", connection: Connection) -> int:
    rows = tables.manifests
    query = select(rows.c.generation).where(rows.c.project_id == project.id).order_by(rows.c.generation.desc()).limit(1)
    return connection.scalar(query) or 0


def changes_after(project: "Project", connection: Connection, generation: int) -> list[int]:
    """Return when the data changed after a generation, oldest first, as far as generations are kept."""
    rows = tables.manifests
    query = select(rows.c.created).where(rows.c.project_id == project.id, rows.c.generation > generation)
    return [*connection.scalars(query.order_by(rows.c.generation))]


def remove_leftovers(project: "Project") -> None:
    """Delete the files that no generation names: a kill left them. Whoever makes a Draft holds the transaction."""
    directory = project.data_directory
    if not directory.is_dir():
        return
    with project.node.store.begin() as tx:
        rows = tables.manifests
        named = {
            name
            for content in tx.scalars(select(rows.c.content).where(rows.c.project_id == project.id))
            for name in files_of(content)
        }
        for path in directory.iterdir():
            if path.is_file() and path.name not in named:
                path.unlink(missing_ok=True)


def files_of(content: Any) -> set[str]:
    """Return the files that a manifest's content names."""
    if isinstance(content, dict):
        return {name for value in content.values() for name in files_of(value)}
    return {content} if isinstance(content, str) else set()
