"""What a run brings: decided on a pinned snapshot, sealed, and on disk before its first byte leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from protocol.feed import Definition
from protocol.messages import Manifest
from protocol.receipt import NO_RECEIPT
from protocol.release import manifest
from psi import membership
from psi.errors import Remedy
from psi.join import match
from psi.values import U8, Rows

from ...access.scope import Scope
from ...consent.consent_policies import ConsentPolicies
from ...consent.consents import Consents
from ...errors import NotAllowed
from ...exchanges.channels import cache_of
from ...governance.governance import Governance
from ...governance.violations import PolicyViolation
from ...operations.alerts import AlertKind, Alerts
from ...operations.jobs import Progress
from ...partners import key_epochs
from ...partners.connections import Connection, ConnectionStatus
from ...people.snapshots import ErasedMeanwhile, Snapshot, changes_after, is_kept
from ...segments.segments import Segments
from ...storage.cache import Cache, Epoch
from ...storage.database import Tx
from ...storage.records import Document
from ...storage.tables import DAY
from .. import runs, versions
from ..runs import Run, RunReport, RunState, SentRun
from ..states import FeedStatus, RecipientStatus
from . import erasing, evaluations, recipients, revisions
from .recipients import Feed
from .selection import Selection, select_members


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What may go to a partner now: the feed, the version that it accepted, and what may leave of one snapshot."""

    scope: Scope
    connection: Connection
    feed: Feed
    definition: Definition
    snapshot: Snapshot
    selection: Selection

    def content(self) -> revisions.Contents:
        return revisions.of(self.selection, self.definition.width)


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
    try:
        feed, definition, model, snapshot = (
            _evaluated(scope, connection, feed_id) if evaluate else _seen(scope, connection, feed_id)
        )
    except PolicyViolation as error:
        with scope.begin() as tx:
            text = f"feed {error.violations[0].feed} does not run to {connection.alias}: {error}"
            Alerts(scope).add(tx, AlertKind.POLICY_VIOLATION, text)
        raise
    selection = select_members(scope, connection, definition, snapshot, model)
    return Release(
        scope=scope,
        connection=connection,
        feed=feed,
        definition=definition,
        snapshot=snapshot,
        selection=selection,
    )


Checked = tuple[Feed, Definition, str]  # the feed, the version that the partner accepted, and the consent model
Seen = tuple[Feed, Definition, str, Snapshot]  # the same, and the data as the check saw them


def _evaluated(scope: Scope, connection: Connection, feed_id: str) -> Seen:
    """Check that a feed may run, and evaluate its segments in the same transaction."""
    detail: Document = {}
    with scope.act("feed.check", feed_id, detail=detail) as tx:
        feed, definition, model = _checked(scope, tx, connection, feed_id)
        names = [*(segment.name for segment in definition.segments), *ConsentPolicies(scope).segments_read(tx=tx)]
        detail |= {"partner": connection.alias, "evaluated": Segments(scope).evaluate_in(tx, *names)}
        return feed, definition, model, Snapshot.open(scope, tx)


def _seen(scope: Scope, connection: Connection, feed_id: str) -> Seen:
    """Check that a feed may run, by reading only: an audit row is written only if it is refused."""
    with scope.refusals("feed.check", feed_id), scope.read() as tx:
        return *_checked(scope, tx, connection, feed_id), Snapshot.open(scope, tx)


def _checked(scope: Scope, tx: Tx, connection: Connection, feed_id: str) -> Checked:
    scope.check_not_on_hold(tx)
    feed, recipient = recipients.feed_of(tx, feed_id), recipients.get(tx, connection.id, feed_id)
    running = feed.status is FeedStatus.PUBLISHED and recipient.status is RecipientStatus.ENABLED
    if connection.status is not ConnectionStatus.ACTIVE or not running:
        raise NotAllowed(
            f"feed {feed.name} does not run to {connection.alias}: the feed is {feed.status}, there it is {recipient.status}",
            hint="look at it",
            remedy=Remedy("feed.show", {"name": feed.name}),
        )
    definition = versions.get(tx, feed_id, recipient.accepted_version)
    if not versions.matched_by(definition, connection):
        raise NotAllowed(
            f"feed {feed.name} and the agreement with {connection.alias} have no namespace in common any more",
            hint="propose to agree on one of them again, or add another to the feed",
            remedy=Remedy("partner.agree", {"name": connection.alias}),
        )
    if definition.valid_until is not None and scope.home.now() >= definition.valid_until:
        raise NotAllowed(f"feed {feed.name} has ended: it was valid until then", hint="create a new one")
    Governance(scope).check_feed(definition, tx)
    return feed, definition, Consents(scope).require_model(tx)


def last_run(tx: Tx, connection_id: str, feed_id: str) -> SentRun | None:
    """Return the run that changes for a partner are added to; None if the next one has to be full."""
    if recipients.get(tx, connection_id, feed_id).full:
        return None
    return runs.last_sent(tx, connection_id, feed_id)


def prf_ahead(release: Release) -> None:
    """Compute F of what is to be released while the partner blinds and verifies; `prepare` takes it from the cache."""
    with release.scope.begin() as tx:
        epoch = key_epochs.current(release.scope, tx, release.connection)
        last = last_run(tx, release.connection.id, release.feed.id)
    now = release.content()
    for namespace, content in (_changes(release, now, last, epoch) or now).items():
        evaluations.prf_of(release.scope, release.connection, namespace, epoch, content.values)
    _check_kept(release, epoch)


def unfinished(release: Release) -> SentRun | None:
    """Return a prepared run whose content may leave now."""
    found = _usable(release)
    return found if found is not None and is_current(release, found) else None


def is_current(release: Release, run: SentRun) -> bool:
    """Return whether the content of a run may leave now; a prepared run that is out of date is given up."""
    scope, connection = release.scope, release.connection
    with scope.begin() as tx:
        epoch = key_epochs.current(scope, tx, connection)
        last = None if run.state is RunState.DONE else last_run(tx, connection.id, run.feed_id)
        follows = run.state is RunState.DONE or run.report.base in (None, last and last.revision)
        content = release.selection.digest(release.definition, epoch).hex()
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


def prepare(release: Release, progress: Progress) -> SentRun | None:
    """Make the next data revision ready on disk, or return None where nothing changed since the last one.

    It has what changed since the last one. It is full, with everything, if it is the first of a version or epoch, after
    many changes in this run or many runs of changes, or if the partner asked for it. After a day without a change it is
    empty: the members stay.
    """
    coming = _next(release)
    if coming is None:
        return None
    now = release.content()
    changes = _changes(release, now, coming.last, coming.epoch)
    base = None if changes is None else coming.last
    erased = {} if base is None else revisions.gone(_cache(release, coming.epoch), base.id)
    sealed = _sealed(release, coming, now if changes is None else changes, erased, progress)
    run = _run(release, coming, base, sum(map(len, sealed.values())))
    cache = _cache(release, coming.epoch)
    _drop_old(release.scope, release.connection, cache)
    revisions.save(cache, run.id, now)
    cache.save(f"run {run.id}", **{name.replace("/", "|"): rows for name, rows in sealed.items()})
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
        digest = release.selection.digest(release.definition, epoch)
        changed: int | None = _changed_at(release, tx, last)
        if last is not None and last.report.content == digest.hex():
            if scope.home.now() - last.changed < DAY:  # what changed in the data does not concern it
                runs.note(tx, last.id, replace(last.report, generation=release.snapshot.generation))
                return None
            changed = None
        revision = recipients.next_revision(tx, release.feed.id)
    return _Next(revision=revision, epoch=epoch, digest=digest, last=last, changed_at=changed)


def _changed_at(release: Release, tx: Tx, last: SentRun | None) -> int:
    """Return when what the next revision brings changed: the data, the version, or the partner's answer."""
    if last is None:
        return recipients.get(tx, release.connection.id, release.feed.id).changed
    if last.version != release.definition.version:
        return release.definition.created
    return next(iter(changes_after(release.scope, tx, last.report.generation)), release.scope.home.now())


def _changes(
    release: Release, now: revisions.Contents, last: SentRun | None, epoch: Epoch
) -> revisions.Contents | None:
    """Return what changed since the last run, or None if the revision has to be full."""
    if last is None or (last.version, last.report.epoch) != (release.definition.version, epoch.number):
        return None
    if last.report.changes_since >= runs.FULL_AFTER:
        return None
    return revisions.since(revisions.load(cache_of(release.scope, release.connection, epoch), last.id), now)


def _sealed(
    release: Release, coming: _Next, contents: revisions.Contents, erased: revisions.Gone, progress: Progress
) -> dict[str, U8]:
    """Return the records of each namespace, which only F of the same identity opens; all-zero ones for the `erased`."""
    sealed: dict[str, U8] = {}
    scope, connection, definition = release.scope, release.connection, release.definition
    for place, (namespace, each) in enumerate(contents.items()):
        progress(f"seal {namespace}", place + 1, len(contents))
        prf, bitmaps = evaluations.prf_of(scope, connection, namespace, coming.epoch, each.values), each.bitmaps
        if namespace in erased:
            gone = erased[namespace]
            gone = np.delete(gone, match(gone, prf)[0], axis=0)  # whoever came back meanwhile has a record
            prf = np.concatenate([prf, gone])
            bitmaps = np.concatenate([bitmaps, np.zeros((len(gone), bitmaps.shape[1]), np.uint8)])
        sealed[namespace] = membership.seal(
            prf, bitmaps, feed=definition.feed, version=definition.version, revision=coming.revision
        )
    return sealed


def _run(release: Release, coming: _Next, base: SentRun | None, records: int) -> SentRun:
    """Return the row of a run that is made ready; its changes are added to `base`, if there is one."""
    selection, now = release.selection, release.scope.home.now()
    report = RunReport(
        considered=selection.considered,
        without_consent=selection.unconsented,
        in_small_segments_only=selection.small,
        sent=selection.sent,
        small_segments=selection.small_segments,
        records=records,
        changed_at=coming.changed_at,
        generation=release.snapshot.generation,
        content=coming.digest.hex(),
        epoch=coming.epoch.number,
        base=None if base is None else base.revision,
        changes_since=0 if base is None else base.report.changes_since + (records > 0),
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
