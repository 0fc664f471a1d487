"""Statements that partners sign of what they purged."""

import pytest
from sides import EMAIL
from sqlalchemy import insert, select

from node.feeds import purges, versions
from node.node import Node
from node.partners.connections import with_status
from node.storage import tables
from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from protocol.letters import Purged
from protocol.receipt import PurgeStatement


def test_the_first_statement_about_a_version_stands(either_node: Node) -> None:
    node = either_node
    project = node.project()
    with node.home.database.begin() as tx:
        tx.execute(
            insert(tables.connections).values(
                id=node.home.new_id(),
                project_id=project.id,
                alias="globe",
                status="active",
                peer_key=bytes(32),
                peer_project=bytes(16),
                peer_project_name="default",
                peer_organisation="Globe",
                peer_address="",
                proxy=False,
                agreement=b"",
                agreement_digest=bytes(32),
                their_offer=b"",
                letters_sent=0,
                letters_received=0,
                created=0,
                changed=0,
            )
        )
        (row,) = with_status(project.scope, tx=tx)
        values = {"project_id": project.id, "name": "f", "status": "published", "version": 2, "revision": 0}
        tx.execute(insert(tables.feeds).values(id=node.home.new_id(), **values, created=0, changed=0))
        feed = tx.execute(select(tables.feeds)).one()
        definition = Definition(
            feed=bytes.fromhex(feed.id),
            version=2,
            name="f",
            description="",
            segments=(),
            namespaces=(EMAIL,),
            restricted_uses=(),
            created=0,
        )
        versions.keep(project.scope, tx, feed.id, definition)

        def purged(version: int, made: int) -> Purged:
            statement = PurgeStatement(
                connection=bytes.fromhex(row.id),
                feed=bytes.fromhex(feed.id),
                version=version,
                revision=1,
                segments=(bytes(16),) if version else (),
                namespaces=(),
                made=made,
            )
            return Purged(statement=statement, signature=statement.sign(node.home.sign))

        for version, made in ((0, 3), (2, 1), (2, 2), (0, 4)):
            purges.keep(project.scope, tx, feed.id, row, purged(version, made))
        with pytest.raises(RemoteProtocolError):
            purges.keep(project.scope, tx, feed.id, row, purged(3, 5))
        found = purges.documents(tx, feed.id, row.id)
    assert [(each["version"], each["made"]) for each in found] == [(2, 1), (None, 3)]
