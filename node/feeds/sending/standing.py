"""How a feed stands with a partner: whether it may run there now, and whether the partner has everything already."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from protocol.feed import Definition
from psi.errors import Remedy

from ...access.scope import NothingDone, Scope
from ...consent.consents import Consents
from ...errors import NotAllowed
from ...governance.governance import Governance
from ...governance.violations import PolicyViolation
from ...operations.alerts import AlertKind, Alerts
from ...partners import key_epochs
from ...partners.connections import Connection, ConnectionStatus, by_id
from ...people.snapshots import Snapshot
from ...storage.database import Tx
from ...storage.tables import DAY
from .. import runs, versions
from ..runs import RunState, SentRun
from ..states import FeedStatus, RecipientStatus
from . import recipients, selection
from .recipients import Feed

Checked = tuple[Feed, Definition, str]  # the feed, the version that the partner accepted, and the consent model


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A feed of which a partner has everything, the namespaces that it is matched by, and the run that was the last."""

    feed: Feed
    namespaces: list[str]
    last: SentRun


@contextmanager
def alerting(scope: Scope, connection: Connection) -> Iterator[None]:
    """Raise an alert too where a policy forbids a run: nobody may be watching."""
    try:
        yield
    except PolicyViolation as error:
        with scope.begin() as tx:
            text = f"feed {error.violations[0].feed} does not run to {connection.alias}: {error}"
            Alerts(scope).add(tx, AlertKind.POLICY_VIOLATION, text)
        raise


def check(scope: Scope, tx: Tx, connection: Connection, feed_id: str) -> Checked:
    """Raise NotAllowed if anything forbids a feed to run to a partner now."""
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


def lasts(scope: Scope, run: SentRun) -> bool:
    """Return whether a run is recent: after a day another one says that the members stay."""
    return scope.home.now() - run.changed < DAY


def settled(scope: Scope, connection: Connection, feed_id: str) -> Standing | None:
    """Return how a feed stands whose next run would bring nothing; None where that takes a run to find out.

    Whether the feed may run is decided anew, as one check in the audit log; NotAllowed as `check` raises it. What would
    leave then depends on what `selection.inputs` digests and on the key epoch: if both are those of the last run that the
    partner took, so is the content.
    """
    found = None
    with (
        alerting(scope, connection),
        scope.act("feed.check", feed_id, detail={"partner": connection.alias, "evaluated": []}) as tx,
    ):
        found = _settled(scope, tx, connection, feed_id)
        if found is None:
            raise NothingDone
    return found


def stays_settled(scope: Scope, connection: Connection, feed_id: str) -> bool:
    """Return whether a feed still stands so, by reading only; what forbids it now is for the run that follows to say."""
    try:
        with scope.read() as tx:
            return _settled(scope, tx, connection, feed_id) is not None
    except NotAllowed:
        return False


def is_as_prepared(scope: Scope, connection: Connection, run: SentRun) -> bool:
    """Return whether all that a run's content was decided from is as it was, by reading only: then it may leave now.

    Where it is not, or something forbids the run, deciding again has to say what may.
    """
    try:
        with scope.read() as tx:
            _, definition, model = check(scope, tx, connection, run.feed_id)
            last = None if run.state is RunState.DONE else last_run(tx, connection.id, run.feed_id)
            epoch = key_epochs.running_number(scope, tx, connection)
            follows = run.state is RunState.DONE or run.report.base in (None, last and last.revision)
            if not follows or (run.version, run.report.epoch) != (definition.version, epoch):
                return False
            now = selection.inputs(scope, connection, definition, Snapshot.open(scope, tx), model, tx=tx)
            return run.report.inputs == now
    except NotAllowed:
        return False


def _settled(scope: Scope, tx: Tx, connection: Connection, feed_id: str) -> Standing | None:
    connection = by_id(scope, connection.id, tx)
    feed, definition, model = check(scope, tx, connection, feed_id)
    last = last_run(tx, connection.id, feed_id)
    if last is None or not lasts(scope, last) or runs.prepared(tx, connection.id, feed_id):
        return None
    if (last.version, last.report.epoch) != (definition.version, key_epochs.running_number(scope, tx, connection)):
        return None
    if last.report.inputs != selection.inputs(scope, connection, definition, Snapshot.open(scope, tx), model, tx=tx):
        return None
    return Standing(feed=feed, namespaces=versions.matched_by(definition, connection), last=last)
