"""Releases: one data revision of a feed to one partner, from the decision to the receipt that both sign.

A revision's sealed records are on disk before its first byte leaves: after a kill the same bytes go out again, or a
new number does. The receiver takes a revision whole or not at all.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, Row, insert, select, update

from protocol.errors import RemoteProtocolError
from protocol.exchange import Opened, Opening, Role
from protocol.feed import Definition
from protocol.letters import Wanted
from protocol.messages import Manifest
from protocol.receipt import NO_RECEIPT, SignedReceipt
from protocol.release import ReleaseReceiver, ReleaseSender, manifest
from protocol.states import Kind, Part
from psi import membership
from psi.errors import VesicaError
from psi.values import U8

from ...errors import PeerRefused, Refusal, Refused
from ...exchanges.exchanges import FINISHED, ROLES, run_exchange
from ...governance.governance import PolicyViolation
from ...operations.jobs import HANDLERS as JOBS
from ...operations.jobs import Progress
from ...partners import key_epochs
from ...partners.key_epochs import Epoch
from ...people.data import Snapshot, changes_after
from ...storage.cache import Cache
from ...storage.tables import DAY, exchanges, feed_partners, feeds, runs
from .. import evaluations, versions
from .. import runs as runs_
from ..evaluations import cache_of, epoch_of, opened
from ..receiving import taking
from . import attempts, revisions
from .selection import Selection, select_members

if TYPE_CHECKING:
    from ...project import Project

JOB = "release"


# The sender


def _run(project: "Project", parameters: dict[str, Any], progress: Progress) -> Any:
    """Do the job: bring one partner to the newest revision of one feed; how it ended decides when the next run is."""
    connection = project.partners.by_id(parameters["connection"])
    attempts.begin(project, connection, parameters["feed"])
    try:
        done = _bring(project, connection, parameters["feed"], progress)
    except VesicaError as error:
        attempts.failed(project, connection, parameters["feed"], error)
        runs_.tell("out", connection.alias, "failed", feed=_name(project, parameters["feed"]), code=error.code)
        raise
    if done["status"] != "done":  # else the receipt has said so
        runs_.tell("out", connection.alias, done["status"], feed=done["feed"])
    return done


def _bring(project: "Project", connection: Row[Any], feed_id: str, progress: Progress) -> dict[str, Any]:
    feed, definition = _ready(project, connection, feed_id)
    for segment in definition.segments:
        project.segments.evaluate(segment.name)
    snapshot = Snapshot.open(project)
    attempts.depends_on(project, connection, feed_id, snapshot.generation)
    selection = _selection(project, connection, definition, snapshot)
    if not connection.peer_address:
        unfinished = _unfinished(project, connection, feed, definition, selection)
        prepared = unfinished or _prepare(project, connection, feed, definition, selection, snapshot, progress)
        with project.act("feed.run", f"{feed.name} {connection.alias}", detail={"waiting": True}) as tx:
            if prepared is not None:  # the receiver evaluates first
                wishes = [Wanted(kind=Kind.RELEASE, subject=_subject(prepared))]
            else:
                wishes = [Wanted(kind=Kind.EVALUATE, subject={"namespace": each}) for each in definition.namespaces]
                attempts.ended(project, tx, connection, feed.id)
            for wish in wishes:
                project.letters.send_once(tx, connection.id, "exchange.wanted", wish)
        return {"feed": feed.name, "partner": connection.alias, "status": "waiting"}
    with ThreadPoolExecutor(1, thread_name_prefix="prf") as pool:
        own = pool.submit(_prf_ahead, project, connection, feed, definition, selection)
        for namespace in definition.namespaces:
            evaluations.run(project, connection, namespace, Part.SENDER, progress, snapshot)
        own.result()
    unfinished, sent = _unfinished(project, connection, feed, definition, selection), None
    if unfinished is not None:
        try:
            _send(project, connection, unfinished, progress)
            sent = unfinished
        except (PeerRefused, RemoteProtocolError):  # audited; the next revision takes its place
            with project.node.store.begin() as tx:
                _set_run(tx, project, unfinished, state="failed")
    prepared = _prepare(project, connection, feed, definition, selection, snapshot, progress)
    if prepared is not None:
        try:
            _send(project, connection, prepared, progress)
        except PeerRefused as error:
            if error.code != taking.NO_BASE:
                raise
            with project.node.store.begin() as tx:
                _set_run(tx, project, prepared, state="failed")
                soon = attempts.begin_anew(project, tx, connection, feed.id)
            if not soon:
                raise
            prepared = _prepare(project, connection, feed, definition, selection, snapshot, progress)
            assert prepared is not None
            _send(project, connection, prepared, progress)
    status, brought = "done", prepared or sent
    if brought is None:
        status = "unchanged"
        with project.node.store.begin() as tx:
            attempts.ended(project, tx, connection, feed.id)
            brought = _last(tx, connection, feed.id)
            assert brought is not None
    return {
        "feed": feed.name,
        "partner": connection.alias,
        "status": status,
        "version": brought.version,
        "revision": brought.revision,
        **{key: value for key, value in brought.report.items() if key not in runs_.INTERNAL},
    }


def _selection(project: "Project", connection: Row[Any], definition: Definition, snapshot: Snapshot) -> Selection:
    return select_members(project, connection, definition, snapshot, project.row().consent_model)


def _prf_ahead(
    project: "Project", connection: Row[Any], feed: Row[Any], definition: Definition, selection: Selection
) -> None:
    """Compute F of what is to be released while the partner blinds and verifies; `_prepare` finds it in the cache."""
    with project.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection)
        last = _last(tx, connection, feed.id)
    now = revisions.of(selection, definition.width)
    for namespace, content in (_changes(project, connection, definition, now, last, epoch) or now).items():
        evaluations.prf_of(project, connection, namespace, epoch, content.values)


def _last(tx: Connection, connection: Row[Any], feed_id: str) -> Row[Any] | None:
    """Return the run that the partner took last, unless it begins anew."""
    if _state(tx, connection, feed_id).anew:
        return None
    query = select(runs).where(
        runs.c.connection_id == connection.id, runs.c.feed_id == feed_id, runs.c.ours, runs.c.state == "done"
    )
    return tx.execute(query.order_by(runs.c.revision.desc()).limit(1)).first()


def _state(tx: Connection, connection: Row[Any], feed_id: str) -> Row[Any]:
    return tx.execute(attempts.state_query(connection.id, feed_id)).one()


def _changes(
    project: "Project",
    connection: Row[Any],
    definition: Definition,
    now: revisions.Contents,
    last: Row[Any] | None,
    epoch: Epoch,
) -> revisions.Contents | None:
    """Return what changed since the last run, or None where a revision has to hold everything."""
    if last is None or (last.version, last.report["epoch"]) != (definition.version, epoch.number):
        return None
    if last.report["changes_since"] >= revisions.WHOLE_AFTER:
        return None
    return revisions.since(revisions.load(cache_of(project, connection, epoch), last.id), now)


def _ready(project: "Project", connection: Row[Any], feed_id: str) -> tuple[Row[Any], Definition]:
    """Return the feed and the version that the partner accepted; refused where anything forbids a run now.

    A policy that does so leaves an alert: nobody may be watching.
    """
    try:
        return _checked(project, connection, feed_id)
    except PolicyViolation as error:
        with project.node.store.begin() as tx:
            text = f"feed {error.violations[0].feed} does not run to {connection.alias}: {error}"
            project.alerts.add(tx, "policy_violation", text)
        raise


def _checked(project: "Project", connection: Row[Any], feed_id: str) -> tuple[Row[Any], Definition]:
    with project.act("feed.check", feed_id) as tx:
        project.check_not_on_hold(tx)
        feed = tx.execute(select(feeds).where(feeds.c.id == feed_id)).one()
        state = _state(tx, connection, feed_id)
        if connection.status != "active" or feed.status != "published" or state.status != "enabled":
            raise Refused(
                f"feed {feed.name} does not run to {connection.alias}: the feed is {feed.status}, there it is {state.status}",
                hint=f"vesica feed show {feed.name}",
            )
        definition = versions.get(tx, feed_id, state.accepted_version)
        if definition.valid_until is not None and project.node.now() >= definition.valid_until:
            raise Refused(f"feed {feed.name} has ended: it was valid until then", hint="create a new one")
        project.governance.check_feed(definition, tx)
        project.consent.require_model(tx)
    return feed, definition


def _unfinished(
    project: "Project", connection: Row[Any], feed: Row[Any], definition: Definition, selection: Selection
) -> Row[Any] | None:
    """Return a run that was made ready, not finished, and holds what may leave now."""
    found = _prepared(project, connection, feed, definition)
    return found if found is not None and _is_current(project, connection, found, definition, selection) else None


def _prepared(project: "Project", connection: Row[Any], feed: Row[Any], definition: Definition) -> Row[Any] | None:
    """Return a run that was made ready and not finished, if it can still go out as it is; give up all others."""
    with project.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection)
        query = select(runs).where(
            runs.c.connection_id == connection.id, runs.c.feed_id == feed.id, runs.c.ours, runs.c.state == "prepared"
        )
        found, last = None, _last(tx, connection, feed.id)
        for row in tx.execute(query.order_by(runs.c.revision)).all():
            usable = row.version == definition.version and row.report["epoch"] == epoch.number
            usable = usable and row.report["base"] in (None, last and last.revision)
            if usable and cache_of(project, connection, epoch).load(f"run {row.id}", only=()) is not None:
                found = row
            else:
                _set_run(tx, project, row, state="failed")
        return found


def _prepare(
    project: "Project",
    connection: Row[Any],
    feed: Row[Any],
    definition: Definition,
    selection: Selection,
    snapshot: Snapshot,
    progress: Progress,
) -> Row[Any] | None:
    """Make the next data revision ready on disk, or return None where nothing changed since the last one.

    It holds what changed since the last one, or everything: the first of a version or epoch, where much changed, after
    many of changes, or where the partner begins anew. After a day without a change it is empty: the members stay.
    """
    with project.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection)
        last = _last(tx, connection, feed.id)
        content = selection.digest(definition, epoch).hex()
        changed: int | None = _changed_at(project, tx, connection, definition, last, feed.id)
        if last is not None and last.report["content"] == content:
            if project.node.now() - last.changed < DAY:  # what changed meanwhile has no part in it
                seen = {**last.report, "generation": snapshot.generation}
                tx.execute(update(runs).where(runs.c.id == last.id).values(report=seen))
                return None
            changed = None
        revision = int(tx.scalar(select(feeds.c.revision).where(feeds.c.id == feed.id)) or 0) + 1
        tx.execute(update(feeds).where(feeds.c.id == feed.id).values(revision=revision))
    now = revisions.of(selection, definition.width)
    changes = _changes(project, connection, definition, now, last, epoch)
    sealed: dict[str, U8] = {}
    for place, (namespace, each) in enumerate((now if changes is None else changes).items()):
        progress(f"seal {namespace}", place + 1, len(now))
        prf = evaluations.prf_of(project, connection, namespace, epoch, each.values)
        sealed[namespace] = membership.seal(
            prf, each.bitmaps, feed=definition.feed, version=definition.version, revision=revision
        )
    run_id, records = project.node.new_id(), sum(map(len, sealed.values()))
    cache = cache_of(project, connection, epoch)
    _drop_old(project, connection, cache)
    revisions.save(cache, run_id, now)
    cache.save(f"run {run_id}", **{name.replace("/", "|"): rows for name, rows in sealed.items()})
    with project.node.store.begin() as tx:
        tx.execute(
            insert(runs).values(
                id=run_id,
                connection_id=connection.id,
                feed_id=feed.id,
                ours=True,
                version=definition.version,
                revision=revision,
                digest=bytes.fromhex(content),
                state="prepared",
                report={
                    **selection.report(),
                    "records": records,
                    "changed_at": changed,
                    "generation": snapshot.generation,
                    "content": content,
                    "epoch": epoch.number,
                    "base": None if changes is None or last is None else last.revision,
                    "changes_since": 0
                    if changes is None or last is None
                    else last.report["changes_since"] + (records > 0),
                },
                created=project.node.now(),
                changed=project.node.now(),
            )
        )
        return tx.execute(select(runs).where(runs.c.id == run_id)).one()


def _changed_at(
    project: "Project",
    tx: Connection,
    connection: Row[Any],
    definition: Definition,
    last: Row[Any] | None,
    feed_id: str,
) -> int:
    """Return when what the next revision brings came about: the data, the version, or the partner's yes."""
    if last is None:
        return int(_state(tx, connection, feed_id).changed)
    if last.version != definition.version:
        return definition.created
    return next(iter(changes_after(project, tx, last.report["generation"])), project.node.now())


def _drop_old(project: "Project", connection: Row[Any], cache: Cache) -> None:
    """Delete the sealed records of runs that will not go out any more; no other run with this partner is under way.

    Those of a feed's last run that is done stay, for a receiver that lost the end of it, and so does its content.
    """
    mine = (runs.c.connection_id == connection.id, runs.c.ours)
    with project.node.store.read() as tx:
        kept = set(tx.scalars(select(runs.c.id).where(*mine, runs.c.state == "prepared")))
        done = tx.execute(
            select(runs.c.feed_id, runs.c.id).where(*mine, runs.c.state == "done").order_by(runs.c.revision)
        )
        kept |= set(dict(map(tuple, done)).values())
    for name in (*cache.names("run "), *cache.names("manifest "), *cache.names("content ")):
        run_id = name.split(" ")[1]
        if run_id not in kept:
            cache.drop(name)


def _manifest(
    project: "Project",
    tx: Connection,
    connection: Row[Any],
    definition: Definition,
    sealed: dict[str, U8],
    run: Row[Any],
    epoch: Epoch,
) -> Manifest:
    state = _state(tx, connection, run.feed_id)
    statements = {each: evaluations.statement(project, connection, each, epoch) for each in sealed}
    return manifest(
        definition,
        sealed,
        revision=run.revision,
        full=run.report["base"] is None,
        evaluated={each: evaluations.evaluated(project, connection, each, epoch) for each in sealed},
        publics={each: signed.statement.public for each, signed in statements.items()},
        previous=state.last_receipt or NO_RECEIPT,
        changed=run.report["changed_at"],
        made=project.node.now(),
    )


def _sender(
    project: "Project", connection: Row[Any], run: Row[Any], number: int, check: Callable[[], None] = lambda: None
) -> Role:
    epoch = epoch_of(project, connection, number)
    cache = cache_of(project, connection, epoch)
    stored = cache.load(f"run {run.id}")
    if stored is None or run.report["epoch"] != number:
        raise Refused(f"revision {run.revision} was made ready in another key epoch", hint="run it again")
    sealed = {name.replace("|", "/"): rows.astype(np.uint8, copy=False) for name, rows in stored.items()}
    kept = cache.load(f"manifest {run.id}")
    if kept is None:  # made when it is first sent, and never again
        with project.node.store.read() as tx:
            definition = versions.get(tx, run.feed_id, run.version)
            announced = _manifest(project, tx, connection, definition, sealed, run, epoch)
        cache.save(f"manifest {run.id}", manifest=np.frombuffer(announced.encode(), np.uint8))
    else:
        announced = Manifest.decode(kept["manifest"].tobytes())
    return ReleaseSender(
        connection=bytes.fromhex(connection.id),
        manifest=announced,
        records=sealed,
        peer_key=connection.peer_key,
        sign=project.node.sign,
        check=check,
    )


def _send(project: "Project", connection: Row[Any], run: Row[Any], progress: Progress) -> None:
    def role(number: int) -> Role:
        with project.node.store.read() as tx:
            if _state(tx, connection, run.feed_id).accepted_version != run.version:
                raise Refusal(
                    "stale", "another version holds since this run began", hint="run it again: vesica feed sync"
                )
        return _sender(project, connection, run, number)

    run_exchange(
        project,
        connection,
        _subject(run),
        Kind.RELEASE,
        Part.SENDER,
        role,
        inputs=run.digest,
        keep=lambda receipt: _sent(project, connection, run, receipt),
        progress=progress,
    )


def _sent(project: "Project", connection: Row[Any], run: Row[Any], receipt: SignedReceipt) -> None:
    """Keep the receipt that both signed; the next revision's receipt names it."""
    with project.node.store.read() as reading:
        if reading.scalar(select(runs.c.state).where(runs.c.id == run.id)) == "done":
            return
    shown = {key: value for key, value in run.report.items() if key not in runs_.INTERNAL}
    detail = {"version": run.version, "revision": run.revision, **shown}
    with project.act("feed.run", f"{run.feed_id} {connection.alias}", detail=detail) as tx:
        _set_run(tx, project, run, state="done", receipt=receipt.encode())
        attempts.ended(project, tx, connection, run.feed_id)
        mine = (feed_partners.c.feed_id == run.feed_id, feed_partners.c.connection_id == connection.id)
        tx.execute(
            update(feed_partners)
            .where(*mine)
            .values(last_revision=run.revision, last_receipt=receipt.receipt.digest(), changed=project.node.now())
        )
        if run.report["base"] is None:
            tx.execute(update(feed_partners).where(*mine).values(anew=False))
        kept = tx.execute(select(runs).where(runs.c.id == run.id)).one()
    runs_.tell(
        "out",
        connection.alias,
        "done",
        feed=_name(project, run.feed_id),
        version=run.version,
        revision=run.revision,
        whole=run.report["base"] is None,
        records=run.report["records"],
        latency=runs_.latency(kept),
    )


# Either side


def _answer(project: "Project", connection: Row[Any], opening: Opening) -> tuple[Opened, Role]:
    subject: dict[str, Any] = dict(opening.subject)
    if opening.part is Part.SENDER:
        with project.node.store.read() as tx:
            known = select(exchanges.c.id).where(exchanges.c.id == opening.exchange.hex())
            again = tx.execute(known).first() is not None
        return opened(project, opening), taking.receiver(project, connection, subject, opening.epoch, again=again)
    run = _called_for(project, connection, subject)

    def check() -> None:
        _called_for(project, connection, subject)

    return opened(project, opening), _sender(project, connection, run, opening.epoch, check)


def _called_for(project: "Project", connection: Row[Any], subject: dict[str, Any]) -> Row[Any]:
    """Return the run that a receiver comes for, if it may still go out as it was made ready."""
    run = _run_of(project, connection, subject)
    try:
        feed, definition = _ready(project, connection, run.feed_id)
    except Refused as error:
        raise Refusal(
            "not_enabled", "this feed does not run to you now", hint="the receiver enables it: vesica feed enable"
        ) from error
    selection = _selection(project, connection, definition, Snapshot.open(project))
    with project.node.store.begin() as tx:
        cache = cache_of(project, connection, key_epochs.current(project, tx, connection))
    gone = run.state == "failed" or cache.load(f"run {run.id}", only=()) is None
    if gone or not _is_current(project, connection, run, definition, selection):
        soon = True
        if run.state == "done":  # the receiver never had it
            with project.node.store.begin() as tx:
                soon = attempts.begin_anew(project, tx, connection, feed.id)
        if soon:
            project.node.jobs.submit_once(JOB, {"connection": connection.id, "feed": feed.id}, project)
        raise Refusal(
            "stale",
            "this revision is out of date; a new one is being made",
            hint="it comes by itself, or later with: vesica feed sync",
        )
    return run


def _is_current(
    project: "Project", connection: Row[Any], run: Row[Any], definition: Definition, selection: Selection
) -> bool:
    """Say whether a run holds what may leave now; one that was made ready and does not is given up."""
    with project.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection)
        last = None if run.state == "done" else _last(tx, connection, run.feed_id)
    follows = run.state == "done" or run.report["base"] in (None, last and last.revision)
    same = run.version == definition.version and selection.digest(definition, epoch).hex() == run.report["content"]
    if follows and same:
        return True
    if run.state == "prepared":
        with project.node.store.begin() as tx:
            _set_run(tx, project, run, state="failed")
        cache_of(project, connection, epoch).drop(f"run {run.id}")
    return False


def _run_of(project: "Project", connection: Row[Any], subject: dict[str, Any]) -> Row[Any]:
    with project.node.store.read() as tx:
        query = select(runs).where(
            runs.c.connection_id == connection.id,
            runs.c.feed_id == subject["feed"].hex(),
            runs.c.revision == subject["revision"],
            runs.c.ours,
        )
        run = tx.execute(query).first()
    if run is None:
        raise Refusal("no_feed", "there is no such revision", hint="ask again later: vesica feed sync")
    return run


def _finished(project: "Project", connection: Row[Any], opening: Opening, role: Role) -> None:
    if isinstance(role, ReleaseReceiver):
        taking.received(project, connection, role.result, opening.epoch)
    elif isinstance(role, ReleaseSender):
        _sent(project, connection, _run_of(project, connection, dict(opening.subject)), role.result)


def _name(project: "Project", feed_id: str) -> str:
    with project.node.store.read() as tx:
        return str(tx.scalar(select(feeds.c.name).where(feeds.c.id == feed_id)))


def _subject(run: Row[Any]) -> dict[str, str | bytes | int]:
    return {"feed": bytes.fromhex(run.feed_id), "version": run.version, "revision": run.revision}


def _set_run(tx: Connection, project: "Project", run: Row[Any], **values: Any) -> None:
    tx.execute(update(runs).where(runs.c.id == run.id).values(changed=project.node.now(), **values))


ROLES[Kind.RELEASE] = _answer
FINISHED[Kind.RELEASE] = _finished
JOBS[JOB] = _run
