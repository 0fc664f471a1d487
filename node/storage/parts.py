"""Sorted rows of an epoch's cache as one large base and few small parts, so that a small change writes little.

A file of the cache, the list, names the base and the parts; it is replaced when all of them are on disk. Files that it
does not name count for nothing and go at the next change.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from cryptography.exceptions import InvalidTag

from psi.values import U8, Bools

from ..errors import Failure
from .cache import Cache
from .files import beside, link, put
from .sorted_files import Block, Sealing, Shape, SortedFile
from .views import Listed, View

MOST_PARTS = 8
PART_OF_BASE = 16  # parts that have more than a sixteenth of the base's rows become one with it
STAMP = 16


class Parts:
    """Rows of fixed width by key, under a name in a cache: keys of 16 bytes or more, and any columns of bytes.

        f = Parts(cache, "prf email", key=32, columns={"prf": 64})
        f.add(blocks)              # new keys: those that are there already stay as they are
        f.put(blocks)              # new keys, and new rows for those that are there
        f.retain(keep)             # delete from disk, now, the keys that keep(keys) says no to
        with f.open() as rows:     # as they are now, whatever is written meanwhile
            rows.find(keys)        # a few of them: opens a few pieces; many: reads what lies between
            rows.blocks()          # all of them, in the order of their keys, a block at a time
            rows.stamp             # as long as it is the same, so are the rows; empty where there is nothing

    Blocks come in the order of their keys, each key once, and at most some 65,536 rows each: memory holds a few of
    them. `empty` names a column: a row that has only zeros there stands for no row, so that `put` can take keys away. It
    may stay on disk until it is merged; `retain` deletes.

    Whatever process writes, a reader sees all of a change or nothing. A damaged or missing file costs the rows that it
    had, which `find` and `blocks` then leave out; but where rows were replaced (`put`) an old row could take the place of
    a lost one, so everything is given up: reading raises Failure once, and afterwards there is nothing. Either way the
    stamp is another one. Several threads and processes may read and write at once.
    """

    def __init__(
        self,
        cache: Cache,
        name: str,
        *,
        key: int,
        columns: Mapping[str, int],
        empty: str | None = None,
        kind: str | None = None,
    ) -> None:
        """Rows of one `kind` (the name, if none is given) may begin with the files of each other."""
        self.shape, self._empty = Shape(key, columns), empty
        self._cache, self._name, self._kind = cache, name, name if kind is None else kind

    @staticmethod
    def shape_of(cache: Cache, name: str) -> Shape | None:
        """Return the shape of the rows under a name, None where there are none."""
        said = _said(cache, name)
        return None if said is None else Shape(said["shape"][0], dict(said["shape"][1]))

    @contextmanager
    def open(self) -> Iterator[View]:
        with ExitStack() as files:
            yield self._opened(files)

    def stamp(self) -> bytes:
        """Return the stamp of what there is now, empty where there is nothing."""
        return self._listed().stamp

    def add(self, blocks: Iterable[Block], *, about: bytes = b"", absent: bytes | None = None) -> int:
        """Add rows of keys that are not there, and return how many they are. The first call says what all is `about`.

        `absent` is the stamp of rows among which the caller has looked for all the keys and found none.
        """
        return self._write(blocks, about, absent, replaces=False)

    def put(self, blocks: Iterable[Block], *, about: bytes = b"") -> int:
        """Add rows, or put them in the place of those of the same keys; return how many more keys there are."""
        return self._write(blocks, about, None, replaces=True)

    def retain(self, keep: Callable[[U8], Bools], going: Callable[[int], None] = lambda _count: None) -> int:
        """Delete the rows of those keys, uint8 (n, width), that `keep` has False for; return how many keys went.

        `going` hears of the number before they go, if it is any.
        """
        if not self._cache.names(self._name):
            return 0
        with self._cache.locked():
            listed, files, lost, gone = self._listed(), list[tuple[bytes, int]](), 0, 0
            for each in listed.files:
                kept = self._kept(each, keep)
                if kept is None and listed.replaces:
                    files, lost = [], 0
                    break
                lost += each[1] if kept is None else 0
                files += [kept] if kept is not None and kept[1] else []
            if tuple(files) != listed.files:
                count = self._count(files) if listed.replaces else sum(rows for _, rows in files)
                gone = listed.count - count - lost
                if gone:
                    going(gone)
                now = replace(listed, files=tuple(files), count=count, lost=listed.lost + lost)
                self._save(replace(now, stamp=self._cache.random(STAMP)))
            elif not listed.stamp:
                self._cache.drop(self._name)
            self._sweep()
        return gone

    def begin_with(self, others: "Parts") -> None:
        """Have the rows of others of the same kind and shape, without a copy: their files get a name more.

        Raises Failure where these are going.
        """
        with self._cache.locked():
            listed = others._listed()
            try:
                for salt, _ in listed.files:
                    link(others._path(salt), self._path(salt))
            except FileNotFoundError as error:
                raise Failure("a file of the cache cannot be read any more", hint="run it again") from error
            self._save(replace(listed, stamp=self._cache.random(STAMP)))

    def drop(self) -> None:
        """Delete everything."""
        with self._cache.locked():
            self._cache.drop(self._name)
            self._sweep()

    def found(self) -> None:
        """Note that nothing is missing any more of what was lost."""
        with self._cache.locked():
            listed = self._listed()
            if listed.lost:
                self._save(replace(listed, lost=0))

    def lose(self, salt: bytes) -> None:
        """Take a file that cannot be read out of the list, unless somebody else is at it, who comes upon it too."""
        with self._cache.locked(wait=False) as mine:
            listed = self._listed()
            if not mine or salt not in (each for each, _ in listed.files):
                return
            if listed.replaces:
                self._cache.drop(self._name)
            else:
                self._save(replace(listed.without({salt}), stamp=self._cache.random(STAMP)))
            self._sweep()

    def _write(self, blocks: Iterable[Block], about: bytes, absent: bytes | None, *, replaces: bool) -> int:
        with ExitStack() as files:
            change = _Change(self._opened(files), absent, replaces=replaces)
            path, salt, count = self._made(files, change.of(blocks))
            with self._cache.locked():
                listed = self._listed()
                if listed.stamp != change.view.stamp:  # others were faster
                    change = _Change(self._opened(files), None, replaces=replaces)
                    path, salt, count = self._made(files, change.of(self._reread(files, path)))
                if count or not listed.stamp:
                    if count:
                        put(path, self._path(salt))
                    now = replace(
                        listed,
                        stamp=self._cache.random(STAMP),
                        count=listed.count + change.keys,
                        about=listed.about or about,
                        replaces=listed.replaces or (replaces and (bool(listed.files) or self._empty is not None)),
                        files=(*listed.files, (salt, count)) if count else listed.files,
                    )
                    self._save(now)
                self._sweep()
        with suppress(Failure):  # there is no need to
            self._merge()
        return change.keys

    def _merge(self) -> None:
        """Make one file of all, or of all parts, where they are too large or too many."""
        listed = self._listed()
        sizes = [rows for _, rows in listed.files]
        if len(sizes) < 2 or (len(sizes) <= MOST_PARTS + 1 and sum(sizes[1:]) * PART_OF_BASE <= sizes[0]):
            return
        first = 0 if sum(sizes[1:]) * PART_OF_BASE > sizes[0] else 1
        with ExitStack() as files:
            view = self._opened(files)
            if view.stamp != listed.stamp:
                return
            path, salt, count = self._made(files, view.blocks(first=first))
            with self._cache.locked():
                now, merged = self._listed(), listed.files[first:]
                if now.files[first : len(listed.files)] != merged or now.files[:first] != listed.files[:first]:
                    return  # others were faster
                if view.lost != listed.lost:
                    return  # one of them is damaged, and who notes it is at work
                put(path, self._path(salt))
                self._save(replace(now, files=(*now.files[:first], (salt, count), *now.files[len(listed.files) :])))
                self._sweep()

    def _kept(self, file: tuple[bytes, int], keep: Callable[[U8], Bools]) -> tuple[bytes, int] | None:
        """Return a file without the rows that go, None where it cannot be read: then it has nothing any more."""
        with ExitStack() as files, suppress(FileNotFoundError, InvalidTag):
            stored = self._file(files, file[0])
            if all(keep(block.keys).all() for block in stored.blocks(keys_only=True)):
                return file
            kept = (block.take(np.flatnonzero(keep(block.keys))) for block in stored.blocks())
            path, salt, count = self._made(files, kept)
            if count:
                put(path, self._path(salt))
            return salt, count
        return None

    def _made(self, files: ExitStack, blocks: Iterable[Block]) -> tuple[Path, bytes, int]:
        """Write a file that has no name yet; return where it is, its salt, and how many rows it has."""
        sealing = Sealing(self._cache, self._kind, self.shape)
        path = files.enter_context(beside(self._path(sealing.salt), sealing.pieces(blocks)))
        return path, sealing.salt, sealing.count

    def _reread(self, files: ExitStack, path: Path) -> Iterator[Block]:
        stored = SortedFile.open(self._cache, path, self._kind)
        files.callback(stored.close)
        return stored.blocks()

    def _opened(self, files: ExitStack) -> View:
        while True:
            listed, opened, lost = self._listed(), list[SortedFile](), list[bytes]()
            for salt, _ in listed.files:
                try:
                    opened.append(self._file(files, salt))
                except (FileNotFoundError, InvalidTag):
                    lost.append(salt)
            for salt in lost if self._listed() == listed else ():
                self.lose(salt)
            if not lost:
                return self._view(listed, opened)
            if self._listed() == listed:  # somebody else is at it
                return self._view(listed.without({*lost}), [] if listed.replaces else opened)

    def _view(self, listed: Listed, files: Sequence[SortedFile]) -> View:
        return View(listed, files, shape=self.shape, empty=self._empty, lose=self.lose)

    def _count(self, files: Sequence[tuple[bytes, int]]) -> int:
        with ExitStack() as opened:
            view = self._view(Listed(), [self._file(opened, salt) for salt, _ in files])
            return sum(map(len, view.blocks(keys_only=True)))

    def _file(self, files: ExitStack, salt: bytes) -> SortedFile:
        stored = SortedFile.open(self._cache, self._path(salt), self._kind)
        files.callback(stored.close)
        if stored.salt != salt or stored.shape != self.shape:
            raise InvalidTag
        return stored

    def _listed(self) -> Listed:
        said = _said(self._cache, self._name)
        return Listed(**said["list"]) if said is not None and said["shape"] == self._shape() else Listed()

    def _save(self, listed: Listed) -> None:
        said = msgpack.packb({"list": asdict(listed), "shape": self._shape()})
        self._cache.save(self._name, list=np.frombuffer(said, np.uint8))

    def _shape(self) -> object:
        return self.shape.key, tuple(self.shape.columns.items())

    def _sweep(self) -> None:
        named = {self._file_name(salt) for salt, _ in self._listed().files}
        for name in self._cache.names(f"{self._name} part "):
            if name not in named:
                self._cache.drop(name)

    def _file_name(self, salt: bytes) -> str:
        return f"{self._name} part {salt[:8].hex()}"

    def _path(self, salt: bytes) -> Path:
        return self._cache.path(self._file_name(salt))


def _said(cache: Cache, name: str) -> dict[str, Any] | None:
    """Return the list that a name has, as it was saved."""
    stored = cache.load(name, only=("list",))
    return msgpack.unpackb(stored["list"].tobytes(), use_list=False) if stored else None


class _Change:
    """What is written of some blocks beside what a view has; afterwards `keys` is how many more keys there will be."""

    def __init__(self, view: View, absent: bytes | None, *, replaces: bool) -> None:
        self.view, self.keys, self._replaces, self._absent = view, 0, replaces, view.stamp == absent

    def of(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            new = np.ones(len(block), bool)
            if not self._absent:
                new[self.view.find(block.keys, ())[0]] = False
            if self._replaces:
                lasting = self.view.lasting(block)
                self.keys += int(np.count_nonzero(lasting & new)) - int(np.count_nonzero(~lasting & ~new))
                yield block
            else:
                self.keys += int(np.count_nonzero(new))
                yield block if new.all() else block.take(np.flatnonzero(new))
