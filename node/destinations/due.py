"""When destinations are looked after by themselves: as soon as what they get has changed, and when what waits may be tried."""

from sqlalchemy import select

from .. import log
from ..access.scope import Scope
from ..operations.jobs import OPEN, Jobs
from ..storage.database import Tx
from ..storage.tables import jobs
from . import planning
from .records import SENDING, Activation, ActivationStatus, Destination, activations_of, stored
from .sending import JOB, wait_until


def submit_due(scope: Scope) -> int | None:
    """Queue a job for each destination that has something to do; return when the next one has, None where all wait for a
    change."""
    times, found = [], list[Destination]()
    with scope.read() as tx:
        there = stored(scope, tx)
        under_way = _under_way(scope, tx) if there else set()
        for destination in there:
            if destination.id in under_way or not _has_work(scope, tx, destination):
                continue
            until = wait_until(scope, destination)
            if until is None:
                found.append(destination)
            else:
                times.append(until)
    for each in found:
        Jobs(scope.home).submit_once(JOB, parameters(each), scope)
        log.info("due", destination=each.name)
    return min(times, default=None)


def submit_all(scope: Scope) -> None:
    """Queue a job for each destination, as the node's own work: people were erased."""
    with scope.home.guard.itself():
        with scope.read() as tx:
            found = [each for each in stored(scope, tx) if each.status in SENDING and activations_of(tx, each)]
        for each in found:
            Jobs(scope.home).submit_once(JOB, parameters(each), scope)


def parameters(destination: Destination) -> dict[str, str]:
    """Return those of a destination's job; `connection` lets one run at a time."""
    return {"connection": destination.id, "destination": destination.id}


def _has_work(scope: Scope, tx: Tx, destination: Destination) -> bool:
    found = activations_of(tx, destination)
    if any(each.status is ActivationStatus.LEFT for each in found):
        return True
    if destination.status not in SENDING:
        return False
    return any(_is_behind(scope, tx, destination, each) for each in found)


def _is_behind(scope: Scope, tx: Tx, destination: Destination, activation: Activation) -> bool:
    if activation.pending is not None:  # batches wait, or a killed job did not end the revision
        return True
    if activation.status is ActivationStatus.LEAVING and not activation.present + activation.failed:
        return True
    return planning.is_due(scope, tx, destination, activation)


def _under_way(scope: Scope, tx: Tx) -> set[str]:
    """Return the ids of destinations for which a job is queued or under way."""
    mine = (jobs.c.project_id == scope.id, jobs.c.kind == JOB, jobs.c.state.in_(OPEN))
    return {each["destination"] for each in tx.scalars(select(jobs.c.parameters).where(*mine))}
