"""Heads of audit logs: partners keep ours, we keep theirs, so that whoever writes a whole log anew is found out.

A head goes to each partner once a day, signed; the partner answers with all that it keeps, signed too. What it keeps it
cannot have made up: our own signature is under it. A head tells a partner how many rows our log has, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, delete, exists, insert, select, update

from protocol.errors import RemoteProtocolError
from protocol.heads import HEADS_KEPT, AuditHead, HeldHeads, SignedHead, SignedHeads
from protocol.wire import Message

from ..access import audit
from ..errors import AuditBroken, Refused
from ..storage.tables import DAY, HOUR, connections, heads, letters
from .letters import HANDLERS as LETTERS

if TYPE_CHECKING:
    from ..node import Node
    from ..project import Project

HEAD = "audit.head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A head of ours that a partner keeps, by its last signed word, and how our log stands to it: see `audit.stands`."""

    partner: str
    head: audit.Head
    made: int
    confirmed: int
    stands: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "partner": self.partner,
            "head": str(self.head),
            "made": self.made,
            "confirmed": self.confirmed,
            "stands": self.stands,
        }


def send(project: "Project", *, after: int = DAY) -> list[Row[Any]]:
    """Put the head of our log into a letter to each active partner that got none for `after` seconds; return which.

    Not while the last one waits still: they would pile up for a partner that is gone.
    """
    node, sent, now = project.node, [], project.node.now()
    due = connections.c.head_sent.is_(None) | (connections.c.head_sent <= now - after)
    waits = exists().where(
        letters.c.connection_id == connections.c.id, letters.c.kind == HEAD, letters.c.delivered.is_(None)
    )
    with node.store.read() as reading:
        chosen = (connections.c.project_id == project.id, connections.c.status == "active", due, ~waits)
        rows = reading.execute(select(connections).where(*chosen)).all()
    for row in rows:
        with node.store.begin() as tx:
            found = audit.last(tx)
            mine = update(connections).where(connections.c.id == row.id, due).values(head_sent=now)
            if tx.execute(mine).rowcount:
                connection = bytes.fromhex(row.id)
                head = AuditHead(connection=connection, number=found.number, row=found.digest, made=now)
                project.letters.send(tx, row.id, HEAD, SignedHead(head=head, signature=head.sign(node.sign)))
                sent.append(row)
    return sent


def verify(node: "Node", *, upto: audit.Head | None = None) -> tuple[audit.Head, list[Confirmed]]:
    """Verify the log, and hold it against every head that partners say they keep, asking those that can be reached.

    Raises AuditBroken, naming the partner whose head is not in it.
    """
    from ..exchanges.exchanges import register

    node.guard.require("audit.read", "verify", None)
    register()
    with node.guard.itself():
        for project in node.projects():
            for row in send(project, after=HOUR):
                project.letters.sync(row)
    end = node.audit.verify(upto=upto)
    with node.store.read() as reading:
        rows = reading.execute(select(connections).where(connections.c.heads_held.is_not(None))).all()
        found = [each for row in rows for each in _compared(node, reading, row.alias, row.heads_held)]
    for each in found:
        if each.stands == "changed":
            raise AuditBroken(_broken(each), hint="compare it with an earlier export or backup")
    return end, found


def document(project: "Project", row: Row[Any]) -> dict[str, Any]:
    """Return the newest head that each side keeps of the other's log, and how many it keeps."""
    with project.node.store.read() as reading:
        ours = [audit.Head(each.number, each.digest) for each in _kept(reading, row)]
        theirs = [each.head for each in _compared(project.node, reading, row.alias, row.heads_held)]
    return {
        name: {"count": len(found), "newest": str(found[0]) if found else None}
        for name, found in (("we_keep", ours), ("they_keep", theirs))
    }


def received(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle audit.head: keep it beside the first of each day before, and answer with all that we keep."""
    assert isinstance(message, SignedHead)
    head, now = message.head, project.node.now()
    head.verify(message.signature, row.peer_key)
    if head.connection.hex() != row.id:
        raise RemoteProtocolError("signature", "the head is of another connection")
    kept = _kept(tx, row)
    if kept and now - kept[0].at < HOUR:
        raise Refused("a head came less than an hour ago", hint="one a day is enough")
    if kept and not _may_follow(kept[0], head):
        text = f"the audit log of {row.alias} is not what it was: its row {kept[0].number} was replaced or is gone"
        project.alerts.add(tx, "audit_log", f"{text}; ask whether it was restored from a backup")
    same_day = [newer.id for newer, older in pairwise(kept) if newer.at // DAY == older.at // DAY]
    left = [each for each in kept if each.id not in same_day][: HEADS_KEPT - 1]
    tx.execute(delete(heads).where(heads.c.connection_id == row.id, heads.c.id.not_in([each.id for each in left])))
    tx.execute(
        insert(heads).values(
            id=project.node.new_id(),
            connection_id=row.id,
            number=head.number,
            digest=head.row,
            signed=message.encode(),
            at=now,
        )
    )
    signed = tuple(SignedHead.decode(each.signed) for each in left)
    held = HeldHeads(connection=head.connection, heads=(message, *signed), made=now)
    project.letters.send(tx, row.id, "audit.held", SignedHeads(held=held, signature=held.sign(project.node.sign)))


def confirmed(project: "Project", tx: Connection, row: Row[Any], message: Message) -> None:
    """Handle audit.held: the heads that the partner keeps have our signature, and must be in our log still."""
    assert isinstance(message, SignedHeads)
    held = message.held
    held.verify(message.signature, row.peer_key)
    for signed in held.heads:
        signed.head.verify(signed.signature, project.node.key)
    if {held.connection, *(signed.head.connection for signed in held.heads)} != {bytes.fromhex(row.id)}:
        raise RemoteProtocolError("signature", "the heads are of another connection")
    tx.execute(update(connections).where(connections.c.id == row.id).values(heads_held=message.encode()))
    for each in _compared(project.node, tx, row.alias, message.encode()):
        if each.stands == "changed":
            project.alerts.add(tx, "audit_log", _broken(each))


def _may_follow(before: Row[Any], head: AuditHead) -> bool:
    """Tell whether a log that had the head `before` may have this one now, as far as numbers show."""
    return head.number > before.number or (head.number, head.row) == (before.number, before.digest)


def _compared(node: "Node", tx: Connection, alias: str, held: bytes | None) -> list[Confirmed]:
    if held is None:
        return []
    message = SignedHeads.decode(held).held
    return [
        Confirmed(
            partner=alias,
            head=audit.Head(signed.head.number, signed.head.row),
            made=signed.head.made,
            confirmed=min(message.made, node.now()),
            stands=audit.stands(tx, audit.Head(signed.head.number, signed.head.row), made=signed.head.made),
        )
        for signed in message.heads
    ]


def _broken(found: Confirmed) -> str:
    return f"the audit log was written anew: {found.partner} keeps its head {found.head}, which is not in it"


def _kept(tx: Connection, row: Row[Any]) -> Sequence[Row[Any]]:
    query = select(heads).where(heads.c.connection_id == row.id)
    return tx.execute(query.order_by(heads.c.at.desc(), heads.c.number.desc())).all()


LETTERS[HEAD] = received
LETTERS["audit.held"] = confirmed
