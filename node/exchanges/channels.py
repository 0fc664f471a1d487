"""One direction of a connection in one namespace and key epoch: its keys, and where what it computed is kept."""

import hashlib
from dataclasses import dataclass

from protocol.errors import HINTS
from protocol.exchange import Opening
from psi.hashing import context as psi_context
from psi.keys import Key, Purpose

from ..access.scope import Scope
from ..errors import NotAllowed, RefusedToPartner
from ..partners import key_epochs
from ..partners.connections import Connection
from ..storage.cache import Cache, Epoch

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
