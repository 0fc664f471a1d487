"""Estimates of a feed: asked of its partners before anything is shared, and kept for a week."""

from collections.abc import Sequence

from protocol.feed import Definition
from psi.errors import VesicaError

from ...access.scope import Scope
from ...operations.jobs import Jobs, JobState, Progress
from ...partners.connections import Connection, with_status
from ...storage.records import Document, Documents
from . import asking, records
from .numbers import EstimatedNumbers
from .records import Estimate


def queue(
    scope: Scope, connections: Sequence[Connection], namespaces: Sequence[str], names: Sequence[str]
) -> Documents:
    """Queue the questions about segments in namespaces; returns them with the ids of their jobs."""
    found: Documents = []
    for connection in connections:
        for namespace in _agreed(connection, namespaces):
            job = Jobs(scope.home).submit_once(asking.JOB, _parameters(connection, namespace, names), scope)
            about = {"partner": connection.alias, "namespace": namespace, "segments": names}
            found.append({**about, "status": JobState.QUEUED, "job": job})
    return found


def ask(
    scope: Scope, connections: Sequence[Connection], namespaces: Sequence[str], names: Sequence[str], progress: Progress
) -> Documents:
    """Ask partners about segments; returns a row for each that gave no answer now: it waits, or it failed.

    One partner's failure does not keep the others from being asked. Raises the first error if nobody answers.
    """
    unanswered: Documents = []
    errors: list[VesicaError] = []
    for connection in connections:
        for namespace in _agreed(connection, namespaces):
            try:
                result = Jobs(scope.home).run(asking.JOB, _parameters(connection, namespace, names), scope, progress)
            except VesicaError as error:  # one partner's trouble is not the others'
                errors.append(error)
                said = {"status": JobState.FAILED, "error": error.document()}
            else:
                said = {"status": "waiting"} if result == asking.WAITING else {}
            if said:
                unanswered += _unanswered(
                    scope, connection, names, {"partner": connection.alias, "namespace": namespace, **said}
                )
    if errors and len(errors) == sum(len(_agreed(each, namespaces)) for each in connections):
        raise errors[0]
    return unanswered


def _agreed(connection: Connection, namespaces: Sequence[str]) -> list[str]:
    return [each for each in namespaces if each in connection.agreed.namespaces]


def newest(scope: Scope, feed_id: str, definition: Definition) -> Documents:
    """Return the newest estimate per partner, segment and namespace of a feed, with its age and our budget left."""
    wanted = {segment.name for segment in definition.segments}
    with scope.read() as tx:
        kept = records.of_feed(tx, feed_id)
    found = {
        (alias, each.segment, each.namespace): each
        for alias, each in kept
        if each.segment in wanted and each.namespace in definition.namespaces
    }
    partners = {each.id: each for each in with_status(scope)}
    return [_document(scope, found[key], partners[found[key].connection_id]) for key in sorted(found)]


def _parameters(connection: Connection, namespace: str, names: Sequence[str]) -> Document:
    return {"connection": connection.id, "namespace": namespace, "segments": list(names)}


def _unanswered(scope: Scope, connection: Connection, names: Sequence[str], known: Document) -> Documents:
    nothing = {**EstimatedNumbers().shown(None), "computed_at": None, "budget": asking.budget(scope, connection)}
    return [{**known, "segment": each, **nothing} for each in names]


def _document(scope: Scope, estimate: Estimate, connection: Connection) -> Document:
    expired = estimate.expired(scope.home.now())
    return {
        "partner": connection.alias,
        "segment": estimate.segment,
        "namespace": estimate.namespace,
        "status": "expired" if expired else estimate.status.value,
        **(EstimatedNumbers() if expired else estimate.numbers).shown(estimate.detail.get("size")),
        "computed_at": estimate.at,
        "budget": asking.budget(scope, connection),
        **estimate.detail,
    }
