"""Exchanges that one side asks the other to open, by letter, because it cannot call or should not."""

from protocol.errors import RemoteProtocolError
from protocol.letters import Wanted
from protocol.states import PARTS, Kind
from protocol.wire import Message

from ..access.scope import Scope
from ..operations.jobs import Jobs, JobState, Progress
from ..partners.connections import Connection, by_id
from ..storage.database import Tx
from ..storage.ids import stored_id, wire_id
from ..storage.locks import serving
from ..storage.records import Document
from .handlers import Handler, Subject, handler

JOB = "wanted"


def parameters_of(connection: Connection, kind: Kind, subject: Subject) -> Document:
    """Return the parameters of the job that opens an exchange which a partner asked for."""
    stored = {name: stored_id(value) if isinstance(value, bytes) else value for name, value in subject.items()}
    return {"connection": connection.id, "kind": kind.value, **stored}


def run(scope: Scope, parameters: Document, progress: Progress) -> dict[str, str]:
    """Do the job: open the exchange that a partner asked for."""
    connection, kind = by_id(scope, parameters["connection"]), Kind(parameters["kind"])
    subject = {name: value for name, value in parameters.items() if name not in ("connection", "kind")}
    if "feed" in subject:
        subject["feed"] = wire_id(subject["feed"])
    opener, _ = _handlers(kind)
    assert opener.open is not None
    opener.open(scope, connection, subject, progress)
    return {"status": JobState.DONE}


def wanted(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle exchange.wanted: queue the exchange that the partner asks for, once.

    A release that a partner could not bring is ours to open only if no service of ours answers: else it calls again. Two
    things may be asked: that we open an exchange, or only that we know that somebody is new on its side (then our
    feeds run soon). We open one only if the second is not meant, or if we have no address and the first is meant too.
    """
    assert isinstance(message, Wanted)
    namespace = message.subject.get("namespace")
    if namespace is not None and namespace not in connection.agreed.namespaces:
        raise RemoteProtocolError("namespace", "this namespace was not agreed on")
    if message.kind is Kind.RELEASE and scope.home.config.address and serving(scope.home.path):
        return
    opener, other_part = _handlers(message.kind)
    needed = opener.note_request(scope, tx, connection, message.subject)
    if other_part.note_request(scope, tx, connection, message.subject) and (scope.home.config.address or not needed):
        return  # what we do as the other part is enough: nobody needs us to open one
    parameters = parameters_of(connection, message.kind, message.subject)
    Jobs(scope.home).submit_newest(JOB, parameters, scope, tx, same=("connection", "kind", "namespace", "feed"))


def _handlers(kind: Kind) -> tuple[Handler, Handler]:
    """Return what we do as the part that opens what a partner asks for, and as the other part."""
    first, second = (handler(kind, part) for part in PARTS[kind])
    return (first, second) if first.open is not None else (second, first)
