"""What a person hears of a destination: five alerts, on screen and by mail to those who subscribed to them.

An hour of a destination is a run: it starts with the first change that is noticed in it, and has succeeded once none waits
and none failed. The words of an alert name the hour, so that the next hour's is another one.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import InvalidInput
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import HOUR, activations, batches, deliveries, subscriptions
from . import mails
from .counts import Measure
from .records import BatchState, Destination, by_id, change, stored

START, SUCCESS, FAILURE, DELAY, SKIPS = "start", "success", "failure", "delay", "skips"
KINDS = {
    START: "an hour's first change is on its way",
    SUCCESS: "an hour's changes have all arrived",
    FAILURE: "something did not arrive, or waits for a person",
    DELAY: "changes wait for more than 150 minutes; said again after 10 hours",
    SKIPS: "more than 1 % of an hour's changes were left out",
}
_WORDS = {
    START: AlertKind.DESTINATION_STARTED,
    SUCCESS: AlertKind.DESTINATION_SUCCEEDED,
    FAILURE: AlertKind.DESTINATION_FAILED,
    DELAY: AlertKind.DESTINATION_DELAYED,
    SKIPS: AlertKind.DESTINATION_SKIPPED,
}
ASKED_FOR = (START, SUCCESS)  # that are on screen only if somebody subscribed to them
DELAY_SECONDS = 150 * 60
DELAY_AGAIN_SECONDS = 10 * HOUR
LOOK_SECONDS = 30
SKIPPED_PERCENT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What an alert of a kind says, without an identity; `word` and `alike` are as in `Alerts.add`."""

    kind: str
    text: str
    remedy: Remedy
    word: AlertKind | None = None
    alike: str = ""


def alert(scope: Scope, tx: Tx, destination: Destination, event: Event) -> None:
    """Raise an alert, and mail it to those who subscribed to its kind."""
    of = [each for each in (destination.id, destination.part_of) if each is not None]
    query = select(subscriptions).where(subscriptions.c.destination_id.in_(of))
    wanted = [each for each in tx.execute(query).all() if event.kind in each.kinds]
    if event.kind in ASKED_FOR and not wanted:
        return
    word = event.word or _WORDS[event.kind]
    if Alerts(scope).add(tx, word, event.text, remedy=event.remedy, alike=event.alike):
        for user, mail in sorted({(each.user_name, each.mail) for each in wanted if each.mail}):
            mails.post(scope, tx, user, mail, event.text)


def planned(scope: Scope, tx: Tx, destination: Destination, at: int, *, started: bool) -> None:
    """Say that an hour has begun to be sent, and that many of its changes are left out, where that is so."""
    remedy = Remedy("destination.runs", {"name": destination.name})
    if started:
        text = f"destination {destination.name} has begun to send what changed {_in_hour(at)}"
        alert(scope, tx, destination, Event(kind=START, text=text, remedy=remedy))
    found = _hour(tx, destination.id, at)
    if found["excluded"] * 100 > SKIPPED_PERCENT * found["received"]:
        text = f"destination {destination.name} leaves out more than {SKIPPED_PERCENT} % of what changed {_in_hour(at)}"
        alert(scope, tx, destination, Event(kind=SKIPS, text=text, remedy=remedy))


def finished(scope: Scope, tx: Tx, destination_id: str, times: Collection[int]) -> None:
    """Say which hours have all arrived, of those in which changes were noticed at some `times`."""
    destination = by_id(scope, tx, destination_id)
    under_way = (activations.c.destination_id == destination_id, activations.c.pending.is_not(None))
    if destination is None or tx.execute(select(activations.c.id).where(*under_way)).first() is not None:
        return
    for at in sorted({each // HOUR * HOUR for each in times}):
        found = _hour(tx, destination_id, at)
        if found[Measure.ACTIVATED] and not found[Measure.WAITING] and not found[Measure.FAILED]:
            text = f"destination {destination.name} has sent all that changed {_in_hour(at)}"
            remedy = Remedy("destination.runs", {"name": destination.name})
            alert(scope, tx, destination, Event(kind=SUCCESS, text=text, remedy=remedy))


def failed(scope: Scope, tx: Tx, destination: Destination, what: str, remedy: Remedy) -> None:
    """Say that something went wrong, once an hour."""
    text = f"destination {destination.name} {what} ({_in_hour(scope.home.now())})"
    alert(scope, tx, destination, Event(kind=FAILURE, text=text, remedy=remedy))


def alert_delays(scope: Scope) -> int | None:
    """Say where changes wait too long; return when to look again, None where nothing waits."""
    now = scope.home.now()
    with scope.read() as tx:
        mine = {each.id: each for each in stored(scope, tx)}
        if not mine:
            return None
        waits = (batches.c.destination_id.in_(mine), batches.c.state == BatchState.WAITING)
        query = select(batches.c.destination_id, func.min(batches.c.created)).where(*waits)
        oldest: dict[str, int] = {of: at for of, at in tx.execute(query.group_by(batches.c.destination_id))}  # noqa: C416
    for destination in mine.values():
        since = oldest.get(destination.id)
        late = since is not None and since < now - DELAY_SECONDS
        said = destination.delay_alerted
        if late and (said is None or not said <= now < said + DELAY_AGAIN_SECONDS):
            assert since is not None
            _alert_delay(scope, destination, since, now)
        elif not late and said is not None:
            with scope.begin() as tx:
                _note_delay(tx, destination, None)
    return now + LOOK_SECONDS if oldest else None


def _alert_delay(scope: Scope, destination: Destination, since: int, now: int) -> None:
    minutes = DELAY_SECONDS // 60
    text = f"destination {destination.name}: changes wait for more than {minutes} minutes, since {_time(since)}"
    remedy = Remedy("destination.errors", {"name": destination.name})
    with scope.begin() as tx:
        alert(scope, tx, destination, Event(kind=DELAY, text=f"{text} ({_in_hour(now)})", remedy=remedy))
        _note_delay(tx, destination, now)


def _note_delay(tx: Tx, destination: Destination, alerted: int | None) -> None:
    change(tx, destination.id, delay_alerted=alerted)


def _hour(tx: Tx, destination_id: str, at: int) -> dict[str, int]:
    """Return how many changes of an hour there are by outcome; those that were superseded count as neither excluded nor
    received."""
    mine = (deliveries.c.destination_id == destination_id, deliveries.c.hour == at // HOUR * HOUR)
    columns = (deliveries.c.outcome, deliveries.c.code)
    query = select(*columns, func.sum(deliveries.c["count"])).where(*mine).group_by(*columns)
    found = dict.fromkeys((Measure.ACTIVATED, Measure.EXCLUDED, Measure.FAILED, Measure.WAITING), 0)
    for outcome, code, count in tx.execute(query):
        if outcome in found and code != "superseded":
            found[Measure(outcome)] += int(count)
    return {**{str(name): count for name, count in found.items()}, "received": sum(found.values())}


def _in_hour(at: int) -> str:
    return f"in the hour from {_time(at // HOUR * HOUR)}"


def _time(at: int) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):  # a clock that is far off
        return "an unknown time"


def subscription(tx: Tx, destination: Destination, user: str) -> Document:
    """Return what a user hears of a destination."""
    mine = (subscriptions.c.destination_id == destination.id, subscriptions.c.user_name == user)
    row = tx.execute(select(subscriptions.c.kinds, subscriptions.c.mail).where(*mine)).first()
    kinds, mail = (list[str](), None) if row is None else row
    return {"on": sorted(kinds), "mail": mail}


def changed(before: Document, on: Collection[str], off: Collection[str], mail: str | None) -> Document:
    """Return a subscription with kinds put on and off; raises InvalidInput."""
    for each in (*on, *off):
        if each not in KINDS:
            raise InvalidInput(f"there is no alert {each[:40]!r}", hint=f"the alerts are {', '.join(KINDS)}")
    if both := sorted({*on} & {*off}):
        raise InvalidInput(f"{both[0]} cannot be on and off", hint="say one of them")
    kinds = ({*before["on"]} | {*on}) - {*off}
    address = before["mail"] if mail is None else mails.checked_address(mail) if mail else None
    return {"on": sorted(kinds), "mail": address if kinds else None}


def subscribe(scope: Scope, tx: Tx, destination: Destination, user: str, wanted: Document) -> None:
    """Replace what a user hears of a destination."""
    mine = (subscriptions.c.destination_id == destination.id, subscriptions.c.user_name == user)
    tx.execute(subscriptions.delete().where(*mine))
    if wanted["on"]:
        values = {"id": scope.home.new_id(), "destination_id": destination.id, "user_name": user}
        tx.execute(subscriptions.insert().values(**values, kinds=wanted["on"], mail=wanted["mail"]))


def forget(tx: Tx, destination_id: str) -> None:
    """Delete the subscriptions of a destination."""
    tx.execute(subscriptions.delete().where(subscriptions.c.destination_id == destination_id))
