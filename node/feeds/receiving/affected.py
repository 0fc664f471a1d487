"""Whom a change concerns among our people, and the segments that these are in now: the others stay as they are.

A profile is affected if a record that is new is about an identity of its, if F of one has just come, or if it has an identity
that a profile has, or had before, whose data changed: a no that somebody says counts for all who have the identity.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from psi import membership
from psi.membership import TAG_BYTES
from psi.values import U8, Indices, Rows, Values

from ...access.scope import Scope
from ...errors import Failure
from ...people import held
from ...people.snapshots import Snapshot
from ...people.touched import few, touched_since
from ...storage.database import Tx
from .basis import Basis
from .covered import before_now
from .join import Join, Members, has
from .membership_files import Membership, MembershipFiles, Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """Identities of ours whose F, rows of 64 bytes, has just come, and the stamps of what we have of F before it and after."""

    namespace: str
    values: Values
    prf: Rows
    before: bytes
    after: bytes


def by_all(join: Join, tx: Tx, basis: Basis, kept: Collection[Membership], new: New | None) -> BitMap | None:
    """Return the profiles that have to be decided again since the members of `kept` were computed from a basis.

    None where that may be anybody, or where the members are not those of that basis.
    """
    names, files = [sealed.name for sealed in join.chain], MembershipFiles(join.scope, join.feed)
    begun = len(basis.records)
    if basis.definitions != join.definitions or not begun or names[:begun] != basis.records:
        return None
    if basis.members != {row.segment_id: row.file for row in kept} or not all(files.has(row.file) for row in kept):
        return None
    people = by_people(join.scope, tx, basis, join.snapshot)
    if people is None:
        return None
    found = basis.waits | people
    for namespace in join.namespaces:
        stamp, before = join.evaluated(namespace).stamp(), basis.evaluated[namespace]
        came = new if new is not None and new.namespace == namespace else None
        if came is not None:
            found |= held.holders_of(join.snapshot, namespace, came.values).holders()
        if stamp != before and (came is None or before != came.before):
            return None
    for sealed in join.chain[begun:]:
        for namespace in join.namespaces:
            about = _by_records(join, namespace, sealed)
            if about is None:
                return None
            found |= about
    return few(found, join.snapshot.profile_count)


def by_people(scope: Scope, tx: Tx, basis: Basis, snapshot: Snapshot) -> BitMap | None:
    """Return the profiles that changes of our own people concern since a basis; None where that may be anybody."""
    before = before_now(scope, tx, basis.people)
    touched = None if before is None else touched_since(snapshot, before.generation)
    if before is None or not touched:
        return touched
    try:
        return sharing(touched, basis.people, before, snapshot)
    except Failure:  # a file of the generation before cannot be read
        return None


def sharing(profiles: BitMap, namespaces: Iterable[str], before: Snapshot, now: Snapshot) -> BitMap:
    """Return profiles, and those that have an identity now which one of them has or had."""
    found = profiles.copy()
    for namespace in namespaces:
        for snapshot in (before, now):
            values = held.held_by(snapshot, namespace, profiles)
            found |= held.holders_of(now, namespace, values).holders()
    return found


def _by_records(join: Join, namespace: str, sealed: Sealed) -> BitMap | None:
    """Return the profiles that have an identity which the records of a revision are about; None as `TagIndex.find`."""
    records = sealed.records[namespace][:]
    membership.check_order(records)
    values = join.tags(namespace).find(np.ascontiguousarray(records[:, :TAG_BYTES]))
    return None if values is None else held.holders_of(join.snapshot, namespace, values).holders()


def decide(join: Join, profiles: BitMap) -> Members | None:
    """Return which of some profiles are in each segment, by all of their identities in all namespaces.

    None where some of F turns out to be damaged.
    """
    found, positions = join.nobody(), join.positions()
    for namespace in join.namespaces:
        values = held.held_by(join.snapshot, namespace, profiles)
        who = held.holders_of(join.snapshot, namespace, values)
        who = who.take(~held.opted_out(join.snapshot, namespace, who))
        given = _bitmaps(join, namespace, who.values)
        if given is None:
            return None
        bitmaps = given[who.each()]
        for segment, position in positions.items():
            found[segment] |= BitMap(who.profiles[has(bitmaps, position)]) & profiles
    return found


def _bitmaps(join: Join, namespace: str, values: Values) -> U8 | None:
    """Return the bitmap of each of some identities, uint8 (n, width): of no segment where no record opens.

    None where some of F is damaged.
    """
    bitmaps, feed = np.zeros((len(values), join.of_run.width), np.uint8), join.of_run.feed
    with join.evaluated(namespace).open() as have:
        if not len(have) or not len(values):
            return bitmaps
        known, prf = have.find(values)
        if have.lost:
            return None
    tags = membership.tags_of(prf, feed)
    for sealed in join.chain:
        records = sealed.records[namespace][:]
        about = records[np.unique(_places(records, tags))]
        indices, found = membership.open_sorted(
            about, prf, feed=feed, version=sealed.version, revision=sealed.revision, tags=tags
        )
        bitmaps[known[indices]] = found
    return bitmaps


def _places(records: U8, tags: U8) -> Indices:
    """Return where records, sorted and in a file, have one of some tags, or might; each place may come several times."""
    if not len(records):
        return np.empty(0, np.intp)
    sought = np.zeros((len(tags), records.shape[1]), np.uint8)
    sought[:, :TAG_BYTES] = tags
    keys, sought_keys = (each.view(f"S{records.shape[1]}").ravel() for each in (records, sought))
    return np.minimum(np.searchsorted(keys, sought_keys), len(records) - 1)
