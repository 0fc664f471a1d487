"""A node's exchanges with its partners: driven from here, or answered here; either side may play either part.

Both sides keep every message in a spool until the exchange is over, so that a killed process goes on where it stopped.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection, Row, Update, insert, select, update

from protocol import wire
from protocol.errors import RemoteProtocolError
from protocol.exchange import Machine, Opened, Opening, Role
from protocol.states import PARTS, Kind, Part
from psi.errors import VesicaError

from . import epochs
from .client import PeerClient, PeerRefused, WrongPeerKey
from .dialogue import drive, open_at
from .endpoint import Refusal, Unwelcome
from .errors import NotFound
from .jobs import Progress, no_progress
from .spool import FileSpool
from .tables import connections, exchanges

if TYPE_CHECKING:
    from .node import Node
    from .project import Project

KEPT_SECONDS = 3600  # a finished exchange's messages stay for a partner that lost the last answer
EPOCH_TRIES = 3

log = structlog.get_logger()

ROLES: dict[Kind, Callable[["Project", Row[Any], Opening], tuple[Opened, Role]]] = {}  # how we answer; see matching
FINISHED: dict[Kind, Callable[["Project", Row[Any], Opening, Role], None]] = {}  # what follows when one is done


# The side that opened


def run_exchange(
    project: "Project",
    connection: Row[Any],
    subject: dict[str, str | bytes | int],
    kind: Kind,
    part: Part,
    role_factory: Callable[[int], Role],
    *,
    inputs: bytes = b"",
    progress: Progress = no_progress,
) -> Any:
    """Open an exchange with a partner, or go on with an open one of the same subject and `inputs`; return the result.

    `part` is ours; `role_factory` makes our role for an epoch number; `inputs` is a digest of what the role works on:
    an exchange of other inputs is not resumed. Raises PeerUnreachable (run again: it resumes), PeerRefused, and
    RemoteProtocolError where the partner broke the protocol (audited, with an alert).
    """
    with calling(project, connection) as client:
        started = _resumable(project, connection, subject, kind, part, inputs, client)
        opening, opened = started or _begin(project, connection, subject, kind, part, inputs, client)
        spool = _spool(project.node, opening.exchange)
        try:
            role = role_factory(opening.epoch)
            drive(client, Machine(opening, opened, role, spool), opening.exchange, progress)
        except (RemoteProtocolError, PeerRefused) as error:
            _failed(project, connection, opening, error)
            spool.destroy()
            raise
    _done(project, connection, opening)
    spool.destroy()
    return getattr(role, "result", None)  # an answerer has none


@contextmanager
def calling(project: "Project", connection: Row[Any]) -> Iterator[PeerClient]:
    """Yield a client for a partner. Another key at its address ends it with WrongPeerKey, an audit row and an alert."""
    node = project.node
    try:
        with PeerClient(node, connection.peer_address, connection.peer_key, proxy=connection.proxy) as client:
            yield client
    except WrongPeerKey as error:
        text = (
            f"{connection.alias} answers with another key: traffic is blocked until you take a new Connect ID from it"
        )
        if text not in [alert.text for alert in project.alerts.list()]:
            with node.store.begin() as tx:
                project.alerts.add(tx, "key_changed", text)
                reason = {"code": error.code, "message": str(error)}
                node.audit.record(
                    tx,
                    "partner.call",
                    connection.alias,
                    project_id=project.id,
                    result="deny",
                    detail={"error": reason},
                )
        raise


def _resumable(
    project: "Project",
    connection: Row[Any],
    subject: dict[str, str | bytes | int],
    kind: Kind,
    part: Part,
    inputs: bytes,
    client: PeerClient,
) -> tuple[Opening, Opened] | None:
    """Return the open exchange that this is, if the partner has it still; close those that can go on no more."""
    node = project.node
    with node.store.begin() as tx:
        epoch = epochs.current(project, tx, connection).number
        query = select(exchanges).where(
            exchanges.c.connection_id == connection.id,
            exchanges.c.kind == kind.value,
            exchanges.c.part == part.value,
            exchanges.c.state == "open",
        )
        rows = tx.execute(query.order_by(exchanges.c.created.desc())).all()
    for row in rows:
        opening, opened, digest = _unpacked(row.opened)
        if opening.part != part or opening.subject != subject:
            continue
        if opening.epoch == epoch and digest == inputs and opening.agreement == connection.agreement_digest:
            try:
                if open_at(client, opening) == opened:
                    return opening, opened
            except PeerRefused as error:
                log.info("an open exchange begins anew", code=error.code)
        with node.store.begin() as tx:
            tx.execute(_row(opening).values(state="failed", error={"code": "replaced"}, changed=node.now()))
        _spool(node, opening.exchange).destroy()
    return None


def _begin(
    project: "Project",
    connection: Row[Any],
    subject: dict[str, str | bytes | int],
    kind: Kind,
    part: Part,
    inputs: bytes,
    client: PeerClient,
) -> tuple[Opening, Opened]:
    node = project.node
    for _ in range(EPOCH_TRIES):
        with node.store.begin() as tx:
            epoch = epochs.current(project, tx, connection).number
        opening = Opening(
            exchange=node.random(16),
            kind=kind,
            part=part,
            connection=bytes.fromhex(connection.id),
            agreement=connection.agreement_digest,
            epoch=epoch,
            subject=subject,
            nonce=node.random(32),
        )
        try:
            opened = open_at(client, opening)
        except PeerRefused as error:
            if error.code != "epoch_behind" or error.detail is None:
                _failed(project, connection, opening, error)
                raise
            with node.store.begin() as tx:
                epochs.follow(project, tx, connection, error.detail)
            continue
        with node.store.begin() as tx:
            _insert(tx, node, connection, opening, opened, part, inputs)
        return opening, opened
    raise RemoteProtocolError("epoch", "the partner asks for another key epoch each time")


# The side that answers


class NodeAnswers:
    """Answers partners' exchanges from a node's store, with the roles that ROLES names."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    def begin(self, caller: bytes, opening: Opening) -> tuple[Opened, Machine]:
        project, connection = active(self._node, caller, opening.connection)
        if opening.agreement != connection.agreement_digest:
            raise Refusal("agreement", "the agreement is another one now", status=409)
        with self._node.store.read() as reading:
            row = reading.execute(select(exchanges).where(exchanges.c.id == opening.exchange.hex())).first()
        if row is not None:
            first, opened, _ = _unpacked(row.opened)
            if first != opening or row.connection_id != connection.id:
                raise RemoteProtocolError("session", "this exchange was opened with other words")
            return opened, self._machine(project, connection, opening, opened)
        with self._node.store.begin() as tx:
            running = epochs.current(project, tx, connection).number
            if opening.epoch > running:
                running = epochs.follow(project, tx, connection, opening.epoch).number
        if opening.epoch < running:
            raise Refusal("epoch_behind", "our key epoch is ahead", status=409, detail=running)
        opened, role = _role(project, connection, opening)
        machine = Machine(opening, opened, role, _spool(self._node, opening.exchange))
        with self._node.store.begin() as tx:
            _insert(tx, self._node, connection, opening, opened, _other(opening), b"")
        return opened, machine

    def resume(self, caller: bytes, exchange: bytes) -> tuple[Opening, Machine]:
        with self._node.store.read() as reading:
            row = reading.execute(select(exchanges).where(exchanges.c.id == exchange.hex())).first()
        if row is None or row.state == "failed":
            raise NotFound("there is no such exchange")
        opening, opened, _ = _unpacked(row.opened)
        project, connection = active(self._node, caller, opening.connection)
        return opening, self._machine(project, connection, opening, opened)

    def finished(self, opening: Opening, role: Role) -> None:
        project, connection = self._of(opening)
        follow_up = FINISHED.get(opening.kind)
        if follow_up is not None:
            follow_up(project, connection, opening, role)
        _done(project, connection, opening, actor=connection.alias)

    def failed(self, opening: Opening, error: VesicaError) -> None:
        project, connection = self._of(opening)
        _failed(project, connection, opening, error, actor=connection.alias)
        _spool(self._node, opening.exchange).destroy()

    def _machine(self, project: "Project", connection: Row[Any], opening: Opening, opened: Opened) -> Machine:
        _, role = _role(project, connection, opening)
        return Machine(opening, opened, role, _spool(self._node, opening.exchange))

    def _of(self, opening: Opening) -> tuple["Project", Row[Any]]:
        with self._node.store.read() as reading:
            row = reading.execute(select(connections).where(connections.c.id == opening.connection.hex())).one()
        return self._node.project_by_id(row.project_id), row


def register() -> None:
    """Import what fills ROLES and FINISHED, and the handlers of letters and jobs."""
    from . import evaluations, feeds, matching, partners, received, releases  # noqa: F401


def active(node: "Node", caller: bytes, connection: bytes) -> tuple["Project", Row[Any]]:
    """Return the connection's project and row; raises Unwelcome unless it is active and the caller's."""
    with node.store.read() as reading:
        row = reading.execute(select(connections).where(connections.c.id == connection.hex())).first()
    if row is None or row.peer_key != caller or row.status != "active":
        raise Unwelcome("there is no active connection with the caller")
    return node.project_by_id(row.project_id), row


def forget_old(node: "Node") -> None:
    """Delete the messages of exchanges that ended an hour ago or more."""
    with node.store.read() as reading:
        ended = select(exchanges.c.id).where(
            exchanges.c.state != "open", exchanges.c.changed < node.now() - KEPT_SECONDS
        )
        over = set(reading.scalars(ended))
    for directory in (node.home / "spool").glob("*"):
        if directory.name in over:
            shutil.rmtree(directory, ignore_errors=True)


def _role(project: "Project", connection: Row[Any], opening: Opening) -> tuple[Opened, Role]:
    register()
    make = ROLES.get(opening.kind)
    if make is None:
        raise Refusal("unsupported", f"exchanges of kind {opening.kind.value} are not answered here")
    return make(project, connection, opening)


def _other(opening: Opening) -> Part:
    first, second = PARTS[opening.kind]
    return second if opening.part == first else first


def _spool(node: "Node", exchange: bytes) -> FileSpool:
    return FileSpool(node.home / "spool" / exchange.hex(), node.secrets, node.random)


def _row(opening: Opening) -> Update:
    return update(exchanges).where(exchanges.c.id == opening.exchange.hex())


def _insert(
    tx: Connection, node: "Node", connection: Row[Any], opening: Opening, opened: Opened, part: Part, inputs: bytes
) -> None:
    tx.execute(
        insert(exchanges).values(
            id=opening.exchange.hex(),
            connection_id=connection.id,
            kind=opening.kind.value,
            part=part.value,
            opened=wire.pack({"opening": opening.encode(), "opened": opened.encode(), "inputs": inputs}),
            state="open",
            created=node.now(),
            changed=node.now(),
        )
    )


def _unpacked(stored: bytes) -> tuple[Opening, Opened, bytes]:
    document = wire.unpack(stored)
    opening, opened, inputs = document["opening"], document["opened"], document["inputs"]
    assert isinstance(opening, bytes)
    assert isinstance(opened, bytes)
    assert isinstance(inputs, bytes)
    return Opening.decode(opening), Opened.decode(opened), inputs


def _done(project: "Project", connection: Row[Any], opening: Opening, *, actor: str | None = None) -> None:
    detail = {"exchange": opening.exchange.hex()}
    with project.act(f"exchange.{opening.kind.value}", connection.alias, actor=actor, detail=detail) as tx:
        tx.execute(_row(opening).values(state="done", changed=project.node.now()))


def _failed(
    project: "Project", connection: Row[Any], opening: Opening, error: VesicaError, *, actor: str | None = None
) -> None:
    """Close an exchange that cannot go on, with an audit row, and an alert if the partner broke the protocol."""
    node = project.node
    reason = {"code": error.code, "message": str(error)}
    with node.store.begin() as tx:
        tx.execute(_row(opening).values(state="failed", error=reason, changed=node.now()))
        node.audit.record(
            tx,
            f"exchange.{opening.kind.value}",
            connection.alias,
            project_id=project.id,
            result="deny",
            detail={"exchange": opening.exchange.hex(), "error": reason},
            actor=actor,
        )
        if isinstance(error, RemoteProtocolError):
            project.alerts.add(tx, f"exchange.{error.code}", f"{connection.alias} broke the protocol: {error}")
