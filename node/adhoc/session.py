"""One match between two files, without a node: fresh keys, one session, nothing kept afterwards.

The listener's Connect ID is the invitation; who dials it makes the same handshake, agreement and exchanges as nodes do,
with spools that go with the process. Count: the dialler asks, and the listener learns the true numbers. Members: the
dialler learns which of its own rows the listener has, and the listener how many identities were asked about.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.agreement import AD_HOC, Agreement, Offer, Terms, mismatches
from protocol.feed import Definition, SegmentRef
from protocol.states import Kind
from psi.hashing import context
from psi.join import order_of
from psi.keys import Key, Purpose
from psi.values import U8, Indices, Values

from ..compute.engines import engine_in
from ..errors import NotAllowed
from ..people.identity_rows import begins

DONE_PATH = "/vesica/1/done"
EPOCH = 1
DEFAULT_MINIMUM = 1_000
EPSILON = Fraction(1, 20)
SESSION_SECONDS = 3600
SCRATCH = Path(tempfile.gettempdir())  # where a session puts aside what it is not working on
ENGINE = engine_in(SCRATCH)

Mode = Literal["count", "members"]


@dataclass(slots=True)
class Party:
    """One side of a session: a key pair that exists as long as the process."""

    secret: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)

    @property
    def key(self) -> bytes:
        return self.secret.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(self.key)

    def sign(self, message: bytes) -> bytes:
        return self.secret.sign(message)

    def now(self) -> int:
        return int(time.time())

    def random(self, size: int) -> bytes:
        return os.urandom(size)


def fingerprint(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


@dataclass(frozen=True, slots=True)
class Column:
    """The distinct identities of one namespace in a file; row i of the file's accepted rows has `values[of[i]]`."""

    values: Values
    rows: Indices  # file rows, one for each identity read
    of: Indices  # the distinct value that this row has

    @classmethod
    def of_rows(cls, values: Values, rows: Indices) -> "Column":
        arranged = order_of(values)
        new = begins(values, by=arranged)
        of = np.empty(len(values), np.intp)
        of[arranged] = np.cumsum(new) - 1
        return cls(values.take(arranged[new]), np.asarray(rows, np.intp), of)

    def rows_with(self, values: Indices) -> Indices:
        """Return the file rows that have one of the distinct values with these indices."""
        chosen = np.zeros(len(self.values), np.bool_)
        chosen[values] = True
        return self.rows[chosen[self.of]] if len(self.of) else self.rows


Columns = Mapping[str, Column]


def terms(*, minimum: int | None, exact: bool) -> Terms:
    """Return what one side asks for; the agreement takes the stricter of both."""
    least = DEFAULT_MINIMUM if minimum is None else minimum
    return Terms(
        minimum_universe=least,
        minimum_segment=least,
        minimum_overlap=least,
        epsilon=None if exact else EPSILON,
    )


def offer(party: Party, project: bytes, address: str, ours: Terms, columns: Columns, nonce: bytes) -> Offer:
    return Offer(
        organisation=AD_HOC,
        project_name=AD_HOC,
        key=party.key,
        project=project,
        address=address,
        proxy=False,
        terms=ours,
        namespaces=tuple(sorted(columns)),
        nonce=nonce,
    )


def check_common(agreement: Agreement, ours: Offer, theirs: Offer) -> None:
    """Raise NotAllowed, saying which rules differ, where the two files have nothing to compare."""
    if agreement.namespaces:
        return
    differing = [f"{name}: {'/'.join(a)} here, {'/'.join(b)} there" for name, a, b in mismatches(ours, theirs)]
    if differing:
        raise NotAllowed(
            f"both sides normalise differently: {'; '.join(differing)}",
            hint="agree on one rule, and name it on both sides: NAMESPACE/RULE",
        )
    raise NotAllowed(
        f"the two files have no namespace in common: {', '.join(ours.namespaces)} here, "
        f"{', '.join(theirs.namespaces)} there",
        hint="name a column of a namespace that both have",
    )


def check_sizes(agreement: Agreement, columns: Columns) -> None:
    """Raise NotAllowed where our file is below the agreed minimum: a match with few people speaks about persons."""
    least = agreement.terms.minimum_universe
    for namespace in agreement.namespaces:
        if (have := len(columns[namespace].values)) < least:
            raise NotAllowed(
                f"the file has {have:,} identities in {namespace}, fewer than the agreed minimum of {least:,}",
                hint="match larger files, or lower the minimum on both sides",
            )


def check_worth_listening(minimum: int, columns: Columns) -> None:
    """Raise NotAllowed where no partner could agree: in no namespace does our file reach our own minimum."""
    if all(len(each.values) < minimum for each in columns.values()):
        raise NotAllowed(
            f"the file has fewer than {minimum:,} identities in every namespace: nobody could match with it",
            hint="match a larger file, or lower the minimum on both sides",
        )


@dataclass(frozen=True, slots=True)
class Between:
    """What both sides derive from the agreement: contexts, directions, keys. `secret` is ours alone."""

    agreement: Agreement
    listener: bytes  # fingerprints
    dialler: bytes
    secret: bytes = field(repr=False)

    def context(self, kind: Kind, namespace: str) -> bytes:
        start, end = self._ends(kind)
        protocol = "count" if kind is Kind.COUNT else "release"
        return context(
            protocol=protocol, from_key=start, to_key=end, connection=self.agreement.connection, namespace=namespace
        )

    def direction(self, kind: Kind) -> bytes:
        return b"".join(self._ends(kind))

    def key(self, kind: Kind, namespace: str, purpose: Purpose, extra: bytes = b"") -> Key:
        return Key.derive(
            self.secret,
            connection=self.agreement.connection,
            direction=self.direction(kind),
            namespace=namespace,
            epoch=EPOCH,
            purpose=purpose,
            extra=extra,
        )

    def definition(self) -> Definition:
        """Return the one feed of a members session: the listener's file, as one segment."""
        agreement = self.agreement
        return Definition(
            feed=agreement.connection,
            version=1,
            name=AD_HOC,
            description="",
            segments=(SegmentRef(id=agreement.connection, name="all"),),
            namespaces=agreement.namespaces,
            restricted_uses=(),
            created=agreement.made,
        )

    def _ends(self, kind: Kind) -> tuple[bytes, bytes]:
        return (self.dialler, self.listener) if kind is Kind.COUNT else (self.listener, self.dialler)


def members(count: int) -> U8:
    """Return the bitmaps of `count` members of the one segment."""
    return np.packbits(np.ones((count, 1), np.bool_), axis=1)
