"""F(x) as the sender: our keyed function, of our own identities and of the points that a receiver asks about.

What was computed is kept in the epoch's cache, so a later run costs only what is new. Distinct points are counted across
feeds and restarts, by the wall clock; the same point again is free, since it gives nothing new.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from sqlalchemy import select

from protocol.evaluation import EvaluateSender, state_key
from protocol.exchange import Opening, Role
from protocol.messages import SignedKey
from protocol.states import Kind, Part
from psi import oprf
from psi.keys import Key, Purpose
from psi.values import U8, Bools, Rows, Values

from ...access.scope import Scope
from ...compute.engines import engine_of
from ...errors import RefusedToPartner
from ...exchanges.channels import BLOCK_ROWS, Channel, cache_of, epoch_of, namespace_of
from ...exchanges.handlers import Handler, PreparedRole, Subject
from ...exchanges.kept_prf import PRF_BYTES, KeptPrf, OpenPrf
from ...exchanges.opening import Plan, run_exchange
from ...operations.jobs import Progress
from ...partners import windows
from ...partners.connections import Connection
from ...people.snapshots import Snapshot
from ...storage.cache import Epoch
from ...storage.database import Tx
from ...storage.tables import feed_partners, feeds
from .. import ledger, versions
from ..states import RecipientStatus
from . import attempts
from .charged import Charged


def sender(scope: Scope, connection: Connection, namespace: str, epoch: Epoch) -> Role:
    """Make the role that evaluates the receiver's points, within the evaluations agreed on."""
    channel = Channel.of(scope, connection, epoch, namespace, protocol="release", outward=True)
    return EvaluateSender(
        key=channel.key(Purpose.RELEASE_PRF),
        statement=statement(scope, connection, namespace, epoch),
        charge=_charge(scope, connection, namespace, epoch),
        random=scope.home.random,
        engine=engine_of(scope.home),
    )


def statement(scope: Scope, connection: Connection, namespace: str, epoch: Epoch) -> SignedKey:
    """Return our signed statement of the epoch's key; it is made once and kept."""
    cache = cache_of(scope, connection, epoch)
    stored = cache.load(f"statement {namespace}")
    if stored is not None:
        return SignedKey.decode(stored["statement"].tobytes())
    channel = Channel.of(scope, connection, epoch, namespace, protocol="release", outward=True)
    made = state_key(
        channel.key(Purpose.RELEASE_PRF),
        context=channel.context,
        direction=channel.direction,
        epoch=epoch.number,
        random=scope.home.random,
        sign=scope.home.sign,
    )
    cache.save(f"statement {namespace}", statement=np.frombuffer(made.encode(), np.uint8))
    return made


def evaluated(scope: Scope, connection: Connection, namespace: str, epoch: Epoch) -> int:
    """Return how many distinct points we have evaluated for the partner in this epoch."""
    return len(Charged(scope, connection, epoch, namespace))


def kept(scope: Scope, connection: Connection, namespace: str, epoch: Epoch) -> KeptPrf:
    """Return F of our own identities as the cache keeps it."""
    return KeptPrf(cache_of(scope, connection, epoch), f"own {namespace}", namespace)


@contextmanager
def prf_of(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, values: Values) -> Iterator[Rows]:
    """Yield F(x) of our own identities, uint8 (n, 64); what this epoch has seen before is not computed again.

    F of more than a block is read from the cache where some rows are asked for.
    """
    stored, own = kept(scope, connection, namespace, epoch), _own(scope, connection, namespace, epoch, values)
    with stored.open() as have:
        missing, absent = have.missing(values), have.stamp
    if missing.any():
        new = own.take(missing)
        stored.add(new.values, new, absent=absent)
    with stored.open() as have:
        found = _Found(have, own)
        yield found[:] if len(values) <= BLOCK_ROWS else found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """F of our own identities, uint8 (n, 64), computed where rows are asked for."""

    context: bytes
    key: Key = field(repr=False)
    values: Values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> U8:
        return oprf.prf(self.context, self.values.part(rows), self.key)

    def take(self, mask: Bools) -> "_Own":
        return self if mask.all() else replace(self, values=self.values.take(mask))


class _Found:
    """F of our own identities, uint8 (n, 64): from the cache, or computed where that lost it meanwhile."""

    def __init__(self, have: OpenPrf, own: _Own) -> None:
        self._have, self._own = have, own

    def __len__(self) -> int:
        return len(self._own)

    def __getitem__(self, rows: slice) -> U8:
        values = self._own.values.part(rows)
        places, found = self._have.find(values)
        if len(places) == len(values):
            return found
        missing, result = np.ones(len(values), bool), np.empty((len(values), PRF_BYTES), np.uint8)
        missing[places], result[places] = False, found
        result[missing] = replace(self._own, values=values).take(missing)[:]
        return result


def forget(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, snapshot: Snapshot) -> None:
    """Delete F of those of our identities that nobody has any more."""
    kept(scope, connection, namespace, epoch).retain(snapshot.distinct(namespace)[0])


def prf_alone(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, values: Values) -> U8:
    """Return F(x) of our own identities, uint8 (n, 64), and keep none of it."""
    return _own(scope, connection, namespace, epoch, values)[:]


def _own(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, values: Values) -> _Own:
    channel = Channel.of(scope, connection, epoch, namespace, protocol="release", outward=True)
    return _Own(context=channel.context, key=channel.key(Purpose.RELEASE_PRF), values=values)


def _charge(scope: Scope, connection: Connection, namespace: str, epoch: Epoch) -> Callable[[U8], None]:
    """Return the function that charges points: it refuses those beyond the agreed evaluations and remembers the others.

    The points are on disk before the ledger row that makes them count. After a kill in between they are charged when they
    come again, once.
    """
    charged = Charged(scope, connection, epoch, namespace)

    def charge(points: U8) -> None:
        fresh = charged.fresh(points)
        new = len(fresh)
        if not new:
            return
        entry = charged.save(fresh)
        with scope.begin() as tx:
            allowed = allowance(scope, tx, connection, namespace)
            if new > allowed:
                charged.drop(entry)
                raise RefusedToPartner(
                    "evaluations_spent",
                    # how many are left would say what others used
                    f"{new} more points are above the evaluations agreed for this window",
                    hint="the sender may allow as many once more, as it has to where the receiver ended a key epoch",
                )
            spent = ledger.Entry(kind=ledger.LedgerKind.EVALUATIONS, amount=new, note=namespace, id=entry)
            ledger.add(scope, tx, connection, spent)
            attempts.grant(tx, connection)
        charged.unite()

    return charge


def allowance(scope: Scope, tx: Tx, connection: Connection, namespace: str) -> int:
    """Return how many more points the partner may have evaluated in this window."""
    terms = connection.terms
    query = (
        select(feed_partners.c.universes)
        .join(feeds, feeds.c.id == feed_partners.c.feed_id)
        .where(feed_partners.c.connection_id == connection.id, feed_partners.c.status == RecipientStatus.ENABLED)
    )
    declared = max((sizes.get(namespace, 0) for (sizes,) in tx.execute(query) if sizes), default=0)
    agreed = min(declared, terms.maximum_universe)
    allowed = ledger.newest(tx, connection, ledger.LedgerKind.ALLOWED)
    counted, restored = windows.counted_since(scope, tx, connection), scope.row(tx).restored or 0
    if allowed < restored and counted <= restored:  # what was used up since the backup is not known: a person decides
        return 0
    spent = ledger.total(tx, connection, ledger.LedgerKind.EVALUATIONS, since=max(allowed, counted), note=namespace)
    return int(agreed * terms.evaluations) - spent


def run(scope: Scope, connection: Connection, namespace: str, progress: Progress) -> None:
    """Bring the receiver's F up to date, as the side that calls."""

    def role(epoch_number: int) -> Role:
        return sender(scope, connection, namespace, epoch_of(scope, connection, epoch_number))

    plan = Plan(kind=Kind.EVALUATE, part=Part.SENDER, subject={"namespace": namespace}, role=role)
    run_exchange(scope, connection, plan, progress)


def check_expected(scope: Scope, connection: Connection, namespace: str) -> None:
    """Refuse to evaluate where no feed of ours that this partner has enabled matches by the namespace."""
    query = select(feed_partners.c.feed_id, feed_partners.c.accepted_version).where(
        feed_partners.c.connection_id == connection.id, feed_partners.c.status == RecipientStatus.ENABLED
    )
    with scope.read() as tx:
        if not versions.any_matches_by(tx, tx.execute(query).all(), namespace):
            raise versions.no_feed(namespace)


def _answer(scope: Scope, connection: Connection, opening: Opening, _: bytes | None) -> PreparedRole:
    namespace = namespace_of(connection, opening)
    epoch = epoch_of(scope, connection, opening.epoch)
    check_expected(scope, connection, namespace)
    return PreparedRole(sender(scope, connection, namespace, epoch))


def _note_request(scope: Scope, tx: Tx, connection: Connection, subject: Subject) -> bool:
    """Note that people are new on the receiver's side: our feeds run to it soon."""
    return attempts.note_request(scope, tx, connection)


HANDLER = Handler(answer=_answer, note_request=_note_request)
