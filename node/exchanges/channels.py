"""One direction of a connection in one namespace and key epoch: its keys, and where what it computed is kept."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocol.errors import HINTS
from protocol.exchange import Opening
from psi.hashing import context as psi_context
from psi.join import order_of
from psi.keys import Key, Purpose
from psi.values import SLICE, U8, Indices, Rows, Values

from ..access.scope import Scope
from ..errors import NotAllowed, RefusedToPartner
from ..partners import key_epochs
from ..partners.connections import Connection
from ..storage.cache import PIECE, Blocks, Cache, Epoch, OpenRows, Stored

PRF_BYTES = 64  # of F of one identity
_PIECE_ROWS = PIECE // PRF_BYTES  # that lie in one piece of a file
BLOCK_ROWS = 1 << 18  # of F in memory at once, 16 MiB, or a multiple


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One direction of a connection in one namespace and epoch: from the sender to the receiver."""

    connection: bytes
    direction: bytes
    context: bytes
    namespace: str
    epoch: Epoch

    @classmethod
    def of(
        cls, scope: Scope, connection: Connection, epoch: Epoch, namespace: str, *, protocol: str, outward: bool
    ) -> "Channel":
        """`outward`: we are the sender (or the asker). The keys are those of the agreement, also where they changed since."""
        ours, theirs = fingerprint(connection.our_key or scope.home.key), fingerprint(connection.first_peer_key)
        first, second = (ours, theirs) if outward else (theirs, ours)
        return cls(
            connection=connection.wire_id,
            direction=first + second,
            context=psi_context(
                protocol=protocol, from_key=first, to_key=second, connection=connection.wire_id, namespace=namespace
            ),
            namespace=namespace,
            epoch=epoch,
        )

    def key(self, purpose: Purpose, extra: bytes = b"") -> Key:
        return Key.derive(
            self.epoch.secret,
            connection=self.connection,
            direction=self.direction,
            namespace=self.namespace,
            epoch=self.epoch.number,
            purpose=purpose,
            extra=extra,
        )


def fingerprint(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def cache_of(scope: Scope, connection: Connection, epoch: Epoch) -> Cache:
    return Cache(scope.home.path, connection.id, epoch, scope.home.random)


def namespaces_in(cache: Cache) -> list[str]:
    """Return the namespaces that a cache has something of, sorted; its files name theirs in the second or third word."""
    words = (word for name in cache.names("") for word in name.split(" ")[1:3])
    return sorted({word for word in words if "/" in word})


def save_sorted(
    cache: Cache, name: str, values: Sequence[Values], prf: Sequence[Rows], **more: npt.NDArray[np.uint8]
) -> None:
    """Save F of identities that came in several parts, each sorted, as one; of F a block at a time is in memory."""
    joined = Values.join(values)
    arrangement = order_of(joined)
    arranged = {key: _arranged(arrangement, array) for key, array in joined.arrays().items()}
    blocks = Blocks(dtype=np.dtype(np.uint8), shape=(len(joined), PRF_BYTES), blocks=_merged(arrangement, prf))
    cache.save(name, **arranged, **more, prf=blocks)


def _arranged(arrangement: Indices, array: U8) -> Blocks:
    """Return rows in another order, as they are saved."""
    places = (arrangement[start : start + PIECE] for start in range(0, len(array), PIECE))
    return Blocks(dtype=array.dtype, shape=array.shape, blocks=(np.take(array, each, axis=0) for each in places))


def holds(stored: Stored, values: Values) -> bool:
    """Return whether a file with F has it of just these identities. Raises InvalidTag."""
    arrays, counts = values.arrays(), stored.lengths()
    return arrays.keys() == counts.keys() & {"rows", "lengths"} and all(
        counts[name] == len(array) and _is_same(OpenRows(stored, name, counts[name]), array)
        for name, array in arrays.items()
    )


def _is_same(rows: Rows, array: U8) -> bool:
    parts = (slice(start, start + SLICE) for start in range(0, len(array), SLICE))
    return all(np.array_equal(rows[part], array[part]) for part in parts)


def blocks_of(prf: Rows) -> Blocks:
    """Return F as it is saved: a block at a time is in memory."""
    starts = range(0, len(prf), BLOCK_ROWS)
    blocks = (prf[start : start + BLOCK_ROWS] for start in starts)
    return Blocks(dtype=np.dtype(np.uint8), shape=(len(prf), PRF_BYTES), blocks=blocks)


class Picked:
    """Some rows of F, uint8 (n, 64), by their ascending places among others: read where they are asked for."""

    def __init__(self, prf: Rows, places: Indices) -> None:
        self._prf, self._places = prf, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: slice) -> U8:
        places = self._places[rows]
        found = np.empty((len(places), PRF_BYTES), np.uint8)
        for start in (np.unique(places // _PIECE_ROWS) * _PIECE_ROWS).tolist():
            first, last = np.searchsorted(places, (start, start + _PIECE_ROWS))
            found[first:last] = self._prf[start : start + _PIECE_ROWS][places[first:last] - start]
        return found


def _merged(arrangement: Indices, parts: Sequence[Rows]) -> Iterator[U8]:
    """Yield the rows of sorted parts in the order of their concatenation's `arrangement`: each part from end to end."""
    begins = np.cumsum([0, *map(len, parts)])
    done = [0] * len(parts)
    for start in range(0, len(arrangement), BLOCK_ROWS):
        places = arrangement[start : start + BLOCK_ROWS]
        block = np.empty((len(places), PRF_BYTES), np.uint8)
        for number, part in enumerate(parts):
            here = (places >= begins[number]) & (places < begins[number + 1])
            count = int(np.count_nonzero(here))
            first = done[number]
            assert np.array_equal(places[here], begins[number] + np.arange(first, first + count))
            block[here] = part[first : first + count]
            done[number] += count
        yield block


def running_epoch(scope: Scope, connection: Connection) -> Epoch:
    """Return the epoch that runs; the first one begins here, and one that is over is followed by the next."""
    with scope.begin() as tx:
        return key_epochs.current(scope, tx, connection)


def epoch_of(scope: Scope, connection: Connection, epoch_number: int) -> Epoch:
    """Return the running epoch, which must have this number."""
    epoch = running_epoch(scope, connection)
    if epoch.number != epoch_number:
        raise NotAllowed(f"key epoch {epoch_number} is over", hint="run it again")
    return epoch


def namespace_of(connection: Connection, opening: Opening) -> str:
    """Return the namespace that an opening is about; refused where it was not agreed on."""
    namespace = str(opening.subject["namespace"])
    if namespace not in connection.agreed.namespaces:
        raise RefusedToPartner("namespace", "this namespace was not agreed on", hint=HINTS["namespace"])
    return namespace
