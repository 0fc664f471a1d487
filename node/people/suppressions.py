"""Whom imports leave out because they were erased: keyed hashes of ids and identities, which say nothing without the key."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from psi.values import Bools, Values

from ..access.scope import Scope
from ..errors import StoreBusy
from ..storage import tables
from ..storage.database import Tx

ID = "id"  # the kind of a profile's id; that of an identity is its namespace with the rule ("email_sha256/lc-v1")
REASON = "erased here before"
RETURN = "they stay out; to let them return, name their id and each of their identities"
_MANY = 500  # rows in a statement

Kinds = Mapping[str, Values | npt.NDArray[np.bytes_]]  # sorted, by namespace with its rule, and the ids under ID


@dataclass(frozen=True, slots=True)
class Suppressions:
    """Whom a project leaves out, as it was read."""

    key: bytes = field(repr=False)
    digests: frozenset[bytes]

    @classmethod
    def read(cls, scope: Scope, tx: Tx | None = None) -> "Suppressions":
        rows = tables.suppressions
        with scope.read(tx) as tx:
            found = frozenset(tx.scalars(select(rows.c.digest).where(rows.c.project_id == scope.id)))
            return cls(_key(scope, tx) if found else b"", found)

    def check_current(self, scope: Scope, tx: Tx) -> None:
        """Refuse to go on with a file that was read before somebody else was erased."""
        if not self.read(scope, tx).digests <= self.digests:
            raise StoreBusy("people were erased while the file was read", hint="run the command again")

    def has(self, kind: str, values: Values | npt.NDArray[np.bytes_]) -> Bools:
        """Return which ids, or identities of a namespace, are left out."""
        if not self.digests:
            return np.zeros(len(values), bool)
        found = (digest in self.digests for digest in _digests(self.key, kind, values))
        return np.fromiter(found, bool, len(values))


NOBODY = Suppressions(b"", frozenset())


def add(scope: Scope, tx: Tx, given: Kinds) -> None:
    """Leave ids and identities out from now on, by kind."""
    rows, now, key = tables.suppressions, scope.home.now(), _key(scope, tx)
    known = Suppressions.read(scope, tx).digests
    new = {digest for kind, values in given.items() for digest in _digests(key, kind, values)} - known
    values = [{"id": scope.home.new_id(), "project_id": scope.id, "digest": each, "at": now} for each in sorted(new)]
    if values:
        tx.execute(rows.insert(), values)


def on_list(scope: Scope, tx: Tx, given: Kinds) -> list[str]:
    """Return the rows of ids and identities that are left out, by their ids."""
    rows, key, found = tables.suppressions, _key(scope, tx), list[str]()
    digests = sorted({digest for kind, values in given.items() for digest in _digests(key, kind, values)})
    for some in _in_parts(digests):
        found += tx.scalars(select(rows.c.id).where(rows.c.project_id == scope.id, rows.c.digest.in_(some)))
    return found


def lift(scope: Scope, tx: Tx, given: Kinds) -> int:
    """Let ids and identities be imported again; return how many were on the list."""
    rows, found = tables.suppressions, on_list(scope, tx, given)
    for some in _in_parts(found):
        tx.execute(rows.delete().where(rows.c.id.in_(some)))
    return len(found)


def _digests(key: bytes, kind: str, values: Values | npt.NDArray[np.bytes_]) -> Iterator[bytes]:
    begun = hashlib.blake2b(kind.encode() + b"\0", key=key, digest_size=32)
    each: Iterable[bytes] = (
        values.tolist() if isinstance(values, np.ndarray) else map(values.__getitem__, range(len(values)))
    )
    for value in each:
        digest = begun.copy()
        digest.update(value)
        yield digest.digest()


def _in_parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield values in parts that fit into a statement."""
    return (values[start : start + _MANY] for start in range(0, len(values), _MANY))


def _key(scope: Scope, tx: Tx) -> bytes:
    secret = scope.home.keys.unwrap(scope.row(tx).count_secret, b"count")
    return hmac.digest(secret, b"vesica/1 suppressions", "sha256")
