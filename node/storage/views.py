"""Rows of a base and its parts as they were at one moment: single ones by their keys, or all in order."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from cryptography.exceptions import InvalidTag

from psi.join import join_order
from psi.values import U8, Bools, Indices

from ..errors import Failure
from .sorted_files import ROWS, Block, Shape, SortedFile, buckets_of, texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What the list says: the files, the oldest first, by salt and rows, how many keys they have together, and `about`."""

    stamp: bytes = b""
    count: int = 0
    about: bytes = b""
    lost: int = 0  # keys of files that could not be read any more
    replaces: bool = False  # rows of a newer file may stand in the place of older ones
    files: tuple[tuple[bytes, int], ...] = ()

    def without(self, salts: Collection[bytes]) -> "Listed":
        """Return the same where some files cannot be read: nothing, if rows of theirs may have replaced others."""
        if self.replaces:
            return Listed()
        lost = sum(rows for salt, rows in self.files if salt in salts)
        files = tuple(each for each in self.files if each[0] not in salts)
        return replace(self, files=files, count=self.count - lost, lost=self.lost + lost)


class View:
    """What `Parts.open` yields. A file that turns out to be damaged is lost (see Parts): Failure where rows were replaced."""

    def __init__(
        self,
        listed: Listed,
        files: Sequence[SortedFile],
        *,
        shape: Shape,
        empty: str | None,
        lose: Callable[[bytes], None],
    ) -> None:
        self._listed, self._files, self._shape, self._empty, self._lose = listed, list(files), shape, empty, lose

    def __len__(self) -> int:
        """Return how many keys there are."""
        return self._listed.count

    @property
    def stamp(self) -> bytes:
        return self._listed.stamp

    @property
    def about(self) -> bytes:
        return self._listed.about

    @property
    def lost(self) -> int:
        """How many keys were lost with damaged files, until `Parts.found`."""
        return self._listed.lost

    def find(self, keys: U8, only: Collection[str] | None = None) -> tuple[Indices, Block]:
        """Return which of some keys are there, by ascending places, and their rows, or `only` some columns of these.

        `keys` is uint8 (n, width), ascending, each once.
        """
        columns = list(self._shape.columns if only is None else only)
        names = columns if self._empty is None or self._empty in columns else [*columns, self._empty]
        left, found = np.arange(len(keys)), list[tuple[Indices, Block]]()
        for file in self._files[::-1] if self._listed.replaces else self._files[:]:
            if not len(left):
                break
            try:
                here, rows = file.find(keys if len(left) == len(keys) else np.take(keys, left, axis=0), names)
            except InvalidTag:
                self._lost(file)
                continue
            found.append((left[here], rows))
            waiting = np.ones(len(left), bool)
            waiting[here] = False
            left = left[waiting]
        filled = [each for each in found if len(each[0])] or [(left[:0], self._shape.nothing(names))]
        places, block = filled[0]
        if len(filled) > 1:
            places = np.concatenate([each for each, _ in filled])
            order = np.argsort(places)
            places, block = places[order], Block.join([each for _, each in filled]).take(order)
        lasting = self.lasting(block)
        if not lasting.all():
            places, block = places[lasting], block.take(np.flatnonzero(lasting))
        return places, Block(block.keys, {name: block.columns[name] for name in columns})

    def blocks(
        self,
        *,
        keys_only: bool = False,
        rows: int = ROWS,
        first: int = 0,
        within: Bools | None = None,
        over: Iterable[Block] = (),
    ) -> Iterator[Block]:
        """Yield all rows in the order of their keys, some at a time; `first` is the place of the oldest file to be read.

        Rows that stand for none are left out where all files are read. With `within` come those of some buckets, bool
        (BUCKETS,), alone. Rows that are laid `over` the others take the place of those of the same keys.
        """
        bare = keys_only and self._empty is None
        files = (self._rows(file, bare, rows, within) for file in self._files[first:])
        for block in _merged([*files, iter(over)]):
            if within is not None and not (inside := within[buckets_of(block.keys)]).all():
                block = block.take(np.flatnonzero(inside))
            if self._empty is not None and not first and not (lasting := self.lasting(block)).all():
                block = block.take(np.flatnonzero(lasting))
            if len(block):
                yield Block(block.keys, {}) if keys_only else block

    def lasting(self, block: Block) -> Bools:
        """Return which rows do not stand for none."""
        return np.ones(len(block), bool) if self._empty is None else np.asarray(block.columns[self._empty].any(axis=1))

    def _rows(self, file: SortedFile, keys_only: bool, rows: int, within: Bools | None) -> Iterator[Block]:
        try:
            yield from file.blocks(keys_only=keys_only, rows=rows, within=within)
        except InvalidTag:
            self._lost(file)

    def _lost(self, file: SortedFile) -> None:
        self._lose(file.salt)
        self._files.remove(file)
        replaces, self._listed = self._listed.replaces, self._listed.without({file.salt})
        if replaces:
            self._files.clear()
            raise Failure("a file of the cache cannot be read any more", hint="run it again")


def _merged(sources: Sequence[Iterator[Block]]) -> Iterator[Block]:
    """Yield the rows of several files in the order of their keys: of those of one key the newest, which comes last."""
    waiting = [(source, block) for source in sources if (block := next(source, None)) is not None]
    while waiting:
        last = min(block.keys[-1].tobytes() for _, block in waiting)
        taken, after = [], []
        for source, block in waiting:
            keys = texts(block.keys)
            count = len(block)
            if block.keys[-1].tobytes() > last:
                count = int(np.searchsorted(keys, np.array(last, keys.dtype), side="right"))
            taken.append(block.take(slice(count)))
            following = block.take(slice(count, None)) if count < len(block) else next(source, None)
            after += [(source, following)] if following is not None else []
        waiting = after
        yield _one([each for each in taken if len(each)])


def _one(blocks: Sequence[Block]) -> Block:
    """Return the rows of blocks, the oldest first, as one in order: of those of one key the newest."""
    oldest, *newer = blocks
    if not newer:
        return oldest
    rest = Block.join(newer)
    if len(newer) > 1:
        rest = rest.take(join_order(rest.keys))
        again = (rest.keys[1:] == rest.keys[:-1]).all(axis=1)
        rest = rest.take(np.flatnonzero(~np.append(again, False)))
    places = np.searchsorted(texts(oldest.keys), texts(rest.keys), side="right")
    replaced = places[places > 0] - 1
    replaced = replaced[(np.take(oldest.keys, replaced, axis=0) == rest.keys[places > 0]).all(axis=1)]
    if len(replaced):
        oldest = oldest.take(np.delete(np.arange(len(oldest)), replaced))
        places -= np.searchsorted(replaced, places)
    old = np.ones(len(oldest) + len(rest), bool)
    old[places + np.arange(len(rest))] = False
    return Block(
        _mixed(old, oldest.keys, rest.keys),
        {name: _mixed(old, column, rest.columns[name]) for name, column in oldest.columns.items()},
    )


def _mixed(old: Bools, these: U8, those: U8) -> U8:
    """Return rows of both, these where the mask says so."""
    mixed = np.empty((len(old), these.shape[1]), np.uint8)
    whole = f"V{these.shape[1]}"  # a row is copied as one element, in a third of the time
    rows = mixed.view(whole)[:, 0]
    rows[old], rows[~old] = (np.ascontiguousarray(each).view(whole)[:, 0] for each in (these, those))
    return mixed
