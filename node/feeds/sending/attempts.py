"""The last attempt to bring a feed to a partner: what it depended on, how it ended, when the next one may be made.

An attempt is counted before it begins: a process that dies over it leaves a time for the next, and no hot loop.
"""

import hashlib
from dataclasses import asdict, replace

from sqlalchemy import select, update

from psi.errors import VesicaError

from ...access.scope import Home, Scope
from ...errors import NotAllowed, PeerUnreachable
from ...operations.alerts import AlertKind, Alerts
from ...partners import key_epochs
from ...partners.connections import Connection, by_id
from ...people.snapshots import newest_generation
from ...storage.database import Tx
from ...storage.records import Document
from ...storage.tables import DAY, consent_policies, feed_partners, feeds, label_uses, policies, projects
from ..states import RecipientStatus
from . import recipients
from .recipients import Basis, Recipient

FIRST_SECONDS, LONGEST_SECONDS = 30, 3_600  # before the second attempt, and at most before any
FULL_SECONDS = 60  # before a receiver gets a second full revision; doubled up to LONGEST_SECONDS, forgotten after a day
PATIENT_TRIES = 3  # a partner that is gone for a moment is no alert
RULES = (label_uses, policies, consent_policies)  # what decides whether a feed may run, beside its data


def basis(scope: Scope, tx: Tx, recipient: Recipient, rules: str, *, generation: int) -> Basis:
    """Return what a run to one partner would depend on now."""
    connection = by_id(scope, recipient.connection_id, tx)
    return Basis(
        generation=generation,
        model=tx.scalar(select(projects.c.consent_model).where(projects.c.id == scope.id)),
        version=recipient.accepted_version,
        epoch=key_epochs.running_number(scope, tx, connection),
        rules=rules,
    )


def rules(scope: Scope, tx: Tx) -> str:
    """Return a digest of the labels and policies that runs of a project obey."""
    found = hashlib.sha256()
    for table in RULES:
        rows = tx.execute(select(table).where(table.c.project_id == scope.id))
        found.update(repr(sorted(map(repr, rows))).encode())
    return found.hexdigest()[:16]


def wait(tries: int) -> int:
    """Return how many seconds pass before the attempt that follows `tries` failed ones."""
    return int(min(FIRST_SECONDS * 2 ** min(tries - 1, 16), LONGEST_SECONDS))


def begin(scope: Scope, connection: Connection, feed_id: str) -> None:
    """Count an attempt, and note when the next one may be made unless this one ends well."""
    with scope.begin() as tx:
        recipient = recipients.get(tx, connection.id, feed_id)
        tries = recipient.tries + 1
        requests = recipient.requests + (recipient.requested is not None)
        values = {"tries": tries, "next_attempt": scope.home.now() + wait(tries), "failure": None}
        values |= {"requested": None, "requests": requests}
        recipients.set_state(tx, recipient, tried=asdict(_now(scope, tx, recipient)), **values)


def depends_on(scope: Scope, connection: Connection, feed_id: str, generation: int) -> None:
    """Note which data and which key epoch an attempt uses, once that is known; its rules are noted by `begin`."""
    with scope.begin() as tx:
        epoch = key_epochs.current(scope, tx, connection).number
        recipient = recipients.get(tx, connection.id, feed_id)
        assert recipient.tried is not None
        now = replace(recipient.tried, generation=generation, epoch=epoch)
        recipients.set_state(tx, recipient, tried=asdict(now))


def ended(scope: Scope, tx: Tx, connection: Connection, feed_id: str) -> None:
    """Note that an attempt ended well: both signed for a revision, or nothing had changed."""
    recipient = recipients.get(tx, connection.id, feed_id)
    recipients.set_state(tx, recipient, tries=0, next_attempt=None, failure=None, ran=scope.home.now())
    name = tx.scalar(select(feeds.c.name).where(feeds.c.id == feed_id))
    Alerts(scope).settle(tx, AlertKind.RUN_FAILED, f"feed {name} does not reach {connection.alias}: ")


def failed(scope: Scope, connection: Connection, feed_id: str, error: VesicaError) -> None:
    """Note why an attempt failed, with an alert. If a rule of ours forbids it, the next one waits for a change, or a day."""
    with scope.begin() as tx:
        recipient = recipients.get(tx, connection.id, feed_id)
        values: Document = {"failure": error.code[:40]}
        if isinstance(error, NotAllowed):
            values["next_attempt"] = scope.home.now() + DAY
        recipients.set_state(tx, recipient, **values)
        # a feed that was just taken from the partner, or paused by it, raises no alert
        running = recipient.status is RecipientStatus.ENABLED
        if running and (recipient.tries >= PATIENT_TRIES or not isinstance(error, PeerUnreachable)):
            name = tx.scalar(select(feeds.c.name).where(feeds.c.id == feed_id))
            Alerts(scope).add(tx, AlertKind.RUN_FAILED, f"feed {name} does not reach {connection.alias}: {error}")


def reachable(home: Home, connection: Connection) -> None:
    """Let runs that wait because a partner was out of reach be tried at once: it is back."""
    waiting = (feed_partners.c.connection_id == connection.id, feed_partners.c.failure == PeerUnreachable.code)
    with home.begin() as tx:
        tx.execute(update(feed_partners).where(*waiting).values(next_attempt=home.now()))


def note_request(scope: Scope, tx: Tx, connection: Connection) -> bool:
    """Note that a receiver asks for runs, for people who are new on its side; return whether any feed runs to it."""
    mine = (feed_partners.c.connection_id == connection.id, feed_partners.c.status == RecipientStatus.ENABLED)
    tx.execute(
        update(feed_partners).where(*mine, feed_partners.c.requested.is_(None)).values(requested=scope.home.now())
    )
    return tx.execute(select(feed_partners.c.id).where(*mine)).first() is not None


def grant(tx: Tx, connection: Connection) -> None:
    """Note that a receiver which asked for runs did have somebody new: its next request waits no longer than its first."""
    tx.execute(update(feed_partners).where(feed_partners.c.connection_id == connection.id).values(requests=0))


def request_full_revision(scope: Scope, tx: Tx, connection: Connection, feed_id: str) -> bool:
    """Let the next revision to a partner be a full one, since it lacks what changes could be added to.

    Returns whether that revision may be made at once. A partner that asks again and again waits longer each time.
    """
    recipient, now = recipients.get(tx, connection.id, feed_id), scope.home.now()
    if not recipient.full:
        lately = recipient.full_since is not None and now - recipient.full_since < DAY
        recipients.set_state(
            tx, recipient, full=True, full_since=now, full_before=recipient.full_before + 1 if lately else 0
        )
        recipient = recipients.get(tx, connection.id, feed_id)
    return now >= full_revision_from(recipient)


def full_revision_from(recipient: Recipient) -> int:
    """Return the earliest time at which a full revision may go to a partner that has asked for one."""
    if not recipient.full or recipient.full_since is None or not recipient.full_before:
        return 0
    pause = min(FULL_SECONDS << min(recipient.full_before - 1, 16), LONGEST_SECONDS)
    return recipient.full_since + pause


def _now(scope: Scope, tx: Tx, recipient: Recipient) -> Basis:
    return basis(scope, tx, recipient, rules(scope, tx), generation=newest_generation(scope, tx))
