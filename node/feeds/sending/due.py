"""When our feeds run by themselves: soon after a change of what they depend on, daily at the latest, again after a failure.

Nobody has to report a change: what a run would depend on now is compared with what the last attempt depended on. So no
change is missed, and a restart loses nothing.
"""

from dataclasses import dataclass

from sqlalchemy import select

from ... import log
from ...access.scope import Scope
from ...errors import PeerUnreachable
from ...operations.alerts import AlertKind, Alerts
from ...operations.jobs import OPEN, Jobs
from ...partners.connections import ConnectionStatus
from ...people.snapshots import changes_after, newest_generation, settles
from ...storage.database import Tx
from ...storage.tables import DAY, connections, feed_partners, feeds, jobs, letters, runs
from .. import versions
from ..runs import RunState
from ..states import FeedStatus, RecipientStatus
from . import attempts, recipients, releases
from .recipients import Basis, Recipient

LETTERS_SECONDS = 60  # how long a run waits for letters to arrive
# Between the last run and one that a partner asks for; doubled, up to a day, while the partner has nobody new.
REQUEST_SECONDS = 60
OVERDUE_SECONDS = 2 * DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known of one feed to one partner at a moment."""

    now: int
    basis: Basis
    tried: Basis | None  # what the last attempt depended on
    changes: list[int]  # when the data changed since then
    ran: int | None = None  # when an attempt ended well
    next_attempt: int | None = None  # after one that did not
    failure: str | None = None
    full: bool = False  # the next revision has to be full: the partner lacks what changes are added to
    full_from: int = 0  # when a full revision may go out to it
    requested: int | None = None  # when the partner asked for a run
    requests: int = 0  # runs that it asked for and that brought nobody new
    under_way: bool = False
    letters: bool = False  # some are on their way to the partner, and have to come before a run


def due(situation: Situation) -> str | None:
    """Return why a feed should run now, or None."""
    reason, since = _next(situation)
    return reason if since is not None and situation.now >= since else None


def due_at(situation: Situation) -> int | None:
    """Return when a feed is due if nothing but the time changes; None if it waits for a change."""
    return _next(situation)[1]


def _next(situation: Situation) -> tuple[str, int | None]:
    """Return why a feed runs next, and from when on."""
    if situation.under_way or situation.letters:
        return "", None
    since = situation.full_from if situation.full else 0
    if situation.next_attempt is not None and situation.failure == PeerUnreachable.code:
        since = max(since, situation.next_attempt)
    if situation.basis != situation.tried:
        return "changed", max(since, settles(situation.changes))
    if situation.next_attempt is not None:
        return "again", max(since, situation.next_attempt)
    if situation.full:
        return "full", since
    daily = 0 if situation.ran is None else situation.ran + DAY
    if situation.requested is not None:
        pause = min(REQUEST_SECONDS << min(situation.requests, 16), DAY)
        requested = max(situation.requested, (situation.ran or 0) + pause)
        if requested <= max(daily, situation.now):
            return "requested", requested
    return "daily", daily


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One of our feeds and a partner that has enabled it, and what is known of both now."""

    feed: str
    partner: str
    recipient: Recipient
    situation: Situation


def submit_due(scope: Scope) -> int | None:
    """Queue a run of each feed that is due; return when the next one is, None where all wait for a change."""
    times = []
    for each in candidates(scope):
        reason, since = due(each.situation), due_at(each.situation)
        if reason is None:
            times += [] if since is None else [since]
        elif not _is_over(scope, each.recipient):
            parameters = {"connection": each.recipient.connection_id, "feed": each.recipient.feed_id}
            Jobs(scope.home).submit_once(releases.JOB, parameters, scope)
            log.info("due", feed=each.feed, partner=each.partner, reason=reason)
    return min(times, default=None)


def submit_all(scope: Scope) -> list[str]:
    """Queue a run of each feed to each partner that has enabled it, as the node's own work; return the partners."""
    with scope.home.guard.itself():
        found = [each for each in candidates(scope) if not _is_over(scope, each.recipient)]
        for each in found:
            parameters = {"connection": each.recipient.connection_id, "feed": each.recipient.feed_id}
            Jobs(scope.home).submit_once(releases.JOB, parameters, scope)
    return sorted({each.partner for each in found})


def _is_over(scope: Scope, recipient: Recipient) -> bool:
    """Return whether a feed has passed its end, so that a run would be refused."""
    with scope.read() as tx:
        definition = versions.get(tx, recipient.feed_id, recipient.accepted_version)
    return definition.valid_until is not None and scope.home.now() >= definition.valid_until


def candidates(scope: Scope) -> list[Candidate]:
    """Return our feeds with each partner that has enabled one."""
    query = (
        select(feed_partners, feeds.c.name.label("feed"), connections.c.alias, connections.c.peer_address)
        .join(feeds, feeds.c.id == feed_partners.c.feed_id)
        .join(connections, connections.c.id == feed_partners.c.connection_id)
        .where(feeds.c.project_id == scope.id, feeds.c.status == FeedStatus.PUBLISHED)
        .where(feed_partners.c.status == RecipientStatus.ENABLED, connections.c.status == ConnectionStatus.ACTIVE)
    )
    now = scope.home.now()
    with scope.read() as tx:
        rows = tx.execute(query).all()
        if not rows:
            return []
        under_way, waiting = _under_way(scope, tx), _waiting(tx, now)
        generation, rules = newest_generation(scope, tx), attempts.rules(scope, tx)
        found = []
        for row in rows:
            recipient = recipients.read(row)
            tried = recipient.tried
            situation = Situation(
                now=now,
                basis=attempts.basis(scope, tx, recipient, rules, generation=generation),
                tried=tried,
                changes=changes_after(scope, tx, tried.generation) if tried else [],
                ran=recipient.ran,
                next_attempt=recipient.next_attempt,
                failure=recipient.failure,
                full=recipient.full,
                full_from=attempts.full_revision_from(recipient),
                requested=recipient.requested,
                requests=recipient.requests,
                under_way=(recipient.connection_id, recipient.feed_id) in under_way,
                letters=row.peer_address != "" and recipient.connection_id in waiting,
            )
            found.append(Candidate(feed=row.feed, partner=row.alias, recipient=recipient, situation=situation))
    return found


def _under_way(scope: Scope, tx: Tx) -> set[tuple[str, str]]:
    """Return the ids of connections and feeds for which a run is queued or under way."""
    mine = (jobs.c.project_id == scope.id, jobs.c.kind == releases.JOB, jobs.c.state.in_(OPEN))
    return {(each["connection"], each["feed"]) for each in tx.scalars(select(jobs.c.parameters).where(*mine))}


def _waiting(tx: Tx, now: int) -> set[str]:
    """Return the ids of the connections with a letter that was written a moment ago and has not arrived."""
    recent = (letters.c.created > now - LETTERS_SECONDS, letters.c.kind != "exchange.wanted")  # that changes no feed
    return set(tx.scalars(select(letters.c.connection_id).where(letters.c.delivered.is_(None), *recent).distinct()))


def alert_overdue(scope: Scope) -> None:
    """Raise an alert for each feed that should have reached a partner and has not."""
    for each in candidates(scope):
        recipient, now = each.recipient, each.situation.now
        done = (runs.c.feed_id == recipient.feed_id, runs.c.connection_id == recipient.connection_id)
        query = select(runs.c.changed).where(*done, runs.c.state == RunState.DONE)
        with scope.read() as tx:
            last = tx.scalar(query.order_by(runs.c.changed.desc()).limit(1))
        days = (now - (last or recipient.changed)) // DAY
        if days * DAY >= OVERDUE_SECONDS:
            with scope.begin() as tx:
                Alerts(scope).add(
                    tx, AlertKind.RUN_OVERDUE, f"feed {each.feed} has not reached {each.partner} for {days} days"
                )
