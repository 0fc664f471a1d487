"""A node's exchanges with its partners: driven from here, or answered here; either side may play either part.

Both sides keep every message in a spool until the exchange is over, so that a killed process goes on where it stopped.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Update, insert, select, update

from protocol import wire
from protocol.errors import RemoteProtocolError
from protocol.exchange import Machine, Opened, Opening, Role
from protocol.states import PARTS, Kind, Part
from psi.errors import VesicaError

from .. import log
from ..errors import NotFound, PeerRefused, Refusal, Refused, Unwelcome, WrongPeerKey
from ..operations.alerts import BROKEN
from ..operations.jobs import Progress, no_progress
from ..partners import key_epochs
from ..storage.files import is_old
from ..storage.spool import FileSpool
from ..storage.tables import connections, exchanges
from .http import drive, open_at, over

if TYPE_CHECKING:
    from ..node import Node
    from ..project import Project
    from ..transport.client import PeerClient

KEPT_SECONDS = 3600  # a finished exchange's messages stay for a partner that lost the last answer
ABANDONED_SECONDS = 7 * 86_400  # an open exchange that old is not gone on with
EPOCH_TRIES = 3
OPEN_AT_MOST = 16  # exchanges of one connection; what goes on at once is far less

ROLES: dict[Kind, Callable[["Project", Row[Any], Opening], tuple[Opened, Role]]] = {}  # how we answer; see matching
FAILED: dict[Kind, Callable[["Project", Connection, Row[Any], Part, VesicaError], None]] = {}  # as it is written down
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
    keep: Callable[[Any], None] | None = None,
    progress: Progress = no_progress,
) -> Any:
    """Open an exchange with a partner, or go on with an open one of the same subject and `inputs`; return the result.

    `part` is ours; `role_factory` makes our role for an epoch number; `inputs` is a digest of what the role works on:
    an exchange of other inputs is not resumed. `keep` is told the result before the exchange is closed, and again if a
    kill came in between. Raises PeerUnreachable (run again: it resumes), PeerRefused, and RemoteProtocolError where the
    partner broke the protocol (audited, with an alert).
    """
    connection = project.partners.by_id(connection.id)
    if connection.status != "active":
        raise Refused(f"partner {connection.alias} is {connection.status}", hint="'vesica partner list' shows them")
    with calling(project, connection) as client:
        wanted = _Wanted(
            project=project,
            connection=connection,
            subject=subject,
            kind=kind,
            part=part,
            inputs=inputs,
            client=client,
        )
        opening, opened = _resumable(wanted) or _begin(wanted)
        spool = _spool(project.node, opening.exchange)
        try:
            role = role_factory(opening.epoch)
            drive(client, Machine(opening, opened, role, spool), opening.exchange, progress)
        except (RemoteProtocolError, PeerRefused, Refusal) as error:
            _failed(project, connection, opening, error, part)
            spool.destroy()
            raise
    result = getattr(role, "result", None)  # an answerer has none
    if keep is not None:
        keep(result)
    _done(project, connection, opening)
    spool.destroy()
    return result


@contextmanager
def calling(project: "Project", connection: Row[Any], *, patience: float | None = None) -> "Iterator[PeerClient]":
    """Yield a client for a partner. Another key at its address ends it with WrongPeerKey, an audit row and an alert.

    Where the partner's own key answers again nothing is left to say but the alert.
    """
    from ..transport.client import PeerClient  # HTTP and TLS: 0.1 s that most commands do without

    address, key, proxy = connection.peer_address, connection.peer_key, connection.proxy
    try:
        with PeerClient(project.node, address, key, proxy=proxy, patience=patience) as client:
            yield client
        if connection.key_changed is not None:
            with project.node.store.begin() as tx:
                seen = (connections.c.id == connection.id, connections.c.key_changed == connection.key_changed)
                tx.execute(update(connections).where(*seen).values(key_changed=None))
    except WrongPeerKey as error:
        _key_changed(project, connection, "partner.call", "answers", error)
        raise


def check_caller(node: "Node", row: Row[Any] | None, caller: bytes) -> None:
    """Raise Unwelcome unless a connection is with the caller; who names one with another key than its own is an alert.

    Nobody but its two sides knows a connection's id, so no stranger can raise it.
    """
    if row is None or row.peer_key != caller:
        error = Unwelcome("there is no connection with the caller")
        if row is not None and row.status in ("pending", "requested", "active"):
            _key_changed(node.project_by_id(row.project_id), row, "partner.called", "calls", error)
        raise error


def _key_changed(project: "Project", connection: Row[Any], act: str, does: str, error: VesicaError) -> None:
    """Raise an alert and leave an audit row, once a day for a connection."""
    node = project.node
    blocked = "nothing is exchanged until its own key is back; if it changed, disconnect and take a new Connect ID"
    with node.store.begin() as tx:
        tx.execute(update(connections).where(connections.c.id == connection.id).values(key_changed=node.now()))
        if project.alerts.add(tx, "key_changed", f"{connection.alias} {does} with another key: {blocked}"):
            reason = {"code": error.code, "message": str(error)}
            node.audit.record(tx, act, connection.alias, project_id=project.id, result="deny", detail={"error": reason})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """An exchange that we are to open with a partner, or go on with; `part` is ours."""

    project: "Project"
    connection: Row[Any]
    subject: dict[str, str | bytes | int]
    kind: Kind
    part: Part
    inputs: bytes
    client: "PeerClient"


def _resumable(wanted: _Wanted) -> tuple[Opening, Opened] | None:
    """Return the open exchange that this is, if the partner has it still; close those that can go on no more."""
    project, connection, node = wanted.project, wanted.connection, wanted.project.node
    with node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection).number
        query = select(exchanges).where(
            exchanges.c.connection_id == connection.id,
            exchanges.c.kind == wanted.kind.value,
            exchanges.c.part == wanted.part.value,
            exchanges.c.ours,
            exchanges.c.state == "open",
        )
        rows = tx.execute(query.order_by(exchanges.c.created.desc())).all()
    for row in rows:
        opening, opened, digest = _unpacked(row.opened)
        same = opening.subject == wanted.subject
        if not same and (wanted.kind is not Kind.RELEASE or opening.subject["feed"] != wanted.subject["feed"]):
            continue
        current = opening.epoch == epoch and opening.agreement == connection.agreement_digest
        if same and current and digest == wanted.inputs:
            try:
                if open_at(wanted.client, opening) == opened:
                    return opening, opened
            except PeerRefused as error:
                log.info("an open exchange begins anew", code=error.code)
        with node.store.begin() as tx:
            tx.execute(_row(opening).values(state="failed", error={"code": "replaced"}, changed=node.now()))
        _spool(node, opening.exchange).destroy()
    return None


def _begin(wanted: _Wanted) -> tuple[Opening, Opened]:
    project, connection, node = wanted.project, wanted.connection, wanted.project.node
    for _ in range(EPOCH_TRIES):
        with node.store.begin() as tx:
            epoch = key_epochs.current(project, tx, connection).number
        opening = Opening(
            exchange=node.random(16),
            kind=wanted.kind,
            part=wanted.part,
            connection=bytes.fromhex(connection.id),
            agreement=connection.agreement_digest,
            epoch=epoch,
            subject=wanted.subject,
            nonce=node.random(32),
        )
        try:
            opened = open_at(wanted.client, opening)
        except PeerRefused as error:
            if error.code != "epoch_behind" or error.detail is None:
                _failed(project, connection, opening, error, wanted.part)
                raise
            _follow(project, connection, error.detail)
            continue
        with node.store.begin() as tx:
            taken = _find(tx, opening.exchange) is not None
            if not taken:
                _insert(tx, node, connection, opening, opened, wanted.part, ours=True, inputs=wanted.inputs)
        if taken:  # only who answered knows it
            stolen = RemoteProtocolError("session", "the partner opened an exchange of its own under the id of ours")
            _failed(project, connection, opening, stolen, wanted.part)
            raise stolen
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
            raise Refusal(
                "agreement",
                "the agreement is another one now",
                hint="disconnect and connect again, so that both sides hold the same one",
                status=409,
            )
        with self._node.store.read() as reading:
            row = _find(reading, opening.exchange)
        if row is not None:
            return self._begun(project, connection, opening, row)
        with self._node.store.begin() as tx:
            running = key_epochs.current(project, tx, connection).number
        if opening.epoch > running:
            running = _follow(project, connection, opening.epoch)
        if opening.epoch < running:
            raise Refusal("epoch_behind", "our key epoch is ahead", status=409, detail=running)
        self._make_room(connection)
        try:
            opened, role = _role(project, connection, opening)
        except (Refusal, Refused) as error:
            with self._node.store.begin() as tx:
                self._node.audit.record(
                    tx,
                    f"exchange.{opening.kind.value}",
                    connection.alias,
                    project_id=project.id,
                    result="deny",
                    detail={"error": {"code": error.code, "message": str(error)}},
                    actor=connection.alias,
                )
            raise
        with self._node.store.begin() as tx:
            row = _find(tx, opening.exchange)
            if row is None:
                _insert(tx, self._node, connection, opening, opened, _other(opening), ours=False)
                spool = _spool(self._node, opening.exchange)  # within, so that its key is made once
        if row is not None:  # a service that ends while the next one begins was asked the same
            return self._begun(project, connection, opening, row)
        return opened, Machine(opening, opened, role, spool)

    def _begun(
        self, project: "Project", connection: Row[Any], opening: Opening, row: Row[Any]
    ) -> tuple[Opened, Machine]:
        first, opened, _ = _unpacked(row.opened)
        if row.ours or first != opening or row.connection_id != connection.id:
            raise RemoteProtocolError("session", "this exchange was opened with other words")
        return opened, self._machine(project, connection, opening, opened, row.state)

    def _make_room(self, connection: Row[Any]) -> None:
        """Give up the oldest of a partner's open exchanges where it has many, and of the messages of those that are done.

        Each keeps a universe on our disk.
        """
        query = select(exchanges.c.id).where(exchanges.c.connection_id == connection.id, ~exchanges.c.ours)
        newest = query.order_by(exchanges.c.created.desc())
        with self._node.store.begin() as tx:
            over = tx.scalars(newest.where(exchanges.c.state == "open").offset(OPEN_AT_MOST - 1)).all()
            done = tx.scalars(newest.where(exchanges.c.state == "done").offset(OPEN_AT_MOST).limit(OPEN_AT_MOST)).all()
            tx.execute(
                update(exchanges)
                .where(exchanges.c.id.in_(over))
                .values(state="failed", error={"code": "replaced"}, changed=self._node.now())
            )
        for exchange in (*over, *done):
            _spool(self._node, bytes.fromhex(exchange)).destroy()

    def resume(self, caller: bytes, exchange: bytes) -> tuple[Opening, Machine]:
        with self._node.store.read() as reading:
            row = _find(reading, exchange)
        if row is None or row.ours:
            raise NotFound("there is no such exchange")
        opening, opened, _ = _unpacked(row.opened)
        project, connection = active(self._node, caller, opening.connection)
        return opening, self._machine(project, connection, opening, opened, row.state)

    def given_up(self, exchange_ids: Iterable[bytes]) -> set[bytes]:
        wanted = exchanges.c.id.in_([each.hex() for each in exchange_ids])
        with self._node.store.read() as reading:
            rows = reading.execute(
                select(exchanges.c.id, exchanges.c.state).where(wanted, exchanges.c.state != "open")
            ).all()
        spool = self._node.home / "spool"
        return {bytes.fromhex(row.id) for row in rows if row.state == "failed" or not (spool / row.id).exists()}

    def finished(self, opening: Opening, role: Role) -> None:
        project, connection = self._of(opening)
        with self._node.store.read() as reading:
            state = reading.scalar(select(exchanges.c.state).where(exchanges.c.id == opening.exchange.hex()))
        if state == "failed":
            raise over()
        if state == "done":
            return  # the caller lost our last answer
        follow_up = FINISHED.get(opening.kind)
        if follow_up is not None:
            follow_up(project, connection, opening, role)
        _done(project, connection, opening, actor=connection.alias)

    def failed(self, opening: Opening, error: VesicaError) -> None:
        project, connection = self._of(opening)
        _failed(project, connection, opening, error, _other(opening), actor=connection.alias)
        _spool(self._node, opening.exchange).destroy()

    def _machine(
        self, project: "Project", connection: Row[Any], opening: Opening, opened: Opened, state: str
    ) -> Machine:
        """Make the machine of an exchange that was begun before; one that is over only repeats what it said."""
        if state != "failed":
            _, role = _role(project, connection, opening)
            try:
                machine = Machine(opening, opened, role, _spool(self._node, opening.exchange))
            except (RemoteProtocolError, Refusal) as error:  # what came before a restart is looked at only now
                self.failed(opening, error)
                raise
            if state == "open" or machine.done:
                return machine
        raise over()

    def _of(self, opening: Opening) -> tuple["Project", Row[Any]]:
        with self._node.store.read() as reading:
            row = reading.execute(select(connections).where(connections.c.id == opening.connection.hex())).one()
        return self._node.project_by_id(row.project_id), row


def give_up_releases(node: "Node", tx: Connection, feed_id: str) -> None:
    """End the open releases of one of our feeds: what is under way holds what may not leave any more."""
    query = select(exchanges).where(exchanges.c.kind == Kind.RELEASE.value, exchanges.c.state == "open")
    for row in tx.execute(query.where(exchanges.c.part == Part.SENDER.value)).all():
        opening, _, _ = _unpacked(row.opened)
        if opening.subject["feed"] == bytes.fromhex(feed_id):
            tx.execute(_row(opening).values(state="failed", error={"code": "given_up"}, changed=node.now()))


def versions_under_way(tx: Connection, connection_id: str, feed: bytes) -> set[int]:
    """Return the versions of a feed that open releases over a connection are of."""
    query = select(exchanges.c.opened).where(
        exchanges.c.connection_id == connection_id,
        exchanges.c.kind == Kind.RELEASE.value,
        exchanges.c.state == "open",
    )
    subjects = [_unpacked(opened)[0].subject for opened in tx.scalars(query)]
    return {int(subject["version"]) for subject in subjects if subject["feed"] == feed}


def register() -> None:
    """Import what fills ROLES, FAILED and FINISHED, and the handlers of letters and jobs."""
    from ..backup import restored_partners  # noqa: F401
    from ..feeds import evaluations, wishes  # noqa: F401
    from ..feeds.estimates import matching  # noqa: F401
    from ..feeds.receiving import offers, received  # noqa: F401
    from ..feeds.sending import feeds, releases, responses  # noqa: F401
    from ..partners import audit_heads, partners, preflight  # noqa: F401


def active(node: "Node", caller: bytes, connection: bytes) -> tuple["Project", Row[Any]]:
    """Return the connection's project and row; raises Unwelcome unless it is active and the caller's."""
    with node.store.read() as reading:
        row = reading.execute(select(connections).where(connections.c.id == connection.hex())).first()
    check_caller(node, row, caller)
    if row is None or row.status != "active":
        raise Unwelcome("there is no active connection with the caller")
    return node.project_by_id(row.project_id), row


def forget_old(node: "Node") -> None:
    """Delete the messages of exchanges that ended an hour ago, or that nobody went on with for a week.

    Those of no exchange are from openings that a kill or a refusal cut short.
    """
    directories = list((node.home / "spool").glob("*"))
    now = node.now()
    with node.store.begin() as tx:
        tx.execute(
            update(exchanges)
            .where(exchanges.c.state == "open", exchanges.c.created < now - ABANDONED_SECONDS)
            .values(state="failed", error={"code": "abandoned"}, changed=now - KEPT_SECONDS - 1)
        )
        kept = select(exchanges.c.id).where((exchanges.c.state == "open") | (exchanges.c.changed >= now - KEPT_SECONDS))
        alive, known = set(tx.scalars(kept)), set(tx.scalars(select(exchanges.c.id)))
    for directory in directories:
        if directory.name in known - alive or (directory.name not in known and is_old(directory)):
            shutil.rmtree(directory, ignore_errors=True)


def _follow(project: "Project", connection: Row[Any], number: int) -> int:
    """Take the partner's key epoch, which is ahead, and return the number of ours then; the partner is told why not."""
    try:
        with project.act("partner.rotated", connection.alias, actor=connection.alias, detail={"epoch": number}) as tx:
            return key_epochs.follow(project, tx, connection, number).number
    except Refused as error:
        raise Refusal(
            "epoch_too_soon",
            "a key epoch can begin a day after the one before, and not far ahead of it",
            hint="wait: runs go on by themselves a day after the last epoch began here",
            status=409,
        ) from error


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


def _find(tx: Connection, exchange: bytes) -> Row[Any] | None:
    return tx.execute(select(exchanges).where(exchanges.c.id == exchange.hex())).first()


def _row(opening: Opening) -> Update:
    return update(exchanges).where(exchanges.c.id == opening.exchange.hex())


def _insert(
    tx: Connection,
    node: "Node",
    connection: Row[Any],
    opening: Opening,
    opened: Opened,
    part: Part,
    *,
    ours: bool,
    inputs: bytes = b"",
) -> None:
    tx.execute(
        insert(exchanges).values(
            id=opening.exchange.hex(),
            connection_id=connection.id,
            kind=opening.kind.value,
            part=part.value,
            ours=ours,
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
        tx.execute(_row(opening).where(exchanges.c.state == "open").values(state="done", changed=project.node.now()))


def _failed(
    project: "Project",
    connection: Row[Any],
    opening: Opening,
    error: VesicaError,
    part: Part,
    *,
    actor: str | None = None,
) -> None:
    """Close an exchange that cannot go on, with an audit row, and an alert if the partner broke the protocol.

    `part` is ours.
    """
    node = project.node
    reason = {"code": error.code, "message": str(error)}
    with node.store.begin() as tx:
        still_open = _row(opening).where(exchanges.c.state != "done")
        tx.execute(still_open.values(state="failed", error=reason, changed=node.now()))
        node.audit.record(
            tx,
            f"exchange.{opening.kind.value}",
            connection.alias,
            project_id=project.id,
            result="deny",
            detail={"exchange": opening.exchange.hex(), "error": reason},
            actor=actor,
        )
        if opening.kind in FAILED:
            FAILED[opening.kind](project, tx, connection, part, error)
        if isinstance(error, RemoteProtocolError):
            broke = f"{connection.alias} broke the protocol: "
            project.alerts.add(tx, f"{BROKEN}{error.code}", f"{broke}{error}", alike=broke)
