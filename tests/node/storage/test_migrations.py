"""A database of an earlier step is brought to the newest one, and its rows say the same as before."""

from typing import Any

from sqlalchemy import JSON, Boolean, Column, LargeBinary, MetaData, String, Table, Text, create_engine, insert, select

from node.access.audit import Actor, ActorKind, Audit
from node.access.reached import Reached
from node.feeds.receiving import received_feeds
from node.feeds.sending import recipients
from node.partners.connections import Connection, ConnectionStatus
from node.storage.database import Database
from node.storage.migrations import upgrade
from node.storage.records import record
from node.storage.tables import answers, connections, jobs, ledger, projects


def empty(column: Column[Any]) -> Any:
    """Return a value that a column takes."""
    for kind, value in ((Boolean, False), (LargeBinary, b""), (JSON, []), (String | Text, "pending")):
        if isinstance(column.type, kind):
            return value
    return 0


def row(table: Table, **values: Any) -> Any:
    """Return the statement that adds a row; what has to be there and is not named is empty."""
    needed = {each.name: empty(each) for each in table.columns if not each.nullable}
    return insert(table).values({**needed, **values})


def test_columns_that_were_renamed_keep_what_they_say(database_url: str) -> None:
    engine = create_engine(database_url)
    before = MetaData()
    with engine.begin() as tx:
        upgrade(tx, to="0001")
        before.reflect(tx)
        tables = before.tables
        tx.execute(row(tables["projects"], id="p", name="crm"))
        tx.execute(row(tables["connections"], id="c", project_id="p", heads_held=b"heads"))
        tx.execute(row(tables["feeds"], id="f", project_id="p"))
        asked = {"anew": True, "renewed": 5, "renewals": 2, "wished": 7, "wishes": 3}
        tx.execute(row(tables["feed_partners"], id="s", feed_id="f", connection_id="c", **asked))
        tx.execute(row(tables["received_feeds"], id="r", connection_id="c", told={"email": 9}))
    engine.dispose()

    store = Database.open(database_url)
    with store.read() as tx:
        recipient = recipients.get(tx, "c", "f")
        assert (recipient.full, recipient.full_since, recipient.full_before) == (True, 5, 2)
        assert (recipient.requested, recipient.requests) == (7, 3)
        assert [feed.reported for feed in received_feeds.of_connection(tx, "c")] == [{"email": 9}]
        assert record(Connection, tx.execute(connections.select()).one()).heads_kept == b"heads"
    store.close()


def test_who_was_kept_out_of_estimates_is_left_out_of_them(database_url: str) -> None:
    engine = create_engine(database_url)
    before = MetaData()
    with engine.begin() as tx:
        upgrade(tx, to="0002")
        before.reflect(tx)
        for name, hidden in (("hiding", True), ("counting", False)):
            tx.execute(row(before.tables["projects"], id=name, name=name, hide_unconsented=hidden))
    engine.dispose()

    store = Database.open(database_url)
    with store.read() as tx:
        found = dict(map(tuple, tx.execute(select(projects.c.name, projects.c.left_out))))
    store.close()
    assert found == {"hiding": "unconsented", "counting": "nobody"}


def test_partners_that_an_operator_accepted_stay_reachable_at_private_addresses(database_url: str) -> None:
    engine, before = create_engine(database_url), MetaData()
    with engine.begin() as tx:
        upgrade(tx, to="0002")
        before.reflect(tx)
        tx.execute(row(before.tables["projects"], id="p", name="crm"))
        for status in ConnectionStatus:
            values = {
                "id": status.value,
                "alias": status.value,
                "status": status.value,
                "peer_address": "10.0.0.7:8470",
            }
            tx.execute(row(before.tables["connections"], project_id="p", **values))
    engine.dispose()

    store = Database.open(database_url)
    with store.read() as tx:
        found = {each.status for each in tx.execute(connections.select()) if each.chosen_address == "10.0.0.7:8470"}
    store.close()
    assert found == {"pending", "active", "disconnected", "failed"}


def test_attempts_answers_keys_and_the_ledger_of_before_go_on(database_url: str) -> None:
    """Feeds run once more, sizes are not known, no key was replaced, and charges are those of every project."""
    engine, before = create_engine(database_url), MetaData()
    with engine.begin() as tx:
        upgrade(tx, to="0002")
        before.reflect(tx)
        tables = before.tables
        tx.execute(row(tables["projects"], id="p", name="crm"))
        tx.execute(row(tables["connections"], id="c", project_id="p", peer_key=b"k" * 32))
        tx.execute(row(tables["feeds"], id="f", project_id="p"))
        tx.execute(row(tables["feed_partners"], id="s", feed_id="f", connection_id="c", tried=[1, None, 2, 3, "r"]))
        tx.execute(row(tables["answers"], id="a", connection_id="c"))
        for kind, note in (("epsilon_millis", "email_sha256/lc-v1"), ("evaluations", "email_sha256/lc-v1")):
            tx.execute(row(tables["ledger"], id=kind, project_id="p", peer_key=b"k" * 32, kind=kind, note=note))
    engine.dispose()

    store = Database.open(database_url)
    with store.read() as tx:
        assert recipients.get(tx, "c", "f").tried is None
        assert tx.scalar(select(answers.c.sizes)) == []
        connection = record(Connection, tx.execute(connections.select()).one())
        assert (connection.first_peer_key, connection.peer_keys) == (b"k" * 32, (b"k" * 32,))
        assert (connection.our_key, connection.moves_to, connection.our_offer) == (None, None, None)
        notes = dict(map(tuple, tx.execute(select(ledger.c.kind, ledger.c.note))))
    store.close()
    assert notes == {"epsilon_millis": "", "evaluations": "email_sha256/lc-v1"}


def test_audit_rows_of_before_say_the_same_and_verify(database_url: str) -> None:
    """They do not say what kind of actor did something; what is queued goes on in the name of the same one."""
    engine, before = create_engine(database_url), MetaData()
    with engine.begin() as tx:
        upgrade(tx, to="0003")
        before.reflect(tx)
        values: dict[str, Any] = {
            "number": 1,
            "at": 5,
            "project_id": None,
            "actor": "ann",
            "act": "node.set",
            "target": "node",
        }
        values |= {"result": "allow", "detail": {"a": 1}, "previous": bytes(32)}
        digest = bytes.fromhex("d8ad8dfdfdd8369905788cc82282af3e004dbd82ebab5592b6425530bde0e6f5")
        tx.execute(insert(before.tables["audit"]).values(**values, digest=digest))
        tx.execute(row(before.tables["projects"], id="p", name="crm"))
        for who in ("ann", "root@host"):
            tx.execute(row(before.tables["jobs"], id=who, project_id="p", submitted_by=who, state="queued"))
    engine.dispose()

    store = Database.open(database_url)
    log = Audit(
        store.read,
        lambda: 9,
        actor=lambda: Actor(ActorKind.USER, "ann"),
        check=lambda project_id: None,
        reached=lambda tx: Reached(None),
    )
    with store.begin() as tx:
        log.record(tx, "node.set", "node", project_id=None)
        assert dict(map(tuple, tx.execute(select(jobs.c.submitted_by, jobs.c.submitted_by_kind)))) == {
            "ann": "user",
            "root@host": "account",
        }
    assert log.verify().number == 2
    assert [(each.actor_kind, each.actor) for each in log.entries()] == [("user", "ann"), (None, "ann")]
    store.close()
