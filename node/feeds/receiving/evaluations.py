"""F(y) of our own identities, as the receiver: the sender's keyed function, asked for once per identity and epoch.

What came is kept in the epoch's cache, so a later run costs only what is new.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from cryptography.exceptions import InvalidTag

from protocol.errors import RemoteProtocolError
from protocol.evaluation import EvaluateReceiver, Evaluation, EvaluationTally
from protocol.exchange import Opening, Role
from protocol.states import Kind, Part
from psi.join import match, union
from psi.keys import Purpose
from psi.values import U8, Indices, Rows, Values, sort_keys

from ...access.scope import Scope
from ...errors import Failure
from ...exchanges import http
from ...exchanges.channels import (
    BLOCK_ROWS,
    Channel,
    blocks_of,
    cache_of,
    epoch_of,
    holds,
    namespace_of,
    running_epoch,
    save_sorted,
)
from ...exchanges.handlers import Handler, PreparedRole, Subject
from ...exchanges.opening import Plan, run_exchange
from ...exchanges.records import inputs_in_use
from ...operations.jobs import Progress
from ...partners.connections import Connection, peer_keys
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Cache, Epoch, OpenRows, Stored
from ...storage.database import Tx
from .. import versions
from . import received_feeds
from .received_feeds import ReceivedStatus

PARTS = 16  # at most: each part is looked for in all records


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a receiver has of one namespace: F(y) of present identities.

    `places_in_snapshot` (n,) are their places among the snapshot's distinct identities. `parts` gives F in the same
    order, uint8 (m, 64) at a time: all of it would take more memory than everything else. `salt` is that of its file, empty
    where there is none.
    """

    salt: bytes
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
            public, count = stored.load(only=("public",))["public"].tobytes(), stored.lengths()["rows"]
            places, found = _places(stored, values)
        except (FileNotFoundError, InvalidTag):
            yield Known(
                salt=b"", places_in_snapshot=in_snapshot[:0], public=b"", missing=values, parts=lambda: iter(())
            )
            return
        missing = np.zeros(len(values), bool)
        if found is not None:
            missing[:] = True
            missing[found] = False
            in_snapshot = in_snapshot[found]

        def parts() -> Iterator[U8]:
            size = BLOCK_ROWS * max(1, -(-count // (BLOCK_ROWS * PARTS)))
            with _readable(connection, stored):
                for number, prf in enumerate(stored.rows("prf", size)):
                    part = prf.astype(np.uint8, copy=False)
                    if places is not None:
                        first, last = np.searchsorted(places, (number * size, (number + 1) * size))
                        part = part[places[first:last] - number * size]
                    yield part

        yield Known(
            salt=stored.salt,
            places_in_snapshot=in_snapshot,
            public=public,
            missing=values.take(missing),
            parts=parts,
        )


def _places(stored: Stored, values: Values) -> tuple[Indices | None, Indices | None]:
    """Return where identities stand in a file with F, and which those are, both ascending; None for all of it.

    Raises InvalidTag.
    """
    if holds(stored, values):
        return None, None
    return match(sort_keys(Values.of_arrays(stored.load(only=("rows", "lengths")))), sort_keys(values))


def missing(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, snapshot: Snapshot) -> bool:
    """Return whether there are identities that may be matched now and whose F has not come in this epoch."""
    values, _ = audiences.universe(snapshot, namespace)
    try:
        with cache_of(scope, connection, epoch).open(f"prf {namespace}") as stored:
            _, found = _places(stored, values)
    except (FileNotFoundError, InvalidTag):
        return len(values) > 0
    return found is not None and len(found) < len(values)


def tally(scope: Scope, connection: Connection, epoch: Epoch, namespace: str) -> EvaluationTally:
    """Return how many evaluations a release's manifest may claim. Forgets what was asked for, once its F has come.

    The sender may or may not have counted the identities of an exchange that did not end: `unsure` is their number.
    """
    cache = cache_of(scope, connection, epoch)
    try:
        with cache.open(f"prf {namespace}") as stored:
            return _tally(cache, namespace, stored)
    except (FileNotFoundError, InvalidTag):
        return _tally(cache, namespace, None)


def _tally(cache: Cache, namespace: str, stored: Stored | None) -> EvaluationTally:
    pending = Values.of([])
    for name in cache.names(asked_file(namespace)):
        asked = cache.load(name)
        values = Values.of([]) if asked is None else Values.of_arrays(asked)
        waiting = values if stored is None else _without(stored, values)
        if not len(waiting):
            cache.drop(name)
        pending = union([pending, waiting])
    forgotten = cache.load(_forgotten(namespace))
    return EvaluationTally(
        public=b"" if stored is None else stored.load(only=("public",))["public"].tobytes(),
        evaluated=0 if stored is None else stored.lengths()["rows"],
        unsure=len(pending) + (0 if forgotten is None else int(forgotten["count"])),
    )


def _without(stored: Stored, values: Values) -> Values:
    """Return those identities that a file with F does not have. Raises InvalidTag."""
    _, found = _places(stored, values)
    waiting = np.zeros(len(values), bool)
    if found is not None:
        waiting[:] = True
        waiting[found] = False
    return values.take(waiting)


def files(cache: Cache, namespace: str) -> list[str]:
    """Return the files with our identities in a namespace: those that F has come for, and those it was asked for."""
    return [name for name in cache.names(f"prf {namespace}") if name == f"prf {namespace}"] + cache.names(
        asked_file(namespace)
    )


def forget(cache: Cache, namespace: str, count: int) -> None:
    """Note that so many more identities that the sender may have counted are erased here."""
    before = cache.load(_forgotten(namespace))
    cache.save(_forgotten(namespace), count=np.array(count + (0 if before is None else int(before["count"]))))


def _forgotten(namespace: str) -> str:
    return f"forgotten {namespace}"


def receiver(
    scope: Scope, connection: Connection, namespace: str, epoch: Epoch, snapshot: Snapshot, asked: bytes | None = None
) -> PreparedRole:
    """Make the role that asks for F of our identities that are new in this epoch, or for those of the digest `asked`.

    An exchange that is resumed must not ask for others than before.
    """
    channel = Channel.of(scope, connection, epoch, namespace, protocol="release", outward=False)
    values, public = _to_ask(scope, connection, epoch, namespace, snapshot)
    digest = values.digest()
    if asked is not None and asked != digest:
        stored = cache_of(scope, connection, epoch).load(asked_file(namespace, asked))
        if stored is None:
            raise http.over()
        values, digest = Values.of_arrays(stored), asked
    role = EvaluateReceiver(
        context=channel.context,
        direction=channel.direction,
        epoch=epoch.number,
        values=values,
        key=channel.key(Purpose.RELEASE_BLIND),
        peer_keys=peer_keys(scope, connection),
        pinned=public or None,
    )
    return PreparedRole(role, digest, partial(_keep_asked, scope, connection, namespace, epoch, values))


def _to_ask(
    scope: Scope, connection: Connection, epoch: Epoch, namespace: str, snapshot: Snapshot
) -> tuple[Values, bytes]:
    """Return the identities whose F is still to be asked for, and the key that made what has come.

    Once there are none this is noted with what it was found out from: our identities, and the file with F.
    """
    cache, now = cache_of(scope, connection, epoch), audiences.stamp(snapshot, namespace)
    noted, salt = cache.load(covered := f"covered {namespace}"), cache.salt(f"prf {namespace}")
    if noted is not None and salt and noted["stamp"].tobytes() == now + salt:
        stored = cache.load(f"prf {namespace}", only=("public",))
        if stored is not None:
            return Values.of([]), stored["public"].tobytes()
    with known(scope, connection, epoch, namespace, snapshot) as have:
        if not len(have.missing) and have.salt:
            cache.save(covered, stamp=np.frombuffer(now + have.salt, np.uint8))
        return have.missing, have.public


def _keep_asked(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, values: Values) -> None:
    """Keep what an exchange asks for, until its F has come: the partner may have counted it even if it never comes.

    Files are named by what is in them, so that exchanges which ask for the same share one. Those of exchanges that are over
    are one file together.
    """
    cache, name = cache_of(scope, connection, epoch), asked_file(namespace, values.digest())
    with scope.read() as tx:
        used = inputs_in_use(tx, connection, Kind.EVALUATE, Part.RECEIVER)
    kept = {name, *(asked_file(namespace, each) for each in used)}
    over = [each for each in cache.names(asked_file(namespace)) if each not in kept]
    if not cache.has(name):
        cache.save(name, **values.arrays())
        _sweep_if_erased(scope, connection, epoch, namespace, values)
    if len(over) > 1:
        together = union(Values.of_arrays(each) for each in map(cache.load, over) if each is not None)
        united = asked_file(namespace, together.digest())
        cache.save(united, **together.arrays())
        for each in over:
            if each != united:
                cache.drop(each)


def asked_file(namespace: str, digest: bytes = b"") -> str:
    """Return the name of the file with identities of a digest that F was asked for, or how all these begin."""
    return f"asked {namespace} {digest.hex()}"


def keep(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, evaluation: Evaluation) -> None:
    """Add what the sender evaluated to the epoch's cache, and look for these people of ours in the releases we keep."""
    from . import joining

    cache, name = cache_of(scope, connection, epoch), f"prf {namespace}"
    before = cache.salt(name)
    public = np.frombuffer(evaluation.statement.statement.public, np.uint8)
    with ExitStack() as files:
        try:
            stored = files.enter_context(cache.open(name))
            have = stored.load(only=("rows", "lengths", "public"))
        except (FileNotFoundError, InvalidTag):
            cache.save(name, **evaluation.values.arrays(), prf=blocks_of(evaluation.prf), public=public)
        else:
            if have["public"].tobytes() != public.tobytes():
                raise RemoteProtocolError("key_changed", "the sender evaluated under two keys in one epoch")
            with _readable(connection, stored):
                _add(cache, name, Values.of_arrays(have), stored, evaluation, public)
    if len(evaluation.values):
        _sweep_if_erased(scope, connection, epoch, namespace, evaluation.values)
        joining.join_new(scope, connection, joining.New(namespace=namespace, evaluation=evaluation, before=before))


def _add(cache: Cache, name: str, before: Values, stored: Stored, evaluation: Evaluation, public: U8) -> None:
    """Save what is new of an evaluation among F of before; what was asked for is sorted."""
    values, fresh = evaluation.values, np.ones(len(evaluation.values), bool)
    fresh[match(sort_keys(before), sort_keys(values))[1]] = False
    if fresh.any():
        new = evaluation.prf if fresh.all() else evaluation.prf[fresh]
        parts: list[Rows] = [OpenRows(stored, "prf", len(before)), new]
        save_sorted(cache, name, [before, values.take(fresh)], parts, public=public)


@contextmanager
def _readable(connection: Connection, stored: Stored) -> Iterator[None]:
    """Delete a file with F that turns out to be damaged: the next run asks for all of it again."""
    try:
        yield
    except InvalidTag as error:
        stored.drop()
        raise Failure(
            f"what {connection.alias} evaluated for us cannot be read any more",
            hint="the next run of its feed asks for it again",
        ) from error


def _sweep_if_erased(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, values: Values) -> None:
    """Delete what was just written of people who were erased meanwhile."""
    from . import erasing

    snapshot = Snapshot.open(scope)
    if not audiences.known(snapshot, namespace, values).all():
        erasing.sweep(scope, connection, epoch, snapshot)


def run(scope: Scope, connection: Connection, namespace: str, progress: Progress, snapshot: Snapshot) -> None:
    """Ask the partner for F of our identities that are new, as the side that calls."""
    first = running_epoch(scope, connection)
    inputs = receiver(scope, connection, namespace, first, snapshot).inputs

    def role(epoch_number: int) -> Role:
        now = epoch_of(scope, connection, epoch_number)
        asked = inputs if now.number == first.number else None  # in a new epoch everybody is new
        answer = receiver(scope, connection, namespace, now, snapshot, asked)
        answer.keep()
        return answer.role

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


def _answer(scope: Scope, connection: Connection, opening: Opening, inputs: bytes | None) -> PreparedRole:
    namespace = namespace_of(connection, opening)
    epoch = epoch_of(scope, connection, opening.epoch)
    _check_expected(scope, connection, namespace)
    return receiver(scope, connection, namespace, epoch, Snapshot.open(scope), inputs)


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
