"""People who are new here: senders are asked to run their feeds for them, or to evaluate them."""

from dataclasses import dataclass

from protocol.feed import Definition
from protocol.letters import Wanted
from protocol.states import Kind

from ...access.scope import Scope
from ...exchanges import requests
from ...operations.jobs import Jobs
from ...partners import key_epochs
from ...partners.connections import Connection, ConnectionStatus
from ...partners.letters import Letters
from ...people.snapshots import Snapshot, changes_after, newest_generation, settles
from ...storage.tables import DAY
from .. import versions
from . import evaluations, received_feeds
from .received import Received
from .received_feeds import ReceivedFeed

ASK_AGAIN_SECONDS = 3_600  # after which a receiver asks again for what did not come; doubled up to a day


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was new here when the sender of a feed was last asked, and when it is asked again."""

    generation: int = 0
    epoch: int = 0
    tries: int = 0
    again: int = 0

    def same(self, generation: int, epoch: int) -> bool:
        return (self.generation, self.epoch) == (generation, epoch)


def ask_for_new(scope: Scope, known: dict[str, Asked]) -> int | None:
    """Ask the sender of each feed about our new people; `known` has what was asked before, by feed, and is updated.

    Returns when to look again if nothing but the time changes, None if there is no feed.
    """
    times = []
    for connection, feed, definition in _enabled(scope):
        with scope.read() as tx:
            epoch = key_epochs.running(scope, tx, connection)
            generation = newest_generation(scope, tx)
            before = known.get(feed.id) or Asked()
            changes = changes_after(scope, tx, before.generation) if before.generation else []
        now, same = scope.home.now(), before.same(generation, epoch.number if epoch else 0)
        since = max(before.again if same else 0, settles(changes))
        if epoch is None or now < since:
            times += [since] if now < since else []
            continue
        snapshot = Snapshot.open(scope)
        new = [
            each
            for each in versions.matched_by(definition, connection)
            if evaluations.missing(scope, connection, epoch, each, snapshot)
        ]
        tries = before.tries + 1 if same else 0
        again = now + min(ASK_AGAIN_SECONDS << min(tries, 16), DAY) if new else now + DAY
        known[feed.id] = Asked(generation=generation, epoch=epoch.number, tries=tries, again=again)
        times.append(again)
        if new:
            with scope.begin() as tx:
                Received(scope).report_growth(tx, connection, feed)
        for namespace in new:
            ask(scope, connection, namespace)
    return min(times, default=None)


def ask(scope: Scope, connection: Connection, namespace: str) -> None:
    """Get F of our new people: from the sender, which runs soon, or by our own call where it cannot call us."""
    if scope.home.config.address:
        request = Wanted(kind=Kind.EVALUATE, subject={"namespace": namespace})
        with scope.act("feed.ask", connection.alias, detail={"namespace": namespace}) as tx:
            Letters(scope).send_once(tx, connection.id, "exchange.wanted", request)
    else:
        parameters = requests.parameters_of(connection, Kind.EVALUATE, {"namespace": namespace})
        Jobs(scope.home).submit_once(requests.JOB, parameters, scope)


def _enabled(scope: Scope) -> list[tuple[Connection, ReceivedFeed, Definition]]:
    """Return the feeds that we have enabled and that ran at least once: the first run comes unasked."""
    with scope.read() as tx:
        return [
            (connection, feed, received_feeds.definition(tx, feed))
            for connection, feed in received_feeds.alive(scope, tx)
            if connection.status is ConnectionStatus.ACTIVE
            and feed.status is received_feeds.ReceivedStatus.ENABLED
            and feed.last_revision
        ]
