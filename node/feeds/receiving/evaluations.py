"""F(y) of our own identities, as the receiver: the sender's keyed function, asked for once per identity and epoch.

What came is kept in the epoch's cache, so a later run costs only what is new.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from cryptography.exceptions import InvalidTag

from protocol.errors import RemoteProtocolError
from protocol.evaluation import EvaluateReceiver, Evaluation, EvaluationTally
from protocol.exchange import Opening, Role
from protocol.states import Kind, Part
from psi.join import union
from psi.keys import Purpose
from psi.values import SLICE, U8, Bools, Values

from ...access.scope import Scope
from ...compute.engines import engine_of, saved
from ...errors import Failure
from ...exchanges import http
from ...exchanges.channels import Channel, cache_of, epoch_of, namespace_of, running_epoch
from ...exchanges.handlers import Handler, PreparedRole, Subject
from ...exchanges.kept_prf import KeptPrf, OpenPrf
from ...exchanges.opening import Plan, run_exchange
from ...exchanges.records import inputs_in_use
from ...operations.jobs import Progress
from ...partners.connections import Connection, peer_keys
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Cache, Epoch, OpenRows
from ...storage.database import Tx
from .. import versions
from . import covered, received_feeds
from .received_feeds import ReceivedStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a receiver has of one namespace: F(y) of present identities.

    `in_snapshot` is which of the snapshot's distinct identities they are, n of them. `parts` gives F in the same order,
    uint8 (m, 64) at a time: all of it would take more memory than everything else. `stamp` is that of F as it is kept,
    empty where there is none; `lost` says that some of what came cannot be read any more.
    """

    stamp: bytes
    in_snapshot: Bools
    public: bytes
    missing: Values
    lost: bool
    parts: Callable[[], Iterator[U8]]


def kept(scope: Scope, connection: Connection, epoch: Epoch, namespace: str) -> KeptPrf:
    """Return F of our identities, as far as it has come."""
    return KeptPrf(cache_of(scope, connection, epoch), f"prf {namespace}", namespace)


@contextmanager
def known(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, snapshot: Snapshot) -> Iterator[Known]:
    """Yield F of the identities that may be matched now as far as it has come, and the identities still to be asked."""
    values, in_snapshot = audiences.universe(snapshot, namespace)
    stored = kept(scope, connection, epoch, namespace)
    with stored.open() as have:
        missing = have.missing(values) if len(have) else np.ones(len(values), bool)
        found = values
        if missing.any():
            found = values.take(~missing)
            in_snapshot = audiences.within(in_snapshot, ~missing)
        elif have.lost:
            stored.found()

        def parts() -> Iterator[U8]:
            for start in range(0, len(found), SLICE):
                part = found.part(slice(start, start + SLICE))
                places, prf = have.find(part)
                if len(places) != len(part):
                    raise Failure(
                        f"what {connection.alias} evaluated for us cannot be read any more",
                        hint="the next run of its feed asks for it again",
                    )
                yield prf

        yield Known(
            stamp=have.stamp,
            in_snapshot=in_snapshot,
            public=have.public,
            missing=values.take(missing),
            lost=have.lost > 0,
            parts=parts,
        )


def missing(scope: Scope, connection: Connection, epoch: Epoch, namespace: str, snapshot: Snapshot) -> bool:
    """Return whether there are identities that may be matched now and whose F has not come in this epoch."""
    cache, stored = cache_of(scope, connection, epoch), kept(scope, connection, epoch, namespace)
    with stored.open() as have:
        return len(covered.missing(scope, cache, namespace, snapshot, have)) > 0


def tally(scope: Scope, connection: Connection, epoch: Epoch, namespace: str) -> EvaluationTally:
    """Return how many evaluations a release's manifest may claim. Forgets what was asked for, once its F has come.

    The sender may or may not have counted the identities of an exchange that did not end, and it has counted those whose
    F is lost here: `unsure` is their number.
    """
    cache, pending = cache_of(scope, connection, epoch), Values.of([])
    with kept(scope, connection, epoch, namespace).open() as have:
        for name in cache.names(asked_file(namespace)):
            waiting = _waiting(cache, name, have)
            if not len(waiting):
                cache.drop(name)
            pending = union([pending, waiting])
        forgotten = cache.load(_forgotten(namespace))
        return EvaluationTally(
            public=have.public,
            evaluated=len(have),
            unsure=len(pending) + have.lost + (0 if forgotten is None else int(forgotten["count"])),
        )


def _waiting(cache: Cache, name: str, have: OpenPrf) -> Values:
    """Return the identities in a file of those asked for whose F has not come; none where it cannot be read."""
    waiting = list[Values]()
    try:
        with cache.open(name) as stored:
            count, lengths = stored.lengths()["rows"], stored.load(only=("lengths",))
            rows = OpenRows(stored, "rows", count)
            for part in (slice(start, start + SLICE) for start in range(0, count, SLICE)):
                asked = Values.of_arrays({"rows": rows[part]} | {key: each[part] for key, each in lengths.items()})
                waiting.append(asked.take(have.missing(asked)))
    except (FileNotFoundError, InvalidTag):
        return Values.of([])
    return Values.join(waiting)


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
        engine=engine_of(scope.home),
    )
    return PreparedRole(role, digest, partial(_keep_asked, scope, connection, namespace, epoch, values))


def _to_ask(
    scope: Scope, connection: Connection, epoch: Epoch, namespace: str, snapshot: Snapshot
) -> tuple[Values, bytes]:
    """Return the identities whose F is still to be asked for, and the key that made what has come.

    Where few people changed since F had all, nothing is read but these.
    """
    cache, stored = cache_of(scope, connection, epoch), kept(scope, connection, epoch, namespace)
    with stored.open() as have:
        found, public, lost = covered.missing(scope, cache, namespace, snapshot, have), have.public, have.lost
        if len(found):
            covered.note_asked(cache, namespace, snapshot, have.stamp, found.digest())
    if lost and not len(found):
        stored.found()
    return found, public


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
        lengths = {} if values.lengths is None else {"lengths": values.lengths}
        cache.save(name, rows=saved(_Rows(values)), **lengths)
        _sweep_if_erased(scope, connection, epoch, namespace, values)
    if len(over) > 1:
        together = union(Values.of_arrays(each) for each in map(cache.load, over) if each is not None)
        united = asked_file(namespace, together.digest())
        cache.save(united, **together.arrays())
        for each in over:
            if each != united:
                cache.drop(each)


class _Rows:
    """The rows of identities, of which some at a time are in memory."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: slice) -> U8:
        return self._values.part(rows).rows


def asked_file(namespace: str, digest: bytes = b"") -> str:
    """Return the name of the file with identities of a digest that F was asked for, or how all these begin."""
    return f"asked {namespace} {digest.hex()}"


def keep(scope: Scope, connection: Connection, namespace: str, epoch: Epoch, evaluation: Evaluation) -> None:
    """Add what the sender evaluated to the epoch's cache, and look for these people of ours in the releases we keep."""
    from . import joining
    from .affected import New

    stored, public = kept(scope, connection, epoch, namespace), evaluation.statement.statement.public
    with stored.open() as have:
        before = have.stamp
        if before and have.public != public:
            raise RemoteProtocolError("key_changed", "the sender evaluated under two keys in one epoch")
        lacking = have.missing(evaluation.values)
        count = len(have) + int(np.count_nonzero(lacking))
    stored.add(evaluation.values, evaluation.prf, public=public, absent=before if lacking.all() else None)
    with stored.open() as have:
        after = have.stamp if len(have) == count else b""  # others changed it too
    if len(evaluation.values):
        cache = cache_of(scope, connection, epoch)
        covered.note_come(cache, namespace, evaluation.values.digest(), before=before, after=after)
        new = New(namespace=namespace, values=evaluation.values, prf=evaluation.prf, before=before, after=after)
        joining.join_new(scope, connection, new)
        _sweep_if_erased(scope, connection, epoch, namespace, evaluation.values)


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
