"""The receiving end of a release: which revisions we take, what we sign, and what we keep."""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, insert, select, update

from protocol.agreement import Agreement
from protocol.errors import RemoteProtocolError
from protocol.exchange import Role
from protocol.messages import Manifest
from protocol.receipt import NO_RECEIPT, Receipt, SignedReceipt
from protocol.release import Released, ReleaseReceiver
from protocol.states import Kind, Part
from psi.errors import VesicaError

from ...errors import Refusal
from ...exchanges.exchanges import FAILED
from ...storage.tables import received_feeds, runs
from .. import evaluations, versions
from ..evaluations import epoch_of
from ..runs import tell
from .memberships import Sealed, base_of

NO_BASE = "no_base"  # the code with which we refuse changes that we could add to nothing

if TYPE_CHECKING:
    from ...project import Project


def receiver(
    project: "Project", connection: Row[Any], subject: dict[str, Any], number: int, *, again: bool = False
) -> Role:
    """Make the role that takes a revision; `again` is for an exchange that was begun before a kill, and maybe ended."""
    with project.node.store.read() as tx:
        feed = tx.execute(
            select(received_feeds).where(received_feeds.c.id == versions.local(connection.id, subject["feed"]))
        ).first()
        if feed is None or feed.status != "enabled":
            raise Refusal(
                "not_enabled", "this feed is not enabled here", hint="the receiver enables it: vesica feed enable"
            )
        if feed.accepted_version != subject["version"]:
            raise Refusal("version", "another version of this feed is accepted here", status=409)
        definition = versions.get(tx, feed.id, feed.accepted_version)
        signed = tx.scalars(
            select(runs.c.digest).where(runs.c.feed_id == feed.id, ~runs.c.ours, runs.c.state == "signed")
        ).all()
        last, previous = feed.last_revision, {feed.last_receipt or NO_RECEIPT, *signed}
        taken = select(runs.c.receipt).where(runs.c.feed_id == feed.id, ~runs.c.ours, runs.c.revision == last)
        if (receipt := tx.execute(taken).scalar()) is not None:  # the sender may have been killed before it kept ours
            previous.add(SignedReceipt.decode(receipt).receipt.previous)
        if again and last == subject["revision"]:  # it was kept before the kill
            last -= 1
        has_base = base_of(feed) == (subject["version"], number)

    def check(announced: Manifest) -> None:
        kept = feed.last_revision >= announced.revision
        if not announced.full and not kept and not (has_base and announced.previous == feed.last_receipt):
            raise Refusal(NO_BASE, "these are changes to another revision than the last one here", status=409)

    epoch = epoch_of(project, connection, number)
    return ReleaseReceiver(
        connection=bytes.fromhex(connection.id),
        definition=definition,
        evaluations={each: evaluations.tally(project, connection, epoch, each) for each in definition.namespaces},
        last_revision=last,
        previous=previous,
        peer_key=connection.peer_key,
        sign=project.node.sign,
        most=Agreement.decode(connection.agreement).terms.maximum_universe,
        check=check,
        signing=lambda receipt: _signing(project, connection, receipt),
    )


def _signing(project: "Project", connection: Row[Any], receipt: Receipt) -> None:
    """Note a receipt before our signature leaves: the sender may go on from it even if we never see its own."""
    feed_id = versions.local(connection.id, receipt.feed)
    with project.node.store.begin() as tx:
        query = select(runs.c.digest).where(
            runs.c.connection_id == connection.id, runs.c.feed_id == feed_id, runs.c.revision == receipt.revision
        )
        known = tx.execute(query).first()
        if known is not None and known.digest != receipt.digest():
            raise RemoteProtocolError("revision", f"revision {receipt.revision} came before with other content")
        if known is None:
            tx.execute(
                insert(runs).values(
                    id=project.node.new_id(),
                    connection_id=connection.id,
                    feed_id=feed_id,
                    ours=False,
                    version=receipt.version,
                    revision=receipt.revision,
                    digest=receipt.digest(),
                    state="signed",
                    report={},
                    created=project.node.now(),
                    changed=project.node.now(),
                )
            )


def received(project: "Project", connection: Row[Any], released: Released, number: int) -> None:
    """Keep a release that both signed for: its records, its memberships, its receipt."""
    announced, receipt = released.manifest, released.receipt
    now = project.node.now()
    changed = None if announced.changed is None else min(announced.changed, now)
    report = {
        "whole": announced.full,
        "changed_at": changed,
        "records": {tally.namespace: tally.records for tally in announced.tallies},
        "evaluated": {tally.namespace: tally.evaluated for tally in announced.tallies},
    }
    with project.node.store.read() as tx:
        feed = tx.execute(
            select(received_feeds).where(received_feeds.c.id == versions.local(connection.id, announced.feed))
        ).one()
    if feed.last_revision >= announced.revision:
        return  # a kill came between keeping it and closing the exchange
    detail = {"version": announced.version, "revision": announced.revision, **report}
    with project.act("feed.received", feed.name, actor=connection.alias, detail=detail) as tx:
        project.memberships.keep(
            tx,
            feed,
            Sealed(version=announced.version, revision=announced.revision, epoch=number, records=released.records),
            whole=announced.full,
        )
        tx.execute(
            update(received_feeds)
            .where(received_feeds.c.id == feed.id)
            .values(last_receipt=receipt.receipt.digest(), changed=project.node.now())
        )
        tx.execute(
            update(runs)
            .where(runs.c.connection_id == connection.id, runs.c.feed_id == feed.id, ~runs.c.ours)
            .where(runs.c.revision == announced.revision)
            .values(state="done", receipt=receipt.encode(), report=report, changed=project.node.now())
        )
    project.memberships.sweep(feed_id=feed.id)
    tell(
        "in",
        connection.alias,
        "done",
        feed=feed.name,
        version=announced.version,
        revision=announced.revision,
        whole=announced.full,
        records=sum(tally.records for tally in announced.tallies),
        latency=None if changed is None else now - changed,
    )


def failed(project: "Project", tx: Connection, connection: Row[Any], part: Part, error: VesicaError) -> None:
    """Write the line of a run that did not come to its end here; the sender writes its own."""
    if part is Part.RECEIVER:
        tell("in", connection.alias, "failed", code=error.code)


FAILED[Kind.RELEASE] = failed
