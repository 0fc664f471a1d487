"""Immutable versions of feeds, ours and received: both nodes keep the same bytes under the same hash."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select

from protocol.errors import RemoteProtocolError
from protocol.feed import Definition, SegmentRef
from psi.hashing import length_prefixed

from ..access.scope import Scope
from ..errors import RefusedToPartner
from ..partners.connections import Connection
from ..storage.database import Tx
from ..storage.ids import stored_id, wire_id
from ..storage.records import Document
from ..storage.tables import feed_partners, feed_versions, feeds
from .states import CURRENT, LIVE, FeedStatus


def received_feed_id(connection_id: str, feed: bytes) -> str:
    """Return our id of a feed that came over a connection: what one partner calls its feeds says nothing about another's."""
    digest = hashlib.sha256(length_prefixed(b"vesica/1 received feed", wire_id(connection_id), feed)).digest()
    return stored_id(digest[:16])


def keep(scope: Scope, tx: Tx, feed_id: str, definition: Definition) -> None:
    """Store a version; it never changes."""
    tx.execute(
        insert(feed_versions).values(
            id=scope.home.new_id(),
            feed_id=feed_id,
            version=definition.version,
            definition=definition.encode(),
            created=scope.home.now(),
        )
    )


def get(tx: Tx, feed_id: str, version: int | None) -> Definition:
    """Return a version; raises RemoteProtocolError where a partner speaks of one that is not there."""
    query = select(feed_versions.c.definition).where(
        feed_versions.c.feed_id == feed_id, feed_versions.c.version == version
    )
    content = tx.scalar(query)
    if content is None:
        raise RemoteProtocolError("manifest", "there is no such version of the feed")
    return Definition.decode(content)


def any_matches_by(tx: Tx, accepted: Iterable[Sequence[Any]], namespace: str) -> bool:
    """Return whether one of these feeds, each with the number of the version accepted, matches by a namespace."""
    return any(namespace in get(tx, feed_id, version).namespaces for feed_id, version in accepted)


def matched_by(definition: Definition, connection: Connection) -> list[str]:
    """Return the namespaces of a feed that are agreed on with a partner; a change of the agreement may have taken others out."""
    agreed = connection.agreed.namespaces
    return [namespace for namespace in definition.namespaces if namespace in agreed]


def no_feed(namespace: str) -> RefusedToPartner:
    """Return the refusal of an evaluation that no feed needs."""
    return RefusedToPartner(
        "no_feed",
        f"no enabled feed between us matches by {namespace}",
        hint="the sender publishes one and the receiver enables it",
    )


def each(tx: Tx, feed_id: str, numbers: Sequence[int]) -> list[Definition]:
    return [get(tx, feed_id, number) for number in numbers]


def segments_shared(tx: Tx, connection_id: str) -> set[str]:
    """Return the distinct segments of ours that a partner is offered or gets."""
    mine = (feed_partners.c.connection_id == connection_id, feed_partners.c.status.in_(LIVE))
    names: set[str] = set()
    for feed_id, offers in tx.execute(select(feed_partners.c.feed_id, feed_partners.c.offers).where(*mine)).all():
        known = each(tx, feed_id, offers)
        names |= {segment.name for definition in (in_force(known), known[-1]) for segment in definition.segments}
    return names


def shared_with(tx: Tx, connection_id: str, namespace: str) -> list[str]:
    """Return the segments of our feeds, drafts too, that a partner may be asked about in a namespace."""
    query = (
        select(feeds.c.id, feeds.c.version)
        .join(feed_partners, feed_partners.c.feed_id == feeds.c.id)
        .where(feed_partners.c.connection_id == connection_id, feed_partners.c.status.in_(CURRENT))
        .where(feeds.c.status != FeedStatus.REVOKED)
    )
    definitions = [get(tx, feed_id, version) for feed_id, version in tx.execute(query).all()]
    return [segment.name for each in definitions if namespace in each.namespaces for segment in each.segments]


def sharing(tx: Tx, project_id: str, segment: str) -> list[str]:
    """Return the names of a project's feeds, drafts too, that have a segment."""
    query = select(feeds).where(feeds.c.project_id == project_id, feeds.c.status != FeedStatus.REVOKED)
    found = ((feed.name, get(tx, feed.id, feed.version)) for feed in tx.execute(query).all())
    return sorted(name for name, definition in found if segment in {each.name for each in definition.segments})


def only_removes(before: Definition, after: Definition) -> bool:
    """Return whether a version gives a receiver nothing that the one before did not: it is in force unaccepted.

    Labels are the sender's word on its data: whatever they are, nobody has to accept them.
    """
    return (
        _segments(after) <= _segments(before)
        and set(after.namespaces) <= set(before.namespaces)
        and set(after.restricted_uses) <= set(before.restricted_uses)
        and after.membership_days <= before.membership_days
        and (before.valid_until is None or (after.valid_until is not None and after.valid_until <= before.valid_until))
    )


def in_force(offers: Sequence[Definition]) -> Definition:
    """Return the version in force at a receiver that accepted the first of these and was then sent the others.

    What only takes out is in force as soon as it comes, what adds something waits. The receiver goes the same way letter
    by letter, so both get to the same version, whatever crossed in the post.
    """
    found = offers[0]
    for offered in offers[1:]:
        if only_removes(found, offered):
            found = offered
    return found


def new_segments(before: Definition, after: Definition) -> list[SegmentRef]:
    """Return the segments that a version has and the one before had not, whatever their labels."""
    known = _segments(before)
    return [segment for segment in after.segments if (segment.id, segment.name) not in known]


def difference(before: Definition, after: Definition) -> Document:
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


def _segment(segment: SegmentRef) -> Document:
    return {"name": segment.name, "labels": list(segment.labels)}


def _segments(definition: Definition) -> set[tuple[bytes, str]]:
    return {(segment.id, segment.name) for segment in definition.segments}


def describe(definition: Definition) -> Document:
    """Return a version as both sides show it."""
    return {
        "name": definition.name,
        "feed": stored_id(definition.feed),
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


def newest(tx: Tx, feed_id: str) -> int:
    """Return the number of the newest version that is kept of a feed, 0 for none."""
    return tx.scalar(select(func.max(feed_versions.c.version)).where(feed_versions.c.feed_id == feed_id)) or 0


def forget(tx: Tx, feed_id: str, version: int) -> None:
    """Delete one version of a feed."""
    tx.execute(delete(feed_versions).where(feed_versions.c.feed_id == feed_id, feed_versions.c.version == version))


def keep_only(tx: Tx, feed_id: str, numbers: Collection[int]) -> None:
    """Delete all versions of a feed but these."""
    others = feed_versions.c.version.not_in(numbers)
    tx.execute(delete(feed_versions).where(feed_versions.c.feed_id == feed_id, others))
