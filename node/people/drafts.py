"""A project's next generation of data, as a writer makes it inside a transaction.

New files are on disk before the manifest row that names them, so a kill leaves the old generation or the new one, and at
worst files that nobody names.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

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

KEPT_GENERATIONS = 8  # so many newer ones may come while a reader uses a pinned snapshot
MAX_ID = 255  # bytes of a profile id
MAX_BASES = 1_000  # different ones in a project: more would say something about single people


@dataclass(slots=True)
class Draft:
    """The generation after `base`, being written in one transaction."""

    scope: Scope
    tx: Tx
    base: Snapshot = field(init=False)
    content: Manifest = field(init=False)

    def __post_init__(self) -> None:
        self.base = Snapshot.open(self.scope, self.tx)
        self.content = self.base.content

    @property
    def snapshot(self) -> Snapshot:
        """What is written so far, as the next generation's readers will see it."""
        return Snapshot(self.base.directory, self.base.generation, self.content)

    def save(self, kind: str, array: npt.NDArray[Any]) -> str:
        """Write an array and return the file's name."""
        array = np.ascontiguousarray(array)
        header = BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        name = self._name(f"{kind}.npy")
        write_atomically(self.scope.data_directory / name, [header.getvalue(), array.reshape(-1).view(np.uint8).data])
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
        shown = None if seen is None else consent.merge(seen.said(namespace, kept), profiles, words)
        found = consent.merge(kept, profiles, words)
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
        before = self.base.rows(namespace)
        stays = (before.sources != self.source(dataset)) | ~touched[before.profiles]
        merged, repeated = given, False
        if stays.any():
            merged = before.take(stays).join(given).sorted()
            repeated = not begins(merged.values, merged.profiles).all()
        self.set_identities(namespace, merged, repeated=repeated)

    def set_identities(self, namespace: str, rows: IdentityRows, *, repeated: bool) -> None:
        """Replace a namespace's rows, which are sorted; without a row the namespace goes."""
        identities = {name: files for name, files in self.content.identities.items() if name != namespace}
        if len(rows):
            identities[namespace] = IdentityFiles(
                rows=self.save("rows", rows.values.rows),
                lengths=None if rows.values.lengths is None else self.save("lengths", rows.values.lengths),
                profiles=self.save("profiles", rows.profiles),
                sources=self.save("sources", rows.sources),
                ranks=self.save("ranks", rows.ranks),
                repeated=repeated,
            )
        self.change(identities=identities)

    def source(self, dataset: str) -> int:
        """Return the number by which identity rows name a dataset."""
        if dataset not in self.content.sources:
            self.change(sources=(*self.content.sources, dataset))
        return self.content.sources.index(dataset)

    def set_attributes(self, dataset: str, written: Path) -> None:
        """Replace a dataset's attributes by a copy of a Parquet file; see attributes.py."""
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
        segments = {each: file for each, file in self.content.segments.items() if each != segment_id}
        if members is not None:
            segments[segment_id] = self.save_bytes("members.roaring", members.serialize())
        self.change(segments=segments)

    def change(self, **values: Any) -> None:
        """Name other files, or more, in the generation that is being written."""
        self.content = replace(self.content, **values)

    def publish(self, *, keep: int = KEPT_GENERATIONS) -> Snapshot:
        """Make this the newest generation, and drop the files that none of the last `keep` generations names."""
        self._forget_bases()
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
