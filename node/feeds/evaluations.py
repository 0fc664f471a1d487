"""F(x) = the sender's keyed function, once per identity and epoch: what the receiver asks, and what the sender answers.

Both sides keep what they have computed in the epoch's cache, so a later run costs only what is new. The sender counts
distinct points across feeds and restarts, by the wall clock; the same point again tells nothing new and is free.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from sqlalchemy import Connection, Row, func, insert, select

from protocol.agreement import Agreement
from protocol.errors import HINTS, RemoteProtocolError
from protocol.exchange import Opened, Opening, Role
from protocol.messages import SignedKey
from protocol.release import EvaluateReceiver, EvaluateSender, Evaluation, EvaluationTally, state_key
from protocol.states import Kind, Part
from psi import oprf
from psi.hashing import context as psi_context
from psi.join import distinct, match, order
from psi.keys import Key, Purpose
from psi.values import U8, Indices, Values, sort_keys

from ..errors import Failure, Refusal, Refused
from ..exchanges.exchanges import FINISHED, ROLES, run_exchange
from ..operations.jobs import Progress
from ..partners import key_epochs
from ..partners.key_epochs import Epoch
from ..people import audiences
from ..people.data import Snapshot
from ..storage.cache import Cache
from ..storage.tables import feed_partners, feeds, ledger, received_feeds
from . import versions
from .sending import attempts

if TYPE_CHECKING:
    from ..project import Project

ROWS = 1 << 18  # of F in memory at once, 16 MiB, or a multiple
PARTS = 16  # at most: each part is looked for in all records
SEEN_BYTES = 16  # of a point, to tell whether it came before


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
        cls, project: "Project", connection: Row[Any], epoch: Epoch, namespace: str, *, protocol: str, outward: bool
    ) -> "Channel":
        """`outward`: we are the sender (or the asker)."""
        ours, theirs = fingerprint(project.node.key), fingerprint(connection.peer_key)
        first, second = (ours, theirs) if outward else (theirs, ours)
        connection_id = bytes.fromhex(connection.id)
        return cls(
            connection=connection_id,
            direction=first + second,
            context=psi_context(
                protocol=protocol, from_key=first, to_key=second, connection=connection_id, namespace=namespace
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a receiver has of one namespace: F(y) of present identities.

    `groups` (n,) are their places among the snapshot's distinct identities. `parts` gives F in the same order, uint8
    (m, 64) at a time: all of it would take more memory than everything else.
    """

    groups: Indices
    public: bytes
    missing: Values
    parts: Callable[[], Iterator[U8]]


def fingerprint(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def cache_of(project: "Project", connection: Row[Any], epoch: Epoch) -> Cache:
    return Cache(project.node.home, connection.id, epoch, project.node.random)


# The receiver


@contextmanager
def known(
    project: "Project", connection: Row[Any], epoch: Epoch, namespace: str, snapshot: Snapshot
) -> Iterator[Known]:
    """Yield what we know of F for the identities that may be matched now, and which are still to be asked.

    What is evaluated meanwhile is not in it.
    """
    values, groups = audiences.universe(snapshot, namespace)
    cache, name = cache_of(project, connection, epoch), f"prf {namespace}"
    with ExitStack() as held:
        try:
            stored = held.enter_context(cache.open(name))
            have = stored.load(only=("rows", "lengths", "public"))
        except (FileNotFoundError, InvalidTag):
            yield Known(groups=groups[:0], public=b"", missing=values, parts=lambda: iter(()))
            return
        before, missing, places = Values.of_arrays(have), np.zeros(len(values), bool), None
        if not before.equals(values):
            places, found = match(sort_keys(before), sort_keys(values))  # both are sorted, and so are the places
            missing[:] = True
            missing[found] = False
            groups = groups[found]

        def parts() -> Iterator[U8]:
            count = ROWS * max(1, -(-len(before) // (ROWS * PARTS)))
            try:
                for number, prf in enumerate(stored.rows("prf", count)):
                    part = prf.astype(np.uint8, copy=False)
                    if places is not None:
                        first, last = np.searchsorted(places, (number * count, (number + 1) * count))
                        part = part[places[first:last] - number * count]
                    yield part
            except InvalidTag as error:
                stored.drop()
                raise Failure(
                    f"what {connection.alias} evaluated for us cannot be read any more",
                    hint="the next run of its feed asks for it again",
                ) from error

        yield Known(groups=groups, public=have["public"].tobytes(), missing=values.take(missing), parts=parts)


def missing(project: "Project", connection: Row[Any], epoch: Epoch, namespace: str, snapshot: Snapshot) -> bool:
    """Tell whether there are identities that may be matched now and whose F has not come in this epoch."""
    values, _ = audiences.universe(snapshot, namespace)
    stored = cache_of(project, connection, epoch).load(f"prf {namespace}", only=("rows", "lengths"))
    if stored is None:
        return len(values) > 0
    before = Values.of_arrays(stored)
    return not before.equals(values) and len(match(sort_keys(before), sort_keys(values))[1]) < len(values)


def tally(project: "Project", connection: Row[Any], epoch: Epoch, namespace: str) -> EvaluationTally:
    """Return what a release must agree with. Forgets which identities were asked for, once their F has come.

    Those of an exchange that did not end may have been counted by the sender or not: `unsure` is how many they are.
    """
    cache = cache_of(project, connection, epoch)
    stored = cache.load(f"prf {namespace}", only=("rows", "lengths", "public"))
    have = None if stored is None else sort_keys(Values.of_arrays(stored))
    pending: set[bytes] = set()
    for name in cache.names(f"asked {namespace} "):
        asked = cache.load(name)
        rows = sort_keys(Values.of_arrays(asked)) if asked is not None else np.empty((0, 16), np.uint8)
        if have is not None:
            open_ = np.ones(len(rows), bool)
            open_[match(have, rows)[1]] = False
            rows = rows[open_]
        if not len(rows):
            cache.drop(name)
        pending |= {row.tobytes() for row in rows}
    return EvaluationTally(
        public=b"" if stored is None else stored["public"].tobytes(),
        evaluated=0 if have is None else len(have),
        unsure=len(pending),
    )


def receiver(
    project: "Project", connection: Row[Any], namespace: str, epoch: Epoch, snapshot: Snapshot, name: str
) -> Role:
    """Make the role that asks for F of our identities that are new in this epoch.

    What is asked under one `name` stays the same: an exchange that goes on after a restart must not ask for others.
    """
    channel = Channel.of(project, connection, epoch, namespace, protocol="release", outward=False)
    cache, file = cache_of(project, connection, epoch), f"asked {namespace} {name}"
    with known(project, connection, epoch, namespace, snapshot) as have:
        asked = cache.load(file)
        if asked is None:
            cache.save(file, **have.missing.arrays())
    return EvaluateReceiver(
        context=channel.context,
        direction=channel.direction,
        epoch=epoch.number,
        values=have.missing if asked is None else Values.of_arrays(asked),
        key=channel.key(Purpose.RELEASE_BLIND),
        peer_key=connection.peer_key,
        pinned=have.public or None,
    )


def keep(project: "Project", connection: Row[Any], namespace: str, epoch: Epoch, evaluation: Evaluation) -> None:
    """Add what the sender evaluated to the epoch's cache, and find new people of ours in what feeds gave us before."""
    cache = cache_of(project, connection, epoch)
    stored = cache.load(f"prf {namespace}")
    values, prf = evaluation.values, evaluation.prf  # what was asked for is sorted
    public = np.frombuffer(evaluation.statement.statement.public, np.uint8)
    if stored is None:
        cache.save(f"prf {namespace}", **values.arrays(), prf=prf, public=public)
    else:
        if stored["public"].tobytes() != public.tobytes():
            raise RemoteProtocolError("key_changed", "the sender evaluated under two keys in one epoch")
        before = Values.of_arrays(stored)
        fresh = np.ones(len(values), bool)
        fresh[match(sort_keys(before), sort_keys(values))[1]] = False
        if fresh.any():
            parts = [stored["prf"].astype(np.uint8, copy=False), prf[fresh]]
            _keep_sorted(cache, f"prf {namespace}", [before, values.take(fresh)], parts, public=public)
    if len(evaluation.values):
        project.memberships.join_all(connection)


# The sender


def sender(project: "Project", connection: Row[Any], namespace: str, epoch: Epoch) -> Role:
    """Make the role that evaluates the receiver's points, within the evaluations agreed on."""
    channel = Channel.of(project, connection, epoch, namespace, protocol="release", outward=True)
    return EvaluateSender(
        key=channel.key(Purpose.RELEASE_PRF),
        statement=statement(project, connection, namespace, epoch),
        charge=_charge(project, connection, namespace, epoch),
        random=project.node.random,
    )


def statement(project: "Project", connection: Row[Any], namespace: str, epoch: Epoch) -> SignedKey:
    """Return our signed statement of the epoch's key, always the same one."""
    cache = cache_of(project, connection, epoch)
    stored = cache.load(f"statement {namespace}")
    if stored is not None:
        return SignedKey.decode(stored["statement"].tobytes())
    channel = Channel.of(project, connection, epoch, namespace, protocol="release", outward=True)
    made = state_key(
        channel.key(Purpose.RELEASE_PRF),
        context=channel.context,
        direction=channel.direction,
        epoch=epoch.number,
        random=project.node.random,
        sign=project.node.sign,
    )
    cache.save(f"statement {namespace}", statement=np.frombuffer(made.encode(), np.uint8))
    return made


def evaluated(project: "Project", connection: Row[Any], namespace: str, epoch: Epoch) -> int:
    """Return how many distinct points we have evaluated for the partner in this epoch."""
    return sum(map(len, _Seen(project, cache_of(project, connection, epoch), namespace).parts()))


def prf_of(project: "Project", connection: Row[Any], namespace: str, epoch: Epoch, values: Values) -> U8:
    """Return F(x) of our own identities, uint8 (n, 64); what this epoch has seen before is not computed again."""
    cache = cache_of(project, connection, epoch)
    stored = cache.load(f"own {namespace}")
    channel = Channel.of(project, connection, epoch, namespace, protocol="release", outward=True)
    if stored is None:
        result = oprf.prf(channel.context, values, channel.key(Purpose.RELEASE_PRF))
        cache.save(f"own {namespace}", **values.arrays(), prf=result)
        return result
    before, prf = Values.of_arrays(stored), stored["prf"].astype(np.uint8, copy=False)
    if before.equals(values):
        return prf
    places, found = match(sort_keys(before), sort_keys(values))
    missing = np.ones(len(values), bool)
    missing[found] = False
    result = np.empty((len(values), 64), np.uint8)
    result[found] = prf[places]
    if missing.any():
        result[missing] = oprf.prf(channel.context, values.take(missing), channel.key(Purpose.RELEASE_PRF))
        _keep_sorted(cache, f"own {namespace}", [before, values.take(missing)], [prf, result[missing]])
    return result


def _keep_sorted(
    cache: Cache, name: str, values: Sequence[Values], prf: Sequence[U8], **more: npt.NDArray[np.uint8]
) -> None:
    joined = Values.join(values)
    arrangement = order(sort_keys(joined))
    cache.save(name, **joined.take(arrangement).arrays(), prf=np.concatenate(prf)[arrangement], **more)


def _charge(project: "Project", connection: Row[Any], namespace: str, epoch: Epoch) -> Callable[[U8], None]:
    """Return what refuses points beyond the agreed evaluations and remembers the others.

    The points are on disk before the ledger row that makes them count: a kill in between charges them when they come
    again, once.
    """
    cache = cache_of(project, connection, epoch)
    seen = _Seen(project, cache, namespace)

    def charge(points: U8) -> None:
        fresh = seen.fresh(points)
        new = len(fresh)
        if not new:
            return
        entry = project.node.new_id()
        cache.save(f"seen {namespace} {entry}", points=fresh)
        with project.node.store.begin() as tx:
            allowed = _allowance(project, tx, connection, namespace)
            if new > allowed:
                cache.drop(f"seen {namespace} {entry}")
                raise Refusal(
                    "evaluations_spent",
                    f"{new} more points are above the evaluations agreed for this epoch ({allowed} are left)",
                    hint="the sender may allow as many once more: vesica partner allow NAME; after the receiver ended the "
                    "key epoch it agrees to that instead: vesica partner rotate NAME",
                )
            tx.execute(
                insert(ledger).values(
                    id=entry,
                    project_id=project.id,
                    peer_key=connection.peer_key,
                    kind="evaluations",
                    amount=new,
                    note=namespace,
                    at=project.node.now(),
                )
            )
            attempts.granted(tx, connection)

    return charge


def _allowance(project: "Project", tx: Connection, connection: Row[Any], namespace: str) -> int:
    terms = Agreement.decode(connection.agreement).terms
    query = (
        select(feed_partners.c.universes)
        .join(feeds, feeds.c.id == feed_partners.c.feed_id)
        .where(feed_partners.c.connection_id == connection.id, feed_partners.c.status == "enabled")
    )
    declared = max((sizes.get(namespace, 0) for (sizes,) in tx.execute(query) if sizes), default=0)
    agreed = min(declared, terms.maximum_universe)
    allowed = select(func.max(ledger.c.at)).where(
        ledger.c.project_id == project.id, ledger.c.peer_key == connection.peer_key, ledger.c.kind == "allowed"
    )
    anew = tx.scalar(allowed) or 0
    counted, restored = key_epochs.counted_since(project, tx, connection), project.row(tx).restored or 0
    if anew < restored and counted <= restored:  # what was used up since the backup is not known: a person decides
        return 0
    spent = tx.scalar(
        select(func.sum(ledger.c.amount)).where(
            ledger.c.project_id == project.id,
            ledger.c.peer_key == connection.peer_key,
            ledger.c.kind == "evaluations",
            ledger.c.note == namespace,
            ledger.c.at >= max(anew, counted),
        )
    )
    return int(agreed * terms.evaluations) - int(spent or 0)


class _Seen:
    """The points of a partner that were charged in this epoch, in the parts in which they came; no two share a point."""

    def __init__(self, project: "Project", cache: Cache, namespace: str) -> None:
        self._project, self._cache, self._beginning = project, cache, f"seen {namespace} "
        self._parts: dict[str, U8] = {}

    def parts(self) -> Collection[U8]:
        """Return the beginnings of the points, uint8 (n, 16), each part sorted; what came since is read now."""
        names = {name.removeprefix(self._beginning): name for name in self._cache.names(self._beginning)}
        new = names.keys() - self._parts.keys()
        with self._project.node.store.read() as tx:
            charged = tx.scalars(select(ledger.c.id).where(ledger.c.id.in_(new))).all() if new else ()
        for entry in charged:
            stored = self._cache.load(names[entry])
            if stored is not None:
                self._parts[entry] = stored["points"].astype(np.uint8, copy=False)
        return self._parts.values()

    def fresh(self, points: U8) -> U8:
        """Return the beginnings of those points that were not charged, sorted."""
        fresh = distinct(points[:, :SEEN_BYTES])
        for part in self.parts():
            if len(fresh) and bytes(part[0]) <= bytes(fresh[-1]) and bytes(fresh[0]) <= bytes(part[-1]):
                unknown = np.ones(len(fresh), bool)
                unknown[match(part, fresh)[1]] = False
                fresh = fresh[unknown]
        return fresh


# Both


def run(
    project: "Project", connection: Row[Any], namespace: str, part: Part, progress: Progress, snapshot: Snapshot
) -> None:
    """Bring the receiver's F up to date, as the side that calls."""
    inputs = b""
    with project.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection)
    if part is Part.RECEIVER:
        with known(project, connection, epoch, namespace, snapshot) as have:
            inputs = have.missing.digest()
    name = inputs.hex()

    numbers: list[int] = []

    def role(number: int) -> Role:
        numbers.append(number)
        now = epoch_of(project, connection, number)
        if part is Part.RECEIVER:
            return receiver(project, connection, namespace, now, snapshot, name)
        return sender(project, connection, namespace, now)

    def done(result: Any) -> None:
        if part is Part.RECEIVER:
            keep(project, connection, namespace, epoch_of(project, connection, numbers[-1]), result)

    subject: dict[str, str | bytes | int] = {"namespace": namespace}
    run_exchange(project, connection, subject, Kind.EVALUATE, part, role, inputs=inputs, keep=done, progress=progress)


def check_expected(project: "Project", connection: Row[Any], namespace: str, part: Part) -> None:
    """Refuse to evaluate, as our `part`, where no enabled feed between us matches by this namespace."""
    ours, theirs = feed_partners.c, received_feeds.c
    if part is Part.SENDER:
        query = select(ours.feed_id, ours.accepted_version).where(
            ours.connection_id == connection.id, ours.status == "enabled"
        )
    else:
        query = select(theirs.id, theirs.accepted_version).where(
            theirs.connection_id == connection.id, theirs.status == "enabled"
        )
    with project.node.store.read() as tx:
        feeds_between = tx.execute(query).all()
        if not any(namespace in versions.get(tx, feed_id, version).namespaces for feed_id, version in feeds_between):
            raise Refusal(
                "no_feed",
                f"no enabled feed between us matches by {namespace}",
                hint="the sender publishes one and the receiver enables it: 'vesica feed list' shows them",
            )


def _answer(project: "Project", connection: Row[Any], opening: Opening) -> tuple[Opened, Role]:
    namespace = str(opening.subject["namespace"])
    if namespace not in Agreement.decode(connection.agreement).namespaces:
        raise Refusal("namespace", "this namespace was not agreed on", hint=HINTS["namespace"])
    epoch = epoch_of(project, connection, opening.epoch)
    check_expected(project, connection, namespace, Part.SENDER if opening.part is Part.RECEIVER else Part.RECEIVER)
    if opening.part is Part.RECEIVER:
        return opened(project, opening), sender(project, connection, namespace, epoch)
    name = opening.exchange.hex()
    return opened(project, opening), receiver(project, connection, namespace, epoch, Snapshot.open(project), name)


def _finished(project: "Project", connection: Row[Any], opening: Opening, role: Role) -> None:
    if isinstance(role, EvaluateReceiver):
        epoch = epoch_of(project, connection, opening.epoch)
        keep(project, connection, str(opening.subject["namespace"]), epoch, role.result)


def opened(project: "Project", opening: Opening) -> Opened:
    """Say yes to an opening."""
    return Opened(exchange=opening.exchange, epoch=opening.epoch, nonce=project.node.random(32))


def epoch_of(project: "Project", connection: Row[Any], number: int) -> Epoch:
    """Return the running epoch, which must be `number`."""
    with project.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection)
    if epoch.number != number:
        raise Refused(f"key epoch {number} is over", hint="run it again")
    return epoch


ROLES[Kind.EVALUATE] = _answer
FINISHED[Kind.EVALUATE] = _finished
