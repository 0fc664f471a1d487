"""The points of a partner that were charged in a key epoch: each is charged once."""

import hashlib
from collections.abc import Iterator

import numpy as np

from psi.hashing import length_prefixed, number
from psi.join import distinct, match
from psi.values import SLICE, U8, Indices

from ...access.scope import Scope
from ...exchanges.channels import cache_of
from ...partners.connections import Connection
from ...storage.cache import Epoch
from ...storage.parts import Parts
from ...storage.sorted_files import Block
from ...storage.temporary import is_old
from .. import ledger

POINT_BYTES = 16  # of a point, by which it is known again
MOST_FILES = 32  # of points that have not become one with the others


class Charged:
    """The points of one namespace that count as evaluated.

    Those that come are a file, which counts once the ledger has a row of its id. When there are many files their points
    go to the others, in order and in parts, and one row takes the place of theirs: so points that come one by one fill
    neither the disk with files nor the ledger with rows. Points are with the others before their file goes, so after a
    kill they are in one of both places, or in both.
    """

    def __init__(self, scope: Scope, connection: Connection, epoch: Epoch, namespace: str) -> None:
        self._scope, self._connection, self._namespace = scope, connection, namespace
        self._cache, self._beginning = cache_of(scope, connection, epoch), f"seen {namespace} "
        self._read: dict[str, U8] = {}
        self._others = Parts(self._cache, f"charged {namespace}", key=POINT_BYTES, columns={})
        of_all = length_prefixed(b"charged", connection.id.encode(), namespace.encode(), number(epoch.number))
        self._row = hashlib.sha256(of_all).hexdigest()[:32]  # the id of the row of all that are in order

    def __len__(self) -> int:
        """Return how many distinct points count."""
        files = self._files()
        with self._others.open() as others:
            if not files:
                return len(others)
            points = distinct(np.concatenate([*files.values()]))
            return len(others) + len(points) - len(others.find(points)[0])

    def fresh(self, points: U8) -> U8:
        """Return the beginnings of those points that were not charged, uint8 (n, 16), sorted."""
        fresh = distinct(points[:, :POINT_BYTES])
        for points_of_file in self._files().values():  # read before the others: what goes there is nowhere else later
            fresh = _without(fresh, match(points_of_file, fresh)[1])
        with self._others.open() as others:
            return _without(fresh, others.find(fresh)[0])

    def save(self, points: U8) -> str:
        """Put sorted points on disk, and return the id of the ledger's row that makes them count."""
        entry = self._scope.home.new_id()
        self._cache.save(self._beginning + entry, points=points)
        return entry

    def drop(self, entry: str) -> None:
        self._cache.drop(self._beginning + entry)

    def unite(self) -> None:
        """Put the points of many files in order with the others."""
        files = self._files()
        for entry, name in self._names().items():
            if entry not in files and is_old(self._cache.path(name)):
                self.drop(entry)  # a kill left it
        if len(files) < MOST_FILES:
            return
        self._others.add(_blocks(distinct(np.concatenate([*files.values()]))))
        with self._scope.begin() as tx:
            there = ledger.known(tx, [*files, self._row])
            if there != [self._row]:  # or another process was faster
                whole = ledger.Entry(kind=ledger.LedgerKind.EVALUATIONS, amount=0, note=self._namespace, id=self._row)
                ledger.unite(self._scope, tx, self._connection, there, whole)
        for entry in files:
            self.drop(entry)

    def _files(self) -> dict[str, U8]:
        """Return the points of the files that count, by the ids of their rows, each sorted."""
        names = self._names()
        with self._scope.read() as tx:
            charged = ledger.known(tx, names)
        read = {each: self._read[each] for each in charged if each in self._read}
        for entry in set(charged) - read.keys():
            stored = self._cache.load(names[entry], only=("points",))
            if stored is not None:
                read[entry] = stored["points"].astype(np.uint8, copy=False)
        self._read = read
        return read

    def _names(self) -> dict[str, str]:
        return {name.removeprefix(self._beginning): name for name in self._cache.names(self._beginning)}


def _without(points: U8, places: Indices) -> U8:
    if not len(places):
        return points
    left = np.ones(len(points), bool)
    left[places] = False
    return points[left]


def _blocks(points: U8) -> Iterator[Block]:
    return (Block(points[start : start + SLICE], {}) for start in range(0, len(points), SLICE))
