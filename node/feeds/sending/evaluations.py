"""F(x) as the sender: our keyed function, of our own identities and of the points that a receiver asks about.

What was computed is kept in the epoch's cache, so a later run costs only what is new. Distinct points are counted across
feeds and restarts, by the wall clock; the same point again is free, since it gives nothing new.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
from cryptography.exceptions import InvalidTag
from sqlalchemy import select

from protocol.evaluation import EvaluateSender, state_key
from protocol.exchange import Opening, Role
from protocol.messages import SignedKey
from protocol.states import Kind, Part
from psi import oprf
from psi.join import distinct, match
from psi.keys import Key, Purpose
from psi.values import U8, Bools, Indices, Rows, Values, sort_keys

from ...access.scope import Scope
from ...errors import RefusedToPartner
from ...exchanges.channels import (
    BLOCK_ROWS,
    PRF_BYTES,
    Channel,
    Picked,
    blocks_of,
    cache_of,
    epoch_of,
    holds,
    namespace_of,
    save_sorted,
)
from ...exchanges.handlers import Handler, PreparedRole, Subject
from ...exchanges.opening import Plan, run_exchange
from ...operations.jobs import Progress
from ...partners import windows
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Arrays, Cache, Epoch, OpenRows, Stored
from ...storage.database import Tx
from ...storage.tables import feed_partners, feeds
from .. import ledger, versions
from ..states import RecipientStatus
from . import attempts

SEEN_BYTES = 16  # of a point, by which it is known again
MOST_PARTS = 64  # files of them in a namespace


def sender(scope: Scope, connection: Connection, namespace: str, epoch: Epoch) -> Role:
    """Make the role that evaluates the receiver's points, within the evaluations agreed on."""
    channel = Channel.of(scope, connection, epoch, namespace, protocol="release", outward=True)
    return EvaluateSender(
        key=channel.key(Purpose.RELEASE_PRF),
        statement=statement(scope, connection, namespace, epoch),
        charge=_charge(scope, connection, namespace, epoch),
        random=scope.home.random,
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
    return sum(map(len, _Seen(scope, cache_of(scope, connection, epoch), namespace).parts()))


@contextmanager
def prf_of(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, values: Values) -> Iterator[Rows]:
    """Yield F(x) of our own identities, uint8 (n, 64); what this epoch has seen before is not computed again.

    F of more than a block is read from the cache where some rows are asked for.
    """
    cache, name = cache_of(scope, connection, epoch), f"own {namespace}"
    own = _own(scope, connection, namespace, epoch, values)
    with ExitStack() as files:
        kept = _Kept.open(files, cache, name, own)
        found: Rows = own if kept is None else kept
        if len(values) <= BLOCK_ROWS:
            found = found[:]
        if kept is None or not kept.add(cache, name, found):
            cache.save(name, **values.arrays(), prf=blocks_of(found))
        if not isinstance(found, np.ndarray):
            found = _Kept.open(files, cache, name, own) or own
        yield found


class _Own:
    """F of our own identities, uint8 (n, 64), computed where rows are asked for."""

    def __init__(self, context: bytes, key: Key, values: Values) -> None:
        self._context, self._key, self.values = context, key, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> U8:
        return oprf.prf(self._context, self.values.part(rows), self._key)

    def take(self, rows: slice, mask: Bools) -> "_Own":
        return _Own(self._context, self._key, self.values.part(rows).take(mask))


class _Kept:
    """F of our own identities as a file of the cache has it, uint8 (n, 64), read where rows are asked for.

    What the file lacks is computed; so is what cannot be read of it, and then the file goes.
    """

    def __init__(self, stored: Stored, own: _Own) -> None:
        """Raises InvalidTag."""
        self._stored, self._own, self._damaged = stored, own, False
        self._prf = OpenRows(stored, "prf", stored.lengths()["rows"])
        self._places: Indices | None = None
        self._missing = np.zeros(len(own), bool)
        self._before: Values | None = None
        if not holds(stored, own.values):
            before = Values.of_arrays(stored.load(only=("rows", "lengths")))
            self._places = np.zeros(len(own), np.intp)
            places, found = match(sort_keys(before), sort_keys(own.values))
            self._places[found] = places
            self._missing[:] = True
            self._missing[found] = False
            self._before = before if len(found) < len(own) else None

    @classmethod
    def open(cls, files: ExitStack, cache: Cache, name: str, own: _Own) -> "_Kept | None":
        """Return what a file of the cache has, None where it has nothing; it can be read while `files` are open."""
        try:
            return cls(files.enter_context(cache.open(name)), own)
        except (FileNotFoundError, InvalidTag):
            return None

    def __len__(self) -> int:
        return len(self._own)

    def __getitem__(self, rows: slice) -> U8:
        try:
            return self._prf[rows] if self._places is None else self._gathered(rows, self._places[rows])
        except InvalidTag:
            self._drop()
            return self._own[rows]

    def add(self, cache: Cache, name: str, found: Rows) -> bool:
        """Save F of what the file lacks beside what it has; return False where that cannot be read."""
        if self._before is not None and not self._damaged:
            new = found[self._missing] if isinstance(found, np.ndarray) else self._own.take(slice(None), self._missing)
            values = self._own.values.take(self._missing)
            try:
                save_sorted(cache, name, [self._before, values], [self._prf, new])
            except InvalidTag:
                self._drop()
        return not self._damaged

    def _gathered(self, rows: slice, places: Indices) -> U8:
        missing = self._missing[rows]
        result, have = np.empty((len(places), PRF_BYTES), np.uint8), np.flatnonzero(~missing)
        if missing.any():
            result[missing] = self._own.take(rows, missing)[:]
        result[have] = Picked(self._prf, places[have])[:]
        return result

    def _drop(self) -> None:
        self._damaged = True
        self._stored.drop()


def forget(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, snapshot: Snapshot) -> None:
    """Delete F of those of our identities that nobody has any more."""
    cache, name = cache_of(scope, connection, epoch), f"own {namespace}"
    with suppress(FileNotFoundError, InvalidTag), cache.open(name) as stored:
        values = Values.of_arrays(stored.load(only=("rows", "lengths")))
        if (kept := audiences.known(snapshot, namespace, values)).all():
            return
        cache.drop(name)
        if kept.any():
            prf = Picked(OpenRows(stored, "prf", len(values)), np.flatnonzero(kept))
            cache.save(name, **values.take(kept).arrays(), prf=blocks_of(prf))


def prf_alone(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, values: Values) -> U8:
    """Return F(x) of our own identities, uint8 (n, 64), and keep none of it."""
    return _own(scope, connection, namespace, epoch, values)[:]


def _own(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, values: Values) -> _Own:
    channel = Channel.of(scope, connection, epoch, namespace, protocol="release", outward=True)
    return _Own(channel.context, channel.key(Purpose.RELEASE_PRF), values)


def _charge(scope: Scope, connection: Connection, namespace: str, epoch: Epoch) -> Callable[[U8], None]:
    """Return the function that charges points: it refuses those beyond the agreed evaluations and remembers the others.

    The points are on disk before the ledger row that makes them count. After a kill in between they are charged when they
    come again, once.
    """
    seen = _Seen(scope, cache_of(scope, connection, epoch), namespace)

    def charge(points: U8) -> None:
        fresh = seen.fresh(points)
        new = len(fresh)
        if not new:
            return
        entry = seen.save(fresh)
        with scope.begin() as tx:
            allowed = allowance(scope, tx, connection, namespace)
            if new > allowed:
                seen.drop(entry)
                raise RefusedToPartner(
                    "evaluations_spent",
                    # how many are left would say what others used
                    f"{new} more points are above the evaluations agreed for this window",
                    hint="the sender may allow as many once more, as it has to where the receiver ended a key epoch",
                )
            spent = ledger.Entry(kind=ledger.LedgerKind.EVALUATIONS, amount=new, note=namespace, id=entry)
            ledger.add(scope, tx, connection, spent)
            attempts.grant(tx, connection)
        seen.unite(connection)

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


class _Seen:
    """The points of a partner that were charged in this epoch, in the parts in which they came; no two share a point.

    Many parts become one, which names those that it replaces: what a kill left of them counts no more. A part counts once
    the ledger has a row of its id.
    """

    def __init__(self, scope: Scope, cache: Cache, namespace: str) -> None:
        self._scope, self._cache, self._namespace = scope, cache, namespace
        self._beginning = f"seen {namespace} "
        self._parts: dict[str, U8] = {}

    def parts(self) -> Collection[U8]:
        """Return the beginnings of the points, uint8 (n, 16), each part sorted; what came since is read now."""
        while not self._read():
            pass
        return self._parts.values()

    def _read(self) -> bool:
        """Read the parts that came since; return False where one was replaced meanwhile."""
        names = self._names()
        new = names.keys() - self._parts.keys()
        with self._scope.read() as tx:
            charged = ledger.known(tx, new)
        read: dict[str, Arrays] = {}
        for entry in charged:
            stored = self._cache.load(names[entry])
            if stored is not None:
                read[entry] = stored
            elif not self._cache.has(names[entry]):  # it is not damaged, but gone
                return False
        replaces = {entry: _names(stored) for entry, stored in read.items()}
        replaced, following = set[str](), [each for named in replaces.values() for each in named]
        while following:  # what was replaced has no row any more, and may name others that a kill left
            if (entry := following.pop()) in replaced:
                continue
            replaced.add(entry)
            if entry in names and entry not in replaces and (stored := self._cache.load(names[entry])) is not None:
                replaces[entry] = _names(stored)
            following += replaces.get(entry, ())
        for entry, stored in read.items():
            if entry not in replaced:
                self._parts[entry] = stored["points"].astype(np.uint8, copy=False)
        for entry in sorted(replaced, key=lambda each: len(replaces.get(each, ()))):  # what names others goes last
            self._parts.pop(entry, None)
            self._cache.drop(self._beginning + entry)
        return True

    def fresh(self, points: U8) -> U8:
        """Return the beginnings of those points that were not charged, sorted."""
        fresh = distinct(points[:, :SEEN_BYTES])
        for part in self.parts():
            if len(fresh) and bytes(part[0]) <= bytes(fresh[-1]) and bytes(fresh[0]) <= bytes(part[-1]):
                unknown = np.ones(len(fresh), bool)
                unknown[match(part, fresh)[1]] = False
                fresh = fresh[unknown]
        return fresh

    def save(self, points: U8, replaces: Collection[str] = ()) -> str:
        """Put a part on disk, and return the id of the ledger's row that makes it count."""
        entry = self._scope.home.new_id()
        names = np.frombuffer(" ".join(replaces).encode(), np.uint8)
        self._cache.save(self._beginning + entry, points=points, replaces=names)
        return entry

    def drop(self, entry: str) -> None:
        self._cache.drop(self._beginning + entry)

    def unite(self, connection: Connection) -> None:
        """Make one part of many, or points that come one by one would fill the disk with files, and the ledger with rows."""
        if len(parts := list(self.parts())) < MOST_PARTS:
            return
        replaced = set(self._parts)
        entry = self.save(distinct(np.concatenate(parts)), replaced)
        with self._scope.begin() as tx:
            unchanged = set(ledger.known(tx, self._names())) == replaced  # or another process was faster
            if unchanged:
                whole = ledger.Entry(kind=ledger.LedgerKind.EVALUATIONS, amount=0, note=self._namespace, id=entry)
                ledger.unite(self._scope, tx, connection, replaced, whole)
        if unchanged:
            self.parts()
        else:
            self.drop(entry)

    def _names(self) -> dict[str, str]:
        return {name.removeprefix(self._beginning): name for name in self._cache.names(self._beginning)}


def _names(stored: Arrays) -> list[str]:
    """Return the parts that a part replaces."""
    return stored["replaces"].tobytes().decode().split() if "replaces" in stored else []


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
