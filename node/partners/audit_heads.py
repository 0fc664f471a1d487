"""Heads of audit logs: partners keep ours, and we keep theirs, so that a log that was replaced as a whole is noticed.

A head goes to each partner once a day, signed; the partner answers with all that it keeps, signed too. It cannot make
one up: our own signature is under each. From a head a partner learns how many rows our log has, and nothing else.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

from sqlalchemy import delete, exists, insert, select, update

from protocol.errors import RemoteProtocolError
from protocol.heads import HEADS_KEPT, AuditHead, KeptHeads, SignedHead, SignedHeads
from protocol.wire import Message

from ..access import audit
from ..access.scope import Home, Scope
from ..errors import AuditBroken, NotAllowed
from ..operations.alerts import AlertKind, Alerts
from ..storage.database import Tx
from ..storage.records import Document, record
from ..storage.tables import DAY, HOUR, connections, heads, letters
from .connections import Connection, ConnectionStatus, note
from .letters import Letters

HEAD = "audit.head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A head of ours that a partner says, signed, that it keeps; `stands` is how our log agrees with it (`audit.stands`)."""

    partner: str
    head: audit.Head
    made: int
    confirmed: int
    stands: audit.Standing

    def as_dict(self) -> Document:
        return {
            "partner": self.partner,
            "head": str(self.head),
            "made": self.made,
            "confirmed": self.confirmed,
            "stands": self.stands,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHead:
    """A row of `heads`: a head of a partner's log, which we keep."""

    id: str
    connection_id: str
    number: int
    digest: bytes
    signed: bytes
    at: int


def send(scope: Scope) -> None:
    """Send the head of our log to each active partner that got none for a day.

    None is sent while the last one still waits: they would pile up for a partner that is out of reach.
    """
    home, now = scope.home, scope.home.now()
    due = connections.c.head_sent.is_(None) | (connections.c.head_sent <= now - DAY)
    waits = exists().where(
        letters.c.connection_id == connections.c.id, letters.c.kind == HEAD, letters.c.delivered.is_(None)
    )
    with home.read() as reading:
        due_now = (connections.c.project_id == scope.id, connections.c.status == ConnectionStatus.ACTIVE, due, ~waits)
        wanted = [record(Connection, row) for row in reading.execute(select(connections).where(*due_now))]
    for connection in wanted:
        with home.begin() as tx:
            found = audit.last(tx)
            mine = update(connections).where(connections.c.id == connection.id, due).values(head_sent=now)
            if tx.execute(mine).rowcount:
                head = AuditHead(connection=connection.wire_id, number=found.number, row=found.digest, made=now)
                Letters(scope).send(tx, connection.id, HEAD, SignedHead(head=head, signature=head.sign(home.sign)))


def verify(home: Home, *, upto: audit.Head | None = None) -> tuple[audit.Head, list[Confirmed]]:
    """Verify the log, and compare it with every head that a partner confirmed last: no partner is called.

    Raises AuditBroken, naming the partner whose head is not in it.
    """
    end = home.audit.verify(upto=upto)
    with home.read() as reading:
        query = select(connections).where(connections.c.heads_kept.is_not(None))
        known = [record(Connection, row) for row in reading.execute(query)]
        found = [each for connection in known for each in _compared(home, reading, connection)]
    for each in found:
        if each.stands is audit.Standing.CHANGED:
            raise AuditBroken(_broken(each), hint="compare it with an earlier export or backup")
    return end, found


def document(scope: Scope, connection: Connection) -> Document:
    """Return the newest head that each side keeps of the other's log, and how many it keeps."""
    with scope.read() as reading:
        ours = [audit.Head(each.number, each.digest) for each in _kept(reading, connection)]
        theirs = [each.head for each in _compared(scope.home, reading, connection)]
    return {
        name: {"count": len(found), "newest": str(found[0]) if found else None}
        for name, found in (("we_keep", ours), ("they_keep", theirs))
    }


def received(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle audit.head: keep it beside the first of each day before, and answer with all that we keep."""
    assert isinstance(message, SignedHead)
    head, now = message.head, scope.home.now()
    head.verify(message.signature, *connection.peer_keys)
    if head.connection != connection.wire_id:
        raise RemoteProtocolError("signature", "the head is of another connection")
    kept = _kept(tx, connection)
    if kept and now - kept[0].at < HOUR:
        raise NotAllowed("a head came less than an hour ago", hint="one a day is enough")
    if kept and not _may_follow(kept[0], head):
        text = (
            f"the audit log of {connection.alias} is not what it was: its row {kept[0].number} was replaced or is gone"
        )
        Alerts(scope).add(tx, AlertKind.AUDIT_LOG, f"{text}; ask whether it was restored from a backup")
    same_day = [newer.id for newer, older in pairwise(kept) if newer.at // DAY == older.at // DAY]
    left = [each for each in kept if each.id not in same_day][: HEADS_KEPT - 1]
    tx.execute(
        delete(heads).where(heads.c.connection_id == connection.id, heads.c.id.not_in([each.id for each in left]))
    )
    tx.execute(
        insert(heads).values(
            id=scope.home.new_id(),
            connection_id=connection.id,
            number=head.number,
            digest=head.row,
            signed=message.encode(),
            at=now,
        )
    )
    signed = tuple(SignedHead.decode(each.signed) for each in left)
    kept_now = KeptHeads(connection=head.connection, heads=(message, *signed), made=now)
    Letters(scope).send(
        tx, connection.id, "audit.held", SignedHeads(held=kept_now, signature=kept_now.sign(scope.home.sign))
    )


def confirmed(scope: Scope, tx: Tx, connection: Connection, message: Message) -> None:
    """Handle audit.held: the heads that the partner keeps have our signature, and must still be in our log."""
    assert isinstance(message, SignedHeads)
    kept = message.held
    kept.verify(message.signature, *connection.peer_keys)
    for signed in kept.heads:
        signed.head.verify(signed.signature, *scope.home.keys.publics)
    if {kept.connection, *(signed.head.connection for signed in kept.heads)} != {connection.wire_id}:
        raise RemoteProtocolError("signature", "the heads are of another connection")
    note(tx, connection, heads_kept=message.encode())
    for each in _compared(scope.home, tx, replace(connection, heads_kept=message.encode())):
        if each.stands is audit.Standing.CHANGED:
            Alerts(scope).add(tx, AlertKind.AUDIT_LOG, _broken(each))


def _may_follow(before: KeptHead, head: AuditHead) -> bool:
    """Return whether a log that had the head `before` may have this one now, as far as numbers show."""
    return head.number > before.number or (head.number, head.row) == (before.number, before.digest)


def _compared(home: Home, tx: Tx, connection: Connection) -> list[Confirmed]:
    """Return how our log agrees with the heads that a partner keeps, by its last signed message."""
    if connection.heads_kept is None:
        return []
    message = SignedHeads.decode(connection.heads_kept).held
    return [
        Confirmed(
            partner=connection.alias,
            head=audit.Head(signed.head.number, signed.head.row),
            made=signed.head.made,
            confirmed=min(message.made, home.now()),
            stands=audit.stands(tx, audit.Head(signed.head.number, signed.head.row), made=signed.head.made),
        )
        for signed in message.heads
    ]


def _broken(found: Confirmed) -> str:
    return f"the audit log was replaced as a whole: {found.partner} keeps its head {found.head}, which is not in it"


def _kept(tx: Tx, connection: Connection) -> list[KeptHead]:
    query = select(heads).where(heads.c.connection_id == connection.id)
    return [record(KeptHead, row) for row in tx.execute(query.order_by(heads.c.at.desc(), heads.c.number.desc()))]
