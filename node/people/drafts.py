"""A project's next generation of data, as a writer makes it inside a transaction.

New files are on disk before the manifest row that names them, so a kill leaves the old generation or the new one, and at
worst files that nobody names.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import select

from psi.join import order_of
from psi.values import Bools

from ..access.scope import Scope
from ..errors import InvalidInput
from ..storage import tables
from ..storage.database import Tx
from ..storage.files import below, write_atomically
from . import consent
from .identity_rows import IdentityRows, as_values, begins
from .manifests import IdentityFiles, Manifest
from .snapshots import NOTED, Snapshot
from .splicing import Splice, before, places_of
from .touched import MOST_GENERATIONS, Touched, few

KEPT_GENERATIONS = 8  # so many newer ones may come while a reader uses a pinned snapshot
MAX_ID = 255  # bytes of a profile id
MAX_BASES = 1_000  # different ones in a project: more would say something about single people


class SortedIdentities(Protocol):
    """Identity rows as `IdentityRows.sorted` arranges them, in blocks: the arrays of its `columns` by their `kinds`."""

    def __len__(self) -> int: ...
    @property
    def kinds(self) -> Sequence[str]: ...
    def blocks(self, kind: str, /) -> Iterator[npt.NDArray[Any]]: ...


@dataclass(slots=True)
class Draft:
    """The generation after `base`, being written in one transaction."""

    scope: Scope
    tx: Tx
    base: Snapshot = field(init=False)
    content: Manifest = field(init=False)
    touched: Touched = field(default_factory=Touched)

    def __post_init__(self) -> None:
        self.base = Snapshot.open(self.scope, self.tx)
        self.content = self.base.content

    @property
    def snapshot(self) -> Snapshot:
        """What is written so far, as the next generation's readers will see it."""
        return Snapshot(self.base.directory, self.base.generation, self.content)

    def save(self, kind: str, array: npt.NDArray[Any]) -> str:
        """Write an array and return the file's name."""
        return self._save(kind, array, array.shape, iter([array]))

    def splice(self, kind: str, splice: Splice, old: npt.NDArray[Any], new: npt.NDArray[Any]) -> str:
        """Write a column of a table that others are put into, and return the file's name; both are of one type."""
        return self._save(
            kind, old, (splice.count, *old.shape[1:]), splice.blocks(old, new.astype(old.dtype, copy=False))
        )

    def _save(
        self, kind: str, like: npt.NDArray[Any], shape: tuple[int, ...], blocks: Iterator[npt.NDArray[Any]]
    ) -> str:
        header = BytesIO()
        about = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, about)
        contents = (np.ascontiguousarray(block).reshape(-1).view(np.uint8).data for block in blocks)
        name = self._name(f"{kind}.npy")
        write_atomically(self.scope.data_directory / name, chain([header.getvalue()], contents))
        return name

    def save_bytes(self, kind: str, data: bytes) -> str:
        name = self._name(kind)
        write_atomically(self.scope.data_directory / name, data)
        return name

    def _name(self, kind: str) -> str:
        return f"{self.scope.home.random(8).hex()}-{kind}"

    def add_profiles(self, ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """Return the number of each id; new ids get the next numbers, in order of first appearance."""
        arranged = order_of(as_values(ids))
        first = begins(as_values(ids), by=arranged)
        if not self.base.profile_count and first.all():
            self._save_profiles(ids, arranged, new=len(ids))
            return np.arange(len(ids))
        appearance = arranged[first]  # of each distinct id, in order of ids, the row where it stands first
        numbers = self.base.numbers(ids[appearance])
        unknown = numbers < 0
        appears = np.zeros(len(ids), bool)
        appears[appearance[unknown]] = True
        numbers[unknown] = self.base.profile_count - 1 + np.cumsum(appears)[appearance[unknown]]
        new = np.flatnonzero(appears)
        if len(new):
            known = np.concatenate([self.base.profile_ids, ids[new]]) if self.base.profile_count else ids[new]
            in_order = order_of(as_values(known)) if self.base.profile_count else numbers  # then all ids are new
            self._save_profiles(known, in_order, new=len(new))
        found = np.empty(len(ids), np.int64)
        found[arranged] = numbers[np.cumsum(first) - 1]
        return found

    def _save_profiles(self, ids: npt.NDArray[np.bytes_], order: npt.NDArray[np.int64], *, new: int) -> None:
        """Replace the ids of profiles, the last of which are new: these have said nothing."""
        self.touched.add(BitMap(range(len(ids) - new, len(ids))))
        self.change(count=len(ids), ids=self.save("ids", ids), order=self.save("order", order.astype(np.uint32)))
        said, nothing = self.base.said(), consent.Words.nothing(new)
        self.save_consent(consent.Words.join([said, nothing]) if len(said.codes) else nothing)

    def note_consent(
        self,
        profiles: npt.NDArray[np.int64],
        words: consent.Words,
        namespace: str | None = None,
        *,
        seen: consent.AsSeen | None = None,
    ) -> consent.Noted:
        """Note what profiles said, for all of them or for their identities in one namespace, as `consent.merge` does.

        What changed is counted as who sees not all of them has `seen` it.
        """
        kept = self.snapshot.said(namespace)
        before = kept.codes[profiles]
        shown = None if seen is None else consent.merge(seen.said(namespace, kept), profiles, words)
        found = consent.merge(kept, profiles, words)
        self.touched.add(BitMap(profiles[kept.codes[profiles] != before].astype(np.uint32)))
        if namespace is None:
            self.save_consent(kept)
            return shown or found
        rows = np.flatnonzero(kept.codes)
        table = np.zeros(len(rows), NOTED)
        table["profile"], table["code"] = rows, kept.codes[rows]
        table["at"], table["basis"] = kept.at[rows], kept.bases[rows]
        name = namespace.partition("/")[0]
        self.change(noted={**self.content.noted, name: self.save("noted", table)})
        return shown or found

    def save_consent(self, words: consent.Words) -> None:
        """Replace what profiles said for all of them."""
        self.change(
            consent=self.save("consent", words.codes),
            consent_at=self.save("consent_at", words.at),
            consent_basis=self.save("consent_basis", words.bases),
        )

    def bases(self, texts: Sequence[str]) -> npt.NDArray[np.uint16]:
        """Return the number of each text among the project's bases of consent, new ones added; "" is 0."""
        if consent.UNDATED_BASIS in texts:
            raise InvalidInput(f"the basis {consent.UNDATED_BASIS!r} is kept for profile imports", hint="use another")
        known = list(self.content.bases)
        free = [number for number, text in enumerate(known, start=1) if not text]
        numbers = {"": 0} | {text: number for number, text in enumerate(known, start=1) if text}
        for text in dict.fromkeys(texts):
            if text not in numbers:
                if not free:
                    known.append("")
                    free.append(len(known))
                numbers[text] = free.pop(0)
                known[numbers[text] - 1] = text
        if len(known) > MAX_BASES:
            raise InvalidInput(
                f"that would be {len(known)} different bases of consent, over {MAX_BASES}",
                hint="a basis is a short code, the same for many people",
            )
        self.change(bases=tuple(known))
        return np.fromiter(map(numbers.__getitem__, texts), np.uint16, len(texts))

    def _forget_bases(self) -> None:
        """Take out the texts of bases that nobody has any more, or ever had; their numbers are given again."""
        now, before = self.content, self.base.content
        if not now.bases or (now.bases, now.consent_basis, now.noted) == (
            before.bases,
            before.consent_basis,
            before.noted,
        ):
            return
        written = self.snapshot
        used = set(np.unique(written.profile_consent_basis).tolist())
        for name in now.noted:
            used.update(np.unique(written.noted(name)["basis"]).tolist())
        bases = [text if number in used else "" for number, text in enumerate(now.bases, start=1)]
        while bases and not bases[-1]:
            bases.pop()
        self.change(bases=tuple(bases))

    def replace_identities(self, namespace: str, dataset: str, touched: Bools, given: IdentityRows) -> None:
        """Replace a dataset's rows for the touched profiles by `given` (sorted); those of other datasets stay."""
        old = self.base.rows(namespace)
        stays = (old.sources != self.source(dataset)) | ~touched[old.profiles]
        if few(np.flatnonzero(touched), self.content.count) is None:
            self.touched.everybody()
        else:
            self.touched.add(BitMap(old.take(~stays).join(given).alone().profiles))
        if not stays.any():
            return self.set_identities(namespace, given, repeated=False)
        if not len(given) and stays.all():
            return None
        alike = places_of(old.values.rows, given.values.rows)
        new = old.take(alike[stays[alike]]).join(given).sorted().packed_as(old)
        if new is None:
            merged = old.take(stays).join(given).sorted()
            return self.set_identities(namespace, merged, repeated=not begins(merged.values, merged.profiles).all())
        stays[alike] = False
        splice, was = Splice(kept=stays, before=before(old.values.rows, new.values.rows)), old.columns()
        names = {kind: self.splice(kind, splice, was[kind], column) for kind, column in new.columns().items()}
        repeated = self.base.content.identities[namespace].repeated or not begins(new.values, new.profiles).all()
        self.change(identities={**self.content.identities, namespace: IdentityFiles(**names, repeated=repeated)})
        return None

    def write_identities(self, namespace: str, touched: Bools, given: SortedIdentities) -> None:
        """Write the rows of a namespace that had none, all given by one dataset, for the touched profiles."""
        self._touch(touched)
        names = {}
        for kind in given.kinds:
            blocks = given.blocks(kind)
            first = next(blocks)
            names[kind] = self._save(kind, first, (len(given), *first.shape[1:]), chain([first], blocks))
        files = IdentityFiles(**names, repeated=False)
        self.change(identities={**self.content.identities, namespace: files})

    def _touch(self, touched: Bools) -> None:
        profiles = np.flatnonzero(touched)
        if few(profiles, self.content.count) is None:
            self.touched.everybody()
        else:
            self.touched.add(BitMap(profiles.astype(np.uint32)))

    def set_identities(self, namespace: str, rows: IdentityRows, *, repeated: bool) -> None:
        """Replace a namespace's rows, which are sorted; without a row the namespace goes. The caller notes whom it touched."""
        identities = {name: files for name, files in self.content.identities.items() if name != namespace}
        if len(rows):
            names = {kind: self.save(kind, column) for kind, column in rows.columns().items()}
            identities[namespace] = IdentityFiles(**names, repeated=repeated)
        self.change(identities=identities)

    def source(self, dataset: str) -> int:
        """Return the number by which identity rows name a dataset."""
        if dataset not in self.content.sources:
            self.change(sources=(*self.content.sources, dataset))
        return self.content.sources.index(dataset)

    def set_attributes(self, dataset: str, written: Path) -> None:
        """Replace a dataset's attributes by a copy of a Parquet file, as attributes.py does, which notes whom it touched."""
        file = self._name("attributes.parquet")
        with written.open("rb") as content:
            write_atomically(self.scope.data_directory / file, iter(partial(content.read, 1 << 20), b""))
        self.change(attributes={**self.content.attributes, dataset: file})

    def set_lists(self, dataset: str, names: Iterable[str]) -> None:
        """Note which segments a dataset's exports brought."""
        self.change(lists={**self.content.lists, dataset: tuple(names)})

    def forget_list(self, segment: str) -> None:
        """Note that no export brought a segment of that name: the next one may not change it."""
        lists = self.content.lists.items()
        self.change(lists={dataset: tuple(each for each in names if each != segment) for dataset, names in lists})

    def set_members(self, segment_id: str, members: BitMap | None) -> None:
        """Replace a segment's members; None takes the segment away."""
        self.touched.add(self.snapshot.members(segment_id) ^ (BitMap() if members is None else members))
        segments = {each: file for each, file in self.content.segments.items() if each != segment_id}
        if members is not None:
            segments[segment_id] = self.save_bytes("members.roaring", members.serialize())
        self.change(segments=segments)

    def change(self, **values: Any) -> None:
        """Name other files, or more, in the generation that is being written."""
        self.content = replace(self.content, **values)

    def _note_touched(self) -> None:
        """Name a file with the profiles that this generation changed, beside those of the generations before."""
        profiles = self.touched.profiles(self.content.count)
        name = "" if profiles is None else self.save_bytes("touched.roaring", profiles.serialize())
        self.change(touched=(*self.base.content.touched, name)[-MOST_GENERATIONS:])

    def publish(self, *, keep: int = KEPT_GENERATIONS) -> Snapshot:
        """Make this the newest generation, and drop the files that none of the last `keep` generations names."""
        self._forget_bases()
        self._note_touched()
        rows, generation = tables.manifests, self.base.generation + 1
        self.tx.execute(
            rows.insert().values(
                id=self.scope.home.new_id(),
                project_id=self.scope.id,
                generation=generation,
                content=self.content.document(),
                created=self.scope.home.now(),
            )
        )
        mine = rows.c.project_id == self.scope.id
        old = self.tx.execute(select(rows.c.content).where(mine, rows.c.generation <= generation - keep))
        gone = {name for row in old for name in Manifest.from_document(row.content).files}
        recent = self.tx.execute(select(rows.c.content).where(mine, rows.c.generation > generation - keep))
        self.tx.execute(rows.delete().where(mine, rows.c.generation <= generation - keep))
        kept = {name for row in recent for name in Manifest.from_document(row.content).files}
        for name in gone - kept:
            delete = partial(below(self.scope.data_directory, name).unlink, missing_ok=True)
            self.scope.home.database.afterwards(delete)  # a rollback leaves the generations that name it
        return Snapshot(self.scope.data_directory, generation, self.content)


def remove_leftovers(scope: Scope) -> None:
    """Delete the files that no generation names, which a kill left.

    Nobody writes a Draft meanwhile: that needs a transaction that writes too.
    """
    directory = scope.data_directory
    if not directory.is_dir():
        return
    with scope.begin() as tx:
        rows = tables.manifests
        named = {
            name
            for content in tx.scalars(select(rows.c.content).where(rows.c.project_id == scope.id))
            for name in Manifest.from_document(content).files
        }
        for path in directory.iterdir():
            if path.is_file() and path.name not in named:
                path.unlink(missing_ok=True)
