"""What a run brings: decided on a pinned snapshot, sealed, and on disk before its first byte leaves."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import numpy as np

from protocol.feed import Definition
from protocol.messages import Manifest
from protocol.receipt import NO_RECEIPT
from protocol.release import manifest
from psi.engine import Place
from psi.join import match
from psi.values import U8, Rows

from ...access.scope import Scope
from ...compute.engines import engine_of, saved
from ...consent.consent_policies import ConsentPolicies
from ...exchanges.channels import BLOCK_ROWS, cache_of
from ...operations.alerts import AlertKind, Alerts
from ...operations.jobs import Progress
from ...partners import key_epochs
from ...partners.connections import Connection, by_id
from ...people.snapshots import ErasedMeanwhile, Snapshot, changes_after, is_kept
from ...segments.segments import Segments
from ...storage.cache import Cache, Epoch
from ...storage.database import Tx
from ...storage.records import Document
from .. import runs, versions
from ..runs import Run, RunReport, RunState, SentRun
from . import erasing, evaluations, kept_content, recipients, revisions
from . import selection as selections
from .deciding import Decided, decide_members
from .recipients import Feed
from .standing import alerting, check, is_as_prepared, last_run, lasts


@dataclass(frozen=True, kw_only=True)
class Release:
    """What may go to a partner now: the feed, the version that it accepted, and what may leave of one snapshot.

    `inputs` digests what that was decided from; it is empty where the rules were not evaluated, or something changed
    meanwhile: then nothing goes on from this decision.
    """

    scope: Scope
    connection: Connection
    feed: Feed
    definition: Definition
    snapshot: Snapshot
    decided: Decided
    inputs: str = ""

    @property
    def counts(self) -> Document | None:
        """The numbers that the next decision goes on from."""
        return asdict(self.decided.counts) if self.inputs else None

    def content(self, epoch: Epoch) -> revisions.Contents:
        """Return all that may leave; raises Failure where the epoch that it was decided in is over, or a file is gone."""
        return self.decided.content(cache_of(self.scope, self.connection, epoch))

    def digest(self, epoch: Epoch) -> bytes:
        """Return what tells this content from others in an epoch, 32 bytes."""
        return kept_content.digest(self.decided.digests, self.definition, epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What was found out before the partner had evaluated: what changed since a run (None: everything), and F of it.

    F of many is not here: it is in the cache, and read where it is needed.
    """

    epoch: int
    last: str | None
    changes: revisions.Contents | None
    prf: dict[str, U8]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Next:
    """The next revision: its number, the run whose content it may be added to, and when what it brings changed."""

    revision: int
    epoch: Epoch
    digest: bytes
    last: SentRun | None
    changed_at: int | None


def decide(scope: Scope, connection: Connection, feed_id: str, *, evaluate: bool = False) -> Release:
    """Decide what may go to a partner now; with `evaluate` the segments are evaluated first.

    Raises NotAllowed if anything forbids a run now. If it is a policy there is an alert too: nobody may be watching.
    """
    with alerting(scope, connection):
        seen = _evaluated(scope, connection, feed_id) if evaluate else _seen(scope, connection, feed_id)
    feed, definition, model, snapshot, before = seen
    about = (scope, connection, definition, snapshot, model)
    with scope.read() as tx:
        decided = decide_members(*about, tx=tx)
        inputs = selections.inputs(*about, tx=tx) if evaluate else ""
    if decided.differs:
        with scope.begin() as tx:
            text = (
                f"feed {feed.name} to {connection.alias}: of changed people alone it was decided otherwise than of all"
            )
            Alerts(scope).add(tx, AlertKind.DECISION_DIFFERS, text)
    return Release(
        scope=scope,
        connection=connection,
        feed=feed,
        definition=definition,
        snapshot=snapshot,
        decided=decided,
        inputs=inputs if inputs == before else "",
    )


Seen = tuple[Feed, Definition, str, Snapshot, str]  # what was checked, the data as the check saw them, `Release.inputs`


def _evaluated(scope: Scope, connection: Connection, feed_id: str) -> Seen:
    """Check that a feed may run, and evaluate its segments in the same transaction."""
    detail: Document = {}
    with scope.act("feed.check", feed_id, detail=detail) as tx:
        feed, definition, model = check(scope, tx, connection, feed_id)
        names = [segment.name for segment in definition.segments]
        evaluated = Segments(scope).evaluate_in(tx, *ConsentPolicies(scope).segments_read(tx=tx), leaving=names)
        detail |= {"partner": connection.alias, "evaluated": evaluated}
        snapshot = Snapshot.open(scope, tx)
        inputs = selections.inputs(scope, connection, definition, snapshot, model, tx=tx)
        return feed, definition, model, snapshot, inputs


def _seen(scope: Scope, connection: Connection, feed_id: str) -> Seen:
    """Check that a feed may run, by reading only: an audit row is written only if it is refused."""
    with scope.refusals("feed.check", feed_id), scope.read() as tx:
        return *check(scope, tx, connection, feed_id), Snapshot.open(scope, tx), ""


def prf_ahead(release: Release) -> Ahead:
    """Compute F of what is to be released while the partner blinds and verifies; `prepare` goes on from there."""
    with release.scope.begin() as tx:
        epoch = key_epochs.current(release.scope, tx, release.connection)
        last = last_run(tx, release.connection.id, release.feed.id)
    changes, few = _changes(release, last, epoch), {}
    for namespace, content in (release.content(epoch) if changes is None else changes).items():
        with evaluations.prf_of(release.scope, release.connection, namespace, epoch, content.values) as prf:
            if len(prf) <= BLOCK_ROWS:
                few[namespace] = prf[:]
    _check_kept(release, epoch)
    return Ahead(epoch=epoch.number, last=None if last is None else last.id, changes=changes, prf=few)


def unfinished(release: Release) -> SentRun | None:
    """Return a prepared run whose content may leave now."""
    found = _usable(release)
    return found if found is not None and is_current(release, found) else None


def may_leave(scope: Scope, connection: Connection, run: SentRun) -> bool:
    """Return whether the content of a run may leave now; raises NotAllowed if anything forbids it."""
    connection = by_id(scope, connection.id)  # what was agreed on may have changed since the run began
    return is_as_prepared(scope, connection, run) or is_current(decide(scope, connection, run.feed_id), run)


def is_current(release: Release, run: SentRun) -> bool:
    """Return whether the content of a run may leave now; a prepared run that is out of date is given up."""
    scope, connection = release.scope, release.connection
    with scope.begin() as tx:
        epoch = key_epochs.current(scope, tx, connection)
        last = None if run.state is RunState.DONE else last_run(tx, connection.id, run.feed_id)
        follows = run.state is RunState.DONE or run.report.base in (None, last and last.revision)
        content = release.digest(epoch).hex()
        current = follows and run.version == release.definition.version and run.report.content == content
        given_up = not current and run.state is RunState.PREPARED
        if given_up:
            runs.change(scope, tx, run.id, state=RunState.FAILED)
    if given_up:
        cache_of(scope, connection, epoch).drop(f"run {run.id}")
    return current


def _usable(release: Release) -> SentRun | None:
    """Return a prepared run that can still go out as it is; give up all others."""
    scope, connection, found = release.scope, release.connection, None
    with scope.begin() as tx:
        epoch = key_epochs.current(scope, tx, connection)
        last, cache = last_run(tx, connection.id, release.feed.id), cache_of(scope, connection, epoch)
        for run in runs.prepared(tx, connection.id, release.feed.id):
            usable = run.version == release.definition.version and run.report.epoch == epoch.number
            usable = usable and run.report.base in (None, last and last.revision)
            if usable and cache.load(f"run {run.id}", only=()) is not None:
                found = run
            else:
                runs.change(scope, tx, run.id, state=RunState.FAILED)
    return found


def prepare(release: Release, progress: Progress, ahead: Ahead | None = None) -> SentRun | None:
    """Make the next data revision ready on disk, or return None where nothing changed since the last one.

    It has what changed since the last one. It is full, with everything, if it is the first of a version or epoch, after
    many changes in this run or many runs of changes, or if the partner asked for it. After a day without a change it is
    empty: the members stay. What `prf_ahead` found is used if it is about the same run and epoch.
    """
    coming = _next(release)
    if coming is None:
        return None
    last = None if coming.last is None else coming.last.id
    if ahead is None or (ahead.epoch, ahead.last) != (coming.epoch.number, last):
        changes = _changes(release, coming.last, coming.epoch)
        ahead = Ahead(epoch=coming.epoch.number, last=last, changes=changes, prf={})
    base = None if ahead.changes is None else coming.last
    erased = {} if base is None else revisions.gone(_cache(release, coming.epoch), base.id)
    sealed = _sealed(release, coming, ahead, erased, progress)
    run = _run(release, coming, base, sum(map(len, sealed.values())))
    cache = _cache(release, coming.epoch)
    _drop_old(release.scope, release.connection, cache)
    release.decided.keep(cache, run.id, release.definition.width)
    cache.save(f"run {run.id}", **{name.replace("/", "|"): saved(rows) for name, rows in sealed.items()})
    with release.scope.begin() as tx:
        runs.keep(tx, run)
    _check_kept(release, coming.epoch)
    return run


def _cache(release: Release, epoch: Epoch) -> Cache:
    return cache_of(release.scope, release.connection, epoch)


def _check_kept(release: Release, epoch: Epoch) -> None:
    """Delete what was just written of people who were erased meanwhile, and refuse to go on with them."""
    scope = release.scope
    if not is_kept(scope, release.snapshot):
        erasing.sweep(scope, release.connection, epoch, Snapshot.open(scope))
        raise ErasedMeanwhile()


def _next(release: Release) -> _Next | None:
    """Hand out the number of the next revision; return None if the last one has the same content and is under a day old."""
    scope, connection = release.scope, release.connection
    with scope.begin() as tx:
        epoch = key_epochs.current(scope, tx, connection)
        last = last_run(tx, connection.id, release.feed.id)
        digest = release.digest(epoch)
        changed: int | None = _changed_at(release, tx, last)
        if last is not None and last.report.content == digest.hex():
            if lasts(scope, last):  # what changed in the data does not concern it
                report = replace(last.report, generation=release.snapshot.generation, inputs=release.inputs)
                report = replace(report, counts=release.counts)
                runs.note(tx, last.id, report)
                return None
            changed = None
        revision = recipients.next_revision(tx, release.feed.id)
    return _Next(revision=revision, epoch=epoch, digest=digest, last=last, changed_at=changed)


def _changed_at(release: Release, tx: Tx, last: SentRun | None) -> int:
    """Return when what the next revision brings changed: the data, the version, or the partner's answer."""
    answered = recipients.get(tx, release.connection.id, release.feed.id).changed
    if last is None:
        return answered
    if last.version != release.definition.version:
        return max(release.definition.created, answered)
    changed = next(iter(changes_after(release.scope, tx, last.report.generation)), release.scope.home.now())
    return max(changed, answered) if answered > last.changed else changed  # it went on with the feed after a pause


def _changes(release: Release, last: SentRun | None, epoch: Epoch) -> revisions.Contents | None:
    """Return what changed since the last run, or None if the revision has to be full."""
    if last is None or (last.version, last.report.epoch) != (release.definition.version, epoch.number):
        return None
    if last.report.changes_since >= runs.FULL_AFTER:
        return None
    if release.decided.last == last.id:
        return release.decided.changes if release.decided.few else None
    before = kept_content.whole(cache_of(release.scope, release.connection, epoch), last.id)
    return revisions.since(before, release.content(epoch))


def _sealed(
    release: Release, coming: _Next, ahead: Ahead, erased: revisions.Gone, progress: Progress
) -> dict[str, Place]:
    """Return the records of each namespace, which only F of the same identity opens; all-zero ones for the `erased`."""
    sealed: dict[str, Place] = {}
    scope, connection, definition = release.scope, release.connection, release.definition
    contents = release.content(coming.epoch) if ahead.changes is None else ahead.changes
    for place, (namespace, each) in enumerate(contents.items()):
        progress(f"seal {namespace}", place + 1, len(contents))
        with ExitStack() as files:
            prf: Rows | None = ahead.prf.get(namespace)
            if prf is None:
                prf = files.enter_context(evaluations.prf_of(scope, connection, namespace, coming.epoch, each.values))
            bitmaps = each.bitmaps
            if namespace in erased:
                gone, known = erased[namespace], prf[:]
                gone = np.delete(gone, match(gone, known)[0], axis=0)  # whoever came back meanwhile has a record
                prf = np.concatenate([known, gone])
                bitmaps = np.concatenate([bitmaps, np.zeros((len(gone), bitmaps.shape[1]), np.uint8)])
            sealed[namespace] = engine_of(scope.home).seal(
                prf, bitmaps, feed=definition.feed, version=definition.version, revision=coming.revision
            )
    return sealed


def _run(release: Release, coming: _Next, base: SentRun | None, records: int) -> SentRun:
    """Return the row of a run that is made ready; its changes are added to `base`, if there is one."""
    counts, now = release.decided.counts, release.scope.home.now()
    report = RunReport(
        considered=counts.considered,
        without_consent=counts.unconsented,
        in_small_segments_only=counts.small,
        sent=counts.sent,
        small_segments=release.decided.small_segments,
        records=records,
        changed_at=coming.changed_at,
        generation=release.snapshot.generation,
        content=coming.digest.hex(),
        epoch=coming.epoch.number,
        base=None if base is None else base.revision,
        changes_since=0 if base is None else base.report.changes_since + (records > 0),
        inputs=release.inputs,
        counts=release.counts,
    )
    return Run(
        id=release.scope.home.new_id(),
        connection_id=release.connection.id,
        feed_id=release.feed.id,
        ours=True,
        version=release.definition.version,
        revision=coming.revision,
        digest=coming.digest,
        state=RunState.PREPARED,
        report=report,
        created=now,
        changed=now,
    )


def _drop_old(scope: Scope, connection: Connection, cache: Cache) -> None:
    """Delete the files of runs that will not go out any more. The caller runs alone with this partner."""
    with scope.read() as tx:
        kept = runs.needed(tx, connection.id)
    for name in (each for kind in revisions.KINDS for each in cache.names(f"{kind} ")):
        run_id = name.split(" ")[1]
        if run_id not in kept:
            cache.drop(name)


def announced(scope: Scope, connection: Connection, run: SentRun, epoch: Epoch, sealed: Mapping[str, Rows]) -> Manifest:
    """Return the manifest of a run: made when the run is first sent, and kept."""
    cache = cache_of(scope, connection, epoch)
    kept = cache.load(f"manifest {run.id}")
    if kept is not None:
        return Manifest.decode(kept["manifest"].tobytes())
    with scope.read() as tx:
        definition = versions.get(tx, run.feed_id, run.version)
        previous = recipients.get(tx, connection.id, run.feed_id).last_receipt
    statements = {each: evaluations.statement(scope, connection, each, epoch) for each in sealed}
    made = manifest(
        definition,
        sealed,
        revision=run.revision,
        full=run.report.base is None,
        evaluated={each: evaluations.evaluated(scope, connection, each, epoch) for each in sealed},
        publics={each: signed.statement.public for each, signed in statements.items()},
        previous=previous or NO_RECEIPT,
        changed=run.report.changed_at,
        made=scope.home.now(),
    )
    cache.save(f"manifest {run.id}", manifest=np.frombuffer(made.encode(), np.uint8))
    return made
