"""Immutable versions of feeds, ours and received: both nodes keep the same bytes under the same hash."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select

from protocol.errors import RemoteProtocolError
from protocol.feed import Definition, SegmentRef
from psi.hashing import length_prefixed

from ..storage.tables import feed_versions

if TYPE_CHECKING:
    from ..project import Project


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


def each(tx: Connection, feed_id: str, numbers: Sequence[int]) -> list[Definition]:
    return [get(tx, feed_id, number) for number in numbers]


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


def holding(offers: Sequence[Definition]) -> Definition:
    """Return the version that holds at a receiver that accepted the first of these and was then told of the others.

    What only takes out holds as soon as it comes, what adds something waits. The receiver goes the same way letter by
    letter, so both get to the same version, whatever crossed in the post.
    """
    holds = offers[0]
    for offered in offers[1:]:
        if only_removes(holds, offered):
            holds = offered
    return holds


def new_segments(before: Definition, after: Definition) -> list[SegmentRef]:
    """Return the segments that a version has and the one before had not, whatever their labels."""
    known = _segments(before)
    return [segment for segment in after.segments if (segment.id, segment.name) not in known]


def difference(before: Definition, after: Definition) -> dict[str, Any]:
    """Return what a version adds to the one before, and what it takes out, as both sides show it."""
    return {
        "version": after.version,
        "hash": after.digest().hex(),
        "description": after.description,
        "adds": _only_in(after, before),
        "takes_out": _only_in(before, after),
    }


def _only_in(these: Definition, those: Definition) -> dict[str, list[Any]]:
    return {
        "segments": [_segment(segment) for segment in new_segments(those, these)],
        "namespaces": [name for name in these.namespaces if name not in those.namespaces],
        "restricted_uses": [use for use in these.restricted_uses if use not in those.restricted_uses],
    }


def _segment(segment: SegmentRef) -> dict[str, Any]:
    return {"name": segment.name, "labels": list(segment.labels)}


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
        "segments": [_segment(segment) for segment in definition.segments],
        "namespaces": list(definition.namespaces),
        "restricted_uses": list(definition.restricted_uses),
        "membership_days": definition.membership_days,
        "valid_until": definition.valid_until,
        "note": "a person who matches in two namespaces counts once in each",
    }
