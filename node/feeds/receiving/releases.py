"""The receiving end of a release: which revisions we take, what we sign, and what we keep."""

from protocol.errors import RemoteProtocolError
from protocol.exchange import Opening, Role
from protocol.messages import Manifest
from protocol.receipt import NO_RECEIPT, Receipt, SignedReceipt
from protocol.release import Released, ReleaseReceiver
from protocol.states import Kind, Part
from psi.errors import VesicaError

from ...access.scope import Scope
from ...compute.engines import engine_of
from ...errors import RefusedToPartner
from ...exchanges.channels import epoch_of
from ...exchanges.handlers import Handler, PreparedRole, Subject
from ...exchanges.opening import Plan, run_exchange
from ...operations.jobs import Progress
from ...partners.connections import Connection, peer_keys
from ...people.snapshots import Snapshot
from ...storage.database import Tx
from .. import runs, versions
from ..runs import NO_BASE, ReceivedReport, ReceivedRun, Run, RunState, log_run
from . import evaluations, joining, membership_files, received_feeds
from .joining import base_of
from .membership_files import Sealed
from .received import Received
from .received_feeds import ReceivedFeed, ReceivedStatus


def receiver(scope: Scope, connection: Connection, subject: Subject, epoch_number: int, *, again: bool = False) -> Role:
    """Make the role that takes a revision; `again`: the exchange was begun before a kill, and may even have ended."""
    with scope.read() as tx:
        feed = _enabled(tx, connection, subject)
        if feed.accepted_version != subject["version"]:
            raise RefusedToPartner("version", "another version of this feed is accepted here", status=409)
        definition = received_feeds.definition(tx, feed)
        last, previous = feed.last_revision, {feed.last_receipt or NO_RECEIPT}
        previous.update(runs.signed_only(tx, connection.id, feed.id))
        taken = runs.taken(tx, connection.id, feed.id, last)
        if taken is not None and taken.receipt is not None:  # the sender may have been killed before it kept ours
            previous.add(SignedReceipt.decode(taken.receipt).receipt.previous)
        if again and last == subject["revision"]:  # it was kept before the kill
            last -= 1
        has_base = base_of(feed) == (subject["version"], epoch_number)

    def check(announced: Manifest) -> None:
        kept = feed.last_revision >= announced.revision
        if not announced.full and not kept and not (has_base and announced.previous == feed.last_receipt):
            raise RefusedToPartner(NO_BASE, "these are changes to another revision than the last one here", status=409)

    epoch = epoch_of(scope, connection, epoch_number)
    return ReleaseReceiver(
        connection=connection.wire_id,
        definition=definition,
        evaluations={
            each: evaluations.tally(scope, connection, epoch, each)
            for each in versions.matched_by(definition, connection)
        },
        last_revision=last,
        previous=previous,
        peer_keys=peer_keys(scope, connection),
        sign=scope.home.sign,
        most=connection.terms.maximum_universe,
        check=check,
        signing=lambda receipt: note_signed(scope, connection, receipt),
        engine=engine_of(scope.home),
    )


def note_signed(scope: Scope, connection: Connection, receipt: Receipt) -> None:
    """Note a receipt before our signature leaves: the sender may go on from it even if we never see its own."""
    feed_id, now = versions.received_feed_id(connection.id, receipt.feed), scope.home.now()
    with scope.begin() as tx:
        known = runs.taken(tx, connection.id, feed_id, receipt.revision)
        if known is not None and known.digest != receipt.digest():
            raise RemoteProtocolError("revision", f"revision {receipt.revision} came before with other content")
        if known is None:
            run: ReceivedRun = Run(
                id=scope.home.new_id(),
                connection_id=connection.id,
                feed_id=feed_id,
                ours=False,
                version=receipt.version,
                revision=receipt.revision,
                digest=receipt.digest(),
                state=RunState.SIGNED,
                report=None,
                created=now,
                changed=now,
            )
            runs.keep(tx, run)


def received(scope: Scope, connection: Connection, released: Released, epoch_number: int) -> None:
    """Keep a release that both signed for: its records, its memberships, its receipt."""
    announced, receipt = released.manifest, released.receipt
    now = scope.home.now()
    changed = None if announced.changed is None else min(announced.changed, now)
    report = ReceivedReport(
        whole=announced.full,
        changed_at=changed,
        records={tally.namespace: tally.records for tally in announced.tallies},
        evaluated={tally.namespace: tally.evaluated for tally in announced.tallies},
    )
    with scope.read() as tx:
        feed = received_feeds.find(tx, connection.id, announced.feed)
    assert feed is not None
    if feed.last_revision >= announced.revision:
        return  # a kill came between keeping it and closing the exchange
    detail = {"version": announced.version, "revision": announced.revision, **report.shown()}
    sealed = Sealed(
        version=announced.version, revision=announced.revision, epoch=epoch_number, records=released.records
    )
    with scope.act("feed.received", feed.name, actor=connection.alias, detail=detail) as tx:
        joining.keep(scope, tx, feed, sealed, full=announced.full)
        received_feeds.change(scope, tx, feed, last_receipt=receipt.receipt.digest())
        run = runs.taken(tx, connection.id, feed.id, announced.revision)
        assert run is not None  # noted when we signed
        runs.change(scope, tx, run.id, state=RunState.DONE, receipt=receipt.encode(), report=report)
    membership_files.sweep(scope, feed_id=feed.id)
    log_run(
        "in",
        connection.alias,
        RunState.DONE,
        feed=feed.name,
        version=announced.version,
        revision=announced.revision,
        full=announced.full,
        records=sum(tally.records for tally in announced.tallies),
        latency=None if changed is None else now - changed,
    )


def _answer(scope: Scope, connection: Connection, opening: Opening, inputs: bytes | None) -> PreparedRole:
    return PreparedRole(receiver(scope, connection, opening.subject, opening.epoch, again=inputs is not None))


def _open(scope: Scope, connection: Connection, subject: Subject, progress: Progress) -> None:
    """Take a revision from a sender that cannot call us; F of our people comes first."""
    with scope.read() as tx:
        feed = _enabled(tx, connection, subject)
        if feed.accepted_version != subject["version"]:
            raise RefusedToPartner("not_enabled", "this version of the feed is not enabled here")
        revision = subject["revision"]
        assert isinstance(revision, int)
        if feed.last_revision >= revision:
            return  # a kill came after it was kept
        namespaces = versions.matched_by(received_feeds.definition(tx, feed), connection)
    for namespace in namespaces:
        evaluations.run(scope, connection, namespace, progress, Snapshot.open(scope))

    def role(epoch_number: int) -> Role:
        return receiver(scope, connection, subject, epoch_number)

    def keep(epoch_number: int, released: Released) -> None:
        received(scope, connection, released, epoch_number)

    plan = Plan(kind=Kind.RELEASE, part=Part.RECEIVER, subject=subject, role=role, keep=keep)
    try:
        run_exchange(scope, connection, plan, progress)
    except RefusedToPartner as error:
        if error.code == NO_BASE:
            Received(scope).request_full_revision(feed)
        raise


def _note_request(scope: Scope, tx: Tx, connection: Connection, subject: Subject) -> bool:
    _enabled(tx, connection, subject)
    return True


def _finished(scope: Scope, connection: Connection, opening: Opening, released: Released) -> None:
    received(scope, connection, released, opening.epoch)


def _failed(scope: Scope, tx: Tx, connection: Connection, error: VesicaError) -> None:
    """Log a run that failed here; the sender logs its own."""
    log_run("in", connection.alias, RunState.FAILED, code=error.code)


def _enabled(tx: Tx, connection: Connection, subject: Subject) -> ReceivedFeed:
    """Return the feed that an exchange is about; refused unless it is enabled here."""
    named = subject["feed"]
    assert isinstance(named, bytes)
    feed = received_feeds.find(tx, connection.id, named)
    if feed is None or feed.status is not ReceivedStatus.ENABLED:
        raise RefusedToPartner("not_enabled", "this feed is not enabled here", hint="the receiver enables it")
    return feed


HANDLER = Handler(answer=_answer, open=_open, note_request=_note_request, finished=_finished, failed=_failed)
