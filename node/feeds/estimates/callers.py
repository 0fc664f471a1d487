"""What we ask partners that call because we have no address for them: it is fixed when they open, and kept on disk."""

import hashlib
import json

import numpy as np

from protocol.exchange import Opening
from protocol.messages import Answer
from protocol.states import Kind, Part
from psi.hashing import length_prefixed
from psi.join import match
from psi.values import Values, sort_keys

from ...access.scope import Scope
from ...errors import NotAllowed, RefusedToPartner
from ...exchanges import handlers, http
from ...exchanges.channels import cache_of, epoch_of, namespace_of
from ...exchanges.records import find, inputs_in_use
from ...operations.jobs import Job, Jobs, JobState
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Arrays, Cache
from ...storage.database import Tx
from ...storage.records import Document
from .. import versions
from .asking import JOB, WAITING, Asked, asker, keep_answer, prepare, sample_of

WAITS_SECONDS = 3_600  # a caller that takes longer is asked only about who is still to be asked about


def _answer(scope: Scope, connection: Connection, opening: Opening, inputs: bytes | None) -> handlers.PreparedRole:
    """Ask a partner that calls because we have no address for it: our newest estimate that waits."""
    namespace = namespace_of(connection, opening)
    cache = cache_of(scope, connection, epoch_of(scope, connection, opening.epoch))
    if inputs is None:
        arrays = _wanted(scope, connection, namespace)
        digest = _digest(arrays)
    else:
        arrays, digest = _kept(cache, inputs), inputs

    def keep() -> None:
        with scope.read() as tx:
            used = inputs_in_use(tx, connection, Kind.COUNT, Part.ASKER)
        for name in cache.names(_file(b"")):
            if name not in map(_file, used):
                cache.drop(name)
        if not cache.has(_file(digest)):
            cache.save(_file(digest), **arrays)
            if not audiences.known(Snapshot.open(scope), namespace, Values.of_arrays(arrays)).all():
                cache.drop(_file(digest))  # somebody was erased meanwhile

    opened = scope.home.now() if inputs is None else 0

    def check() -> None:
        if scope.home.now() - opened > WAITS_SECONDS:
            _check_nobody_left(scope, connection, namespace, _asked(arrays))

    role = asker(scope, connection, opening.epoch, namespace, _asked(arrays), check)
    return handlers.PreparedRole(role, digest, keep)


def _wanted(scope: Scope, connection: Connection, namespace: str) -> Arrays:
    wanted, names = _waiting(scope, connection, namespace)
    sample = sample_of(scope, connection, namespace)
    try:
        asked = prepare(scope, connection, namespace, names, Snapshot.open(scope), sample=sample)
    except NotAllowed as error:
        raise _nothing_wanted() from error
    if not asked.names:
        raise _nothing_wanted()
    words = json.dumps({"names": asked.names, "sizes": asked.sizes, "wanted": wanted}).encode()
    return {
        "words": np.frombuffer(words, np.uint8),
        **asked.audience.values.arrays(),
        "segments": asked.audience.segments,
        "consented": asked.audience.consented,
    }


def _asked(arrays: Arrays) -> Asked:
    words = _words(arrays)
    audience = audiences.Audience(
        values=Values.of_arrays(arrays),
        segments=arrays["segments"].astype(np.bool_, copy=False),
        consented=arrays["consented"].astype(np.bool_, copy=False),
    )
    return Asked(names=words["names"], too_small=[], audience=audience, sizes=words["sizes"])


def _check_nobody_left(scope: Scope, connection: Connection, namespace: str, asked: Asked) -> None:
    """Raise RefusedToPartner where somebody would not be asked about now, or not as one who may be shared."""
    sample = sample_of(scope, connection, namespace)
    try:
        now = prepare(scope, connection, namespace, asked.names, Snapshot.open(scope), sample=sample)
    except NotAllowed as error:
        raise http.over() from error
    before = asked.audience
    old, new = match(sort_keys(before.values), sort_keys(now.audience.values))
    same = now.names == asked.names and len(old) == len(before.values)
    if not same or (before.consented[old] & ~now.audience.consented[new]).any():
        raise http.over()
    if (before.segments[:, old] & ~now.audience.segments[:, new]).any():
        raise http.over()


def _words(arrays: Arrays) -> Document:
    words: Document = json.loads(arrays["words"].tobytes())
    return words


def _kept(cache: Cache, digest: bytes) -> Arrays:
    """Return what an exchange that is open asks, from the file that keeps it until the answer comes."""
    arrays = cache.load(_file(digest))
    if arrays is None:
        raise http.over()
    return arrays


def _digest(arrays: Arrays) -> bytes:
    return hashlib.sha256(length_prefixed(*(arrays[name].tobytes() for name in sorted(arrays)))).digest()


def _waiting(scope: Scope, connection: Connection, namespace: str) -> tuple[list[str], list[str]]:
    """Return the segments of our newest estimate that waits for a call of this partner, and those still shared with it."""
    if not connection.peer_address:
        with scope.read() as tx:
            for job in _waiting_jobs(scope, tx, connection, namespace):
                shared = versions.shared_with(tx, connection.id, namespace)
                names = [name for name in job.parameters["segments"] if name in shared]
                if names:
                    return job.parameters["segments"], names
    raise _nothing_wanted()


def _file(digest: bytes) -> str:
    return f"asked of a caller {digest.hex()}"


def files(cache: Cache) -> list[str]:
    """Return the files with what exchanges ask."""
    return cache.names(_file(b""))


def _nothing_wanted() -> RefusedToPartner:
    return RefusedToPartner(
        "nothing_wanted", "nothing is to be asked", hint="the side that is called first asks for an estimate of a feed"
    )


def _waiting_jobs(scope: Scope, tx: Tx, connection: Connection, namespace: str) -> list[Job]:
    """Return our estimates that this partner has not called for yet, newest first."""
    return [
        job
        for job in Jobs(scope.home).done(JOB, scope, tx)
        if job.parameters["connection"] == connection.id
        and job.parameters["namespace"] == namespace
        and job.result == WAITING
    ]


def _finished(scope: Scope, connection: Connection, opening: Opening, answer: Answer) -> None:
    cache = cache_of(scope, connection, epoch_of(scope, connection, opening.epoch))
    namespace = str(opening.subject["namespace"])
    with scope.read() as tx:
        exchange = find(tx, opening.exchange)
    assert exchange is not None
    arrays = _kept(cache, exchange.inputs)
    keep_answer(scope, connection, namespace, _asked(arrays), answer)
    with scope.begin() as tx:  # another estimate, of other segments, waits on
        for job in _waiting_jobs(scope, tx, connection, namespace):
            if job.parameters["segments"] == _words(arrays)["wanted"]:
                Jobs(scope.home).change_result(tx, job, {"status": JobState.DONE})


ASKER = handlers.Handler(answer=_answer, finished=_finished)
