"""Releases: one data revision of a feed to one partner, from the decision to the receipt that both sign.

A revision's sealed records are on disk before its first byte leaves: after a kill the same bytes go out again, or a
new number does. The receiver takes a revision whole or not at all.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from enum import StrEnum
from typing import Any

from protocol.errors import RemoteProtocolError
from protocol.exchange import Opening, Role
from protocol.letters import Wanted
from protocol.receipt import SignedReceipt
from protocol.release import ReleaseSender
from protocol.states import Kind, Part
from psi.errors import VesicaError

from ...access.scope import NothingDone, Scope
from ...errors import NotAllowed, PeerUnreachable, RefusedByPartner, RefusedToPartner
from ...exchanges.channels import cache_of, epoch_of
from ...exchanges.handlers import Handler, PreparedRole, Subject
from ...exchanges.opening import Plan, run_exchange
from ...operations.jobs import Jobs, Progress
from ...partners import key_epochs
from ...partners.connections import Connection, by_id, peer_keys
from ...partners.letters import Letters
from ...people.snapshots import ErasedMeanwhile
from ...segments import references
from ...storage.database import Tx
from ...storage.ids import stored_id, wire_id
from ...storage.records import Document
from .. import runs
from ..runs import RunState, SentRun
from . import attempts, evaluations, preparing, recipients, standing
from .preparing import Release

JOB = "release"


class Outcome(StrEnum):
    """How the job ended, unless it failed."""

    DONE = "done"
    UNCHANGED = "unchanged"  # the partner has everything
    WAITING = "waiting"  # for the call of a partner that has no address


# Where we call


def run(scope: Scope, parameters: Document, progress: Progress) -> Any:
    """Do the job: bring one partner to the newest revision of one feed, and note how that ended."""
    connection = by_id(scope, parameters["connection"])
    attempts.begin(scope, connection, parameters["feed"])
    try:
        try:
            done = _bring(scope, connection, parameters["feed"], progress)
        except ErasedMeanwhile:  # it begins again without them
            done = _bring(scope, connection, parameters["feed"], progress)
        except RefusedToPartner as error:
            if error.code != "stale":
                raise
            done = _bring(scope, connection, parameters["feed"], progress)
    except VesicaError as error:
        attempts.failed(scope, connection, parameters["feed"], error)
        runs.log_run("out", connection.alias, RunState.FAILED, feed=_name(scope, parameters["feed"]), code=error.code)
        raise
    if done["status"] is not Outcome.DONE:  # `_sent` has logged those
        runs.log_run("out", connection.alias, done["status"], feed=done["feed"])
    return done


def _bring(scope: Scope, connection: Connection, feed_id: str, progress: Progress) -> Document:
    references.refresh(scope)
    settled = _settled(scope, connection, feed_id, progress)
    if settled is not None:
        return settled
    release = preparing.decide(scope, connection, feed_id, evaluate=True)
    attempts.depends_on(scope, connection, feed_id, release.snapshot.generation)
    about = {"feed": release.feed.name, "partner": connection.alias}
    if not connection.peer_address:
        _wait_for_call(release, progress)
        return {**about, "status": Outcome.WAITING}
    try:
        sent = _call(release, progress)
    except PeerUnreachable:
        if scope.home.config.address:  # it may call us: a receiver without a service does, when it fetches letters
            _ask_to_be_called(release, progress)
        raise
    status = Outcome.DONE
    if sent is None:
        status = Outcome.UNCHANGED
        with scope.begin() as tx:
            attempts.ended(scope, tx, connection, feed_id)
            sent = standing.last_run(tx, connection.id, feed_id)
            assert sent is not None
    return _shown(about, status, sent)


def _settled(scope: Scope, connection: Connection, feed_id: str, progress: Progress) -> Document | None:
    """End a run that would bring nothing, once the partner's new people are evaluated; None where it has to be made."""
    found = standing.settled(scope, connection, feed_id)
    if found is None or not connection.peer_address:
        return None
    for namespace in found.namespaces:
        evaluations.run(scope, connection, namespace, progress)
    if not standing.stays_settled(scope, connection, feed_id):
        return None
    with scope.begin() as tx:
        attempts.ended(scope, tx, connection, feed_id)
    return _shown({"feed": found.feed.name, "partner": connection.alias}, Outcome.UNCHANGED, found.last)


def _shown(about: Document, status: Outcome, run: SentRun) -> Document:
    return {**about, "status": status, "version": run.version, "revision": run.revision, **run.report.shown()}


def _call(release: Release, progress: Progress) -> SentRun | None:
    """Evaluate the receiver's people and send what is new; returns what was sent, None for nothing."""
    scope, connection = release.scope, release.connection
    with ThreadPoolExecutor(1, thread_name_prefix="prf") as pool:
        own = pool.submit(copy_context().run, preparing.prf_ahead, release)
        for namespace in release.decided.namespaces:
            evaluations.run(scope, connection, namespace, progress)
        ahead = own.result()
    sent = _send_unfinished(release, progress)
    prepared = preparing.prepare(release, progress, ahead)
    return sent if prepared is None else _send_prepared(release, prepared, progress)


def _ask_to_be_called(release: Release, progress: Progress) -> None:
    """Leave a letter with a partner that cannot be reached, by which it can call for what is made ready."""
    scope, connection = release.scope, release.connection
    prepared = preparing.unfinished(release) or preparing.prepare(release, progress)
    if prepared is not None:
        with scope.act("feed.run", f"{release.feed.name} {connection.alias}", detail={"waiting": True}) as tx:
            request = Wanted(kind=Kind.RELEASE, subject=_subject(prepared))
            Letters(scope).send_once(tx, connection.id, "exchange.wanted", request)


def _wait_for_call(release: Release, progress: Progress) -> None:
    """Ask a partner that has no address to call us: for what is made ready, or to evaluate its new people."""
    scope, connection = release.scope, release.connection
    prepared = preparing.unfinished(release) or preparing.prepare(release, progress)
    with scope.act("feed.run", f"{release.feed.name} {connection.alias}", detail={"waiting": True}) as tx:
        if prepared is not None:  # the receiver evaluates first
            requests = [Wanted(kind=Kind.RELEASE, subject=_subject(prepared))]
        else:
            requests = [Wanted(kind=Kind.EVALUATE, subject={"namespace": each}) for each in release.decided.namespaces]
            attempts.ended(scope, tx, connection, release.feed.id)
        for request in requests:
            Letters(scope).send_once(tx, connection.id, "exchange.wanted", request)


def _send_unfinished(release: Release, progress: Progress) -> SentRun | None:
    """Send what was made ready before and did not arrive, if it may still leave; returns it once it has."""
    run = preparing.unfinished(release)
    if run is None:
        return None
    try:
        send(release.scope, release.connection, run, progress)
    except (RefusedByPartner, RemoteProtocolError):  # audited; the next revision takes its place
        with release.scope.begin() as tx:
            runs.change(release.scope, tx, run.id, state=RunState.FAILED)
        return None
    return run


def _send_prepared(release: Release, run: SentRun, progress: Progress) -> SentRun:
    """Send a revision; where the partner lacks what its changes are added to, a full one. Returns what was sent."""
    scope, connection = release.scope, release.connection
    try:
        send(scope, connection, run, progress)
    except RefusedByPartner as error:
        if error.code != runs.NO_BASE:
            raise
        with scope.begin() as tx:
            runs.change(scope, tx, run.id, state=RunState.FAILED)
            soon = attempts.request_full_revision(scope, tx, connection, release.feed.id)
        if not soon:
            raise
    else:
        return run
    full = preparing.prepare(release, progress)
    assert full is not None
    send(scope, connection, full, progress)
    return full


def send(scope: Scope, connection: Connection, run: SentRun, progress: Progress) -> None:
    def role(epoch_number: int) -> Role:
        with scope.read() as tx:
            if recipients.get(tx, connection.id, run.feed_id).accepted_version != run.version:
                raise RefusedToPartner(
                    "stale", "another version is in force since this run began", hint="the feed runs again by itself"
                )
        return _sender(scope, connection, run, epoch_number, check)

    def check() -> None:
        try:
            current = preparing.may_leave(scope, connection, run)
        except NotAllowed as error:
            raise RefusedToPartner("stale", f"{error}", hint=error.hint) from error
        if not current:
            raise RefusedToPartner(
                "stale",
                "the people have changed since this revision was made ready",
                hint="the feed runs again by itself",
            )

    plan = Plan(
        kind=Kind.RELEASE,
        part=Part.SENDER,
        subject=_subject(run),
        role=role,
        inputs=run.digest,
        keep=lambda _, receipt: _sent(scope, connection, run, receipt),
    )
    run_exchange(scope, connection, plan, progress)


def _sender(
    scope: Scope,
    connection: Connection,
    run: SentRun,
    epoch_number: int,
    check: Callable[[], None] = lambda: None,
) -> Role:
    epoch = epoch_of(scope, connection, epoch_number)
    stored = cache_of(scope, connection, epoch).rows(f"run {run.id}")
    if stored is None or run.report.epoch != epoch_number:
        raise NotAllowed(f"revision {run.revision} was made ready in another key epoch", hint="run it again")
    sealed = {name.replace("|", "/"): rows for name, rows in stored.items()}
    return ReleaseSender(
        connection=connection.wire_id,
        manifest=preparing.announced(scope, connection, run, epoch, sealed),
        records=sealed,
        peer_keys=peer_keys(scope, connection),
        sign=scope.home.sign,
        check=check,
    )


def _sent(scope: Scope, connection: Connection, run: SentRun, receipt: SignedReceipt) -> None:
    """Keep the receipt that both signed, once; the next revision's receipt names it."""
    report, kept = run.report, None
    detail = {"version": run.version, "revision": run.revision, **report.shown()}
    with scope.act("feed.run", f"{run.feed_id} {connection.alias}", detail=detail) as tx:
        now = runs.with_revision(tx, connection.id, run.feed_id, run.revision)
        if now is not None and now.state is RunState.DONE:
            raise NothingDone
        runs.change(scope, tx, run.id, state=RunState.DONE, receipt=receipt.encode())
        attempts.ended(scope, tx, connection, run.feed_id)
        _follow(scope, tx, connection, run, receipt)
        kept = runs.with_revision(tx, connection.id, run.feed_id, run.revision)
    if kept is None:
        return
    runs.log_run(
        "out",
        connection.alias,
        RunState.DONE,
        feed=_name(scope, run.feed_id),
        version=run.version,
        revision=run.revision,
        full=report.base is None,
        records=report.records,
        latency=kept.latency,
    )


def _follow(scope: Scope, tx: Tx, connection: Connection, run: SentRun, receipt: SignedReceipt) -> None:
    """Let the next revision to a partner follow this one."""
    recipient = recipients.get(tx, connection.id, run.feed_id)
    full = recipient.full and run.report.base is not None
    recipients.change_state(
        scope, tx, recipient, last_revision=run.revision, last_receipt=receipt.receipt.digest(), full=full
    )


# Where the receiver calls


def _answer(scope: Scope, connection: Connection, opening: Opening, _: bytes | None) -> PreparedRole:
    subject = opening.subject
    run = _called_for(scope, connection, subject)

    def check() -> None:
        _called_for(scope, connection, subject)

    return PreparedRole(_sender(scope, connection, run, opening.epoch, check))


def _called_for(scope: Scope, connection: Connection, subject: Subject) -> SentRun:
    """Return the run that a receiver comes for, if it may still go out as it was made ready."""
    run = _run_of(scope, connection, subject)
    try:
        current = preparing.may_leave(scope, connection, run)
    except NotAllowed as error:
        raise RefusedToPartner(
            "not_enabled", "this feed does not run to you now", hint="the receiver enables it"
        ) from error
    with scope.begin() as tx:
        cache = cache_of(scope, connection, key_epochs.current(scope, tx, connection))
    gone = run.state is RunState.FAILED or cache.load(f"run {run.id}", only=()) is None
    if gone or not current:
        soon = True
        if run.state is RunState.DONE:  # the receiver never had it
            with scope.begin() as tx:
                soon = attempts.request_full_revision(scope, tx, connection, run.feed_id)
        if soon:
            Jobs(scope.home).submit_once(JOB, {"connection": connection.id, "feed": run.feed_id}, scope)
        raise RefusedToPartner(
            "stale", "this revision is out of date; a new one is being made", hint="it comes by itself"
        )
    return run


def _run_of(scope: Scope, connection: Connection, subject: Subject) -> SentRun:
    feed, revision = subject["feed"], subject["revision"]
    assert isinstance(feed, bytes)
    assert isinstance(revision, int)
    with scope.read() as tx:
        run = runs.with_revision(tx, connection.id, stored_id(feed), revision)
    if run is None:
        raise RefusedToPartner("no_feed", "there is no such revision", hint="ask again later")
    return run


def _finished(scope: Scope, connection: Connection, opening: Opening, receipt: SignedReceipt) -> None:
    _sent(scope, connection, _run_of(scope, connection, opening.subject), receipt)


def _name(scope: Scope, feed_id: str) -> str:
    with scope.read() as tx:
        return recipients.feed_of(tx, feed_id).name


def _subject(run: SentRun) -> dict[str, str | bytes | int]:
    return {"feed": wire_id(run.feed_id), "version": run.version, "revision": run.revision}


HANDLER = Handler(answer=_answer, finished=_finished)
