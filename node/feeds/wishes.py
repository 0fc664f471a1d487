"""Wishes: exchanges that one side asks the other to open, by letter, since it cannot call or should not."""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select, update

from protocol.agreement import Agreement
from protocol.errors import RemoteProtocolError
from protocol.exchange import Role
from protocol.letters import Wanted
from protocol.release import Released
from protocol.states import Kind, Part
from protocol.wire import Message

from ..errors import Refusal
from ..exchanges.exchanges import run_exchange
from ..operations.jobs import HANDLERS as JOBS
from ..operations.jobs import Progress
from ..partners.letters import HANDLERS as LETTERS
from ..people.data import Snapshot
from ..storage.tables import jobs, received_feeds
from . import evaluations, versions
from .receiving import taking
from .sending import attempts

if TYPE_CHECKING:
    from ..project import Project

JOB = "wanted"


def _run(project: "Project", parameters: dict[str, Any], progress: Progress) -> Any:
    """Do the job: open the exchange that a partner without our address asked for."""
    from .estimates import matching

    connection = project.partners.by_id(parameters["connection"])
    kind = Kind(parameters["kind"])
    if kind is Kind.COUNT:
        matching.answer_wanted(project, connection, parameters["namespace"], progress)
    elif kind is Kind.EVALUATE:
        evaluations.check_expected(project, connection, parameters["namespace"], Part.RECEIVER)
        evaluations.run(project, connection, parameters["namespace"], Part.RECEIVER, progress, Snapshot.open(project))
    else:
        subject: dict[str, Any] = {
            "feed": bytes.fromhex(parameters["feed"]),
            "version": parameters["version"],
            "revision": parameters["revision"],
        }
        with project.node.store.read() as tx:
            feed_id = versions.local(connection.id, subject["feed"])
            feed = tx.execute(select(received_feeds).where(received_feeds.c.id == feed_id)).first()
            if feed is None or feed.status != "enabled" or feed.accepted_version != subject["version"]:
                raise Refusal("not_enabled", "this version of the feed is not enabled here")
            if feed.last_revision >= subject["revision"]:
                return {"status": "done"}  # a kill came after it was kept
            namespaces = versions.get(tx, feed_id, subject["version"]).namespaces
        for namespace in namespaces:
            evaluations.run(project, connection, namespace, Part.RECEIVER, progress, Snapshot.open(project))
        numbers: list[int] = []

        def role(number: int) -> Role:
            numbers.append(number)
            return taking.receiver(project, connection, subject, number)

        def keep(released: Released) -> None:
            taking.received(project, connection, released, numbers[-1])

        try:
            run_exchange(project, connection, subject, kind, Part.RECEIVER, role, keep=keep, progress=progress)
        except Refusal as error:
            if error.code == taking.NO_BASE:
                project.received.begin_anew(feed_id)
            raise
    return {"status": "done"}


def wanted(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle exchange.wanted: queue the exchange that the partner asks for, once.

    A receiver asks for an evaluation because people are new on its side: our feeds run to it soon. A sender asks for one
    only where it cannot call us.
    """
    assert isinstance(message, Wanted)
    namespace = message.subject.get("namespace")
    if namespace is not None and namespace not in Agreement.decode(row.agreement).namespaces:
        raise RemoteProtocolError("namespace", "this namespace was not agreed on")
    wished = message.kind is Kind.EVALUATE and attempts.wish(project, tx, row)
    if wished and (project.node.config.address or not _receives(project, row, str(namespace))):
        return  # it does not need us to open one
    feed = message.subject.get("feed")
    if isinstance(feed, bytes):
        status = select(received_feeds.c.status).where(received_feeds.c.id == versions.local(row.id, feed))
        if tx.scalar(status) != "enabled":
            raise Refusal("not_enabled", "this feed is not enabled here")
    subject = {key: value.hex() if isinstance(value, bytes) else value for key, value in message.subject.items()}
    parameters = {"connection": row.id, "kind": message.kind.value, **subject}
    about = {key: parameters.get(key) for key in ("connection", "kind", "namespace", "feed")}
    waiting = select(jobs.c.id, jobs.c.parameters).where(jobs.c.kind == JOB, jobs.c.state == "queued")
    for job in tx.execute(waiting).all():
        if all(job.parameters.get(key) == value for key, value in about.items()):  # the newest wish stands
            tx.execute(update(jobs).where(jobs.c.id == job.id).values(parameters=parameters))
            return
    project.node.jobs.submit(JOB, parameters, project, tx)


def _receives(project: "Project", connection: Row[Any], namespace: str) -> bool:
    try:
        evaluations.check_expected(project, connection, namespace, Part.RECEIVER)
    except Refusal:
        return False
    return True


JOBS[JOB] = _run
LETTERS["exchange.wanted"] = wanted
