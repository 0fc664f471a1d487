"""When destinations are looked after by themselves: as soon as what they get has changed, and when what waits may be tried."""

from collections.abc import Sequence

from sqlalchemy import select

from psi.errors import VesicaError

from .. import log
from ..access.scope import Scope
from ..operations.jobs import OPEN, Jobs
from ..storage.database import Tx
from ..storage.tables import batches, jobs
from . import audiences, joining, older_sharing, planning, polling
from .desired import Basis
from .records import (
    SENDING,
    Activation,
    ActivationStatus,
    Destination,
    activations_of,
    first_waiting,
    may_be_sent,
    stored,
)
from .sending import JOB, wait_until


def submit_due(scope: Scope) -> int | None:
    """Queue a job for each destination that has something to do; return when the next one has, None where all wait for a
    change."""
    times, found = list[int](), list[Destination]()
    with scope.read() as tx:
        there = stored(scope, tx)
        under_way = _under_way(scope, tx) if there else set()
        basis = Basis(scope, tx)
        for destination in there:
            if destination.id in under_way:
                continue
            try:
                is_due, later = _look_at(scope, tx, destination, basis)
            except VesicaError:
                raise
            except Exception as error:  # rows that a backup brought may be anything, and others go on
                log.error(
                    "a destination cannot be looked after", destination=destination.name, kind=type(error).__name__
                )
                continue
            times += later
            if is_due:
                found.append(destination)
    for each in found:
        Jobs(scope.home).submit_once(JOB, parameters(each), scope)
        log.info("due", destination=each.name)
    return min(times, default=None)


def _look_at(scope: Scope, tx: Tx, destination: Destination, basis: Basis) -> tuple[bool, list[int]]:
    """Return whether a destination has something to do now, and when it has later."""
    gets, now, times = activations_of(tx, destination), scope.home.now(), list[int]()
    if not _has_work(tx, destination, gets, basis, now):
        if destination.status not in SENDING:
            return False, times
        times = _later(tx, gets, now)
        asked = polling.next_time(tx, destination, now)
        if asked is None or asked > now:
            return False, times if asked is None else [*times, asked]
    until = wait_until(scope, destination)
    return until is None, times if until is None else [*times, until]


def submit_all(scope: Scope) -> None:
    """Queue a job for each destination, as the node's own work: people were erased."""
    with scope.home.guard.itself():
        with scope.begin() as tx:
            there = stored(scope, tx)
            ids = [each.id for each in there]
            tx.execute(batches.update().where(batches.c.destination_id.in_(ids)).values(answer=None))  # may name them
            found = [each for each in there if each.status in SENDING and activations_of(tx, each)]
        for each in found:
            Jobs(scope.home).submit_once(JOB, parameters(each), scope)


def parameters(destination: Destination) -> dict[str, str]:
    """Return those of a destination's job; `connection` lets one run at a time."""
    return {"connection": destination.id, "destination": destination.id}


def _has_work(tx: Tx, destination: Destination, gets: Sequence[Activation], basis: Basis, now: int) -> bool:
    if any(each.status is ActivationStatus.LEFT for each in gets):
        return True
    if destination.status in SENDING and older_sharing.missing(basis.scope, tx, destination):
        return True
    sent = [each for each in gets if may_be_sent(destination, each)]
    return any(_is_behind(tx, destination, each, basis, now) for each in sent)


def _later(tx: Tx, gets: Sequence[Activation], now: int) -> list[int]:
    """Return when removals that failed are said again, and until when changes wait for others."""
    again = [each.again for each in gets if each.again is not None]
    return again + [until for each in gets if (until := _waits_until(tx, each, now)) is not None]


def _waits_until(tx: Tx, activation: Activation, now: int) -> int | None:
    batch = None if activation.pending is None else first_waiting(tx, activation)
    return None if batch is None else joining.waits_until(batch, now)


def _is_behind(tx: Tx, destination: Destination, activation: Activation, basis: Basis, now: int) -> bool:
    if activation.pending is not None:  # batches wait, or a killed job did not end the revision
        return _waits_until(tx, activation, now) is None or basis.of(destination, activation) != activation.basis
    if activation.status is ActivationStatus.LEAVING and not activation.present + activation.failed:
        return True
    if audiences.needed(destination, activation) is not None:
        return True
    return planning.is_asked_for(activation, now) or basis.of(destination, activation) != activation.basis


def _under_way(scope: Scope, tx: Tx) -> set[str]:
    """Return the ids of destinations for which a job is queued or under way."""
    mine = (jobs.c.project_id == scope.id, jobs.c.kind == JOB, jobs.c.state.in_(OPEN))
    return {each["destination"] for each in tx.scalars(select(jobs.c.parameters).where(*mine))}
