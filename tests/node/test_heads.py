"""Partners keep heads of each other's audit logs, so that a log that is written anew as a whole is found out."""

import hashlib

import pytest
from sqlalchemy import delete, select, update

from node.access import audit
from node.errors import AuditBroken, Refused
from node.partners import audit_heads
from node.storage import tables
from protocol.errors import RemoteProtocolError
from protocol.heads import AuditHead, HeldHeads, SignedHead, SignedHeads
from psi.errors import VesicaError


@pytest.fixture
def connected(pair, person):
    people = [person("1", "ann@example.com")]
    pair.prepare(people, people, {"vip": ["1"]})
    pair.clock.advance(days=1)
    pair.post()
    return pair


def alerts(side, kind="audit_log"):
    return [each.text for each in side.project.alerts.list() if each.kind == kind]


def written_anew(node, change):
    """Change a row and all digests after it, as somebody who can write the whole database would."""
    with node.store.begin() as tx:
        kept = [row._asdict() for row in tx.execute(select(tables.audit).order_by(tables.audit.c.number))]
        tx.execute(delete(tables.audit))
        previous = bytes(32)
        for row in kept:
            row.update(change if row["number"] == 3 else {}, previous=previous)
            del row["digest"]
            previous = audit._digest(**row)
            tx.execute(tables.audit.insert().values(**row, digest=previous))


@pytest.mark.feature("OP3")
def test_a_log_that_was_written_anew_is_found_by_the_heads_that_partners_keep(connected):
    acme = connected.acme
    _, kept = audit_heads.verify(acme.node)
    assert [(each.partner, each.stands) for each in kept] == [("globe", "there")] * len(kept)
    assert kept
    written_anew(acme.node, {"actor": "nobody@nowhere"})
    acme.node.audit.verify()  # the chain itself is whole again
    with pytest.raises(AuditBroken, match="globe keeps its head"):
        audit_heads.verify(acme.node)


@pytest.mark.feature("OP3")
def test_also_where_what_the_partner_said_was_forgotten(connected):
    acme = connected.acme
    written_anew(acme.node, {"target": "other"})
    with acme.node.store.begin() as tx:
        tx.execute(update(tables.connections).values(heads_held=None, head_sent=None))
    connected.clock.advance(seconds=3_601)
    with pytest.raises(AuditBroken, match="globe keeps its head"):
        audit_heads.verify(acme.node)  # which asks the partner
    assert "written anew" in alerts(acme)[0]


@pytest.mark.feature("OP3")
def test_rows_cut_off_the_end_are_missed_on_both_sides(connected):
    acme, rows = connected.acme, tables.audit
    with acme.node.store.begin() as tx:
        tx.execute(delete(rows).where(rows.c.number > 3))
        tx.execute(update(tables.connections).values(head_sent=None))
    connected.clock.advance(days=1)
    with pytest.raises(AuditBroken, match="globe keeps"):
        audit_heads.verify(acme.node)
    assert "audit log of acme is not what it was" in alerts(connected.globe)[0]


@pytest.mark.feature("OP3")
def test_a_head_goes_once_a_day_and_a_bounded_number_is_kept(connected, monkeypatch):
    monkeypatch.setattr(audit_heads, "HEADS_KEPT", 4)
    acme, globe = connected.acme, connected.globe
    for _ in range(12):
        connected.clock.advance(seconds=43_200)
        connected.post()
        audit_heads.verify(acme.node)
    document = globe.project.partners.show("acme")["heads"]
    assert document["we_keep"]["count"] == 4
    assert acme.project.partners.show("globe")["heads"]["they_keep"] == document["we_keep"]
    with globe.node.store.read() as tx:
        days = [row.at // 86_400 for row in tx.execute(select(tables.heads).order_by(tables.heads.c.at.desc()))]
    assert days == sorted(days, reverse=True)
    assert len(set(days)) >= 3  # not four of the last two days


@pytest.mark.feature("OP3")
def test_a_partner_cannot_flood_us_with_heads_nor_invent_ours(connected):
    acme, globe = connected.acme, connected.globe
    row = globe.project.partners.get("acme")
    theirs = acme.project.partners.get("globe")

    def signed(node, connection, number=7, digest=bytes(32)):
        head = AuditHead(connection=bytes.fromhex(connection), number=number, row=digest, made=1)
        return SignedHead(head=head, signature=head.sign(node.sign))

    def handled(side, handler, connection, message):
        with side.node.store.begin() as tx:
            handler(side.project, tx, connection, message)

    with pytest.raises(Refused, match="hour"):
        handled(acme, audit_heads.received, theirs, signed(globe.node, row.id))
    with pytest.raises(RemoteProtocolError):
        handled(acme, audit_heads.received, theirs, signed(acme.node, row.id))  # not its own
    other = hashlib.sha256(b"other").hexdigest()[:32]
    with pytest.raises(RemoteProtocolError):
        handled(acme, audit_heads.received, theirs, signed(globe.node, other))
    for key_of in (globe.node, acme.node):
        invented = HeldHeads(connection=bytes.fromhex(row.id), heads=(signed(globe.node, row.id),), made=1)
        message = SignedHeads(held=invented, signature=invented.sign(key_of.sign))
        with pytest.raises(RemoteProtocolError) as refused:
            handled(acme, audit_heads.confirmed, theirs, message)
        assert refused.value.code == "signature"
    assert alerts(acme) == []


@pytest.mark.feature("OP3")
def test_a_partner_without_an_address_keeps_heads_too(quiet_receiver, person):
    people = [person("1", "ann@example.com")]
    quiet_receiver.prepare(people, people, {"vip": ["1"]})
    quiet_receiver.clock.advance(days=1)
    for _ in range(2):
        quiet_receiver.post()
    _, kept = audit_heads.verify(quiet_receiver.acme.node)
    assert {each.partner for each in kept} == {"globe"}
    _, kept = audit_heads.verify(quiet_receiver.globe.node)
    assert {each.partner for each in kept} == {"acme"}


@pytest.mark.feature("OP3")
def test_a_restore_explains_what_it_took_back_and_nothing_else(connected, tmp_path):
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
        _, kept = audit_heads.verify(acme.node)
        assert [each.stands for each in kept if each.stands != "there"] == ["restored"]
        acme.node.create_project("later")
        connected.clock.advance(days=1)
        connected.post()
        written_anew(acme.node, {"actor": "x"})
        with pytest.raises(AuditBroken):
            audit_heads.verify(acme.node)


@pytest.mark.feature("OP2")
def test_rows_are_pruned_after_a_year_and_the_rest_verifies(either_node, clock):
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
    assert [entry.result for entry in node.audit.list(act="audit.prune")] == ["deny"]
    clock.advance(days=2)
    document = node.prune_audit(start)
    assert document["rows"] == noted.number
    assert document["begins_after"] == str(noted)
    assert [entry.target for entry in node.audit.list(act="project.create")] == ["newer"]
    assert node.audit.verify() == node.audit.head()
    node.audit.verify(upto=noted)
    node.create_project("newest")
    node.audit.verify()
    with node.store.begin() as tx:  # the same without saying so
        first = tx.scalar(select(tables.audit.c.number).order_by(tables.audit.c.number).limit(1))
        tx.execute(delete(tables.audit).where(tables.audit.c.number == first))
    with pytest.raises(AuditBroken, match="nobody pruned"):
        node.audit.verify()


@pytest.mark.feature("OP2")
def test_pruning_nothing_and_pruning_twice(either_node, clock):
    node = either_node
    assert node.prune_audit(clock.now - 365 * 86_400)["rows"] == 0
    for _ in range(2):
        clock.advance(days=400)
        node.prune_audit(clock.now - 365 * 86_400)
        node.audit.verify()
    assert node.audit.list()[-1].act == "audit.prune"
