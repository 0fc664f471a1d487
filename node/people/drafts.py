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

from psi.engine import blocks
from psi.values import SLICE, Bools

from ..access.scope import Scope
from ..compute.aside import Aside, KeptArrays
from ..errors import InvalidInput
from ..storage import tables
from ..storage.database import Tx
from ..storage.files import below, write_atomically
from ..storage.sorted_files import texts
from . import consent
from .identity_rows import IdentityRows, ProfileNumbers, begins
from .manifests import IdentityFiles, Manifest
from .numbering import IdParts, Numbering
from .snapshots import NOTED, Snapshot
from .splicing import Column, Splice, Survey, Table
from .stored_columns import identity_columns
from .touched import MOST_GENERATIONS, Touched, few

KEPT_GENERATIONS = 8  # so many newer ones may come while a reader uses a pinned snapshot
MAX_ID = 255  # bytes of a profile id
MAX_BASES = 1_000  # different ones in a project: more would say something about single people


class SortedIdentities(Protocol):
    """Identities by the first bytes of their values: one part before each of the `edges`, which ascend, and one behind."""

    @property
    def edges(self) -> npt.NDArray[np.bytes_]: ...
    def parts(self) -> Iterator[IdentityRows]:
        """Yield each part, as `IdentityRows.sorted` arranges it."""


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

    def save_kept(self, kind: str, arrays: KeptArrays) -> str:
        """Write an array that is kept in parts, of which there is at least one, and return the file's name."""
        first = arrays.get(0, kind)
        return self._save(kind, first, (arrays.rows(kind), *first.shape[1:]), arrays.parts(kind))

    def splice(self, kind: str, splice: Splice, old: Column, new: npt.NDArray[Any]) -> str:
        """Write a column of a table that others are put into, and return the file's name; both are of one type."""
        return self._save(
            kind, old, (splice.count, *old.shape[1:]), splice.blocks(old, new.astype(old.dtype, copy=False))
        )

    def _save(self, kind: str, like: Column, shape: tuple[int, ...], blocks: Iterator[npt.NDArray[Any]]) -> str:
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

    def add_profiles(self, ids: IdParts) -> ProfileNumbers:
        """Return the number of each id; new ids get the next numbers, in order of first appearance."""
        found = Numbering(self.base, ids)
        if found.new:
            self._save_profiles(found)
        return found.numbers

    def _save_profiles(self, found: Numbering) -> None:
        """Put new profiles behind those that there are: they have said nothing."""
        base, count = self.base, self.base.profile_count + found.new
        self.touched.add(BitMap(range(base.profile_count, count)))
        self.change(
            count=count,
            ids=self._save("ids", np.zeros(0, found.type), (count,), found.ids()),
            order=self._save("order", np.zeros(0, np.uint32), (count,), found.order()),
            consent=self._lengthened("consent", base.profile_consent, count),
            consent_at=self._lengthened("consent_at", base.profile_consent_at, count),
            consent_basis=self._lengthened("consent_basis", base.profile_consent_basis, count),
        )

    def _lengthened(self, kind: str, old: npt.NDArray[Any], count: int) -> str:
        """Write a column for so many profiles, with nothing for those that are new."""
        new = (np.zeros(min(SLICE, count - start), old.dtype) for start in range(len(old), count, SLICE))
        return self._save(kind, old, (count,), chain(blocks(old, SLICE), new))

    def note_consent(
        self,
        profiles: npt.NDArray[np.integer[Any]],
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
        columns, source = identity_columns(self.base, namespace), self.source(dataset)
        if not columns:
            self._touch(touched, given)
            return self.set_identities(namespace, given, repeated=False)

        def stays(block: Table) -> Bools:
            return np.asarray((block["sources"] != source) | ~touched[block["profiles"]], bool)

        old = Survey.of(columns, "rows", given.values.rows, stays)
        gone, alike = IdentityRows.of_columns(old.gone), IdentityRows.of_columns(old.alike)
        self._touch(touched, gone.join(given).alone())
        if not (old.kept.any() or len(alike)):
            return self.set_identities(namespace, given, repeated=False)
        if not (len(given) or len(gone)):
            return None
        new = alike.join(given).sorted().packed_as(alike)
        if new is None:
            rows = self.base.rows(namespace)
            merged = rows.take((rows.sources != source) | ~touched[rows.profiles]).join(given).sorted()
            return self.set_identities(namespace, merged, repeated=not begins(merged.values, merged.profiles).all())
        splice = old.splice(new.values.rows)
        names = {kind: self.splice(kind, splice, columns[kind], column) for kind, column in new.columns().items()}
        repeated = self.base.content.identities[namespace].repeated or not begins(new.values, new.profiles).all()
        self.change(identities={**self.content.identities, namespace: IdentityFiles(**names, repeated=repeated)})
        return None

    def _touch(self, touched: Bools, rows: IdentityRows) -> None:
        """Note whom it touches that an import of the touched profiles changes rows: everybody if these are many."""
        if few(range(int(np.count_nonzero(touched))), self.content.count) is None:
            self.touched.everybody()
        else:
            self.touched.add(BitMap(rows.profiles))

    def merge_identities(self, namespace: str, dataset: str, touched: Bools, given: SortedIdentities) -> None:
        """Do what `replace_identities` does, with a part of the identities after the other; all values are of one width."""
        old, source, written = self.base.rows(namespace), self.source(dataset), KeptArrays(Aside(self.base.directory))
        self._touch(touched, IdentityRows.none())
        edges = np.searchsorted(texts(old.values.rows), given.edges).tolist() if len(old) else [0] * len(given.edges)
        repeated = False
        for low, high, rows in zip([0, *edges], [*edges, len(old)], given.parts(), strict=True):
            if high > low:
                there = old.part(slice(low, high))
                stays = (there.sources != source) | ~touched[there.profiles]
                self._touch(touched, there.take(~stays).join(rows).alone())
                rows = there.take(stays).join(rows).sorted() if stays.any() else rows
                repeated |= bool(stays.any()) and not begins(rows.values, rows.profiles).all()
            else:
                self._touch(touched, rows)
            if len(rows):
                written.append(rows.columns())
        self._set_identities(namespace, written, repeated=repeated)

    def _set_identities(self, namespace: str, written: KeptArrays, *, repeated: bool) -> None:
        identities = {name: files for name, files in self.content.identities.items() if name != namespace}
        if len(written):
            names = {kind: self.save_kept(kind, written) for kind in ("rows", "profiles", "sources", "ranks")}
            identities[namespace] = IdentityFiles(**names, repeated=repeated)
        self.change(identities=identities)

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
