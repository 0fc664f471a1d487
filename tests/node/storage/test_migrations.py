"""A database of an earlier step is brought to the newest one, and its rows say the same as before."""

from typing import Any

from sqlalchemy import JSON, Boolean, Column, LargeBinary, MetaData, String, Table, Text, create_engine, insert

from node.feeds.receiving import received_feeds
from node.feeds.sending import recipients
from node.partners.connections import Connection
from node.storage.database import Database
from node.storage.migrations import upgrade
from node.storage.records import record
from node.storage.tables import connections


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
