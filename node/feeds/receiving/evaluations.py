"""F(y) of our own identities, as the receiver: the sender's keyed function, asked for once per identity and epoch.

What came is kept in the epoch's cache, so a later run costs only what is new.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag

from protocol.errors import RemoteProtocolError
from protocol.exchange import Opening, Role
from protocol.release import EvaluateReceiver, Evaluation, EvaluationTally
from protocol.states import Kind, Part
from psi.join import match
from psi.keys import Purpose
from psi.values import U8, Indices, Values, sort_keys

from ...access.scope import Scope
from ...errors import Failure
from ...exchanges.channels import Channel, cache_of, epoch_of, namespace_of, running_epoch, save_sorted
from ...exchanges.handlers import Handler, Subject
from ...exchanges.opening import Plan, run_exchange
from ...operations.jobs import Progress
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Epoch
from ...storage.database import Tx
from ...storage.ids import stored_id
from .. import versions
from . import received_feeds
from .received_feeds import ReceivedStatus

ROWS = 1 << 18  # of F in memory at once, 16 MiB, or a multiple
PARTS = 16  # at most: each part is looked for in all records


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a receiver has of one namespace: F(y) of present identities.

    `places_in_snapshot` (n,) are their places among the snapshot's distinct identities. `parts` gives F in the same
    order, uint8 (m, 64) at a time: all of it would take more memory than everything else.
    """

    places_in_snapshot: Indices
    public: bytes
    missing: Values
    parts: Callable[[], Iterator[U8]]


@contextmanager
def known(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, snapshot: Snapshot) -> Iterator[Known]:
    """Yield F of the identities that may be matched now as far as it has come, and the identities still to be asked."""
    values, in_snapshot = audiences.universe(snapshot, namespace)
    cache, name = cache_of(scope, connection, epoch), f"prf {namespace}"
    with ExitStack() as files:
        try:
            stored = files.enter_context(cache.open(name))
            have = stored.load(only=("rows", "lengths", "public"))
        except (FileNotFoundError, InvalidTag):
            yield Known(places_in_snapshot=in_snapshot[:0], public=b"", missing=values, parts=lambda: iter(()))
            return
        before, missing, places = Values.of_arrays(have), np.zeros(len(values), bool), None
        if not before.equals(values):
            places, found = match(sort_keys(before), sort_keys(values))  # both are sorted, and so are the places
            missing[:] = True
            missing[found] = False
            in_snapshot = in_snapshot[found]

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

        yield Known(
            places_in_snapshot=in_snapshot,
            public=have["public"].tobytes(),
            missing=values.take(missing),
            parts=parts,
        )


def missing(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, snapshot: Snapshot) -> bool:
    """Return whether there are identities that may be matched now and whose F has not come in this epoch."""
    values, _ = audiences.universe(snapshot, namespace)
    stored = cache_of(scope, connection, epoch).load(f"prf {namespace}", only=("rows", "lengths"))
    if stored is None:
        return len(values) > 0
    before = Values.of_arrays(stored)
    return not before.equals(values) and len(match(sort_keys(before), sort_keys(values))[1]) < len(values)


def tally(scope: Scope, connection: Connection, epoch: Epoch, namespace: str) -> EvaluationTally:
    """Return how many evaluations a release's manifest may claim. Forgets what was asked for, once its F has come.

    The sender may or may not have counted the identities of an exchange that did not end: `unsure` is their number.
    """
    cache = cache_of(scope, connection, epoch)
    stored = cache.load(f"prf {namespace}", only=("rows", "lengths", "public"))
    have = None if stored is None else sort_keys(Values.of_arrays(stored))
    pending: set[bytes] = set()
    for name in cache.names(f"asked {namespace} "):
        asked = cache.load(name)
        rows = sort_keys(Values.of_arrays(asked)) if asked is not None else np.empty((0, 16), np.uint8)
        if have is not None:
            waiting = np.ones(len(rows), bool)
            waiting[match(have, rows)[1]] = False
            rows = rows[waiting]
        if not len(rows):
            cache.drop(name)
        pending |= {row.tobytes() for row in rows}
    return EvaluationTally(
        public=b"" if stored is None else stored["public"].tobytes(),
        evaluated=0 if have is None else len(have),
        unsure=len(pending),
    )


def receiver(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, snapshot: Snapshot, name: str) -> Role:
    """Make the role that asks for F of our identities that are new in this epoch.

    What is asked under one `name` stays the same: an exchange that is resumed must not ask for others.
    """
    channel = Channel.of(scope, connection, epoch, namespace, protocol="release", outward=False)
    cache, file = cache_of(scope, connection, epoch), f"asked {namespace} {name}"
    with known(scope, connection, epoch, namespace, snapshot) as have:
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


def keep(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, evaluation: Evaluation) -> None:
    """Add what the sender evaluated to the epoch's cache, and look for new people of ours in the releases we keep."""
    from . import joining

    cache = cache_of(scope, connection, epoch)
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
            save_sorted(cache, f"prf {namespace}", [before, values.take(fresh)], parts, public=public)
    if len(evaluation.values):
        joining.join_all(scope, connection)


def run(scope: Scope, connection: Connection, namespace: str, progress: Progress, snapshot: Snapshot) -> None:
    """Ask the partner for F of our identities that are new, as the side that calls."""
    epoch = running_epoch(scope, connection)
    with known(scope, connection, epoch, namespace, snapshot) as have:
        inputs = have.missing.digest()

    def role(epoch_number: int) -> Role:
        now = epoch_of(scope, connection, epoch_number)
        return receiver(scope, connection, namespace, now, snapshot, inputs.hex())

    def done(epoch_number: int, evaluation: Evaluation) -> None:
        keep(scope, connection, namespace, epoch_of(scope, connection, epoch_number), evaluation)

    plan = Plan(
        kind=Kind.EVALUATE,
        part=Part.RECEIVER,
        subject={"namespace": namespace},
        role=role,
        inputs=inputs,
        keep=done,
    )
    run_exchange(scope, connection, plan, progress)


def is_expected(tx: Tx, connection: Connection, namespace: str) -> bool:
    """Return whether a feed that we have enabled from this partner matches by a namespace."""
    feeds = received_feeds.of_connection(tx, connection.id)
    enabled = [(feed.id, feed.accepted_version) for feed in feeds if feed.status is ReceivedStatus.ENABLED]
    return versions.any_matches_by(tx, enabled, namespace)


def _check_expected(scope: Scope, connection: Connection, namespace: str) -> None:
    with scope.read() as tx:
        if not is_expected(tx, connection, namespace):
            raise versions.no_feed(namespace)


def _answer(scope: Scope, connection: Connection, opening: Opening) -> Role:
    namespace = namespace_of(connection, opening)
    epoch = epoch_of(scope, connection, opening.epoch)
    _check_expected(scope, connection, namespace)
    return receiver(scope, connection, namespace, epoch, Snapshot.open(scope), stored_id(opening.exchange))


def _open(scope: Scope, connection: Connection, subject: Subject, progress: Progress) -> None:
    namespace = str(subject["namespace"])
    _check_expected(scope, connection, namespace)
    run(scope, connection, namespace, progress, Snapshot.open(scope))


def _note_request(scope: Scope, tx: Tx, connection: Connection, subject: Subject) -> bool:
    """Return whether a feed from this partner is enabled that our evaluation is for."""
    return is_expected(tx, connection, str(subject["namespace"]))


def _finished(scope: Scope, connection: Connection, opening: Opening, evaluation: Evaluation) -> None:
    epoch = epoch_of(scope, connection, opening.epoch)
    keep(scope, connection, str(opening.subject["namespace"]), epoch, evaluation)


HANDLER = Handler(answer=_answer, open=_open, note_request=_note_request, finished=_finished)
