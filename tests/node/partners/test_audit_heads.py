"""Partners keep heads of each other's audit logs, so that a log that is replaced as a whole is found out."""

import hashlib
from pathlib import Path

import pytest
from clock import Clock
from partnering import alerts
from sides import Pair, Person, Side
from sqlalchemy import delete, select, update

from node.access import audit
from node.errors import AuditBroken, NotAllowed
from node.node import Node
from node.partners import audit_heads
from node.partners.connections import Connection
from node.partners.handlers import LetterHandler
from node.storage import tables
from node.storage.ids import wire_id
from protocol.errors import RemoteProtocolError
from protocol.heads import AuditHead, KeptHeads, SignedHead, SignedHeads
from protocol.wire import Message
from psi.errors import VesicaError


@pytest.fixture
def connected(pair: Pair, person: type[Person]) -> Pair:
    people = [person("1", "ann@example.com")]
    pair.prepare(people, people, {"vip": ["1"]})
    pair.clock.advance(days=1)
    pair.post()
    return pair


def replaced(node: Node, change: dict[str, str]) -> None:
    """Change a row and all digests after it, as somebody who can write the whole database would."""
    with node.home.database.begin() as tx:
        kept = [row._asdict() for row in tx.execute(select(tables.audit).order_by(tables.audit.c.number))]
        tx.execute(delete(tables.audit))
        previous = bytes(32)
        for row in kept:
            row.update(change if row["number"] == 3 else {}, previous=previous)
            del row["digest"]
            previous = audit.row_digest(row)
            tx.execute(tables.audit.insert().values(**row, digest=previous))


@pytest.mark.feature("OP3")
def test_a_log_that_was_replaced_is_found_by_the_heads_that_partners_keep(connected: Pair) -> None:
    acme = connected.acme
    acme.node.sync()
    _, kept = acme.node.verify_audit()
    assert [(each.partner, each.stands) for each in kept] == [("globe", "there")] * len(kept)
    assert kept
    replaced(acme.node, {"actor": "nobody@nowhere"})
    acme.node.audit.verify()  # the chain itself is whole again
    with pytest.raises(AuditBroken, match="globe keeps its head"):
        acme.node.verify_audit()


@pytest.mark.feature("OP3")
def test_also_where_what_the_partner_said_was_forgotten(connected: Pair) -> None:
    acme = connected.acme
    replaced(acme.node, {"target": "other"})
    with acme.node.home.database.begin() as tx:
        tx.execute(update(tables.connections).values(heads_kept=None, head_sent=None))
    connected.clock.advance(seconds=3_601)
    assert acme.node.verify_audit()[1] == []  # it asks nobody
    acme.node.sync()
    with pytest.raises(AuditBroken, match="globe keeps its head"):
        acme.node.verify_audit()
    assert "replaced as a whole" in alerts(acme, "audit_log")[0]


@pytest.mark.feature("OP3")
def test_rows_cut_off_the_end_are_missed_on_both_sides(connected: Pair) -> None:
    acme, rows = connected.acme, tables.audit
    with acme.node.home.database.begin() as tx:
        tx.execute(delete(rows).where(rows.c.number > 3))
        tx.execute(update(tables.connections).values(head_sent=None))
    connected.clock.advance(days=1)
    acme.node.sync()
    with pytest.raises(AuditBroken, match="globe keeps"):
        acme.node.verify_audit()
    assert "audit log of acme is not what it was" in alerts(connected.globe, "audit_log")[0]


@pytest.mark.feature("OP3")
def test_a_head_goes_once_a_day_and_a_bounded_number_is_kept(connected: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_heads, "HEADS_KEPT", 4)
    acme, globe = connected.acme, connected.globe
    for _ in range(12):
        connected.clock.advance(seconds=43_200)
        connected.post()
    document = globe.project.reports.partner("acme")["heads"]
    assert document["we_keep"]["count"] == 4
    assert acme.project.reports.partner("globe")["heads"]["they_keep"] == document["we_keep"]
    with globe.node.home.database.read() as tx:
        days = [row.at // 86_400 for row in tx.execute(select(tables.heads).order_by(tables.heads.c.at.desc()))]
    assert days == sorted(days, reverse=True)
    assert len(set(days)) >= 3  # not four of the last two days


@pytest.mark.feature("OP3")
def test_a_partner_cannot_flood_us_with_heads_nor_invent_ours(connected: Pair) -> None:
    acme, globe = connected.acme, connected.globe
    row = globe.project.partners.get("acme")
    theirs = acme.project.partners.get("globe")

    def signed(node: Node, connection_id: str) -> SignedHead:
        head = AuditHead(connection=wire_id(connection_id), number=7, row=bytes(32), made=1)
        return SignedHead(head=head, signature=head.sign(node.home.sign))

    def handled(side: Side, handler: LetterHandler, connection: Connection, message: Message) -> None:
        with side.node.home.database.begin() as tx:
            handler(side.project.scope, tx, connection, message)

    with pytest.raises(NotAllowed, match="hour"):
        handled(acme, audit_heads.received, theirs, signed(globe.node, row.id))
    with pytest.raises(RemoteProtocolError):
        handled(acme, audit_heads.received, theirs, signed(acme.node, row.id))  # not its own
    other = hashlib.sha256(b"other").hexdigest()[:32]
    with pytest.raises(RemoteProtocolError):
        handled(acme, audit_heads.received, theirs, signed(globe.node, other))
    for key_of in (globe.node, acme.node):
        invented = KeptHeads(connection=row.wire_id, heads=(signed(globe.node, row.id),), made=1)
        message = SignedHeads(held=invented, signature=invented.sign(key_of.home.sign))
        with pytest.raises(RemoteProtocolError) as refused:
            handled(acme, audit_heads.confirmed, theirs, message)
        assert refused.value.code == "signature"
    assert alerts(acme, "audit_log") == []


@pytest.mark.feature("OP3")
def test_a_partner_without_an_address_keeps_heads_too(quiet_receiver: Pair, person: type[Person]) -> None:
    people = [person("1", "ann@example.com")]
    quiet_receiver.prepare(people, people, {"vip": ["1"]})
    quiet_receiver.clock.advance(days=1)
    for _ in range(2):
        quiet_receiver.post()
    _, kept = quiet_receiver.acme.node.verify_audit()
    assert {each.partner for each in kept} == {"globe"}
    _, kept = quiet_receiver.globe.node.verify_audit()
    assert {each.partner for each in kept} == {"acme"}


@pytest.mark.feature("OP3")
def test_a_restore_explains_what_it_took_back_and_nothing_else(connected: Pair, tmp_path: Path) -> None:
    acme = connected.acme
    acme.node.backup(tmp_path / "backup")
    for number in range(5):
        acme.node.create_project(f"p{number}")
    connected.clock.advance(days=1)
    connected.post()
    connected.clock.advance(seconds=1)
    acme.node.restore(tmp_path / "backup", tmp_path / "new", now=connected.clock)
    acme.node.close()
    (tmp_path / "acme").rename(tmp_path / "lost")
    (tmp_path / "new").rename(tmp_path / "acme")
    acme.open()
    with acme.serving():
        connected.clock.advance(days=1)
        connected.post()
        _, kept = acme.node.verify_audit()
        assert [each.stands for each in kept if each.stands != "there"] == ["restored"]
        acme.node.create_project("later")
        connected.clock.advance(days=1)
        connected.post()
        replaced(acme.node, {"actor": "x"})
        with pytest.raises(AuditBroken):
            acme.node.verify_audit()


@pytest.mark.feature("OP2")
def test_rows_are_pruned_after_a_year_and_the_rest_verifies(either_node: Node, clock: Clock) -> None:
    node = either_node
    for number in range(5):
        node.create_project(f"old-{number}")
    noted = node.audit.head()
    start = clock.now + 1
    clock.advance(days=364)
    node.create_project("newer")
    with pytest.raises(VesicaError) as refused:
        node.prune_audit(start)
    assert "365 days" in str(refused.value)
    assert [entry.result for entry in node.audit.entries(act="audit.prune")] == ["deny"]
    clock.advance(days=2)
    document = node.prune_audit(start)
    assert document["rows"] == noted.number
    assert document["begins_after"] == str(noted)
    assert [entry.target for entry in node.audit.entries(act="project.create")] == ["newer"]
    assert node.audit.verify() == node.audit.head()
    node.audit.verify(upto=noted)
    node.create_project("newest")
    node.audit.verify()
    with node.home.database.begin() as tx:  # the same without saying so
        first = tx.scalar(select(tables.audit.c.number).order_by(tables.audit.c.number).limit(1))
        tx.execute(delete(tables.audit).where(tables.audit.c.number == first))
    with pytest.raises(AuditBroken, match="nobody pruned"):
        node.audit.verify()


@pytest.mark.feature("OP2")
def test_pruning_nothing_and_pruning_twice(either_node: Node, clock: Clock) -> None:
    node = either_node
    assert node.prune_audit(clock.now - 365 * 86_400)["rows"] == 0
    for _ in range(2):
        clock.advance(days=400)
        node.prune_audit(clock.now - 365 * 86_400)
        node.audit.verify()
    assert node.audit.entries()[-1].act == "audit.prune"
