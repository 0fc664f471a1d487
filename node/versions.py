"""Immutable versions of feeds, ours and received: both nodes keep the same bytes under the same hash."""

import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select

from protocol.errors import RemoteProtocolError
from protocol.feed import Definition
from psi.hashing import length_prefixed

from .tables import feed_versions

if TYPE_CHECKING:
    from .project import Project


def local(connection_id: str, feed: bytes) -> str:
    """Return our id of a feed that came over a connection: what one partner calls its feeds says nothing about another's."""
    return hashlib.sha256(length_prefixed(b"vesica/1 received feed", bytes.fromhex(connection_id), feed)).hexdigest()[
        :32
    ]


def keep(project: "Project", tx: Connection, feed_id: str, definition: Definition) -> None:
    """Store a version; it never changes."""
    tx.execute(
        insert(feed_versions).values(
            id=project.node.new_id(),
            feed_id=feed_id,
            version=definition.version,
            definition=definition.encode(),
            created=project.node.now(),
        )
    )


def get(tx: Connection, feed_id: str, version: int | None) -> Definition:
    """Return a version; raises RemoteProtocolError where a partner speaks of one that is not there."""
    query = select(feed_versions.c.definition).where(
        feed_versions.c.feed_id == feed_id, feed_versions.c.version == version
    )
    content = tx.scalar(query)
    if content is None:
        raise RemoteProtocolError("manifest", "there is no such version of the feed")
    return Definition.decode(content)


def only_removes(before: Definition, after: Definition) -> bool:
    """Tell whether a version gives a receiver nothing that the one before did not: it holds without being accepted.

    Labels are the sender's word on its data: whatever they are, nobody has to accept them.
    """
    return (
        _segments(after) <= _segments(before)
        and set(after.namespaces) <= set(before.namespaces)
        and set(after.restricted_uses) <= set(before.restricted_uses)
        and after.membership_days <= before.membership_days
        and (before.valid_until is None or (after.valid_until is not None and after.valid_until <= before.valid_until))
    )


def removes(before: Definition, after: Definition) -> bool:
    """Tell whether a version lacks anything that the one before had."""
    return not (
        _segments(before) <= _segments(after)
        and set(before.namespaces) <= set(after.namespaces)
        and set(before.restricted_uses) <= set(after.restricted_uses)
    )


def _segments(definition: Definition) -> set[tuple[bytes, str]]:
    return {(segment.id, segment.name) for segment in definition.segments}


def describe(definition: Definition) -> dict[str, Any]:
    """Return a version as both sides show it."""
    return {
        "name": definition.name,
        "feed": definition.feed.hex(),
        "version": definition.version,
        "hash": definition.digest().hex(),
        "description": definition.description,
        "segments": [{"name": segment.name, "labels": list(segment.labels)} for segment in definition.segments],
        "namespaces": list(definition.namespaces),
        "restricted_uses": list(definition.restricted_uses),
        "membership_days": definition.membership_days,
        "valid_until": definition.valid_until,
        "note": "a person who matches in two namespaces counts once in each",
    }
