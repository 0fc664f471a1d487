"""Runs as both sides show and log them: one row for each feed, partner and data revision."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy import Row, Select, insert, select, update

from .. import log
from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import runs

SHOWN = 20
NO_BASE = "no_base"  # the code with which a receiver refuses changes that it could add to nothing
# Deltas after which a full revision comes: a receiver keeps all of them, and opens each again.
FULL_AFTER = 32


class RunState(StrEnum):
    """How far a run has come."""

    PREPARED = "prepared"  # sealed on the sender's disk
    SIGNED = "signed"  # by the receiver, whose signature may have left
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a selection was decided to: numbers of identities, and what it depended on beside people, by digest.

    `allowed` counts those that may leave by namespace and segment; `whole` is when it was decided of everybody.
    """

    considered: int
    unconsented: int
    small: int
    allowed: dict[str, list[int]]
    beside: str
    whole: int

    @property
    def sent(self) -> int:
        return self.considered - self.unconsented - self.small


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a sender notes of a run: numbers to show, and what the next run has to know."""

    considered: int
    without_consent: int
    in_small_segments_only: int
    sent: int
    small_segments: list[str]
    records: int
    changed_at: int | None  # when what it brings changed; None if it only confirms that nothing has
    generation: int  # of the project's data
    content: str  # digest of what is released
    epoch: int
    base: int | None  # the revision that its changes are added to; None for a full one
    changes_since: int  # revisions of changes since the last full one
    inputs: str = ""  # digest of all that the content was decided from; none where that is not known
    counts: Document | None = (
        None  # a `Counts` of the last decision with this content; none where `inputs` is not known
    )

    def shown(self) -> Document:
        """Return what people see of it."""
        return {name: value for name, value in asdict(self).items() if name not in _INTERNAL}


_INTERNAL = ("content", "epoch", "base", "changes_since", "generation", "inputs", "counts")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedReport:
    """What a receiver notes of a run that came to its end; the numbers are by namespace."""

    whole: bool  # a full revision; people see this name
    changed_at: int | None
    records: dict[str, int]
    evaluated: dict[str, int]

    def shown(self) -> Document:
        """Return what people see of it."""
        return asdict(self)


Report = TypeVar("Report", bound=RunReport | ReceivedReport | None, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Generic[Report]):
    """One data revision of a feed over one connection, as the row of `runs` has it."""

    id: str
    connection_id: str
    feed_id: str
    ours: bool  # we are the sender
    version: int
    revision: int
    digest: bytes
    state: RunState
    report: Report
    receipt: bytes | None = None
    created: int
    changed: int

    @property
    def latency(self) -> int | None:
        """Seconds from the change of the sender's data to the receipt."""
        changed_at = None if self.report is None else self.report.changed_at
        return None if changed_at is None or self.state is not RunState.DONE else max(0, self.changed - changed_at)

    def shown(self) -> Document:
        """Return the run as a document."""
        return {
            "version": self.version,
            "revision": self.revision,
            "state": self.state.value,
            "at": self.changed,
            **({} if self.report is None else self.report.shown()),
            "latency": self.latency,
        }


SentRun = Run[RunReport]
ReceivedRun = Run[ReceivedReport | None]  # None until both signed
AnyRun = Run[RunReport | ReceivedReport | None]


def sent(row: Row[Any]) -> SentRun:
    """Return a row of a run that we sent."""
    return Run(**_values(row, RunReport(**row.report)))


def received(row: Row[Any]) -> ReceivedRun:
    """Return a row of a run that came to us."""
    return Run(**_values(row, ReceivedReport(**row.report) if row.report else None))


def _values(row: Row[Any], report: RunReport | ReceivedReport | None) -> Document:
    return {**row._mapping, "state": RunState(row.state), "report": report}


def keep(tx: Tx, run: AnyRun) -> None:
    """Store a new run."""
    values = {each.name: getattr(run, each.name) for each in fields(run)}
    tx.execute(insert(runs).values(**{**values, "report": _document(run.report)}))


def change(
    scope: Scope, tx: Tx, run_id: str, *, state: RunState, receipt: bytes | None = None, report: Any = None
) -> None:
    """Set how far a run has come; a receipt and a report are set where they are given."""
    more: Document = {} if receipt is None else {"receipt": receipt}
    more |= {} if report is None else {"report": _document(report)}
    tx.execute(update(runs).where(runs.c.id == run_id).values(state=state, changed=scope.home.now(), **more))


def give_up(scope: Scope, tx: Tx, run_id: str) -> bool:
    """Note that a run which was made ready will not go out; return whether it was, and had not ended."""
    ready = (runs.c.id == run_id, runs.c.state == RunState.PREPARED)
    given_up = update(runs).where(*ready).values(state=RunState.FAILED, changed=scope.home.now())
    return bool(tx.execute(given_up).rowcount)


def note(tx: Tx, run_id: str, report: RunReport) -> None:
    """Store another report of a run, whose time stays."""
    tx.execute(update(runs).where(runs.c.id == run_id).values(report=asdict(report)))


def _document(report: RunReport | ReceivedReport | None) -> Mapping[str, Any]:
    return {} if report is None else asdict(report)


def last_sent(tx: Tx, connection_id: str, feed_id: str, *, before: int | None = None) -> SentRun | None:
    """Return the run that a partner took last; `before`: the last of an earlier version than this one."""
    mine = [runs.c.ours, runs.c.state == RunState.DONE, *([] if before is None else [runs.c.version < before])]
    row = tx.execute(_newest(connection_id, feed_id, *mine).limit(1)).first()
    return None if row is None else sent(row)


def prepared(tx: Tx, connection_id: str, feed_id: str) -> list[SentRun]:
    """Return the runs to a partner that were made ready and not finished, oldest first."""
    rows = tx.execute(_newest(connection_id, feed_id, runs.c.ours, runs.c.state == RunState.PREPARED))
    return [sent(row) for row in rows][::-1]


def needed(tx: Tx, connection_id: str) -> set[str]:
    """Return the ids of our runs to a partner whose records and content are still needed: those that may go out, and
    of each feed the last one that is done, for a receiver that lost the end of it."""
    mine = (runs.c.connection_id == connection_id, runs.c.ours)
    found = set(tx.scalars(select(runs.c.id).where(*mine, runs.c.state == RunState.PREPARED)))
    done = select(runs.c.feed_id, runs.c.id).where(*mine, runs.c.state == RunState.DONE).order_by(runs.c.revision)
    return found | set(dict(map(tuple, tx.execute(done))).values())


def with_revision(tx: Tx, connection_id: str, feed_id: str, revision: int) -> SentRun | None:
    """Return our run of a data revision."""
    row = tx.execute(_newest(connection_id, feed_id, runs.c.ours, runs.c.revision == revision)).first()
    return None if row is None else sent(row)


def taken(tx: Tx, connection_id: str, feed_id: str, revision: int) -> ReceivedRun | None:
    """Return the run that brought us a data revision."""
    row = tx.execute(_newest(connection_id, feed_id, ~runs.c.ours, runs.c.revision == revision)).first()
    return None if row is None else received(row)


def signed_only(tx: Tx, connection_id: str, feed_id: str) -> list[bytes]:
    """Return the digests of the revisions that we signed and whose end never came."""
    rows = tx.execute(_newest(connection_id, feed_id, ~runs.c.ours, runs.c.state == RunState.SIGNED))
    return [row.digest for row in rows]


def recent(tx: Tx, feed_id: str, *, ours: bool) -> list[AnyRun]:
    """Return the newest runs of a feed, over any connection, newest first."""
    query = select(runs).where(runs.c.feed_id == feed_id, runs.c.ours == ours)
    rows = tx.execute(query.order_by(runs.c.revision.desc()).limit(SHOWN))
    return [sent(row) if ours else received(row) for row in rows]


def last(tx: Tx, connection_id: str, feed_id: str, now: int) -> Document | None:
    """Return when the last run ended and how long ago, and of the last one that brought a change, when and its latency.

    A run that only confirms that nothing has changed brings none.
    """
    query = _newest(connection_id, feed_id, runs.c.state == RunState.DONE).limit(SHOWN)
    done = [sent(row) if row.ours else received(row) for row in tx.execute(query)]
    if not done:
        return None
    brought = next((run for run in done if run.report is not None and run.report.changed_at is not None), None)
    return {
        "revision": done[0].revision,
        "at": done[0].changed,
        "age": now - done[0].changed,
        "changed_at": None if brought is None or brought.report is None else brought.report.changed_at,
        "latency": None if brought is None else brought.latency,
    }


def _newest(connection_id: str, feed_id: str, *conditions: Any) -> Select[Any]:
    query = select(runs).where(runs.c.connection_id == connection_id, runs.c.feed_id == feed_id, *conditions)
    return query.order_by(runs.c.revision.desc())


def log_run(direction: str, partner: str, status: str, **values: Any) -> None:
    """Write a run's one line of the log. It names no identity, and nothing that both sides do not know."""
    log.info("run", direction=direction, partner=partner, status=status, **values)
