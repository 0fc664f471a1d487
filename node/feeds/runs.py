"""Runs as both sides show and log them: one row for each feed, partner and data revision."""

from typing import Any

from sqlalchemy import Connection, Row, select

from .. import log
from ..storage.tables import runs

INTERNAL = ("content", "epoch", "base", "changes_since", "generation")  # of a run's report
SHOWN = 20


def shown(run: Row[Any]) -> dict[str, Any]:
    """Return a run as a document; `latency` is from the change of the sender's data to the receipt, in seconds."""
    report = {key: value for key, value in run.report.items() if key not in INTERNAL}
    return {
        "version": run.version,
        "revision": run.revision,
        "state": run.state,
        "at": run.changed,
        **report,
        "latency": latency(run),
    }


def latency(run: Row[Any]) -> int | None:
    changed = run.report.get("changed_at")
    return None if changed is None or run.state != "done" else max(0, run.changed - changed)


def recent(tx: Connection, feed_id: str, *, ours: bool) -> list[Row[Any]]:
    """Return the newest runs of a feed, to or from whomever, newest first."""
    query = select(runs).where(runs.c.feed_id == feed_id, runs.c.ours == ours)
    return list(tx.execute(query.order_by(runs.c.revision.desc()).limit(SHOWN)))


def last(tx: Connection, connection_id: str, feed_id: str, now: int) -> dict[str, Any] | None:
    """Return when the last run came to its end and how long ago, and when what came last had changed, and its latency.

    A run that only said that nothing had changed has an age, and no change.
    """
    query = select(runs).where(runs.c.connection_id == connection_id, runs.c.feed_id == feed_id, runs.c.state == "done")
    done = tx.execute(query.order_by(runs.c.revision.desc()).limit(SHOWN)).all()
    if not done:
        return None
    brought = next((run for run in done if run.report.get("changed_at") is not None), None)
    return {
        "revision": done[0].revision,
        "at": done[0].changed,
        "age": now - done[0].changed,
        "changed_at": None if brought is None else brought.report["changed_at"],
        "latency": None if brought is None else latency(brought),
    }


def tell(direction: str, partner: str, status: str, **values: Any) -> None:
    """Write a run's one line of the log. It names no identity, and nothing that both sides do not know."""
    log.info("run", direction=direction, partner=partner, status=status, **values)
