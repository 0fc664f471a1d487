"""Signed statements that memberships are gone: receivers make them, senders keep one for everything they took back."""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, insert, select

from protocol.letters import Purged
from protocol.receipt import PurgeStatement

from ..storage.tables import purges
from . import versions

if TYPE_CHECKING:
    from ..project import Project


def sign(
    project: "Project",
    tx: Connection,
    connection: Row[Any],
    feed: bytes,
    revision: int,
    *,
    version: int = 0,
    segments: tuple[bytes, ...] = (),
    namespaces: tuple[str, ...] = (),
) -> None:
    """Tell a sender, signed, that what `version` took out of its feed is gone; without a version, the whole feed."""
    statement = PurgeStatement(
        connection=bytes.fromhex(connection.id),
        feed=feed,
        version=version,
        revision=revision,
        segments=segments,
        namespaces=namespaces,
        made=project.node.now(),
    )
    letter = Purged(statement=statement, signature=statement.sign(project.node.sign))
    project.letters.send(tx, connection.id, "feed.purged", letter)


def keep(project: "Project", tx: Connection, feed: Row[Any], row: Row[Any], message: Purged) -> bool:
    """Keep a partner's statement unless there is one about the same version, or a partner could fill the store.

    Says whether it was kept.
    """
    version = message.statement.version
    if version:
        versions.get(tx, feed.id, version)
    known = select(purges.c.id).where(
        purges.c.feed_id == feed.id, purges.c.connection_id == row.id, purges.c.version == version
    )
    if tx.execute(known).first() is not None:
        return False
    tx.execute(
        insert(purges).values(
            id=project.node.new_id(),
            feed_id=feed.id,
            connection_id=row.id,
            version=version,
            statement=message.encode(),
            at=project.node.now(),
        )
    )
    return True


def documents(tx: Connection, feed_id: str, connection_id: str) -> list[dict[str, Any]]:
    """Return what a partner signed about one of our feeds, oldest first, for people and programs."""
    query = select(purges.c.statement).where(purges.c.feed_id == feed_id, purges.c.connection_id == connection_id)
    return [
        _document(Purged.decode(each)) for each in tx.scalars(query.order_by(purges.c.version == 0, purges.c.version))
    ]


def _document(purged: Purged) -> dict[str, Any]:
    return {
        "version": purged.statement.version or None,
        "revision": purged.statement.revision,
        "segments": [segment.hex() for segment in purged.statement.segments],
        "namespaces": list(purged.statement.namespaces),
        "made": purged.statement.made,
        "signature": purged.signature.hex(),
    }
