"""Signed statements that memberships are gone: receivers make them, senders keep one for everything they took back."""

from dataclasses import dataclass

from sqlalchemy import insert, select

from protocol.letters import Purged
from protocol.receipt import PurgeStatement

from ..access.scope import Scope
from ..partners.connections import Connection
from ..partners.letters import Letters
from ..storage.database import Tx
from ..storage.ids import stored_id
from ..storage.records import Document, Documents
from ..storage.tables import purges
from . import versions


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOut:
    """What a version of a feed does not have any more."""

    version: int
    segments: tuple[bytes, ...]
    namespaces: tuple[str, ...]


def sign(
    scope: Scope, tx: Tx, connection: Connection, feed: bytes, revision: int, taken_out: TakenOut | None = None
) -> None:
    """Send a sender our signed statement that what a version took out of its feed is gone, or the whole feed."""
    statement = PurgeStatement(
        connection=connection.wire_id,
        feed=feed,
        version=taken_out.version if taken_out else 0,
        revision=revision,
        segments=taken_out.segments if taken_out else (),
        namespaces=taken_out.namespaces if taken_out else (),
        made=scope.home.now(),
    )
    letter = Purged(statement=statement, signature=statement.sign(scope.home.sign))
    Letters(scope).send(tx, connection.id, "feed.purged", letter)


def keep(scope: Scope, tx: Tx, feed_id: str, connection: Connection, message: Purged) -> None:
    """Keep a partner's statement, one for each version, so that no partner can fill the store."""
    version = message.statement.version
    if version:
        versions.get(tx, feed_id, version)
    if is_kept(tx, feed_id, connection.id, version):
        return
    tx.execute(
        insert(purges).values(
            id=scope.home.new_id(),
            feed_id=feed_id,
            connection_id=connection.id,
            version=version,
            statement=message.encode(),
            at=scope.home.now(),
        )
    )


def is_kept(tx: Tx, feed_id: str, connection_id: str, version: int = 0) -> bool:
    """Return whether a partner has signed that what a version took out of one of our feeds is gone; 0: all of the feed."""
    mine = (purges.c.feed_id == feed_id, purges.c.connection_id == connection_id, purges.c.version == version)
    return tx.execute(select(purges.c.id).where(*mine)).first() is not None


def between(tx: Tx, feed_id: str, connection_id: str, after: int, before: int) -> list[PurgeStatement]:
    """Return what a partner signed about the versions after one and before another."""
    mine = (purges.c.feed_id == feed_id, purges.c.connection_id == connection_id)
    query = select(purges.c.statement).where(*mine, purges.c.version > after, purges.c.version < before)
    return [Purged.decode(each).statement for each in tx.scalars(query)]


def documents(tx: Tx, feed_id: str, connection_id: str) -> Documents:
    """Return what a partner signed about one of our feeds, oldest first, for people and programs."""
    query = select(purges.c.statement).where(purges.c.feed_id == feed_id, purges.c.connection_id == connection_id)
    return [
        _document(Purged.decode(each)) for each in tx.scalars(query.order_by(purges.c.version == 0, purges.c.version))
    ]


def _document(purged: Purged) -> Document:
    return {
        "version": purged.statement.version or None,
        "revision": purged.statement.revision,
        "segments": [stored_id(segment) for segment in purged.statement.segments],
        "namespaces": list(purged.statement.namespaces),
        "made": purged.statement.made,
        "signature": purged.signature.hex(),
    }
