"""When feeds run by themselves: soon after a change of what they depend on, daily at the latest, again after a failure.

Nothing tells the schedule that something changed: it compares what a run would depend on now with what the last attempt
depended on. So no act can forget to tell it, and a restart loses nothing.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, select

from protocol.feed import Definition
from protocol.letters import Wanted
from protocol.states import Kind
from psi.errors import VesicaError

from ... import log
from ...errors import Failure, PeerUnreachable
from ...partners import key_epochs
from ...people.data import Snapshot, changes_after, newest_generation
from ...storage.tables import DAY, connections, feed_partners, feeds, jobs, letters, runs, segments
from .. import evaluations, versions, wishes
from . import attempts, releases
from .attempts import Basis

if TYPE_CHECKING:
    from ...node import Node
    from ...project import Project

TICK_SECONDS = 1.0
QUIET_SECONDS, PATIENCE_SECONDS = 2, 10  # a run waits until nothing has changed for so long, but not for longer
POST_SECONDS = 60  # how long a run waits for letters to arrive
WISH_SECONDS = 60  # between the last run and one that a partner asks for; doubled up to a day where it had nobody new
ASK_AGAIN_SECONDS = 3_600  # after which a receiver asks again for what did not come; doubled up to a day
OVERDUE_SECONDS = 2 * DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known of one feed to one partner at a moment."""

    now: int
    basis: Basis
    tried: Basis | None  # what the last attempt depended on
    changes: list[int]  # when the data changed since
    ran: int | None = None  # when an attempt ended well
    next_attempt: int | None = None  # after one that did not
    failure: str | None = None
    anew: bool = False
    anew_from: int = 0  # when what holds everything may go out: until then the partner has nothing to add changes to
    wished: int | None = None
    wishes: int = 0  # runs that were wished for and brought nobody new
    under_way: bool = False
    post: bool = False  # letters are on their way to the partner: what they say comes first


def settled(changes: list[int], now: int) -> bool:
    """Tell whether a row of changes has come to rest, or has gone on for too long to wait."""
    return not changes or now - changes[-1] >= QUIET_SECONDS or now - changes[0] >= PATIENCE_SECONDS


def due(situation: Situation) -> str | None:
    """Return why a feed should run now, None where it should not."""
    now, waits = situation.now, situation.next_attempt is not None and situation.now < situation.next_attempt
    if situation.under_way or situation.post or (waits and situation.failure == PeerUnreachable.code):
        return None
    if situation.anew and now < situation.anew_from:
        return None
    if situation.basis != situation.tried:
        return "changed" if settled(situation.changes, now) else None
    if situation.next_attempt is not None:
        return None if waits else "again"
    if situation.anew:
        return "anew"
    pause = min(WISH_SECONDS << min(situation.wishes, 16), DAY)
    if situation.wished is not None and now >= max(situation.wished, (situation.ran or 0) + pause):
        return "wished"
    return "daily" if situation.ran is None or now - situation.ran >= DAY else None


class Schedule:
    """Puts the jobs of one node's feeds, and asks partners to run theirs for people who are new here."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._evaluated: dict[str, tuple[int, tuple[str, ...]]] = {}  # project -> what its rules were evaluated on
        self._asked: dict[str, _Asked] = {}  # received feed -> what was new here when the sender was last asked

    def run(self, stop: threading.Event) -> None:
        """Look every second, until `stop`."""
        while not stop.wait(TICK_SECONDS):
            try:
                self.tick()
            except VesicaError as error:
                log.warning("the schedule waits", code=error.code)
            except Exception as error:  # its text may hold anything; feeds must go on
                log.error("the schedule failed", kind=type(error).__name__)

    def tick(self) -> None:
        """Do what is due now."""
        for project in self._node.projects():
            if project.on_hold:
                continue
            try:
                self._evaluate(project)
            except VesicaError as error:
                if isinstance(error, Failure):
                    raise
                log.warning("rules cannot be evaluated", project=project.name, code=error.code)
            for situation, state in situations(project):
                reason = due(situation)
                if reason is not None and not self._is_over(state):
                    parameters = {"connection": state.connection_id, "feed": state.feed_id}
                    self._node.jobs.submit_once(releases.JOB, parameters, project)
                    log.info("due", feed=state.feed, partner=state.alias, reason=reason)
            self._ask(project)

    def _evaluate(self, project: "Project") -> None:
        """Evaluate rules again where the data or what they read of partners has changed."""
        with self._node.store.read() as tx:
            ruled = (segments.c.project_id == project.id, segments.c.kind == "rule")
            if tx.execute(select(segments.c.id).where(*ruled).limit(1)).first() is None:
                return
            before = self._evaluated.get(project.id)
            now = (newest_generation(project, tx), project.memberships.stamp(tx))
            changes = changes_after(project, tx, before[0]) if before else []
        if now == before or not settled(changes, self._node.now()):
            return
        self._evaluated[project.id] = now  # an error waits for the next change
        project.segments.evaluate()
        with self._node.store.read() as tx:
            self._evaluated[project.id] = (newest_generation(project, tx), now[1])

    def _is_over(self, state: Row[Any]) -> bool:
        """Tell whether a feed has passed its end; its run would be refused."""
        with self._node.store.read() as tx:
            definition = versions.get(tx, state.feed_id, state.accepted_version)
        return definition.valid_until is not None and self._node.now() >= definition.valid_until

    def _ask(self, project: "Project") -> None:
        """Bring the people who are new here to those who share with us: the sender runs for them, or evaluates."""
        for connection, feed, definition in _enabled(project):
            with self._node.store.read() as tx:
                epoch = key_epochs.running(project, tx, connection)
                generation = newest_generation(project, tx)
                before = self._asked.get(feed.id) or _Asked()
                changes = changes_after(project, tx, before.generation) if before.generation else []
            now, same = self._node.now(), before.same(generation, epoch.number if epoch else 0)
            if epoch is None or (same and now < before.again) or not settled(changes, now):
                continue
            snapshot = Snapshot.open(project)
            new = [
                each
                for each in definition.namespaces
                if evaluations.missing(project, connection, epoch, each, snapshot)
            ]
            tries = before.tries + 1 if same else 0
            again = now + min(ASK_AGAIN_SECONDS << min(tries, 16), DAY) if new else now + DAY
            self._asked[feed.id] = _Asked(generation=generation, epoch=epoch.number, tries=tries, again=again)
            if new:
                with project.node.store.begin() as tx:
                    project.received.tell_grown(tx, connection, feed)
            for namespace in new:
                ask(project, connection, namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    generation: int = 0
    epoch: int = 0
    tries: int = 0
    again: int = 0

    def same(self, generation: int, epoch: int) -> bool:
        return (self.generation, self.epoch) == (generation, epoch)


def ask(project: "Project", connection: Row[Any], namespace: str) -> None:
    """Get F of our new people: from the sender, which runs soon, or by our own call where it cannot call us."""
    if project.node.config.address:
        wish = Wanted(kind=Kind.EVALUATE, subject={"namespace": namespace})
        with project.act("feed.ask", connection.alias, detail={"namespace": namespace}) as tx:
            project.letters.send_once(tx, connection.id, "exchange.wanted", wish)
    else:
        parameters = {"connection": connection.id, "kind": Kind.EVALUATE.value, "namespace": namespace}
        project.node.jobs.submit_once(wishes.JOB, parameters, project)


def situations(project: "Project") -> Iterator[tuple[Situation, Row[Any]]]:
    """Yield the situation of each of our feeds with each partner that has enabled it, and the partner's state of it."""
    query = (
        select(feed_partners, feeds.c.name.label("feed"), connections.c.alias, connections.c.peer_address)
        .join(feeds, feeds.c.id == feed_partners.c.feed_id)
        .join(connections, connections.c.id == feed_partners.c.connection_id)
        .where(feeds.c.project_id == project.id, feeds.c.status == "published")
        .where(feed_partners.c.status == "enabled", connections.c.status == "active")
    )
    with project.node.store.read() as tx:
        states = tx.execute(query).all()
        if not states:
            return
        open_ = select(jobs.c.parameters).where(
            jobs.c.project_id == project.id, jobs.c.kind == releases.JOB, jobs.c.state.in_(("queued", "running"))
        )
        under_way = [(each["connection"], each["feed"]) for each in tx.scalars(open_)]
        recent = letters.c.created > project.node.now() - POST_SECONDS
        post = select(letters.c.connection_id).where(letters.c.delivered.is_(None), recent).distinct()
        waiting = set(tx.scalars(post))
        generation, rules = newest_generation(project, tx), attempts.rules(project, tx)
        found = []
        for state in states:
            tried = Basis.read(state.tried)
            situation = Situation(
                now=project.node.now(),
                basis=attempts.basis(project, tx, state, rules, generation=generation),
                tried=tried,
                changes=changes_after(project, tx, tried.generation) if tried else [],
                ran=state.ran,
                next_attempt=state.next_attempt,
                failure=state.failure,
                anew=state.anew,
                anew_from=attempts.anew_from(state),
                wished=state.wished,
                wishes=state.wishes,
                under_way=(state.connection_id, state.feed_id) in under_way,
                post=state.peer_address != "" and state.connection_id in waiting,
            )
            found.append((situation, state))
    yield from found


def tell_overdue(project: "Project") -> None:
    """Raise an alert for each feed that should have reached a partner and has not."""
    for situation, state in situations(project):
        done = (runs.c.feed_id == state.feed_id, runs.c.connection_id == state.connection_id, runs.c.state == "done")
        with project.node.store.read() as tx:
            last = tx.scalar(select(runs.c.changed).where(*done).order_by(runs.c.changed.desc()).limit(1))
        days = (situation.now - (last or state.changed)) // DAY
        if days * DAY >= OVERDUE_SECONDS:
            with project.node.store.begin() as tx:
                text = f"feed {state.feed} has not reached {state.alias} for {days} days"
                project.alerts.add(tx, "run_overdue", text)


def _enabled(project: "Project") -> list[tuple[Row[Any], Row[Any], Definition]]:
    """Return the feeds that we have enabled and that came at least once: the first run needs no asking."""
    with project.node.store.read() as tx:
        return [
            (connection, feed, versions.get(tx, feed.id, feed.accepted_version))
            for connection, feed in project.received.alive(tx)
            if connection.status == "active" and feed.status == "enabled" and feed.last_revision
        ]
